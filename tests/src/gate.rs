//! Whether tests that need root may run here, where the binary under test is, and how many labs may run at once.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
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
static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// Leave to run one lab.
pub struct Permit(());

impl Permit {
    /// Waits for its turn.
    #[must_use]
    pub fn acquire() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = FREED.wait_while(running, |running| *running >= LABS);
        *wait.unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
