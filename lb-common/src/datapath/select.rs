//! Which origin a new flow gets.
//!
//! 1. The one that the client is bound to, as long as it serves: looked up in the stage before.
//! 2. The application's pools, in the order its steering gives.
//! 3. In each pool a few probes of its table, entered by the flow's hash (or the client's), two owners each: the first
//!    origin that is up, reachable and not full. Slots differ, so the share of an origin that just went down spreads over
//!    the others by weight, before any table is rebuilt.
//! 4. The fallback pool, whose health is ignored.

use super::affinity;
use super::bucket::{self, Owner};
use super::connect;
use super::family::Family;
use super::parse::IPV6_LEN;
use super::scratch::{Errand, Scratch, Search};
use super::tables::Tables;
use super::verdict::{DropReason, Reply};
use super::{Stage, Step, drop};
use crate::abi::{
    Application, Origin, OriginId, OriginState, PoolFlags, PoolId, Protocol, Settings, Steering, TableKind,
};
use crate::hash;
use crate::packet::Packet;

/// Pools that one packet tries before the fallback pool. Userspace lists usable pools only, so the second try is rare.
pub const MAX_POOLS: u32 = 4;
/// Slots of one pool that one packet tries. Each names two origins, so that one origin's death alone never empties a pool.
const MAX_SLOTS: u32 = 8;

/// Seconds after which nobody is believed to count flows any more.
pub const SWEEP_SECONDS: u32 = 60;

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

/// Chooses the origin of the scratch's packet, which belongs to no known flow. The search was begun by the stage before.
#[inline(always)]
pub fn select<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Scratch {
        opening,
        search,
        choice,
        ..
    } = scratch;
    // A flow that needs no entry goes on where it began.
    if search.opens == 0
        && scratch.bucket != Scratch::NO_BUCKET
        && let Some(Owner { id, role, resets }) = bucket::owner(tables, scratch.bucket)
    {
        search.resets = resets as u32;
        *choice = Choice { id, role };
        return Step::Go(Stage::Connect);
    }
    // The client may be bound to an origin.
    if choice.id == OriginId::NONE {
        *choice = choose(packet, tables, &opening.application, search).unwrap_or_default();
    }
    let Choice { id, role } = *choice;
    if id == OriginId::NONE {
        return refuse(scratch);
    }
    if search.opens == 0 {
        // Only a flow of which the node need not remember anything can go on.
        let origin = tables.origin(id);
        if !origin.is_some_and(|origin| origin.forwarding.is_direct()) {
            scratch.reply = Reply::ResetUnknownFlow;
            return Step::Go(Stage::Reply);
        }
    } else if opening.application.affinity_ttl != 0 && role == Role::Steered {
        // The pool of last resort binds nobody: its clients come back as soon as another pool serves.
        if let Some(origin) = tables.origin(id) {
            affinity::bind(tables, opening, search, id, &origin);
        }
    }
    Step::Go(Stage::Connect)
}

/// Begins the search for an origin of the scratch's packet.
#[inline(always)]
pub(super) fn begin<F: Family>(settings: &Settings, scratch: &mut Scratch) {
    let subject = &F::draft(scratch).subject;
    let arriving = subject.arriving;
    let opens = subject.opens();
    let hashes = Hashes {
        flow: F::flow_hash(settings.hash_key, &arriving),
        client: F::client_hash(settings.hash_key, arriving.source),
    };
    scratch.hashes = hashes;
    let bucket = bucket::hash::<F>(settings.hash_key, &scratch.opening.application, &arriving);
    scratch.bucket = match bucket::row::<F>(settings.hash_key, &scratch.opening.application, &arriving) {
        Some(row) => row,
        None => Scratch::NO_BUCKET,
    };
    scratch.choice = Choice::default();
    scratch.search = Search {
        // What binds a client may have been evicted: by its address it is likely to find back.
        flow: if let Some(hash) = bucket {
            hash
        } else if scratch.opening.application.affinity_ttl != 0 {
            hashes.client
        } else {
            hashes.flow
        },
        client: hashes.client,
        source: arriving.source.into(),
        v6: (F::HEADER_LEN == IPV6_LEN) as u32,
        tcp: (arriving.protocol == Protocol::TCP) as u32,
        opens: opens as u32,
        parity: scratch.opening.parity,
        now: scratch.opening.now,
        avoid: scratch.avoid,
        ..Search::default()
    };
}

/// Chooses the origin that the client is bound to, when it can serve.
#[inline(always)]
pub(super) fn recall<T: Tables>(tables: &T, scratch: &mut Scratch) {
    let Scratch {
        opening,
        search,
        choice,
        ..
    } = scratch;
    search.bound = affinity::find(tables, opening, search.source);
    let id = search.bound.origin;
    if id != OriginId::NONE && id != search.avoid && usable(tables, id, Role::Steered, search) {
        choice.id = id;
    }
}

