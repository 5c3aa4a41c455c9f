//! Packets that change their established flow: it is renewed, it closes or ends, or the node resets it. And SYNs on flows of
//! which that is not certain.

use super::abort::abort;
use super::ask::ask;
use super::family::{Family, V4, V6};
use super::flow::{self, Fate, Twin};
use super::known::Context;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP_LEN};
use super::scratch::{Draft, Errand, Note, Scratch, WrapKind};
use super::send::{depart, way};
use super::tables::{InsertError, Memory, Tables};
use super::track;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Stage, Step, drop};
use crate::abi::SettingsFlags;
use crate::packet::Packet;

/// Brings an established flow up to date with a packet that changes it. One that is closed leaves the memory of established
/// flows, one that is reset when its time has passed, and one that has ended is forgotten: the packet then belongs to no flow.
#[inline(always)]
pub fn retire<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => change::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => change::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn change<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let context = Context::of(settings, &scratch.opening);
    if scratch.errand == Errand::Ask {
        return Step::Go(ask::<F, T>(tables, scratch));
    }
    if scratch.errand == Errand::Follow {
        let step = follow::<F, T>(tables, &context, F::draft(scratch));
        if step == Some(Stage::Admit) {
            scratch.errand = Errand::Ask;
        }
        if settings.flags.has(SettingsFlags::TRACE) {
            scratch.note = Note::of(F::core(&F::draft(scratch).client));
        }
        if let Some(stage) = step {
            return Step::Go(stage);
        }
    }
    reset::<F, P, T>(packet, tables, scratch, &context)
}

/// The stage that goes on; `None` when the connection is to be reset.
#[inline(always)]
fn follow<F: Family, T: Tables>(
    tables: &T,
    context: &Context,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
) -> Option<Stage> {
    let arriving = draft.subject.arriving;
    let segment = draft.subject.segment;
    let fate = flow::follow::<F, T>(
        tables,
        Memory::Established,
        context,
        &segment,
        &arriving,
        &mut draft.client,
    );
    let mut alive = match fate {
        // Another CPU has just taken it from here.
        None => return Some(Stage::Known),
        Some(Fate::End | Fate::Retry | Fate::Refuse) => false,
        Some(Fate::Keep | Fate::Renew | Fate::Revise) => true,
        Some(Fate::Ask) => return Some(Stage::Admit),
        Some(Fate::Reset) => {
            let core = F::core_mut(&mut draft.client);
            flow::end(core, context.now);
            true
        }
    };
    if alive
        && let Some(fate) = fate
        && fate != Fate::Keep
    {
        let twin = flow::renew_twin::<F, T>(
            tables,
            Memory::Established,
            context.now,
            fate,
            &arriving,
            &draft.client,
        );
        alive = twin == Twin::Ours;
    }
    if !alive {
        // Either it has ended, or its answers would go to another client by now.
        flow::forget::<F, T>(tables, Memory::Established, &arriving, &draft.client);
        return Some(Stage::Known);
    }
    if !track::stays(F::core(&draft.client), arriving.protocol) {
        demote::<F, T>(tables, draft);
    }
    (fate != Some(Fate::Reset)).then_some(Stage::Send)
}

/// Takes the draft's flow out of the memory of established flows: it no longer counts, and may be evicted. Both directions
/// are there before one leaves here, so that packets of other CPUs find them all the time.
#[inline(always)]
fn demote<F: Family, T: Tables>(tables: &T, draft: &mut Draft<F::Address, F::Key, F::Flow>) {
    let arriving = draft.subject.arriving;
    let twin = !F::core(&draft.client).forwarding.is_direct();
    draft.client_key = F::key(&arriving);
    replace::<F, T>(tables, &draft.client_key, &draft.client);
    if twin {
        draft.origin_key = flow::twin_key::<F>(&arriving, &draft.client);
        draft.origin = flow::twin::<F>(&arriving, &draft.client);
        replace::<F, T>(tables, &draft.origin_key, &draft.origin);
    }
    flow::forget::<F, T>(tables, Memory::Established, &arriving, &draft.client);
}

/// Writes an entry of the tentative memory, whatever stood there.
#[inline(always)]
fn replace<F: Family, T: Tables>(tables: &T, key: &F::Key, flow: &F::Flow) {
    if F::insert(tables, Memory::Tentative, key, flow) == Err(InsertError::Exists) {
        F::remove(tables, Memory::Tentative, key);
        // Without room the rest of the connection is of no known flow.
        let _full = F::insert(tables, Memory::Tentative, key, flow);
    }
}

/// Turns the packet into the reset of its connection, and sends that on.
#[inline(always)]
fn reset<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
) -> Step {
    let mut wrap = scratch.wrap;
    let draft = F::draft(scratch);
    let core = F::core(&draft.client);
    let Some(origin) = tables.origin(core.origin) else {
        return drop(DropReason::NoOriginRecord);
    };
    let Some(way) = way(tables, core, origin.hop) else {
        return drop(DropReason::NoNextHop);
    };
    let leaving = F::leaving(&draft.client, draft.subject.arriving.protocol);
    let Some(transport) = abort::<F, P>(packet, &context.link, &draft.subject.network, &leaving) else {
        return drop(DropReason::Resize);
    };
    draft.subject.network.transport = transport;
    draft.subject.network.transport_len = TCP_LEN;
    draft.subject.segment.header_len = TCP_LEN;
    let step = if core.forwarding.is_tunnel() {
        wrap.kind = WrapKind::Tunnel;
        Step::Go(Stage::Wrap)
    } else {
        depart(packet, &mut wrap, context, &way)
    };
    scratch.wrap = wrap;
    match step {
        Step::Done(Verdict::Forward(exit)) => Step::Done(Verdict::Reply(Reply::ResetEnded, exit)),
        Step::Go(stage) => {
            tables.count(Reply::ResetEnded.row());
            Step::Go(stage)
        }
        Step::Done(verdict) => Step::Done(verdict),
    }
}
