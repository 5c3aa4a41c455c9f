//! Throughput and rates of real TCP through network namespaces: through lb, and through what one would use else.

use crate::arguments::Arguments;
use crate::report::progress;
use anyhow::{Context, Result as Fallible, bail, ensure};
use lb_tests::check::{SOON, is_interrupted, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::netns::Netns;
use lb_tests::process::Process;
use lb_tests::servers::{self, HTTP_PORT, IPERF_PORT, Server};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, TcpStream};
use std::process::Command;

/// Length of one run.
pub const SECONDS: u32 = 2;
/// Connections at once when requests are counted. By one thread: more would leave the paths less of the CPUs, and tell them
/// apart less.
const CONNECTIONS: u32 = 32;
/// Datagrams that are sent a second, more than any path delivers of them here, and bytes in each.
const DATAGRAMS: u32 = 150_000;
const DATAGRAM_LEN: u32 = 64;
/// Where Debian has what lets nginx balance connections; elsewhere it is part of the program.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What is measured of each path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    Up,
    Down,
    Requests,
    Connections,
    Datagrams,
    /// Time until the answer, on connections that stay: of half of the requests, and of 99 in 100.
    Median,
    Slowest,
    /// The same with a connection for each.
    ConnectMedian,
    ConnectSlowest,
}

impl Measure {
    pub const ALL: [Self; 9] = [
        Self::Up,
        Self::Down,
        Self::Requests,
        Self::Connections,
        Self::Datagrams,
        Self::Median,
        Self::Slowest,
        Self::ConnectMedian,
        Self::ConnectSlowest,
    ];
    /// Those of which more is better; the others are times.
    pub const RATES: usize = 5;

    /// Its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Up => "up Gbit/s",
            Self::Down => "down Gbit/s",
            Self::Requests => "kept alive 1000/s",
            Self::Connections => "connect 1000/s",
            Self::Datagrams => "UDP 1000/s",
            Self::Median => "kept alive p50 ms",
            Self::Slowest => "kept alive p99 ms",
            Self::ConnectMedian => "connect p50 ms",
            Self::ConnectSlowest => "connect p99 ms",
        }
    }

    /// Its key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "upload",
            Self::Down => "download",
            Self::Requests => "requests_keep_alive",
            Self::Connections => "requests_with_connection_each",
            Self::Datagrams => "datagrams_delivered",
            Self::Median => "keep_alive_p50",
            Self::Slowest => "keep_alive_p99",
            Self::ConnectMedian => "connection_each_p50",
            Self::ConnectSlowest => "connection_each_p99",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Up | Self::Down => "Gbit/s",
            Self::Requests | Self::Connections | Self::Datagrams => "1000/s",
            Self::Median | Self::Slowest | Self::ConnectMedian | Self::ConnectSlowest => "ms",
        }
    }
}

/// What is done on each path, once a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Up,
    Down,
    Requests,
    Connections,
    Datagrams,
}

impl Job {
    const ALL: [Self; 5] = [
        Self::Up,
        Self::Down,
        Self::Requests,
        Self::Connections,
        Self::Datagrams,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Up => "upload",
            Self::Down => "download",
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Datagrams => "datagrams",
        }
    }
}

/// What stands between client and origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Routing,
    Lb,
    Nftables,
    Haproxy,
    Nginx,
}

/// Names of paths that others are held against.
pub const LB: &str = "lb, nat";
pub const SINGLE_ROUTING: &str = "routing, packet by packet";
pub const NFTABLES: &str = "nftables, nat";
pub const HAPROXY: &str = "haproxy, tcp";
pub const NGINX: &str = "nginx, stream";

/// All paths; the first is what the others are compared with. The flag: packet by packet.
const PATHS: [(&str, Kind, bool); 7] = [
    ("routing, no balancer", Kind::Routing, false),
    (SINGLE_ROUTING, Kind::Routing, true),
    (LB, Kind::Lb, false),
    (NFTABLES, Kind::Nftables, false),
    ("nftables, nat, packet by packet", Kind::Nftables, true),
    (HAPROXY, Kind::Haproxy, false),
    (NGINX, Kind::Nginx, false),
];

