//! What a packet costs on its whole way through a node, beside other ways through the same namespaces.
//!
//! Live frames enter at the node's interface towards the client and end behind its interface towards the origins, where
//! every one is counted; one CPU does all of it, the receiving end included.

use crate::arguments::Arguments;
use crate::bars;
use crate::live::{CALL, Flows, Kind, Live, PASS, REDIRECT, Sent, TRANSMIT};
use crate::report::{Quartiles, progress, quartiles, ratios};
use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramFd, loaded_programs};
use lb_tests::check::{SOON, is_interrupted};
use lb_tests::config::{application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate;
use lb_tests::lab::Lab;
use lb_tests::traffic::link;
use lb_userspace::datapath::sys;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Origins: flows are spread over both, except where the client names one.
const ORIGINS: usize = 2;
const PORT: u16 = 443;
/// Flows that are open.
const FEW: u32 = 1 << 10;
const MANY: u32 = 1 << 16;
/// Source addresses: all are the client's.
const CLIENTS: &str = "16.0.0.0/4";
const KNOWN_CLIENTS: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
const NEW_CLIENTS: Ipv4Addr = Ipv4Addr::new(24, 0, 0, 0);
const FIRST_CLIENTS: Ipv4Addr = Ipv4Addr::new(28, 0, 0, 0);
/// Addresses that lb translates to: each has a few thousand ports, and there are many flows.
const SNAT_ADDRESSES: u8 = 64;
/// The first of the VIPs, one for each mode of lb.
const VIPS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(203, 0, 113, 10),
    Ipv4Addr::new(203, 0, 113, 11),
    Ipv4Addr::new(203, 0, 113, 12),
];
/// Longer than lb's daemon takes to find that connections to origins that answer directly have no entries: it sweeps each second.
const SWEEP: Duration = Duration::from_secs(3);
const MODES: [&str; 3] = ["nat", "dsr_l2", "dsr_ipip"];

/// A way through the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Back at once, and straight on: what nothing can be below.
    Transmit,
    Redirect,
    Routing,
    Dnat,
    Masquerade,
    Nat,
    DsrL2,
    DsrIpip,
}

impl Way {
    pub const ALL: [Self; 8] = [
        Self::Transmit,
        Self::Redirect,
        Self::Routing,
        Self::Dnat,
        Self::Masquerade,
        Self::Nat,
        Self::DsrL2,
        Self::DsrIpip,
    ];

    /// Its row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transmit => "bare XDP_TX",
            Self::Redirect => "bare redirect",
            Self::Routing => "kernel routing, no balancer",
            Self::Dnat => "nftables, DNAT",
            Self::Masquerade => "nftables, DNAT + masquerade",
            Self::Nat => "lb, nat",
            Self::DsrL2 => "lb, dsr_l2",
            Self::DsrIpip => "lb, dsr_ipip",
        }
    }

    /// Which of lb's modes it is.
    fn mode(self) -> Option<usize> {
        match self {
            Self::Nat => Some(0),
            Self::DsrL2 => Some(1),
            Self::DsrIpip => Some(2),
            _ => None,
        }
    }

    fn action(self) -> u32 {
        match self {
            Self::Transmit => TRANSMIT,
            Self::Redirect => REDIRECT,
            Self::Routing | Self::Dnat | Self::Masquerade => PASS,
            Self::Nat | Self::DsrL2 | Self::DsrIpip => CALL,
        }
    }

    /// Whether flows are to be opened, and whether answers come this way too.
    fn remembers(self) -> (bool, bool) {
        match self {
            Self::Transmit | Self::Redirect | Self::Routing => (false, false),
            Self::DsrL2 | Self::DsrIpip => (true, false),
            Self::Dnat | Self::Masquerade | Self::Nat => (true, true),
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// TCP segments of so many established connections.
    Established(u32),
    /// Datagrams, each the first of its flow.
    New,
}

impl Load {
    pub const ALL: [Self; 3] = [Self::Established(FEW), Self::Established(MANY), Self::New];

    fn title(self) -> &'static str {
        match self {
            Self::Established(FEW) => "1,000 connections",
            Self::Established(_) => "65,536 connections",
            Self::New => "new flow each",
        }
    }

    /// Its key in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Established(FEW) => "established_1k",
            Self::Established(_) => "established_64k",
            Self::New => "new_flow_each",
        }
    }

    /// Its place in [`Self::ALL`].
    fn index(self) -> usize {
        match self {
            Self::Established(FEW) => 0,
            Self::Established(_) => 1,
            Self::New => 2,
        }
    }
}

