//! Thousands of origins under one monitor: every run is made, and they are spread evenly over the interval.
//!
//! `LB_TEST_PROBED` is the number of origins (10,000), `LB_TEST_PROBE_SECONDS` how long they are watched (60).

use lb_tests::check::wait_until;
use lb_tests::config::{application, balancer};
use lb_tests::daemon::Daemon;
use lb_tests::gate::{self, number};
use lb_tests::lab::{Lab, VIP4};
use lb_tests::needs_root;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PORT: u16 = 9000;
const INTERVAL: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_millis(50);
/// Clock ticks a second in /proc (USER_HZ).
const TICKS: f64 = 100.0;

/// One listener for all origins: addresses that the node's namespace takes for its own. Notes when probes come.
struct Listener {
    accepted: Arc<Mutex<Vec<Instant>>>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listener {
    fn start(lab: &Lab) -> Self {
        lab.node.ip("route add local 10.96.0.0/12 dev lo");
        // Of a backlog of 128 some SYNs would be lost while this thread waits for a CPU.
        lab.node.sysctl("net/core/somaxconn", "65535");
        let (accepted, ends) = (
            Arc::<Mutex<Vec<Instant>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (notes, ended) = (accepted.clone(), ends.clone());
        let thread = lab.node.thread(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            while let Ok((stream, _)) = listener.accept() {
                notes.lock().unwrap().push(Instant::now());
                drop(stream);
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        Self {
            accepted,
            ends,
            thread: Some(thread),
        }
    }

    fn taken(&self) -> Vec<Instant> {
        self.accepted.lock().unwrap().clone()
    }

    fn stop(mut self, lab: &Lab) {
        self.ends.store(true, Ordering::Relaxed);
        let last = lab
            .node
            .enter(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)));
        drop(last);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn config(origins: usize) -> String {
    let mut text = format!(
        "[monitors.many]\ntype = \"tcp\"\nport = {PORT}\ninterval = {}\ntimeout = 2\nretries = 0\n",
        INTERVAL.as_secs()
    );
    let first = u32::from(Ipv4Addr::new(10, 96, 0, 1));
    for pool in 0..origins.div_ceil(100) {
        let _ = writeln!(text, "[pools.p{pool}]\nmonitor = \"many\"");
        for origin in (pool * 100)..origins.min(pool * 100 + 100) {
            let address = Ipv4Addr::from(first + origin as u32);
            let _ = writeln!(text, "origins.o{origin} = {{ address = \"{address}\" }}");
        }
    }
    text + &balancer("web", &["p0"], None) + &application("web", "tcp/80", VIP4, "web")
}

/// Processor time of a process so far, and its memory in MiB.
fn cost(pid: u32) -> (Duration, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    // utime and stime: fields 14 and 15 of proc_pid_stat(5), the third of which comes first here.
    let time = Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = memory.split_whitespace().next().unwrap().parse().unwrap();
    (time, kib / 1024)
}

/// The most that any window of that length holds.
fn bunch(times: &[Instant]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (number, time) in times.iter().enumerate() {
        while *time - times[first] > WINDOW {
            first += 1;
        }
        most = most.max(number + 1 - first);
    }
    most
}

#[test]
fn ten_thousand_origins_are_probed_in_time_and_evenly() {
    needs_root!();
    let _alone = gate::alone();
    let origins = number("LB_TEST_PROBED", 10_000);
    let watched = Duration::from_secs(number("LB_TEST_PROBE_SECONDS", 60) as u64);
    let lab = Lab::routed(1);
    let listener = Listener::start(&lab);
    let started = Instant::now();
    let mut lb = Daemon::prepare(&lab, "max_flows = 1024", &config(origins));
    lb.launch();
    wait_until(Duration::from_secs(60), "every origin is healthy", || {
        std::thread::sleep(Duration::from_millis(200));
        let status = lb.try_status()?;
        let pools = status.json()["pools"].as_array()?;
        let healthy: u64 = pools
            .iter()
            .filter_map(|pool| pool["healthy_origins"].as_u64())
            .sum();
        (healthy == origins as u64).then_some(())
    });
    println!("{origins} origins: all healthy after {:.1?}", started.elapsed());

    let monitoring = |lb: &Daemon| lb.status().json()["monitoring"].clone();
    println!("until then: {}", monitoring(&lb));
    let round = || {
        let before = monitoring(&lb);
        let (from, (busy, _)) = (Instant::now(), cost(lb.pid()));
        std::thread::sleep(watched);
        let (until, (busy_then, memory)) = (Instant::now(), cost(lb.pid()));
        let after = monitoring(&lb);
        let mut taken = listener.taken();
        taken.retain(|time| (from..until).contains(time));
        let expected = origins as f64 * (until - from).as_secs_f64() / INTERVAL.as_secs_f64();
        let (most, count) = (bunch(&taken), taken.len());
        let share = most as f64 / origins as f64;
        let missed = count_of(&after) - count_of(&before);
        println!(
            "{count} probes in {:.1?} ({expected:.0} expected), {missed} missed, largest bunch within 50 ms {most} ({:.2} %), \
             CPU {:.1} %, memory {memory} MiB",
            until - from,
            share * 100.0,
            (busy_then - busy).as_secs_f64() / (until - from).as_secs_f64() * 100.0,
        );
        assert_eq!(after["targets"], origins as u64, "{after}");
        let as_many = (count as f64 - expected).abs() <= expected * 0.02;
        as_many && missed == 0 && share <= 0.02
    };
    // Whoever else keeps the processors of this machine for a moment spoils a round: six are enough to tell the two apart.
    assert!((0..6).any(|_| round()), "probes come late or in bunches");
    listener.stop(&lab);
}

fn count_of(monitoring: &serde_json::Value) -> u64 {
    monitoring["missed_runs_total"].as_u64().unwrap()
}
