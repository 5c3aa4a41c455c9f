//! The filter of established flows in [`MemoryTables`], as userspace keeps it.

use super::MemoryTables;
use crate::abi::{FlowFilter, Half, HashKey};
use crate::hash;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Size of each half in bits, as a power of two: so few that keys which are not there have their bits set now and then.
const BITS: u32 = 10;

impl MemoryTables {
    /// The words with which nodes begin that know no flows, and rely on that.
    pub(super) fn filter_in_use() -> RefCell<BTreeMap<u32, u64>> {
        let head = FlowFilter::new(BITS).using(Some(Half::FIRST));
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
        words.insert(FlowFilter::HEAD, head.begun().0);
    }

    /// Ends it: all established flows are announced to that half, and it is in use from now on.
    pub fn end_filter(&self) {
        let head = self.head();
        for hash in self.established_hashes(self.settings.hash_key) {
            let bit = head.place(hash);
            *self
                .flow_filter
                .borrow_mut()
                .entry(bit.index(head.spare()))
                .or_default() |= bit.mask;
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
            let bit = head.place(*hash);
            words.get(&bit.index(half)).copied().unwrap_or_default() & bit.mask == 0
        };
        self.established_hashes(secret)
            .iter()
            .filter(|hash| hidden(hash))
            .count()
    }

    /// What must hold when an entry of an established flow is added.
    pub(super) fn announced(&self, hash: u32) {
        let head = self.head();
        if head.bits() == 0 {
            return;
        }
        let (bit, words) = (head.place(hash), self.flow_filter.borrow());
        for half in Half::BOTH {
            let word = words.get(&bit.index(half)).copied().unwrap_or_default();
            assert!(
                word & bit.mask != 0,
                "an entry that was not announced to the {half:?} half"
            );
        }
    }
}
