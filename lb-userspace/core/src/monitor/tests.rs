//! Runs, retries, counts and times of one target.

use super::*;
use proptest::prelude::*;

const OK: Observation = Ok(Success {
    rtt: Duration::from_millis(3),
    response_code: Some(204),
});
const REFUSED: Observation = Err(FailureReason::ConnectionFailed);
const TIMEOUT: Observation = Err(FailureReason::TcpTimeout);

fn monitor(retries: u32, consecutive_up: u32, consecutive_down: u32) -> Arc<Monitor> {
    Arc::new(Monitor {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        retries,
        consecutive_up,
        consecutive_down,
        ..Monitor::new("check", MonitorKind::Tcp)
    })
}

fn spread(number: u64) -> Spread {
    let together = 1;
    Spread { number, together }
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
        spread(1),
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
    let fresh = || Target::new(monitor(2, 0, 0), Start::Unknown, spread(1), Timestamp::default());
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
fn the_response_code_is_that_of_the_last_run() {
    let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread(1), Timestamp::default());
    assert_eq!(target.response_code(), None);
    for (observation, code) in [
        (OK, Some(204)),
        (Err(FailureReason::ResponseCodeMismatch(500)), Some(500)),
        (OK, Some(204)),
        (REFUSED, None),
        (Ok(Duration::ZERO.into()), None),
    ] {
        run(&mut target, &[observation]);
        assert_eq!(target.response_code(), code);
    }
}

#[test]
fn an_answer_that_never_comes_is_a_timeout() {
    let mut target = Target::new(monitor(1, 0, 0), Start::Unknown, spread(1), Timestamp::default());
    let start = target.deadline();
    assert_eq!(target.advance(start), Progress::Attempt(1));
    let lost = start.after(Duration::from_secs(3));
    while target.deadline() < lost {
        assert_eq!(target.advance(target.deadline()), Progress::Nothing);
    }
    assert_eq!(target.advance(lost), Progress::Attempt(2));
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
    let mut target = Target::new(Arc::new(slow), Start::Unknown, spread(1), Timestamp::default());
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
        let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread(seed), at(7.0));
        assert!(target.deadline() >= at(7.0) && target.deadline() <= at(7.1));
        let mut starts = Vec::new();
        for _ in 0..50 {
            starts.push(target.deadline().0.as_secs_f64());
            run(&mut target, &[OK]);
        }
        assert!((1.0..=6.6).contains(&(starts[1] - starts[0])), "{starts:?}");
        for (run, start) in (0..).zip(&starts[1..]) {
            let grid = starts[1] + 5.0 * f64::from(run);
            // Each of the two starts may be off by 5 % of the interval; the distance does not add up.
            assert!((start - grid).abs() <= 0.501, "{starts:?}");
        }
    }
}

#[test]
fn targets_that_are_new_together_are_spread_over_their_interval() {
    for together in [10, 1000, 10_000] {
        let mut firsts = Vec::new();
        let mut starts = Vec::new();
        for number in 7..7 + together as u64 {
            let spread = Spread { number, together };
            let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread, Timestamp::default());
            firsts.push(target.deadline());
            while target.deadline() < at(60.0) {
                starts.push(target.deadline());
                run(&mut target, &[OK]);
            }
            assert_eq!(target.counts().missed, 0);
        }
        let last = firsts.iter().max().unwrap();
        let bound = Duration::from_micros(500 * together as u64).max(Duration::from_millis(100));
        assert!(
            last.0 <= bound,
            "{together}: the last first run starts at {last:?}"
        );
        if together < 1000 {
            continue;
        }
        starts.sort_unstable();
        // Of the runs that an interval has: those that any 50 ms hold, when the second round has begun.
        starts.retain(|start| *start > at(6.25));
        let mut first = 0;
        let mut bunch = 0;
        for (number, start) in starts.iter().enumerate() {
            while start.since(starts[first]) > Duration::from_millis(50) {
                first += 1;
            }
            bunch = bunch.max(number + 1 - first);
        }
        let share = bunch as f64 / together as f64;
        let fair = 0.01;
        // The jitter of 5 % makes them about as uneven as chance does.
        let allowed = fair + 6.0 * (fair / together as f64).sqrt();
        assert!(share <= allowed, "{together}: {bunch} within 50 ms");
    }
}

#[test]
fn runs_that_could_not_be_made_are_counted_and_change_nothing() {
    let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread(1), Timestamp::default());
    run(&mut target, &[OK]);
    let now = target.deadline();
    assert_eq!(target.advance(now), Progress::Attempt(2));
    target.give_up(1);
    assert_eq!(target.counts().missed, 0, "an old attempt");
    target.give_up(2);
    assert_eq!(
        target.counts(),
        Counts {
            started: 2,
            missed: 1
        }
    );
    assert_eq!(
        target.observe(2, REFUSED, now),
        Progress::Nothing,
        "it is over for good"
    );
    assert_eq!(target.health(), OriginHealth::Healthy);
    assert_eq!(run(&mut target, &[OK]), SAME);
}

#[test]
fn a_daemon_that_was_held_up_does_not_catch_up() {
    let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread(1), Timestamp::default());
    run(&mut target, &[OK]);
    assert_eq!(target.advance(at(3600.0)), Progress::Attempt(2));
    assert!(target.deadline() > at(3600.0) && target.deadline() <= at(3605.5));
    let missed = target.counts().missed;
    assert!((717..=720).contains(&missed), "{missed}");
}

#[test]
fn new_times_keep_the_health() {
    let mut target = Target::new(monitor(0, 0, 0), Start::Unknown, spread(1), Timestamp::default());
    run(&mut target, &[OK]);
    let faster = Monitor {
        interval: Duration::from_secs(1),
        ..(**target.monitor()).clone()
    };
    target.retime(Arc::new(faster), spread(1), at(2.0));
    assert_eq!(target.health(), OriginHealth::Healthy);
    assert!(target.deadline() <= at(2.1));
}

proptest! {
    #[test]
    fn health_is_what_the_last_runs_say(
        up in 0u32..4, down in 0u32..4, runs in prop::collection::vec(any::<bool>(), 1..60)
    ) {
        let mut target = Target::new(monitor(0, up, down), Start::Unknown, spread(1), Timestamp::default());
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
        let mut target = Target::new(Arc::new(quick), Start::Unknown, spread(seed), Timestamp::default());
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
