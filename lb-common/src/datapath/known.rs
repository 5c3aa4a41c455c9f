//! The first stage: packets of established flows, and those that are not ours.

use super::access;
use super::admit;
use super::bucket;
use super::encapsulate;
use super::family::{Family, Tuple, V4, V6};
use super::flow::{self, Standing};
use super::flow_filter;
use super::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Network, Ports};
use super::scratch::{Errand, Note, Opening, Scratch, Subject};
use super::send::forward;
use super::tables::Tables;
use super::transport::{self, Segment};
use super::verdict::{DropReason, Pass, Reply};
use super::{Arrival, Stage, Step, drop, pass};
use crate::abi::{
    Application, ApplicationKey, Filter, FilterBit, HopId, OriginId, Parity, Protocol, Settings,
    SettingsFlags, VipKey,
};
use crate::packet::Packet;
use crate::trace;

/// What stays the same while one packet is handled.
pub(super) struct Context<'a> {
    pub settings: &'a Settings,
    pub link: Link,
    pub ifindex: u32,
    pub now: u32,
    pub parity: Parity,
    pub generation: u32,
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
            generation: opening.generation,
        }
    }
}

/// The first stage: packets of established flows that change nothing, and those that are not ours. Others go on with what
/// was read of them in the scratch.
#[inline(always)]
pub fn known<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    arrival: Arrival,
) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    // All that tracing costs those who do not trace.
    if settings.flags.has(SettingsFlags::TRACE) && trace::until(settings, arrival.now) != 0 {
        return Step::Go(Stage::Tap);
    }
    begin::<false, P, T>(packet, tables, settings, scratch, arrival)
}

/// The same for a packet that is traced: what it is found to belong to is noted.
#[inline(always)]
pub fn traced<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    arrival: Arrival,
) -> Step {
    match tables.settings() {
        Some(settings) => begin::<true, P, T>(packet, tables, settings, scratch, arrival),
        None => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn begin<const TRACED: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
    Arrival { ifindex, now }: Arrival,
) -> Step {
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
        generation,
    };
    match link.ether_type {
        ETHERTYPE_IPV4 => handle::<TRACED, V4, P, T>(packet, tables, scratch, &context),
        ETHERTYPE_IPV6 => handle::<TRACED, V6, P, T>(packet, tables, scratch, &context),
        _ => pass(Pass::NotIp),
    }
}

