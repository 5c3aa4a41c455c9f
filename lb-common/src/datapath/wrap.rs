//! Heads of frames that change: outer headers of tunnels, VLAN tags. And packets that may not fit.
//!
//! Tunnels are those of RFC 2003, RFC 2473 and RFC 4213 (`dsr_ipip`) and of draft-ietf-intarea-gue, variant 1 (`dsr_gue`): the
//! IP packet follows the outer header, or a UDP header behind it. It is carried as it came, TTL and all; only what a sender
//! left to do is done: a checksum that a device was to complete.

use super::checksum;
use super::family::{Family, Outer, V4, V6};
use super::mss;
use super::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, IPV6_LEN, Link, Network, UDP_LEN, VLAN_LEN,
};
use super::room::{self, Fit, Room};
use super::scratch::{Opening, Scratch, WrapKind, Wrapping};
use super::tables::{Sample, Tables};
use super::transport;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Stage, Step, drop, exit};
use crate::abi::{FlowSide, Forwarding, Origin, OriginId, Port, Protocol, Settings, Tag};
use crate::hash;
use crate::packet::Packet;

/// Changes the head of a frame.
#[inline(always)]
pub fn wrap<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match (scratch.wrap.kind, scratch.opening.link.ether_type) {
        (WrapKind::Relink, _) => relink(packet, tables, scratch),
        (WrapKind::Fit, ETHERTYPE_IPV4) => fit::<V4, P, T>(packet, tables, scratch),
        (WrapKind::Fit, ETHERTYPE_IPV6) => fit::<V6, P, T>(packet, tables, scratch),
        (WrapKind::Tunnel, _) => tunnel(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

/// Length of a link header with these tags.
#[inline(always)]
fn link_len([outer, inner]: [Tag; 2]) -> usize {
    let mut length = ETHERNET_LEN;
    if outer != Tag::NONE {
        length += VLAN_LEN;
    }
    if inner != Tag::NONE {
        length += VLAN_LEN;
    }
    length
}

/// Writes a link header of `length` bytes.
#[inline(always)]
fn write_link<P: Packet>(packet: &mut P, wrap: &Wrapping, length: usize, ether_type: u16) -> Option<()> {
    packet.write(0, [wrap.destination, wrap.source])?;
    let [outer, inner] = wrap.tags;
    if outer != Tag::NONE {
        packet.write(ETHERNET_LEN - 2, outer)?;
    }
    if inner != Tag::NONE {
        packet.write(ETHERNET_LEN - 2 + VLAN_LEN, inner)?;
    }
    packet.write(length - 2, ether_type)
}

/// Exchanges the link header.
#[inline(always)]
fn relink<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let (opening, wrap) = (&scratch.opening, &scratch.wrap);
    let length = packet.opaque(link_len(wrap.tags));
    let growth = (length as isize).wrapping_sub(opening.link.network as isize);
    let written = packet
        .move_head(growth)
        .and_then(|()| write_link(packet, wrap, length, opening.link.ether_type));
    match written {
        Some(()) => leave(settings, scratch),
        None => drop(DropReason::Resize),
    }
}

#[inline(always)]
fn leave(settings: &Settings, scratch: &Scratch) -> Step {
    Step::Done(Verdict::Forward(exit(
        settings,
        scratch.opening.ifindex,
        scratch.wrap.ifindex,
    )))
}

/// Length of the IP packet.
#[inline(always)]
fn packet_len<A>(link: &Link, network: &Network<A>) -> usize {
    network
        .transport
        .wrapping_sub(link.network)
        .wrapping_add(network.transport_len)
}

/// Finds out whether a packet fits that gets no outer header.
#[inline(always)]
fn fit<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let opening = scratch.opening;
    let draft = F::draft(scratch);
    let (network, core) = (&draft.subject.network, F::core(&draft.client));
    let Some(origin) = tables.origin(core.origin) else {
        return drop(DropReason::NoOriginRecord);
    };
    let to_client = Room::to_client(tables, core);
    let to_origin = Room::to_origin(tables, settings, opening.now, core, &origin);
    let room = if core.side == FlowSide::ORIGIN {
        to_client
    } else {
        to_origin
    };
    match room.fit::<F>(packet_len(&opening.link, network) as u32) {
        Fit::Whole | Fit::InPieces => {}
        too_long => return refuse(scratch, too_long),
    }
    // Packets that leave as they came take no part in this.
    if !origin.forwarding.is_direct() && mss::opens(packet, network).is_some() {
        let most = room::of_connection(to_origin, to_client, origin.forwarding);
        if mss::clamp::<F, P>(packet, settings, network, most).is_none() {
            return drop(DropReason::Malformed);
        }
    }
    scratch.wrap.fits = 1;
    Step::Go(Stage::Send)
}

