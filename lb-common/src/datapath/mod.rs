//! What happens to a packet, in one screen: [`process`].
//!
//! ```text
//! parse ─▶ known flow? ──yes──▶ track ────────────────────────────────────┐
//!             │no                                                         ▼
//!             └▶ application ─▶ pool ─▶ slot ─▶ origin ─▶ remember ─▶ rewrite ─▶ forward | reply | drop(reason)
//!                    └no: pass to the kernel, untouched
//! ```
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
pub use verdict::{DropReason, Pass, Reply, Verdict};

use crate::abi::{Application, ApplicationKey, FlowSide, HopId, Protocol, Settings};
use crate::packet::Packet;
use connect::Refusal;
use family::{Family, Tuple, V4, V6};
use parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Network, Ports};
use select::Role;
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

/// What stays the same while one packet is handled.
struct Context {
    settings: Settings,
    link: Link,
    ifindex: u32,
    now: u32,
}

/// Decides what happens to a packet, does it, and counts it.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    arrival: Arrival,
) -> Verdict {
    let verdict = decide(packet, tables, scratch, arrival);
    if let Some(row) = verdict.row() {
        tables.count(row);
    }
    verdict
}

#[inline(always)]
fn decide<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    Arrival { ifindex, now }: Arrival,
) -> Verdict {
    let Some(settings) = tables.settings() else {
        return Verdict::Drop(DropReason::Internal);
    };
    if settings.generation == 0 {
        return Verdict::Pass(Pass::Unconfigured);
    }
    let link = match parse::link(packet) {
        Ok(link) => link,
        Err(reason) => return Verdict::Pass(reason),
    };
    let context = Context {
        settings,
        link,
        ifindex,
        now,
    };
    match link.ether_type {
        ETHERTYPE_IPV4 => handle::<V4, P, T>(packet, tables, scratch, &context),
        ETHERTYPE_IPV6 => handle::<V6, P, T>(packet, tables, scratch, &context),
        _ => Verdict::Pass(Pass::NotIp),
    }
}

#[inline(always)]
fn handle<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
) -> Verdict {
    let network = match F::parse(packet, context.link.network) {
        Ok(network) => network,
        Err(reason) => return Verdict::Pass(reason),
    };
    if network.protocol != Protocol::TCP && network.protocol != Protocol::UDP {
        return Verdict::Pass(Pass::OtherProtocol);
    }
    if network.fragment == Fragment::Later {
        return Verdict::Pass(Pass::Fragment);
    }
    let ports: Option<Ports> = if network.transport_len < size_of::<Ports>() {
        None
    } else {
        packet.read(network.transport)
    };
    let Some(ports) = ports else {
        return Verdict::Pass(Pass::MalformedIp);
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
    if let (Some(segment), true) = (segment, whole)
        && let Some(flow) = flow::find::<F, T>(tables, context, &arriving, &segment)
    {
        match known::<F, P, T>(packet, tables, context, &network, &arriving, &flow) {
            Known::Done(verdict) => return verdict,
            Known::Released => {}
        }
    }
    let key = ApplicationKey {
        address: network.destination.into(),
        port: ports.destination,
        protocol: network.protocol,
        parity: context.settings.parity(),
    };
    let Some(application) = tables.application(&key) else {
        return Verdict::Pass(Pass::NotOurs);
    };
    let Some(segment) = segment else {
        return Verdict::Drop(DropReason::Malformed);
    };
    if !whole {
        return Verdict::Drop(DropReason::Fragment);
    }
    open::<F, P, T>(
        packet,
        tables,
        scratch,
        context,
        &network,
        &segment,
        &arriving,
        &application,
    )
}

/// What became of a packet of a known flow.
enum Known {
    Done(Verdict),
    /// Its flow was let go; the packet opens a new one.
    Released,
}

#[inline(always)]
fn known<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    context: &Context,
    network: &Network<F::Address>,
    arriving: &Tuple<F::Address>,
    flow: &F::Flow,
) -> Known {
    let core = F::core(flow);
    // A datagram has no connection to break: it follows its origin's health at once.
    if network.protocol == Protocol::UDP && core.side == FlowSide::CLIENT {
        let role = if core.last_resort == 0 {
            Role::Steered
        } else {
            Role::LastResort
        };
        let serves = match tables.origin(core.origin) {
            Some(origin) => role.accepts(origin.state),
            None => false,
        };
        if !serves {
            flow::forget::<F, T>(tables, arriving, flow);
            return Known::Released;
        }
    }
    Known::Done(forward::<F, P, T>(packet, tables, context, network, flow, 0))
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "what one packet's stages know; inlined, so nothing is passed"
)]
fn open<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
    network: &Network<F::Address>,
    segment: &Segment,
    arriving: &Tuple<F::Address>,
    application: &Application,
) -> Verdict {
    let tcp = network.protocol == Protocol::TCP;
    if tcp && !segment.flags.opens() {
        // A reset is never answered, nor is a source that cannot be one.
        if segment.flags.has(TcpFlags::RST) || !reply::may_answer(arriving) {
            return Verdict::Drop(DropReason::UnknownFlow);
        }
        return answer(
            reply::reset::<F, P>(packet, &context.link, network, segment),
            Reply::ResetUnknownFlow,
        );
    }
    if network.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    match connect::connect::<F, T>(tables, scratch, context, application, arriving) {
        Ok(flow) => forward::<F, P, T>(packet, tables, context, network, &flow, 1),
        Err(Refusal::Drop(reason)) => Verdict::Drop(reason),
        Err(Refusal::NoOrigin) if !reply::may_answer(arriving) => Verdict::Drop(DropReason::UnknownFlow),
        Err(Refusal::NoOrigin) if tcp => answer(
            reply::reset::<F, P>(packet, &context.link, network, segment),
            Reply::ResetNoOrigin,
        ),
        Err(Refusal::NoOrigin) => answer(
            reply::unreachable::<F, P>(packet, &context.link, network),
            Reply::UnreachableNoOrigin,
        ),
    }
}

#[inline(always)]
fn answer(written: Option<()>, reply: Reply) -> Verdict {
    match written {
        Some(()) => Verdict::Reply(reply),
        None => Verdict::Drop(DropReason::Resize),
    }
}

/// Rewrites a packet by its flow's entry and sends it on.
#[inline(always)]
fn forward<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    context: &Context,
    network: &Network<F::Address>,
    flow: &F::Flow,
    new_flows: u64,
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
    let bytes = packet.length() as u64;
    let leaving = F::leaving(flow, network.protocol);
    let written = transport::rewrite::<F, P>(packet, context, network, core, &leaving)
        .and_then(|()| {
            F::rewrite(
                packet,
                context.link.network,
                network.ttl,
                leaving.source,
                leaving.destination,
                core.header_delta,
            )
        })
        .and_then(|()| packet.write(0, [destination, source]));
    if written.is_none() {
        return Verdict::Drop(DropReason::PartialChecksum);
    }
    tables.count_traffic(
        core.application,
        core.origin,
        Sample {
            side: core.side,
            bytes,
            new_flows,
        },
    );
    Verdict::Forward { ifindex }
}
