//! Which origin a new flow gets.
//!
//! 1. The application's pools, in the order its steering gives.
//! 2. In each pool a few probes of its table, entered by the flow's hash (or the client's), two owners each: the first
//!    origin that is up and reachable. Slots differ, so the share of an origin that just went down spreads over the
//!    others by weight, before any table is rebuilt.
//! 3. The fallback pool, whose health is ignored.

use super::family::{Family, V4, V6};
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::Scratch;
use super::tables::Tables;
use super::verdict::{DropReason, Reply};
use super::{Stage, Step, drop};
use crate::abi::{
    Application, OriginId, OriginState, Parity, PoolFlags, PoolId, Protocol, Steering, TableKind,
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
    let opening = scratch.opening;
    let subject = &F::draft(scratch).subject;
    let tcp = subject.arriving.protocol == Protocol::TCP;
    if tcp && !subject.segment.flags.opens() {
        scratch.reply = Reply::ResetUnknownFlow;
        return Step::Go(Stage::Reply);
    }
    if subject.network.ttl <= 1 {
        return drop(DropReason::TtlExpired);
    }
    let hashes = Hashes {
        flow: F::flow_hash(settings.hash_key, &subject.arriving),
        client: F::client_hash(settings.hash_key, subject.arriving.source),
    };
    scratch.hashes = hashes;
    let unresolved = &mut F::draft(scratch).unresolved;
    *unresolved = 0;
    let choice = choose::<F, T>(tables, opening.parity, &opening.application, hashes, unresolved);
    match choice {
        Some(choice) => {
            scratch.choice = choice;
            Step::Go(Stage::Connect)
        }
        // The client's next attempt may find the neighbour resolved: a refusal would be final.
        None if F::draft(scratch).unresolved != 0 => drop(DropReason::NoNextHop),
        None => {
            scratch.reply = if tcp {
                Reply::ResetNoOrigin
            } else {
                Reply::UnreachableNoOrigin
            };
            Step::Go(Stage::Reply)
        }
    }
}

/// Chooses the origin of a new flow; `None` when nobody can serve it. `unresolved` becomes 1 when somebody could, but how
/// to reach it is not known yet. It lies in the scratch, because a local would double the paths that the verifier walks.
#[inline(always)]
pub fn choose<F: Family, T: Tables>(
    tables: &T,
    parity: Parity,
    application: &Application,
    hashes: Hashes,
    unresolved: &mut u32,
) -> Option<Choice> {
    let list = application.pools;
    let entry = if list.steering == Steering::WEIGHTED_BY_CLIENT {
        hashes.client
    } else {
        hashes.flow
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
        if let Some(choice) = pick::<F, T>(
            tables,
            parity,
            PoolId(if first { slot.owner } else { slot.alternate }),
            Role::Steered,
            hashes,
            unresolved,
        ) {
            return Some(choice);
        }
    }
    if application.fallback == PoolId::NONE {
        return None;
    }
    pick::<F, T>(
        tables,
        parity,
        application.fallback,
        Role::LastResort,
        hashes,
        unresolved,
    )
}

#[inline(always)]
fn pick<F: Family, T: Tables>(
    tables: &T,
    parity: Parity,
    pool: PoolId,
    role: Role,
    hashes: Hashes,
    unresolved: &mut u32,
) -> Option<Choice> {
    let pool = tables.pool(pool.row(parity))?;
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
        hashes.client
    } else {
        hashes.flow
    };
    let mut attempt = 0;
    while attempt < MAX_ORIGINS {
        let index = hash::probe(entry, attempt >> 1) & table.size.wrapping_sub(1);
        let first = attempt & 1 == 0;
        attempt += 1;
        let slot = tables.slot(table.base.wrapping_add(index))?;
        let id = OriginId(if first { slot.owner } else { slot.alternate });
        let Some(origin) = tables.origin(id) else { continue };
        if !role.accepts(origin.state) {
            continue;
        }
        match tables.hop(origin.hop) {
            Some(hop) if hop.resolved != 0 => return Some(Choice { id, role }),
            Some(_) | None => *unresolved = 1,
        }
    }
    None
}
