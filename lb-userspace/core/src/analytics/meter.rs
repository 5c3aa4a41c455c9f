//! From counters and sweeps to minutes.

use super::{Bucket, Bytes, Histogram, Slice};
use std::collections::BTreeMap;

/// What the packet path has counted of an application, since the maps were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub new_flows: u64,
}

/// What a sweep has found of an application's flows with clients of one IP version.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Open {
    /// Flows that are open.
    pub open: u64,
    /// The sum of their ages, in milliseconds.
    pub age: u64,
    /// Flows that have ended and are still remembered.
    pub closing: u64,
    /// Durations of those that it has seen the end of, in milliseconds.
    pub ended: Histogram,
}

/// What is known of an application from the last look.
#[derive(Clone, Debug, Default)]
struct Former {
    counted: Counted,
    /// Of IPv4 and of IPv6 clients.
    open: [u64; 2],
    closing: [u64; 2],
    /// How many of each version there were when somebody was there last.
    seen: [u64; 2],
    /// Flows that seem to have begun by themselves: the counter was read before they were opened, and the table after.
    early: u64,
}

/// Adds up what happens.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    former: BTreeMap<String, Former>,
    minutes: BTreeMap<(u64, Slice), Bucket>,
}

impl Meter {
    /// Counts an application from here on, that has none of its flows yet. Of one that is counted already nothing changes;
    /// of one that is not, what was before its first look is not told.
    pub fn begin(&mut self, application: &str, counted: Counted) {
        self.former.entry(application.to_owned()).or_insert(Former {
            counted,
            ..Former::default()
        });
    }

    /// Takes in what was found of an application in a minute (since 1970): its counters, read before the sweep, and the sweep's
    /// findings for IPv4 and IPv6. `served`: whether the application has addresses of each version.
    ///
    /// Counters do not know versions. What they have counted is divided by the flows of each that the sweeps have seen begin
    /// and end, those included that did both between two sweeps: they are remembered for a while.
    pub fn look(
        &mut self,
        minute: u64,
        application: &str,
        counted: Counted,
        found: &[Open; 2],
        served: [bool; 2],
    ) {
        let open = [found[0].open, found[1].open];
        let closing = [found[0].closing, found[1].closing];
        let Some(former) = self.former.get_mut(application) else {
            // What was before is not this daemon's to tell.
            self.former.insert(
                application.to_owned(),
                Former {
                    counted,
                    open,
                    closing,
                    seen: open,
                    ..Former::default()
                },
            );
            return;
        };
        // Counters fall when the maps are made anew, or the row is another's now.
        if counted.new_flows < former.counted.new_flows || counted.bytes_in < former.counted.bytes_in {
            *former = Former {
                seen: former.seen,
                ..Former::default()
            };
        }
        let opened = counted.new_flows - former.counted.new_flows;
        let (was, is): (u64, u64) = (former.open.iter().sum(), open.iter().sum());
        // More flows are open than can be: they will be counted at the next look.
        let available = was + opened;
        let ended = available.saturating_sub(is).saturating_sub(former.early);
        let early = (former.early + is).saturating_sub(available);
        let bytes = Bytes {
            ingress: counted.bytes_in - former.counted.bytes_in,
            egress: counted.bytes_out.saturating_sub(former.counted.bytes_out),
        };
        // Of each version: flows that have ended since, be they forgotten or not; those that have begun; those that were
        // there at some time.
        let gone = |v6: usize| closing[v6] + found[v6].ended.count();
        let closed = |v6: usize| gone(v6).saturating_sub(former.closing[v6]);
        let begun = |v6: usize| (open[v6] + gone(v6)).saturating_sub(former.open[v6] + former.closing[v6]);
        let there = [0, 1].map(|v6| former.open[v6].max(open[v6]) + closed(v6));
        // Where nobody is seen it is as it was, and at first as the addresses are.
        let seen = match (there, former.seen) {
            ([0, 0], [0, 0]) => served.map(u64::from),
            ([0, 0], seen) => seen,
            (there, _) => there,
        };
        let opened = share(opened, [begun(0), begun(1)], seen);
        let ended = share(ended, [closed(0), closed(1)], seen);
        let ingress = share(bytes.ingress, there, seen);
        let egress = share(bytes.egress, there, seen);
        for v6 in 0..2 {
            let mut bucket = Bucket {
                connects: opened[v6],
                disconnects: ended[v6],
                open: open[v6],
                durations: found[v6].ended.clone(),
                ..Bucket::default()
            };
            let parts = [ended[v6], open[v6]];
            let (ingress, egress) = (
                share(ingress[v6], parts, [1, 0]),
                share(egress[v6], parts, [1, 0]),
            );
            bucket.ended = Bytes {
                ingress: ingress[0],
                egress: egress[0],
            };
            bucket.going_on = Bytes {
                ingress: ingress[1],
                egress: egress[1],
            };
            if !bucket.is_empty() {
                let slice = Slice {
                    application: application.to_owned(),
                    v6: v6 == 1,
                };
                self.minutes.entry((minute, slice)).or_default().merge(&bucket);
            }
        }
        *former = Former {
            counted,
            open,
            closing,
            seen: if there == [0; 2] { former.seen } else { there },
            early,
        };
    }

