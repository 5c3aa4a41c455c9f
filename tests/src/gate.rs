//! Whether tests that need root may run here, where the binary under test is, and how many labs may run at once.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::{env, io, thread};

/// Returns from a test that needs root when there is none, saying so. With `CI=true` that is a failure.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::gate::is_root_or_skip() {
            return;
        }
    };
}

/// Whether we are root; if not, prints a line that `cargo xtask test` counts.
///
/// # Panics
/// With `CI=true`, where a missing capability is a failure.
#[must_use]
pub fn is_root_or_skip() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "this test needs root, and CI must have it"
    );
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // Not println!: the test harness would swallow it.
    let _ = writeln!(io::stderr(), "SKIPPED (needs root): {name}");
    false
}

/// The `lb` binary under test: `LB_BIN`, else the release build in the target directory we were built in, else debug.
///
/// # Panics
/// There is none.
#[must_use]
pub fn lb_binary() -> PathBuf {
    if let Some(path) = env::var_os("LB_BIN") {
        let path = PathBuf::from(path);
        assert!(path.exists(), "LB_BIN={} does not exist", path.display());
        return path;
    }
    let own = env::current_exe().expect("the path of this program is known");
    let built = own
        .ancestors()
        .flat_map(|dir| [dir.join("release/lb"), dir.join("debug/lb")]);
    built
        .into_iter()
        .find(|path| Path::is_file(path))
        .unwrap_or_else(|| {
            panic!("no lb binary: cargo build --release -p lb-userspace, or run it all by cargo xtask test")
        })
}

/// The object with the programs that make and count traffic: `LB_TRAFFIC_OBJECT`, else where `cargo xtask test` puts it in
/// the target directory we were built in.
///
/// # Panics
/// There is none.
#[must_use]
pub fn traffic_object() -> PathBuf {
    if let Some(path) = env::var_os("LB_TRAFFIC_OBJECT") {
        return path.into();
    }
    let own = env::current_exe().expect("the path of this program is known");
    let mut built = own
        .ancestors()
        .map(|dir| dir.join("bench/bpf/bpfel-unknown-none/bpf/traffic"));
    built
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no object with traffic programs: cargo xtask test builds it"))
}

/// A number that a quick run may set smaller: the environment's `name`, else `default`.
///
/// # Panics
/// The variable is not a number.
#[must_use]
pub fn number(name: &str, default: usize) -> usize {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Labs at once: namespaces are independent, but the tests measure times.
const LABS: usize = 2;
static RUNNING: Mutex<Running> = Mutex::new(Running {
    labs: 0,
    wait_alone: 0,
});
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// This thread's test has the machine to itself: its labs need no leave.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

struct Running {
    labs: usize,
    /// Tests that wait to be alone; until they were, no other lab starts.
    wait_alone: usize,
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leave to run labs, until it is dropped.
pub struct Permit(usize);

impl Permit {
    /// Waits for the turn of one lab.
    #[must_use]
    pub fn acquire() -> Self {
        if ALONE.get() {
            return Self(0);
        }
        let free = CHANGED.wait_while(running(), |running| {
            running.labs >= LABS || running.wait_alone > 0
        });
        free.unwrap_or_else(PoisonError::into_inner).labs += 1;
        Self(1)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        running().labs -= self.0;
        CHANGED.notify_all();
    }
}

/// The machine for one test, until it is dropped: for tests that hold lb to milliseconds.
pub struct Alone {
    _permit: Permit,
}

/// Waits until no lab runs, and lets none but this thread's start.
#[must_use]
pub fn alone() -> Alone {
    let mut waiting = running();
    waiting.wait_alone += 1;
    let mut free = CHANGED
        .wait_while(waiting, |running| running.labs > 0)
        .unwrap_or_else(PoisonError::into_inner);
    free.labs = LABS;
    free.wait_alone -= 1;
    drop(free);
    ALONE.set(true);
    Alone {
        _permit: Permit(LABS),
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(false);
    }
}

/// Python with the packages of `tests/python/requirements.txt`: `LB_PYTHON`, else the one that `cargo xtask setup --lab` has
/// made in the target directory.
///
/// # Panics
/// There is none.
#[must_use]
pub fn python() -> PathBuf {
    if let Some(path) = env::var_os("LB_PYTHON") {
        return path.into();
    }
    let own = env::current_exe().expect("the path of this program is known");
    let mut made = own.ancestors().map(|dir| dir.join("python/bin/python"));
    made.find(|path| path.exists())
        .unwrap_or_else(|| panic!("no Python with Cloudflare's client: run cargo xtask setup --lab"))
}
