//! The first stage: packets of established flows, and those that are not ours.

use super::family::{Family, Tuple, V4, V6};
use super::flow::{self, Fate, Twin};
use super::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Network, Ports};
use super::scratch::{Opening, Scratch, Subject};
use super::send::forward;
use super::tables::{Memory, Tables};
use super::transport::{self, Segment};
use super::verdict::{DropReason, Pass};
use super::{Arrival, Stage, Step, drop, pass};
use crate::abi::{ApplicationKey, OriginId, Parity, Protocol, Settings};
use crate::packet::Packet;

/// What stays the same while one packet is handled.
pub(super) struct Context<'a> {
    pub settings: &'a Settings,
    pub link: Link,
    pub ifindex: u32,
    pub now: u32,
    pub parity: Parity,
}

impl<'a> Context<'a> {
    /// As a former stage left it.
    #[inline(always)]
    pub fn of(settings: &'a Settings, opening: &Opening) -> Self {
        Self {
            settings,
            link: opening.link,
            ifindex: opening.ifindex,
            now: opening.now,
            parity: opening.parity,
        }
    }
}

/// The first stage: packets of known flows, and those that are not ours. Others go on with
/// what was read of them in the scratch.
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
    if network.fragment != Fragment::Whole {
        return aside::<F>(scratch, context, network, Stage::Fragment);
    }
    if network.protocol != Protocol::TCP && network.protocol != Protocol::UDP {
        if network.protocol == F::ICMP {
            return aside::<F>(scratch, context, network, Stage::Icmp);
        }
        return pass(Pass::OtherProtocol);
    }
    let ports: Option<Ports> = if network.transport_len < size_of::<Ports>() {
        None
    } else {
        packet.read(network.transport)
    };
    let Some(ports) = ports else {
        return pass(Pass::MalformedIp);
    };
    let arriving = network.tuple(ports);
    let segment = transport::read(packet, &network, ports);
    if let Some(segment) = segment
        && follow::<F, T>(tables, Memory::Established, scratch, context, &segment, &arriving)
    {
        let verdict = forward::<F, P, T>(packet, tables, context, &network, &F::draft(scratch).client);
        return Step::Done(verdict);
    }
    miss::<F, T>(tables, scratch, context, &network, &arriving, segment)
}

/// Hands a packet without ports to another stage.
#[inline(always)]
fn aside<F: Family>(
    scratch: &mut Scratch,
    context: &Context,
    network: Network<F::Address>,
    stage: Stage,
) -> Step {
    begin(scratch, context);
    F::draft(scratch).subject.network = network;
    Step::Go(stage)
}

/// What becomes of a packet of no established flow.
#[inline(always)]
fn miss<F: Family, T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
    network: &Network<F::Address>,
    arriving: &Tuple<F::Address>,
    segment: Option<Segment>,
) -> Step {
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    if F::address(network.source.into()).is_none() || F::address(network.destination.into()).is_none() {
        return pass(Pass::MalformedIp);
    }
    begin(scratch, context);
    let served = serve::<F, T>(tables, scratch, context.parity, arriving);
    let Some(segment) = segment else {
        return if served {
            drop(DropReason::Malformed)
        } else {
            pass(Pass::NotOurs)
        };
    };
    // Without an application it may belong to a flow that has not proven itself.
    F::draft(scratch).subject = Subject {
        arriving: *arriving,
        network: *network,
        segment,
    };
    Step::Go(Stage::Young)
}

/// Looks for the application that a packet is for.
#[inline(always)]
pub(super) fn serve<F: Family, T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    parity: Parity,
    arriving: &Tuple<F::Address>,
) -> bool {
    let key = ApplicationKey {
        address: arriving.destination.into(),
        port: arriving.destination_port,
        protocol: arriving.protocol,
        parity,
    };
    let Some(application) = tables.application(&key) else {
        return false;
    };
    scratch.opening.application = application;
    scratch.opening.served = 1;
    true
}

/// Keeps what was read for the stages that follow.
#[inline(always)]
fn begin(scratch: &mut Scratch, context: &Context) {
    let opening = &mut scratch.opening;
    opening.served = 0;
    opening.link = context.link;
    opening.ifindex = context.ifindex;
    opening.now = context.now;
    opening.parity = context.parity;
    scratch.avoid = OriginId::NONE;
    scratch.retries = 0;
    scratch.wrap.fits = 0;
}

/// Brings a known flow up to date with its packet and copies its entry to the draft; false when there is no flow, or
/// none any more.
#[inline(always)]
pub(super) fn follow<F: Family, T: Tables>(
    tables: &T,
    memory: Memory,
    scratch: &mut Scratch,
    context: &Context,
    segment: &Segment,
    arriving: &Tuple<F::Address>,
) -> bool {
    let draft = F::draft(scratch);
    let fate = F::visit(tables, memory, &F::key(arriving), |flow| {
        let core = F::core_mut(flow);
        // A row that is missing makes the flow time out.
        let timeouts = tables.timeouts(core.application).unwrap_or_default();
        let fate = flow::renew(context, &timeouts, segment, core);
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
        Fate::Renew => {
            flow::renew_twin::<F, T>(tables, memory, context.now, arriving, &draft.client) == Twin::Ours
        }
        Fate::End => false,
    };
    if !alive {
        // Either it has ended, or its answers would go to another client by now.
        flow::forget::<F, T>(tables, memory, arriving, &draft.client);
    }
    alive
}
