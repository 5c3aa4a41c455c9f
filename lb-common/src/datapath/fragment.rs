//! Fragments of datagrams, in any order.
//!
//! Only the first fragment has ports. It is handled as a whole packet is, and what it says is remembered for the others. A
//! fragment that comes before it is handed to userspace, which holds it until the first one has come and then puts it in
//! again. Where packets leave with another source address than they came with, the datagram gets an identification that is
//! unique among all that leave with that address.

use super::bucket;
use super::family::{Family, V4, V6};
use super::flow;
use super::icmp::address;
use super::known;
use super::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Network, Ports};
use super::scratch::{Datagram, Draft, Opening, Scratch};
use super::span;
use super::tables::{Memory, Tables};
use super::transport;
use super::verdict::{DropReason, Hold, Pass, Verdict};
use super::{Stage, Step, drop, pass};
use crate::abi::{AddressRole, ApplicationKey, FragmentFlow, Protocol, Settings, SettingsFlags};
use crate::packet::Packet;

/// How long a first fragment is remembered, in seconds: as long as Linux waits for the others (RFC 8200 has 60, RFC 791 15).
///
/// A client that uses a number again within this time gets the same one again, too: the network may have doubled the first
/// fragment, or the others of the new datagram may have come before it and left by what is remembered.
pub const LIFETIME: u32 = 30;

/// Handles a fragment.
#[inline(always)]
pub fn fragment<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => handle::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => handle::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn handle<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let network = &F::draft(scratch).subject.network;
    let (source, destination) = (network.source.into(), network.destination.into());
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    if F::address(source).is_none() || F::address(destination).is_none() {
        return pass(Pass::MalformedIp);
    }
    let first = network.fragment == Fragment::First;
    let Some(arrived) = F::identification(packet, scratch.opening.link.network) else {
        return pass(Pass::MalformedIp);
    };
    scratch.datagram.arrived = arrived;
    // Too large for the stack beside all else.
    let key = &mut scratch.held.key;
    key.source = source;
    key.destination = destination;
    key.identification = arrived.value;
    key.protocol = arrived.protocol;
    if first {
        self::first::<F, P, T>(packet, tables, settings, scratch)
    } else {
        later::<F, P, T>(packet, tables, settings, scratch)
    }
}

/// What is remembered of the datagram that the scratch's key names.
#[inline(always)]
fn recall<T: Tables>(tables: &T, settings: &Settings, scratch: &Scratch) -> Option<FragmentFlow> {
    let flow = tables.fragment(&scratch.held.key)?;
    let age = scratch.opening.now.wrapping_sub(flow.seen);
    // Another CPU may be a jiffy ahead.
    (age <= settings.second.wrapping_mul(LIFETIME) || age > u32::MAX / 2).then_some(flow)
}

/// Handles a first fragment as a whole packet, and remembers what it says.
#[inline(always)]
fn first<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> Step {
    let subject = &mut F::draft(scratch).subject;
    let network = &subject.network;
    if network.protocol != Protocol::TCP && network.protocol != Protocol::UDP
        || network.transport_len < size_of::<Ports>()
    {
        return pass(Pass::Fragment);
    }
    let Some(ports) = packet.read::<Ports>(network.transport) else {
        return pass(Pass::Fragment);
    };
    let segment = transport::read(packet, network, ports);
    subject.arriving = network.tuple(ports);
    subject.segment = segment.unwrap_or_default();
    let again = recall(tables, settings, scratch)
        .filter(|flow| flow.source_port == ports.source && flow.destination_port == ports.destination);
    scratch.datagram.leaving = match again {
        Some(flow) => flow.identification,
        None => tables.next_fragment(),
    };
    let step = begin::<F, T>(tables, settings, scratch, segment.is_some());
    if matches!(step, Step::Go(_)) || may_be_ours::<F, T>(tables, settings, scratch) {
        let flow = FragmentFlow {
            source_port: ports.source,
            destination_port: ports.destination,
            identification: scratch.datagram.leaving,
            seen: scratch.opening.now,
            protocol: F::draft(scratch).subject.network.protocol,
            reserved: [0; 3],
        };
        tables.remember_fragment(&scratch.held.key, &flow);
    }
    step
}