/// Tells the sender of a packet that is too long, if there is something to tell.
///
/// IPv4 packets that could be fragmented (without DF) are answered as well: this node cannot fragment, and a sender that
/// learns the path's MTU does it itself (Linux believes the error whatever DF was; RFC 1191 would have it silently lost).
#[inline(always)]
fn refuse(scratch: &mut Scratch, fit: Fit) -> Step {
    match fit {
        Fit::TooLong { mtu } => {
            scratch.reply = Reply::TooBig;
            scratch.mtu = mtu;
            Step::Go(Stage::Reply)
        }
        Fit::Whole | Fit::InPieces | Fit::Never => drop(DropReason::TooBig),
    }
}

/// A packet that is put into a tunnel.
#[derive(Clone, Copy)]
struct Carried {
    origin: OriginId,
    /// What it is as payload.
    protocol: Protocol,
    class: u8,
    /// Its path carries less than every path has to: it may be fragmented on its way.
    pieces: bool,
    length: usize,
    /// Spreads flows over a receiver's queues.
    hash: u64,
    /// Sum of its words, where an outer checksum needs it; 0: not known.
    sum: u32,
}

/// Puts a packet into a tunnel.
#[inline(always)]
fn tunnel<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let carried = match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => carry::<V4, P, T>(packet, tables, settings, scratch),
        ETHERTYPE_IPV6 => carry::<V6, P, T>(packet, tables, settings, scratch),
        _ => Err(drop(DropReason::Internal)),
    };
    let carried = match carried {
        Ok(carried) => carried,
        Err(step) => return step,
    };
    let Some(origin) = tables.origin(carried.origin) else {
        return drop(DropReason::NoOriginRecord);
    };
    let link = &scratch.opening.link;
    if packet.trim(link.network + carried.length).is_none() {
        return drop(DropReason::Resize);
    }
    let wrapped = if origin.address.v4().is_some() {
        encapsulate::<V4, P, T>(packet, tables, settings, scratch, &origin, &carried)
    } else {
        encapsulate::<V6, P, T>(packet, tables, settings, scratch, &origin, &carried)
    };
    match wrapped {
        Ok(()) => {
            let sample = Sample {
                side: FlowSide::CLIENT,
                bytes: (link.network + carried.length) as u64,
            };
            tables.count_packet(scratch.note.application, carried.origin, sample);
            leave(settings, scratch)
        }
        Err(reason) => drop(reason),
    }
}

/// Looks at a packet that is to be put into a tunnel, and completes it.
#[inline(always)]
fn carry<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> Result<Carried, Step> {
    let Opening { link, now, .. } = scratch.opening;
    let draft = F::draft(scratch);
    let (network, core) = (&draft.subject.network, F::core(&draft.client));
    let id = core.origin;
    let Some(origin) = tables.origin(id) else {
        return Err(drop(DropReason::NoOriginRecord));
    };
    let length = packet_len(&link, network);
    let room = Room::to_origin(tables, settings, now, core, &origin);
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
    let sum = if origin.forwarding == Forwarding::DSR_GUE && origin.address.v4().is_none() {
        sum_of::<F, P>(packet, &link, network)
    } else {
        0
    };
    // What the client sent from and to: its later fragments do not say it.
    let leaving = F::leaving(&draft.client, network.protocol);
    let hash = hash::spread(
        leaving.source.into(),
        leaving.source_port,
        leaving.destination_port,
    );
    scratch.note.application = core.application;
    Ok(Carried {
        origin: id,
        protocol: F::IN_IP,
        class,
        pieces: fit == Fit::InPieces,
        length,
        hash,
        sum,
    })
}

