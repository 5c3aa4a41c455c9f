//! The real `lb origin-agent` in an origin's namespace.

use crate::check::{SOON, wait_until};
use crate::gate::lb_binary;
use crate::netns::Netns;
use crate::process::Process;
use lb_userspace::wire::AgentStatus;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

/// An agent that runs. Dropping it ends it, and removes what it attached.
pub struct OriginAgent {
    process: Process,
    namespace: Netns,
    interface: String,
}

impl OriginAgent {
    /// Starts one on an interface with further arguments, and waits until it is ready. Its log goes to `folder`.
    #[must_use]
    pub fn start(namespace: &Netns, interface: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut agent = Self::launch(namespace, interface, arguments, folder);
        wait_until(SOON, "the agent is ready", || {
            assert!(agent.process.ended().is_none(), "{}", agent.process.log_tail());
            agent
                .process
                .log()
                .lines()
                .any(|line| line == "ready")
                .then_some(())
        });
        agent
    }

    /// Starts one without waiting for anything.
    #[must_use]
    pub fn launch(namespace: &Netns, interface: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(lb_binary());
        command
            .args(["origin-agent", "run", "--interface", interface])
            .args(arguments)
            .env("NO_COLOR", "1");
        let log: PathBuf = folder.join(format!("agent-{interface}.log"));
        // The word is looked for in this run's log.
        let _ = std::fs::remove_file(&log);
        Self {
            process: Process::start(namespace, "origin-agent", &mut command, &log),
            namespace: namespace.clone(),
            interface: interface.to_owned(),
        }
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_until(SOON, "the agent ends", || self.process.ended())
    }

    /// Tells it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.wait_for_end()
    }

    /// Kills it, as the kernel does when memory is short.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// What `lb origin-agent status` says of it.
    ///
    /// # Panics
    /// It says nothing of it.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let output = run(&self.namespace, &["status", "--json"]);
        let agents: Vec<AgentStatus> = serde_json::from_slice(&output.stdout).expect("the status is JSON");
        let own = agents.into_iter().find(|agent| agent.interface == self.interface);
        own.expect("the agent is in the status")
    }

    /// Packets that had this outcome.
    #[must_use]
    pub fn count(&self, outcome: &str) -> u64 {
        *self.status().packets.get(outcome).expect("an outcome")
    }
}

/// Runs `lb origin-agent` with these arguments.
#[must_use]
pub fn run(namespace: &Netns, arguments: &[&str]) -> Output {
    let mut command = Command::new(lb_binary());
    command.arg("origin-agent").args(arguments).env("NO_COLOR", "1");
    namespace.output(&mut command)
}

impl Drop for OriginAgent {
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
        let ends = || self.process.ended();
        if !std::thread::panicking() {
            wait_until(SOON, "the agent ends", ends);
        }
        self.process.kill();
        // Nothing is left by one that has ended by itself.
        let _ = run(&self.namespace, &["detach", &self.interface]);
    }
}
