//! Probes of origins that are forwarded to directly (`dsr_*`): a monitor's packets go the way that clients' packets go.
//!
//! The monitor's socket is connected to the origin's own address, so that routes and neighbours are those of the origin.
//! As its packets leave, their destination becomes the VIP, and they get the outer header that clients' packets get:
//! [`outgoing`]. The origin answers from the VIP; as answers arrive, their source becomes what the socket is connected
//! to: [`incoming`]. It does not matter then whether the VIP is an address of the node too.
//!
//! Where the origin's address and the VIP are of different families, the socket is connected to the VIP itself.

use super::header::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6};
use crate::abi::{Forwarding, Ip, Ip4, Ip6, Port, Protocol};
use crate::datapath::checksum::{self, fold};
use crate::datapath::parse::{self, Fragment, Network, Ports};
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};

/// Names of the programs and maps: once, for the program and for its loader.
pub mod maps {
    /// The TC program for packets that leave.
    pub const OUTGOING: &str = "lb_probe";
    /// The TC program for packets that arrive.
    pub const INCOMING: &str = "lb_answer";
    /// Ways: array of [`super::Probe`], by the low half of a socket's mark.
    pub const PROBES: &str = "PROBES";
    /// Answers that are waited for: LRU hash, [`super::AnswerKey`] → [`super::Answer`].
    pub const ANSWERS: &str = "ANSWERS";
    /// Read-only word: the high half of the marks, the low half of which is the number of a way.
    pub const MARK: &str = "MARK";
    /// Read-only word: for how many jiffies after a packet an answer to it is expected.
    pub const PATIENCE: &str = "PATIENCE";
    /// Ways that there can be: marks have 16 bits for their numbers.
    pub const MAX_PROBES: u32 = 1 << 16;
}

/// One way to an origin and a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Probe {
    /// What the inner packets shall be for.
    pub vip: Ip,
    /// What the socket is connected to: the origin, or the VIP where the two are of different families.
    pub target: Ip,
    /// The origin: where the tunnel leads.
    pub origin: Ip,
    /// Source of the outer header; used where the packet's own is of the other family.
    pub source: Ip,
    /// Interface by which the outer packet leaves; 0: the one by which the packet would.
    pub ifindex: u32,
    pub gue_port: Port,
    pub forwarding: Forwarding,
    /// 0: nobody uses this number.
    pub live: u8,
}

/// What an answer looks like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AnswerKey {
    pub vip: Ip,
    /// The VIP's port; 0 for ICMP.
    pub port: Port,
    /// The socket's port; the identifier for ICMP.
    pub local: Port,
    pub protocol: Protocol,
    pub reserved: [u8; 3],
}

/// Whose answer it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Answer {
    /// What the socket is connected to.
    pub target: Ip,
    /// When the last packet left, in jiffies (low 32 bits).
    pub seen: u32,
}

/// An address in a frame that becomes another one of the same family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Rewrite {
    pub from: Ip,
    pub to: Ip,
    /// Offset of the address; 0: nothing is to be written.
    pub at: u32,
    /// Offset of the IPv4 header's checksum; 0: the address is IPv6.
    pub header_checksum: u32,
    /// Offset of the checksum that covers the address by a pseudo-header; 0: there is none.
    pub checksum: u32,
    /// 1: it is UDP's, where 0 means that there is none.
    pub udp: u32,
    /// Offset of the same address in the packet that an ICMP error quotes; 0: it is no error.
    pub quoted: u32,
    /// Offset of the quoted IPv4 header's checksum.
    pub quoted_checksum: u32,
}

/// What a probe's packet needs as it leaves. It stands in the kernel program's working memory: the stack is too small.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Outgoing {
    /// The answer to expect.
    pub key: AnswerKey,
    /// Its destination, unless that is the VIP already.
    pub rewrite: Rewrite,
    /// The header to be put before the IP header: as many bytes as [`OuterKind::length`] says.
    pub outer: [u32; MAX_OUTER / 4],
    pub kind: OuterKind,
}

/// Bytes that the largest outer header has: IPv6 and UDP.
pub const MAX_OUTER: usize = IPV6_LEN + UDP_LEN;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;
const ICMP_LEN: usize = 8;

/// Which headers an outer header consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct OuterKind(pub u32);

impl OuterKind {
    /// None: only the link address matters, which is the origin's.
    pub const NONE: Self = Self(0);
    pub const IP4: Self = Self(1);
    pub const IP4_UDP: Self = Self(2);
    pub const IP6: Self = Self(3);
    pub const IP6_UDP: Self = Self(4);

