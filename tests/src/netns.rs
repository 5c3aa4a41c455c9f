//! Network namespaces that go when they are dropped, with everything that runs in them.
//!
//! `ip netns exec` is never used: it remounts /sys and hides the pins in bpffs. A thread of ours enters the namespace
//! and starts the program from there; a child inherits the namespace of the thread that starts it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, JoinHandle};

const FOLDER: &str = "/run/netns";
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The first `ip netns add` of a machine mounts a folder: not twice at once.
static ADD: Mutex<()> = Mutex::new(());

/// A namespace with its loopback up. Clones are the same namespace, which goes with the last of them.
#[derive(Clone)]
pub struct Netns(Arc<Inner>);

struct Inner {
    name: String,
    handle: File,
}

impl Netns {
    /// Makes one; its name is `lb<pid>-<number>-<label>`.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(label: &str) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let name = format!(
            "lb{}-{}-{label}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let added = {
            let _guard = ADD.lock().unwrap_or_else(PoisonError::into_inner);
            Command::new("ip").args(["netns", "add", &name]).status()
        };
        assert!(
            added.is_ok_and(|status| status.success()),
            "ip netns add {name} failed: are we root?"
        );
        let handle = File::open(Path::new(FOLDER).join(&name)).expect("a namespace just made can be opened");
        let this = Self(Arc::new(Inner { name, handle }));
        for (key, value) in [
            // Addresses are usable at once, and nobody else hands out any.
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            this.sysctl(key, value);
        }
        this.ip("link set dev lo up");
        this
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.join();
            work()
        };
        thread::scope(|scope| {
            scope
                .spawn(inside)
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread inside, which may outlive this value.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let this = self.clone();
        thread::spawn(move || {
            this.join();
            // The namespace must not wait for this thread to be deleted.
            drop(this);
            work()
        })
    }

    fn join(&self) {
        move_into_link_name_space(self.0.handle.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root can enter a namespace");
    }

    /// Starts `command` inside.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.enter(|| command.spawn())
    }

    /// Runs `command` inside to its end.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn output(&self, command: &mut Command) -> Output {
        let output = self.enter(|| command.stdin(Stdio::null()).output());
        output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a program inside, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(Command::new(program).args(arguments));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?} in {}: {words}",
            self.name()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Carries out commands of `ip`, one a line, inside.
    ///
    /// # Panics
    /// One of them fails.
    pub fn ip(&self, batch: &str) {
        let mut ip = Command::new("ip");
        ip.args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = ip.stdout(Stdio::null()).spawn().expect("ip can be started");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin
            .write_all(batch.as_bytes())
            .and_then(|()| stdin.write_all(b"\n"))
            .expect("ip reads its commands");
        drop(stdin);
        let output = child.wait_with_output().expect("ip ends");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip in {}: {words}\n{batch}", self.name());
    }

    /// Sets a kernel parameter; `key` is its path below /proc/sys, which shows the namespace of whoever looks.
    ///
    /// # Panics
    /// There is no such parameter, or it does not take the value.
    pub fn sysctl(&self, key: &str, value: &str) {
        let written = self.enter(|| fs::write(Path::new("/proc/sys").join(key), value));
        written.unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }

    /// Connects the two by a veth pair, both ends up.
    pub fn connect(&self, interface: &str, peer: &Self, peer_interface: &str) {
        self.pair(interface, "", peer, peer_interface, "");
    }

    /// The same for a host with servers or clients: all that it receives goes through one queue. A frame that XDP redirects
    /// into a veth takes the queue of the CPU, so those of one flow would be received by several at a time, which no
    /// network card does, and which a Linux host may answer with a reset when one of them is just accepting the connection.
    pub fn connect_host(&self, interface: &str, peer: &Self, peer_interface: &str) {
        // XDP cannot be attached where the peer sends by more queues.
        self.pair(interface, "numrxqueues 1", peer, peer_interface, "numtxqueues 1");
    }

    fn pair(&self, interface: &str, how: &str, peer: &Self, peer_interface: &str, peer_how: &str) {
        self.ip(&format!(
            "link add {interface} {how} type veth peer name {peer_interface} {peer_how} netns {}\nlink set dev {interface} up",
            peer.name()
        ));
        peer.ip(&format!("link set dev {peer_interface} up"));
    }

    /// Frames that the interfaces have dropped because nobody fetched them in time, in either direction; what XDP drops is
    /// not among them.
    ///
    /// # Panics
    /// The kernel does not say.
    #[must_use]
    pub fn dropped_by_links(&self) -> u64 {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let table = table.expect("the kernel counts frames");
        let dropped = |line: &str| -> u64 {
            let (_, counts) = line.split_once(':').unwrap_or_default();
            // Received: bytes, packets, errors, dropped, and four more; then the same of what was sent.
            let counts: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
            [3, 11].iter().filter_map(|column| counts.get(*column)).sum()
        };
        table.lines().map(dropped).sum()
    }

    /// Switches an offload of an interface, such as `gro on`.
    pub fn offload(&self, interface: &str, feature: &str, value: &str) {
        self.run("ethtool", &["-K", interface, feature, value]);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what dead processes left behind: a killed test run drops nothing.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix("lb")
            .and_then(|rest| rest.split_once('-'))
            .map(|(pid, _)| pid);
        let Some(owner) = owner.filter(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            remove(&name);
        }
    }
}

/// Ends what still runs in the namespace, by its ids, and deletes it. Never panics: it runs while unwinding.
fn remove(name: &str) {
    let own = std::process::id().to_string();
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|pid| *pid != own)
        {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;

    #[test]
    fn a_namespace_goes_with_its_value_and_what_runs_in_it() {
        needs_root!();
        let namespace = Netns::new("gone");
        let name = namespace.name().to_owned();
        let mut child = namespace.spawn(Command::new("sleep").arg("60")).unwrap();
        assert!(Path::new(FOLDER).join(&name).exists());
        drop(namespace);
        assert!(!Path::new(FOLDER).join(&name).exists());
        assert!(!child.wait().unwrap().success(), "the child was killed");
    }

    #[test]
    fn parameters_are_those_of_the_namespace() {
        needs_root!();
        let namespace = Netns::new("sysctl");
        namespace.sysctl("net/ipv4/ip_local_port_range", "20000 30000");
        let inside = namespace.enter(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range"));
        assert_eq!(
            inside.unwrap().split_whitespace().collect::<Vec<_>>(),
            ["20000", "30000"]
        );
    }
}
