//! The state machine of one monitored origin: when its runs start, what their results make of its health.
//!
//! A run is one attempt and, while attempts run into their timeout, up to `retries` more, each immediately after the
//! one before. Any other failure ends the run at once. Runs start every `interval` on a grid that does not drift; a
//! run that is due while the one before is still going on is skipped.

use crate::health::{FailureReason, Observation, OriginHealth};
use crate::maglev::mix;
use crate::model::{Monitor, MonitorKind};
use crate::time::Timestamp;
use core::time::Duration;
use std::sync::Arc;

/// The first run of a new target starts within this time, or within its interval if that is shorter.
const FIRST_RUN_WITHIN: Duration = Duration::from_millis(100);
/// An attempt whose end was not reported this long after its timeout counts as timed out.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// One origin under one monitor.
#[derive(Clone, Debug)]
pub struct Target {
    monitor: Arc<Monitor>,
    state: State,
    /// Runs in a row that contradict the state.
    contradictions: u32,
    failure: Option<FailureReason>,
    rtt: Option<Duration>,
    last_run: Option<LastRun>,
    /// Number of the newest attempt; the first is 1.
    attempt: u64,
    outstanding: Option<Outstanding>,
    /// The next run's place on the grid, and when it really starts.
    grid: Timestamp,
    due: Timestamp,
    /// Advances with each run.
    jitter: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unknown,
    /// Not known by this monitor, but taken to be so until its first run ends.
    Assumed {
        healthy: bool,
    },
    Known {
        healthy: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct LastRun {
    at: Timestamp,
    /// How long before `at` the run ended.
    age: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    /// Attempts of this run so far, at least 1.
    attempts: u32,
    lost_at: Timestamp,
}

/// What is known of a target when it is created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    Unknown,
    /// The state in which a former daemon left the origin: holds until the first run ends.
    Assumed {
        healthy: bool,
    },
    /// A result of a former daemon that is recent enough to count as one's own.
    Restored {
        healthy: bool,
        failure: Option<FailureReason>,
        age: Duration,
    },
}

/// What an event led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Nothing,
    /// An attempt with this number is to be made now.
    Attempt(u64),
    /// A run ended and left the health as it was.
    Confirmed,
    /// A run ended and changed the health.
    Changed {
        healthy: bool,
    },
}

impl Target {
    /// A target whose first run starts promptly. `seed` spreads targets over time.
    #[must_use]
    pub fn new(monitor: Arc<Monitor>, start: Start, seed: u64, now: Timestamp) -> Self {
        let (state, failure, last_run) = match start {
            Start::Unknown => (State::Unknown, None, None),
            Start::Assumed { healthy } => (State::Assumed { healthy }, None, None),
            Start::Restored {
                healthy,
                failure,
                age,
            } => (State::Known { healthy }, failure, Some(LastRun { at: now, age })),
        };
        let mut target = Self {
            monitor,
            state,
            contradictions: 0,
            failure,
            rtt: None,
            last_run,
            attempt: 0,
            outstanding: None,
            grid: now,
            due: now,
            jitter: mix(seed),
        };
        target.restart_grid(now);
        target
    }

    /// Takes over a monitor that differs in its times and counts only: health stays, the grid starts anew.
    pub fn retime(&mut self, monitor: Arc<Monitor>, now: Timestamp) {
        let same = self.monitor.interval == monitor.interval;
        self.monitor = monitor;
        if !same {
            self.restart_grid(now);
        }
    }

    /// The monitor.
    #[must_use]
    pub fn monitor(&self) -> &Arc<Monitor> {
        &self.monitor
    }

    /// Health as it counts for steering: an assumed state counts like a known one.
    #[must_use]
    pub fn health(&self) -> OriginHealth {
        match self.state {
            State::Unknown => OriginHealth::Unknown,
            State::Assumed { healthy: true } | State::Known { healthy: true } => OriginHealth::Healthy,
            State::Assumed { healthy: false } | State::Known { healthy: false } => OriginHealth::Unhealthy,
        }
    }

    /// Health that a run established, with the time since the last run ended.
    #[must_use]
    pub fn established(&self, now: Timestamp) -> Option<(bool, Duration)> {
        match (self.state, self.last_run) {
            (State::Known { healthy }, Some(run)) => {
                Some((healthy, now.since(run.at).saturating_add(run.age)))
            }
            (State::Known { .. }, None) | (State::Unknown | State::Assumed { .. }, _) => None,
        }
    }

