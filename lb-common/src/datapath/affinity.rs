//! Affinity: a client's next flow goes where its last one went, as long as that origin serves.

use super::scratch::{Opening, Search};
use super::tables::Tables;
use crate::abi::{Affinity, AffinityKey, Ip, Origin, OriginId};

/// What binds a client to an origin, if it has been seen within the application's time and the origin is still the same;
/// else a binding to [`OriginId::NONE`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, Opening { application, now, .. }: &Opening, client: Ip) -> Affinity {
    let key = AffinityKey {
        application: application.id,
        client,
    };
    match tables.affinity(&key) {
        Some(bound)
            if bound.epoch == application.affinity_epoch
                && idle(&bound, *now) <= application.affinity_ttl
                && matches!(tables.origin(bound.origin), Some(origin) if bound.mark == Affinity::mark(&origin)) =>
        {
            bound
        }
        _ => Affinity::default(),
    }
}

/// Binds the client to the origin of a flow that it opens, or renews what binds it: at most once in an eighth of the
/// time.
#[inline(always)]
pub fn bind<T: Tables>(
    tables: &T,
    Opening { application, now, .. }: &Opening,
    search: &Search,
    id: OriginId,
    origin: &Origin,
) {
    let bound = &search.bound;
    if bound.origin == id && idle(bound, *now) <= application.affinity_ttl >> 3 {
        return;
    }
    let key = AffinityKey {
        application: application.id,
        client: search.source,
    };
    let affinity = Affinity {
        origin: id,
        epoch: application.affinity_epoch,
        seen: *now,
        mark: Affinity::mark(origin),
    };
    tables.bind(&key, &affinity);
}

/// Jiffies since a client was seen. Another CPU may have stamped it a jiffy after this one read its clock.
#[inline(always)]
fn idle(bound: &Affinity, now: u32) -> u32 {
    let idle = now.wrapping_sub(bound.seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}
