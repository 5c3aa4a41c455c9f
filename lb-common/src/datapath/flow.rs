//! Known flows: finding them, keeping both directions' entries in step, and letting them go.

use super::family::{Family, Tuple};
use super::flow_filter;
use super::known::Context;
use super::parse::Link;
use super::select::Role;
use super::tables::{InsertError, Memory, Tables};
use super::track::{self, Age, TcpFlags};
use super::transport::Segment;
use crate::abi::{
    FlowCore, FlowSide, Origin, OriginFlags, OriginId, OriginState, Protocol, TcpState, Timeouts,
};

/// What a packet does to the entry of its flow.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    /// Nothing that the other direction's entry would have to know.
    Keep,
    /// The entry changed, and its twin must.
    Renew,
    /// The same, and what was believed of the connection is not true any more.
    Revise,
    /// The client opens a connection on a flow that is said to be over: its origin is to be asked.
    Ask,
    /// The flow has ended, or its origin serves it no longer.
    End,
    /// The client repeats the SYN that the origin does not answer: another one is to be tried.
    Retry,
    /// The node has reset the connection, and this side has not heard it yet.
    Refuse,
    /// The node resets the connection now.
    Reset,
}

/// Brings the entry of a flow up to date with a packet of its direction, and copies it; `None` when there is none.
#[inline(always)]
pub fn follow<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    context: &Context,
    segment: &Segment,
    arriving: &Tuple<F::Address>,
    entry: &mut F::Flow,
) -> Option<Fate> {
    let fate = F::visit(tables, memory, &F::key(arriving), |flow| {
        let core = F::core_mut(flow);
        // A row that is missing makes the flow time out.
        let timeouts = tables.timeouts(core.application).unwrap_or_default();
        let fate = renew(context, &timeouts, segment, core);
        *entry = *flow;
        fate
    })?;
    if fate != Fate::Keep && fate != Fate::Renew && fate != Fate::Revise && fate != Fate::Ask {
        return Some(fate);
    }
    let core = F::core(entry);
    // An origin without a record serves nobody.
    let origin = tables.origin(core.origin).unwrap_or_default();
    if fate == Fate::Ask {
        return Some(if can_tell(&origin, core) { fate } else { Fate::End });
    }
    // It has answered a SYN of a flow that it was given while it served.
    if fate == Fate::Revise && segment.flags.has(TcpFlags::SYN) && !role(core).accepts(origin.state) {
        return Some(Fate::End);
    }
    Some(match standing(&origin, segment, core) {
        Standing::Serves => fate,
        Standing::Released => Fate::End,
        Standing::Reset => Fate::Reset,
    })
}

/// Whether a packet changes nothing of its established flow's entry: the usual one. Some that change nothing are not found
/// out here, for the sake of those that are.
#[inline(always)]
pub fn settled(context: &Context, timeouts: &Timeouts, segment: &Segment, core: &FlowCore) -> bool {
    let timeout = if segment.protocol == Protocol::TCP {
        timeouts.tcp
    } else {
        timeouts.udp
    };
    // Negative when another CPU stamped the entry after this one read its clock.
    let idle = context.now.wrapping_sub(core.seen) as i32;
    let fresh = idle <= (timeout >> 3) as i32;
    let goes_on = segment.flags.0 & (TcpFlags::FIN | TcpFlags::RST) == 0;
    // Neither reset nor closed by both sides.
    let ends = TcpState::CLIENT_FIN | TcpState::ORIGIN_FIN;
    let open = core.tcp.0 & (ends | TcpState::RESET | TcpState::ENDED) < ends;
    fresh & goes_on & open && (core.side != FlowSide::CLIENT || came_by(core, &context.link, context.ifindex))
}

