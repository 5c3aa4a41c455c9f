//! Tunnels: those of RFC 2003, RFC 2473 and RFC 4213 (`dsr_ipip`), and of draft-ietf-intarea-gue, variant 1 (`dsr_gue`).
//!
//! The IP packet follows the outer header, or a UDP header behind that. It is carried as it came, TTL and all; only what its
//! sender left to do is done: a checksum that a device was to complete. And where it opens a connection, its MSS leaves room.

use super::checksum;
use super::family::{Family, Outer, V4, V6};
use super::known::Context;
use super::mss;
use super::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Fragment, IPV6_LEN, Link, Network, UDP_LEN,
};
use super::room::{self, Fit, Room};
use super::scratch::{Opening, Scratch};
use super::tables::{Sample, Tables};
use super::track::TcpFlags;
use super::transport::{self, Segment};
use super::verdict::{DropReason, Verdict};
use super::wrap::{link_len, packet_len, refuse, write_link};
use super::{Step, drop, exit};
use crate::abi::{
    FlowCore, FlowSide, Forwarding, Hop, Origin, OriginId, Port, Protocol, Settings, SettingsFlags, Tag,
};
use crate::hash;
use crate::packet::Packet;

/// A packet that is put into a tunnel.
#[derive(Clone, Copy)]
struct Carried {
    /// What it is as payload.
    protocol: Protocol,
    class: u8,
    /// Its path carries less than every path has to: it may be fragmented on its way.
    pieces: bool,
    /// Of its IP header in the frame.
    at: usize,
    length: usize,
    /// Spreads flows over a receiver's queues.
    hash: u64,
    /// Sum of its words, where an outer checksum needs it; 0: not known.
    sum: u32,
}

/// Where it goes.
struct Way<'a> {
    id: OriginId,
    application: u32,
    origin: &'a Origin,
    hop: &'a Hop,
}

/// Puts the packet of a flow into a tunnel to its origin.
#[inline(always)]
pub fn tunnel<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let FlowCore {
        origin: id,
        application,
        ..
    } = match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => scratch.v4.client.core,
        ETHERTYPE_IPV6 => scratch.v6.client.core,
        _ => return drop(DropReason::Internal),
    };
    let Some(origin) = tables.origin(id) else {
        return drop(DropReason::NoOriginRecord);
    };
    let hop = match tables.hop(origin.hop) {
        Some(hop) if hop.resolved != 0 => hop,
        Some(_) | None => return drop(DropReason::NoNextHop),
    };
    let way = Way {
        id,
        application,
        origin: &origin,
        hop: &hop,
    };
    let carried = match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => carry::<V4, P, T>(packet, tables, settings, scratch, &way),
        ETHERTYPE_IPV6 => carry::<V6, P, T>(packet, tables, settings, scratch, &way),
        _ => Err(drop(DropReason::Internal)),
    };
    match carried {
        Ok(carried) => launch(packet, tables, settings, scratch.opening.ifindex, &way, &carried),
        Err(step) => step,
    }
}

/// The usual packet of an established flow goes into its tunnel without further ado; `None`, and nothing has changed, where it
/// takes more: that is for [`tunnel`].
#[inline(always)]
pub(super) fn at_once<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    context: &Context,
    network: &Network<F::Address>,
    segment: &Segment,
    flow: &F::Flow,
) -> Option<Step> {
    let settings = context.settings;
    let partial = settings.flags.has(SettingsFlags::PARTIAL_CHECKSUMS);
    if partial || segment.flags.has(TcpFlags::SYN) {
        return None;
    }
    let FlowCore {
        origin: id,
        application,
        ..
    } = *F::core(flow);
    // Its record again: what is not needed for other flows is not read for them.
    let origin = tables.origin(id)?;
    let hop = tables.hop(origin.hop)?;
    if hop.resolved == 0 || hop.tags != [Tag::NONE; 2] {
        return None;
    }
    let length = packet_len(&context.link, network);
    let room = Room::to_origin(tables, settings, context.now, id, &origin, hop.mtu);
    if length as u32 > room.path {
        return None;
    }
    let sum = if needs_sum(&origin) {
        sum_at_once::<F, P>(packet, &context.link, network)?
    } else {
        0
    };
    let at = context.link.network;
    let carried = Carried {
        protocol: F::IN_IP,
        class: F::class(packet, at)?,
        pieces: false,
        at,
        length,
        hash: hash_of::<F>(flow, network.protocol),
        sum,
    };
    let way = Way {
        id,
        application,
        origin: &origin,
        hop: &hop,
    };
    Some(launch(packet, tables, settings, context.ifindex, &way, &carried))
}

