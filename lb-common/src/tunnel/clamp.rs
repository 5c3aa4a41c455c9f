//! The MSS that an origin offers to clients whose segments reach it by a tunnel.
//!
//! Answers go straight to the client, past the node: only the origin can tell it that packets will have less room.

pub use crate::datapath::mss::Clamp;

use super::header::{IPV4_LEN, IPV6_LEN};
use super::locals::Locals;
use crate::abi::Ip;
use crate::datapath::mss;
use crate::datapath::parse;
use crate::packet::Packet;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

const TCP_LEN: usize = 20;

/// Whether a leaving segment offers a larger MSS than the tunnels to its source carry, `path_mtu` being the largest
/// packet on the way from the nodes to here.
#[inline(always)]
pub fn clamp<P: Packet, L: Locals>(packet: &P, locals: &L, path_mtu: u32) -> Option<Clamp> {
    let link = parse::link(packet).ok()?;
    match link.ether_type {
        ETHERTYPE_IPV4 => {
            let network = parse::ipv4(packet, link.network).ok()?;
            mss::opens(packet, &network)?;
            let room = room(locals, network.source.into(), path_mtu)?;
            mss::excess(packet, &network, room.checked_sub((IPV4_LEN + TCP_LEN) as u32)?)
        }
        ETHERTYPE_IPV6 => {
            let network = parse::ipv6(packet, link.network).ok()?;
            mss::opens(packet, &network)?;
            let room = room(locals, network.source.into(), path_mtu)?;
            mss::excess(packet, &network, room.checked_sub((IPV6_LEN + TCP_LEN) as u32)?)
        }
        _ => None,
    }
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