    /// Forgets applications that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.former.retain(|application, _| is_there(application));
    }

    /// Takes what has happened since this was asked last: parts of minutes, to be added to those that are known.
    pub fn take(&mut self) -> Vec<(u64, Slice, Bucket)> {
        let minutes = std::mem::take(&mut self.minutes).into_iter();
        minutes
            .map(|((minute, slice), bucket)| (minute, slice, bucket))
            .collect()
    }

    /// The first minute that something is held of.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.minutes.keys().next().map(|(minute, _)| *minute)
    }
}

/// Parts of a total in proportion to two weights, or to others where those say nothing; the parts add up.
fn share(total: u64, weights: [u64; 2], otherwise: [u64; 2]) -> [u64; 2] {
    let [first, second] = if weights == [0; 2] { otherwise } else { weights };
    if first + second == 0 {
        return [total, 0];
    }
    let part = u128::from(total) * u128::from(second) / (u128::from(first) + u128::from(second));
    // Not more than the total.
    let part = part as u64;
    [total - part, part]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [bool; 2] = [true; 2];

    fn counted(new_flows: u64, bytes_in: u64, bytes_out: u64) -> Counted {
        Counted {
            bytes_in,
            bytes_out,
            new_flows,
        }
    }

    fn open(open: u64, durations: &[u64]) -> Open {
        let mut ended = Histogram::default();
        durations.iter().for_each(|duration| ended.add(*duration));
        Open {
            open,
            ended,
            ..Open::default()
        }
    }

    fn closing(closing: u64, durations: &[u64]) -> Open {
        Open {
            closing,
            ..open(0, durations)
        }
    }

    /// Connects, disconnects and bytes by version.
    fn by_version(meter: &mut Meter) -> [[u64; 3]; 2] {
        let mut sums = [[0; 3]; 2];
        for (_, slice, bucket) in meter.take() {
            let sum = &mut sums[usize::from(slice.v6)];
            sum[0] += bucket.connects;
            sum[1] += bucket.disconnects;
            sum[2] += bucket.ended.ingress + bucket.going_on.ingress;
        }
        sums
    }

    #[test]
    fn flows_that_begin_and_end_between_two_sweeps_count_for_their_version() {
        let (mut meter, none) = (Meter::default(), || open(0, &[]));
        meter.begin("a", Counted::default());
        meter.look(
            1,
            "a",
            counted(50, 5_000, 0),
            &[closing(39, &[]), closing(11, &[])],
            BOTH,
        );
        assert_eq!(by_version(&mut meter), [[39, 39, 3_900], [11, 11, 1_100]]);
        // To be forgotten later is no second end.
        let forgotten = [closing(0, &[5; 39]), closing(1, &[5; 11])];
        meter.look(2, "a", counted(51, 5_100, 0), &forgotten, BOTH);
        assert_eq!(by_version(&mut meter), [[0; 3], [1, 1, 100]]);
        // Nobody is there: a last packet counts for who was there before.
        meter.look(3, "a", counted(51, 5_160, 0), &[none(), closing(0, &[5])], BOTH);
        assert_eq!(by_version(&mut meter), [[0; 3], [0, 0, 60]]);
    }

    #[test]
    fn what_nobody_has_seen_is_of_a_version_that_the_application_has() {
        let none = || open(0, &[]);
        for (served, expected) in [
            ([false, true], [[0; 3], [20, 20, 8_760]]),
            ([true, false], [[20, 20, 8_760], [0; 3]]),
            (BOTH, [[10, 10, 4_380]; 2]),
        ] {
            let mut meter = Meter::default();
            meter.begin("a", Counted::default());
            meter.look(1, "a", counted(20, 8_760, 0), &[none(), none()], served);
            assert_eq!(by_version(&mut meter), expected, "{served:?}");
        }
    }

    #[test]
    fn open_flows_of_one_version_do_not_take_the_short_ones_of_the_other() {
        let mut meter = Meter::default();
        meter.begin("a", Counted::default());
        meter.look(1, "a", counted(30, 0, 0), &[open(30, &[]), open(0, &[])], BOTH);
        assert_eq!(by_version(&mut meter), [[30, 0, 0], [0; 3]]);
        meter.look(
            1,
            "a",
            counted(40, 0, 0),
            &[open(30, &[]), closing(10, &[])],
            BOTH,
        );
        assert_eq!(by_version(&mut meter), [[0; 3], [10, 10, 0]]);
    }

    #[test]
    fn of_an_application_that_is_new_everything_is_told() {
        let mut meter = Meter::default();
        let none = || open(0, &[]);
        // Its row was another's before.
        meter.begin("a", counted(100, 5_000, 9_000));
        meter.look(7, "a", counted(103, 5_600, 9_900), &[open(2, &[]), none()], BOTH);
        let taken = meter.take();
        assert_eq!((taken[0].2.connects, taken[0].2.disconnects), (3, 1));
        assert_eq!(taken[0].2.ended.ingress + taken[0].2.going_on.ingress, 600);
        // It is no longer new.
        meter.begin("a", counted(0, 0, 0));
        meter.look(7, "a", counted(104, 5_600, 9_900), &[open(3, &[]), none()], BOTH);
        assert_eq!(meter.take()[0].2.connects, 1);
    }

    #[test]
    fn what_opens_and_ends_and_its_bytes_go_to_its_minute() {
        let mut meter = Meter::default();
        let none = || open(0, &[]);
        meter.look(7, "a", counted(100, 5_000, 9_000), &[open(3, &[]), none()], BOTH);
        assert_eq!(meter.take(), [], "what was before is not told");
        meter.look(
            7,
            "a",
            counted(110, 6_000, 9_500),
            &[open(6, &[10, 20]), none()],
            BOTH,
        );
        meter.look(8, "a", counted(110, 6_100, 9_500), &[open(6, &[]), none()], BOTH);
        let taken = meter.take();
        let slice = Slice {
            application: "a".into(),
            v6: false,
        };
        let first = Bucket {
            connects: 10,
            disconnects: 7,
            open: 6,
            ended: Bytes {
                ingress: 539,
                egress: 270,
            },
            going_on: Bytes {
                ingress: 461,
                egress: 230,
            },
            durations: open(0, &[10, 20]).ended,
        };
        assert_eq!(taken[0], (7, slice.clone(), first));
        assert_eq!(
            (taken[1].0, taken[1].2.going_on.ingress, taken[1].2.open),
            (8, 100, 6)
        );
        // The maps were made anew.
        meter.look(9, "a", counted(2, 300, 0), &[open(1, &[]), none()], BOTH);
        let taken = meter.take();
        assert_eq!(
            (taken[0].2.connects, taken[0].2.disconnects, taken[0].2.open),
            (2, 1, 1)
        );
    }

    #[test]
    fn versions_share_what_is_counted_together() {
        let mut meter = Meter::default();
        meter.look(1, "a", counted(0, 0, 0), &[open(0, &[]), open(0, &[])], BOTH);
        meter.look(
            1,
            "a",
            counted(40, 4_000, 400),
            &[open(30, &[]), open(10, &[])],
            BOTH,
        );
        let taken = meter.take();
        assert_eq!((taken[0].2.connects, taken[1].2.connects), (30, 10));
        assert_eq!(
            (taken[0].2.going_on.ingress, taken[1].2.going_on.ingress),
            (3_000, 1_000)
        );
        assert!(taken[1].1.v6);
    }

    proptest! {
        /// Whatever is seen when: nothing is lost, doubled or negative, and in the end every flow that was opened has ended.
        #[test]
        fn the_sums_are_those_of_the_counters(steps in proptest::collection::vec((0_u64..50, 0_u64..50, 0_u64..10_000, 0_u64..3), 1..60)) {
            let mut meter = Meter::default();
            let (mut total, mut opened_v4, mut live) = (Counted::default(), 0, [0_u64; 2]);
            meter.look(0, "a", total, &[open(0, &[]), open(0, &[])], BOTH);
            for (minute, (opens, ends, bytes, late)) in steps.iter().enumerate() {
                // Some flows are opened between the look at the counter and the sweep.
                let seen = total.new_flows + opens.saturating_sub(*late);
                let counter = Counted { new_flows: seen, bytes_in: total.bytes_in + bytes, bytes_out: total.bytes_out };
                total.new_flows += opens;
                total.bytes_in += bytes;
                live[(minute % 2).min(1)] += opens;
                opened_v4 += opens;
                for live in &mut live {
                    *live = live.saturating_sub(*ends);
                }
                meter.look(minute as u64, "a", counter, &[open(live[0], &[]), open(live[1], &[])], BOTH);
            }
            meter.look(99, "a", total, &[open(0, &[]), open(0, &[])], BOTH);
            meter.look(99, "a", total, &[open(0, &[]), open(0, &[])], BOTH);
            let mut sum = Bucket::default();
            meter.take().iter().for_each(|(_, _, bucket)| sum.merge(bucket));
            prop_assert_eq!(sum.connects, opened_v4);
            prop_assert_eq!(sum.disconnects, opened_v4);
            prop_assert_eq!(sum.ended.ingress + sum.going_on.ingress, total.bytes_in);
        }
    }
}
