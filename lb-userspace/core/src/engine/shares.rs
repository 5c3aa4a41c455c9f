//! Shares of new flows that were worked out before: views go out every second, and most of what they say stays.

use super::routing::Traffic;
use crate::steering::{Family, SheddingTable};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the views have needed.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// Those of the view before.
    former: BTreeMap<SheddingTable, Arc<BTreeMap<u32, usize>>>,
    counts: BTreeMap<SheddingTable, Arc<BTreeMap<u32, usize>>>,
    /// By load balancer of the configuration: the pool with the largest share, and whether it is the fallback pool in that
    /// role. Of one view only.
    pub in_use: BTreeMap<(usize, Family, Traffic), (Option<String>, bool)>,
}

impl Shares {
    /// Begins another view: what this one does not need either is forgotten.
    pub fn renew(&mut self) {
        self.former = core::mem::take(&mut self.counts);
        self.in_use.clear();
    }

    /// [`SheddingTable::counts`].
    pub fn counts(&mut self, table: SheddingTable) -> Arc<BTreeMap<u32, usize>> {
        if let Some(counts) = self.counts.get(&table) {
            return Arc::clone(counts);
        }
        let counts = match self.former.remove(&table) {
            Some(counts) => counts,
            None => Arc::new(table.counts()),
        };
        self.counts.insert(table, Arc::clone(&counts));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::{Base, Rest, Shed};

    #[test]
    fn what_a_view_needs_again_is_not_worked_out_again() {
        let table = |classes| SheddingTable {
            base: Base::List(vec![1, 2]),
            sheds: vec![Shed {
                owner: 1,
                identity: 7,
                classes,
            }],
            rest: Rest::Pools,
        };
        let mut shares = Shares::default();
        let [first, other] = [100, 200].map(|classes| shares.counts(table(classes)));
        assert_eq!(*first, BTreeMap::from([(1, 2048 - 100), (2, 100)]));
        assert_eq!(*other, table(200).counts());
        shares.renew();
        for _ in 0..2 {
            assert!(Arc::ptr_eq(&first, &shares.counts(table(100))));
        }
        shares.renew();
        assert!(Arc::ptr_eq(&first, &shares.counts(table(100))));
        assert!(
            !Arc::ptr_eq(&other, &shares.counts(table(200))),
            "nobody has asked for it"
        );
    }
}
