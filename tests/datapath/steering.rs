//! Shares of flows: what a configuration asks for, and what the program does with ten thousand flows of as many clients.
//!
//! A configuration file goes through the reader, the engine and the writer into the kernel's maps; monitors are answered
//! as each row says; then SYNs and datagrams go through the program, and where they leave for is counted.

use lb_common::abi::{HashKey, Mac, OriginId, PortRange, SettingsFlags, Tag};
use lb_common::testing::PacketBuilder;
use lb_common::testing::scenario::{CLIENT_SIDE, ORIGIN_SIDE};
use lb_core::engine::{Command, Engine, Environment, Event, Kept, Path, Report, SessionMoves};
use lb_core::health::FailureReason;
use lb_core::image::Capacity;
use lb_core::time::Timestamp;
use lb_core::view::View;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::config::{HostDefaults, parse};
use lb_userspace::datapath::flows::FlowTables;
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::writer::Writer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const FLOWS: u32 = 10_240;
const TOLERANCE: f64 = 0.02;
const SYN: u8 = 2;
const VIP: &str = "203.0.113.10:80";
/// Clients of countries, and of none.
const DE: &str = "198.18.0.0";
const FR: &str = "198.19.0.0";
const NOWHERE: &str = "100.64.0.0";

/// Origins by the last byte of their addresses.
type Shares<'a> = &'a [(u8, f64)];

/// A node whose program is run by hand.
struct Node {
    kernel: Kernel,
    writer: Writer,
    flows: FlowTables,
    engine: Engine,
    now: Timestamp,
    /// Origins whose monitors are refused.
    dead: BTreeSet<u8>,
    /// Milliseconds after which the others' are answered.
    latencies: BTreeMap<u8, u64>,
    view: Arc<View>,
    moves: Arc<SessionMoves>,
}

impl Node {
    fn new() -> Self {
        let sizes = MapSizes {
            capacity: Capacity {
                slots: 1 << 18,
                ..small().capacity
            },
            max_flows: 65_536,
        };
        let kernel = Kernel::new(&sizes).unwrap();
        let environment = Environment {
            hz: kernel.clock.hz,
            hash_key: HashKey { k0: 7, k1: 11 },
            snat_ports: PortRange {
                first: 2_000,
                count: 60_000,
            },
            flags: SettingsFlags(0),
            capacity: sizes.capacity,
            adopted: None,
            kept: Kept::default(),
            assume_healthy: false,
            seed: 1,
            max_flows: sizes.max_flows,
        };
        let mut node = Self {
            writer: Writer::new(|name| kernel.map(name)).unwrap(),
            flows: FlowTables::new(|name| kernel.map(name)).unwrap(),
            kernel,
            engine: Engine::new(environment, Timestamp::default()),
            now: Timestamp::default(),
            dead: BTreeSet::new(),
            latencies: BTreeMap::new(),
            view: Arc::default(),
            moves: Arc::default(),
        };
        node.tell(Event::Interfaces(
            [(CLIENT_SIDE, 1500), (ORIGIN_SIDE, 1500)].into(),
        ));
        node
    }

    fn tell(&mut self, event: Event) {
        for command in self.engine.handle(event, self.now) {
            match command {
                Command::Apply(steps) => self.writer.apply(&steps).unwrap(),
                Command::WatchPaths(addresses) => {
                    let paths = addresses.into_iter().map(|address| (address, path(address)));
                    self.tell(Event::Paths(paths.collect()));
                }
                Command::Probe(request) => {
                    let number = number(request.address);
                    let latency = self.latencies.get(&number).copied().unwrap_or(1);
                    let observation = match self.dead.contains(&number) {
                        true => Err(FailureReason::ConnectionFailed),
                        false => Ok(Duration::from_millis(latency)),
                    };
                    self.tell(Event::Observed {
                        target: request.target,
                        attempt: request.attempt,
                        observation,
                    });
                }
                Command::Publish(view) => self.view = view,
                Command::Shed(moves) => self.moves = moves,
                Command::Report(Report::Refused(why)) => panic!("{why}"),
                Command::Persist(_) | Command::WatchNames(_) | Command::Report(_) => {}
            }
        }
    }

