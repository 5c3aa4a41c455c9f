//! Which origin a new flow gets.
//!
//! 1. The one that the client is bound to, as long as it serves.
//! 2. The application's pools, in the order its steering gives.
//! 3. In each pool a few probes of its table, entered by the flow's hash (or the client's), two owners each: the first
//!    origin that is up, reachable and not full. Slots differ, so the share of an origin that just went down spreads over
//!    the others by weight, before any table is rebuilt.
//! 4. The fallback pool, whose health is ignored.

use super::affinity;
use super::family::{Family, V4, V6};
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::{Scratch, Search};
use super::tables::Tables;
use super::verdict::{DropReason, Reply};
use super::{Stage, Step, drop};
use crate::abi::{
    Application, Ip, Origin, OriginId, OriginState, Parity, PoolFlags, PoolId, Protocol, Steering, TableKind,
};
use crate::hash;
use crate::packet::Packet;

/// Pools that one packet tries before the fallback pool. Userspace lists usable pools only, so the second try is rare.
pub const MAX_POOLS: u32 = 4;
/// Origins of one pool that one packet tries: two of each slot, so that one origin's death alone never empties a pool.
const MAX_ORIGINS: u32 = 16;

/// The origin of a new flow.
#[derive(Clone, Copy, Default)]
pub struct Choice {
    pub id: OriginId,
    pub role: Role,
}

/// In which role a pool gives an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    #[default]
    Steered,
    /// As fallback pool: health is ignored.
    LastResort,
}

impl Role {
    /// Whether an origin in `state` may serve in this role.
    #[inline(always)]
    pub fn accepts(self, state: OriginState) -> bool {
        match self {
            Self::Steered => state == OriginState::UP,
            Self::LastResort => state == OriginState::UP || state == OriginState::DOWN,
        }
    }
}

/// The hashes of a new flow.
#[derive(Clone, Copy, Default)]
pub struct Hashes {
    pub flow: u64,
    pub client: u64,
}

