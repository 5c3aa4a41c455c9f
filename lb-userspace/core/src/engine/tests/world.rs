//! A machine for tests: maps that check every write, a network that answers probes, and the packet path's selection.

use super::maps::Maps;
use crate::engine::{
    Answer, Command, Engine, Environment, Event, Kept, LookupFailure, Path, ProbeRequest, Report,
    SessionMoves, TargetId,
};
use crate::health::{FailureReason, Observation};
use crate::image::{Capacity, TableOp};
use crate::maglev::mix;
use crate::model::{
    Api, Application, AttachMode, Config, Datapath, Destination, Dns, Echo, FlowTimeouts, Forwarding,
    GeoPools, Limits, LoadBalancer, LoadShedding, Monitor, MonitorKind, Node, OnExit, OnUnhealthy, Origin,
    OriginSteering, Pool, PoolWeights, Ports, SomeTimeouts, SteeringPolicy, Transport, TunnelSource, Weight,
};
use crate::time::Timestamp;
use crate::view::{OriginView, PoolView, View};
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{HashKey, Mac, PortRange, SettingsFlags, Tag};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn capacity() -> Capacity {
    Capacity {
        applications: 32,
        vips: 96,
        pools: 32,
        origins: 64,
        hops: 64,
        snat_addresses: 16,
        slots: 400_000,
        application_rows: 16,
        spans: 24,
        access_prefixes: 24,
        country_rules: 16,
        country_prefixes: 8,
        routes: 64,
        buckets: 3 << 13,
        ..Capacity::default()
    }
}

pub fn environment() -> Environment {
    Environment {
        hz: 250,
        hash_key: HashKey { k0: 1, k1: 2 },
        snat_ports: PortRange {
            first: 61_000,
            count: 4_000,
        },
        flags: SettingsFlags(0),
        capacity: capacity(),
        max_flows: 1_000,
        adopted: None,
        kept: Kept::default(),
        assume_healthy: false,
        seed: 42,
    }
}

/// A configuration without anything.
pub fn config() -> Config {
    Config {
        node: Node {
            name: "test".into(),
            pop: None,
            region: None,
            country: None,
            latitude: None,
            longitude: None,
            state_dir: "/nowhere".into(),
        },
        datapath: Datapath {
            interfaces: vec!["eth0".into()],
            mode: AttachMode::Auto,
            snat_addresses: Vec::new(),
            max_flows: 1024,
            on_exit: OnExit::Keep,
            flow_timeouts: FlowTimeouts::default(),
            max_replies_per_second: Datapath::MAX_REPLIES,
            tunnel_source: TunnelSource::default(),
            access: None,
        },
        api: Api {
            socket: "/nowhere".into(),
            listen: Vec::new(),
            token_file: None,
            edge_ips: Vec::new(),
        },
        dns: Dns::default(),
        monitors: vec![monitor("check")],
        monitor_groups: Vec::new(),
        pools: Vec::new(),
        load_balancers: Vec::new(),
        applications: Vec::new(),
        history: crate::model::History::default(),
        webhooks: Vec::new(),
        geoip: None,
    }
}

pub fn monitor(name: &str) -> Monitor {
    Monitor {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        retries: 0,
        consecutive_up: 0,
        consecutive_down: 0,
        ..Monitor::new(name, MonitorKind::Tcp)
    }
}

/// A pool under the monitor `check`; its origins are named by their addresses.
pub fn pool(name: &str, origins: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        identity: None,
        enabled: true,
        monitor: Some("check".into()),
        monitor_group: None,
        minimum_origins: 1,
        origin_steering: OriginSteering::Random,
        on_unhealthy: OnUnhealthy::Keep,
        drain_timeout: Duration::from_secs(300),
        load_shedding: LoadShedding::default(),
        coordinates: None,
        notification_filter: crate::model::NotificationFilter::default(),
        origins: origins
            .iter()
            .map(|address| Origin {
                name: (*address).into(),
                identity: None,
                address: ip(address).into(),
                port: Some(8080),
                weight: Weight::ONE,
                enabled: true,
                forwarding: Forwarding::Nat,
                host: None,
                drain_timeout: None,
            })
            .collect(),
    }
}

pub fn unmonitored(name: &str, origins: &[&str]) -> Pool {
    Pool {
        monitor: None,
        ..pool(name, origins)
    }
}

pub fn balancer(name: &str, pools: &[&str], fallback: Option<&str>) -> LoadBalancer {
    LoadBalancer {
        name: name.into(),
        enabled: true,
        default_pools: pools.iter().map(|pool| (*pool).into()).collect(),
        fallback_pool: fallback.map(Into::into),
        steering_policy: SteeringPolicy::Off,
        random_steering: PoolWeights::default(),
        geo: GeoPools::default(),
        pool_sets: Vec::new(),
    }
}

