//! New flows: choosing an origin and a source port, and remembering both directions.

use super::Context;
use super::checksum;
use super::family::{Family, Tuple};
use super::flow::{self, forget};
use super::scratch::Scratch;
use super::select::{self, Hashes, Role};
use super::tables::{InsertError, Tables};
use super::track::{self, Age};
use super::verdict::DropReason;
use crate::abi::{Application, FlowCore, FlowSide, Port, TcpState};
use crate::hash;

/// Source ports that are tried for one new flow: at a fill of 80 % all of them are taken once in 1,300 flows.
const MAX_PORTS: u32 = 32;

/// Why there is no new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody can serve it: the client is told.
    NoOrigin,
    Drop(DropReason),
}

/// Opens the flow of a packet for `application`: both entries are in the table afterwards.
#[inline(always)]
pub fn connect<F: Family, T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    context: &Context,
    application: &Application,
    arriving: &Tuple<F::Address>,
) -> Result<F::Flow, Refusal> {
    let key = context.settings.hash_key;
    let hashes = Hashes {
        flow: F::flow_hash(key, arriving),
        client: F::client_hash(key, arriving.source),
    };
    let parity = context.settings.parity();
    let Some(choice) = select::choose::<F, T>(tables, parity, application, hashes) else {
        return Err(Refusal::NoOrigin);
    };
    let origin = choice.origin;
    let source = origin
        .snat_base
        .wrapping_add(hash::scale(hashes.client as u32, origin.snat_count));
    let source = if origin.snat_count == 0 {
        None
    } else {
        tables.snat_address(source)
    };
    let (Some(source), Some(destination)) = (source.and_then(F::address), F::address(origin.address)) else {
        return Err(Refusal::Drop(DropReason::NoSourceAddress));
    };
    let destination_port = if origin.port.0 == 0 {
        application.origin_port
    } else {
        origin.port
    };
    let before = F::sum(arriving.source) + F::sum(arriving.destination);
    let after = F::sum(source) + F::sum(destination);
    let arrived_ports = checksum::ports(arriving.source_port, arriving.destination_port);

    let mut core = FlowCore {
        origin: choice.id,
        application: application.id,
        seen: context.now,
        destination_port,
        header_delta: checksum::difference(before, after),
        tcp: TcpState::NEW,
        side: FlowSide::CLIENT,
        last_resort: (choice.role == Role::LastResort) as u8,
        ..FlowCore::default()
    };
    flow::learn(&mut core, &context.link, context.ifindex);
    let mut leaving = Tuple {
        source,
        destination,
        source_port: Port(0),
        destination_port,
        protocol: arriving.protocol,
    };
    let back = arriving.reversed();
    let range = context.settings.snat_ports;
    let draft = F::draft(scratch);

    let mut attempt = 0;
    while attempt < MAX_PORTS {
        let offset = hash::scale(hash::probe(hashes.flow, attempt), u32::from(range.count));
        attempt += 1;
        leaving.source_port = Port::new(range.first.wrapping_add(offset as u16));
        core.source_port = leaving.source_port;
        core.payload_delta = checksum::difference(
            before + arrived_ports,
            after + checksum::ports(leaving.source_port, destination_port),
        );
        draft.client = F::flow(core, &leaving);
        draft.origin_key = F::key(&leaving.reversed());
        draft.origin = F::flow(flow::mirror(&core, &back), &back);
        match F::insert(tables, &draft.origin_key, &draft.origin) {
            Ok(()) => {}
            Err(InsertError::Full) => return Err(Refusal::Drop(DropReason::FlowTableFull)),
            Err(InsertError::Exists) => {
                // Frees a port whose flow has timed out; the next attempt, or the next flow, may have it.
                expire::<F, T>(tables, context, &leaving.reversed());
                continue;
            }
        }
        draft.client_key = F::key(arriving);
        return match F::insert(tables, &draft.client_key, &draft.client) {
            Ok(()) => Ok(draft.client),
            Err(error) => {
                F::remove(tables, &draft.origin_key);
                // Another CPU has just opened the same flow: this packet follows it.
                let other = F::visit(tables, &draft.client_key, |flow| *flow);
                match (error, other) {
                    (InsertError::Exists, Some(other)) => Ok(other),
                    (_, _) => Err(Refusal::Drop(DropReason::FlowTableFull)),
                }
            }
        };
    }
    Err(Refusal::Drop(DropReason::PortsExhausted))
}

/// Removes the flow whose answers arrive as `arriving`, when it has timed out.
#[inline(always)]
fn expire<F: Family, T: Tables>(tables: &T, context: &Context, arriving: &Tuple<F::Address>) {
    let expired = F::visit(tables, &F::key(arriving), |flow| {
        let age = track::age(&context.settings, arriving.protocol, F::core(flow), context.now);
        (age == Age::Expired).then_some(*flow)
    });
    if let Some(Some(flow)) = expired {
        forget::<F, T>(tables, arriving, &flow);
    }
}