/// Brings an entry up to date with a packet of its direction.
#[inline(always)]
fn renew(context: &Context, timeouts: &Timeouts, segment: &Segment, core: &mut FlowCore) -> Fate {
    let age = track::age(timeouts, segment.protocol, core, context.now);
    let from_client = core.side == FlowSide::CLIENT;
    let opens = from_client && segment.flags.opens();
    if age == Age::Expired {
        return Fate::End;
    }
    if opens && core.tcp.closing() {
        return if track::in_doubt(core) {
            Fate::Ask
        } else {
            Fate::End
        };
    }
    if core.tcp.has(TcpState::ENDED) {
        return Fate::Refuse;
    }
    if opens && unanswered(context, core) {
        return Fate::Retry;
    }
    let mut fate = if age == Age::Aged { Fate::Renew } else { Fate::Keep };
    let came_by = !from_client || came_by(core, &context.link, context.ifindex);
    if !came_by {
        learn(core, &context.link, context.ifindex);
        fate = Fate::Renew;
    }
    let next = track::step(core, segment);
    if next != core.tcp {
        let lost = core.tcp.0 & !next.0;
        fate = if lost == 0 { Fate::Renew } else { Fate::Revise };
        core.tcp = next;
        core.asked = 0;
    }
    if fate != Fate::Keep {
        core.seen = context.now;
    }
    fate
}

/// Whether the origin has had half a second to answer the SYN, and has not. Clients repeat it after one (RFC 6298).
/// Answers that do not come by here may well have been given.
#[inline(always)]
fn unanswered(context: &Context, core: &FlowCore) -> bool {
    let waited = context.now.wrapping_sub(core.opened);
    core.tcp == TcpState::NEW
        && !core.forwarding.is_direct()
        && waited > context.settings.second >> 1
        // Another CPU may have opened it a jiffy after this one read its clock.
        && waited <= u32::MAX / 2
}

#[inline(always)]
fn came_by(core: &FlowCore, link: &Link, ifindex: u32) -> bool {
    let ([outer, inner], [was_outer, was_inner]) = (link.tags, core.client_tags);
    // Not one after the other: each branch would double the paths that the verifier walks.
    (core.client_mac == link.source)
        & (core.node_mac == link.destination)
        & (core.client_ifindex == ifindex)
        & outer.same_vlan(was_outer)
        & inner.same_vlan(was_inner)
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

/// What an origin's state means for a flow that it was given.
#[derive(Clone, Copy, PartialEq)]
pub enum Standing {
    /// The flow goes on.
    Serves,
    /// There is no connection to break: another origin takes over. UDP follows its origin's health at once, and so does a
    /// repeated SYN that nobody has answered.
    Released,
    /// The connection is to be reset.
    Reset,
}

/// The role in which a flow was given to its origin.
#[inline(always)]
fn role(core: &FlowCore) -> Role {
    if core.last_resort == 0 {
        Role::Steered
    } else {
        Role::LastResort
    }
}

/// Whether the connections of an origin are reset.
#[inline(always)]
pub fn resets(origin: &Origin) -> bool {
    origin.state == OriginState::ENDED
        || (origin.state == OriginState::DOWN && origin.flags.has(OriginFlags::RESET_WHEN_DOWN))
}

/// Whether an origin can tell if a connection is over. What it tells a client directly is not heard: then it must be one
/// that is likely to be there.
#[inline(always)]
fn can_tell(origin: &Origin, core: &FlowCore) -> bool {
    let there = origin.state == OriginState::UP || origin.state == OriginState::DRAINING;
    !resets(origin) && (there || !core.forwarding.is_direct())
}

/// What the state of its origin means for a flow. TCP connections stay, unless their origin's time is over.
#[inline(always)]
pub fn standing(origin: &Origin, segment: &Segment, core: &FlowCore) -> Standing {
    if role(core).accepts(origin.state) {
        return Standing::Serves;
    }
    if segment.protocol != Protocol::TCP || (segment.flags.opens() && core.tcp == TcpState::NEW) {
        return if core.side == FlowSide::CLIENT {
            Standing::Released
        } else {
            Standing::Serves
        };
    }
    if resets(origin) && !core.tcp.closing() {
        Standing::Reset
    } else {
        Standing::Serves
    }
}

/// Marks an entry as of a connection that the node has reset.
#[inline(always)]
pub fn end(core: &mut FlowCore, now: u32) {
    core.tcp = TcpState(core.tcp.0 | TcpState::RESET | TcpState::ENDED);
    core.seen = now;
}

/// Whose the other direction's tuple is.
#[derive(Clone, Copy, PartialEq)]
pub enum Twin {
    Ours,
    /// Another flow owns the other direction's tuple by now.
    Taken,
}

/// Key of the entry of a flow's other direction.
#[inline(always)]
pub fn twin_key<F: Family>(arriving: &Tuple<F::Address>, flow: &F::Flow) -> F::Key {
    F::key(&F::leaving(flow, arriving.protocol).reversed())
}

/// The entry of a flow's other direction.
#[inline(always)]
pub fn twin<F: Family>(arriving: &Tuple<F::Address>, flow: &F::Flow) -> F::Flow {
    let back = arriving.reversed();
    F::flow(mirror(F::core(flow), &back), &back)
}

/// Brings the other direction's entry to the state of this one, to which `fate` has led; makes it anew when it was evicted.
#[inline(always)]
pub fn renew_twin<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    now: u32,
    fate: Fate,
    arriving: &Tuple<F::Address>,
    flow: &F::Flow,
) -> Twin {
    let core = F::core(flow);
    if core.forwarding.is_direct() {
        return Twin::Ours;
    }
    let key = twin_key::<F>(arriving, flow);
    let back = arriving.reversed();
    let seen = F::visit(tables, memory, &key, |twin| {
        if F::leaving(twin, arriving.protocol) != back {
            return Twin::Taken;
        }
        let twin = F::core_mut(twin);
        twin.seen = now;
        twin.tcp = if fate == Fate::Revise {
            core.tcp
        } else {
            TcpState(twin.tcp.0 | core.tcp.0)
        };
        if core.side == FlowSide::ORIGIN {
            // It has been heard.
            twin.asked = 0;
        }
        twin.client_mac = core.client_mac;
        twin.node_mac = core.node_mac;
        twin.client_ifindex = core.client_ifindex;
        twin.client_tags = core.client_tags;
        Twin::Ours
    });
    if let Some(twin) = seen {
        return twin;
    }
    // Both may be on their way to the other memory, or another flow may have been given the tuple and gone there.
    let elsewhere = F::visit(tables, memory.other(), &key, |twin| {
        F::leaving(twin, arriving.protocol) == back
    });
    match elsewhere {
        Some(true) => Twin::Ours,
        Some(false) => Twin::Taken,
        None => match enter::<F, T>(tables, memory, &key, &twin::<F>(arriving, flow)) {
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
        side: opposite(core.side),
        ..*core
    }
}

#[inline(always)]
fn opposite(side: FlowSide) -> FlowSide {
    if side == FlowSide::CLIENT {
        FlowSide::ORIGIN
    } else {
        FlowSide::CLIENT
    }
}

/// Adds an entry. An established flow counts as one of its origin's as long as the client's entry is there.
#[inline(always)]
pub fn enter<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    key: &F::Key,
    flow: &F::Flow,
) -> Result<(), InsertError> {
    if memory == Memory::Established {
        flow_filter::announce::<F, T>(tables, key);
    }
    F::insert(tables, memory, key, flow)?;
    let core = F::core(flow);
    if memory == Memory::Established && core.side == FlowSide::CLIENT {
        tables.establish(core.origin);
        if core.forwarding.is_direct() {
            tables.establish(OriginId::DIRECT);
        }
    }
    Ok(())
}

