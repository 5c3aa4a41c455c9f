//! What happens to a packet, in one screen: [`process`].
//!
//! ```text
//! parse ─▶ known flow? ──yes──▶ track ──────────────────────▶ rewrite ─▶ forward | drop(reason)
//!             │no                  ▲
//!             └▶ application ──────┼─▶ pool ─▶ slot ─▶ origin ─▶ remember
//!                    │             └────────────────────────────┘ │nobody
//!                    └no: pass to the kernel, untouched           └▶ reply
//! ```
//!
//! The stages [`known`] and [`open`] are two programs in the kernel, each calling the other by a tail call: the usual
//! packet's program stays small, and each has a stack of its own.
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

pub mod checksum;
mod connect;
pub mod family;
mod flow;
pub mod parse;
mod reply;
mod scratch;
pub mod select;
mod tables;
pub mod track;
mod transport;
mod verdict;

pub use scratch::Scratch;
pub use tables::{InsertError, Sample, Tables};
pub use verdict::{DropReason, Exit, Pass, Reply, Verdict};

use crate::abi::{ApplicationKey, FlowSide, HopId, Parity, Protocol, Settings, SettingsFlags};
use crate::packet::Packet;
use connect::Refusal;
use family::{Family, Tuple, V4, V6};
use flow::{Fate, Twin};
use parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Network, Ports};
use scratch::{Opening, Subject};
use track::TcpFlags;
use transport::Segment;

/// How and when a packet came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// The other stage goes on.
    Next,
}

/// Decides what happens to a packet, does it, and counts it.
pub fn process<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    arrival: Arrival,
) -> Verdict {
    let verdict = match known(packet, tables, scratch, arrival) {
        Step::Done(verdict) => verdict,
        Step::Next => match open(packet, tables, scratch) {
            Step::Done(verdict) => verdict,
            Step::Next => match known(packet, tables, scratch, arrival) {
                Step::Done(verdict) => verdict,
                // The entry was evicted between the two stages.
                Step::Next => Verdict::Drop(DropReason::FlowTableFull),
            },
        },
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

/// What stays the same while one packet is handled.
struct Context<'a> {
    settings: &'a Settings,
    link: Link,
    ifindex: u32,
    now: u32,
    parity: Parity,
}

/// The first stage: packets of known flows, and those that are not ours. [`Step::Next`]: the packet may open a flow of
/// the application that the scratch names.
#[inline(always)]
pub fn known<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    Arrival { ifindex, now }: Arrival,
) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let generation = tables.generation();
    if generation == 0 {
        return pass(Pass::Unconfigured);
    }
    let link = match parse::link(packet) {
        Ok(link) => link,
        Err(reason) => return pass(reason),
    };
    let context = Context {
        settings,
        link,
        ifindex,
        now,
        parity: Parity::of(generation),
    };
    match link.ether_type {
        ETHERTYPE_IPV4 => handle::<V4, P, T>(packet, tables, scratch, &context),
        ETHERTYPE_IPV6 => handle::<V6, P, T>(packet, tables, scratch, &context),
        _ => pass(Pass::NotIp),
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

#[inline(always)]
fn handle<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
) -> Step {
    let network = match F::parse(packet, context.link.network) {
        Ok(network) => network,
        Err(reason) => return pass(reason),
    };
    if network.protocol != Protocol::TCP && network.protocol != Protocol::UDP {
        return pass(Pass::OtherProtocol);
    }
    if network.fragment == Fragment::Later {
        return pass(Pass::Fragment);
    }
    let ports: Option<Ports> = if network.transport_len < size_of::<Ports>() {
        None
    } else {
        packet.read(network.transport)
    };
    let Some(ports) = ports else {
        return pass(Pass::MalformedIp);
    };
    let arriving = Tuple {
        source: network.source,
        destination: network.destination,
        source_port: ports.source,
        destination_port: ports.destination,
        protocol: network.protocol,
    };
    let segment = transport::read(packet, &network, ports);
    let whole = network.fragment == Fragment::Whole;
    if let Some(segment) = segment
        && whole
        && follow::<F, T>(tables, scratch, context, &segment, &arriving)
    {
        let verdict = forward::<F, P, T>(packet, tables, context, &network, &F::draft(scratch).client);
        return Step::Done(verdict);
    }
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    if F::address(network.source.into()).is_none() || F::address(network.destination.into()).is_none() {
        return pass(Pass::MalformedIp);
    }
    let key = ApplicationKey {
        address: network.destination.into(),
        port: ports.destination,
        protocol: network.protocol,
        parity: context.parity,
    };
    let Some(application) = tables.application(&key) else {
        return pass(Pass::NotOurs);
    };
    let Some(segment) = segment else {
        return drop(DropReason::Malformed);
    };
    if !whole {
        return drop(DropReason::Fragment);
    }
    let Context {
        link,
        ifindex,
        now,
        parity,
        ..
    } = *context;
    scratch.opening = Opening {
        application,
        link,
        ifindex,
        now,
        parity,
    };
    F::draft(scratch).subject = Subject {
        arriving,
        network,
        segment,
    };
    Step::Next
}

