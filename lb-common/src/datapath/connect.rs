//! New flows: finding a source port, and remembering both directions.
//!
//! Most first ports are free. So the first one is taken when no established flow has it, and whether another flow does is found out
//! by adding the entry: a lookup less. If so the stage starts anew, and looks.

use super::bucket::{self, Claim};
use super::checksum;
use super::family::{Family, Tuple, V4, V6};
use super::flow;
use super::flow_filter;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::{Draft, Errand, Holder, Note, Scratch, WrapKind};
use super::select::Role;
use super::span;
use super::tables::{InsertError, Memory, Tables};
use super::track::{self, Age, TcpFlags};
use super::verdict::DropReason;
use super::{Stage, Step, drop};
use crate::abi::{FlowCore, FlowSide, Forwarding, Origin, OriginId, Port, Settings, SettingsFlags, TcpState};
use crate::hash;
use crate::packet::Packet;

/// Source ports that are tried for one new flow.
const MAX_PORTS: u32 = 32;
/// From this port on, ports of connections that have closed are taken as well: the origin may still remember those.
const LAST_PORTS: u32 = 16;
/// Ports that are tried at a time: then the stage starts anew, so that the verifier walks no more of them.
const PORTS_AT_ONCE: u32 = 16;

/// Opens the flow of the scratch's subject to the origin that was chosen: its entries are remembered afterwards.
#[inline(always)]
pub fn connect<P: Packet, T: Tables>(_packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let opened = match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => open::<V4, T>(tables, scratch),
        ETHERTYPE_IPV6 => open::<V6, T>(tables, scratch),
        _ => Err(DropReason::Internal),
    };
    match opened {
        Ok(stage) => Step::Go(stage),
        Err(_) if scratch.errand == Errand::Open => Step::Go(attempted(scratch)),
        Err(reason) => drop(reason),
    }
}

/// Ends the attempt to open a flow for a SYN that nobody has looked for: it may be of a flow that there is.
#[inline(always)]
pub(super) fn attempted(scratch: &mut Scratch) -> Stage {
    scratch.errand = Errand::Follow;
    scratch.note.origin = OriginId::NONE;
    Stage::Young
}

/// Opens the flow, and says which stage goes on.
#[inline(always)]
fn open<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<Stage, DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let choice = scratch.choice;
    let origin = tables.origin(choice.id).ok_or(DropReason::NoOriginRecord)?;
    let opening = &scratch.opening;
    let mut core = FlowCore {
        origin: choice.id,
        application: opening.application.id,
        seen: opening.now,
        opened: opening.now,
        tcp: TcpState::NEW,
        side: FlowSide::CLIENT,
        forwarding: origin.forwarding,
        last_resort: (choice.role == Role::LastResort) as u8,
        retries: if scratch.retries > 255 {
            255
        } else {
            scratch.retries as u8
        },
        ..FlowCore::default()
    };
    flow::learn(&mut core, &opening.link, opening.ifindex);
    if settings.flags.has(SettingsFlags::TRACE) {
        scratch.note = Note::of(&core);
    }
    let mut entry = true;
    let stage = if scratch.search.resets != 0 {
        ended::<F, T>(tables, scratch, core)?
    } else if origin.forwarding.is_direct() {
        let opens = scratch.search.opens != 0;
        entry = scratch.bucket == Scratch::NO_BUCKET || {
            let firsthand = scratch.search.detour == 0;
            let chosen = (choice.id, choice.role);
            bucket::claim(tables, scratch.bucket, &scratch.opening, chosen, opens, firsthand) == Claim::Track
        };
        directly::<F, T>(tables, F::draft(scratch), core, entry)?
    } else {
        let hashes = scratch.hashes;
        let port = F::draft(scratch).subject.arriving.destination_port;
        let port = span::origin_port(&scratch.opening.application, &origin, port);
        let source = leaving_source::<F, T>(tables, &origin, hashes.client, F::draft(scratch))?;
        let draft = F::draft(scratch);
        draft.leaving = Tuple {
            source,
            destination: F::address(origin.address).ok_or(DropReason::NoSourceAddress)?,
            source_port: draft.subject.arriving.source_port,
            destination_port: port,
            protocol: draft.subject.arriving.protocol,
        };
        let nat = origin.forwarding == Forwarding::NAT;
        let found = if scratch.attempts == 0 {
            first_port::<F, T>(tables, settings, scratch, nat)?
        } else if nat {
            find_port::<F, T>(tables, settings, scratch)?
        } else {
            keep_port::<F, T>(tables, settings, F::draft(scratch), core.seen)?;
            true
        };
        if found {
            // Where others of the application need no entry, this one is not to be taken for theirs.
            if scratch.bucket != Scratch::NO_BUCKET {
                bucket::note(tables, scratch.bucket, core.seen);
            }
            remember::<F, T>(tables, settings, scratch, core)?
        } else {
            Stage::Connect
        }
    };
    if scratch.errand == Errand::Open && (stage == Stage::Connect || stage == Stage::Young) {
        // It may well be this SYN's flow that is in the way.
        return Ok(attempted(scratch));
    }
    // Segments of a flow without an entry pass here each time.
    if stage == Stage::Send && (entry || scratch.search.opens != 0) {
        tables.count_flow(core.application, core.origin);
    }
    let draft = F::draft(scratch);
    if stage == Stage::Send
        && draft.subject.segment.flags.has(TcpFlags::SYN)
        && !origin.forwarding.is_direct()
    {
        // Where the next stage would send it.
        scratch.wrap.kind = WrapKind::Fit;
        return Ok(Stage::Wrap);
    }
    Ok(stage)
}

