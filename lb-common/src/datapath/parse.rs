//! Bytes → offsets and values, or why not.

use super::checksum;
use super::family::Tuple;
use super::verdict::Pass;
use crate::abi::{Ip4, Ip6, Mac, Port, Protocol, Tag};
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};
use core::mem::offset_of;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

pub(super) const ETHERNET_LEN: usize = EthHdr::LEN;
pub(super) const VLAN_LEN: usize = 4;
pub(super) const IPV4_LEN: usize = Ipv4Hdr::LEN;
pub(super) const IPV6_LEN: usize = Ipv6Hdr::LEN;
pub(super) const TCP_LEN: usize = TcpHdr::LEN;
pub(super) const UDP_LEN: usize = UdpHdr::LEN;

/// IPv4 and IPv6 packets as payload of another IP packet (RFC 2003, RFC 4213, RFC 2473).
pub(super) const IPV4_IN_IP: Protocol = Protocol(4);
pub(super) const IPV6_IN_IP: Protocol = Protocol(41);

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

/// Tags that are looked through: 802.1Q, and one service tag before it (802.1ad).
pub(super) const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are looked through.
const MAX_EXTENSIONS: usize = 8;

/// An Ethernet header as loaded.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ether_type: u16,
}

/// The link layer of a frame.
#[derive(Clone, Copy, Default)]
pub struct Link {
    /// Link addresses as the frame arrived.
    pub destination: Mac,
    pub source: Mac,
    /// Type of the payload, in network order as loaded.
    pub ether_type: u16,
    /// Offset of the network header.
    pub network: usize,
    /// VLAN tags, the outer one first.
    pub tags: [Tag; 2],
}

/// The network layer of a frame, and where its payload stands.
#[derive(Clone, Copy, Default)]
pub struct Network<A> {
    pub source: A,
    pub destination: A,
    pub protocol: Protocol,
    pub fragment: Fragment,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Offset of the transport header.
    pub transport: usize,
    /// Length of the transport header and payload in bytes, by the IP header: Ethernet padding is not in it.
    pub transport_len: usize,
}

impl<A: Copy> Network<A> {
    /// The packet's 5-tuple.
    #[inline(always)]
    pub fn tuple(&self, ports: Ports) -> Tuple<A> {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port: ports.source,
            destination_port: ports.destination,
            protocol: self.protocol,
        }
    }
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The first part: has the transport header.
    First,
    /// A later part.
    Later,
}

/// The ports, which TCP and UDP have at the same place.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    pub source: Port,
    pub destination: Port,
}

/// Reads the link layer.
#[inline(always)]
pub fn link<P: Packet>(packet: &P) -> Result<Link, Pass> {
    let Some(ethernet) = packet.read::<Ethernet>(0) else {
        return Err(Pass::NotIp);
    };
    // The group bit is the lowest of the first byte: broadcasts and multicasts are never for an application.
    if ethernet.destination.0[0] & u16::from_ne_bytes([1, 0]) != 0 {
        return Err(Pass::NotIp);
    }
    let mut ether_type = ethernet.ether_type;
    let mut network = ETHERNET_LEN;
    let mut tags = [Tag::NONE; MAX_TAGS];
    for tag in &mut tags {
        if ether_type != ETHERTYPE_VLAN && ether_type != ETHERTYPE_QINQ {
            break;
        }
        let (Some(word), Some(inner)) = (packet.read(network - 2), packet.read::<u16>(network + 2)) else {
            return Err(Pass::NotIp);
        };
        *tag = Tag(word);
        ether_type = inner;
        network += VLAN_LEN;
    }
    Ok(Link {
        destination: ethernet.destination,
        source: ethernet.source,
        ether_type,
        network: packet.opaque(network),
        tags,
    })
}

/// An IPv4 header as loaded, in aligned words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    pub checksum: u16,
    source: u32,
    destination: u32,
}

