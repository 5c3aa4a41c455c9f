//! A machine for tests: maps that check every write, a network that answers probes, and the packet path's selection.

use crate::engine::{
    Adopted, Command, Engine, Environment, Event, HealthRecord, Path, ProbeRequest, Report, TargetId,
};
use crate::health::{FailureReason, Observation};
use crate::image::{Capacity, TableOp};
use crate::maglev::mix;
use crate::model::{
    Api, Application, AttachMode, Config, Datapath, Destination, FlowTimeouts, LoadBalancer, Monitor,
    MonitorKind, Node, OnExit, Origin, OriginSteering, Pool, SteeringPolicy, Transport, Weight,
};
use crate::time::Timestamp;
use crate::view::{OriginView, PoolView, View};
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{
    self, ApplicationKey, HashKey, Hop, HopId, Ip, Mac, OriginId, OriginState, Parity, PoolId, Port,
    PortRange, Protocol, Settings, SettingsFlags, Steering, Table,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn capacity() -> Capacity {
    Capacity {
        applications: 32,
        pools: 32,
        origins: 64,
        hops: 64,
        snat_addresses: 16,
        slots: 400_000,
        application_rows: 16,
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
        adopted: None,
        health: Vec::new(),
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
        },
        api: Api {
            socket: "/nowhere".into(),
            listen: Vec::new(),
            token_file: None,
        },
        monitors: vec![monitor("check")],
        pools: Vec::new(),
        load_balancers: Vec::new(),
        applications: Vec::new(),
    }
}

pub fn monitor(name: &str) -> Monitor {
    Monitor {
        name: name.into(),
        kind: MonitorKind::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        retries: 0,
        consecutive_up: 0,
        consecutive_down: 0,
        port: None,
    }
}