/// What came out: nanoseconds by round, for each of [`Load::ALL`].
pub struct Row {
    pub way: Way,
    pub samples: [Vec<f64>; 3],
}

/// A lab that is set up for some ways. Dropped from top to bottom.
struct Site {
    live: Live,
    /// Flows that were opened: of the first mode, and so on.
    opened: Vec<(Way, u32)>,
    /// Number of the next new flow.
    next: u32,
    _daemon: Option<Daemon>,
    lab: Lab,
}

/// Sets all ways up and measures them in turns.
///
/// # Errors
/// The kernel refuses something, or a packet is lost.
pub fn measure(arguments: &Arguments, object: &Path) -> Result<Vec<Row>> {
    // Otherwise a lab would wait for another's end.
    let _alone = gate::alone();
    let wanted = |way: &Way| *way == Way::Routing || arguments.wants(way.name());
    let ways: Vec<Way> = Way::ALL.into_iter().filter(wanted).collect();
    let mut sites: Vec<(Vec<Way>, Site)> = Vec::new();
    for shared in [
        &[Way::Transmit, Way::Redirect, Way::Routing][..],
        &[Way::Dnat],
        &[Way::Masquerade],
        &[Way::Nat, Way::DsrL2, Way::DsrIpip],
    ] {
        let own: Vec<Way> = shared.iter().copied().filter(|way| ways.contains(way)).collect();
        if let Some(first) = own.first() {
            progress(&format!("forwarding: set up {}", first.name()));
            let site = Site::new(*first, object)?;
            sites.push((own, site));
        }
    }
    let mut rows: Vec<Row> = ways
        .iter()
        .map(|&way| Row {
            way,
            samples: Default::default(),
        })
        .collect();
    let rounds = arguments.forwarding_rounds();
    for round in 0..rounds as usize {
        for load in Load::ALL {
            progress(&format!(
                "forwarding: round {} of {rounds}, {}",
                round + 1,
                load.title()
            ));
            for turn in 0..rows.len() {
                ensure!(!is_interrupted(), "interrupted");
                // Each round begins with another way.
                let which = (turn + round) % rows.len();
                let row = &mut rows[which];
                let site = sites.iter_mut().find(|(ways, _)| ways.contains(&row.way));
                let (_, site) = site.context("each way has its site")?;
                let sample = site
                    .run(row.way, load, arguments.forwarded(load == Load::New))
                    .with_context(|| format!("{}, {}", row.way.name(), load.title()))?;
                row.samples[load.index()].push(sample);
            }
        }
    }
    progress("forwarding: done\n");
    Ok(rows)
}

impl Site {
    fn new(way: Way, object: &Path) -> Result<Self> {
        let lab = Lab::routed(ORIGINS);
        let is_lb = way.mode().is_some();
        let mut neighbours = format!(
            "route add {CLIENTS} via {}\nneigh replace {} lladdr {} dev eth0 nud permanent\n",
            lab.client_address(VIPS[0].into()),
            lab.client_address(VIPS[0].into()),
            mac(link(&lab.client, "eth0").0)
        );
        for origin in &lab.origins {
            let (address, _) = link(&origin.namespace, "eth0");
            neighbours += &format!(
                "neigh replace {} lladdr {} dev eth1 nud permanent\n",
                origin.v4,
                mac(address)
            );
        }
        lab.node.ip(neighbours.trim_end());
        let mut live;
        let mut daemon = None;
        if is_lb {
            let (started, interface) = (lb(&lab), link(&lab.node, "eth0").1);
            live = Live::new(&lab, object, false)?;
            live.set_program(&attached(&started, interface)?)?;
            daemon = Some(started);
        } else {
            lab.forward_without_lb();
            if let Some(rules) = nftables(way, &lab) {
                let path = lab.folder().join("bench.nft");
                fs::write(&path, rules)?;
                lab.node.run("nft", &["-f", &path.to_string_lossy()]);
                // Flows of one datagram are to be gone before the next round, and their ports free.
                lab.node.sysctl("net/netfilter/nf_conntrack_udp_timeout", "1");
            }
            live = Live::new(&lab, object, true)?;
        }
        let mut site = Self {
            live,
            opened: Vec::new(),
            next: 0,
            _daemon: daemon,
            lab,
        };
        if is_lb {
            for way in [Way::Nat, Way::DsrL2, Way::DsrIpip] {
                site.wait(way)?;
            }
        } else {
            site.wait(way)?;
        }
        Ok(site)
    }

