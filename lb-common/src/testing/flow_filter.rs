//! The filter of established flows in [`MemoryTables`], as userspace keeps it.

use super::MemoryTables;
use crate::abi::{FlowFilter, Half, HashKey};
use crate::hash;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Sizes of a half in bits, as powers of two, in turns: so few that keys which are not there have their bits set now and then.
const BITS: [u32; 3] = [10, 7, 9];

impl MemoryTables {
    /// The words with which nodes begin that know no flows, and rely on that.
    pub(super) fn filter_in_use() -> RefCell<BTreeMap<u32, u64>> {
        let head = FlowFilter::new(BITS[0]).using(Some(Half::FIRST));
        RefCell::new([(FlowFilter::HEAD, head.0)].into())
    }

    fn head(&self) -> FlowFilter {
        let words = self.flow_filter.borrow();
        FlowFilter(words.get(&FlowFilter::HEAD).copied().unwrap_or_default())
    }

    /// Begins a sweep: the half that is not in use is emptied.
    pub fn begin_filter(&self) {
        let head = self.head();
        let mut words = self.flow_filter.borrow_mut();
        let spare = head.spare().number();
        words.retain(|&index, _| index < 2 || index % 2 != spare);
        let begun = head.begun();
        let bits = BITS[(begun.0 >> 2) as usize % BITS.len()];
        words.insert(FlowFilter::HEAD, begun.sized(head.spare(), bits).0);
    }

    /// Ends it: all established flows are announced to that half, and it is in use from now on.
    pub fn end_filter(&self) {
        let head = self.head();
        for hash in self.established_hashes(self.settings.hash_key) {
            let bit = head.place(head.spare(), hash);
            *self.flow_filter.borrow_mut().entry(bit.index).or_default() |= bit.mask;
        }
        let head = head.using(Some(head.spare()));
        self.flow_filter.borrow_mut().insert(FlowFilter::HEAD, head.0);
    }

    fn established_hashes(&self, secret: HashKey) -> Vec<u32> {
        let (flows4, flows6) = (self.flows4.borrow(), self.flows6.borrow());
        let hashes = flows4.keys().map(|key| hash::key4(secret, key));
        hashes
            .chain(flows6.keys().map(|key| hash::key6(secret, key)))
            .collect()
    }

    /// How many entries of established flows nobody would find who asks the filter first.
    #[must_use]
    pub fn hidden(&self, secret: HashKey) -> usize {
        let head = self.head();
        let Some(half) = head.in_use() else { return 0 };
        let words = self.flow_filter.borrow();
        let hidden = |hash: &u32| {
            let bit = head.place(half, *hash);
            words.get(&bit.index).copied().unwrap_or_default() & bit.mask == 0
        };
        self.established_hashes(secret)
            .iter()
            .filter(|hash| hidden(hash))
            .count()
    }

    /// What must hold when an entry of an established flow is added.
    pub(super) fn announced(&self, hash: u32) {
        let head = self.head();
        if head.room() == 0 {
            return;
        }
        let words = self.flow_filter.borrow();
        for half in Half::BOTH {
            let bit = head.place(half, hash);
            let word = words.get(&bit.index).copied().unwrap_or_default();
            assert!(
                word & bit.mask != 0,
                "an entry that was not announced to the {half:?} half"
            );
        }
    }
}
