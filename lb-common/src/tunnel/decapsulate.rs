//! The origin's end of a tunnel: the outer header goes, and what it carried stays.

use super::header::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6};
use super::locals::{Locals, Roles};
use crate::abi::{Ip, Ip4, Ip6, Port, Protocol};
use crate::datapath::checksum;
use crate::datapath::parse::{self, Fragment, Link, Network, Ports};
use crate::packet::Packet;
use core::mem::offset_of;

/// IPv4 and IPv6 as payload (RFC 2003, RFC 4213, RFC 2473).
const IPIP: Protocol = Protocol(4);
const IPV6IP: Protocol = Protocol(41);
const UDP_LEN: usize = 8;
const GUE_LEN: usize = 4;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
#[must_use]
pub enum Outcome {
    /// It is no tunnel's, and goes on as it came.
    Other,
    /// It came by IPIP: an IP header was taken off.
    Ipip,
    /// It came by GUE: IP and UDP headers were taken off.
    Gue,
    /// A tunnel's packet for an address at which no tunnel ends. Goes on as it came.
    NotLocal,
    /// What the tunnel carries is for no VIP. Goes on as it came.
    NotVip,
    /// A fragment of a tunnel's packet: nodes make none. Goes on as it came.
    Fragment,
    /// What the tunnel carries is no IP packet, or cut short. Goes on as it came.
    Malformed,
    /// Dropped: the tunnel was congested, and the sender has not agreed to be told so otherwise (RFC 6040).
    Congestion,
    /// Dropped: the driver refused to move the head of the frame.
    Resize,
}

impl Outcome {
    /// All of them, in the order of their rows.
    pub const ALL: &[Self] = &[
        Self::Other,
        Self::Ipip,
        Self::Gue,
        Self::NotLocal,
        Self::NotVip,
        Self::Fragment,
        Self::Malformed,
        Self::Congestion,
        Self::Resize,
    ];

    /// The word used in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::NotLocal => "not_local",
            Self::NotVip => "not_vip",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::Congestion => "congestion",
            Self::Resize => "resize",
        }
    }

    /// The row of the counters.
    #[must_use]
    pub const fn row(self) -> u32 {
        self as u32
    }

    /// Whether the kernel gets the packet, whatever it looks like now.
    #[inline(always)]
    #[must_use]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Congestion | Self::Resize)
    }
}

/// Decapsulates a packet when it is a tunnel's, and counts what became of it.
#[inline(always)]
pub fn process<P: Packet, L: Locals>(packet: &mut P, locals: &L, gue_port: Port) -> Outcome {
    let outcome = decapsulate(packet, locals, gue_port);
    locals.count(outcome);
    outcome
}