/// What came out: samples by round, for each of [`Measure::ALL`]; none where the path does not do it.
pub struct Result {
    pub name: &'static str,
    pub samples: [Vec<f64>; Measure::ALL.len()],
}

/// A path that is set up. Dropped from top to bottom.
struct Path {
    name: &'static str,
    kind: Kind,
    /// Packet by packet.
    single: bool,
    target: IpAddr,
    _daemon: Option<Daemon>,
    _proxy: Option<Process>,
    _servers: [Server; 2],
    lab: Lab,
}

/// Sets all paths up and measures them in turns.
///
/// # Errors
/// A program that measures fails.
pub fn measure(arguments: &Arguments) -> Fallible<Vec<Result>> {
    // Otherwise a lab would wait for another's end.
    let _alone = gate::alone();
    let wanted = PATHS
        .into_iter()
        .enumerate()
        .filter(|(index, (name, ..))| *index == 0 || arguments.wants(name));
    let mut paths = Vec::new();
    for (_, (name, kind, single)) in wanted {
        progress(&format!("set up {name}"));
        paths.push(Path::new(name, kind, single)?);
    }
    compare_interfaces(&paths)?;
    let mut results: Vec<Result> = paths
        .iter()
        .map(|path| Result {
            name: path.name,
            samples: Default::default(),
        })
        .collect();
    let rounds = arguments.path_rounds() as usize;
    for round in 0..rounds {
        for job in Job::ALL {
            progress(&format!(
                "paths: round {} of {rounds}, {}",
                round + 1,
                job.title()
            ));
            for turn in 0..paths.len() {
                ensure!(!is_interrupted(), "interrupted");
                // Each round begins with another path.
                let which = (turn + round) % paths.len();
                let path = &paths[which];
                let samples = path
                    .run(job)
                    .with_context(|| format!("{} of {}", job.title(), path.name))?;
                for (measure, sample) in samples {
                    results[which].samples[measure as usize].push(sample);
                }
            }
        }
    }
    progress("paths: done\n");
    Ok(results)
}

impl Path {
    fn new(name: &'static str, kind: Kind, single: bool) -> Fallible<Self> {
        let lab = Lab::routed(1);
        let [origin] = &lab.origins[..] else {
            bail!("one origin was asked for")
        };
        let servers = [servers::nginx(origin), servers::iperf3(origin)];
        if single {
            lab.pass_packet_by_packet();
        }
        let mut target = IpAddr::from(VIP4);
        let (mut daemon, mut proxy) = (None, None);
        match kind {
            Kind::Routing => {
                target = origin.v4.into();
                lab.forward_without_lb();
            }
            Kind::Lb => daemon = Some(lb(&lab)),
            Kind::Nftables => {
                lab.forward_without_lb();
                nftables(&lab)?;
            }
            Kind::Haproxy => {
                lab.own_vips();
                proxy = Some(haproxy(&lab)?);
            }
            Kind::Nginx => {
                lab.own_vips();
                proxy = Some(nginx(&lab)?);
            }
        }
        wait_until(SOON, &format!("{name} leads to the origin"), || {
            let reaches = |port| lab.client.enter(|| TcpStream::connect((target, port)).is_ok());
            (reaches(HTTP_PORT) && reaches(IPERF_PORT)).then_some(())
        });
        Ok(Self {
            name,
            kind,
            single,
            target,
            _daemon: daemon,
            _proxy: proxy,
            _servers: servers,
            lab,
        })
    }