/// Sends a packet into its tunnel.
#[inline(always)]
fn launch<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    ifindex: u32,
    way: &Way,
    carried: &Carried,
) -> Step {
    let end = carried.at + carried.length;
    if packet.trim(end).is_none() {
        return drop(DropReason::Resize);
    }
    let wrapped = if way.origin.address.v4().is_some() {
        encapsulate::<V4, P, T>(packet, tables, settings, way, carried)
    } else {
        encapsulate::<V6, P, T>(packet, tables, settings, way, carried)
    };
    if let Err(reason) = wrapped {
        return drop(reason);
    }
    let sample = Sample {
        side: FlowSide::CLIENT,
        bytes: end as u64,
    };
    tables.count_packet(way.application, way.id, sample);
    Step::Done(Verdict::Forward(exit(settings, ifindex, way.hop.ifindex)))
}

/// The flow's own number: from what the client sends from and to, because its later fragments do not say it.
#[inline(always)]
fn hash_of<F: Family>(flow: &F::Flow, protocol: Protocol) -> u64 {
    let leaving = F::leaving(flow, protocol);
    hash::spread(
        leaving.source.into(),
        leaving.source_port,
        leaving.destination_port,
    )
}

/// Whether a checksum of an origin's outer headers covers the packet.
#[inline(always)]
fn needs_sum(origin: &Origin) -> bool {
    origin.forwarding == Forwarding::DSR_GUE && origin.address.v4().is_none()
}

/// Looks at a packet that is to be put into a tunnel, and completes it.
#[inline(always)]
fn carry<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
    way: &Way,
) -> Result<Carried, Step> {
    let Way { id, origin, hop, .. } = *way;
    let Opening { link, now, .. } = scratch.opening;
    let draft = F::draft(scratch);
    let network = &draft.subject.network;
    let length = packet_len(&link, network);
    let room = Room::to_origin(tables, settings, now, id, origin, hop.mtu);
    let fit = room.fit::<F>(length as u32);
    if !matches!(fit, Fit::Whole | Fit::InPieces) {
        return Err(refuse(scratch, fit));
    }
    if mss::opens(packet, network).is_some() {
        let most = room::of_connection(room, room, origin.forwarding);
        if mss::clamp::<F, P>(packet, settings, network, most).is_none() {
            return Err(drop(DropReason::Malformed));
        }
    }
    if transport::complete::<F, P>(packet, settings, network).is_none() {
        return Err(drop(DropReason::PartialChecksum));
    }
    let Some(class) = F::class(packet, link.network) else {
        return Err(drop(DropReason::Internal));
    };
    let sum = if needs_sum(origin) {
        sum_of::<F, P>(packet, &link, network)
    } else {
        0
    };
    Ok(Carried {
        protocol: F::IN_IP,
        class,
        pieces: fit == Fit::InPieces,
        at: link.network,
        length,
        hash: hash_of::<F>(&draft.client, network.protocol),
        sum,
    })
}

/// The sum of an IP packet's words; 0 when it cannot be had.
#[inline(always)]
fn sum_of<F: Family, P: Packet>(packet: &P, link: &Link, network: &Network<F::Address>) -> u32 {
    let length = packet_len(link, network);
    match sum_at_once::<F, P>(packet, link, network) {
        Some(sum) => sum,
        None => packet.sum(link.network, length).map_or(0, u32::from),
    }
}

/// The sum of an IP packet's words, where it is known without looking at them.
///
/// A segment whose checksum is right sums to the complement of its pseudo-header, so its payload need not be touched. One
/// whose checksum is wrong gets an outer checksum that is wrong as well: it is lost either way.
#[inline(always)]
fn sum_at_once<F: Family, P: Packet>(packet: &P, link: &Link, network: &Network<F::Address>) -> Option<u32> {
    if !is_summed(packet, network) {
        return None;
    }
    let length = u32::from(!(network.transport_len as u16).to_be());
    let protocol = u32::from(!u16::from_ne_bytes([0, network.protocol.0]));
    if F::HEADER_LEN != IPV6_LEN {
        // An IPv4 header whose checksum is right sums to nothing. The protocol's complement is not 0.
        let addresses = checksum::fold(F::sum(network.source) + F::sum(network.destination));
        return Some(u32::from(!addresses) + length + protocol);
    }
    if network.transport.wrapping_sub(link.network) != IPV6_LEN {
        return None;
    }
    // The header's addresses and those of the pseudo-header cancel out.
    let [a, b] = packet.read::<[u32; 2]>(link.network)?.map(checksum::words);
    Some(a + b + length + protocol)
}

