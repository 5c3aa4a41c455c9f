//! Affinity: a client's next flow goes where its last one went, as long as that origin serves.

use super::tables::Tables;
use crate::abi::{Affinity, AffinityKey, Application, Ip, OriginId};

/// What binds a client to an origin, if it has been seen within the application's time; else a binding to
/// [`OriginId::NONE`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, application: &Application, client: Ip, now: u32) -> Affinity {
    match tables.affinity(&key(application, client)) {
        Some(bound)
            if bound.epoch == application.affinity_epoch && idle(&bound, now) <= application.affinity_ttl =>
        {
            bound
        }
        _ => Affinity::default(),
    }
}

/// Binds a client to the origin of a flow that it opens, or renews what binds it: at most once in an eighth of the time.
#[inline(always)]
pub fn bind<T: Tables>(
    tables: &T,
    application: &Application,
    client: Ip,
    before: &Affinity,
    origin: OriginId,
    now: u32,
) {
    if before.origin == origin && idle(before, now) <= application.affinity_ttl >> 3 {
        return;
    }
    let affinity = Affinity {
        origin,
        epoch: application.affinity_epoch,
        seen: now,
        reserved: 0,
    };
    tables.bind(&key(application, client), &affinity);
}

#[inline(always)]
fn key(application: &Application, client: Ip) -> AffinityKey {
    AffinityKey {
        application: application.id,
        client,
    }
}

/// Jiffies since a client was seen. Another CPU may have stamped it a jiffy after this one read its clock.
#[inline(always)]
fn idle(bound: &Affinity, now: u32) -> u32 {
    let idle = now.wrapping_sub(bound.seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}