/// The source address that packets leave with: one of ours, always the same for a client, or the client's.
#[inline(always)]
fn leaving_source<F: Family, T: Tables>(
    tables: &T,
    origin: &Origin,
    client: u64,
    draft: &Draft<F::Address, F::Key, F::Flow>,
) -> Result<F::Address, DropReason> {
    if origin.forwarding != Forwarding::NAT {
        return Ok(draft.subject.arriving.source);
    }
    if origin.snat_count == 0 {
        return Err(DropReason::NoSourceAddress);
    }
    let index = origin
        .snat_base
        .wrapping_add(hash::scale(client as u32, origin.snat_count));
    tables
        .snat_address(index)
        .and_then(F::address)
        .ok_or(DropReason::NoSourceAddress)
}

/// Remembers a flow whose packets leave as they came, and whose answers do not come by here, unless it needs no entry.
#[inline(always)]
fn directly<F: Family, T: Tables>(
    tables: &T,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    mut core: FlowCore,
    entry: bool,
) -> Result<Stage, DropReason> {
    let arriving = draft.subject.arriving;
    core.source_port = arriving.source_port;
    core.destination_port = arriving.destination_port;
    // It may have begun at another node, or before this one forgot it.
    core.tcp = track::step(&core, &draft.subject.segment);
    draft.client_key = F::key(&arriving);
    draft.client = F::flow(core, &arriving);
    if core.tcp.closing() || !entry {
        // Nothing follows that would have to be known.
        return Ok(Stage::Send);
    }
    match F::insert(tables, Memory::Tentative, &draft.client_key, &draft.client) {
        Ok(()) => Ok(Stage::Send),
        // Another CPU has just opened the same flow.
        Err(InsertError::Exists) => Ok(Stage::Young),
        Err(InsertError::Full) => Err(DropReason::NotRemembered),
    }
}