    /// Does a job and says what came out, by measure.
    fn run(&self, job: Job) -> Fallible<Vec<(Measure, f64)>> {
        let (client, target) = (&self.lab.client, self.target);
        Ok(match job {
            Job::Up => vec![(Measure::Up, stream(client, target, &[])?)],
            Job::Down => vec![(Measure::Down, stream(client, target, &["--reverse"])?)],
            Job::Datagrams if self.kind == Kind::Haproxy => Vec::new(),
            Job::Datagrams => vec![(Measure::Datagrams, datagrams(client, target)?)],
            Job::Requests => {
                let answers = wrk(client, target, &[])?;
                vec![
                    (Measure::Requests, answers.rate),
                    (Measure::Median, answers.median),
                    (Measure::Slowest, answers.slowest),
                ]
            }
            Job::Connections => {
                let answers = wrk(client, target, &["-H", "Connection: close"])?;
                vec![
                    (Measure::Connections, answers.rate),
                    (Measure::ConnectMedian, answers.median),
                    (Measure::ConnectSlowest, answers.slowest),
                ]
            }
        })
    }
}

/// Says whether the interfaces of paths that pass packets one by one have the same features as under lb: nobody is to be
/// slower than he need be.
fn compare_interfaces(paths: &[Path]) -> Fallible<()> {
    let Some(lb) = paths.iter().find(|path| path.name == LB) else {
        return Ok(());
    };
    let under_lb = lb.lab.features();
    for path in paths.iter().filter(|path| path.single) {
        let differences = path.lab.features().differences(&under_lb);
        ensure!(
            differences.is_empty(),
            "{} cannot be compared with lb: {}",
            path.name,
            differences.join("; ")
        );
    }
    Ok(())
}

fn lb(lab: &Lab) -> Daemon {
    let origin = &lab.origins[0];
    let mut text = MONITOR.to_owned();
    for (name, port) in [("web", HTTP_PORT), ("iperf", IPERF_PORT)] {
        text += &pool(name).origin(origin, VIP4, port, 1.0).to_string();
        text += &balancer(name, &[name], None);
        text += &application(name, &format!("tcp/{port}"), VIP4, name);
    }
    text += &application("datagrams", &format!("udp/{IPERF_PORT}"), VIP4, "iperf");
    let mut daemon = Daemon::start(lab, &text);
    daemon.wait_healthy(&["web", "iperf"]);
    daemon
}

fn nftables(lab: &Lab) -> Fallible<()> {
    let origin = lab.origins[0].v4;
    let rules = format!(
        "table ip bench {{
            chain before {{ type nat hook prerouting priority dstnat; ip daddr {VIP4} dnat to {origin}; }}
            chain after {{ type nat hook postrouting priority srcnat; ip daddr {origin} masquerade; }}
        }}"
    );
    let path = lab.folder().join("bench.nft");
    fs::write(&path, rules)?;
    lab.node.run("nft", &["-f", &path.to_string_lossy()]);
    Ok(())
}

fn haproxy(lab: &Lab) -> Fallible<Process> {
    let origin = lab.origins[0].v4;
    let listen =
        |name: &str, port: u16| format!("listen {name}\n  bind {VIP4}:{port}\n  server a {origin}:{port}\n");
    let config = format!(
        "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  \
         timeout server 30s\n{}{}",
        listen("web", HTTP_PORT),
        listen("iperf", IPERF_PORT)
    );
    let path = lab.folder().join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&path);
    // Debian has it where only root looks.
    let folders = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{folders}:/usr/sbin"));
    let log = lab.folder().join("haproxy.log");
    Ok(Process::start(&lab.node, "haproxy", &mut command, &log))
}

fn nginx(lab: &Lab) -> Fallible<Process> {
    let (origin, folder) = (lab.origins[0].v4, lab.folder());
    let module = if fs::exists(STREAM_MODULE)? {
        format!("load_module {STREAM_MODULE};")
    } else {
        String::new()
    };
    let server = |port: u16, how: &str| {
        format!("server {{ listen {VIP4}:{port} {how} reuseport; proxy_pass {origin}:{port}; }}")
    };
    let config = format!(
        "{module}\nuser root;\ndaemon off;\nworker_processes 2;\nworker_rlimit_nofile 16384;\n\
         pid {}/proxy.pid;\nerror_log stderr warn;\nevents {{ worker_connections 8192; }}\nstream {{\n{}\n{}\n{}\n}}\n",
        folder.display(),
        server(HTTP_PORT, "backlog=8192"),
        server(IPERF_PORT, "backlog=8192"),
        server(IPERF_PORT, "udp")
    );
    let path = folder.join("proxy.conf");
    fs::write(&path, config)?;
    let mut command = Command::new("nginx");
    command
        .args(["-e", "stderr", "-p"])
        .arg(folder)
        .arg("-c")
        .arg(&path);
    let folders = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{folders}:/usr/sbin"));
    let log = folder.join("proxy.log");
    Ok(Process::start(&lab.node, "nginx", &mut command, &log))
}

