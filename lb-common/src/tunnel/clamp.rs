//! The MSS that an origin offers to clients whose segments reach it by a tunnel.
//!
//! Answers go straight to the client, past the node: only the origin can tell it that packets will have less room.

use super::header::{IPV4_LEN, IPV6_LEN};
use super::locals::Locals;
use crate::abi::{Ip, Protocol};
use crate::datapath::parse::{self, Fragment, Network};
use crate::packet::Packet;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

const TCP_LEN: usize = 20;
const OFFSET_AND_FLAGS: usize = 12;
const CHECKSUM: usize = 16;
const SYN: u8 = 2;

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;
/// Options that are looked at: the MSS comes first in all segments that are made today.
const MAX_OPTIONS: usize = 10;

/// What has to be changed in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clamp {
    /// Offset of the option's value.
    pub at: usize,
    /// The new value, in network order.
    pub value: u16,
    /// Offset of the TCP checksum.
    pub checksum: usize,
    /// The words of the sum that change: before and after, as they are summed.
    pub from: u16,
    pub to: u16,
}

/// Whether a leaving segment offers a larger MSS than the tunnels to its source carry, `path_mtu` being the largest
/// packet on the way from the nodes to here.
#[inline(always)]
pub fn clamp<P: Packet, L: Locals>(packet: &P, locals: &L, path_mtu: u32) -> Option<Clamp> {
    let link = parse::link(packet).ok()?;
    match link.ether_type {
        ETHERTYPE_IPV4 => {
            let network = parse::ipv4(packet, link.network).ok()?;
            opens(packet, &network)?;
            let room = room(locals, network.source.into(), path_mtu)?;
            excess(packet, &network, room.checked_sub((IPV4_LEN + TCP_LEN) as u32)?)
        }
        ETHERTYPE_IPV6 => {
            let network = parse::ipv6(packet, link.network).ok()?;
            opens(packet, &network)?;
            let room = room(locals, network.source.into(), path_mtu)?;
            excess(packet, &network, room.checked_sub((IPV6_LEN + TCP_LEN) as u32)?)
        }
        _ => None,
    }
}

/// `Some` for segments that open a connection.
#[inline(always)]
fn opens<P: Packet, A>(packet: &P, network: &Network<A>) -> Option<()> {
    if network.protocol != Protocol::TCP
        || network.fragment != Fragment::Whole
        || network.transport_len < TCP_LEN
    {
        return None;
    }
    let [_, flags]: [u8; 2] = packet.read(network.transport + OFFSET_AND_FLAGS)?;
    (flags & SYN != 0).then_some(())
}

/// Bytes that the tunnels to an address leave to an IP packet; `None`: it has none.
#[inline(always)]
fn room<L: Locals>(locals: &L, source: Ip, path_mtu: u32) -> Option<u32> {
    let overhead = locals.visit(&source, |local| local.overhead)?;
    if overhead == 0 {
        return None;
    }
    path_mtu.checked_sub(overhead)
}

/// Finds the MSS option, and what has to change when it is larger than `limit`.
#[inline(always)]
fn excess<P: Packet, A>(packet: &P, network: &Network<A>, limit: u32) -> Option<Clamp> {
    let start = network.transport;
    let [offset, _]: [u8; 2] = packet.read(start + OFFSET_AND_FLAGS)?;
    let length = ((offset >> 4) as usize) << 2;
    if length > network.transport_len {
        return None;
    }
    let end = start + length;
    let mut at = start + TCP_LEN;
    let mut seen = 0;
    while seen < MAX_OPTIONS {
        at = packet.opaque(at);
        if at + MSS_LEN as usize > end {
            return None;
        }
        let [kind, size]: [u8; 2] = packet.read(at)?;
        at += match (kind, size) {
            (END, _) => return None,
            (NOTHING, _) => 1,
            (MSS, MSS_LEN) => return change(packet, start, at + 2, limit),
            (MSS, _) | (_, 0 | 1) => return None,
            (_, size) => size as usize,
        };
        seen += 1;
    }
    None
}

#[inline(always)]
fn change<P: Packet>(packet: &P, start: usize, at: usize, limit: u32) -> Option<Clamp> {
    let [high, low]: [u8; 2] = packet.read(at)?;
    let limit = limit.min(u16::MAX.into()) as u16;
    if u16::from_be_bytes([high, low]) <= limit {
        return None;
    }
    let (from, to) = (u16::from_ne_bytes([high, low]), limit.to_be());
    // At an odd place its bytes stand in two words of the sum, each on the other side.
    let odd = (at ^ start) & 1 != 0;
    let summed = |word: u16| if odd { word.swap_bytes() } else { word };
    Some(Clamp {
        at,
        value: to,
        checksum: start + CHECKSUM,
        from: summed(from),
        to: summed(to),
    })
}