/// Remembers that a flow has been reset which needed no entry until now: this packet tells its origin, the next the client.
#[inline(always)]
fn ended<F: Family, T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    mut core: FlowCore,
) -> Result<Stage, DropReason> {
    bucket::note(tables, scratch.bucket, core.seen);
    scratch.errand = Errand::Reset;
    let draft = F::draft(scratch);
    let arriving = draft.subject.arriving;
    core.source_port = arriving.source_port;
    core.destination_port = arriving.destination_port;
    let now = core.seen;
    flow::end(&mut core, now);
    draft.client_key = F::key(&arriving);
    draft.client = F::flow(core, &arriving);
    match F::insert(tables, Memory::Tentative, &draft.client_key, &draft.client) {
        Ok(()) => Ok(Stage::Retire),
        Err(InsertError::Exists) => Ok(Stage::Young),
        Err(InsertError::Full) => Err(DropReason::NotRemembered),
    }
}

/// The `nth` source port that a new flow may get.
#[inline(always)]
fn port(settings: &Settings, hash: u64, nth: u32) -> Port {
    let range = settings.snat_ports;
    let offset = hash::scale(hash::probe(hash, nth), u32::from(range.count));
    Port::new(range.first.wrapping_add(offset as u16))
}

/// Takes the first source port, or the client's own, unless an established flow may have it: then false, and one that is free is to
/// be looked for.
#[inline(always)]
fn first_port<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
    nat: bool,
) -> Result<bool, DropReason> {
    if nat && settings.snat_ports.count == 0 {
        return Err(DropReason::PortsExhausted);
    }
    scratch.attempts = 1;
    let hash = scratch.hashes.flow;
    let draft = F::draft(scratch);
    if nat {
        draft.leaving.source_port = port(settings, hash, 0);
    }
    draft.origin_key = F::key(&draft.leaving.reversed());
    draft.holder = Holder::Unsought;
    // Those who come from there to the other memory would be in the way of the entry, and are not to be overwritten.
    Ok(flow_filter::is_absent::<F, T>(
        tables,
        settings.hash_key,
        &draft.origin_key,
    ))
}

/// Finds a source port whose answers belong to no other flow; false when it should be tried once more.
#[inline(always)]
fn find_port<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> Result<bool, DropReason> {
    if settings.snat_ports.count == 0 || scratch.attempts > MAX_PORTS {
        return Err(DropReason::PortsExhausted);
    }
    let hash = scratch.hashes.flow;
    let now = scratch.opening.now;
    let first = scratch.attempts.wrapping_sub(1);
    let draft = F::draft(scratch);
    let mut attempt = 0;
    while attempt < PORTS_AT_ONCE {
        let nth = first.wrapping_add(attempt);
        attempt += 1;
        draft.leaving.source_port = port(settings, hash, nth);
        look_up::<F, T>(tables, settings, draft, now, nth >= LAST_PORTS);
        if draft.holder != Holder::Flow {
            clear::<F, T>(tables, draft);
            scratch.attempts = nth.wrapping_add(2);
            return Ok(true);
        }
    }
    scratch.attempts = first.wrapping_add(PORTS_AT_ONCE + 1);
    Ok(false)
}

/// Sees to it that the answers to the client's own port belong to no other flow.
#[inline(always)]
fn keep_port<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    now: u32,
) -> Result<(), DropReason> {
    look_up::<F, T>(tables, settings, draft, now, true);
    if draft.holder == Holder::Flow {
        return Err(DropReason::TupleTaken);
    }
    clear::<F, T>(tables, draft);
    Ok(())
}

