//! The MSS option of TCP segments that open connections: how large segments the other side may send (RFC 9293 section
//! 3.7.1).

use super::checksum;
use super::family::Family;
use super::parse::{Fragment, Network, TCP_LEN};
use super::track::TcpFlags;
use super::transport;
use crate::abi::{Protocol, Settings};
use crate::packet::Packet;

const OFFSET_AND_FLAGS: usize = 12;
const CHECKSUM: usize = 16;

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

/// Whether a packet is a TCP segment that opens a connection, and all of it.
#[inline(always)]
pub fn opens<P: Packet, A>(packet: &P, network: &Network<A>) -> Option<()> {
    if network.protocol != Protocol::TCP
        || network.fragment != Fragment::Whole
        || network.transport_len < TCP_LEN
    {
        return None;
    }
    let [_, flags]: [u8; 2] = packet.read(network.transport + OFFSET_AND_FLAGS)?;
    (flags & TcpFlags::SYN != 0).then_some(())
}

/// Lowers the MSS of a segment that opens a connection to what packets of `most` bytes can carry, when it is higher.
#[inline(always)]
pub fn clamp<F: Family, P: Packet>(
    packet: &mut P,
    settings: &Settings,
    network: &Network<F::Address>,
    most: u32,
) -> Option<()> {
    let limit = most.saturating_sub((F::HEADER_LEN + TCP_LEN) as u32);
    let Some(clamp) = excess(packet, network, limit) else {
        return Some(());
    };
    let field: u16 = packet.read(clamp.checksum)?;
    // A sum of the pseudo-header alone does not cover the option.
    if !transport::is_partial::<F>(settings, network, field) {
        let delta = checksum::difference(clamp.from.into(), clamp.to.into());
        packet.write(clamp.checksum, checksum::adjust(field, delta))?;
    }
    packet.write(clamp.at, clamp.value)
}

/// Finds the MSS option of a segment, and what has to change when it is larger than `limit`.
#[inline(always)]
pub fn excess<P: Packet, A>(packet: &P, network: &Network<A>, limit: u32) -> Option<Clamp> {
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
