//! New flows: finding a source port, and remembering both directions.

use super::checksum;
use super::family::{Family, Tuple, V4, V6};
use super::flow;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::{Draft, Scratch};
use super::select::Role;
use super::span;
use super::tables::{InsertError, Memory, Tables};
use super::track::{self, Age};
use super::verdict::DropReason;
use super::{Stage, Step, drop};
use crate::abi::{FlowCore, FlowSide, Port, Settings, TcpState};
use crate::hash;
use crate::packet::Packet;

/// Source ports that are tried for one new flow, each twice: a second time when its flow has just been removed.
const MAX_PORTS: u32 = 32;
/// From this port on, ports of connections that have closed are taken as well: the origin may still remember those.
const LAST_PORTS: u32 = 16;

/// Opens the flow of the scratch's subject to the origin that was chosen: both entries are remembered afterwards.
#[inline(always)]
pub fn connect<P: Packet, T: Tables>(_packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let opened = match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => open::<V4, T>(tables, scratch),
        ETHERTYPE_IPV6 => open::<V6, T>(tables, scratch),
        _ => Err(DropReason::Internal),
    };
    match opened {
        Ok(()) => Step::Go(Stage::Send),
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn open<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<(), DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let opening = scratch.opening;
    let hashes = scratch.hashes;
    let choice = scratch.choice;
    let draft = F::draft(scratch);
    let origin = tables.origin(choice.id).ok_or(DropReason::NoOriginRecord)?;
    if origin.snat_count == 0 {
        return Err(DropReason::NoSourceAddress);
    }
    let source = origin
        .snat_base
        .wrapping_add(hash::scale(hashes.client as u32, origin.snat_count));
    let source = tables.snat_address(source).and_then(F::address);
    let (Some(source), Some(destination)) = (source, F::address(origin.address)) else {
        return Err(DropReason::NoSourceAddress);
    };
    draft.leaving = Tuple {
        source,
        destination,
        source_port: Port(0),
        destination_port: span::origin_port(
            &opening.application,
            &origin,
            draft.subject.arriving.destination_port,
        ),
        protocol: draft.subject.arriving.protocol,
    };
    let mut core = FlowCore {
        origin: choice.id,
        application: opening.application.id,
        seen: opening.now,
        opened: opening.now,
        tcp: TcpState::NEW,
        side: FlowSide::CLIENT,
        last_resort: (choice.role == Role::LastResort) as u8,
        ..FlowCore::default()
    };
    flow::learn(&mut core, &opening.link, opening.ifindex);
    remember::<F, T>(tables, settings, draft, core, hashes.flow)?;
    tables.count_flow(opening.application.id, choice.id);
    Ok(())
}

/// Finds a free source port and adds both entries.
#[inline(always)]
fn remember<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    mut core: FlowCore,
    hash: u64,
) -> Result<(), DropReason> {
    let before = F::sum(draft.subject.arriving.source) + F::sum(draft.subject.arriving.destination);
    let after = F::sum(draft.leaving.source) + F::sum(draft.leaving.destination);
    let arrived_ports = checksum::ports(
        draft.subject.arriving.source_port,
        draft.subject.arriving.destination_port,
    );
    core.destination_port = draft.leaving.destination_port;
    core.header_delta = checksum::difference(before, after);
    draft.client_key = F::key(&draft.subject.arriving);
    let range = settings.snat_ports;
    if range.count == 0 {
        return Err(DropReason::PortsExhausted);
    }

    let mut attempt = 0;
    while attempt < 2 * MAX_PORTS {
        let offset = hash::scale(hash::probe(hash, attempt >> 1), u32::from(range.count));
        core.source_port = Port::new(range.first.wrapping_add(offset as u16));
        draft.leaving.source_port = core.source_port;
        core.payload_delta = checksum::difference(
            before + arrived_ports,
            after + checksum::ports(core.source_port, core.destination_port),
        );
        draft.client = F::flow(core, &draft.leaving);
        draft.origin_key = F::key(&draft.leaving.reversed());
        let back = draft.subject.arriving.reversed();
        draft.origin = F::flow(flow::mirror(&core, &back), &back);
        match F::insert(tables, Memory::Tentative, &draft.origin_key, &draft.origin) {
            Ok(()) => return admit::<F, T>(tables, draft),
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
            Err(InsertError::Exists) => {}
        }
        let closed_too = attempt >> 1 >= LAST_PORTS;
        let again = attempt & 1 == 0 && reclaim::<F, T>(tables, draft, core.seen, closed_too);
        attempt = if again { attempt | 1 } else { (attempt | 1) + 1 };
    }
    Err(DropReason::PortsExhausted)
}

/// Adds the client's entry, after the origin's.
#[inline(always)]
fn admit<F: Family, T: Tables>(
    tables: &T,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
) -> Result<(), DropReason> {
    let Err(error) = F::insert(tables, Memory::Tentative, &draft.client_key, &draft.client) else {
        return Ok(());
    };
    F::remove(tables, Memory::Tentative, &draft.origin_key);
    match error {
        // Another CPU has just opened the same flow: this packet follows it.
        InsertError::Exists => Ok(()),
        InsertError::Full => Err(DropReason::FlowTableFull),
    }
}

/// Removes the flow that holds the draft's source port when it has timed out, or, with `closed_too`, when it has been
/// closed for a sixteenth of its timeout: about as long as Linux waits before it reuses such a port (`tcp_tw_reuse`).
#[inline(always)]
fn reclaim<F: Family, T: Tables>(
    tables: &T,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    now: u32,
    closed_too: bool,
) -> bool {
    let protocol = draft.subject.arriving.protocol;
    let holder = F::visit(tables, Memory::Tentative, &draft.origin_key, |flow| {
        draft.origin = *flow;
        let core = F::core(flow);
        let timeouts = tables.timeouts(core.application).unwrap_or_default();
        let idle = now.wrapping_sub(core.seen);
        let closed = core.tcp.closing() && idle < u32::MAX / 2 && idle > timeouts.tcp_closing >> 4;
        track::age(&timeouts, protocol, core, now) == Age::Expired || (closed_too && closed)
    });
    if holder == Some(true) {
        flow::forget::<F, T>(
            tables,
            Memory::Tentative,
            &draft.leaving.reversed(),
            &draft.origin,
        );
        return true;
    }
    false
}
