//! The first stage: packets of established flows, and those that are not ours.

use super::family::{Family, Tuple, V4, V6};
use super::flow::{self, Fate, Twin};
use super::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Ports};
use super::scratch::{Opening, Scratch, Subject};
use super::send::forward;
use super::tables::{Memory, Tables};
use super::transport::{self, Segment};
use super::verdict::{DropReason, Pass};
use super::{Arrival, Stage, Step, drop, pass};
use crate::abi::{Application, ApplicationKey, OriginId, Parity, Protocol, Settings};
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
        && follow::<F, T>(tables, Memory::Established, scratch, context, &segment, &arriving)
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
        // It may belong to a flow that has not proven itself.
        if let Some(segment) = segment
            && whole
        {
            let subject = Subject {
                arriving,
                network,
                segment,
            };
            remember::<F>(scratch, context, None, subject);
            return Step::Go(Stage::Young);
        }
        return pass(Pass::NotOurs);
    };
    let Some(segment) = segment else {
        return drop(DropReason::Malformed);
    };
    if !whole {
        return drop(DropReason::Fragment);
    }
    remember::<F>(
        scratch,
        context,
        Some(application),
        Subject {
            arriving,
            network,
            segment,
        },
    );
    Step::Go(Stage::Young)
}

/// Keeps what was read for the stages that follow.
#[inline(always)]
fn remember<F: Family>(
    scratch: &mut Scratch,
    context: &Context,
    application: Option<Application>,
    subject: Subject<F::Address>,
) {
    scratch.opening = Opening {
        application: application.unwrap_or_default(),
        served: application.is_some() as u32,
        link: context.link,
        ifindex: context.ifindex,
        now: context.now,
        parity: context.parity,
    };
    scratch.avoid = OriginId::NONE;
    scratch.retries = 0;
    scratch.wrap.fits = 0;
    F::draft(scratch).subject = subject;
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
