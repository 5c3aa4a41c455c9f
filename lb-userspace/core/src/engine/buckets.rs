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
    /// Of the generation that is being made, or else of the live one.
    runs: BTreeMap<u32, BucketRun>,
    /// All that are allocated: those of the live generation, too.
    given: BTreeSet<BucketRun>,
}

/// Who listens on an address in the generation that is being made, and who does in the live one.
#[derive(Clone, Copy, Debug)]
pub struct Succession<'a> {
    pub application: u32,
    pub former: Option<&'a Application>,
}

impl Succession<'_> {
    fn is_same(&self) -> bool {
        self.former.is_some_and(|former| former.id == self.application)
    }
}

impl Buckets {
    pub fn new(capacity: u32) -> Self {
        Self {
            arena: Arena::new(capacity.min(BucketRun::MAX_ROWS)),
            runs: BTreeMap::new(),
            given: BTreeSet::new(),
        }
    }

    /// Takes over the runs that a former daemon gave: whoever owns their buckets keeps his flows.
    pub fn adopt<'a>(&mut self, records: impl Iterator<Item = &'a Application>) {
        for record in records.filter(|record| record.buckets != BucketRun::NONE) {
            self.runs.insert(record.id, record.buckets);
            if self.given.insert(record.buckets) {
                self.arena.reserve(record.buckets.base(), record.buckets.rows());
            }
        }
    }

    /// Has flows stay where they are when an address gets another application: that one gets the run of the one before. Who
    /// listens on one of his addresses still keeps his run, because new flows of two applications may have different pools.
    pub fn hand_on(&mut self, addresses: &[Succession<'_>]) {
        let stay: BTreeSet<u32> = (addresses.iter())
            .filter(|address| address.is_same())
            .map(|address| address.application)
            .collect();
        let mut handed: BTreeMap<u32, BucketRun> = BTreeMap::new();
        for address in addresses {
            let heir = address.application;
            let former = address.former.filter(|former| !stay.contains(&former.id));
            let Some(run) = former
                .map(|former| former.buckets)
                .filter(|run| *run != BucketRun::NONE)
            else {
                continue;
            };
            let has_one = handed.contains_key(&heir) || stay.contains(&heir) && self.runs.contains_key(&heir);
            if !has_one && !handed.values().any(|other| *other == run) {
                handed.insert(heir, run);
            }
        }
        let taken: BTreeSet<BucketRun> = handed.values().copied().collect();
        self.runs.retain(|_, run| !taken.contains(run));
        self.runs.extend(handed);
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
        self.given.insert(run);
        ops.push(TableOp::Buckets {
            base,
            count: run.rows(),
        });
        (run, flags)
    }

    /// Goes back to what these applications have, which are those of the live generation, and frees all other runs: also one that
    /// was given to an application in vain, because a later step failed, and has not been emptied.
    pub fn retain<'a>(&mut self, records: impl Iterator<Item = &'a Application>) {
        self.runs = records
            .filter(|record| record.buckets != BucketRun::NONE)
            .map(|record| (record.id, record.buckets))
            .collect();
        let used: BTreeSet<BucketRun> = self.runs.values().copied().collect();
        for run in self.given.difference(&used) {
            self.arena.release(run.base(), run.rows());
        }
        self.given = used;
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

    /// The runs of applications that listen where others did, or nobody; `None`: one that was empty.
    fn handed_on(
        buckets: &mut Buckets,
        addresses: &[(u32, Option<Application>)],
    ) -> Vec<(u32, Option<BucketRun>)> {
        let successions: Vec<_> = addresses
            .iter()
            .map(|(application, former)| Succession {
                application: *application,
                former: former.as_ref(),
            })
            .collect();
        buckets.hand_on(&successions);
        let mut found = BTreeMap::new();
        for &(application, _) in addresses {
            let mut ops = Vec::new();
            let (run, _) = buckets.place(application, Some(LEAST_BITS), &mut ops);
            found.entry(application).or_insert(ops.is_empty().then_some(run));
        }
        found.into_iter().collect()
    }

    #[test]
    fn who_listens_where_another_did_has_his_flows() {
        let run = |number: u32| BucketRun::new(number * (2 << LEAST_BITS), LEAST_BITS);
        let [a, b, c] = [(1, run(0)), (2, run(1)), (3, BucketRun::NONE)].map(|(id, run)| record(id, run));
        let with = |live: &[Application]| {
            let mut buckets = Buckets::new(8 << LEAST_BITS);
            buckets.adopt(live.iter());
            buckets
        };
        for (name, addresses, expected) in [
            (
                "nothing changes",
                vec![(1, Some(a)), (2, Some(b))],
                vec![(1, Some(run(0))), (2, Some(run(1)))],
            ),
            (
                "another name",
                vec![(7, Some(a)), (2, Some(b))],
                vec![(2, Some(run(1))), (7, Some(run(0)))],
            ),
            (
                "two instead of one",
                vec![(7, Some(a)), (8, Some(a))],
                vec![(7, Some(run(0))), (8, None)],
            ),
            (
                "one instead of two",
                vec![(7, Some(a)), (7, Some(b))],
                vec![(7, Some(run(0)))],
            ),
            (
                "a further address",
                vec![(1, Some(a)), (1, None), (2, Some(b))],
                vec![(1, Some(run(0))), (2, Some(run(1)))],
            ),
            (
                "an address of one that stays",
                vec![(1, Some(a)), (1, Some(b)), (2, Some(b))],
                vec![(1, Some(run(0))), (2, Some(run(1)))],
            ),
            (
                "a newcomer on an address of one that stays",
                vec![(1, Some(a)), (7, Some(a))],
                vec![(1, Some(run(0))), (7, None)],
            ),
            (
                "two change places",
                vec![(1, Some(b)), (2, Some(a))],
                vec![(1, Some(run(1))), (2, Some(run(0)))],
            ),
            (
                "one pushes another away",
                vec![(1, Some(b)), (2, None)],
                vec![(1, Some(run(1))), (2, None)],
            ),
            (
                "one goes elsewhere, and nobody comes",
                vec![(1, None), (2, Some(b))],
                vec![(1, Some(run(0))), (2, Some(run(1)))],
            ),
            (
                "one goes elsewhere, and another comes",
                vec![(1, None), (7, Some(a))],
                vec![(1, None), (7, Some(run(0)))],
            ),
            (
                "one without gets one",
                vec![(3, Some(c)), (3, Some(a))],
                vec![(3, Some(run(0)))],
            ),
            (
                "what has none hands nothing on",
                vec![(1, Some(c)), (3, None)],
                vec![(1, Some(run(0))), (3, None)],
            ),
        ] {
            let mut buckets = with(&[a, b, c]);
            assert_eq!(handed_on(&mut buckets, &addresses), expected, "{name}");
            // That generation failed: the live one has what it had.
            buckets.retain([a, b, c].iter());
            let unchanged = [(1, Some(a)), (2, Some(b))];
            assert_eq!(
                handed_on(&mut buckets, &unchanged),
                [(1, Some(run(0))), (2, Some(run(1)))],
                "{name}"
            );
            // No run is lost: two are in use, and there is room for four.
            let mut places = (10..).map(|id| buckets.place(id, Some(LEAST_BITS), &mut Vec::new()).0);
            assert!(places.next().unwrap() != BucketRun::NONE && places.next().unwrap() != BucketRun::NONE);
            assert_eq!(places.next(), Some(BucketRun::NONE), "{name}");
        }
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