/// Chooses the origin of the scratch's packet, which belongs to no known flow.
#[inline(always)]
pub fn select<P: Packet, T: Tables>(_packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => serve::<V4, T>(tables, scratch),
        ETHERTYPE_IPV6 => serve::<V6, T>(tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn serve<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let subject = &F::draft(scratch).subject;
    let (arriving, flags) = (subject.arriving, subject.segment.flags);
    let client: Ip = arriving.source.into();
    let tcp = arriving.protocol == Protocol::TCP;
    let opens = !tcp || flags.opens();
    let hashes = Hashes {
        flow: F::flow_hash(settings.hash_key, &arriving),
        client: F::client_hash(settings.hash_key, arriving.source),
    };
    scratch.hashes = hashes;
    scratch.search = Search::default();
    scratch.choice = Choice::default();
    let Scratch {
        opening,
        search,
        choice,
        avoid,
        ..
    } = scratch;
    let application = &opening.application;
    let affine = application.affinity_ttl != 0;
    let wanted = Wanted {
        parity: opening.parity,
        // What binds a client may have been evicted: by its address it is likely to find back.
        flow: if affine { hashes.client } else { hashes.flow },
        client: hashes.client,
        avoid: *avoid,
        capped: opens,
    };
    if affine {
        search.bound = affinity::find(tables, application, client, opening.now);
        let id = search.bound.origin;
        if id != OriginId::NONE && id != *avoid && usable::<F, T>(tables, id, Role::Steered, &wanted, search)
        {
            choice.id = id;
        }
    }
    if choice.id == OriginId::NONE {
        *choice = choose::<F, T>(tables, application, &wanted, search).unwrap_or_default();
    }
    if choice.id == OriginId::NONE {
        return refuse(scratch, tcp, opens);
    }
    if !opens {
        // Only a flow of which the node need not remember anything can go on.
        let direct = tables
            .origin(choice.id)
            .is_some_and(|origin| origin.forwarding.is_direct());
        if !direct {
            scratch.reply = Reply::ResetUnknownFlow;
            return Step::Go(Stage::Reply);
        }
    } else if affine && choice.role == Role::Steered {
        // The pool of last resort binds nobody: its clients come back as soon as another pool serves.
        affinity::bind(tables, application, client, &search.bound, choice.id, opening.now);
    }
    Step::Go(Stage::Connect)
}

/// What becomes of a packet that no origin can serve.
#[inline(always)]
fn refuse(scratch: &mut Scratch, tcp: bool, opens: bool) -> Step {
    // What passes by itself is no reason for a refusal, which would be final: a neighbour may answer and a flow may end
    // before the client tries again. So Linux does when a listener's queue is full (`tcp_abort_on_overflow`).
    if scratch.search.unresolved != 0 {
        return drop(DropReason::NoNextHop);
    }
    if scratch.search.full != 0 {
        return drop(DropReason::OriginsFull);
    }
    scratch.reply = if !opens {
        Reply::ResetUnknownFlow
    } else if tcp {
        Reply::ResetNoOrigin
    } else {
        Reply::UnreachableNoOrigin
    };
    Step::Go(Stage::Reply)
}

/// What a packet asks of its origin.
struct Wanted {
    parity: Parity,
    /// Hash that picks pools and origins.
    flow: u64,
    /// The same where the client's address alone shall pick.
    client: u64,
    /// The origin to be taken only when its pool has no other.
    avoid: OriginId,
    /// Whether origins that are full are passed over.
    capped: bool,
}

/// Chooses the origin of a new flow; `None` when nobody can serve it.
#[inline(always)]
fn choose<F: Family, T: Tables>(
    tables: &T,
    application: &Application,
    wanted: &Wanted,
    search: &mut Search,
) -> Option<Choice> {
    let list = application.pools;
    let entry = if list.steering == Steering::WEIGHTED_BY_CLIENT {
        wanted.client
    } else {
        wanted.flow
    };
    let mut attempt = 0;
    while attempt < MAX_POOLS {
        let index = if list.steering == Steering::ORDERED {
            if attempt >= list.extent {
                break;
            }
            attempt
        } else {
            // The halves are swapped so that a pool's share does not choose the origin's slot as well.
            hash::probe(entry.rotate_left(32), attempt >> 1) & list.extent
        };
        let first = list.steering == Steering::ORDERED || attempt & 1 == 0;
        attempt += 1;
        let Some(slot) = tables.slot(list.base.wrapping_add(index)) else {
            break;
        };
        let pool = PoolId(if first { slot.owner } else { slot.alternate });
        if let Some(choice) = pick::<F, T>(tables, pool, Role::Steered, wanted, search) {
            return Some(choice);
        }
    }
    if application.fallback == PoolId::NONE {
        return None;
    }
    pick::<F, T>(tables, application.fallback, Role::LastResort, wanted, search)
}

#[inline(always)]
fn pick<F: Family, T: Tables>(
    tables: &T,
    pool: PoolId,
    role: Role,
    wanted: &Wanted,
    search: &mut Search,
) -> Option<Choice> {
    let pool = tables.pool(pool.row(wanted.parity))?;
    let kind = match role {
        Role::Steered => F::STEERED,
        Role::LastResort => F::LAST_RESORT,
    };
    let [steered4, steered6, last4, last6] = pool.tables;
    let table = match kind {
        TableKind::Steered4 => steered4,
        TableKind::Steered6 => steered6,
        TableKind::LastResort4 => last4,
        TableKind::LastResort6 => last6,
    };
    if table.size == 0 {
        return None;
    }
    let entry = if pool.flags.has(PoolFlags::BY_CLIENT) {
        wanted.client
    } else {
        wanted.flow
    };
    search.spare = OriginId::NONE;
    let mut attempt = 0;
    while attempt < MAX_ORIGINS {
        let index = hash::probe(entry, attempt >> 1) & table.size.wrapping_sub(1);
        let first = attempt & 1 == 0;
        attempt += 1;
        let slot = tables.slot(table.base.wrapping_add(index))?;
        let id = OriginId(if first { slot.owner } else { slot.alternate });
        if !usable::<F, T>(tables, id, role, wanted, search) {
            continue;
        }
        if id != wanted.avoid {
            return Some(Choice { id, role });
        }
        search.spare = id;
    }
    // Another pool is no substitute for an origin that may only have lost a packet.
    let id = search.spare;
    (id != OriginId::NONE).then_some(Choice { id, role })
}

/// Whether an origin can serve now. If not, the search learns why, where that may change by itself.
#[inline(always)]
fn usable<F: Family, T: Tables>(
    tables: &T,
    id: OriginId,
    role: Role,
    wanted: &Wanted,
    search: &mut Search,
) -> bool {
    let Some(origin) = tables.origin(id) else {
        return false;
    };
    if !role.accepts(origin.state) || !serves::<F>(&origin) {
        return false;
    }
    match tables.hop(origin.hop) {
        Some(hop) if hop.resolved != 0 => {}
        Some(_) | None => {
            search.unresolved = 1;
            return false;
        }
    }
    if wanted.capped && origin.max_flows != 0 && tables.established(id) >= origin.max_flows {
        search.full = 1;
        return false;
    }
    true
}

/// Whether an origin takes packets of this family. Translation keeps the family; whoever gets packets as they came takes
/// both.
#[inline(always)]
fn serves<F: Family>(origin: &Origin) -> bool {
    origin.forwarding.is_direct() || F::address(origin.address).is_some()
}