    /// Why the last run failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&FailureReason> {
        self.failure.as_ref()
    }

    /// Round-trip time of the last successful attempt.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// When [`Self::advance`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.outstanding
            .map_or(self.due, |outstanding| outstanding.lost_at.min(self.due))
    }

    /// Does the next thing that is due; to be repeated until [`Self::deadline`] lies in the future.
    pub fn advance(&mut self, now: Timestamp) -> Progress {
        if let Some(outstanding) = self.outstanding
            && outstanding.lost_at <= now
        {
            return self.end_attempt(outstanding, Err(self.timeout()), now);
        }
        if self.due > now {
            return Progress::Nothing;
        }
        self.plan_next_run(now);
        if self.outstanding.is_some() {
            return Progress::Nothing;
        }
        self.start_attempt(1, now)
    }

    /// Takes in the end of an attempt; any but the newest attempt is ignored.
    pub fn observe(&mut self, attempt: u64, observation: Observation, now: Timestamp) -> Progress {
        match self.outstanding {
            Some(outstanding) if attempt == self.attempt => self.end_attempt(outstanding, observation, now),
            Some(_) | None => Progress::Nothing,
        }
    }

    fn start_attempt(&mut self, attempts: u32, now: Timestamp) -> Progress {
        self.attempt += 1;
        let lost_at = now.after(self.monitor.timeout).after(LOST_AFTER);
        self.outstanding = Some(Outstanding { attempts, lost_at });
        Progress::Attempt(self.attempt)
    }

    fn end_attempt(
        &mut self,
        outstanding: Outstanding,
        observation: Observation,
        now: Timestamp,
    ) -> Progress {
        self.outstanding = None;
        match observation {
            Ok(rtt) => {
                self.rtt = Some(rtt);
                self.failure = None;
                self.end_run(true, now)
            }
            Err(reason) if reason.is_timeout() && outstanding.attempts <= self.monitor.retries => {
                self.start_attempt(outstanding.attempts + 1, now)
            }
            Err(reason) => {
                self.failure = Some(reason);
                self.end_run(false, now)
            }
        }
    }

    fn end_run(&mut self, success: bool, now: Timestamp) -> Progress {
        self.last_run = Some(LastRun {
            at: now,
            age: Duration::ZERO,
        });
        let before = self.health();
        let flips = match self.state {
            State::Unknown | State::Assumed { .. } => true,
            State::Known { healthy } if healthy == success => {
                self.contradictions = 0;
                false
            }
            State::Known { healthy } => {
                self.contradictions += 1;
                let needed = if healthy {
                    self.monitor.consecutive_down
                } else {
                    self.monitor.consecutive_up
                };
                self.contradictions >= needed.max(1)
            }
        };
        if flips {
            self.state = State::Known { healthy: success };
            self.contradictions = 0;
        }
        if self.health() == before {
            Progress::Confirmed
        } else {
            Progress::Changed { healthy: success }
        }
    }

    /// The first run comes at once, so that start-up is quick. The second comes up to half an interval early: that
    /// spreads targets which were created together.
    fn restart_grid(&mut self, now: Timestamp) {
        let interval = self.monitor.interval;
        self.due = now.after(interval.min(FIRST_RUN_WITHIN).mul_f64(self.random()));
        self.grid = Timestamp(
            self.due
                .after(interval)
                .0
                .saturating_sub(interval.mul_f64(self.random() / 2.0)),
        );
    }

    /// Moves `due` to the first place on the grid that lies ahead, give or take 5 % of the interval.
    fn plan_next_run(&mut self, now: Timestamp) {
        let interval = self.monitor.interval.max(Duration::from_millis(1));
        let jitter = interval.mul_f64(0.1 * self.random());
        let due = |grid: Timestamp| Timestamp(grid.after(jitter).0.saturating_sub(interval / 20));
        let behind = now.since(due(self.grid));
        if due(self.grid) <= now {
            // The daemon was held up: runs that were missed stay missed.
            let missed = behind.as_nanos() / interval.as_nanos() + 1;
            let missed = u32::try_from(missed).unwrap_or(u32::MAX);
            self.grid = self.grid.after(interval.saturating_mul(missed));
        }
        self.due = due(self.grid);
        self.grid = self.grid.after(interval);
    }

    /// The next number of this target's own sequence, 0 to 1.
    fn random(&mut self) -> f64 {
        self.jitter = mix(self.jitter);
        f64::from((self.jitter >> 32) as u32) / f64::from(u32::MAX)
    }

    fn timeout(&self) -> FailureReason {
        match self.monitor.kind {
            MonitorKind::Tcp => FailureReason::TcpTimeout,
            MonitorKind::Http(_) | MonitorKind::Https { .. } => FailureReason::HttpTimeout,
            MonitorKind::IcmpPing => FailureReason::PingTimeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OK: Observation = Ok(Duration::from_millis(3));
    const REFUSED: Observation = Err(FailureReason::ConnectionFailed);
    const TIMEOUT: Observation = Err(FailureReason::TcpTimeout);

    fn monitor(retries: u32, consecutive_up: u32, consecutive_down: u32) -> Arc<Monitor> {
        Arc::new(Monitor {
            name: "check".into(),
            kind: MonitorKind::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            retries,
            consecutive_up,
            consecutive_down,
            port: None,
        })
    }

    fn at(seconds: f64) -> Timestamp {
        Timestamp(Duration::from_secs_f64(seconds))
    }

    /// Makes the next run, answering its attempts in turn; returns what the run led to.
    fn run(target: &mut Target, answers: &[Observation]) -> Progress {
        let now = target.deadline();
        let mut progress = target.advance(now);
        for answer in answers {
            let Progress::Attempt(attempt) = progress else {
                panic!("no attempt to answer: {progress:?}")
            };
            progress = target.observe(attempt, answer.clone(), now);
        }
        progress
    }

    const UP: Progress = Progress::Changed { healthy: true };
    const DOWN: Progress = Progress::Changed { healthy: false };
    const SAME: Progress = Progress::Confirmed;

    fn check(start: Start, consecutive: (u32, u32), runs: &[(Observation, Progress)]) {
        let mut target = Target::new(
            monitor(0, consecutive.0, consecutive.1),
            start,
            1,
            Timestamp::default(),
        );
        for (number, (answer, expected)) in runs.iter().enumerate() {
            let progress = run(&mut target, std::slice::from_ref(answer));
            assert_eq!(progress, *expected, "run {number} of {runs:?}");
        }
    }

    #[test]
    fn health_flips_as_the_monitor_says() {
        let restored = |healthy| Start::Restored {
            healthy,
            failure: None,
            age: Duration::ZERO,
        };
        let assumed = |healthy| Start::Assumed { healthy };
        // Unknown: the first run decides, whatever the counts.
        check(Start::Unknown, (3, 3), &[(OK, UP)]);
        check(Start::Unknown, (3, 3), &[(REFUSED, DOWN)]);
        // 0 and 1 both mean the first opposite run.
        for count in [0, 1] {
            check(
                Start::Unknown,
                (count, count),
                &[(OK, UP), (REFUSED, DOWN), (OK, UP), (OK, SAME)],
            );
        }
        check(
            Start::Unknown,
            (0, 2),
            &[
                (OK, UP),
                (REFUSED, SAME),
                (OK, SAME),
                (REFUSED, SAME),
                (REFUSED, DOWN),
            ],
        );
        check(
            Start::Unknown,
            (3, 0),
            &[(REFUSED, DOWN), (OK, SAME), (OK, SAME), (REFUSED, SAME)],
        );
        check(
            Start::Unknown,
            (3, 0),
            &[(REFUSED, DOWN), (OK, SAME), (OK, SAME), (OK, UP)],
        );
        // An assumed state yields to the first run, a restored one to the usual count.
        check(assumed(true), (2, 2), &[(REFUSED, DOWN)]);
        check(
            assumed(true),
            (2, 2),
            &[(OK, SAME), (REFUSED, SAME), (REFUSED, DOWN)],
        );
        check(assumed(false), (2, 2), &[(OK, UP)]);
        check(restored(true), (2, 2), &[(REFUSED, SAME), (REFUSED, DOWN)]);
        check(restored(false), (2, 2), &[(OK, SAME), (OK, UP)]);
    }

    #[test]
    fn only_timeouts_are_retried() {
        let fresh = || Target::new(monitor(2, 0, 0), Start::Unknown, 1, Timestamp::default());
        assert_eq!(run(&mut fresh(), &[TIMEOUT, TIMEOUT]), Progress::Attempt(3));
        assert_eq!(run(&mut fresh(), &[TIMEOUT, TIMEOUT, TIMEOUT]), DOWN);
        assert_eq!(run(&mut fresh(), &[TIMEOUT, TIMEOUT, OK]), UP);
        assert_eq!(run(&mut fresh(), &[REFUSED]), DOWN);
        assert_eq!(run(&mut fresh(), &[TIMEOUT, REFUSED]), DOWN);
        assert_eq!(
            run(&mut fresh(), &[Err(FailureReason::ResponseCodeMismatch(500))]),
            DOWN
        );
    }

    #[test]
    fn an_answer_that_never_comes_is_a_timeout() {
        let mut target = Target::new(monitor(1, 0, 0), Start::Unknown, 1, Timestamp::default());
        let start = target.deadline();
        assert_eq!(target.advance(start), Progress::Attempt(1));
        assert_eq!(target.deadline(), start.after(Duration::from_secs(3)));
        assert_eq!(
            target.advance(start.after(Duration::from_secs(3))),
            Progress::Attempt(2)
        );
        // The first attempt's answer comes after all: too late.
        assert_eq!(
            target.observe(1, OK, start.after(Duration::from_secs(4))),
            Progress::Nothing
        );
        let mut progress = Progress::Nothing;
        while progress == Progress::Nothing {
            progress = target.advance(target.deadline());
        }
        assert_eq!(progress, DOWN);
        assert_eq!(target.failure(), Some(&FailureReason::TcpTimeout));
    }

    #[test]
    fn runs_never_overlap() {
        let slow = Monitor {
            timeout: Duration::from_secs(60),
            ..(*monitor(0, 0, 0)).clone()
        };
        let mut target = Target::new(Arc::new(slow), Start::Unknown, 1, Timestamp::default());
        assert_eq!(target.advance(target.deadline()), Progress::Attempt(1));
        for _ in 0..10 {
            assert_eq!(target.advance(target.deadline()), Progress::Nothing);
        }
        assert_eq!(target.observe(1, OK, target.deadline()), UP);
        assert_eq!(target.advance(target.deadline()), Progress::Attempt(2));
    }

    #[test]
    fn the_first_run_is_prompt_and_later_ones_keep_to_the_interval() {
        for seed in 0..50 {
            let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, seed, at(7.0));
            assert!(target.deadline() >= at(7.0) && target.deadline() <= at(7.1));
            let mut starts = Vec::new();
            for _ in 0..50 {
                starts.push(target.deadline().0.as_secs_f64());
                run(&mut target, &[OK]);
            }
            assert!((2.24..=5.26).contains(&(starts[1] - starts[0])), "{starts:?}");
            for (run, start) in (0..).zip(&starts[1..]) {
                let grid = starts[1] + 5.0 * f64::from(run);
                // Each of the two starts may be off by 5 % of the interval; the distance does not add up.
                assert!((start - grid).abs() <= 0.501, "{starts:?}");
            }
        }
    }

    #[test]
    fn targets_that_are_created_together_are_spread() {
        let second = |seed| {
            let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, seed, Timestamp::default());
            run(&mut target, &[OK]);
            target.deadline()
        };
        let mut starts: Vec<Timestamp> = (0..1000).map(second).collect();
        starts.sort_unstable();
        let widest = starts
            .windows(2)
            .map(|pair| pair[1].since(pair[0]))
            .max()
            .unwrap();
        assert!(widest < Duration::from_millis(200), "{widest:?}");
        assert!(starts[999].since(starts[0]) > Duration::from_secs(2));
    }

    #[test]
    fn a_daemon_that_was_held_up_does_not_catch_up() {
        let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, 1, Timestamp::default());
        run(&mut target, &[OK]);
        assert_eq!(target.advance(at(3600.0)), Progress::Attempt(2));
        assert!(target.deadline() > at(3600.0) && target.deadline() <= at(3605.5));
    }

    #[test]
    fn new_times_keep_the_health() {
        let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, 1, Timestamp::default());
        run(&mut target, &[OK]);
        let faster = Monitor {
            interval: Duration::from_secs(1),
            ..(**target.monitor()).clone()
        };
        target.retime(Arc::new(faster), at(2.0));
        assert_eq!(target.health(), OriginHealth::Healthy);
        assert!(target.deadline() <= at(2.1));
    }

    proptest! {
        #[test]
        fn health_is_what_the_last_runs_say(
            up in 0u32..4, down in 0u32..4, runs in prop::collection::vec(any::<bool>(), 1..60)
        ) {
            let mut target = Target::new(monitor(0, up, down), Start::Unknown, 1, Timestamp::default());
            let mut expected = runs[0];
            for (number, &success) in runs.iter().enumerate() {
                run(&mut target, &[if success { OK } else { REFUSED }]);
                let needed = if expected { down } else { up }.max(1) as usize;
                let last = &runs[(number + 1).saturating_sub(needed)..=number];
                if last.len() == needed && last.iter().all(|run| *run != expected) {
                    expected = success;
                }
                prop_assert_eq!(target.health() == OriginHealth::Healthy, expected);
            }
        }

        #[test]
        fn time_always_moves_on(
            seed: u64, interval in 100u64..100_000, waits in prop::collection::vec(0u64..200_000, 0..50)
        ) {
            let quick = Monitor { interval: Duration::from_millis(interval), ..(*monitor(1, 0, 0)).clone() };
            let mut target = Target::new(Arc::new(quick), Start::Unknown, seed, Timestamp::default());
            let mut now = Timestamp::default();
            for wait in waits {
                now = now.after(Duration::from_millis(wait));
                for step in 0.. {
                    if target.deadline() > now {
                        break;
                    }
                    prop_assert!(step < 4, "the deadline stays in the past");
                    target.advance(now);
                }
            }
        }
    }
}
