//! The filter of established flows: see [`FlowFilter`].
//!
//! 1. Whoever adds an entry to the memory of established flows has [`announce`]d it before, in both halves.
//! 2. Whoever is told that a flow [`is_absent`] would not have found its entry.
//!
//! Userspace empties the half that is not in use, waits until every packet of that time is done, so that what they add is
//! either there by now or is announced to the empty half, and then announces all entries that it finds.

use super::family::Family;
use super::tables::Tables;
use crate::abi::{FlowFilter, Half, HashKey};

#[inline(always)]
fn head<T: Tables>(tables: &T) -> FlowFilter {
    FlowFilter(tables.flow_filter(FlowFilter::HEAD).unwrap_or_default())
}

/// Whether the memory of established flows has no entry of a key.
#[inline(always)]
pub(super) fn is_absent<F: Family, T: Tables>(tables: &T, secret: HashKey, key: &F::Key) -> bool {
    let head = head(tables);
    let Some(half) = head.in_use() else {
        return false;
    };
    let bit = head.place(half, F::key_hash(secret, key));
    tables
        .flow_filter(bit.index)
        .is_some_and(|word| word & bit.mask == 0)
}

/// Makes sure that nobody is told that a key is absent.
#[inline(always)]
pub(super) fn announce<F: Family, T: Tables>(tables: &T, key: &F::Key) {
    let head = head(tables);
    let Some(settings) = tables.settings() else {
        return;
    };
    if head.room() == 0 {
        return;
    }
    let hash = F::key_hash(settings.hash_key, key);
    for half in Half::BOTH {
        let bit = head.place(half, hash);
        let unset = |word| word & bit.mask == 0;
        if tables.flow_filter(bit.index).is_some_and(unset) {
            tables.set_flow_filter(bit.index, bit.mask);
        }
    }
}
