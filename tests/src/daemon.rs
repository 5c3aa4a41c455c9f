//! The real `lb` in the node's namespace, with its own state, socket and pins.

use crate::check::{SOON, wait_until};
use crate::gate::lb_binary;
use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::status::Status;
use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::abi::{ABI_VERSION, maps};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

static COUNT: AtomicU32 = AtomicU32::new(0);
const PINS: &str = "/sys/fs/bpf/lb";

/// A configured `lb`, running or not. Dropping it ends the daemon and removes what it attached.
pub struct Daemon {
    process: Option<Process>,
    node: Netns,
    name: String,
    datapath: String,
    interfaces: usize,
    folder: TempDir,
    /// Set to show at the end of a failed test.
    log: PathBuf,
}

impl Daemon {
    /// Writes a configuration whose `[node]`, `[datapath]` and `[api]` fit the lab, followed by `body`, and starts the
    /// daemon with it; returns when all interfaces are attached.
    #[must_use]
    pub fn start(lab: &Lab, body: &str) -> Self {
        Self::start_with(lab, "", body)
    }

    /// As [`Daemon::start`], with more lines for `[datapath]`.
    #[must_use]
    pub fn start_with(lab: &Lab, datapath: &str, body: &str) -> Self {
        let mut daemon = Self::prepare(lab, datapath, body);
        daemon.run();
        daemon
    }

    /// Everything but starting it.
    #[must_use]
    pub fn prepare(lab: &Lab, datapath: &str, body: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("lb-node-")
            .tempdir()
            .expect("a temporary folder can be made");
        let daemon = Self {
            process: None,
            node: lab.node.clone(),
            // Pins are named after it, and bpffs is shared by all namespaces.
            name: format!(
                "t{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            datapath: format!("interfaces = {:?}\n{datapath}", lab.interfaces),
            interfaces: lab.interfaces.len(),
            log: folder.path().join("lb.log"),
            folder,
        };
        daemon.write_config(body);
        daemon
    }

    /// Replaces the configuration file at once, as an editor does, without telling the daemon.
    pub fn write_config(&self, body: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "[node]\nname = \"{}\"\nstate_dir = \"{folder}/state\"\n\n[datapath]\n{}\n\n[api]\nsocket = \"{}\"\n\n{body}\n",
            self.name,
            self.datapath,
            self.socket().display()
        );
        let new = self.folder.path().join("lb.toml.new");
        fs::write(&new, text).expect("the configuration can be written");
        fs::rename(new, self.config()).expect("the configuration can be replaced");
    }

    /// Has the next [`Daemon::write_config`] name the interfaces that the lab has now.
    pub fn set_interfaces(&mut self, lab: &Lab) {
        self.datapath = format!("interfaces = {:?}\n", lab.interfaces);
        self.interfaces = lab.interfaces.len();
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("lb.toml")
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("lb.sock")
    }