/// Whether a packet is a whole TCP segment or UDP datagram with a checksum over all of it.
#[inline(always)]
fn is_summed<P: Packet, A>(packet: &P, network: &Network<A>) -> bool {
    if network.fragment != Fragment::Whole {
        return false;
    }
    match network.protocol {
        Protocol::TCP => true,
        // Bytes behind the datagram are not in its checksum.
        Protocol::UDP => match packet.read::<[u16; 2]>(network.transport + UDP_LEN - 4) {
            Some([length, checksum]) => {
                checksum != 0 && u16::from_be(length) as usize == network.transport_len
            }
            None => false,
        },
        _ => false,
    }
}

/// First of the ports from which tunnels come (RFC 6335 section 6: never assigned), and the bits that tell flows apart.
const FIRST_PORT: u16 = 0xc000;
const PORT_BITS: u16 = 0x3fff;

/// Writes the outer headers.
#[inline(always)]
fn encapsulate<O: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    way: &Way,
    carried: &Carried,
) -> Result<(), DropReason> {
    let Way { origin, hop, .. } = *way;
    let source = source::<O, T>(tables, settings, origin, carried.hash as u32);
    let (Some(source), Some(destination)) = (source, O::address(origin.address)) else {
        return Err(DropReason::NoSourceAddress);
    };
    let gue = origin.forwarding == Forwarding::DSR_GUE;
    let (protocol, added) = if gue {
        (Protocol::UDP, UDP_LEN)
    } else {
        (carried.protocol, 0)
    };
    let identification = if carried.pieces {
        // 0 would say that it is not to be fragmented.
        tables.next_fragment() as u16 | 1
    } else {
        0
    };
    let outer = Outer {
        source,
        destination,
        protocol,
        payload: (carried.length + added) as u16,
        class: carried.class,
        label: (carried.hash >> 44) as u32,
        identification,
    };
    let grow = |packet: &mut P, link: usize| {
        let growth = link + O::HEADER_LEN + added;
        packet.move_head((growth as isize).wrapping_sub(carried.at as isize))
    };
    let header = O::outer(&outer);
    let addresses = [hop.neighbour, hop.interface];
    let written = if hop.tags == [Tag::NONE; 2] {
        let [destination, source] = addresses;
        let ethernet = Ethernet {
            destination,
            source,
            ether_type: O::ETHER_TYPE,
        };
        grow(packet, ETHERNET_LEN).and_then(|()| packet.write_both(0, ethernet, header))
    } else {
        let length = packet.opaque(link_len(hop.tags));
        grow(packet, length)
            .and_then(|()| write_link(packet, addresses, hop.tags, length, O::ETHER_TYPE))
            .and_then(|()| packet.write(length, header))
    };
    written.ok_or(DropReason::Resize)?;
    if !gue {
        return Ok(());
    }
    let at = packet.opaque(link_len(hop.tags) + O::HEADER_LEN);
    let udp = udp::<O>(&outer, origin.gue_port, carried);
    packet.write(at, udp).ok_or(DropReason::Resize)
}

/// The UDP header of GUE, as it is written.
///
/// Its checksum is left out over IPv4, where it may be (RFC 768), and over IPv6 only where the packet's sum cannot be had
/// (RFC 6935).
#[inline(always)]
fn udp<O: Family>(outer: &Outer<O::Address>, to: Port, carried: &Carried) -> [u16; 4] {
    let from = Port::new(FIRST_PORT | (carried.hash >> 32) as u16 & PORT_BITS);
    let length = outer.payload.to_be();
    let field = if O::HEADER_LEN != IPV6_LEN || carried.sum == 0 {
        0
    } else {
        let pseudo = transport::pseudo_header::<O>(
            outer.source,
            outer.destination,
            Protocol::UDP,
            outer.payload as usize,
        );
        let field = !checksum::fold(carried.sum + pseudo + checksum::ports(from, to) + u32::from(length));
        if field == 0 { 0xffff } else { field }
    };
    [from.0, to.0, length, field]
}

/// The outer source address: one of the flow's own where it is configured so, or one of those that are the node's.
#[inline(always)]
fn source<O: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    origin: &Origin,
    hash: u32,
) -> Option<O::Address> {
    let own = O::tunnel_source(&settings.tunnel_source, hash);
    if own.is_some() {
        return own;
    }
    if origin.snat_count == 0 {
        return None;
    }
    let index = hash::scale(hash, origin.snat_count);
    O::address(tables.snat_address(origin.snat_base.wrapping_add(index))?)
}