/// What a program says when it is run inside; it must succeed.
fn output(namespace: &Netns, command: &mut Command) -> Fallible<String> {
    let output = namespace.output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}{words}");
    Ok(text)
}

/// Runs iperf3 and returns what it says at its end.
fn iperf3(client: &Netns, target: IpAddr, more: &[&str]) -> Fallible<Value> {
    let mut command = Command::new("iperf3");
    command.args([
        "--json",
        "--connect-timeout",
        "2000",
        "--time",
        &SECONDS.to_string(),
    ]);
    command.args(["--port", &IPERF_PORT.to_string(), "--client", &target.to_string()]);
    let mut answer: Value = serde_json::from_str(&output(client, command.args(more))?)?;
    Ok(answer["end"].take())
}

/// Bytes received, in Gbit/s.
fn stream(client: &Netns, target: IpAddr, more: &[&str]) -> Fallible<f64> {
    let end = iperf3(client, target, more)?;
    let rate = end["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.context("iperf3 tells no rate")? / 1e9)
}

/// Datagrams that the origin received, in thousands a second.
fn datagrams(client: &Netns, target: IpAddr) -> Fallible<f64> {
    let rate = (DATAGRAMS * DATAGRAM_LEN * 8).to_string();
    let length = DATAGRAM_LEN.to_string();
    let end = iperf3(
        client,
        target,
        &["--udp", "--bitrate", &rate, "--length", &length],
    )?;
    let number = |name: &str| end["sum"][name].as_f64();
    let arrived = number("packets").zip(number("lost_packets"));
    let (sent, lost) = arrived.context("iperf3 tells no packets")?;
    Ok((sent - lost) / f64::from(SECONDS) / 1e3)
}

/// What wrk found.
struct Answers {
    /// In thousands a second.
    rate: f64,
    /// Milliseconds within which half of them came, and 99 in 100.
    median: f64,
    slowest: f64,
}

fn wrk(client: &Netns, target: IpAddr, more: &[&str]) -> Fallible<Answers> {
    let mut command = Command::new("wrk");
    command.args(["--latency", "--threads", "1", "--connections"]);
    command.arg(CONNECTIONS.to_string());
    command.args(["--duration", &format!("{SECONDS}s")]).args(more);
    let text = output(client, command.arg(format!("http://{target}:{HTTP_PORT}/")))?;
    let word = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    if let Some(errors) = word("Socket errors:").or_else(|| word("Non-2xx or 3xx responses:")) {
        bail!("wrk met errors: {errors}");
    }
    let rate = word("Requests/sec:").context("wrk tells no rate")?;
    let within = |share: &str| {
        let time = word(share).context("wrk tells no times")?;
        milliseconds(&time).with_context(|| format!("wrk says {time}"))
    };
    Ok(Answers {
        rate: rate.parse::<f64>()? / 1e3,
        median: within("50%")?,
        slowest: within("99%")?,
    })
}

/// A time as wrk has it, such as `1.25ms`.
fn milliseconds(time: &str) -> Option<f64> {
    let at = time.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = time.split_at(at);
    let factor = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(milliseconds("250.00us"), Some(0.25));
        assert_eq!(milliseconds("1.25ms"), Some(1.25));
        assert_eq!(milliseconds("1.50s"), Some(1500.0));
        assert_eq!(milliseconds("much"), None);
    }

    #[test]
    fn rates_stand_before_times() {
        for (place, measure) in Measure::ALL.into_iter().enumerate() {
            assert_eq!(measure as usize, place);
            assert_eq!(measure.unit() != "ms", place < Measure::RATES);
        }
    }
}
