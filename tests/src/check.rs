//! Waiting for a state, and comparing shares.

use crate::load::Report;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything that should happen may take, on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait end: what a signal handler may call.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Asks again and again until `probe` has an answer, and returns it.
///
/// # Panics
/// When `deadline` has passed; the message names `what` was waited for.
pub fn wait_until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(!is_interrupted(), "interrupted");
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        thread::sleep(POLL);
    }
}

/// Asserts that `origin` served `expected` of all successful requests, give or take `tolerance` (both 0 to 1).
///
/// # Panics
/// It did not.
#[track_caller]
pub fn assert_share(report: &Report, origin: &str, expected: f64, tolerance: f64) {
    let share = report.share(origin);
    let counts = report.counts();
    assert!(
        (share - expected).abs() <= tolerance,
        "{origin} served {share:.3} instead of {expected:.3}: {counts:?}"
    );
}

/// Asserts that nothing failed and that something was done at all.
///
/// # Panics
/// Shows the first failures.
#[track_caller]
pub fn assert_all_served(report: &Report) {
    assert!(report.total() > 0, "nothing was asked");
    let failures = report.failures();
    assert!(
        failures.is_empty(),
        "{} of {} failed: {}",
        failures.len(),
        report.total(),
        report.explain_failures()
    );
}
