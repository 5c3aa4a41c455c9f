//! A child process in a namespace whose output goes to a file, and which ends when it is dropped.

use crate::netns::Netns;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

/// Lines of the log that a failed test shows.
const TAIL: usize = 80;

/// The process.
pub struct Process {
    child: Child,
    title: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` inside `namespace`; its output is appended to `log`.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(namespace: &Netns, title: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log can be written");
        let second = file.try_clone().expect("a file has room for a second handle");
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let child = namespace
            .spawn(command)
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self {
            child,
            title: title.to_owned(),
            log: log.to_path_buf(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it and waits for its end: afterwards its sockets are closed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of what it has printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() && !crate::check::is_interrupted() {
            let tail = self.log_tail();
            if !tail.is_empty() {
                eprintln!("--- {}:\n{tail}\n---", self.title);
            }
        }
        self.kill();
    }
}
