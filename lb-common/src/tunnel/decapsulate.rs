//! The origin's end of a tunnel: the outer header goes, and what it carried stays.

use super::header::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6};
use super::locals::{Locals, Roles};
use crate::abi::{Ip, Ip4, Ip6, Port, Protocol};
use crate::datapath::checksum;
use crate::datapath::parse::{self, Fragment, Network, Ports};
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};
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
    /// A tunnel's packet that comes from no node's address. Goes on as it came.
    NotNode,
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
        Self::NotNode,
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
            Self::NotNode => "not_node",
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

/// Working memory of one packet: what is known of it so far. In the kernel it is a map's, where the verifier does not
/// follow each value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Work {
    /// Of the outer header.
    source: Ip,
    destination: Ip,
    /// Where the outer header stands, and where its payload, which is `length` bytes long.
    network: u32,
    payload: u32,
    length: u32,
    /// Where the inner packet stands, and the bytes that are left for it.
    inner: u32,
    room: u32,
    protocol: Protocol,
    /// 0: it is whole; 1: a first fragment; 2: a later one.
    fragment: u8,
    /// What the outer header says of congestion.
    ecn: u8,
    /// IP version of the inner packet.
    version: u8,
}

/// Decapsulates a packet when it is a tunnel's, and counts what became of it.
#[inline(always)]
pub fn process<P: Packet, L: Locals>(packet: &mut P, locals: &L, work: &mut Work, gue_port: Port) -> Outcome {
    let outcome = match decapsulate(packet, locals, work, gue_port) {
        Ok(()) if work.protocol == Protocol::UDP => Outcome::Gue,
        Ok(()) => Outcome::Ipip,
        Err(outcome) => outcome,
    };
    locals.count(outcome);
    outcome
}

/// Decapsulates a packet when it is a tunnel's. One that [`Outcome::passes`] without being decapsulated is untouched.
#[inline(always)]
fn decapsulate<P: Packet, L: Locals>(
    packet: &mut P,
    locals: &L,
    work: &mut Work,
    gue_port: Port,
) -> Result<(), Outcome> {
    let link = parse::link(packet).map_err(|_| Outcome::Other)?;
    work.network = link.network as u32;
    match link.ether_type {
        ETHERTYPE_IPV4 => outer4(packet, work)?,
        ETHERTYPE_IPV6 => outer6(packet, work)?,
        _ => return Err(Outcome::Other),
    }
    carried(packet, locals, work, gue_port)?;
    let ether_type = if work.version == 4 {
        inner4(packet, locals, work)?;
        ETHERTYPE_IPV4
    } else {
        inner6(packet, locals, work)?;
        ETHERTYPE_IPV6
    };
    move_link(packet, work, ether_type).ok_or(Outcome::Resize)
}

#[inline(always)]
fn outer4<P: Packet>(packet: &P, work: &mut Work) -> Result<(), Outcome> {
    let at = work.network as usize;
    let network = parse::ipv4(packet, at).map_err(|_| Outcome::Other)?;
    work.note(&network, network.source.into(), network.destination.into());
    let header: Ipv4 = packet.read(at).ok_or(Outcome::Other)?;
    work.ecn = header.tos & ECN;
    Ok(())
}

#[inline(always)]
fn outer6<P: Packet>(packet: &P, work: &mut Work) -> Result<(), Outcome> {
    let at = work.network as usize;
    let network = parse::ipv6(packet, at).map_err(|_| Outcome::Other)?;
    work.note(&network, network.source.into(), network.destination.into());
    let header: Ipv6 = packet.read(at).ok_or(Outcome::Other)?;
    work.ecn = header.class() & ECN;
    Ok(())
}

impl Work {
    /// Notes what the outer header says.
    #[inline(always)]
    fn note<A>(&mut self, network: &Network<A>, source: Ip, destination: Ip) {
        self.source = source;
        self.destination = destination;
        self.payload = network.transport as u32;
        self.length = network.transport_len as u32;
        self.protocol = network.protocol;
        self.fragment = match network.fragment {
            Fragment::Whole => 0,
            Fragment::First => 1,
            Fragment::Later => 2,
        };
    }

    /// Notes where the inner packet stands: behind the first bytes of the payload, which is that long.
    #[inline(always)]
    fn carries(&mut self, version: u8, behind: usize) {
        self.version = version;
        self.inner = self.payload + behind as u32;
        self.room = self.length.wrapping_sub(behind as u32);
    }

    /// Bytes of all that stands before the inner packet, but for the link header.
    #[inline(always)]
    fn overhead(&self) -> u32 {
        self.inner.wrapping_sub(self.network)
    }
}