    fn configure(&mut self, text: &str) {
        let defaults = HostDefaults {
            node_name: "node".to_owned(),
        };
        let config = parse(text, "lb.toml", &defaults)
            .unwrap_or_else(|errors| panic!("{errors:?}"))
            .config;
        self.tell(Event::Configure(Arc::new(config)));
        self.run(2);
    }

    /// Lets time pass.
    fn run(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        while let Some(deadline) = self.engine.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline.max(self.now);
            self.tell(Event::Tick);
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    fn id(&self, number: u8) -> OriginId {
        let mut origins = self.view.pools.iter().flat_map(|pool| &pool.origins);
        let found = origins.find(|origin| {
            origin
                .address
                .is_some_and(|address| self::number(address) == number)
        });
        found.unwrap().id
    }

    /// Sends one packet of each of many clients from `first` on, and returns where they go; 0: nowhere.
    fn measure(&mut self, first: &str, udp: bool) -> BTreeMap<u8, f64> {
        let first = u32::from(first.parse::<Ipv4Addr>().unwrap());
        let vip: SocketAddr = VIP.parse().unwrap();
        let mut shares = BTreeMap::new();
        for number in 0..FLOWS {
            let address = Ipv4Addr::from(first + number);
            let client = SocketAddr::from((address, 1024 + (number % 50_000) as u16));
            let packet = match udp {
                true => PacketBuilder::udp(client, vip),
                false => PacketBuilder::tcp(client, vip, SYN),
            };
            let (_, left) = self.kernel.receive(CLIENT_SIDE, &packet.frame()).unwrap();
            // Bytes of the IPv4 destination, behind the Ethernet header.
            let destination: [u8; 4] = left.0[30..34].try_into().unwrap();
            let origin = match destination {
                [10, 0, 0, origin] => origin,
                _ => 0,
            };
            *shares.entry(origin).or_insert(0.0) += 1.0 / f64::from(FLOWS);
        }
        shares
    }

    fn check(&mut self, words: &str, expected: Shares<'_>) {
        self.check_from(NOWHERE, words, expected);
    }

    fn check_from(&mut self, first: &str, words: &str, expected: Shares<'_>) {
        let shares = self.measure(first, false);
        agree(words, &shares, expected);
        // The next row's flows are new ones.
        self.flows.flush(|_| true).unwrap();
    }
}

fn agree(words: &str, shares: &BTreeMap<u8, f64>, expected: Shares<'_>) {
    let share = |number: u8| {
        let found = expected.iter().find(|(known, _)| *known == number);
        found.map_or(0.0, |(_, share)| *share)
    };
    for number in shares.keys().chain(expected.iter().map(|(number, _)| number)) {
        let measured = shares.get(number).copied().unwrap_or(0.0);
        assert!(
            (measured - share(*number)).abs() <= TOLERANCE,
            "{words}: {shares:?}, {expected:?} expected"
        );
    }
}

fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    }
}