pub fn application(name: &str, address: &str, load_balancer: &str) -> Application {
    Application {
        name: name.into(),
        enabled: true,
        transport: Transport::Tcp,
        ports: Ports::single(80),
        addresses: vec![ip(address)],
        destination: Destination::LoadBalancer(load_balancer.into()),
        origin_port: None,
        flow_timeouts: SomeTimeouts::default(),
        echo: Echo::Healthy,
        access: None,
        limits: Limits::default(),
        affinity: None,
    }
}

pub const VIP: &str = "203.0.113.10";

/// `web` at [`VIP`], leading to these pools.
pub fn web(pools: Vec<Pool>, fallback: Option<&str>) -> Config {
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let defaults: Vec<&str> = names.into_iter().filter(|name| Some(*name) != fallback).collect();
    Config {
        load_balancers: vec![balancer("web", &defaults, fallback)],
        applications: vec![application("web", VIP, "web")],
        pools: pools.clone(),
        ..config()
    }
}
/// The whole machine.
pub struct World {
    pub engine: Engine,
    pub now: Timestamp,
    pub maps: Maps,
    /// Addresses whose probes are refused.
    pub dead: BTreeSet<IpAddr>,
    /// Ports of others that refuse.
    pub refused: BTreeSet<(IpAddr, u16)>,
    /// Probes stay unanswered.
    pub silent: bool,
    /// Paths are answered at once: each address by a neighbour of its own.
    pub routed: bool,
    pub probes: Vec<ProbeRequest>,
    pub applied: Vec<Vec<TableOp>>,
    pub reports: Vec<Report>,
    pub views: Vec<Arc<View>>,
    pub saved: Kept,
    pub saves: usize,
    pub environment: Environment,
    pub watched: Vec<IpAddr>,
    pub names: Vec<String>,
    pub moves: Arc<SessionMoves>,
}

impl World {
    pub fn new(environment: Environment) -> Self {
        Self::with_maps(environment, Maps::default())
    }

    fn with_maps(environment: Environment, mut maps: Maps) -> Self {
        maps.readable = vec![maps.settings.generation];
        maps.readable_access = vec![maps.settings.access];
        Self {
            engine: Engine::new(environment.clone(), Timestamp::default()),
            environment,
            now: Timestamp::default(),
            maps,
            dead: BTreeSet::new(),
            refused: BTreeSet::new(),
            silent: false,
            routed: true,
            probes: Vec::new(),
            applied: Vec::new(),
            reports: Vec::new(),
            views: Vec::new(),
            saved: Kept::default(),
            saves: 0,
            watched: Vec::new(),
            names: Vec::new(),
            moves: Arc::default(),
        }
    }

    /// A world that was configured and has probed everything once.
    pub fn settled(config: Config) -> Self {
        let mut world = Self::new(environment());
        world.configure(config);
        world.run(1);
        world
    }

    /// The daemon dies and another one takes over the maps, with this knowledge.
    pub fn restart(&self, kept: Kept) -> Self {
        let mut world = Self::with_maps(
            Environment {
                adopted: Some(self.maps.adopted()),
                kept,
                ..self.environment.clone()
            },
            self.maps.clone(),
        );
        world.dead = self.dead.clone();
        world.refused = self.refused.clone();
        world
    }

    pub fn configure(&mut self, config: Config) {
        self.handle(Event::Configure(Arc::new(config)));
    }

    pub fn handle(&mut self, event: Event) {
        if let Event::Paths(paths) = &event {
            for (address, path) in paths {
                if let Path::Via {
                    neighbour: Some(mac), ..
                } = path
                {
                    self.maps.neighbours.entry(*address).or_default().insert(*mac);
                }
            }
        }
        for command in self.engine.handle(event, self.now) {
            match command {
                Command::Apply(ops) => {
                    ops.iter().for_each(|op| self.maps.execute(op));
                    self.applied.push(ops);
                    self.assert_image();
                }
                Command::Probe(request) => self.probes.push(request),
                Command::WatchPaths(addresses) => {
                    self.watched = addresses;
                    if self.routed {
                        let paths = self
                            .watched
                            .iter()
                            .map(|address| (*address, path(*address, 0)))
                            .collect();
                        self.handle(Event::Paths(paths));
                    }
                }
                Command::WatchNames(names) => self.names = names,
                Command::Publish(view) => self.views.push(view),
                Command::Shed(moves) => self.moves = moves,
                Command::Persist(records) => {
                    self.saved = records;
                    self.saves += 1;
                }
                Command::Report(report) => self.reports.push(report),
            }
        }
        assert!(
            self.engine
                .next_deadline()
                .is_none_or(|deadline| deadline > Timestamp::default() || self.now == deadline)
        );
    }

    /// What the engine would repair is what the maps hold.
    fn assert_image(&self) {
        let mut maps = self.maps.clone();
        maps.readable.clear();
        for op in self.engine.image() {
            match op {
                TableOp::Grace
                | TableOp::RemoveApplication { .. }
                | TableOp::RemoveVip { .. }
                | TableOp::RemoveRoute { .. }
                | TableOp::RemoveAccessList { .. } => {
                    panic!("{op:?} repairs nothing")
                }
                TableOp::Settings(settings) => assert_eq!(settings, self.maps.settings),
                _ => maps.write(&op),
            }
        }
        assert!(maps.origins == self.maps.origins && maps.hops == self.maps.hops);
        assert!(maps.pools == self.maps.pools && maps.applications == self.maps.applications);
        assert!(maps.routes == self.maps.routes);
        assert!(maps.vips == self.maps.vips && maps.spans == self.maps.spans);
        assert!(maps.interfaces == self.maps.interfaces);
        assert!(maps.access == self.maps.access && maps.countries == self.maps.countries);
        assert!(maps.slots == self.maps.slots && maps.sources == self.maps.sources);
    }