/// Brings a known flow up to date with its packet and copies its entry to the draft; false when there is no flow, or
/// none any more.
#[inline(always)]
fn follow<F: Family, T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
    segment: &Segment,
    arriving: &Tuple<F::Address>,
) -> bool {
    let draft = F::draft(scratch);
    let fate = F::visit(tables, &F::key(arriving), |flow| {
        let fate = flow::renew(context, segment, F::core_mut(flow));
        draft.client = *flow;
        fate
    });
    let fate = match fate {
        None => return false,
        Some(_) if flow::released(tables, segment, F::core(&draft.client)) => Fate::End,
        Some(fate) => fate,
    };
    let alive = match fate {
        Fate::Keep => true,
        Fate::Renew => flow::renew_twin::<F, T>(tables, context.now, arriving, &draft.client) == Twin::Ours,
        Fate::End => false,
    };
    if !alive {
        // Either it has ended, or its answers would go to another client by now.
        flow::forget::<F, T>(tables, arriving, &draft.client);
    }
    alive
}

/// Rewrites a packet by its flow's entry and sends it on.
#[inline(always)]
fn forward<F: Family, P: Packet, T: Tables>(
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

/// How a frame that came in by interface `from` leaves through interface `to`.
#[inline(always)]
fn exit(settings: &Settings, from: u32, to: u32) -> Exit {
    if to == from && !settings.flags.has(SettingsFlags::NO_XDP_TX) {
        Exit::Transmit
    } else {
        Exit::Redirect { ifindex: to }
    }
}

/// The second stage: a packet for an application, of no known flow. [`Step::Next`]: its flow is open, and the first
/// stage forwards it.
#[inline(always)]
pub fn open<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => admit::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => admit::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn admit<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let tcp = F::draft(scratch).subject.arriving.protocol == Protocol::TCP;
    let unknown = tcp && !F::draft(scratch).subject.segment.flags.opens();
    if !unknown {
        if F::draft(scratch).subject.network.ttl <= 1 {
            return drop(DropReason::TtlExpired);
        }
        match connect::connect::<F, T>(tables, settings, scratch) {
            Ok(()) => return Step::Next,
            Err(Refusal::Drop(reason)) => return drop(reason),
            Err(Refusal::NoOrigin) => {}
        }
    }
    let opening = scratch.opening;
    let subject = &F::draft(scratch).subject;
    // A reset is never answered, nor is a source that cannot be one.
    if subject.segment.flags.has(TcpFlags::RST) || !reply::may_answer(&subject.arriving) {
        return drop(DropReason::UnknownFlow);
    }
    let (written, reply) = if tcp {
        let reply = if unknown {
            Reply::ResetUnknownFlow
        } else {
            Reply::ResetNoOrigin
        };
        (reply::reset::<F, P>(packet, &opening.link, subject), reply)
    } else {
        (
            reply::unreachable::<F, P>(packet, &opening.link, subject),
            Reply::UnreachableNoOrigin,
        )
    };
    match written {
        Some(()) => Step::Done(Verdict::Reply(
            reply,
            exit(settings, opening.ifindex, opening.ifindex),
        )),
        None => drop(DropReason::Resize),
    }
}
