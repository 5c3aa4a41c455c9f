//! For how long a subject was in which state.

use super::Health;

/// Something that is known of a time. Times are microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// From then on it was in that state; `None`: it was not there.
    Health(Option<Health>),
    /// The daemon started, and nobody had looked since another time.
    Started { down_since: u64 },
}

/// A time in one state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    pub from: u64,
    pub until: u64,
    pub health: Option<Health>,
}

/// Time in each state, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    by_health: [u64; Health::ALL.len()],
    pub unobserved: u64,
}

impl Times {
    /// The sum of these periods.
    #[must_use]
    pub fn of(periods: &[Period]) -> Self {
        let mut times = Self::default();
        for period in periods {
            let time = period.until - period.from;
            match period.health {
                Some(health) => times.by_health[health as usize] += time,
                None => times.unobserved += time,
            }
        }
        times
    }

    /// Time in a state.
    #[must_use]
    pub fn of_health(&self, health: Health) -> u64 {
        self.by_health[health as usize]
    }

    /// Which part of the time in which it should have served it did, 0 to 1: healthy and degraded against critical and
    /// unhealthy. `None`: it never should, as far as is known.
    #[must_use]
    pub fn availability(&self) -> Option<f64> {
        let sum = |wanted: fn(Health) -> bool| -> u64 {
            let states = Health::ALL.into_iter().filter(|health| wanted(*health));
            states.map(|health| self.of_health(health)).sum()
        };
        let (good, bad) = (sum(Health::serves), sum(Health::is_problem));
        (good + bad > 0).then(|| good as f64 / (good + bad) as f64)
    }
}

/// The periods of a window from its beginning to its end, given the state before and the marks in their order. Marks out of
/// the window count as if they were at its next edge: a clock that was set back makes no time of its own.
#[must_use]
pub fn periods(from: u64, until: u64, before: Option<Health>, marks: &[(u64, Mark)]) -> Vec<Period> {
    let mut periods: Vec<Period> = Vec::new();
    let (mut start, mut health) = (from, before);
    let mut close = |start: u64, until: u64, health| {
        if until > start {
            match periods.last_mut() {
                Some(last) if last.health == health => last.until = until,
                _ => periods.push(Period {
                    from: start,
                    until,
                    health,
                }),
            }
        }
    };
    for (at, mark) in marks {
        let at = (*at).clamp(start, until.max(start));
        match mark {
            Mark::Health(now) => {
                close(start, at, health);
                health = *now;
            }
            Mark::Started { down_since } => {
                let down_since = (*down_since).clamp(start, at);
                close(start, down_since, health);
                // What was known before holds on.
                close(down_since, at, None);
            }
        }
        start = at;
    }
    close(start, until, health);
    periods
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Option<Health> = Some(Health::Unhealthy);
    const UP: Option<Health> = Some(Health::Healthy);

    fn marks(marks: &[(u64, Option<Health>)]) -> Vec<(u64, Mark)> {
        marks
            .iter()
            .map(|(at, health)| (*at, Mark::Health(*health)))
            .collect()
    }

    #[test]
    fn periods_fill_the_window_without_gap_or_overlap() {
        type Case<'a> = (
            Option<Health>,
            &'a [(u64, Option<Health>)],
            &'a [(u64, u64, Option<Health>)],
        );
        let cases: [Case<'_>; 6] = [
            (UP, &[], &[(100, 200, UP)]),
            (
                UP,
                &[(120, DOWN), (150, UP)],
                &[(100, 120, UP), (120, 150, DOWN), (150, 200, UP)],
            ),
            // Before the window and after it.
            (UP, &[(50, DOWN), (300, UP)], &[(100, 200, DOWN)]),
            // A clock that went back.
            (
                UP,
                &[(150, DOWN), (130, UP), (160, DOWN)],
                &[(100, 150, UP), (150, 160, UP), (160, 200, DOWN)],
            ),
            // The daemon was not there.
            (
                UP,
                &[(110, None), (130, UP)],
                &[(100, 110, UP), (110, 130, None), (130, 200, UP)],
            ),
            (None, &[(200, UP)], &[(100, 200, None)]),
        ];
        for (before, given, expected) in cases {
            let found = periods(100, 200, before, &marks(given));
            assert_eq!(Times::of(&found), {
                let expected: Vec<Period> = expected
                    .iter()
                    .map(|&(from, until, health)| Period { from, until, health })
                    .collect();
                Times::of(&expected)
            });
            assert_eq!(found.first().map(|period| period.from), Some(100));
            assert_eq!(found.last().map(|period| period.until), Some(200));
            assert!(found.windows(2).all(|pair| pair[0].until == pair[1].from));
            assert!(found.windows(2).all(|pair| pair[0].health != pair[1].health));
        }
    }

    #[test]
    fn nobody_looked_while_the_daemon_was_down() {
        let down = |since| Mark::Started { down_since: since };
        let found = periods(
            100,
            200,
            UP,
            &[(130, down(110)), (150, Mark::Health(DOWN)), (160, down(140))],
        );
        let told: Vec<_> = found.iter().map(|period| (period.until, period.health)).collect();
        assert_eq!(
            told,
            [(110, UP), (130, None), (150, UP), (160, None), (200, DOWN)]
        );
        // The window begins meanwhile.
        let found = periods(100, 200, UP, &[(130, down(50))]);
        assert_eq!(Times::of(&found).unobserved, 30);
    }

    #[test]
    fn availability_counts_the_time_in_which_it_should_serve() {
        let of = |given: &[(u64, Option<Health>)]| Times::of(&periods(0, 100, None, &marks(given)));
        assert_eq!(of(&[]).availability(), None);
        assert_eq!(of(&[(0, UP), (90, DOWN)]).availability(), Some(0.9));
        let times = of(&[
            (20, DOWN),
            (30, Some(Health::Disabled)),
            (80, Some(Health::Degraded)),
            (90, UP),
        ]);
        assert_eq!(times.availability(), Some(20.0 / 30.0));
        assert_eq!((times.unobserved, times.of_health(Health::Disabled)), (20, 50));
        assert_eq!(of(&[(50, Some(Health::Disabled))]).availability(), None);
    }
}