    /// Where packets of a way go.
    fn target(&self, way: Way) -> SocketAddr {
        let address = match way {
            Way::Transmit | Way::Redirect | Way::Routing => self.lab.origins[0].v4,
            Way::Dnat | Way::Masquerade => VIPS[0],
            Way::Nat | Way::DsrL2 | Way::DsrIpip => VIPS[way.mode().unwrap_or_default()],
        };
        (address, PORT).into()
    }

    fn send(
        &mut self,
        way: Way,
        kind: Kind,
        from: (Flows, Ipv4Addr),
        count: u32,
        answered: bool,
    ) -> Result<Sent> {
        let all = u64::from(count);
        let expected = match (way, answered) {
            (Way::Transmit, _) => (0, all),
            (_, true) => (all, all),
            (_, false) => (all, 0),
        };
        let target = self.target(way);
        let sent = self
            .live
            .send((kind, target), from, (way.action(), count), expected)?;
        ensure!(
            (sent.arrived, sent.returned) == expected,
            "{} of {} packets have arrived, {} of {} came back",
            sent.arrived,
            expected.0,
            sent.returned,
            expected.1
        );
        Ok(sent)
    }

    /// Waits until packets go this way.
    fn wait(&mut self, way: Way) -> Result<()> {
        let started = Instant::now();
        loop {
            let flows = Flows {
                first: self.next,
                count: None,
            };
            self.next += 1;
            match self.send(way, Kind::Datagram, (flows, FIRST_CLIENTS), 1, false) {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > SOON => return Err(error.context(way.name())),
                Err(_) => {}
            }
        }
    }

    /// Nanoseconds for each packet.
    fn run(&mut self, way: Way, load: Load, count: u32) -> Result<f64> {
        let (kind, from) = match load {
            Load::New => {
                let flows = Flows {
                    first: self.next,
                    count: None,
                };
                self.next += count;
                (Kind::Datagram, (flows, NEW_CLIENTS))
            }
            Load::Established(count) => {
                let flows = Flows {
                    // The two sets have nothing in common.
                    first: count << 4,
                    count: Some(count),
                };
                let (opens, answered) = way.remembers();
                if opens && !self.opened.contains(&(way, count)) {
                    self.send(way, Kind::Syn, (flows, KNOWN_CLIENTS), count, answered)
                        .context("open the connections")?;
                    if !answered {
                        std::thread::sleep(SWEEP);
                    }
                    self.opened.push((way, count));
                }
                // Ends the handshakes, and lets caches know what they would.
                self.send(way, Kind::Data, (flows, KNOWN_CLIENTS), count, false)
                    .context("first segments")?;
                (Kind::Data, (flows, KNOWN_CLIENTS))
            }
        };
        Ok(self.send(way, kind, from, count, false)?.nanoseconds)
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The daemon with an application for each mode.
fn lb(lab: &Lab) -> Daemon {
    let mut text = String::new();
    for (mode, vip) in MODES.into_iter().zip(VIPS) {
        let pool = pool(mode).unmonitored().line(&format!("forwarding = \"{mode}\""));
        let pool = lab
            .origins
            .iter()
            .fold(pool, |pool, host| pool.origin(host, vip, 0, 1.0));
        text += &format!("{pool}{}", balancer(mode, &[mode], None));
        for protocol in ["tcp", "udp"] {
            let name = format!("{mode}-{protocol}");
            text += &application(&name, &format!("{protocol}/{PORT}"), vip, mode);
        }
    }
    let addresses: Vec<String> = (1..=SNAT_ADDRESSES)
        .map(|last| format!("\"198.18.0.{last}\""))
        .collect();
    let datapath = format!("snat_addresses = [{}]", addresses.join(", "));
    Daemon::start_with(lab, &datapath, &text)
}

/// The program that the daemon has attached to an interface.
fn attached(daemon: &Daemon, interface: u32) -> Result<ProgramFd> {
    let mut files = fs::read_dir(daemon.pins())?
        .flatten()
        .filter_map(|layout| fs::read_dir(layout.path()).ok())
        .flat_map(|files| files.flatten());
    let own = format!("-{interface}-");
    let pin = files.find(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("link-") && name.contains(&own)
    });
    let link = sys::pinned_link(&pin.context("lb has attached nothing")?.path())?;
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == link.program)
        .context("lb's program is not there")?;
    Ok(program.fd()?)
}