/// Looks who holds the draft's leaving tuple, and copies the entry. A flow is over when it has timed out or, with
/// `closed_too`, when it has been closed for a sixteenth of its timeout: about as long as Linux waits before it reuses
/// such a port (`tcp_tw_reuse`). So is what is left of this very flow when the client's entry was evicted.
///
/// A flow that moves from one memory to the other stands in both for a while: whoever goes to the established ones is seen
/// there, if not before, and whoever comes from there is in the way of the new entry.
#[inline(always)]
fn look_up<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    draft: &mut Draft<F::Address, F::Key, F::Flow>,
    now: u32,
    closed_too: bool,
) {
    draft.origin_key = F::key(&draft.leaving.reversed());
    draft.holder = Holder::Nobody;
    let protocol = draft.leaving.protocol;
    let back = draft.subject.arriving.reversed();
    let Draft {
        origin_key,
        origin,
        holder,
        ..
    } = draft;
    for (memory, old) in [
        (Memory::Tentative, Holder::OldTentative),
        (Memory::Established, Holder::OldEstablished),
    ] {
        if *holder != Holder::Nobody {
            break;
        }
        // Not before the other memory was searched: the flow may have left it meanwhile.
        if memory == Memory::Established
            && flow_filter::is_absent::<F, T>(tables, settings.hash_key, origin_key)
        {
            break;
        }
        F::visit(tables, memory, origin_key, |flow| {
            *origin = *flow;
            let core = F::core(flow);
            let timeouts = tables.timeouts(core.application).unwrap_or_default();
            let idle = now.wrapping_sub(core.seen);
            let closed = core.tcp.over() && idle < u32::MAX / 2 && idle > timeouts.tcp_closing >> 4;
            let over = track::age(&timeouts, protocol, core, now) == Age::Expired
                || (closed_too && (closed || F::leaving(flow, protocol) == back));
            *holder = if over { old } else { Holder::Flow };
        });
    }
}

/// Removes the flow that holds the draft's leaving tuple.
#[inline(always)]
fn clear<F: Family, T: Tables>(tables: &T, draft: &Draft<F::Address, F::Key, F::Flow>) {
    let back = draft.leaving.reversed();
    match draft.holder {
        Holder::Nobody | Holder::Flow | Holder::Unsought => {}
        Holder::OldEstablished => flow::forget::<F, T>(tables, Memory::Established, &back, &draft.origin),
        Holder::OldTentative => flow::forget::<F, T>(tables, Memory::Tentative, &back, &draft.origin),
    }
}

/// Adds both entries, the origin's first: it is the one that another flow may have added meanwhile.
#[inline(always)]
fn remember<F: Family, T: Tables>(
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
    mut core: FlowCore,
) -> Result<Stage, DropReason> {
    let Draft {
        subject,
        leaving,
        client_key,
        client,
        origin_key,
        origin,
        holder,
        ..
    } = F::draft(scratch);
    let unsought = *holder == Holder::Unsought;
    let arriving = &subject.arriving;
    let before = F::sum(arriving.source) + F::sum(arriving.destination);
    let after = F::sum(leaving.source) + F::sum(leaving.destination);
    core.source_port = leaving.source_port;
    core.destination_port = leaving.destination_port;
    core.header_delta = checksum::difference(before, after);
    core.payload_delta = checksum::difference(
        before + checksum::ports(arriving.source_port, arriving.destination_port),
        after + checksum::ports(leaving.source_port, leaving.destination_port),
    );
    *client_key = F::key(arriving);
    *client = F::flow(core, leaving);
    let back = arriving.reversed();
    *origin = F::flow(flow::mirror(&core, &back), &back);
    match F::insert(tables, Memory::Tentative, origin_key, origin) {
        Ok(()) => {}
        // Somebody has the port, or another CPU was faster.
        Err(InsertError::Exists) => return Ok(Stage::Connect),
        Err(InsertError::Full) => return Err(DropReason::NotRemembered),
    }
    // Whoever had it may have gone to the established ones since then.
    if unsought && !flow_filter::is_absent::<F, T>(tables, settings.hash_key, origin_key) {
        F::remove(tables, Memory::Tentative, origin_key);
        return Ok(Stage::Connect);
    }
    match F::insert(tables, Memory::Tentative, client_key, client) {
        Ok(()) => Ok(Stage::Send),
        Err(error) => {
            F::remove(tables, Memory::Tentative, origin_key);
            match error {
                // Another CPU has just opened the same flow: this packet follows it.
                InsertError::Exists => Ok(Stage::Young),
                InsertError::Full => Err(DropReason::NotRemembered),
            }
        }
    }
}