fn path(address: IpAddr) -> Path {
    Path::Via {
        ifindex: ORIGIN_SIDE,
        tags: [Tag::NONE; 2],
        next_hop: address,
        neighbour: Some(Mac::from([2, 0, 0, 0, 1, number(address)])),
        interface_mac: Mac::from([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        sources: vec!["192.0.2.1".parse().unwrap()],
    }
}

/// Pools `a`, `b` and `c` of the origins 1, 2 and 3, with weights 0.5, 0.3 and 0.2, and the fallback pool `sorry` of
/// origin 9. `pools` are lines of each of the three, `balancer` lines of the load balancer.
fn config(policy: &str, pools: [&str; 3], balancer: &str) -> String {
    let mut text = "[monitors.m]\ntype = 'tcp'\ninterval = 1\n".to_owned();
    for (number, (name, lines)) in (1..).zip(["a", "b", "c"].iter().zip(pools)) {
        text += &format!(
            "[pools.{name}]\nmonitor = 'm'\n{lines}\n[pools.{name}.origins.o]\naddress = '10.0.0.{number}'\nport = 8080\n"
        );
    }
    text + &format!(
        "[pools.sorry.origins.o]\naddress = '10.0.0.9'\nport = 8080\n[load_balancers.web]\ndefault_pools = ['a', 'b', 'c']\n\
         fallback_pool = 'sorry'\nsteering_policy = '{policy}'\n{balancer}\n\
         [applications.web]\nprotocol = 'tcp/80'\naddresses = ['203.0.113.10']\nload_balancer = 'web'\n"
    )
}

const WEIGHTS: &str = "random_steering = { default_weight = 0.2, pool_weights = { a = 0.5, b = 0.3 } }";
const PLAIN: [&str; 3] = [""; 3];

#[test]
fn measured_shares_are_the_configured_ones_in_every_state() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        for policy in [
            "random",
            "hash",
            "least_connections",
            "least_outstanding_requests",
        ] {
            node.dead.clear();
            node.configure(&config(policy, PLAIN, WEIGHTS));
            node.check(&format!("{policy}, healthy"), &[(1, 0.5), (2, 0.3), (3, 0.2)]);
            node.dead.insert(1);
            node.run(3);
            node.check(&format!("{policy}, a is critical"), &[(2, 0.6), (3, 0.4)]);
            node.dead.extend([2, 3]);
            node.run(3);
            node.check(&format!("{policy}, fallback"), &[(9, 1.0)]);
            node.dead.clear();
            node.run(3);
            node.configure(&config(policy, ["", "enabled = false", ""], WEIGHTS));
            node.check(
                &format!("{policy}, b is disabled"),
                &[(1, 5.0 / 7.0), (3, 2.0 / 7.0)],
            );
            let shed = "load_shedding = { default_percent = 40 }";
            node.configure(&config(policy, [shed, "", ""], WEIGHTS));
            node.check(&format!("{policy}, a sheds"), &[(1, 0.3), (2, 0.42), (3, 0.28)]);
            node.configure(&config(policy, [shed; 3], WEIGHTS));
            let shares = node.measure(NOWHERE, false);
            node.flows.flush(|_| true).unwrap();
            // What all three shed: 0.4³.
            assert!(
                (shares[&9] - 0.064).abs() <= TOLERANCE,
                "{policy}, all shed: {shares:?}"
            );
        }
        let second = "[pools.a.origins.second]\naddress = '10.0.0.4'\nport = 8080\n";
        for policy in [
            "random",
            "hash",
            "least_connections",
            "least_outstanding_requests",
        ] {
            node.dead.clear();
            node.configure(&(config(policy, PLAIN, WEIGHTS) + second));
            let healthy = [(1, 0.25), (4, 0.25), (2, 0.3), (3, 0.2)];
            node.check(&format!("{policy}, two origins"), &healthy);
            node.dead.insert(4);
            node.run(3);
            node.check(
                &format!("{policy}, a is degraded"),
                &[(1, 0.5), (2, 0.3), (3, 0.2)],
            );
        }
        for (policy, first, second) in [("off", 1, 2), ("proximity", 3, 2), ("dynamic_latency", 2, 3)] {
            node.dead.clear();
            node.latencies = [(1, 30), (2, 10), (3, 20)].into();
            let place = ["", "latitude = 40\nlongitude = 8", "latitude = 49\nlongitude = 8"];
            let home = "[node]\nlatitude = 50\nlongitude = 8\n";
            node.configure(&(home.to_owned() + &config(policy, place, "")));
            node.run(12);
            node.check(&format!("{policy}, healthy"), &[(first, 1.0)]);
            node.dead.insert(first);
            node.run(3);
            node.check(&format!("{policy}, the first is critical"), &[(second, 1.0)]);
            node.dead.extend([1, 2, 3]);
            node.run(3);
            node.check(&format!("{policy}, fallback"), &[(9, 1.0)]);
        }
        node.dead.clear();
        for by in ["random", "hash"] {
            let shed = format!("load_shedding = {{ default_percent = 30, default_policy = '{by}' }}");
            node.configure(&config("off", [&shed, "", ""], ""));
            node.run(3);
            node.check(&format!("off, a sheds by {by}"), &[(1, 0.7), (2, 0.3)]);
        }
    });
}