/// What becomes of a packet that no origin can serve.
#[inline(always)]
fn refuse(scratch: &mut Scratch) -> Step {
    if scratch.errand == Errand::Open {
        // Not before it is certain that the SYN is not of a flow which has its origin.
        return Step::Go(connect::attempted(scratch));
    }
    // What passes by itself is no reason for a refusal, which would be final: a neighbour may answer and a flow may end
    // before the client tries again. So Linux does when a listener's queue is full (`tcp_abort_on_overflow`).
    if scratch.search.unresolved != 0 {
        return drop(DropReason::NoNextHop);
    }
    if scratch.search.full != 0 {
        return drop(DropReason::OriginsFull);
    }
    scratch.reply = if scratch.search.opens == 0 {
        Reply::ResetUnknownFlow
    } else if scratch.search.tcp != 0 {
        Reply::ResetNoOrigin
    } else {
        Reply::UnreachableNoOrigin
    };
    Step::Go(Stage::Reply)
}

/// Chooses the origin of a new flow; `None` when nobody can serve it.
#[inline(always)]
fn choose<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    application: &Application,
    search: &mut Search,
) -> Option<Choice> {
    let mut attempt = 0;
    while attempt < MAX_POOLS {
        let list = application.pools;
        // What the verifier learned of them would be walked through all pools.
        let steering = Steering(packet.opaque(list.steering.0 as usize) as u32);
        let extent = packet.opaque(list.extent as usize) as u32;
        let ordered = steering == Steering::ORDERED;
        if ordered && attempt >= extent {
            break;
        }
        let entry = if steering == Steering::WEIGHTED_BY_CLIENT {
            search.client
        } else {
            search.flow
        };
        let index = if ordered {
            attempt
        } else {
            hash::pool_probe(entry, attempt >> 1) & extent
        };
        let first = ordered || attempt & 1 == 0;
        attempt += 1;
        let Some(slot) = tables.slot(list.base.wrapping_add(index)) else {
            break;
        };
        let pool = PoolId(if first { slot.owner } else { slot.alternate });
        if pool == PoolId::NONE {
            // What all pools give up is the fallback pool's.
            break;
        }
        if let Some(choice) = pick(tables, pool, Role::Steered, search) {
            return Some(choice);
        }
    }
    if application.fallback == PoolId::NONE {
        return None;
    }
    pick(tables, application.fallback, Role::LastResort, search)
}

#[inline(always)]
fn pick<T: Tables>(tables: &T, pool: PoolId, role: Role, search: &mut Search) -> Option<Choice> {
    let pool = tables.pool(pool.row(search.parity))?;
    let table = pool.table(match (role, search.v6 != 0) {
        (Role::Steered, false) => TableKind::Steered4,
        (Role::Steered, true) => TableKind::Steered6,
        (Role::LastResort, false) => TableKind::LastResort4,
        (Role::LastResort, true) => TableKind::LastResort6,
    });
    if table.size == 0 {
        return None;
    }
    let entry = if pool.flags.has(PoolFlags::BY_CLIENT) {
        search.client
    } else {
        search.flow
    };
    search.spare = OriginId::NONE;
    let mut attempt = 0;
    while attempt < MAX_SLOTS {
        let index = hash::probe(entry, attempt) & table.size.wrapping_sub(1);
        attempt += 1;
        let slot = tables.slot(table.base.wrapping_add(index))?;
        for owner in [slot.owner, slot.alternate] {
            let id = OriginId(owner);
            if usable(tables, id, role, search) {
                if id != search.avoid {
                    return Some(Choice { id, role });
                }
                search.spare = id;
            }
            search.detour = 1;
        }
    }
    // Another pool is no substitute for an origin that may only have lost a packet.
    let id = search.spare;
    (id != OriginId::NONE).then_some(Choice { id, role })
}

/// Whether an origin can serve now. If not, the search learns why, where that may change by itself.
#[inline(always)]
fn usable<T: Tables>(tables: &T, id: OriginId, role: Role, search: &mut Search) -> bool {
    let Some(origin) = tables.origin(id) else {
        return false;
    };
    if !role.accepts(origin.state) || !serves(&origin, search.v6 != 0) {
        return false;
    }
    match tables.hop(origin.hop) {
        Some(hop) if hop.resolved != 0 => {}
        Some(_) | None => {
            search.unresolved = 1;
            return false;
        }
    }
    let capped = search.opens != 0 && origin.max_flows != 0;
    if capped && tables.established(id) >= origin.max_flows && is_counted(tables, search.now) {
        search.full = 1;
        return false;
    }
    true
}

/// Whether somebody takes flows off that have timed out. Without the daemon they would fill their origins for good, and
/// a cap would be an outage: then there are none.
#[inline(always)]
fn is_counted<T: Tables>(tables: &T, now: u32) -> bool {
    let second = tables.settings().map_or(0, |settings| settings.second);
    let swept = tables.swept_at();
    let age = now.wrapping_sub(swept);
    // Userspace may be a jiffy ahead.
    swept != 0 && (age <= second.wrapping_mul(SWEEP_SECONDS) || age > u32::MAX / 2)
}

/// Whether an origin takes packets of a family. Translation keeps the family; whoever gets packets as they came takes both.
#[inline(always)]
fn serves(origin: &Origin, v6: bool) -> bool {
    origin.forwarding.is_direct() || origin.address.v4().is_none() == v6
}
