//! When a removed origin's number may be given to another one.

use lb_common::abi::OriginId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Removed origins, and since when it is known of each that nobody new comes.
#[derive(Debug, Default)]
pub(super) struct Drains {
    pub seen: BTreeMap<OriginId, Instant>,
    /// The last two, the older one first. One alone may miss a flow that goes from one table to another meanwhile.
    sweeps: [Option<Sweep>; 2],
}

/// A look at all flows.
#[derive(Debug)]
struct Sweep {
    began: Instant,
    /// Origins that some flow named, be it one that is closing.
    named: BTreeSet<OriginId>,
}

impl Drains {
    /// Takes what a sweep has found.
    pub fn swept(&mut self, began: Instant, named: BTreeSet<OriginId>) {
        let [_, last] = &mut self.sweeps;
        self.sweeps = [last.take(), Some(Sweep { began, named })];
    }

    /// Which of the removed origins no flow means any more: two sweeps that began after they were removed found none. An
    /// older one may have missed the last flows that were opened.
    pub fn drained(&mut self, draining: BTreeSet<OriginId>, now: Instant) -> Vec<OriginId> {
        self.seen.retain(|id, _| draining.contains(id));
        let mut drained = Vec::new();
        for id in draining {
            let removed = *self.seen.entry(id).or_insert(now);
            let misses = |sweep: &Option<Sweep>| {
                let sweep = sweep.as_ref();
                sweep.is_some_and(|sweep| sweep.began > removed && !sweep.named.contains(&id))
            };
            if self.sweeps.iter().all(misses) {
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
    fn only_counts_that_began_after_the_removal_let_an_origin_go() {
        let (id, start) = (OriginId(3), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut drains = Drains::default();
        // When a sweep began, what it found, and who is let go a second later.
        for (began, named, expected) in [
            (9, &[][..], &[][..]),
            (10, &[], &[]),
            (20, &[], &[]),
            (30, &[id], &[]),
            (40, &[], &[]),
            (50, &[OriginId(4)], &[id]),
        ] {
            drains.swept(at(began), named.iter().copied().collect());
            assert_eq!(drains.drained([id].into(), at(began + 1)), expected, "{began}");
        }
        // Removed again, it waits again.
        assert_eq!(drains.drained(BTreeSet::new(), at(60)), []);
        assert_eq!(drains.drained([id].into(), at(60)), []);
    }
}