#[test]
fn flows_that_are_open_count() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        node.configure(&config("least_connections", PLAIN, ""));
        let counts = [(1, 3), (2, 0), (3, 0)];
        let counts = counts.map(|(number, count)| (node.id(number), count));
        node.tell(Event::OpenFlows(counts.into()));
        node.run(1);
        // 1 / 4, 1 and 1.
        node.check("pools", &[(1, 1.0 / 9.0), (2, 4.0 / 9.0), (3, 4.0 / 9.0)]);
        let origins = "[pools.a.origins.second]\naddress = '10.0.0.4'\nport = 8080\n";
        for policy in ["least_connections", "least_outstanding_requests"] {
            let steering = format!("origin_steering = {{ policy = '{policy}' }}");
            node.configure(&(config("off", [&steering, "", ""], "") + origins));
            node.tell(Event::OpenFlows([(node.id(1), 3), (node.id(4), 0)].into()));
            node.run(1);
            node.check(policy, &[(1, 0.2), (4, 0.8)]);
            node.tell(Event::OpenFlows(BTreeMap::new()));
            node.run(1);
            node.check(policy, &[(1, 0.5), (4, 0.5)]);
        }
    });
}

#[test]
fn clients_go_where_their_country_leads() {
    needs_root!();
    namespace().enter(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "198.18.0.0/16 DE\n198.19.0.0/16 FR\n").unwrap();
        let geoip = format!("[geoip]\nprefixes = '{}'\n", file.path().display());
        let mut node = Node::new();
        let lines = "
            country_pools = { DE = ['b'] }
            [[load_balancers.web.pool_sets]]
            match = { topology = { countries = ['FR'] } }
            overrides = { pools = ['b', 'c'], steering_policy = 'random', pool_weights = { b = 0.25 }, pool_default_weight = 0.75 }
        ";
        node.configure(&(config("geo", PLAIN, lines) + &geoip));
        node.check_from(DE, "DE", &[(2, 1.0)]);
        node.check_from(FR, "FR", &[(2, 0.25), (3, 0.75)]);
        node.check_from(NOWHERE, "elsewhere", &[(1, 1.0)]);
        node.dead.insert(2);
        node.run(3);
        node.check_from(DE, "DE, whose pool is critical", &[(9, 1.0)]);
        node.check_from(FR, "FR, half of whose pools are", &[(3, 1.0)]);
        node.check_from(NOWHERE, "elsewhere", &[(1, 1.0)]);
    });
}

#[test]
fn sessions_move_at_the_next_sweep_and_only_once() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        let udp = |lines: &str| config("off", [lines, "", ""], "").replace("tcp/80", "udp/80");
        node.configure(&udp(""));
        agree("before", &node.measure(NOWHERE, true), &[(1, 1.0)]);
        node.configure(&udp("load_shedding = { session_percent = 25 }"));
        agree(
            "flows that are open stay",
            &node.measure(NOWHERE, true),
            &[(1, 1.0)],
        );
        let moves = node.moves.clone();
        let shed = node.flows.shed(&moves).unwrap();
        assert!(shed > 0);
        agree(
            "a quarter has moved",
            &node.measure(NOWHERE, true),
            &[(1, 0.75), (2, 0.25)],
        );
        assert_eq!(node.flows.shed(&moves).unwrap(), 0, "nobody moves twice");
    });
}