/// Which stage goes on with a datagram; `whole`: its transport header is.
#[inline(always)]
fn begin<F: Family, T: Tables>(tables: &T, settings: &Settings, scratch: &mut Scratch, whole: bool) -> Step {
    let arriving = &F::draft(scratch).subject.arriving;
    if whole && F::visit(tables, Memory::Established, &F::key(arriving), |_| ()).is_some() {
        // Whatever its packet changes.
        return Step::Go(Stage::Retire);
    }
    let key = application_key::<F>(scratch);
    match tables.application(&key) {
        Some(_) if !whole => drop(DropReason::Malformed),
        Some(application) => {
            scratch.opening.application = application;
            scratch.opening.served = 1;
            Step::Go(Stage::Young)
        }
        None if whole && known::concerns(tables, settings, &key) => Step::Go(Stage::Young),
        None => pass(Pass::NotOurs),
    }
}

#[inline(always)]
fn application_key<F: Family>(scratch: &mut Scratch) -> ApplicationKey {
    let arriving = &F::draft(scratch).subject.arriving;
    ApplicationKey {
        address: arriving.destination.into(),
        port: arriving.destination_port,
        protocol: arriving.protocol,
        parity: scratch.opening.parity,
    }
}

/// Handles a later fragment by what the first one said.
#[inline(always)]
fn later<F: Family, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> Step {
    let Some(first) = recall(tables, settings, scratch) else {
        // What is fragmented may begin with a further IPv6 extension header.
        let protocol = F::draft(scratch).subject.network.protocol;
        let possible = protocol == Protocol::TCP || protocol == Protocol::UDP || parse::extends(protocol.0);
        if !possible || !may_be_ours::<F, T>(tables, settings, scratch) {
            return pass(Pass::Fragment);
        }
        scratch.held.ifindex = scratch.opening.ifindex;
        return Step::Done(Verdict::Hold(Hold::Fragment));
    };
    scratch.datagram.leaving = first.identification;
    let Opening { now, parity, .. } = scratch.opening;
    let Draft { subject, client, .. } = F::draft(scratch);
    subject.arriving = subject.network.tuple(Ports {
        source: first.source_port,
        destination: first.destination_port,
    });
    subject.arriving.protocol = first.protocol;
    // The first one has shown that the flow is alive.
    if flow::peek::<F, T>(tables, now, &subject.arriving, client)
        || bucket::peek::<F, T>(tables, parity, true, &subject.arriving, client)
    {
        return Step::Go(Stage::Send);
    }
    let key = application_key::<F>(scratch);
    let served = tables.application(&key).is_some()
        || settings.flags.has(SettingsFlags::RANGES) && span::find(packet, tables, &key).is_some();
    if served {
        drop(DropReason::Fragment)
    } else {
        pass(Pass::Fragment)
    }
}

/// Whether a fragment may belong to a datagram that an application or an origin's answer is made of.
#[inline(always)]
fn may_be_ours<F: Family, T: Tables>(tables: &T, settings: &Settings, scratch: &mut Scratch) -> bool {
    let parity = scratch.opening.parity;
    let network = &F::draft(scratch).subject.network;
    if let Some(vip) = address::<F, T>(tables, parity, network.destination)
        && vip.role != AddressRole::ORIGIN
    {
        return true;
    }
    settings.flags.has(SettingsFlags::DNAT)
        && address::<F, T>(tables, parity, network.source).is_some_and(|vip| vip.role == AddressRole::ORIGIN)
}

/// Gives a fragment the identification that its datagram leaves with, when it leaves with the source address `source`.
#[inline(always)]
pub(super) fn renumber<F: Family, P: Packet>(
    packet: &mut P,
    at: usize,
    network: &Network<F::Address>,
    datagram: &Datagram,
    source: F::Address,
) -> Option<()> {
    if network.fragment == Fragment::Whole || source == network.source {
        return Some(());
    }
    F::renumber(packet, at, datagram.arrived.at, datagram.leaving)
}