const _: () = assert!(
    size_of::<Ipv4>() == IPV4_LEN
        && offset_of!(Ipv4, ttl) == offset_of!(Ipv4Hdr, ttl)
        && offset_of!(Ipv4, checksum) == offset_of!(Ipv4Hdr, check)
        && offset_of!(Ipv4, destination) == offset_of!(Ipv4Hdr, dst_addr)
);

impl Ipv4 {
    /// A header without options for a packet of `total` bytes, unfragmented, its checksum still 0.
    #[inline(always)]
    pub fn new(source: Ip4, destination: Ip4, protocol: Protocol, ttl: u8, total: u16) -> Self {
        Self {
            version_ihl: 0x45,
            tos: 0,
            total_length: total.to_be(),
            identification: 0,
            fragment: IPV4_DONT_FRAGMENT.to_be(),
            ttl,
            protocol: protocol.0,
            checksum: 0,
            source: source.0,
            destination: destination.0,
        }
    }

    /// As a header of another type of service.
    #[inline(always)]
    pub fn with_tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    /// As a header of a packet that may be fragmented.
    #[inline(always)]
    pub fn fragmentable(self, identification: u16) -> Self {
        Self {
            identification,
            fragment: 0,
            ..self
        }
    }

    /// The sum of the header's words.
    #[inline(always)]
    pub fn sum(&self) -> u32 {
        u32::from(u16::from_ne_bytes([self.version_ihl, self.tos]))
            + u32::from(self.total_length)
            + u32::from(self.identification)
            + u32::from(self.fragment)
            + u32::from(u16::from_ne_bytes([self.ttl, self.protocol]))
            + u32::from(self.checksum)
            + checksum::words(self.source)
            + checksum::words(self.destination)
    }
}

const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;

/// Reads an IPv4 header (RFC 791), with or without options.
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &P, at: usize) -> Result<Network<Ip4>, Pass> {
    let Some(header) = packet.read::<Ipv4>(at) else {
        return Err(Pass::MalformedIp);
    };
    let total = u16::from_be(header.total_length) as usize;
    if !packet.holds(at + total) {
        return Err(Pass::MalformedIp);
    }
    ipv4_of(packet, at, &header, total)
}

/// Reads the IPv4 header of a packet of which an ICMP error quotes the first `length` bytes: no more of it is in the
/// result.
#[inline(always)]
pub fn quoted_ipv4<P: Packet>(packet: &P, at: usize, length: usize) -> Option<Network<Ip4>> {
    let header = packet.read::<Ipv4>(at)?;
    let total = u16::from_be(header.total_length) as usize;
    ipv4_of(packet, at, &header, if total < length { total } else { length }).ok()
}

#[inline(always)]
fn ipv4_of<P: Packet>(packet: &P, at: usize, header: &Ipv4, total: usize) -> Result<Network<Ip4>, Pass> {
    let header_len = ((header.version_ihl & 0x0f) as usize) << 2;
    if header.version_ihl >> 4 != 4 || header_len < IPV4_LEN || total < header_len {
        return Err(Pass::MalformedIp);
    }
    let fragment = u16::from_be(header.fragment);
    Ok(Network {
        source: Ip4(header.source),
        destination: Ip4(header.destination),
        protocol: Protocol(header.protocol),
        fragment: match (fragment & IPV4_OFFSET, fragment & IPV4_MORE_FRAGMENTS) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            (_, _) => Fragment::Later,
        },
        ttl: header.ttl,
        transport: packet.opaque(at + header_len),
        transport_len: packet.opaque(total - header_len),
    })
}

/// An IPv6 header as loaded, in aligned words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6 {
    version_class_label: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

const _: () = assert!(
    size_of::<Ipv6>() == IPV6_LEN
        && offset_of!(Ipv6, hop_limit) == offset_of!(Ipv6Hdr, hop_limit)
        && offset_of!(Ipv6, source) == offset_of!(Ipv6Hdr, src_addr)
);

