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

    /// Lets an application have the run that another one had on the same address, so that its flows stay where they are. `wanted`
    /// are all applications of the next generation: who stays keeps his run for himself, because new flows of two applications
    /// may have different pools.
    pub fn inherit(&mut self, application: u32, former: &Application, wanted: &BTreeSet<u32>) {
        let run = former.buckets;
        let mut others = self.runs.iter();
        let taken = others.any(|(other, held)| *held == run && wanted.contains(other));
        if run != BucketRun::NONE && !taken && !self.runs.contains_key(&application) {
            self.runs.insert(application, run);
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
        // As long as there are buckets, there may be flows of origins that answer directly, whatever the pools are now.
        let flags = ApplicationFlags(match bits {
            Some(_) => ApplicationFlags::DIRECT | ApplicationFlags::UNTRACKED,
            None => ApplicationFlags::DIRECT,
        });
        let none = (BucketRun::NONE, ApplicationFlags(0));
        if let Some(run) = self.runs.get(&application) {
            return (*run, flags);
        }
        let Some(bits) = bits else {
            return none;
        };
        let Some(base) = self.arena.allocate(2 << bits) else {
            return none;
        };
        let run = BucketRun::new(base, bits);
        self.runs.insert(application, run);
        ops.push(TableOp::Buckets {
            base,
            count: run.rows(),
        });
        (run, flags)
    }

    /// Frees all runs but those of these applications' records: also one that was given to an application in vain, because a
    /// later step failed, and has not been emptied.
    pub fn retain<'a>(&mut self, records: impl Iterator<Item = &'a Application>) {
        let used: BTreeSet<(u32, u32)> = records.map(|record| (record.id, record.buckets.0)).collect();
        let former = core::mem::take(&mut self.runs);
        let (kept, gone) =
            (former.into_iter()).partition(|(application, run)| used.contains(&(*application, run.0)));
        self.runs = kept;
        let gone: BTreeMap<u32, BucketRun> = gone;
        // One that was inherited has two applications for a while.
        let freed: BTreeMap<u32, BucketRun> = gone.into_values().map(|run| (run.base(), run)).collect();
        for run in freed.into_values() {
            if !self.runs.values().any(|kept| *kept == run) {
                self.arena.release(run.base(), run.rows());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u32, buckets: BucketRun) -> Application {
        Application {
            id,
            buckets,
            ..Application::default()
        }
    }

    #[test]
    fn who_listens_where_another_did_has_his_flows() {
        let mut buckets = Buckets::new(4 << LEAST_BITS);
        let mut ops = Vec::new();
        let (run, _) = buckets.place(7, Some(LEAST_BITS), &mut ops);
        let former = record(7, run);
        let emptied = ops.len();
        // Who stays keeps it.
        buckets.inherit(8, &former, &BTreeSet::from([7, 8]));
        let (other, _) = buckets.place(8, Some(LEAST_BITS), &mut ops);
        assert_ne!(other, run);
        buckets.retain([former].iter());
        // Two that come have not the same.
        let wanted = BTreeSet::from([9, 10]);
        buckets.inherit(9, &former, &wanted);
        buckets.inherit(10, &former, &wanted);
        ops.truncate(emptied);
        assert_eq!(buckets.place(9, Some(LEAST_BITS), &mut ops).0, run);
        assert_eq!(ops.len(), emptied, "it is not emptied");
        assert_ne!(buckets.place(10, Some(LEAST_BITS), &mut ops).0, run);
        // That generation failed: the former one has it still.
        buckets.retain([former].iter());
        assert_eq!(buckets.place(7, Some(LEAST_BITS), &mut ops).0, run);
        buckets.inherit(9, &former, &wanted);
        buckets.retain([record(9, run)].iter());
        assert_ne!(buckets.place(11, Some(LEAST_BITS), &mut ops).0, run);
        assert_eq!(
            buckets.place(12, Some(LEAST_BITS), &mut ops).0,
            BucketRun::NONE,
            "all rows are taken"
        );
    }

    /// What was given when a generation failed has not been emptied.
    #[test]
    fn a_run_that_was_given_in_vain_is_given_and_emptied_again() {
        let mut buckets = Buckets::new(4 << LEAST_BITS);
        let live = record(7, BucketRun::NONE);
        let mut lost = Vec::new();
        let (run, _) = buckets.place(7, Some(LEAST_BITS), &mut lost);
        buckets.retain([live].iter());
        let mut ops = Vec::new();
        assert_eq!(buckets.place(7, Some(LEAST_BITS), &mut ops).0, run);
        assert_eq!(ops, lost);
    }

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
        let direct = ApplicationFlags(ApplicationFlags::DIRECT);
        assert_eq!(buckets.place(7, None, &mut ops), (first, direct));
        let (second, _) = buckets.place(8, Some(LEAST_BITS), &mut ops);
        assert_ne!(second.base(), first.base());
        // No room is no error.
        assert_eq!(
            buckets.place(9, Some(LEAST_BITS), &mut ops),
            (BucketRun::NONE, ApplicationFlags(0))
        );
        buckets.retain([record(8, second)].iter());
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
        let record = record(3, BucketRun::new(0, LEAST_BITS));
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
