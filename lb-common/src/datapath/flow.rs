//! Known flows: finding them, keeping both directions' entries in step, and letting them go.

use super::family::{Family, Tuple};
use super::known::Context;
use super::parse::Link;
use super::select::Role;
use super::tables::{Memory, Tables};
use super::track::{self, Age};
use super::transport::Segment;
use crate::abi::{FlowCore, FlowSide, Protocol, TcpState, Timeouts};

/// What a packet does to the entry of its flow.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    /// Nothing that the other direction's entry would have to know.
    Keep,
    /// The entry changed, and its twin must.
    Renew,
    /// The flow has ended.
    End,
}

/// Brings an entry up to date with a packet of its direction.
#[inline(always)]
pub fn renew(context: &Context, timeouts: &Timeouts, segment: &Segment, core: &mut FlowCore) -> Fate {
    let age = track::age(timeouts, segment.protocol, core, context.now);
    let from_client = core.side == FlowSide::CLIENT;
    // A SYN on a closing flow is a new connection that reuses the ports (RFC 9293 section 3.6.1).
    if age == Age::Expired || (from_client && core.tcp.closing() && segment.flags.opens()) {
        return Fate::End;
    }
    let mut fate = if age == Age::Aged { Fate::Renew } else { Fate::Keep };
    if segment.protocol == Protocol::TCP {
        let next = track::step(core.tcp, segment.flags, core.side);
        if next != core.tcp {
            core.tcp = next;
            fate = Fate::Renew;
        }
    }
    if from_client && !came_by(core, &context.link, context.ifindex) {
        learn(core, &context.link, context.ifindex);
        fate = Fate::Renew;
    }
    if fate == Fate::Renew {
        core.seen = context.now;
    }
    fate
}

#[inline(always)]
fn came_by(core: &FlowCore, link: &Link, ifindex: u32) -> bool {
    core.client_mac == link.source
        && core.node_mac == link.destination
        && core.client_ifindex == ifindex
        && core.client_tags == link.tags
}

/// Remembers the way back to the client: where its packet came from.
#[inline(always)]
pub fn learn(core: &mut FlowCore, link: &Link, ifindex: u32) {
    core.client_mac = link.source;
    core.node_mac = link.destination;
    core.client_ifindex = ifindex;
    core.client_tags = link.tags;
}

/// Copies the entry of a tuple, when there is one that is alive, without a sign of life to the flow: for packets that a
/// stranger may have sent.
#[inline(always)]
pub fn peek<F: Family, T: Tables>(
    tables: &T,
    now: u32,
    arriving: &Tuple<F::Address>,
    into: &mut F::Flow,
) -> bool {
    let key = F::key(arriving);
    let mut alive = |memory| {
        F::visit(tables, memory, &key, |flow| {
            *into = *flow;
            let core = F::core(flow);
            let timeouts = tables.timeouts(core.application).unwrap_or_default();
            track::age(&timeouts, arriving.protocol, core, now) != Age::Expired
        })
    };
    alive(Memory::Established) == Some(true) || alive(Memory::Tentative) == Some(true)
}

/// Whose the other direction's tuple is.
#[derive(Clone, Copy, PartialEq)]
pub enum Twin {
    Ours,
    /// Another flow owns the other direction's tuple by now.
    Taken,
}

/// Brings the other direction's entry to the state of this one; makes it anew when it was evicted.
#[inline(always)]
pub fn renew_twin<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    now: u32,
    arriving: &Tuple<F::Address>,
    flow: &F::Flow,
) -> Twin {
    let key = F::key(&F::leaving(flow, arriving.protocol).reversed());
    let back = arriving.reversed();
    let core = F::core(flow);
    let seen = F::visit(tables, memory, &key, |twin| {
        if F::leaving(twin, arriving.protocol) != back {
            return Twin::Taken;
        }
        let twin = F::core_mut(twin);
        twin.seen = now;
        twin.tcp = TcpState(twin.tcp.0 | core.tcp.0);
        twin.client_mac = core.client_mac;
        twin.node_mac = core.node_mac;
        twin.client_ifindex = core.client_ifindex;
        twin.client_tags = core.client_tags;
        Twin::Ours
    });
    match seen {
        Some(twin) => twin,
        None => match F::insert(tables, memory, &key, &F::flow(mirror(core, &back), &back)) {
            Ok(()) => Twin::Ours,
            Err(_) => Twin::Taken,
        },
    }
}

/// The shared part of the other direction's entry, whose packets leave with `leaving`. What one direction adds to a
/// checksum the other takes away, and the complement is the negative (RFC 1071).
#[inline(always)]
pub fn mirror<A>(core: &FlowCore, leaving: &Tuple<A>) -> FlowCore {
    FlowCore {
        source_port: leaving.source_port,
        destination_port: leaving.destination_port,
        header_delta: !core.header_delta,
        payload_delta: !core.payload_delta,
        side: if core.side == FlowSide::CLIENT {
            FlowSide::ORIGIN
        } else {
            FlowSide::CLIENT
        },
        ..*core
    }
}

/// Whether a flow must be let go because its origin no longer serves: where there is no connection to break. UDP follows
/// its origin's health at once, and so does a repeated SYN that nobody has answered; TCP connections stay.
#[inline(always)]
pub fn released<T: Tables>(tables: &T, segment: &Segment, core: &FlowCore) -> bool {
    let unanswered = segment.flags.opens() && core.tcp == TcpState::NEW;
    let bound = segment.protocol == Protocol::TCP && !unanswered;
    if bound || core.side != FlowSide::CLIENT {
        return false;
    }
    let role = if core.last_resort == 0 {
        Role::Steered
    } else {
        Role::LastResort
    };
    match tables.origin(core.origin) {
        Some(origin) => !role.accepts(origin.state),
        None => true,
    }
}

/// Removes both directions of a flow.
#[inline(always)]
pub fn forget<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    arriving: &Tuple<F::Address>,
    flow: &F::Flow,
) {
    let twin = F::key(&F::leaving(flow, arriving.protocol).reversed());
    let back = arriving.reversed();
    if F::visit(tables, memory, &twin, |twin| {
        F::leaving(twin, arriving.protocol) == back
    }) == Some(true)
    {
        F::remove(tables, memory, &twin);
    }
    F::remove(tables, memory, &F::key(arriving));
}
