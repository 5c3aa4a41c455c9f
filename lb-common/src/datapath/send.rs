//! Sending a packet on by its flow's entry.

use super::family::{Family, V4, V6};
use super::fragment::renumber;
use super::known::Context;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Network};
use super::scratch::{Scratch, WrapKind, Wrapping};
use super::tables::{Sample, Tables};
use super::track::TcpFlags;
use super::transport;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Stage, Step, drop, exit};
use crate::abi::{FlowCore, FlowSide, HopId, Mac, Tag};
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
    let mut wrap = scratch.wrap;
    let fits = wrap.fits != 0;
    let datagram = scratch.datagram;
    let draft = F::draft(scratch);
    let core = F::core(&draft.client);
    let Some(origin) = tables.origin(core.origin) else {
        return drop(DropReason::NoOriginRecord);
    };
    // Segments that open a connection say how long the others may be: that is made to fit as well.
    if draft.subject.segment.flags.has(TcpFlags::SYN) && !fits && !core.forwarding.is_direct() {
        scratch.wrap.kind = WrapKind::Fit;
        return Step::Go(Stage::Wrap);
    }
    let network = &draft.subject.network;
    if network.fragment != Fragment::Whole {
        let source = F::leaving(&draft.client, network.protocol).source;
        if renumber::<F, P>(packet, context.link.network, network, &datagram, source).is_none() {
            return drop(DropReason::Internal);
        }
    }
    let step = forward::<F, P, T>(
        packet,
        tables,
        &mut wrap,
        &context,
        network,
        &draft.client,
        origin.hop,
        fits,
    );
    scratch.wrap = wrap;
    if step == Step::Go(Stage::Reply) {
        scratch.reply = Reply::TimeExceeded;
    }
    step
}

/// Rewrites a packet by its flow's entry, whose origin is behind `hop`, and sends it on; when its head changes or it may be
/// too long, by way of [`Stage::Wrap`]; when its TTL has expired, to [`Stage::Reply`], which is to be told so. `fits`: it is
/// known not to be too long.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are in registers where it matters"
)]
pub(super) fn forward<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    wrap: &mut Wrapping,
    context: &Context,
    network: &Network<F::Address>,
    flow: &F::Flow,
    hop: HopId,
    fits: bool,
) -> Step {
    let core = F::core(flow);
    let direct = core.forwarding.is_direct();
    if network.ttl <= 1 && !direct {
        return Step::Go(Stage::Reply);
    }
    if core.forwarding.is_tunnel() {
        wrap.kind = WrapKind::Tunnel;
        return Step::Go(Stage::Wrap);
    }
    let Some(way) = way(tables, core, hop) else {
        return drop(DropReason::NoNextHop);
    };
    let end = network.transport.wrapping_add(network.transport_len);
    let length = end.wrapping_sub(context.link.network);
    if !fits && length > context.settings.smallest_mtu as usize {
        *wrap = way.wrapping(WrapKind::Fit);
        return Step::Go(Stage::Wrap);
    }
    let written = if direct {
        transport::complete::<F, P>(packet, context.settings, network)
    } else {
        let leaving = F::leaving(flow, network.protocol);
        transport::rewrite::<F, P>(packet, context.settings, network, core, &leaving).and_then(|()| {
            F::rewrite(
                packet,
                context.link.network,
                network.ttl,
                &leaving,
                core.header_delta,
            )
        })
    };
    if written.is_none() {
        return drop(DropReason::PartialChecksum);
    }
    let sample = Sample {
        side: core.side,
        bytes: end as u64,
    };
    tables.count_packet(core.application, core.origin, sample);
    depart(packet, wrap, context, &way)
}

/// How a frame leaves.
#[derive(Clone, Copy)]
pub(super) struct Way {
    destination: Mac,
    source: Mac,
    tags: [Tag; 2],
    ifindex: u32,
}

impl Way {
    /// What is told to [`Stage::Wrap`].
    #[inline(always)]
    pub fn wrapping(self, kind: WrapKind) -> Wrapping {
        Wrapping {
            destination: self.destination,
            source: self.source,
            tags: self.tags,
            ifindex: self.ifindex,
            kind,
            fits: 0,
        }
    }
}

/// How the packets of an entry leave, whose origin is behind `hop`; `None` while a neighbour is not resolved.
#[inline(always)]
pub(super) fn way<T: Tables>(tables: &T, core: &FlowCore, hop: HopId) -> Option<Way> {
    if core.side == FlowSide::ORIGIN {
        return Some(Way {
            destination: core.client_mac,
            source: core.node_mac,
            tags: core.client_tags,
            ifindex: core.client_ifindex,
        });
    }
    if hop == HopId::UNRESOLVED {
        return None;
    }
    let hop = tables.hop(hop)?;
    (hop.resolved != 0).then_some(Way {
        destination: hop.neighbour,
        source: hop.interface,
        tags: hop.tags,
        ifindex: hop.ifindex,
    })
}

/// Lets a rewritten packet go.
#[inline(always)]
pub(super) fn depart<P: Packet>(packet: &mut P, wrap: &mut Wrapping, context: &Context, way: &Way) -> Step {
    let ([outer, inner], [to_outer, to_inner]) = (context.link.tags, way.tags);
    if !outer.same_vlan(to_outer) || !inner.same_vlan(to_inner) {
        *wrap = way.wrapping(WrapKind::Relink);
        return Step::Go(Stage::Wrap);
    }
    match packet.write(0, [way.destination, way.source]) {
        Some(()) => Step::Done(Verdict::Forward(exit(
            context.settings,
            context.ifindex,
            way.ifindex,
        ))),
        None => drop(DropReason::Internal),
    }
}