/// Finds what is in a packet, when it is a tunnel's that ends here.
#[inline(always)]
fn carried<P: Packet, L: Locals>(
    packet: &P,
    locals: &L,
    work: &mut Work,
    gue_port: Port,
) -> Result<(), Outcome> {
    match work.protocol {
        IPIP | IPV6IP => {}
        // A later fragment has no ports to tell.
        Protocol::UDP if work.fragment != 2 => {
            let ports = packet
                .read::<Ports>(work.payload as usize)
                .ok_or(Outcome::Other)?;
            if ports.destination != gue_port {
                return Err(Outcome::Other);
            }
        }
        _ => return Err(Outcome::Other),
    }
    let ends_here = locals.visit(&work.destination, |local| local.roles.has(Roles::TUNNEL));
    if ends_here != Some(true) {
        return Err(Outcome::NotLocal);
    }
    // Whoever could send through a tunnel could send from any address to a VIP, past every filter on the way.
    if !locals.is_node(&work.source) {
        return Err(Outcome::NotNode);
    }
    if work.fragment != 0 {
        return Err(Outcome::Fragment);
    }
    match work.protocol {
        IPIP => work.carries(4, 0),
        IPV6IP => work.carries(6, 0),
        _ => gue(packet, work)?,
    }
    Ok(())
}

/// GUE variant 1 is an IP packet, whose version tells it from variant 0; of that, packets without options.
#[inline(always)]
fn gue<P: Packet>(packet: &P, work: &mut Work) -> Result<(), Outcome> {
    if (work.length as usize) < UDP_LEN + GUE_LEN {
        return Err(Outcome::Malformed);
    }
    let header: [u8; GUE_LEN] = packet
        .read(work.payload as usize + UDP_LEN)
        .ok_or(Outcome::Malformed)?;
    match header {
        [first, ..] if first >> 4 == 4 || first >> 4 == 6 => work.carries(first >> 4, UDP_LEN),
        [0, protocol, 0, 0] if protocol == IPIP.0 => work.carries(4, UDP_LEN + GUE_LEN),
        [0, protocol, 0, 0] if protocol == IPV6IP.0 => work.carries(6, UDP_LEN + GUE_LEN),
        _ => return Err(Outcome::Malformed),
    }
    Ok(())
}

/// Checks an inner IPv4 packet and tells it about congestion.
#[inline(always)]
fn inner4<P: Packet, L: Locals>(packet: &mut P, locals: &L, work: &mut Work) -> Result<(), Outcome> {
    let at = work.inner as usize;
    let header: Ipv4 = packet.read(at).ok_or(Outcome::Malformed)?;
    let length = ((header.version_ihl & 0x0f) as usize) << 2;
    let total = u16::from_be(header.total_length) as usize;
    if header.version_ihl >> 4 != 4 || length < IPV4_LEN || total < length || total > work.room as usize {
        return Err(Outcome::Malformed);
    }
    for_vip(locals, Ip4(header.destination).into(), work.overhead())?;
    let tos = header.tos & !ECN | ecn(work.ecn, header.tos & ECN)?;
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

/// As [`inner4`], for IPv6.
#[inline(always)]
fn inner6<P: Packet, L: Locals>(packet: &mut P, locals: &L, work: &mut Work) -> Result<(), Outcome> {
    let at = work.inner as usize;
    let header: Ipv6 = packet.read(at).ok_or(Outcome::Malformed)?;
    let total = IPV6_LEN + u16::from_be(header.payload_length) as usize;
    if u32::from_be(header.first) >> 28 != 6 || total > work.room as usize {
        return Err(Outcome::Malformed);
    }
    for_vip(locals, Ip6(header.destination).into(), work.overhead())?;
    let class = header.class();
    let told = class & !ECN | ecn(work.ecn, class & ECN)?;
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
fn for_vip<L: Locals>(locals: &L, address: Ip, overhead: u32) -> Result<(), Outcome> {
    let known = locals.visit(&address, |local| {
        let vip = local.roles.has(Roles::VIP);
        let overhead = overhead.min(MAX_OVERHEAD);
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
fn move_link<P: Packet>(packet: &mut P, work: &Work, ether_type: u16) -> Option<()> {
    /// Words of the link addresses.
    const ADDRESSES: usize = 6;
    let addresses: [u16; ADDRESSES] = packet.read(0)?;
    // An IP header follows, so there are bytes where tags could be.
    let outer_tag: [u16; 2] = packet.read(12)?;
    let inner_tag: [u16; 2] = packet.read(16)?;
    packet.shrink_head(work.overhead() as usize)?;
    let length = work.network as usize;
    packet.write(0, addresses)?;
    if length >= 18 {
        packet.write(12, outer_tag)?;
    }
    if length >= 22 {
        packet.write(16, inner_tag)?;
    }
    packet.write(length.wrapping_sub(2), ether_type)
}
