//! The state machine of one monitored origin: when its runs start, what their results make of its health.
//!
//! A run is one attempt and, while attempts run into their timeout, up to `retries` more, each immediately after the
//! one before. Any other failure ends the run at once. Runs start every `interval` on a grid that does not drift; a
//! run that is due while the one before is still going on is skipped.

use crate::health::{FailureReason, Observation, OriginHealth, Success};
use crate::maglev::mix;
use crate::model::{Monitor, MonitorKind};
use crate::time::Timestamp;
use core::time::Duration;
use std::sync::Arc;

/// The first run of a new target starts within this time at least, or within its interval if that is shorter.
const FIRST_RUN_WITHIN: Duration = Duration::from_millis(100);
/// First runs of targets that are new together start this far apart: 2,000 a second.
const FIRST_RUNS_APART: Duration = Duration::from_micros(500);
/// Multiples of the golden ratio (times 2^32) divide the circle evenly, however many of them there are.
const GOLDEN: u32 = 0x9e37_79b9;
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
    success: Option<Success>,
    last_run: Option<LastRun>,
    /// Number of the newest attempt; the first is 1.
    attempt: u64,
    outstanding: Option<Outstanding>,
    /// The next run's place on the grid, and when it really starts.
    grid: Timestamp,
    due: Timestamp,
    /// Where on the grid of its interval the target stands, 0 to 1.
    phase: f64,
    /// Advances with each run.
    jitter: u64,
    counts: Counts,
}

/// What has become of the runs that were due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub started: u64,
    /// Not made: the run before was still going on, the daemon was held up, or there were no sockets left.
    pub missed: u64,
}

/// How targets that are new together are spread over time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Consecutive numbers give even spaces.
    pub number: u64,
    /// How many are new.
    pub together: usize,
}

impl Spread {
    fn phase(self) -> f64 {
        f64::from((self.number as u32).wrapping_mul(GOLDEN)) / 2f64.powi(32)
    }

    /// All first runs start within this time.
    fn first_runs(self) -> Duration {
        let together = u32::try_from(self.together).unwrap_or(u32::MAX);
        FIRST_RUNS_APART.saturating_mul(together).max(FIRST_RUN_WITHIN)
    }
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
    /// A target whose first run starts promptly.
    #[must_use]
    pub fn new(monitor: Arc<Monitor>, start: Start, spread: Spread, now: Timestamp) -> Self {
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
            success: None,
            last_run,
            attempt: 0,
            outstanding: None,
            grid: now,
            due: now,
            phase: spread.phase(),
            jitter: mix(spread.number),
            counts: Counts::default(),
        };
        target.restart_grid(spread.first_runs(), now);
        target
    }

    /// Takes over a monitor that differs in its times and counts only: health stays, the grid starts anew.
    /// `spread` is that of all targets which it happens to together; the number is its own, as before.
    pub fn retime(&mut self, monitor: Arc<Monitor>, spread: Spread, now: Timestamp) {
        let same = self.monitor.interval == monitor.interval;
        self.monitor = monitor;
        if !same {
            self.restart_grid(spread.first_runs(), now);
        }
    }

    /// How its runs went so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
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
        self.success.map(|success| success.rtt)
    }

    /// Status code that the last run ended with: of one that failed for its code, that one; `None` if it ended without an answer.
    #[must_use]
    pub fn response_code(&self) -> Option<u16> {
        match &self.failure {
            Some(reason) => reason.response_code(),
            None => self.success?.response_code,
        }
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
            self.counts.missed += 1;
            return Progress::Nothing;
        }
        self.counts.started += 1;
        self.start_attempt(1, now)
    }

    /// An attempt could not be made: the run is as if it had never started.
    pub fn give_up(&mut self, attempt: u64) {
        if self.outstanding.is_some() && attempt == self.attempt {
            self.outstanding = None;
            self.counts.missed += 1;
        }
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
            Ok(success) => {
                self.success = Some(success);
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

    /// The first run comes at once, so that start-up is quick, unless many are new together. The second one comes when
    /// it does on the grid, but not too early: after a quarter of an interval, or up to as much late.
    fn restart_grid(&mut self, first_runs: Duration, now: Timestamp) {
        let interval = self.monitor.interval;
        self.due = now.after(interval.min(first_runs).mul_f64(self.phase));
        self.grid = now.after(interval.mul_f64(self.phase));
        if self.grid.since(self.due) < interval / 4 {
            self.grid = self.grid.after(interval);
        }
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
            self.counts.missed += u64::from(missed);
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
            MonitorKind::UdpIcmp(_) => FailureReason::UdpTimeout,
            MonitorKind::Smtp => FailureReason::SmtpTimeout,
        }
    }
}

#[cfg(test)]
mod tests;