/// Decapsulates a packet when it is a tunnel's. One that [`Outcome::passes`] without being decapsulated is untouched.
#[inline(always)]
pub fn decapsulate<P: Packet, L: Locals>(packet: &mut P, locals: &L, gue_port: Port) -> Outcome {
    let Ok(link) = parse::link(packet) else {
        return Outcome::Other;
    };
    let at = link.network;
    let result = match link.ether_type {
        ETHERTYPE_IPV4 => {
            let (Ok(network), Some(header)) = (parse::ipv4(packet, at), packet.read::<Ipv4>(at)) else {
                return Outcome::Other;
            };
            Outer::new(&network, network.destination.into(), header.tos)
                .carried(packet, locals, gue_port)
                .and_then(|inner| end(packet, locals, &link, &inner))
        }
        ETHERTYPE_IPV6 => {
            let (Ok(network), Some(header)) = (parse::ipv6(packet, at), packet.read::<Ipv6>(at)) else {
                return Outcome::Other;
            };
            Outer::new(&network, network.destination.into(), header.class())
                .carried(packet, locals, gue_port)
                .and_then(|inner| end(packet, locals, &link, &inner))
        }
        _ => Err(Outcome::Other),
    };
    match result {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

/// The outer header.
struct Outer {
    destination: Ip,
    protocol: Protocol,
    fragment: Fragment,
    ecn: u8,
    /// Where its payload stands, and how long that is.
    payload: usize,
    length: usize,
}

/// What a tunnel carries.
struct Carried {
    tunnel: Outcome,
    version: u8,
    /// What the outer header says of congestion.
    ecn: u8,
    at: usize,
    /// Bytes that are left for it.
    room: usize,
}

impl Outer {
    #[inline(always)]
    fn new<A>(network: &Network<A>, destination: Ip, class: u8) -> Self {
        Self {
            destination,
            protocol: network.protocol,
            fragment: network.fragment,
            ecn: class & ECN,
            payload: network.transport,
            length: network.transport_len,
        }
    }

    /// What is in it, when it is a tunnel's that ends here.
    #[inline(always)]
    fn carried<P: Packet, L: Locals>(
        &self,
        packet: &P,
        locals: &L,
        gue_port: Port,
    ) -> Result<Carried, Outcome> {
        match self.protocol {
            IPIP | IPV6IP => {}
            // A later fragment has no ports to tell.
            Protocol::UDP if self.fragment != Fragment::Later => {
                let ports = packet.read::<Ports>(self.payload).ok_or(Outcome::Other)?;
                if ports.destination != gue_port {
                    return Err(Outcome::Other);
                }
            }
            _ => return Err(Outcome::Other),
        }
        let ends_here = locals.visit(&self.destination, |local| local.roles.has(Roles::TUNNEL));
        if ends_here != Some(true) {
            return Err(Outcome::NotLocal);
        }
        if self.fragment != Fragment::Whole {
            return Err(Outcome::Fragment);
        }
        match self.protocol {
            IPIP => Ok(self.at(0, 4, Outcome::Ipip)),
            IPV6IP => Ok(self.at(0, 6, Outcome::Ipip)),
            _ => self.gue(packet),
        }
    }

    /// GUE variant 1 is an IP packet, whose version tells it from variant 0; of that, packets without options.
    #[inline(always)]
    fn gue<P: Packet>(&self, packet: &P) -> Result<Carried, Outcome> {
        if self.length < UDP_LEN + GUE_LEN {
            return Err(Outcome::Malformed);
        }
        let header: [u8; GUE_LEN] = packet.read(self.payload + UDP_LEN).ok_or(Outcome::Malformed)?;
        match header {
            [first, ..] if first >> 4 == 4 || first >> 4 == 6 => {
                Ok(self.at(UDP_LEN, first >> 4, Outcome::Gue))
            }
            [0, protocol, 0, 0] if protocol == IPIP.0 => Ok(self.at(UDP_LEN + GUE_LEN, 4, Outcome::Gue)),
            [0, protocol, 0, 0] if protocol == IPV6IP.0 => Ok(self.at(UDP_LEN + GUE_LEN, 6, Outcome::Gue)),
            _ => Err(Outcome::Malformed),
        }
    }

    #[inline(always)]
    fn at(&self, skip: usize, version: u8, tunnel: Outcome) -> Carried {
        Carried {
            tunnel,
            version,
            ecn: self.ecn,
            at: self.payload + skip,
            // Each caller has seen that the payload is that long.
            room: self.length.wrapping_sub(skip),
        }
    }
}

/// The tunnel's end: takes the outer header off.
#[inline(always)]
fn end<P: Packet, L: Locals>(
    packet: &mut P,
    locals: &L,
    link: &Link,
    carried: &Carried,
) -> Result<Outcome, Outcome> {
    let at = packet.opaque(carried.at);
    let by = at.wrapping_sub(link.network);
    let ether_type = if carried.version == 4 {
        end4(packet, locals, carried, at, by)?;
        ETHERTYPE_IPV4
    } else {
        end6(packet, locals, carried, at, by)?;
        ETHERTYPE_IPV6
    };
    move_link(packet, link.network, by, ether_type).ok_or(Outcome::Resize)?;
    Ok(carried.tunnel)
}

/// Checks an inner IPv4 packet and tells it about congestion.
#[inline(always)]
fn end4<P: Packet, L: Locals>(
    packet: &mut P,
    locals: &L,
    carried: &Carried,
    at: usize,
    by: usize,
) -> Result<(), Outcome> {
    let header: Ipv4 = packet.read(at).ok_or(Outcome::Malformed)?;
    let length = ((header.version_ihl & 0x0f) as usize) << 2;
    let total = u16::from_be(header.total_length) as usize;
    if header.version_ihl >> 4 != 4 || length < IPV4_LEN || total < length || total > carried.room {
        return Err(Outcome::Malformed);
    }
    for_vip(locals, Ip4(header.destination).into(), by)?;
    let tos = header.tos & !ECN | ecn(carried.ecn, header.tos & ECN)?;
    if tos != header.tos {
        let word = |tos| u16::from_ne_bytes([header.version_ihl, tos]);
        let delta = checksum::difference(word(header.tos).into(), word(tos).into());
        let sum = checksum::adjust(header.checksum, delta);
        packet
            .write(at, word(tos))
            .and_then(|()| packet.write(at + offset_of!(Ipv4, checksum), sum))
            .ok_or(Outcome::Malformed)?;
    }
    Ok(())
}

/// As [`end4`], for IPv6.
#[inline(always)]
fn end6<P: Packet, L: Locals>(
    packet: &mut P,
    locals: &L,
    carried: &Carried,
    at: usize,
    by: usize,
) -> Result<(), Outcome> {
    let header: Ipv6 = packet.read(at).ok_or(Outcome::Malformed)?;
    let total = IPV6_LEN + u16::from_be(header.payload_length) as usize;
    if u32::from_be(header.first) >> 28 != 6 || total > carried.room {
        return Err(Outcome::Malformed);
    }
    for_vip(locals, Ip6(header.destination).into(), by)?;
    let class = header.class();
    let told = class & !ECN | ecn(carried.ecn, class & ECN)?;
    if told != class {
        packet
            .write(at, header.first_with_class(told))
            .ok_or(Outcome::Malformed)?;
    }
    Ok(())
}

/// Bytes of the longest headers that nodes make: IPv6, UDP and GUE. Nobody else shall make clients send tiny segments.
const MAX_OVERHEAD: u32 = 60;

/// Whether the address is a VIP; if so, it is noted how much room the tunnel took.
#[inline(always)]
fn for_vip<L: Locals>(locals: &L, address: Ip, overhead: usize) -> Result<(), Outcome> {
    let known = locals.visit(&address, |local| {
        let vip = local.roles.has(Roles::VIP);
        let overhead = (overhead as u32).min(MAX_OVERHEAD);
        if vip && local.overhead < overhead {
            local.overhead = overhead;
        }
        vip
    });
    match known {
        Some(true) => Ok(()),
        Some(false) | None => Err(Outcome::NotVip),
    }
}

const ECN: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// What the receiver shall see of the two congestion fields (RFC 6040 section 4.2).
#[inline(always)]
fn ecn(outer: u8, inner: u8) -> Result<u8, Outcome> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(Outcome::Congestion),
        (_, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}

/// Moves the link header, VLAN tags and all, over the bytes behind it.
#[inline(always)]
fn move_link<P: Packet>(packet: &mut P, length: usize, by: usize, ether_type: u16) -> Option<()> {
    /// Words of the link addresses.
    const ADDRESSES: usize = 6;
    let addresses: [u16; ADDRESSES] = packet.read(0)?;
    // An IP header follows, so there are bytes where tags could be.
    let outer_tag: [u16; 2] = packet.read(12)?;
    let inner_tag: [u16; 2] = packet.read(16)?;
    packet.shrink_head(by)?;
    packet.write(0, addresses)?;
    if length >= 18 {
        packet.write(12, outer_tag)?;
    }
    if length >= 22 {
        packet.write(16, inner_tag)?;
    }
    packet.write(length.wrapping_sub(2), ether_type)
}