    /// Where this node's programs and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.name)
    }

    /// Starts the daemon, again or for the first time, and waits until it is attached.
    pub fn run(&mut self) {
        self.launch();
        let interfaces = self.interfaces;
        self.wait("it is attached", move |status| {
            status.interfaces().len() == interfaces
        });
    }

    /// Starts the daemon without waiting for anything.
    pub fn launch(&mut self) {
        self.process = Some(self.spawn(&lb_binary(), &[]));
    }

    /// Starts another process that shall take over from the one that runs, and leaves both running.
    #[must_use]
    pub fn challenge(&self, binary: &Path) -> Process {
        self.spawn(binary, &["--take-over"])
    }

    /// Starts another binary.
    #[must_use]
    pub fn start_binary(&self, binary: impl AsRef<Path>) -> Process {
        self.spawn(binary.as_ref(), &[])
    }

    /// Takes a process that was started otherwise for the daemon.
    pub fn adopt(&mut self, process: Process) {
        self.process = Some(process);
    }

    /// Has another process take over, and waits until it has: the former one ended well, the new one answers.
    ///
    /// # Panics
    /// It does not come to that soon.
    pub fn take_over(&mut self, binary: &Path) {
        let mut next = self.challenge(binary);
        let former = self.process.as_mut().expect("the daemon was started");
        let status = wait_until(SOON, "the former daemon ends", || {
            assert!(
                next.ended().is_none(),
                "it did not take over: {}",
                next.log_tail()
            );
            former.ended()
        });
        assert!(status.success(), "the former daemon ended with {status}");
        self.process = Some(next);
        let interfaces = self.interfaces;
        self.wait("the new daemon answers", move |status| {
            status.interfaces().len() == interfaces && status.json()["node"]["generation"] != 0
        });
    }

    fn spawn(&self, binary: &Path, more: &[&str]) -> Process {
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(self.config()).args(more);
        command
            .env("NO_COLOR", "1")
            .env_remove("LB_CONFIG")
            .env_remove("LB_SOCKET")
            .env_remove("LB_URL");
        if std::env::var_os("LB_LOG").is_none() {
            // What the resolver's libraries tell of every question would bury the rest.
            command.env("LB_LOG", "debug,hickory_net=info,hickory_resolver=info");
        }
        Process::start(&self.node, "lb run", &mut command, &self.log)
    }

    /// Its number as a process.
    ///
    /// # Panics
    /// It was not started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon was started").id()
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it as an operator does.
    ///
    /// # Panics
    /// It does not end soon.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let status = self.wait_for_end();
        self.process = None;
        status
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// It does not.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("the daemon was started");
        wait_until(SOON, "lb run ends", || process.ended())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Everything it has logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What a row of the verdict counters says, by CPU.
    ///
    /// # Panics
    /// The daemon has pinned no such map.
    #[must_use]
    pub fn verdicts(&self, row: u32) -> Vec<u64> {
        let path = self.pins().join(format!("v{ABI_VERSION}")).join(maps::VERDICTS);
        let map = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let map = Map::PerCpuArray(map);
        let rows: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("an array of counters");
        rows.get(&row, 0)
            .expect("a row of the map")
            .iter()
            .copied()
            .collect()
    }

    /// Asks the API over the socket.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn get(&self, path: &str) -> std::io::Result<http::Answer> {
        http::get_unix(&self.socket(), path)
    }

    /// Its state now; `None` when it does not answer.
    #[must_use]
    pub fn try_status(&self) -> Option<Status> {
        let answer = self
            .get("/api/v1/status")
            .ok()
            .filter(|answer| answer.status == 200)?;
        Some(
            Status::parse(&answer.body)
                .unwrap_or_else(|error| panic!("status is not JSON: {error}: {}", answer.body)),
        )
    }

    /// Its state now.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        self.try_status().expect("the daemon answers")
    }

    /// Waits for a state, and returns it.
    ///
    /// # Panics
    /// It does not come soon, or the daemon has ended.
    pub fn wait(&mut self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let started = std::time::Instant::now();
        loop {
            if let Some(status) = self.try_status() {
                if reached(&status) {
                    return status;
                }
                last = Some(status);
            }
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(
                ended.is_none(),
                "waiting until {what}: lb run has ended: {ended:?}"
            );
            assert!(!crate::check::is_interrupted(), "interrupted");
            let seen = || {
                last.as_ref()
                    .map_or("no answer".into(), |status| format!("{:#}", status.json()))
            };
            assert!(
                started.elapsed() < SOON,
                "waited {SOON:?} in vain until {what}; last state: {}",
                seen()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every enabled origin of these pools is healthy.
    pub fn wait_healthy(&mut self, pools: &[&str]) {
        self.wait("all origins are healthy", |status| {
            pools.iter().all(|pool| status.is_all_healthy(pool))
        });
    }

    /// Waits for the verdict that an origin is `unhealthy` (or whatever is given), as soon as it can be seen.
    pub fn wait_origin(&mut self, pool: &str, origin: &str, health: &str) -> Status {
        self.wait(&format!("{pool}/{origin} is {health}"), |status| {
            status.health(pool, origin) == health
        })
    }

    /// The command line, talking to this daemon.
    #[must_use]
    pub fn lb(&self, arguments: &[&str]) -> Output {
        self.lb_with(&[], arguments)
    }

    /// As [`Daemon::lb`], with more of an environment.
    #[must_use]
    pub fn lb_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(lb_binary());
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .env("NO_COLOR", "1")
            .env("LB_CONFIG", self.config())
            .env("LB_SOCKET", self.socket());
        self.node.output(&mut command)
    }

    /// As [`Daemon::lb`]; it must succeed. Returns what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn lb_ok(&self, arguments: &[&str]) -> String {
        let output = self.lb(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "lb {arguments:?}: {:?}: {words}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let attached = self.process.is_some() || self.pins().exists();
        self.kill();
        if attached {
            let mut detach = Command::new(lb_binary());
            detach
                .arg("detach")
                .env("LB_CONFIG", self.config())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let _ = self.node.spawn(&mut detach).and_then(|mut child| child.wait());
        }
        // A binary under test may fail at this too, and pins would outlive the test.
        let _ = fs::remove_dir_all(self.pins());
    }
}