/// What one would write for two origins.
fn nftables(way: Way, lab: &Lab) -> Option<String> {
    let origins: Vec<String> = lab
        .origins
        .iter()
        .enumerate()
        .map(|(number, origin)| format!("{number} : {}", origin.v4))
        .collect();
    let masquerade = match way {
        Way::Dnat => "",
        Way::Masquerade => {
            "chain after { type nat hook postrouting priority srcnat; oifname eth1 masquerade; }"
        }
        _ => return None,
    };
    Some(format!(
        "table ip bench {{
            chain before {{
                type nat hook prerouting priority dstnat;
                ip daddr {} dnat to numgen inc mod {ORIGINS} map {{ {} }};
            }}
            {masquerade}
        }}\n",
        VIPS[0],
        origins.join(", ")
    ))
}

/// A bar, and what was measured.
struct Judged {
    way: Way,
    load: Load,
    limit: f64,
    reference: Way,
    ratio: Quartiles,
}

impl Judged {
    fn is_met(&self) -> bool {
        self.ratio.median <= self.limit
    }
}

fn judge(rows: &[Row]) -> Vec<Judged> {
    let of = |way: Way, load: Load| {
        let row = rows.iter().find(|row| row.way == way)?;
        Some(&row.samples[load.index()])
    };
    let mut judged = Vec::new();
    for load in Load::ALL {
        for row in rows {
            for (limit, reference) in bars::forwarding(row.way, load) {
                if let (Some(own), Some(other)) = (of(row.way, load), of(reference, load)) {
                    judged.push(Judged {
                        way: row.way,
                        load,
                        limit,
                        reference,
                        ratio: ratios(own, other),
                    });
                }
            }
        }
    }
    judged
}

/// Prints nanoseconds and ratios.
pub fn print(rows: &[Row], rounds: u32) {
    println!(
        "\nThrough the node, from its interface to behind the other one: CPU time per packet in ns, medians of {rounds}"
    );
    println!(
        "rounds, and in brackets the median ratio to kernel routing in the same round. No packet was lost.\n"
    );
    print!("{:<30}", "way");
    for load in Load::ALL {
        print!(" {:>20}", load.title());
    }
    println!();
    let routing = rows.iter().find(|row| row.way == Way::Routing);
    for row in rows {
        print!("{:<30}", row.way.name());
        for load in Load::ALL {
            let own = &row.samples[load.index()];
            let ratio = routing.map_or(0.0, |routing| ratios(own, &routing.samples[load.index()]).median);
            print!(" {:>20}", format!("{:.0} ({ratio:.2})", quartiles(own).median));
        }
        println!();
    }
    let judged = judge(rows);
    let met = judged.iter().filter(|judged| judged.is_met()).count();
    println!("\nBars: {met} of {} met.\n", judged.len());
    for judged in &judged {
        println!(
            "{:<16} {:<20} {:>5.2} {:>6.2} {:>13}  {:<7} of {}",
            judged.way.name(),
            judged.load.title(),
            judged.limit,
            judged.ratio.median,
            format!("{:.2} - {:.2}", judged.ratio.lower, judged.ratio.upper),
            if judged.is_met() { "met" } else { "NOT MET" },
            judged.reference.name()
        );
    }
}

/// Everything, for programs.
pub fn json(rows: &[Row]) -> Value {
    let ways = rows.iter().map(|row| {
        let loads = Load::ALL.iter().map(|load| {
            let samples = &row.samples[load.index()];
            let value = json!({"median_ns": quartiles(samples).median, "ns": samples});
            (load.name().to_owned(), value)
        });
        json!({"way": row.way.name(), "loads": loads.collect::<serde_json::Map<_, _>>()})
    });
    let judged = judge(rows);
    let bars = judged.iter().map(|judged| {
        json!({
            "way": judged.way.name(),
            "load": judged.load.name(),
            "of": judged.reference.name(),
            "bar": judged.limit,
            "measured": judged.ratio.median,
            "met": judged.is_met(),
        })
    });
    json!({"ways": ways.collect::<Vec<_>>(), "bars": bars.collect::<Vec<_>>()})
}
