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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const FLOWS: u32 = 10_240;
const TOLERANCE: f64 = 0.02;
const SYN: u8 = 2;
const VIP: &str = "203.0.113.10:80";
const VIP6: &str = "[2001:db8::10]:80";
/// Clients of countries, and of none.
const DE: &str = "198.18.0.0";
const FR: &str = "198.19.0.0";
const NOWHERE: &str = "100.64.0.0";
const SIX: &str = "2001:db8:c::1";

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
                        false => Ok(Duration::from_millis(latency).into()),
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
        let first: IpAddr = first.parse().unwrap();
        let vip: SocketAddr = if first.is_ipv4() { VIP } else { VIP6 }.parse().unwrap();
        let mut shares = BTreeMap::new();
        for number in 0..FLOWS {
            let address: IpAddr = match first {
                IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + number).into(),
                IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(number)).into(),
            };
            let client = SocketAddr::from((address, 1024 + (number % 50_000) as u16));
            let packet = match udp {
                true => PacketBuilder::udp(client, vip),
                false => PacketBuilder::tcp(client, vip, SYN),
            };
            let (_, left) = self.kernel.receive(CLIENT_SIDE, &packet.frame()).unwrap();
            // The destination, behind the Ethernet header.
            let origin = match (first, left.0.get(30..34), left.0.get(38..54)) {
                (IpAddr::V4(_), Some([10, 0, 0, origin]), _) => *origin,
                (IpAddr::V6(_), _, Some([0xfd, 0, .., origin])) => *origin,
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
        self.flows.flush(&self.kernel.clock, |_| true).unwrap();
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
        sources: vec!["192.0.2.1".parse().unwrap(), "2001:db8:5::1".parse().unwrap()],
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

/// What becomes of the pools.
#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Healthy,
    /// One of the favourite's two origins is down.
    Degraded,
    /// Both are.
    Critical,
    Disabled,
    /// The favourite gives up 40 % of its flows.
    Shed,
    /// All origins of all pools but the fallback pool are down.
    Fallback,
}

const STATES: [State; 6] = [
    State::Healthy,
    State::Degraded,
    State::Critical,
    State::Disabled,
    State::Shed,
    State::Fallback,
];

/// Policies, lines of the load balancer, and the order of the pools; a weighted policy has none.
const POLICIES: [(&str, &str, Option<[u8; 3]>); 8] = [
    ("off", "", Some([1, 2, 3])),
    ("random", WEIGHTS, None),
    ("hash", WEIGHTS, None),
    ("geo", "region_pools = { WEU = ['c', 'a', 'b'] }", Some([3, 1, 2])),
    ("dynamic_latency", "", Some([2, 3, 1])),
    ("proximity", "", Some([3, 2, 1])),
    ("least_connections", WEIGHTS, None),
    ("least_outstanding_requests", WEIGHTS, None),
];

/// The pools' shares in a state; 9 is the fallback pool.
fn expected(order: Option<[u8; 3]>, state: State) -> Vec<(u8, f64)> {
    match (state, order) {
        (State::Fallback, _) => vec![(9, 1.0)],
        (State::Healthy | State::Degraded, Some([first, _, _])) => vec![(first, 1.0)],
        (State::Critical | State::Disabled, Some([_, second, _])) => vec![(second, 1.0)],
        (State::Shed, Some([first, second, _])) => vec![(first, 0.6), (second, 0.4)],
        (State::Healthy | State::Degraded, None) => vec![(1, 0.5), (2, 0.3), (3, 0.2)],
        (State::Critical | State::Disabled, None) => vec![(2, 0.6), (3, 0.4)],
        (State::Shed, None) => vec![(1, 0.3), (2, 0.42), (3, 0.28)],
    }
}

/// Pools `a`, `b` and `c` of two origins for each family: those of pool n end in n and n + 3.
fn both_families(policy: &str, balancer: &str, favourite: u8, state: State) -> String {
    let lines = [1, 2, 3].map(|pool| match state {
        State::Disabled if pool == favourite => "enabled = false",
        State::Shed if pool == favourite => "load_shedding = { default_percent = 40 }",
        _ => "",
    });
    let places = [
        "",
        "latitude = 40\nlongitude = 8\n",
        "latitude = 49\nlongitude = 8\n",
    ];
    let pools = [0, 1, 2].map(|pool| format!("{}{}", places[pool], lines[pool]));
    let text = config(policy, [&pools[0], &pools[1], &pools[2]], balancer);
    let mut text = text.replace("['203.0.113.10']", "['203.0.113.10', '2001:db8::10']");
    for (pool, number) in [("a", 1), ("b", 2), ("c", 3), ("sorry", 9)] {
        let mut origin = |name: &str, address: String| {
            text += &format!("[pools.{pool}.origins.{name}]\naddress = '{address}'\nport = 8080\n");
        };
        origin("six", format!("fd00::{number}"));
        if pool != "sorry" {
            origin("second", format!("10.0.0.{}", number + 3));
            origin("second-six", format!("fd00::{}", number + 3));
        }
    }
    format!("[node]\nregion = 'WEU'\nlatitude = 50\nlongitude = 8\n{text}")
}