#[inline(always)]
fn handle<const TRACED: bool, F: Family, P: Packet, T: Tables>(
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
    // Whatever a flow's packets are for was let in before the flow began.
    let bit = F::filter_bit(network.destination);
    if !is_set(tables, Filter::Ours, bit) {
        return pass(Pass::NotOurs);
    }
    let arriving = network.tuple(ports);
    let segment = transport::read(packet, &network, ports);
    let mut absent = false;
    if let Some(segment) = segment {
        let made = if network.protocol == Protocol::TCP && is_set(tables, Filter::Untracked, bit) {
            bucket::make::<F, T>(tables, context, &segment, &arriving)
        } else {
            None
        };
        let key = F::key(&arriving);
        absent = segment.flags.opens()
            && made.is_none()
            && flow_filter::is_absent::<F, T>(tables, context.settings.hash_key, &key);
        if !absent
            && let Some(step) = F::visit_made(tables, made.is_some(), &key, |flow| {
                hit::<TRACED, F, P, T>(packet, tables, scratch, context, &network, &segment, flow, made)
            })
        {
            return leave::<F>(scratch, context, network, arriving, segment, step);
        }
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
    let application = tables.application(&key);
    if application.is_none() && !concerns(tables, context.settings, &key) {
        return pass(Pass::NotOurs);
    }
    let Some(segment) = segment else {
        if application.is_some() {
            return drop(DropReason::Malformed);
        }
        if !context.settings.flags.has(SettingsFlags::RANGES) {
            return pass(Pass::NotOurs);
        }
        // Whether it is for an application on a range of ports is found out there.
        let subject = Subject {
            arriving,
            network,
            segment: Segment::default(),
        };
        remember::<F>(scratch, context, None, subject);
        return Step::Go(Stage::Admit);
    };
    let subject = Subject {
        arriving,
        network,
        segment,
    };
    if TRACED && let Some(application) = application {
        scratch.note.application = application.id;
    }
    remember::<F>(scratch, context, application, subject);
    if segment.flags.opens()
        && let Some(application) = application
    {
        if absent && admit::at_once(context.settings, &application) {
            scratch.errand = Errand::Open;
            return Step::Go(Stage::Admit);
        }
        if access::applies(context.settings, &application) {
            // Whoever is denied costs no search.
            scratch.errand = Errand::Screen;
            return Step::Go(Stage::Admit);
        }
    }
    Step::Go(Stage::Young)
}

/// Whether an address is in a filter.
#[inline(always)]
fn is_set<T: Tables>(tables: &T, filter: Filter, bit: FilterBit) -> bool {
    tables
        .addresses(filter.word(bit))
        .is_none_or(|word| word & bit.mask != 0)
}

/// Ends the stage for a packet of a flow: another one may need what was read of it.
#[inline(always)]
fn leave<F: Family>(
    scratch: &mut Scratch,
    context: &Context,
    network: Network<F::Address>,
    arriving: Tuple<F::Address>,
    segment: Segment,
    step: Step,
) -> Step {
    match step {
        Step::Done(_) => {}
        Step::Go(Stage::Wrap) => {
            // Tags, length, tunnels: usual on some nodes. What is left out here neither that stage nor one after it reads
            // of a packet that belongs to a flow and is whole.
            let Opening {
                link, ifindex, now, ..
            } = &mut scratch.opening;
            (*link, *ifindex, *now) = (context.link, context.ifindex, context.now);
            scratch.opening.parity = context.parity;
            scratch.opening.generation = context.generation;
            scratch.wrap.fits = 0;
            F::draft(scratch).subject.network = network;
        }
        Step::Go(_) => {
            let subject = Subject {
                arriving,
                network,
                segment,
            };
            remember::<F>(scratch, context, None, subject);
        }
    }
    step
}

/// Hands a packet that has no ports, or only part of its datagram, to another stage.
#[inline(always)]
fn aside<F: Family>(
    scratch: &mut Scratch,
    context: &Context,
    network: Network<F::Address>,
    stage: Stage,
) -> Step {
    let subject = Subject {
        arriving: network.tuple(Ports::default()),
        network,
        segment: Segment::default(),
    };
    remember::<F>(scratch, context, None, subject);
    Step::Go(stage)
}

/// A packet of an established flow: it leaves here when it changes nothing. `made`: the entry was made for this packet, whose
/// origin is behind that hop.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are in registers where it matters"
)]
fn hit<const TRACED: bool, F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
    network: &Network<F::Address>,
    segment: &Segment,
    flow: &F::Flow,
    made: Option<HopId>,
) -> Step {
    let core = F::core(flow);
    let hop = match made {
        // What was made for this packet is as it should be.
        Some(hop) => hop,
        None => {
            let timeouts = tables.timeouts(core.application).unwrap_or_default();
            if !flow::settled(context, &timeouts, segment, core) {
                return Step::Go(Stage::Retire);
            }
            let Some(origin) = tables.origin(core.origin) else {
                return drop(DropReason::NoOriginRecord);
            };
            if flow::standing(&origin, segment, core) != Standing::Serves {
                return Step::Go(Stage::Retire);
            }
            origin.hop
        }
    };
    if TRACED {
        scratch.note = Note::of(core);
    }
    if core.forwarding.is_tunnel()
        && let Some(step) = encapsulate::at_once::<F, P, T>(packet, tables, context, network, segment, flow)
    {
        return step;
    }
    let step = forward::<F, P, T>(
        packet,
        tables,
        &mut scratch.wrap,
        context,
        network,
        flow,
        hop,
        false,
    );
    if let Step::Go(stage) = step {
        if stage == Stage::Reply {
            scratch.reply = Reply::TimeExceeded;
        }
        F::draft(scratch).client = *flow;
    }
    step
}

/// Whether a packet that no application's record stands for may be ours nevertheless.
#[inline(always)]
pub(super) fn concerns<T: Tables>(tables: &T, settings: &Settings, key: &ApplicationKey) -> bool {
    // The answer to a flow that has not proven itself comes to a source port of ours; with `dnat`, to any.
    if settings.flags.has(SettingsFlags::DNAT) || settings.snat_ports.holds(key.port) {
        return true;
    }
    if !settings.flags.has(SettingsFlags::RANGES) {
        return false;
    }
    let vip = VipKey {
        address: key.address,
        parity: key.parity,
        reserved: [0; 3],
    };
    tables.vip(&vip).is_some_and(|vip| {
        let spans = if key.protocol == Protocol::TCP {
            vip.tcp
        } else {
            vip.udp
        };
        spans.count != 0
    })
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
        generation: context.generation,
        let_in: 0,
    };
    scratch.avoid = OriginId::NONE;
    scratch.retries = 0;
    scratch.attempts = 0;
    scratch.errand = Errand::Follow;
    scratch.wrap.fits = 0;
    F::draft(scratch).subject = subject;
}
