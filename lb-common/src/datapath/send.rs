//! Sending a packet on by its flow's entry.

use super::family::{Family, V4, V6};
use super::fragment::renumber;
use super::known::Context;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Network};
use super::scratch::Scratch;
use super::tables::{Sample, Tables};
use super::transport;
use super::verdict::{DropReason, Verdict};
use super::{Step, drop, exit};
use crate::abi::{FlowSide, HopId};
use crate::packet::Packet;

/// Sends the scratch's packet by the entry in its draft.
#[inline(always)]
pub fn send<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => by_draft::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => by_draft::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn by_draft<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let context = Context::of(settings, &scratch.opening);
    let datagram = scratch.datagram;
    let draft = F::draft(scratch);
    let network = &draft.subject.network;
    if network.fragment != Fragment::Whole {
        let source = F::leaving(&draft.client, network.protocol).source;
        if renumber::<F, P>(packet, context.link.network, network, &datagram, source).is_none() {
            return drop(DropReason::Internal);
        }
    }
    Step::Done(forward::<F, P, T>(
        packet,
        tables,
        &context,
        &draft.subject.network,
        &draft.client,
    ))
}

/// Rewrites a packet by its flow's entry and sends it on.
#[inline(always)]
pub(super) fn forward<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    context: &Context,
    network: &Network<F::Address>,
    flow: &F::Flow,
) -> Verdict {
    let core = F::core(flow);
    if network.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let (destination, source, ifindex) = if core.side == FlowSide::ORIGIN {
        (core.client_mac, core.node_mac, core.client_ifindex)
    } else {
        let Some(origin) = tables.origin(core.origin) else {
            return Verdict::Drop(DropReason::NoOriginRecord);
        };
        let hop = if origin.hop == HopId::UNRESOLVED {
            None
        } else {
            tables.hop(origin.hop)
        };
        match hop {
            Some(hop) if hop.resolved != 0 => (hop.neighbour, hop.interface, hop.ifindex),
            Some(_) | None => return Verdict::Drop(DropReason::NoNextHop),
        }
    };
    let leaving = F::leaving(flow, network.protocol);
    let written = transport::rewrite::<F, P>(packet, context.settings, network, core, &leaving)
        .and_then(|()| {
            F::rewrite(
                packet,
                context.link.network,
                network.ttl,
                &leaving,
                core.header_delta,
            )
        })
        .and_then(|()| packet.write(0, [destination, source]));
    if written.is_none() {
        return Verdict::Drop(DropReason::PartialChecksum);
    }
    let bytes = (network.transport + network.transport_len) as u64;
    tables.count_packet(
        core.application,
        core.origin,
        Sample {
            side: core.side,
            bytes,
        },
    );
    Verdict::Forward(exit(context.settings, context.ifindex, ifindex))
}
