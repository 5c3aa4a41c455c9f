//! Heads of frames that change: outer headers of tunnels ([`super::encapsulate`]), VLAN tags. And packets that may not fit.

use super::encapsulate::tunnel;
use super::family::{Family, V4, V6};
use super::mss;
use super::parse::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, Network, VLAN_LEN};
use super::room::{self, Fit, Room};
use super::scratch::{Scratch, WrapKind};
use super::tables::Tables;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Stage, Step, drop, exit};
use crate::abi::{FlowSide, Mac, Tag};
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
pub(super) fn link_len([outer, inner]: [Tag; 2]) -> usize {
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
pub(super) fn write_link<P: Packet>(
    packet: &mut P,
    addresses: [Mac; 2],
    [outer, inner]: [Tag; 2],
    length: usize,
    ether_type: u16,
) -> Option<()> {
    packet.write(0, addresses)?;
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
    let written = packet.move_head(growth).and_then(|()| {
        let addresses = [wrap.destination, wrap.source];
        write_link(packet, addresses, wrap.tags, length, opening.link.ether_type)
    });
    match written {
        Some(()) => Step::Done(Verdict::Forward(exit(settings, opening.ifindex, wrap.ifindex))),
        None => drop(DropReason::Resize),
    }
}

/// Length of the IP packet.
#[inline(always)]
pub(super) fn packet_len<A>(link: &Link, network: &Network<A>) -> usize {
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
    let mtu = tables.hop(origin.hop).map_or(0, |hop| hop.mtu);
    let to_origin = Room::to_origin(tables, settings, opening.now, core.origin, &origin, mtu);
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
pub(super) fn refuse(scratch: &mut Scratch, fit: Fit) -> Step {
    match fit {
        Fit::TooLong { mtu } => {
            scratch.reply = Reply::TooBig;
            scratch.mtu = mtu;
            Step::Go(Stage::Reply)
        }
        Fit::Whole | Fit::InPieces | Fit::Never => drop(DropReason::TooBig),
    }
}