/// Removes an entry of a side that [`enter`] added, of the flow of which `core` is one.
#[inline(always)]
pub fn leave<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    key: &F::Key,
    side: FlowSide,
    core: &FlowCore,
) {
    // Whoever has removed it counts it.
    if F::remove(tables, memory, key) && memory == Memory::Established && side == FlowSide::CLIENT {
        tables.disestablish(core.origin);
        if core.forwarding.is_direct() {
            tables.disestablish(OriginId::DIRECT);
        }
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
    let core = F::core(flow);
    if owns_twin::<F, T>(tables, memory, arriving, flow) {
        let key = twin_key::<F>(arriving, flow);
        leave::<F, T>(tables, memory, &key, opposite(core.side), core);
    }
    leave::<F, T>(tables, memory, &F::key(arriving), core.side, core);
}

/// Whether the other direction's entry is there, and this flow's.
#[inline(always)]
pub fn owns_twin<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    arriving: &Tuple<F::Address>,
    flow: &F::Flow,
) -> bool {
    if F::core(flow).forwarding.is_direct() {
        return false;
    }
    let back = arriving.reversed();
    let ours = F::visit(tables, memory, &twin_key::<F>(arriving, flow), |twin| {
        F::leaving(twin, arriving.protocol) == back
    });
    ours == Some(true)
}
