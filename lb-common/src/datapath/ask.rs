//! SYNs on flows that are said to be over, but of which only their origin knows; see [`super::track::in_doubt`]. Such a SYN was
//! admitted as one that opens a flow, and goes to the flow's origin.

use super::Stage;
use super::family::Family;
use super::flow;
use super::scratch::{Errand, Scratch};
use super::tables::{Memory, Tables};
use crate::abi::{FlowCore, OriginId, TcpState};

/// What asking comes to.
#[derive(Clone, Copy, PartialEq)]
enum Question {
    /// The SYN opens a connection, or shows that there is one.
    First,
    /// It repeats another.
    Repeated,
    /// The origin has had its time to answer others.
    InVain,
}

/// Sends the draft's SYN to its flow's origin; when that does not answer, or there is no such flow any more, another is
/// opened in its place.
#[inline(always)]
pub fn ask<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Stage {
    let Some(settings) = tables.settings() else {
        return Stage::Known;
    };
    let now = scratch.opening.now;
    let patience = settings.second >> 1;
    let draft = F::draft(scratch);
    let arriving = draft.subject.arriving;
    let key = F::key(&arriving);
    let client = &mut draft.client;
    let mut pose = |memory| {
        F::visit(tables, memory, &key, |flow| {
            let question = count(F::core_mut(flow), now, patience);
            *client = *flow;
            question
        })
    };
    let mut place = Memory::Established;
    let mut question = pose(place);
    if question.is_none() {
        place = place.other();
        question = pose(place);
    }
    let core = *F::core(&draft.client);
    match question {
        Some(Question::First) => {
            tables.count_flow(core.application, core.origin);
            return Stage::Send;
        }
        Some(Question::Repeated) => return Stage::Send,
        Some(Question::InVain) => {
            flow::forget::<F, T>(tables, place, &arriving, &draft.client);
            scratch.avoid = core.origin;
        }
        None => scratch.avoid = OriginId::NONE,
    }
    scratch.errand = Errand::Follow;
    // It has been charged.
    scratch.retries = 1;
    Stage::Admit
}

/// Counts a SYN. A connection that is alive answers one in half a second, unless it has just answered something else (Linux
/// does so no more than twice a second, `tcp_invalid_ratelimit`): so two are to stay without an answer, and without any
/// other sign of the origin, half a second apart, before a third is taken at its word.
#[inline(always)]
fn count(core: &mut FlowCore, now: u32, patience: u32) -> Question {
    if !core.tcp.closing() {
        // It was heard meanwhile.
        return Question::Repeated;
    }
    let waited = now.wrapping_sub(core.opened);
    let asked = core.asked;
    // Another CPU may be a jiffy ahead.
    let late = waited > patience && waited <= u32::MAX / 2;
    if asked != 0 && (!late || core.forwarding.is_direct()) {
        return Question::Repeated;
    }
    if asked >= 2 {
        // Whether it has been heard since it was last asked is not known.
        return if core.tcp.has(TcpState::ORIGIN_GOES_ON) {
            Question::Repeated
        } else {
            Question::InVain
        };
    }
    core.asked = asked.wrapping_add(1);
    core.opened = now;
    if asked == 0 {
        Question::First
    } else {
        Question::Repeated
    }
}
