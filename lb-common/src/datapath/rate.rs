//! How fast something may happen: the generic cell rate algorithm (ITU-T I.371). One word remembers when the next event
//! is due; events that come before are taken as long as they are no more than a second ahead.
//!
//! Times are in 2⁻³² jiffies and wrap; only their differences count.

use crate::abi::Rate;

/// A jiffy, in the unit of [`Rate`].
#[inline(always)]
pub const fn instant(jiffies: u32) -> u64 {
    (jiffies as u64) << 32
}

/// When the next event is due after one at jiffy `now`; `None` when this one comes too early. `second`: jiffies in a second.
#[inline(always)]
pub fn next(due: u64, rate: Rate, second: u32, now: u32) -> Option<u64> {
    let Rate(interval) = rate;
    let now = instant(now);
    let second = instant(second);
    let ahead = due.wrapping_sub(now);
    // Nothing gets further ahead than a second and an interval, by the clock of a CPU that is not late by another second.
    // So it lies in the past, or is not a time at all: a row that was never written, or was before jiffies wrapped.
    let ahead = if ahead > second.wrapping_mul(2).wrapping_add(interval) {
        0
    } else {
        ahead
    };
    // An interval less than a second, so that exactly a second's worth may come at once.
    if ahead > second.saturating_sub(interval) {
        return None;
    }
    Some(now.wrapping_add(ahead).wrapping_add(interval))
}

/// Whether an event at jiffy `now` keeps to the rate; if so, it is counted in `due`.
#[inline(always)]
pub fn admit(due: &mut u64, rate: Rate, second: u32, now: u32) -> bool {
    if rate == Rate::NONE {
        return true;
    }
    match next(*due, rate, second, now) {
        Some(next) => {
            *due = next;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u32 = 250;

    /// `count` events a second.
    fn per_second(count: u64) -> Rate {
        Rate(instant(SECOND) / count)
    }

    /// How many of `events` events at jiffy `now` are taken.
    fn taken(due: &mut u64, rate: Rate, now: u32, events: u64) -> u64 {
        (0..events).filter(|_| admit(due, rate, SECOND, now)).count() as u64
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut due = 7;
        assert_eq!(taken(&mut due, Rate::NONE, 1, 100_000), 100_000);
        assert_eq!(due, 7, "nothing is written");
    }

    #[test]
    fn an_event_that_takes_longer_than_a_second_comes_alone() {
        let rate = Rate(instant(10 * SECOND));
        let mut due = instant(5);
        assert_eq!(taken(&mut due, rate, 5, 10), 1);
        assert_eq!(taken(&mut due, rate, 5 + 10 * SECOND - 1, 10), 0);
        assert_eq!(taken(&mut due, rate, 5 + 10 * SECOND, 10), 1);
    }

    proptest! {
        #[test]
        fn a_seconds_worth_may_come_at_once(count in 1u64..100_000, now: u32) {
            let mut due = instant(now);
            let first = taken(&mut due, per_second(count), now, count + 10);
            prop_assert_eq!(first, count);
            // A second later there is room for as many, however long the flood goes on.
            let again = taken(&mut due, per_second(count), now.wrapping_add(SECOND), count + 10);
            prop_assert_eq!(again, count);
        }

        /// Over any time, no more are taken than a second's worth and what the time allows.
        #[test]
        fn no_more_than_the_rate(
            count in 1u64..5_000,
            start: u32,
            steps in prop::collection::vec((0u32..400, 0u64..2_000), 1..60),
        ) {
            let rate = per_second(count);
            let mut due = instant(start);
            let (mut now, mut total) = (start, 0);
            for (later, events) in steps {
                now = now.wrapping_add(later);
                total += taken(&mut due, rate, now, events);
                let passed = u64::from(now.wrapping_sub(start));
                prop_assert!(total <= count + 1 + count * passed / u64::from(SECOND));
            }
        }

        /// One who keeps to the rate is never refused.
        #[test]
        fn the_rate_itself_is_taken(count in 1u64..=250, start: u32) {
            let mut due = instant(start);
            let apart = SECOND.div_ceil(count as u32);
            for event in 0..500 {
                let now = start.wrapping_add(event * apart);
                prop_assert!(admit(&mut due, per_second(count), SECOND, now), "event {}", event);
            }
        }

        /// Whatever the word holds, waiting opens the door.
        #[test]
        fn no_word_shuts_the_door(due: u64, count in 1u64..100_000, now: u32) {
            let mut word = due;
            let rate = per_second(count);
            let before = taken(&mut word, rate, now, 1);
            let mut word = if before == 1 { due } else { word };
            prop_assert_eq!(taken(&mut word, rate, now.wrapping_add(3 * SECOND + 1), 1), 1);
        }

        /// CPUs read their clocks a jiffy apart, and write the same word.
        #[test]
        fn clocks_may_differ(count in 1u64..5_000, now: u32) {
            let rate = per_second(count);
            let mut due = instant(now);
            prop_assert_eq!(taken(&mut due, rate, now, count), count);
            prop_assert_eq!(taken(&mut due, rate, now.wrapping_sub(1), 5), 0);
        }
    }
}
