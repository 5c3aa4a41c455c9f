//! What happens to a packet, in one screen: [`process`].
//!
//! ```text
//! known ──hit──▶ follow ──────────────────────────────────▶ rewrite or encapsulate ─▶ forward
//!   │miss                                                                ▲
//!   └▶ young ──hit──▶ follow, promote ────────────────────────────────▶ send ─▶ wrap: length, MSS, tunnel, VLAN
//!        │miss                                                           ▲
//!        └▶ admit: port range, access, rates ─▶ select: pool, slot, origin ─▶ connect: remember
//!             │                                    │nobody
//!             └────────────────────────────────────┴▶ reply: reset, unreachable
//! ```
//!
//! A SYN of an application with access lists goes to admit before young, and back when they let it in. One whose flow cannot be
//! established, as a filter says, is not looked for there; nor in young, where an attempt to open one costs its client nothing:
//! when connect finds that there is a flow, it goes back.
//!
//! Each stage is a program of its own in the kernel, and they call each other by tail calls: the usual packet's program
//! stays small, and each has a stack of its own. What one stage has to tell another stands in [`Scratch`].
//!
//! The same code runs in the kernel and on the host, so it keeps the verifier's rules:
//!
//! 1. Values and offsets only; bounds are proven where bytes are touched, behind [`Packet`].
//! 2. All that is generic over [`Packet`] or [`Tables`] is `#[inline(always)]`: an out-of-line function would get the
//!    packet's end as an argument, which the verifier refuses.
//! 3. What is large lives in [`Scratch`]; the kernel's stack has 512 bytes.
//! 4. Nothing can panic: no indexing by a variable, no division by one, no `unwrap`, loops with constant bounds.
//! 5. Map memory may hold any byte: no Rust `enum` or `bool` in it.
//! 6. Time is an argument, in jiffies.

mod abort;
mod access;
mod admit;
mod affinity;
mod ask;
mod bucket;
pub mod checksum;
mod connect;
mod encapsulate;
pub mod family;
mod flow;
mod flow_filter;
mod fragment;
mod icmp;
mod known;
pub mod mss;
pub mod parse;
pub mod rate;
mod reply;
mod retire;
mod room;
mod scratch;
pub mod select;
mod send;
mod span;
mod stage;
mod tables;
pub mod track;
mod transport;
mod tuple;
mod verdict;
mod wrap;
mod young;

pub use admit::admit;
pub use connect::connect;
pub use fragment::{LIFETIME as FRAGMENT_LIFETIME, fragment};
pub use icmp::icmp;
pub use known::{known, traced};
pub use reply::reply;
pub use retire::retire;
pub use scratch::{Note, Outcome, Scratch, WrapKind, Wrapping};
pub use select::select;
pub use send::send;
pub use stage::Stage;
pub use tables::{InsertError, Memory, Sample, Tables};
pub use verdict::{DropReason, Exit, Hold, Notice, Pass, Reply, Verdict};
pub use wrap::wrap;
pub use young::young;

use crate::abi::{Settings, SettingsFlags};
use crate::packet::Packet;

/// How and when a packet came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrival {
    /// Index of the interface.
    pub ifindex: u32,
    /// Jiffies, low 32 bits.
    pub now: u32,
}

/// What a stage leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    Done(Verdict),
    /// Another stage goes on.
    Go(Stage),
}

/// Stages that one packet may go through: no packet needs more, and the kernel allows no more than 33.
const MAX_STAGES: u32 = 16;

/// Decides what happens to a packet, does it, and counts it.
pub fn process<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    arrival: Arrival,
) -> Verdict {
    let mut step = known(packet, tables, scratch, arrival);
    let mut stages = 0;
    let verdict = loop {
        step = match step {
            Step::Done(verdict) => break verdict,
            Step::Go(_) if stages == MAX_STAGES => break Verdict::Drop(DropReason::Internal),
            Step::Go(Stage::Known) => known(packet, tables, scratch, arrival),
            Step::Go(Stage::Young) => young(packet, tables, scratch),
            Step::Go(Stage::Admit) => admit(packet, tables, scratch),
            Step::Go(Stage::Select) => select(packet, tables, scratch),
            Step::Go(Stage::Connect) => connect(packet, tables, scratch),
            Step::Go(Stage::Send) => send(packet, tables, scratch),
            Step::Go(Stage::Retire) => retire(packet, tables, scratch),
            Step::Go(Stage::Wrap) => wrap(packet, tables, scratch),
            Step::Go(Stage::Icmp) => icmp(packet, tables, scratch),
            Step::Go(Stage::Fragment) => fragment(packet, tables, scratch),
            Step::Go(Stage::Reply) => reply(packet, tables, scratch),
            // Nobody looks here.
            Step::Go(Stage::Tap) => Step::Go(Stage::Traced),
            Step::Go(Stage::Traced) => traced(packet, tables, scratch, arrival),
        };
        stages += 1;
    };
    count(tables, verdict);
    verdict
}

/// Counts a verdict.
#[inline(always)]
pub fn count<T: Tables>(tables: &T, verdict: Verdict) {
    if let Some(row) = verdict.row() {
        tables.count(row);
    }
}

#[inline(always)]
fn pass(reason: Pass) -> Step {
    Step::Done(Verdict::Pass(reason))
}

#[inline(always)]
fn drop(reason: DropReason) -> Step {
    Step::Done(Verdict::Drop(reason))
}

/// How a frame that came in by interface `from` leaves through interface `to`.
#[inline(always)]
pub(crate) fn exit(settings: &Settings, from: u32, to: u32) -> Exit {
    if to == from && !settings.flags.has(SettingsFlags::NO_XDP_TX) {
        Exit::Transmit
    } else {
        Exit::Redirect { ifindex: to }
    }
}
