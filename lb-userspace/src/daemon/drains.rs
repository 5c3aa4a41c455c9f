//! When a removed origin's number may be given to another one.

use crate::datapath::flows::FlowCounts;
use lb_common::abi::OriginId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Removed origins, and since when it is known of each that nobody new comes.
#[derive(Debug, Default)]
pub(super) struct Drains {
    pub seen: BTreeMap<OriginId, Instant>,
    /// When the last sweep that counted flows began.
    pub counted_since: Option<Instant>,
}

impl Drains {
    /// Which of the removed origins no flow means any more: a sweep that began after they were removed found none. An
    /// older one may have missed the last flows that were opened.
    pub fn drained(
        &mut self,
        draining: BTreeSet<OriginId>,
        counts: &FlowCounts,
        now: Instant,
    ) -> Vec<OriginId> {
        self.seen.retain(|id, _| draining.contains(id));
        let counted_since = self.counted_since;
        let mut drained = Vec::new();
        for id in draining {
            let removed = *self.seen.entry(id).or_insert(now);
            if counted_since.is_some_and(|since| since > removed) && !counts.origins.contains_key(&id.0) {
                drained.push(id);
            }
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_a_count_that_began_after_the_removal_lets_an_origin_go() {
        let (id, start) = (OriginId(3), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counts = FlowCounts::default();
        let mut drains = Drains::default();
        let mut drained = |counts: &FlowCounts, counted, now| {
            drains.counted_since = Some(at(counted));
            drains.drained([id].into(), counts, at(now))
        };
        assert_eq!(drained(&counts, 9, 10), []);
        assert_eq!(drained(&counts, 9, 40), []);
        counts.origins.insert(3, 1);
        assert_eq!(drained(&counts, 69, 70), []);
        counts.origins.clear();
        assert_eq!(drained(&counts, 99, 100), [id]);
    }
}