#[test]
fn measured_shares_are_those_of_the_policy_in_every_state() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        let latencies = [(1, 30), (2, 10), (3, 20)].into_iter();
        node.latencies = latencies
            .flat_map(|(pool, latency)| [(pool, latency), (pool + 3, latency)])
            .collect();
        for (policy, balancer, order) in POLICIES {
            let favourite = order.map_or(1, |[first, _, _]| first);
            for state in STATES {
                node.dead = match state {
                    State::Degraded => [favourite + 3].into(),
                    State::Critical => [favourite, favourite + 3].into(),
                    State::Fallback => (1..=6).collect(),
                    State::Healthy | State::Disabled | State::Shed => BTreeSet::new(),
                };
                node.configure(&both_families(policy, balancer, favourite, state));
                node.run(12);
                for clients in [NOWHERE, SIX] {
                    let words = format!("{policy}, {state:?}, from {clients}");
                    let origins = node.measure(clients, false);
                    node.flows.flush(&node.kernel.clock, |_| true).unwrap();
                    assert!(
                        node.dead.iter().all(|dead| !origins.contains_key(dead)),
                        "{words}: {origins:?}"
                    );
                    let mut pools = BTreeMap::new();
                    for (origin, share) in origins {
                        let pool = if origin > 3 && origin < 7 {
                            origin - 3
                        } else {
                            origin
                        };
                        *pools.entry(pool).or_insert(0.0) += share;
                    }
                    agree(&words, &pools, &expected(order, state));
                }
            }
        }
    });
}

#[test]
fn what_all_pools_give_up_goes_to_the_fallback_pool() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        for policy in ["random", "hash", "least_connections", "off"] {
            let shed = "load_shedding = { default_percent = 40 }";
            let balancer = if policy == "off" { "" } else { WEIGHTS };
            node.configure(&config(policy, [shed; 3], balancer));
            let shares = node.measure(NOWHERE, false);
            node.flows.flush(&node.kernel.clock, |_| true).unwrap();
            // What all three shed: 0.4³.
            assert!((shares[&9] - 0.064).abs() <= TOLERANCE, "{policy}: {shares:?}");
        }
        for by in ["random", "hash"] {
            let shed = format!("load_shedding = {{ default_percent = 30, default_policy = '{by}' }}");
            node.configure(&config("off", [&shed, "", ""], ""));
            node.run(3);
            node.check(&format!("off, a sheds by {by}"), &[(1, 0.7), (2, 0.3)]);
        }
    });
}

#[test]
fn flows_that_a_sweep_counts_lead_others_elsewhere() {
    needs_root!();
    namespace().enter(|| {
        let mut node = Node::new();
        node.configure(&config("least_connections", PLAIN, ""));
        node.dead.insert(3);
        node.run(3);
        let count = |node: &mut Node| -> [f64; 3] {
            let clock = node.kernel.clock;
            let counts = node.flows.sweep(&clock).unwrap().origins;
            let counts: BTreeMap<OriginId, u64> = counts
                .into_iter()
                .map(|(id, count)| (OriginId(id), count))
                .collect();
            let of = [1, 2, 3].map(|number| counts.get(&node.id(number)).copied().unwrap_or(0));
            node.tell(Event::OpenFlows(counts));
            node.run(1);
            of.map(|count| count as f64)
        };
        agree("two pools", &node.measure(NOWHERE, false), &[(1, 0.5), (2, 0.5)]);
        let [a, b, c] = count(&mut node);
        assert!(
            a + b > f64::from(FLOWS) * 0.9 && c == 0.0,
            "{a}, {b}, {c} of {FLOWS} are counted"
        );
        // It comes back without any: as if it had half of its part, a third of what the others have.
        node.dead.clear();
        node.run(3);
        let shares = node.measure("100.80.0.0", false);
        agree("the third is back", &shares, &[(1, 0.2), (2, 0.2), (3, 0.6)]);
        // Those that have not proven themselves are forgotten when there are many: whatever is counted is what counts.
        let counts = count(&mut node);
        assert!(counts[2] > f64::from(FLOWS) * 0.5, "{counts:?}");
        let weights = counts.map(|count| 1.0 / (count + 1.0));
        let total: f64 = weights.iter().sum();
        let shares = node.measure("100.96.0.0", false);
        let [a, b, c] = weights.map(|weight| weight / total);
        agree("all are counted", &shares, &[(1, a), (2, b), (3, c)]);
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