/// The sum of an IP packet's words; 0 when it cannot be had.
///
/// A segment whose checksum is right sums to the complement of its pseudo-header, so its payload need not be touched. One
/// whose checksum is wrong gets an outer checksum that is wrong as well: it is lost either way.
#[inline(always)]
fn sum_of<F: Family, P: Packet>(packet: &P, link: &Link, network: &Network<F::Address>) -> u32 {
    let headers = network.transport.wrapping_sub(link.network);
    if !is_summed(packet, network) {
        return packet
            .sum(link.network, packet_len(link, network))
            .map_or(0, u32::from);
    }
    let length = (network.transport_len as u16).to_be();
    let protocol = u16::from_ne_bytes([0, network.protocol.0]);
    if F::HEADER_LEN == IPV6_LEN && headers == IPV6_LEN {
        // The header's addresses and those of the pseudo-header cancel out.
        return match packet.read::<[u32; 2]>(link.network) {
            Some([a, b]) => {
                let [a, b] = [a, b].map(checksum::words);
                a + b + u32::from(!length) + u32::from(!protocol)
            }
            None => 0,
        };
    }
    let addresses = checksum::fold(F::sum(network.source) + F::sum(network.destination));
    let segment = u32::from(!addresses) + u32::from(!length) + u32::from(!protocol);
    if F::HEADER_LEN != IPV6_LEN {
        // An IPv4 header whose checksum is right sums to nothing. The protocol's complement is not 0.
        return segment;
    }
    match packet.sum(link.network, headers) {
        Some(sum) => u32::from(sum) + segment,
        None => 0,
    }
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
    scratch: &Scratch,
    origin: &Origin,
    carried: &Carried,
) -> Result<(), DropReason> {
    let gue = origin.forwarding == Forwarding::DSR_GUE;
    let source = source::<O, T>(tables, settings, origin, carried.hash as u32);
    let (Some(source), Some(destination)) = (source, O::address(origin.address)) else {
        return Err(DropReason::NoSourceAddress);
    };
    let (protocol, payload) = if gue {
        (Protocol::UDP, carried.length + UDP_LEN)
    } else {
        (carried.protocol, carried.length)
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
        payload: payload as u16,
        class: carried.class,
        label: (carried.hash >> 44) as u32,
        identification,
    };
    let at = packet.opaque(link_len(scratch.wrap.tags));
    let growth = at + O::HEADER_LEN + payload - carried.length;
    packet
        .move_head((growth as isize).wrapping_sub(scratch.opening.link.network as isize))
        .and_then(|()| write_link(packet, &scratch.wrap, at, O::ETHER_TYPE))
        .and_then(|()| O::write_outer(packet, at, &outer))
        .and_then(|()| {
            if gue {
                write_udp::<O, P>(packet, at + O::HEADER_LEN, &outer, origin.gue_port, carried)
            } else {
                Some(())
            }
        })
        .ok_or(DropReason::Resize)
}

/// Writes the UDP header of GUE.
///
/// Its checksum is left out over IPv4, where it may be (RFC 768), and over IPv6 only where the packet's sum cannot be had
/// (RFC 6935).
#[inline(always)]
fn write_udp<O: Family, P: Packet>(
    packet: &mut P,
    at: usize,
    outer: &Outer<O::Address>,
    to: Port,
    carried: &Carried,
) -> Option<()> {
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
    packet.write(at, [from.0, to.0, length, field])
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