/// A pool under the monitor `check`; its origins are named by their addresses.
pub fn pool(name: &str, origins: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        enabled: true,
        monitor: Some("check".into()),
        minimum_origins: 1,
        origin_steering: OriginSteering::Random,
        origins: origins
            .iter()
            .map(|address| Origin {
                name: (*address).into(),
                address: ip(address),
                port: Some(8080),
                weight: Weight::ONE,
                enabled: true,
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
    }
}

pub fn application(name: &str, address: &str, load_balancer: &str) -> Application {
    Application {
        name: name.into(),
        enabled: true,
        transport: Transport::Tcp,
        port: 80,
        addresses: vec![ip(address)],
        destination: Destination::LoadBalancer(load_balancer.into()),
        origin_port: None,
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

/// The maps, as far as a writer fills them.
#[derive(Clone)]
pub struct Maps {
    pub settings: Settings,
    pub origins: BTreeMap<OriginId, abi::Origin>,
    pub hops: BTreeMap<HopId, Hop>,
    pub sources: BTreeMap<u32, Ip>,
    pub slots: Vec<u32>,
    pub pools: BTreeMap<u32, abi::Pool>,
    pub applications: BTreeMap<ApplicationKey, abi::Application>,
    /// Generations that a packet may still read: the live one, and the one before until a grace period has passed.
    pub readable: Vec<u32>,
    /// Link addresses by which each destination was ever said to be reached.
    pub neighbours: BTreeMap<IpAddr, BTreeSet<Mac>>,
}

impl Default for Maps {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            origins: BTreeMap::new(),
            hops: BTreeMap::new(),
            sources: BTreeMap::new(),
            slots: vec![0; capacity().slots as usize],
            pools: BTreeMap::new(),
            applications: BTreeMap::new(),
            readable: vec![0],
            neighbours: BTreeMap::new(),
        }
    }
}

impl Maps {
    /// Writes, and checks what a packet would meet now.
    pub fn execute(&mut self, op: &TableOp) {
        self.write(op);
        self.check();
    }

    fn write(&mut self, op: &TableOp) {
        match op {
            TableOp::Origin { id, record } => {
                assert!(id.0 > 0 && id.0 < capacity().origins);
                let before = self.origins.get(id).map_or(0, |before| before.identity);
                if before != 0 && before != record.identity {
                    for generation in self.readable.iter().filter(|generation| **generation != 0) {
                        assert!(
                            !self.named_origins(*generation).contains(id),
                            "another origin's row"
                        );
                    }
                }

                self.origins.insert(*id, *record);
            }
            TableOp::Hop { id, record } => {
                assert!(id.0 > 0 && id.0 < capacity().hops);
                self.hops.insert(*id, *record);
            }
            TableOp::SnatAddress { index, address } => {
                assert!(*index < capacity().snat_addresses);
                self.sources.insert(*index, *address);
            }
            TableOp::Slots { base, owners } => {
                let end = base + owners.len() as u32;
                assert!(end <= capacity().slots);
                for generation in self.readable.clone() {
                    for (base_used, end_used) in self.runs(generation) {
                        assert!(
                            end <= base_used || end_used <= *base,
                            "slots of a readable generation"
                        );
                    }
                }
                self.slots[*base as usize..end as usize].copy_from_slice(owners);
            }
            TableOp::Pool { row, record } => {
                assert!(row.0 < capacity().pools);
                self.assert_unread(row.0 & 1);
                self.pools.insert(row.0, *record);
            }
            TableOp::Application { key, record } => {
                self.assert_unread(u32::from(key.parity.0));
                self.applications.insert(*key, *record);
                assert!(self.applications.len() <= capacity().applications as usize);
                assert!(record.id < capacity().application_rows);
            }
            TableOp::RemoveApplication { key } => {
                self.assert_unread(u32::from(key.parity.0));
                assert!(self.applications.remove(key).is_some());
            }
            TableOp::Settings(settings) => {
                assert_ne!(settings.generation & 1, self.settings.generation & 1);
                assert_ne!(settings.generation, 0);
                self.settings = *settings;
                self.readable.push(settings.generation);
            }
            TableOp::Grace => self.readable = vec![self.settings.generation],
        }
    }

    fn assert_unread(&self, parity: u32) {
        let read = self
            .readable
            .iter()
            .any(|generation| *generation != 0 && generation & 1 == parity);
        assert!(!read, "a row of a readable generation");
    }

    /// The runs of slots that a generation reads.
    pub fn runs(&self, generation: u32) -> Vec<(u32, u32)> {
        self.tables(generation)
            .into_iter()
            .map(|table| (table.base, table.base + table.size))
            .collect()
    }

    pub fn tables(&self, generation: u32) -> Vec<Table> {
        let mut tables = Vec::new();
        if generation == 0 {
            return tables;
        }
        let parity = Parity((generation & 1) as u8);
        for (_, application) in self.applications.iter().filter(|(key, _)| key.parity == parity) {
            let size = match application.pools.steering {
                Steering::ORDERED => application.pools.extent,
                _ => application.pools.extent + 1,
            };
            tables.push(Table {
                base: application.pools.base,
                size,
            });
            let pools = (0..size).map(|slot| PoolId(self.slot(application.pools.base + slot)));
            for pool in pools
                .chain([application.fallback])
                .filter(|pool| *pool != PoolId::NONE)
            {
                tables.extend(self.pools[&pool.row(parity).0].tables);
            }
        }
        tables.retain(|table| table.size > 0);
        tables.sort_unstable_by_key(|table| table.base);
        tables.dedup();
        tables
    }

    fn named_origins(&self, generation: u32) -> BTreeSet<OriginId> {
        let parity = Parity((generation & 1) as u8);
        let applications = self.applications.iter().filter(|(key, _)| key.parity == parity);
        let pools = applications.flat_map(|(_, application)| self.pool_ids(application));
        let tables = pools.flat_map(|pool| self.pools[&pool.row(parity).0].tables);
        tables.flat_map(|table| self.owners(&table)).collect()
    }

    /// Every id that a packet can meet leads somewhere, and only where it should.
    pub fn check(&self) {
        for record in self
            .origins
            .values()
            .filter(|record| record.hop != HopId::UNRESOLVED)
        {
            let hop = &self.hops[&record.hop];
            if hop.resolved != 0 {
                let known = &self.neighbours[&IpAddr::from(record.address)];
                assert!(
                    known.contains(&hop.neighbour),
                    "{:?} to {record:?}",
                    hop.neighbour
                );
            }
            for index in record.snat_base..record.snat_base + record.snat_count {
                let same_family = self.sources[&index].v4().is_some() == record.address.v4().is_some();
                assert!(same_family);
            }
        }
        for generation in self
            .readable
            .iter()
            .copied()
            .filter(|generation| *generation != 0)
        {
            let parity = Parity((generation & 1) as u8);
            for (key, application) in self.applications.iter().filter(|(key, _)| key.parity == parity) {
                assert_ne!(application.origin_port.host(), 0);
                for pool in self.pool_ids(application) {
                    let pool = &self.pools[&pool.row(parity).0];
                    for (kind, table) in (0..).zip(&pool.tables) {
                        assert!(table.size == 0 || table.size.is_power_of_two());
                        for owner in self.owners(table) {
                            let origin = &self.origins[&owner];
                            assert_ne!(origin.identity, 0);
                            assert_eq!(origin.address.v4().is_some(), kind % 2 == 0);
                        }
                    }
                }
                assert!(key.port.host() != 0);
            }
        }
    }

    fn slot(&self, index: u32) -> u32 {
        self.slots[index as usize]
    }

    /// The origins that a table names.
    pub fn owners(&self, table: &Table) -> BTreeSet<OriginId> {
        let mut named = [false; 256];
        for owner in &self.slots[table.base as usize..(table.base + table.size) as usize] {
            named[*owner as usize] = true;
        }
        (0..)
            .zip(named)
            .filter(|(_, named)| *named)
            .map(|(owner, _)| OriginId(owner))
            .collect()
    }

    fn pool_ids(&self, application: &abi::Application) -> BTreeSet<PoolId> {
        let list = application.pools;
        let size = match list.steering {
            Steering::ORDERED => list.extent,
            _ => list.extent + 1,
        };
        let pools = (list.base..list.base + size).map(|slot| PoolId(self.slot(slot)));
        pools
            .chain([application.fallback])
            .filter(|pool| *pool != PoolId::NONE)
            .collect()
    }

    /// The packet path's choice for a new flow.
    pub fn select(&self, vip: &str, flow: u64) -> Option<(PoolId, OriginId)> {
        let parity = self.settings.parity();
        let address = Ip::from(ip(vip));
        let key = ApplicationKey {
            address,
            port: Port::new(80),
            protocol: Protocol::TCP,
            parity,
        };
        let application = self.applications.get(&key)?;
        let list = application.pools;
        let candidates = (0..8).filter_map(|k| match list.steering {
            Steering::ORDERED => (k < list.extent).then(|| list.base + k),
            _ => Some(list.base + (mix(flow ^ u64::from(k) << 32) as u32 & list.extent)),
        });
        for pool in candidates.map(|slot| PoolId(self.slot(slot))) {
            if let Some(origin) = self.origin_of(pool, 0, vip, flow) {
                return Some((pool, origin));
            }
        }
        let fallback = application.fallback;
        let origin = (fallback != PoolId::NONE).then(|| self.origin_of(fallback, 2, vip, flow))??;
        Some((fallback, origin))
    }

    fn origin_of(&self, pool: PoolId, role: usize, vip: &str, flow: u64) -> Option<OriginId> {
        let kind = role + usize::from(ip(vip).is_ipv6());
        let table = self.pools[&pool.row(self.settings.parity()).0].tables[kind];
        (0..8).find_map(|probe: u64| {
            let hash = mix(flow.wrapping_mul(31) ^ probe << 40) as u32;
            let id = OriginId(self.slot(table.base + (hash & table.size.checked_sub(1)?)));
            let origin = &self.origins[&id];
            let fits = origin.state == OriginState::UP || role == 2 && origin.state == OriginState::DOWN;
            let hop = self.hops.get(&origin.hop).is_some_and(|hop| hop.resolved != 0);
            (fits && hop).then_some(id)
        })
    }

    pub fn adopted(&self) -> Adopted {
        let live = self.settings.parity();
        let (current, stale): (Vec<_>, Vec<_>) = self
            .applications
            .iter()
            .map(|(key, record)| (*key, *record))
            .partition(|(key, _)| key.parity == live);
        let sources = self.sources.keys().last().map_or(0, |last| last + 1);
        Adopted {
            generation: self.settings.generation,
            origins: self.origins.iter().map(|(id, record)| (*id, *record)).collect(),
            applications: current,
            tables: self.tables(self.settings.generation),
            stale_applications: stale.into_iter().map(|(key, _)| key).collect(),
            hops: self.hops.iter().map(|(id, record)| (*id, *record)).collect(),
            snat_addresses: (0..sources)
                .map(|index| self.sources.get(&index).copied().unwrap_or_default())
                .collect(),
        }
    }
}

/// The whole machine.
pub struct World {
    pub engine: Engine,
    pub now: Timestamp,
    pub maps: Maps,
    /// Addresses whose probes are refused.
    pub dead: BTreeSet<IpAddr>,
    /// Probes stay unanswered.
    pub silent: bool,
    /// Paths are answered at once: each address by a neighbour of its own.
    pub routed: bool,
    pub probes: Vec<ProbeRequest>,
    pub applied: Vec<Vec<TableOp>>,
    pub reports: Vec<Report>,
    pub views: Vec<Arc<View>>,
    pub saved: Vec<HealthRecord>,
    pub saves: usize,
    pub environment: Environment,
    pub watched: Vec<IpAddr>,
}

impl World {
    pub fn new(environment: Environment) -> Self {
        Self::with_maps(environment, Maps::default())
    }

    fn with_maps(environment: Environment, mut maps: Maps) -> Self {
        maps.readable = vec![maps.settings.generation];
        Self {
            engine: Engine::new(environment.clone(), Timestamp::default()),
            environment,
            now: Timestamp::default(),
            maps,
            dead: BTreeSet::new(),
            silent: false,
            routed: true,
            probes: Vec::new(),
            applied: Vec::new(),
            reports: Vec::new(),
            views: Vec::new(),
            saved: Vec::new(),
            saves: 0,
            watched: Vec::new(),
        }
    }

    /// A world that was configured and has probed everything once.
    pub fn settled(config: Config) -> Self {
        let mut world = Self::new(environment());
        world.configure(config);
        world.run(1);
        world
    }

    /// The daemon dies and another one takes over the maps, with these health records.
    pub fn restart(&self, health: Vec<HealthRecord>) -> Self {
        let mut world = Self::with_maps(
            Environment {
                adopted: Some(self.maps.adopted()),
                health,
                ..self.environment.clone()
            },
            self.maps.clone(),
        );
        world.dead = self.dead.clone();
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
                Command::Publish(view) => self.views.push(view),
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
            if matches!(
                op,
                TableOp::Settings(_) | TableOp::Grace | TableOp::RemoveApplication { .. }
            ) {
                panic!("{op:?} repairs nothing");
            }
            maps.write(&op);
        }
        assert!(maps.origins == self.maps.origins && maps.hops == self.maps.hops);
        assert!(maps.pools == self.maps.pools && maps.applications == self.maps.applications);
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
            let observation = if self.dead.contains(&request.address) {
                Err(FailureReason::ConnectionFailed)
            } else {
                Ok(Duration::from_micros(200 + self.now.0.as_millis() as u64 % 7))
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
            .find(|origin| origin.address == ip(address))
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
        next_hop: address,
        neighbour: Some(Mac::from([2, family, router, 0, 0, last])),
        interface_mac: Mac::from([2, 0, 0, 0, 0, 99]),
        mtu: 1500,
        sources: vec![ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.2")],
    }
}