impl Ipv6 {
    /// A header for `payload` bytes.
    #[inline(always)]
    pub fn new(source: Ip6, destination: Ip6, protocol: Protocol, hop_limit: u8, payload: u16) -> Self {
        Self {
            version_class_label: 0x6000_0000_u32.to_be(),
            payload_length: payload.to_be(),
            next_header: protocol.0,
            hop_limit,
            source: source.0,
            destination: destination.0,
        }
    }

    /// As a header of another traffic class and flow label.
    #[inline(always)]
    pub fn with_class(self, class: u8, label: u32) -> Self {
        let word = 6 << 28 | (class as u32) << 20 | label & 0xf_ffff;
        Self {
            version_class_label: word.to_be(),
            ..self
        }
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads an IPv6 header and its extension headers (RFC 8200 section 4), a bounded number of them.
#[inline(always)]
pub fn ipv6<P: Packet>(packet: &P, at: usize) -> Result<Network<Ip6>, Pass> {
    let Some(header) = packet.read::<Ipv6>(at) else {
        return Err(Pass::MalformedIp);
    };
    let total = IPV6_LEN + u16::from_be(header.payload_length) as usize;
    if !packet.holds(at + total) {
        return Err(Pass::MalformedIp);
    }
    ipv6_of(packet, at, &header, total)
}

/// As [`quoted_ipv4`], for IPv6 and its extension headers.
#[inline(always)]
pub fn quoted_ipv6<P: Packet>(packet: &P, at: usize, length: usize) -> Option<Network<Ip6>> {
    let header = packet.read::<Ipv6>(at)?;
    let total = IPV6_LEN + u16::from_be(header.payload_length) as usize;
    ipv6_of(packet, at, &header, if total < length { total } else { length }).ok()
}

#[inline(always)]
fn ipv6_of<P: Packet>(packet: &P, at: usize, header: &Ipv6, total: usize) -> Result<Network<Ip6>, Pass> {
    if u32::from_be(header.version_class_label) >> 28 != 6 || total < IPV6_LEN {
        return Err(Pass::MalformedIp);
    }
    let mut next = header.next_header;
    let mut offset = IPV6_LEN;
    let mut fragment = Fragment::Whole;
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        if !extends(next) || fragment == Fragment::Later {
            break;
        }
        // Every extension header has at least 8 bytes, the first of which is the next header's type.
        let Some([following, length, high, low]) = packet.read::<[u8; 4]>(at + offset) else {
            return Err(Pass::MalformedIp);
        };
        offset += match next {
            FRAGMENT => {
                let field = u16::from_be_bytes([high, low]);
                fragment = match (field >> 3, field & 1) {
                    // An atomic fragment (RFC 6946) is a whole packet.
                    (0, 0) => fragment,
                    (0, _) => Fragment::First,
                    (_, _) => Fragment::Later,
                };
                8
            }
            AUTHENTICATION => (length as usize + 2) << 2,
            _ => (length as usize + 1) << 3,
        };
        if offset > total {
            return Err(Pass::MalformedIp);
        }
        next = following;
        walked += 1;
    }
    Ok(Network {
        source: Ip6(header.source),
        destination: Ip6(header.destination),
        protocol: Protocol(next),
        fragment,
        ttl: header.hop_limit,
        transport: packet.opaque(at + offset),
        transport_len: packet.opaque(total - offset),
    })
}

/// Whether an extension header of this number may be looked through.
#[inline(always)]
pub fn extends(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// Offset of the fragment header of the IPv6 packet at `at`.
#[inline(always)]
pub fn fragment_header<P: Packet>(packet: &P, at: usize) -> Option<usize> {
    let mut next = packet.read::<Ipv6>(at)?.next_header;
    let mut offset = IPV6_LEN;
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        if next == FRAGMENT {
            return Some(packet.opaque(at + offset));
        }
        if !extends(next) {
            return None;
        }
        let [following, length] = packet.read::<[u8; 2]>(at + offset)?;
        offset += match next {
            AUTHENTICATION => (length as usize + 2) << 2,
            _ => (length as usize + 1) << 3,
        };
        next = following;
        walked += 1;
    }
    None
}
