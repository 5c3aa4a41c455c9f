//! Builds frames: right by default, and wrong where a test says so.

use super::Frame;
use std::net::{IpAddr, SocketAddr};

/// What kind of checksum the transport header gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    #[default]
    Right,
    /// Off by one bit.
    Wrong,
    /// Only the pseudo-header is summed, as a sender leaves it to an offloading device.
    Partial,
    /// Zero: for UDP over IPv4, none.
    None,
}

/// The transport header.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Transport {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        window: u16,
        options: Vec<u8>,
    },
    Udp,
    /// Any other: the payload follows the IP header.
    Raw(u8),
}

/// A frame to be.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    link: ([u8; 6], [u8; 6]),
    tags: Vec<u16>,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    class: u8,
    label: u32,
    dont_fragment: bool,
    identification: u16,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
    transport: Transport,
    payload: Vec<u8>,
    checksum: Checksum,
    padding: usize,
}

/// IPv6 extension headers by their numbers.
pub mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Link address of the router on the clients' side.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// Link address of our interface.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];

impl PacketBuilder {
    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        Self {
            link: (CLIENT_MAC, NODE_MAC),
            tags: Vec::new(),
            source,
            destination,
            ttl: 64,
            class: 0,
            label: 0,
            dont_fragment: false,
            identification: 0x1234,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            transport,
            payload: Vec::new(),
            checksum: Checksum::Right,
            padding: 0,
        }
    }

    /// A TCP segment with these flags.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let transport = Transport::Tcp {
            flags,
            sequence: 0x0102_0304,
            acknowledgment: 0xf1f2_f3f4,
            window: 0x2000,
            options: Vec::new(),
        };
        Self::new(source, destination, transport)
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Transport::Udp)
    }

    /// A packet of another protocol.
    #[must_use]
    pub fn raw(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self::new(
            (source, 0).into(),
            (destination, 0).into(),
            Transport::Raw(protocol),
        )
    }

    /// Link addresses: sender, receiver.
    #[must_use]
    pub fn link(self, source: [u8; 6], destination: [u8; 6]) -> Self {
        let link = (source, destination);
        Self { link, ..self }
    }

    /// Source and destination, as translation changes them.
    #[must_use]
    pub fn ends(self, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            ..self
        }
    }

    /// As a node makes it, not a client: IPv4 without identification and with DF, TCP without a window.
    #[must_use]
    pub fn own(mut self) -> Self {
        if let Transport::Tcp { window, .. } = &mut self.transport {
            *window = 0;
        }
        self.identification = 0;
        self.dont_fragment()
    }

    /// VLAN tags, outermost first.
    #[must_use]
    pub fn tags(self, tags: &[u16]) -> Self {
        let tags = tags.to_vec();
        Self { tags, ..self }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// Type of service or traffic class.
    #[must_use]
    pub fn class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    /// Flow label of an IPv6 packet.
    #[must_use]
    pub fn label(self, label: u32) -> Self {
        Self { label, ..self }
    }

    /// An IPv4 packet that is not to be fragmented; IPv6 packets never are.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        Self {
            dont_fragment: true,
            ..self
        }
    }

    /// IPv4 options; a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        let options = options.to_vec();
        Self { options, ..self }
    }

    /// One more IPv6 extension header: its number, and the whole header but its first byte.
    #[must_use]
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        self.extensions.push((number, rest.to_vec()));
        self
    }

    /// An IPv6 extension header of eight bytes that means nothing.
    #[must_use]
    pub fn padding_extension(self, number: u8) -> Self {
        self.extension(number, &[0, 1, 4, 0, 0, 0, 0])
    }

    /// A fragment: its offset in units of 8 bytes, and whether more follow.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        let fragment = Some((offset, more));
        Self { fragment, ..self }
    }

    /// Identification of the datagram.
    #[must_use]
    pub fn identification(self, identification: u16) -> Self {
        Self {
            identification,
            ..self
        }
    }

    /// TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgment: u32) -> Self {
        if let Transport::Tcp {
            sequence: s,
            acknowledgment: a,
            ..
        } = &mut self.transport
        {
            (*s, *a) = (sequence, acknowledgment);
        }
        self
    }

    /// TCP options; a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = bytes.to_vec();
        }
        self
    }

    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self { payload, ..self }
    }

    #[must_use]
    pub fn checksum(self, checksum: Checksum) -> Self {
        Self { checksum, ..self }
    }

    /// Bytes after the IP packet, as Ethernet adds them to small frames.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Where it goes.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Offset of the IP header.
    #[must_use]
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the transport header.
    #[must_use]
    pub fn transport(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, rest)| rest.len() + 1).sum();
        self.network()
            + match self.source {
                SocketAddr::V4(_) => 20 + self.options.len(),
                SocketAddr::V6(_) => 40 + extensions + if self.fragment.is_some() { 8 } else { 0 },
            }
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
            Transport::Raw(protocol) => protocol,
        }
    }

    /// The frame.
    ///
    /// # Panics
    /// The addresses are of different families.
    #[must_use]
    pub fn frame(&self) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(self.link.1);
        bytes.extend(self.link.0);
        for (index, tag) in self.tags.iter().enumerate() {
            let inner = index + 1 == self.tags.len();
            bytes.extend(if inner { [0x81, 0x00] } else { [0x88, 0xa8] });
            bytes.extend(tag.to_be_bytes());
        }
        let segment = self.segment();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00]);
                let length = 20 + self.options.len();
                let (offset, more) = self.fragment.unwrap_or((0, false));
                let mut header = vec![0x40 | (length / 4) as u8, self.class];
                header.extend(((length + segment.len()) as u16).to_be_bytes());
                header.extend(self.identification.to_be_bytes());
                let flags = if more { 0x2000 } else { 0 } | if self.dont_fragment { 0x4000 } else { 0 };
                header.extend((offset | flags).to_be_bytes());
                header.extend([self.ttl, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let checksum = !sum(&[&header]);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                bytes.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd]);
                let mut extensions = self.extensions.clone();
                if let Some((offset, more)) = self.fragment {
                    let field = offset << 3 | u16::from(more);
                    let [high, low] = field.to_be_bytes();
                    extensions.push((extension::FRAGMENT, vec![0, high, low, 0, 0, 0, 7]));
                }
                let mut next = self.protocol();
                let mut chain = Vec::new();
                for (number, rest) in extensions.into_iter().rev() {
                    chain = [&[next][..], &rest, &chain].concat();
                    next = number;
                }
                let first = 6 << 28 | u32::from(self.class) << 20 | self.label;
                bytes.extend(first.to_be_bytes());
                bytes.extend(((chain.len() + segment.len()) as u16).to_be_bytes());
                bytes.extend([next, self.ttl]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(chain);
            }
            _ => panic!(
                "{} and {} are of different families",
                self.source, self.destination
            ),
        }
        bytes.extend(segment);
        bytes.extend(vec![0xaa; self.padding]);
        Frame(bytes)
    }

    /// The transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let ports = [
            self.source.port().to_be_bytes(),
            self.destination.port().to_be_bytes(),
        ]
        .concat();
        let (mut bytes, at) = match &self.transport {
            Transport::Tcp {
                flags,
                sequence,
                acknowledgment,
                window,
                options,
            } => {
                let mut bytes = ports;
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.extend([((20 + options.len()) * 4) as u8, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0, 0, 0, 0]);
                bytes.extend(options);
                (bytes, 16)
            }
            Transport::Udp => {
                let mut bytes = ports;
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, 6)
            }
            Transport::Raw(_) => return self.payload.clone(),
        };
        bytes.extend(&self.payload);
        let pseudo = pseudo_header(
            self.source.ip(),
            self.destination.ip(),
            self.protocol(),
            bytes.len(),
        );
        let right = match !sum(&[&pseudo, &bytes]) {
            0 if self.protocol() == 17 => 0xffff,
            right => right,
        };
        let field = match self.checksum {
            Checksum::Right => right,
            Checksum::Wrong => right ^ 0x0100,
            Checksum::Partial => sum(&[&pseudo]),
            Checksum::None => 0,
        };
        bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
        bytes
    }
}

/// The pseudo-header that TCP, UDP and ICMPv6 checksums cover.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The one's-complement sum of parts (each but the last of even length), in the machine's order. Written from RFC 1071,
/// independently of the code under test.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
