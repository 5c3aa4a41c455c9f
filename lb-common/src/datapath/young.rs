//! Packets of flows that are not established, or not any more, and those of no flow.

use super::family::{Family, V4, V6};
use super::flow::{self, Fate, Twin};
use super::known::Context;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::{Draft, Errand, Note, Scratch};
use super::tables::{InsertError, Memory, Tables};
use super::track;
use super::verdict::{DropReason, Notice, Pass, Reply};
use super::{Stage, Step, drop, pass};
use crate::abi::{OriginId, Protocol, Settings, SettingsFlags};
use crate::packet::Packet;

/// Follows a flow that has not proven itself, or is closing; without one, the packet may open one.
#[inline(always)]
pub fn young<P: Packet, T: Tables>(_packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => find::<V4, T>(tables, scratch),
        ETHERTYPE_IPV6 => find::<V6, T>(tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn find<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let context = Context::of(settings, &scratch.opening);
    let draft = F::draft(scratch);
    let arriving = draft.subject.arriving;
    let segment = draft.subject.segment;
    let Some(fate) = flow::follow::<F, T>(
        tables,
        Memory::Tentative,
        &context,
        &segment,
        &arriving,
        &mut draft.client,
    ) else {
        return open::<F>(settings, scratch);
    };
    let core = *F::core(&draft.client);
    let mut alive = match fate {
        Fate::Keep | Fate::Renew | Fate::Revise | Fate::Refuse => true,
        Fate::Ask => {
            scratch.errand = Errand::Ask;
            return open::<F>(settings, scratch);
        }
        Fate::End | Fate::Retry => false,
        Fate::Reset => {
            end::<F, T>(tables, draft, context.now);
            true
        }
    };
    let renewed = fate == Fate::Renew || fate == Fate::Revise;
    if renewed || fate == Fate::Reset {
        let twin = flow::renew_twin::<F, T>(
            tables,
            Memory::Tentative,
            context.now,
            fate,
            &arriving,
            &draft.client,
        );
        alive = twin == Twin::Ours;
    }
    if alive && renewed && track::proven(&core, arriving.protocol) {
        alive = promote::<F, T>(tables, settings, draft) == Twin::Ours;
    }
    if !alive {
        // Either it has ended, or its answers would go to another client by now.
        flow::forget::<F, T>(tables, Memory::Tentative, &arriving, &draft.client);
        if fate == Fate::Retry {
            scratch.avoid = core.origin;
            scratch.retries = u32::from(core.retries).wrapping_add(1);
        }
        return open::<F>(settings, scratch);
    }
    if settings.flags.has(SettingsFlags::TRACE) {
        scratch.note = Note::of(&core);
    }
    match fate {
        Fate::Refuse => {
            scratch.reply = Reply::ResetEnded;
            Step::Go(Stage::Reply)
        }
        Fate::Reset => {
            scratch.errand = Errand::Reset;
            Step::Go(Stage::Retire)
        }
        _ => Step::Go(Stage::Send),
    }
}

/// The packet belongs to no flow, or to none any more.
#[inline(always)]
fn open<F: Family>(settings: &Settings, scratch: &mut Scratch) -> Step {
    let served = scratch.opening.served != 0;
    let subject = &F::draft(scratch).subject;
    let tcp = subject.arriving.protocol == Protocol::TCP && !subject.segment.flags.opens();
    // The kernel would refuse what an origin answers to a flow that has not been taken over yet.
    if settings.flags.has(SettingsFlags::MIGRATING)
        && !served
        && tcp
        && settings.snat_ports.holds(subject.arriving.destination_port)
    {
        drop(DropReason::Migrating)
    } else if served || settings.flags.has(SettingsFlags::RANGES) {
        Step::Go(Stage::Admit)
    } else {
        pass(Pass::NotOurs)
    }
}

/// Marks the draft's entry as of a connection that the node has reset.
#[inline(always)]
fn end<F: Family, T: Tables>(tables: &T, draft: &mut Draft<F::Address, F::Key, F::Flow>, now: u32) {
    flow::end(F::core_mut(&mut draft.client), now);
    // Evicted meanwhile: the reset is on its way all the same.
    let _gone = F::visit(
        tables,
        Memory::Tentative,
        &F::key(&draft.subject.arriving),
        |flow| flow::end(F::core_mut(flow), now),
    );
}

/// Takes the draft's flow over into the memory of established flows, where nothing evicts it. Both directions are there
/// before one leaves here, so that packets of other CPUs find them all the time. Without room the flow stays where it is.
///
/// Whose answers do not come by here cannot prove himself: two forged segments look like a handshake. So such flows get no
/// more than their share, and no flood of them keeps out those that can. Beyond it they may be evicted, but are found again
/// by their hash.
#[inline(always)]
fn promote<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
) -> Twin {
    let arriving = draft.subject.arriving;
    let core = *F::core(&draft.client);
    let direct = core.forwarding.is_direct();
    let most = settings.max_direct;
    if direct && most != 0 && tables.established(OriginId::DIRECT) >= most {
        tables.count(Notice::FlowTableFull.row());
        return Twin::Ours;
    }
    draft.client_key = F::key(&arriving);
    draft.origin_key = flow::twin_key::<F>(&arriving, &draft.client);
    draft.origin = flow::twin::<F>(&arriving, &draft.client);
    if !direct {
        match flow::enter::<F, T>(tables, Memory::Established, &draft.origin_key, &draft.origin) {
            Ok(()) => {}
            Err(InsertError::Full) => {
                tables.count(Notice::FlowTableFull.row());
                return Twin::Ours;
            }
            Err(InsertError::Exists) => {
                if !flow::owns_twin::<F, T>(tables, Memory::Established, &arriving, &draft.client) {
                    return Twin::Taken;
                }
            }
        }
    }
    let side = F::core(&draft.origin).side;
    if flow::enter::<F, T>(tables, Memory::Established, &draft.client_key, &draft.client)
        == Err(InsertError::Full)
    {
        if !direct {
            flow::leave::<F, T>(tables, Memory::Established, &draft.origin_key, side, &core);
        }
        tables.count(Notice::FlowTableFull.row());
        return Twin::Ours;
    }
    flow::leave::<F, T>(tables, Memory::Tentative, &draft.client_key, core.side, &core);
    if !direct {
        flow::leave::<F, T>(tables, Memory::Tentative, &draft.origin_key, side, &core);
    }
    Twin::Ours
}
