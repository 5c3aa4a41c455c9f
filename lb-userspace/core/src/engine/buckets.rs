//! Where what is known of TCP flows without entries stands: a run of buckets for each application that may have some.

use crate::arena::Arena;
use crate::image::TableOp;
use lb_common::abi::{Application, ApplicationFlags, BucketRun};
use std::collections::{BTreeMap, BTreeSet};

/// Fewest and most buckets of one family of an application, as powers of two.
pub const LEAST_BITS: u32 = 8;
const MOST_BITS: u32 = 20;

/// Buckets for tables of that many slots, as a power of two: each slot has its share of them.
pub fn bits(slots: u32) -> u32 {
    slots.max(1).ilog2().clamp(LEAST_BITS, MOST_BITS)
}

/// The runs, by application.
#[derive(Clone, Debug)]
pub struct Buckets {
    arena: Arena,
    runs: BTreeMap<u32, BucketRun>,
}

impl Buckets {
    pub fn new(capacity: u32) -> Self {
        Self {
            arena: Arena::new(capacity.min(BucketRun::MAX_ROWS)),
            runs: BTreeMap::new(),
        }
    }

    /// Takes over the runs that a former daemon gave: whoever owns their buckets keeps his flows.
    pub fn adopt<'a>(&mut self, records: impl Iterator<Item = &'a Application>) {
        for record in records.filter(|record| record.buckets != BucketRun::NONE) {
            if self.runs.insert(record.id, record.buckets).is_none() {
                self.arena.reserve(record.buckets.base(), record.buckets.rows());
            }
        }
    }

    /// The run of an application, and what its flags say: a run that it has already, of whatever size, because flows are in it.
    /// `bits`: of the run that it wants; `None`: its new flows need entries. Without room they do as well.
    pub fn place(
        &mut self,
        application: u32,
        bits: Option<u32>,
        ops: &mut Vec<TableOp>,
    ) -> (BucketRun, ApplicationFlags) {
        let untracked = ApplicationFlags(match bits {
            Some(_) => ApplicationFlags::UNTRACKED,
            None => 0,
        });
        let tracked = ApplicationFlags(0);
        if let Some(run) = self.runs.get(&application) {
            return (*run, untracked);
        }
        let Some(bits) = bits else {
            return (BucketRun::NONE, tracked);
        };
        let Some(base) = self.arena.allocate(2 << bits) else {
            return (BucketRun::NONE, tracked);
        };
        let run = BucketRun::new(base, bits);
        self.runs.insert(application, run);
        ops.push(TableOp::Buckets {
            base,
            count: run.rows(),
        });
        (run, untracked)
    }

    /// Frees the runs of all applications but these.
    pub fn retain(&mut self, used: &BTreeSet<u32>) {
        let arena = &mut self.arena;
        self.runs.retain(|application, run| {
            let kept = used.contains(application);
            if !kept {
                arena.release(run.base(), run.rows());
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_kept_as_long_as_its_application_is_there() {
        let mut buckets = Buckets::new(4 << LEAST_BITS);
        let mut ops = Vec::new();
        let (first, flags) = buckets.place(7, Some(LEAST_BITS), &mut ops);
        assert!(flags.has(ApplicationFlags::UNTRACKED));
        assert_eq!(
            ops,
            [TableOp::Buckets {
                base: first.base(),
                count: 2 << LEAST_BITS
            }]
        );
        // New flows need entries from now on; those there are stay where they are.
        assert_eq!(buckets.place(7, None, &mut ops), (first, ApplicationFlags(0)));
        let (second, _) = buckets.place(8, Some(LEAST_BITS), &mut ops);
        assert_ne!(second.base(), first.base());
        // No room is no error.
        assert_eq!(
            buckets.place(9, Some(LEAST_BITS), &mut ops),
            (BucketRun::NONE, ApplicationFlags(0))
        );
        buckets.retain(&BTreeSet::from([8]));
        assert_eq!(buckets.place(7, None, &mut ops).0, BucketRun::NONE);
        assert_eq!(buckets.place(8, Some(12), &mut ops).0, second);
        assert_eq!(ops.len(), 2);
        assert_eq!(
            buckets.place(9, Some(LEAST_BITS), &mut ops).0.base(),
            first.base()
        );
    }

    #[test]
    fn what_a_former_daemon_gave_is_not_given_again() {
        let mut buckets = Buckets::new(4 << LEAST_BITS);
        let record = Application {
            id: 3,
            buckets: BucketRun::new(0, LEAST_BITS),
            ..Application::default()
        };
        buckets.adopt([record, record].iter());
        let mut ops = Vec::new();
        assert_eq!(buckets.place(3, Some(LEAST_BITS), &mut ops).0, record.buckets);
        assert_eq!(ops, []);
        assert_eq!(
            buckets.place(4, Some(LEAST_BITS), &mut ops).0.base(),
            2 << LEAST_BITS
        );
    }

    #[test]
    fn buckets_are_as_many_as_slots() {
        assert_eq!([0, 1, 512, 2048, 1 << 22].map(bits), [8, 8, 9, 11, 20]);
    }
}