    /// Lets time pass, with probes answered as they come.
    pub fn run(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        for step in 0.. {
            assert!(
                step < 10_000,
                "the engine asks for one tick after the other at {:?}",
                self.now
            );
            self.answer();
            match self.engine.next_deadline() {
                Some(deadline) if deadline <= end => {
                    self.now = deadline.max(self.now);
                    self.handle(Event::Tick);
                }
                Some(_) | None => break,
            }
        }
        self.now = end;
        self.handle(Event::Tick);
        self.answer();
    }

    fn answer(&mut self) {
        while !self.silent && !self.probes.is_empty() {
            let request = self.probes.remove(0);
            let refused = self.refused.contains(&(request.address, request.port));
            let observation = if refused || self.dead.contains(&request.address) {
                Err(FailureReason::ConnectionFailed)
            } else {
                Ok(Duration::from_micros(200 + self.now.0.as_millis() as u64 % 7).into())
            };
            self.observe(request.target, request.attempt, observation);
        }
    }

    pub fn observe(&mut self, target: TargetId, attempt: u64, observation: Observation) {
        self.handle(Event::Observed {
            target,
            attempt,
            observation,
        });
    }

    pub fn kill(&mut self, address: &str) {
        self.dead.insert(ip(address));
        self.run(6);
    }

    /// A lookup has found these addresses.
    pub fn resolve(&mut self, name: &str, addresses: &[&str]) {
        let mut answer = Answer {
            v4: Ok(Vec::new()),
            v6: Ok(Vec::new()),
        };
        for address in addresses {
            match ip(address) {
                IpAddr::V4(v4) => answer.v4.as_mut().unwrap().push(v4),
                IpAddr::V6(v6) => answer.v6.as_mut().unwrap().push(v6),
            }
        }
        self.handle(Event::Resolved {
            name: name.into(),
            answer,
        });
        self.run(1);
    }

    /// A lookup has failed.
    pub fn fail_to_resolve(&mut self, name: &str, failure: LookupFailure) {
        let answer = Answer {
            v4: Err(failure.clone()),
            v6: Err(failure),
        };
        self.handle(Event::Resolved {
            name: name.into(),
            answer,
        });
        self.run(1);
    }

    pub fn revive(&mut self, address: &str) {
        self.dead.remove(&ip(address));
        self.run(6);
    }

    pub fn view(&self) -> &View {
        self.views.last().expect("a view")
    }

    pub fn pool(&self, name: &str) -> &PoolView {
        self.view()
            .pools
            .iter()
            .find(|pool| pool.name == name)
            .expect("a pool")
    }

    pub fn origin(&self, address: &str) -> &OriginView {
        let mut origins = self.view().pools.iter().flat_map(|pool| &pool.origins);
        origins
            .find(|origin| origin.address == Some(ip(address)))
            .expect("an origin")
    }

    /// Share of new flows by address of the origin.
    pub fn shares(&self, vip: &str) -> BTreeMap<String, f64> {
        const FLOWS: u64 = 20_000;
        let mut shares = BTreeMap::new();
        for flow in 0..FLOWS {
            if let Some((_, origin)) = self.maps.select(vip, mix(flow)) {
                let address = IpAddr::from(self.maps.origins[&origin].address);
                *shares.entry(address.to_string()).or_insert(0.0) += 1.0 / FLOWS as f64;
            }
        }
        shares
    }

    /// The addresses of the origins that get new flows.
    pub fn serving(&self, vip: &str) -> Vec<String> {
        self.shares(vip).into_keys().collect()
    }
}

/// A neighbour for each address; other `router`s have other link addresses.
pub fn path(address: IpAddr, router: u8) -> Path {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    let family = u8::from(address.is_ipv6());
    Path::Via {
        ifindex: 2,
        tags: [Tag::NONE; 2],
        next_hop: address,
        neighbour: Some(Mac::from([2, family, router, 0, 0, last])),
        interface_mac: Mac::from([2, 0, 0, 0, 0, 99]),
        mtu: if router == 2 { 1400 } else { 1500 },
        sources: vec![ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.2")],
    }
}

/// Weights in hundredths of these pools, and of all others.
pub fn weights(named: &[(&str, u8)], default: u8) -> PoolWeights {
    let weight = |hundredths| Weight::from_hundredths(hundredths).unwrap();
    PoolWeights {
        named: named
            .iter()
            .map(|(pool, hundredths)| ((*pool).to_owned(), weight(*hundredths)))
            .collect(),
        default: weight(default),
    }
}
