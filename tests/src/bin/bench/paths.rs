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
/// Connections at once when requests are counted.
const CONNECTIONS: u32 = 32;

/// What is measured of each path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    Up,
    Down,
    Requests,
    Connections,
}

impl Measure {
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::Requests, Self::Connections];

    /// Its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Up => "up Gbit/s",
            Self::Down => "down Gbit/s",
            Self::Requests => "kept alive 1000/s",
            Self::Connections => "connect 1000/s",
        }
    }

    /// Its key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "upload",
            Self::Down => "download",
            Self::Requests => "requests_keep_alive",
            Self::Connections => "requests_with_connection_each",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Up | Self::Down => "Gbit/s",
            Self::Requests | Self::Connections => "1000/s",
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
}

/// Names of paths that others are held against.
pub const LB: &str = "lb, nat";
pub const SINGLE_ROUTING: &str = "routing, packet by packet";
pub const NFTABLES: &str = "nftables, nat";
pub const HAPROXY: &str = "haproxy, tcp";

/// All paths; the first is what the others are compared with. The flag: packet by packet.
const PATHS: [(&str, Kind, bool); 6] = [
    ("routing, no balancer", Kind::Routing, false),
    (SINGLE_ROUTING, Kind::Routing, true),
    (LB, Kind::Lb, false),
    (NFTABLES, Kind::Nftables, false),
    ("nftables, nat, packet by packet", Kind::Nftables, true),
    (HAPROXY, Kind::Haproxy, false),
];

/// What came out: samples by round, for each of [`Measure::ALL`].
pub struct Result {
    pub name: &'static str,
    pub samples: [Vec<f64>; 4],
}

/// A path that is set up. Dropped from top to bottom.
struct Path {
    name: &'static str,
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
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            progress(&format!(
                "paths: round {} of {rounds}, {}",
                round + 1,
                measure.name()
            ));
            for turn in 0..paths.len() {
                ensure!(!is_interrupted(), "interrupted");
                // Each round begins with another path.
                let which = (turn + round) % paths.len();
                let path = &paths[which];
                let sample = path
                    .run(measure)
                    .with_context(|| format!("{} of {}", measure.name(), path.name))?;
                results[which].samples[index].push(sample);
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
        }
        wait_until(SOON, &format!("{name} leads to the origin"), || {
            let reaches = |port| lab.client.enter(|| TcpStream::connect((target, port)).is_ok());
            (reaches(HTTP_PORT) && reaches(IPERF_PORT)).then_some(())
        });
        Ok(Self {
            name,
            single,
            target,
            _daemon: daemon,
            _proxy: proxy,
            _servers: servers,
            lab,
        })
    }

    fn run(&self, measure: Measure) -> Fallible<f64> {
        match measure {
            Measure::Up => iperf3(&self.lab.client, self.target, &[]),
            Measure::Down => iperf3(&self.lab.client, self.target, &["--reverse"]),
            Measure::Requests => wrk(&self.lab.client, self.target, &[]),
            Measure::Connections => wrk(&self.lab.client, self.target, &["-H", "Connection: close"]),
        }
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

/// What a program says when it is run inside; it must succeed.
fn output(namespace: &Netns, command: &mut Command) -> Fallible<String> {
    let output = namespace.output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}{words}");
    Ok(text)
}

/// Bytes received, in Gbit/s.
fn iperf3(client: &Netns, target: IpAddr, more: &[&str]) -> Fallible<f64> {
    let mut command = Command::new("iperf3");
    command.args([
        "--json",
        "--connect-timeout",
        "2000",
        "--time",
        &SECONDS.to_string(),
    ]);
    command.args(["--port", &IPERF_PORT.to_string(), "--client", &target.to_string()]);
    let answer: Value = serde_json::from_str(&output(client, command.args(more))?)?;
    let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.context("iperf3 tells no rate")? / 1e9)
}

/// Answers, in thousands a second.
fn wrk(client: &Netns, target: IpAddr, more: &[&str]) -> Fallible<f64> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
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
    Ok(rate.parse::<f64>()? / 1e3)
}
