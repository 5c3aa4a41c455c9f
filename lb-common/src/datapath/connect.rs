//! New flows: choosing an origin and a source port, and remembering both directions.

use super::checksum;
use super::family::{Family, Tuple};
use super::flow;
use super::scratch::{Draft, Scratch};
use super::select::{self, Hashes, Role};
use super::tables::{InsertError, Tables};
use super::track::{self, Age};
use super::verdict::DropReason;
use crate::abi::{FlowCore, FlowSide, Port, Settings, TcpState};
use crate::hash;

/// Source ports that are tried for one new flow, each twice: a second time when its flow has just been removed.
const MAX_PORTS: u32 = 32;
/// From this port on, ports of connections that have closed are taken as well: the origin may still remember those.
const LAST_PORTS: u32 = 16;

/// Why there is no new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody can serve it: the client is told.
    NoOrigin,
    Drop(DropReason),
}

/// Opens the flow of the scratch's subject: both entries are in the table afterwards.
#[inline(always)]
pub fn connect<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let opening = scratch.opening;
    let draft = F::draft(scratch);
    let hashes = Hashes {
        flow: F::flow_hash(settings.hash_key, &draft.subject.arriving),
        client: F::client_hash(settings.hash_key, draft.subject.arriving.source),
    };
    draft.unresolved = 0;
    let choice = select::choose::<F, T>(
        tables,
        opening.parity,
        &opening.application,
        hashes,
        &mut draft.unresolved,
    );
    let Some(choice) = choice else {
        // The client's next attempt may find the neighbour resolved: a refusal would be final.
        return Err(if draft.unresolved == 0 {
            Refusal::NoOrigin
        } else {
            Refusal::Drop(DropReason::NoNextHop)
        });
    };
    let Some(origin) = tables.origin(choice.id) else {
        return Err(Refusal::NoOrigin);
    };
    if origin.snat_count == 0 {
        return Err(Refusal::Drop(DropReason::NoSourceAddress));
    }
    let source = origin
        .snat_base
        .wrapping_add(hash::scale(hashes.client as u32, origin.snat_count));
    let source = tables.snat_address(source).and_then(F::address);
    let (Some(source), Some(destination)) = (source, F::address(origin.address)) else {
        return Err(Refusal::Drop(DropReason::NoSourceAddress));
    };
    draft.leaving = Tuple {
        source,
        destination,
        source_port: Port(0),
        destination_port: if origin.port.0 == 0 {
            opening.application.origin_port
        } else {
            origin.port
        },
        protocol: draft.subject.arriving.protocol,
    };
    let mut core = FlowCore {
        origin: choice.id,
        application: opening.application.id,
        seen: opening.now,
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
) -> Result<(), Refusal> {
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
        return Err(Refusal::Drop(DropReason::PortsExhausted));
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
        match F::insert(tables, &draft.origin_key, &draft.origin) {
            Ok(()) => return admit::<F, T>(tables, draft),
            Err(InsertError::Full) => return Err(Refusal::Drop(DropReason::FlowTableFull)),
            Err(InsertError::Exists) => {}
        }
        let closed_too = attempt >> 1 >= LAST_PORTS;
        let again = attempt & 1 == 0 && reclaim::<F, T>(tables, settings, draft, core.seen, closed_too);
        attempt = if again { attempt | 1 } else { (attempt | 1) + 1 };
    }
    Err(Refusal::Drop(DropReason::PortsExhausted))
}

/// Adds the client's entry, after the origin's.
#[inline(always)]
fn admit<F: Family, T: Tables>(
    tables: &T,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
) -> Result<(), Refusal> {
    let Err(error) = F::insert(tables, &draft.client_key, &draft.client) else {
        return Ok(());
    };
    F::remove(tables, &draft.origin_key);
    match error {
        // Another CPU has just opened the same flow: this packet follows it.
        InsertError::Exists => Ok(()),
        InsertError::Full => Err(Refusal::Drop(DropReason::FlowTableFull)),
    }
}

/// Removes the flow that holds the draft's source port when it has timed out, or, with `closed_too`, when it has been
/// closed for a sixteenth of its timeout: about as long as Linux waits before it reuses such a port (`tcp_tw_reuse`).
#[inline(always)]
fn reclaim<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    now: u32,
    closed_too: bool,
) -> bool {
    let protocol = draft.subject.arriving.protocol;
    let holder = F::visit(tables, &draft.origin_key, |flow| {
        draft.origin = *flow;
        let core = F::core(flow);
        let idle = now.wrapping_sub(core.seen);
        let closed = core.tcp.closing() && idle < u32::MAX / 2 && idle > settings.tcp_closing_timeout >> 4;
        track::age(settings, protocol, core, now) == Age::Expired || (closed_too && closed)
    });
    if holder == Some(true) {
        flow::forget::<F, T>(tables, &draft.leaving.reversed(), &draft.origin);
        return true;
    }
    false
}