    /// In bytes.
    #[inline(always)]
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::IP4 => IPV4_LEN,
            Self::IP4_UDP => IPV4_LEN + UDP_LEN,
            Self::IP6 => IPV6_LEN,
            Self::IP6_UDP => IPV6_LEN + UDP_LEN,
            _ => 0,
        }
    }

    /// Type of the frame's payload then, in network order; `None`: as it was.
    #[inline(always)]
    #[must_use]
    pub const fn ether_type(self) -> Option<u16> {
        match self {
            Self::IP4 | Self::IP4_UDP => Some(ETHERTYPE_IPV4),
            Self::IP6 | Self::IP6_UDP => Some(ETHERTYPE_IPV6),
            _ => None,
        }
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const IPIP: u8 = 4;
const IPV6IP: u8 = 41;
const UDP: u8 = 17;
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// The first of the ports that nobody is given (RFC 6335); a tunnel's source port is one of them.
const DYNAMIC: u16 = 0xc000;

/// The parts of a packet that matter here.
struct Parts {
    source: Ip,
    destination: Ip,
    v6: bool,
    /// Offset of the IP header.
    at: usize,
    transport: usize,
    /// Length of transport header and payload.
    length: usize,
    protocol: Protocol,
    /// Offset of the IP header that an ICMP error quotes; 0: it is no error. Protocol and ports are of what it quotes.
    quoted: usize,
    /// Ports; for ICMP the identifier, as the port of whoever asks.
    asking: Port,
    asked: Port,
    class: u8,
    /// Sum of the words of an IPv6 header before its addresses, but for the length.
    first_sum: u32,
}

impl Parts {
    /// Reads a packet: `asks` is whether it is a question, or an answer.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, asks: bool) -> Option<Self> {
        let link = parse::link(packet).ok()?;
        let at = link.network;
        match link.ether_type {
            ETHERTYPE_IPV4 => {
                let network = parse::ipv4(packet, at).ok()?;
                let header: Ipv4 = packet.read(at)?;
                let ends = (network.source.into(), network.destination.into());
                let parts = Self::of(packet, &network, ends, (at, false), asks)?;
                Some(Self {
                    class: header.tos,
                    ..parts
                })
            }
            ETHERTYPE_IPV6 => {
                let network = parse::ipv6(packet, at).ok()?;
                let header: Ipv6 = packet.read(at)?;
                let ends = (network.source.into(), network.destination.into());
                let parts = Self::of(packet, &network, ends, (at, true), asks)?;
                let hops = u16::from_ne_bytes([header.next_header, header.hop_limit]);
                Some(Self {
                    class: header.class(),
                    first_sum: checksum::words(header.first) + u32::from(hops),
                    ..parts
                })
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn of<P: Packet, A>(
        packet: &P,
        network: &Network<A>,
        (source, destination): (Ip, Ip),
        (at, v6): (usize, bool),
        asks: bool,
    ) -> Option<Self> {
        // What is cut short has no checksum to bring up to date.
        let least = if network.protocol == Protocol::TCP {
            TCP_LEN
        } else {
            UDP_LEN
        };
        if network.fragment != Fragment::Whole || network.transport_len < least {
            return None;
        }
        let transport = network.transport;
        let mut parts = Self {
            source,
            destination,
            v6,
            at,
            transport,
            length: network.transport_len,
            protocol: network.protocol,
            quoted: 0,
            asking: Port(0),
            asked: Port(0),
            class: 0,
            first_sum: 0,
        };
        match network.protocol {
            Protocol::TCP | Protocol::UDP => parts.ports(packet, transport, asks)?,
            Protocol::ICMP | Protocol::ICMPV6 => parts.icmp(packet, asks)?,
            _ => return None,
        }
        Some(parts)
    }

    /// Reads TCP's or UDP's ports, at a place where `asks` is whether the sender is who asks.
    #[inline(always)]
    fn ports<P: Packet>(&mut self, packet: &P, at: usize, asks: bool) -> Option<()> {
        let ports: Ports = packet.read(at)?;
        (self.asking, self.asked) = if asks {
            (ports.source, ports.destination)
        } else {
            (ports.destination, ports.source)
        };
        Some(())
    }

    #[inline(always)]
    fn icmp<P: Packet>(&mut self, packet: &P, asks: bool) -> Option<()> {
        let [kind, code, _, _]: [u8; 4] = packet.read(self.transport)?;
        let echo = match (self.v6, asks) {
            (false, true) => 8,
            (false, false) => 0,
            (true, true) => 128,
            (true, false) => 129,
        };
        if kind == echo && code == 0 {
            self.asking = packet.read(self.transport + 4)?;
            return Some(());
        }
        let error = match self.v6 {
            // Unreachable, time exceeded, parameter problem.
            false => matches!(kind, 3 | 11 | 12),
            true => matches!(kind, 1..=4),
        };
        if asks || !error {
            return None;
        }
        self.quote(packet)
    }

    /// Reads what an ICMP error quotes: a question to the address that the error comes from.
    #[inline(always)]
    fn quote<P: Packet>(&mut self, packet: &P) -> Option<()> {
        let quoted = packet.opaque(self.transport + ICMP_LEN);
        let (to, protocol, length) = if self.v6 {
            let header: Ipv6 = packet.read(quoted)?;
            (Ip::from(Ip6(header.destination)), header.next_header, IPV6_LEN)
        } else {
            let header: Ipv4 = packet.read(quoted)?;
            let length = ((header.version_ihl & 0x0f) as usize) << 2;
            (Ip::from(Ip4(header.destination)), header.protocol, length)
        };
        if to != self.source {
            return None;
        }
        self.quoted = quoted;
        self.protocol = Protocol(protocol);
        let at = packet.opaque(quoted + length);
        match self.protocol {
            Protocol::TCP | Protocol::UDP => self.ports(packet, at, true),
            Protocol::ICMP | Protocol::ICMPV6 => {
                self.asking = packet.read(at + 4)?;
                Some(())
            }
            _ => None,
        }
    }

    /// The rewriting of one of the two addresses.
    #[inline(always)]
    fn rewrite(&self, source: bool, from: Ip, to: Ip) -> Option<Rewrite> {
        if to.v4().is_some() == self.v6 {
            return None;
        }
        // Offsets of source, destination and checksum in the headers.
        let (own, other, sum) = if self.v6 { (8, 24, 0) } else { (12, 16, 10) };
        let checksum = match (self.quoted, self.protocol) {
            (1.., _) | (_, Protocol::ICMPV6) if self.v6 => self.transport + 2,
            (1.., _) => 0,
            (_, Protocol::TCP) => self.transport + 16,
            (_, Protocol::UDP) => self.transport + 6,
            _ => 0,
        };
        let behind = |header: usize, field: usize| {
            if header == 0 || field == 0 {
                0
            } else {
                (header + field) as u32
            }
        };
        Some(Rewrite {
            from,
            to,
            at: behind(self.at, if source { own } else { other }),
            header_checksum: behind(self.at, sum),
            checksum: checksum as u32,
            udp: u32::from(self.protocol == Protocol::UDP && self.quoted == 0),
            quoted: behind(self.quoted, other),
            quoted_checksum: behind(self.quoted, sum),
        })
    }
}

/// Says what has to be done with a packet of a socket with this way's mark; `None`: it is not this way's, and leaves as it
/// is. `summed`: it is one packet, so that a sum over it means something.
#[inline(always)]
pub fn outgoing<P: Packet>(packet: &P, probe: &Probe, summed: bool, found: &mut Outgoing) -> Option<()> {
    let parts = Parts::read(packet, true)?;
    if parts.destination != probe.target {
        return None;
    }
    found.rewrite = if probe.target == probe.vip {
        Rewrite::default()
    } else {
        parts.rewrite(false, probe.target, probe.vip)?
    };
    found.key = AnswerKey {
        vip: probe.vip,
        port: parts.asked,
        local: parts.asking,
        protocol: parts.protocol,
        reserved: [0; 3],
    };
    outer(probe, &parts, summed, found)
}

/// What an arriving packet is the answer to, if it is one.
#[inline(always)]
pub fn answer_key<P: Packet>(packet: &P) -> Option<AnswerKey> {
    let parts = Parts::read(packet, false)?;
    Some(AnswerKey {
        vip: parts.source,
        port: parts.asked,
        local: parts.asking,
        protocol: parts.protocol,
        reserved: [0; 3],
    })
}

/// What has to be done with an answer; `None`: nothing.
#[inline(always)]
pub fn incoming<P: Packet>(packet: &P, answer: &Answer, now: u32, patience: u32) -> Option<Rewrite> {
    let parts = Parts::read(packet, false)?;
    if now.wrapping_sub(answer.seen) > patience || answer.target == parts.source {
        return None;
    }
    parts.rewrite(true, parts.source, answer.target)
}

/// Writes the outer header.
#[inline(always)]
fn outer(probe: &Probe, parts: &Parts, summed: bool, found: &mut Outgoing) -> Option<()> {
    found.kind = OuterKind::NONE;
    if !probe.forwarding.is_tunnel() {
        return Some(());
    }
    let gue = probe.forwarding == Forwarding::DSR_GUE;
    let inner_len = parts.transport.wrapping_sub(parts.at) + parts.length;
    let own = if parts.source.v4().is_some() == probe.origin.v4().is_some() {
        parts.source
    } else {
        probe.source
    };
    let carried = match (gue, parts.v6) {
        (true, _) => UDP,
        (false, true) => IPV6IP,
        (false, false) => IPIP,
    };
    let udp_len = (inner_len + UDP_LEN) as u16;
    let ports = [(DYNAMIC | parts.asking.host()).to_be(), probe.gue_port.0];
    let payload = if gue { udp_len } else { inner_len as u16 };
    let bytes = &mut found.outer;
    match (own.v4(), probe.origin.v4()) {
        (Some(source), Some(destination)) => {
            let header = ip4(source, destination, carried, parts.class, payload);
            // Without a checksum, as IPv4 allows.
            let udp = [ports[0], ports[1], udp_len.to_be(), 0];
            [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]] = bytemuck::cast::<Ipv4, [u32; 5]>(header);
            [bytes[5], bytes[6]] = bytemuck::cast::<[u16; 4], [u32; 2]>(udp);
            found.kind = if gue { OuterKind::IP4_UDP } else { OuterKind::IP4 };
        }
        (None, None) => {
            let (source, destination) = (own.0, probe.origin.0);
            let checksum = if gue && summed {
                udp6_checksum((Ip6(source), Ip6(destination)), ports, udp_len, parts, probe.vip)
            } else {
                0
            };
            let udp = [ports[0], ports[1], udp_len.to_be(), checksum];
            bytes[0] = (0x6000_0000_u32 | (parts.class as u32) << 20).to_be();
            let [high, low] = payload.to_be_bytes();
            bytes[1] = u32::from_ne_bytes([high, low, carried, TTL]);
            [bytes[2], bytes[3], bytes[4], bytes[5]] = source;
            [bytes[6], bytes[7], bytes[8], bytes[9]] = destination;
            [bytes[10], bytes[11]] = bytemuck::cast::<[u16; 4], [u32; 2]>(udp);
            found.kind = if gue { OuterKind::IP6_UDP } else { OuterKind::IP6 };
        }
        _ => return None,
    }
    Some(())
}

#[inline(always)]
fn ip4(source: Ip4, destination: Ip4, carried: u8, class: u8, payload: u16) -> Ipv4 {
    let header = Ipv4 {
        version_ihl: 0x45,
        tos: class,
        total_length: (payload + IPV4_LEN as u16).to_be(),
        identification: 0,
        fragment: DONT_FRAGMENT.to_be(),
        ttl: TTL,
        protocol: carried,
        checksum: 0,
        source: source.0,
        destination: destination.0,
    };
    let sum = u32::from(u16::from_ne_bytes([header.version_ihl, header.tos]))
        + u32::from(header.total_length)
        + u32::from(header.fragment)
        + u32::from(u16::from_ne_bytes([header.ttl, header.protocol]))
        + checksum::sum4(source)
        + checksum::sum4(destination);
    Ipv4 {
        checksum: !fold(sum),
        ..header
    }
}

/// The checksum of a UDP header over IPv6 before an IP packet, without a look at that packet's payload: whatever a
/// transport checksum covers, its pseudo-header among it, sums up to nothing once the checksum is there, and so does an
/// IPv4 header. 0, which is none (RFC 6935), where that does not hold.
#[inline(always)]
fn udp6_checksum(
    (source, destination): (Ip6, Ip6),
    ports: [u16; 2],
    length: u16,
    parts: &Parts,
    vip: Ip,
) -> u16 {
    let own = |protocol: u8| u32::from(u16::from_ne_bytes([0, protocol]));
    let inner = match (vip.v4(), parts.source.v4()) {
        (Some(to), Some(from)) if parts.protocol != Protocol::ICMP => {
            let covered = checksum::sum4(from) + checksum::sum4(to) + own(parts.protocol.0);
            u32::from(!fold(covered + u32::from((parts.length as u16).to_be())))
        }
        (Some(_), Some(_)) => 0,
        // The addresses stand in the header and in the pseudo-header alike, and so does the length.
        _ if parts.transport == parts.at + IPV6_LEN => {
            parts.first_sum + u32::from(!fold(own(parts.protocol.0)))
        }
        // Extension headers are summed by nobody.
        _ => return 0,
    };
    let sum = checksum::sum6(source)
        + checksum::sum6(destination)
        + own(UDP)
        + u32::from(length.to_be()) * 2
        + u32::from(ports[0])
        + u32::from(ports[1]);
    match !fold(sum + inner) {
        0 => u16::MAX,
        checksum => checksum,
    }
}
