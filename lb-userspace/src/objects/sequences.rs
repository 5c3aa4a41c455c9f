//! Any sequence of changes of objects, with results of monitors in between: whatever is in force names only what there is,
//! and whoever can serve is found, from every country.

use super::*;
use crate::cloudflare::Failure;
use crate::config::{HostDefaults, Imports, Kind, Source, compile};
use lb_common::abi::{
    self, ApplicationFlags, ApplicationKey, Country, HashKey, Ip, Mac, Origin, OriginId, OriginState, PoolId,
    PoolList, Port, PortRange, Protocol, RouteKey, SettingsFlags, Slot, Steering, Table, Tag,
};
use lb_core::engine::{Command, Engine, Environment, Event, Kept, Path, Report};
use lb_core::health::{FailureReason, GroupHealth};
use lb_core::image::TableOp;
use lb_core::model::{Config, CountryTable, Destination};
use lb_core::steering::routes;
use lb_core::time::Timestamp;
use lb_core::view::View;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const DE: Country = Country::new(*b"DE");
const FR: Country = Country::new(*b"FR");

/// Pools, and as many names of load balancers and applications.
const NAMES: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// The object with that name: a new one, else another body. The other numbers choose what it says.
    Put(u8, u8, [u8; 4]),
    /// The same by PATCH, one field.
    Patch(u8, u8, [u8; 4]),
    Rename(u8, u8),
    Delete(u8, u8),
    /// What the monitor finds at the origins of a pool, as bits.
    Health(u8, u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    let number = || 0..NAMES;
    let kind = || 0..4_u8;
    prop_oneof![
        4 => (kind(), number(), any::<[u8; 4]>()).prop_map(|(kind, name, what)| Step::Put(kind, name, what)),
        3 => (kind(), number(), any::<[u8; 4]>()).prop_map(|(kind, name, what)| Step::Patch(kind, name, what)),
        1 => (kind(), number()).prop_map(|(kind, name)| Step::Rename(kind, name)),
        2 => (kind(), number()).prop_map(|(kind, name)| Step::Delete(kind, name)),
        3 => (number(), 0..4_u8).prop_map(|(pool, dead)| Step::Health(pool, dead)),
    ]
}

fn kind_of(kind: u8) -> Kind {
    [Kind::Monitor, Kind::Pool, Kind::LoadBalancer, Kind::Application][usize::from(kind)]
}

/// What the maps hold, as far as new flows go by it.
#[derive(Default)]
struct Maps {
    settings: abi::Settings,
    slots: BTreeMap<u32, Slot>,
    pools: BTreeMap<u32, abi::Pool>,
    origins: BTreeMap<u32, Origin>,
    applications: BTreeMap<ApplicationKey, abi::Application>,
    routes: BTreeMap<RouteKey, abi::Route>,
}

impl Maps {
    fn apply(&mut self, op: TableOp) {
        match op {
            TableOp::Settings(settings) => self.settings = settings,
            TableOp::Slots { base, owners } => {
                self.slots.extend((base..).zip(lb_core::image::slots(&owners)));
            }
            TableOp::Pool { row, record } => drop(self.pools.insert(row.0, record)),
            TableOp::Origin { id, record } => drop(self.origins.insert(id.0, record)),
            TableOp::ForgetOrigin { id } => drop(self.origins.remove(&id.0)),
            TableOp::Application { key, record } => drop(self.applications.insert(key, record)),
            TableOp::RemoveApplication { key } => drop(self.applications.remove(&key)),
            TableOp::Route { key, record } => drop(self.routes.insert(key, record)),
            TableOp::RemoveRoute { key } => drop(self.routes.remove(&key)),
            _ => {}
        }
    }

    /// The origins of all pools that new flows from a country may meet before the fallback pool, and those of the
    /// fallback pool.
    fn found(&self, address: IpAddr, country: Country) -> Option<(BTreeSet<OriginId>, BTreeSet<OriginId>)> {
        let parity = self.settings.parity();
        let application = self.applications.get(&ApplicationKey {
            address: Ip::from(address),
            port: Port::new(80),
            protocol: Protocol::TCP,
            parity,
        })?;
        let (mut list, mut fallback) = (application.pools, application.fallback);
        if application.flags.has(ApplicationFlags::ROUTES) {
            let key = RouteKey {
                set: application.routes,
                country,
                parity,
                ..RouteKey::default()
            };
            if let Some(route) = self.routes.get(&key) {
                (list, fallback) = (route.pools, route.fallback);
            }
        }
        let pools = self.pools_of(list).into_iter();
        let steered = pools.flat_map(|pool| self.origins_of(pool, 0)).collect();
        let last = if fallback == PoolId::NONE {
            BTreeSet::new()
        } else {
            self.origins_of(fallback, 2)
        };
        Some((steered, last))
    }

    fn pools_of(&self, list: PoolList) -> BTreeSet<PoolId> {
        let size = match list.steering {
            Steering::ORDERED => list.extent,
            _ => list.extent + 1,
        };
        let owners = (list.base..list.base + size).map(|slot| PoolId(self.slots[&slot].owner));
        owners.filter(|pool| *pool != PoolId::NONE).collect()
    }

    fn origins_of(&self, pool: PoolId, kind: usize) -> BTreeSet<OriginId> {
        let Table { base, size } = self.pools[&pool.row(self.settings.parity()).0].tables[kind];
        (base..base + size)
            .map(|slot| OriginId(self.slots[&slot].owner))
            .collect()
    }
}

struct World {
    source: Arc<Source>,
    catalog: Catalog,
    config: Config,
    engine: Engine,
    maps: Maps,
    view: Arc<View>,
    /// Origins whose monitors are refused.
    dead: BTreeSet<IpAddr>,
    time: Timestamp,
    now: u64,
}

impl World {
    fn new() -> Self {
        let source = Source::new("/etc/lb/lb.toml", "");
        let catalog = Catalog::new(Arc::new(FileObjects::new(&source, 1_000_000)), Vec::new());
        let config = compiled(&source, &catalog).unwrap_or_else(|_| unreachable!("an empty file"));
        let environment = Environment {
            hz: 1000,
            hash_key: HashKey { k0: 1, k1: 2 },
            snat_ports: PortRange {
                first: 61_000,
                count: 4_000,
            },
            flags: SettingsFlags(0),
            capacity: lb_core::image::Capacity {
                applications: 64,
                vips: 256,
                pools: 64,
                origins: 256,
                hops: 256,
                snat_addresses: 64,
                slots: 1 << 18,
                application_rows: 64,
                spans: 16,
                access_prefixes: 64,
                country_rules: 64,
                country_prefixes: 64,
                clients: 64,
                routes: 256,
                buckets: 1 << 16,
            },
            max_flows: 1000,
            adopted: None,
            kept: Kept::default(),
            assume_healthy: false,
            seed: 1,
        };
        let mut world = Self {
            engine: Engine::new(environment, Timestamp::default()),
            maps: Maps::default(),
            view: Arc::default(),
            dead: BTreeSet::new(),
            time: Timestamp::default(),
            now: 1_700_000_000_000_000,
            source,
            catalog,
            config: config.clone(),
        };
        world.tell(Event::Configure(Arc::new(config)));
        world
    }

    fn tell(&mut self, event: Event) {
        for command in self.engine.handle(event, self.time) {
            match command {
                Command::Apply(ops) => ops.into_iter().for_each(|op| self.maps.apply(op)),
                Command::WatchPaths(addresses) => {
                    let paths = addresses.into_iter().map(|address| (address, path(address)));
                    self.tell(Event::Paths(paths.collect()));
                }
                Command::Probe(request) => {
                    let observation = match self.dead.contains(&request.address) {
                        true => Err(FailureReason::ConnectionFailed),
                        false => Ok(Duration::from_millis(1).into()),
                    };
                    self.tell(Event::Observed {
                        target: request.target,
                        attempt: request.attempt,
                        observation,
                    });
                }
                Command::Publish(view) => self.view = view,
                Command::Report(Report::Refused(why)) => panic!("{why}"),
                Command::Report(_) | Command::Persist(_) | Command::Shed(_) | Command::WatchNames(_) => {}
            }
        }
    }

    /// Lets every monitor ask twice.
    fn settle(&mut self) {
        let end = self.time.after(Duration::from_secs(15));
        while let Some(deadline) = self.engine.next_deadline().filter(|deadline| *deadline <= end) {
            self.time = deadline.max(self.time);
            self.tell(Event::Tick);
        }
        self.time = end;
        self.tell(Event::Tick);
    }

    fn named(&self, kind: Kind, number: u8) -> Option<&Arc<Entry>> {
        let mut all = self.catalog.of_kind(kind);
        all.find(|entry| entry.title().starts_with(&format!("{number}")))
    }

    /// Ids of the pools that the bits say, and of one that need not be there.
    fn pools(&self, bits: u8) -> Vec<String> {
        let wanted = (0..NAMES).filter(|number| bits >> number & 1 == 1);
        let found = wanted.filter_map(|number| self.named(Kind::Pool, number));
        found.map(|entry| entry.id.to_string()).collect()
    }

    fn body(&self, kind: u8, name: u8, [a, b, c, d]: [u8; 4]) -> Value {
        let policy = ["off", "random", "geo", "hash"][usize::from(d % 4)];
        match kind_of(kind) {
            Kind::Monitor => json!({"type": "tcp", "interval": 5, "description": format!("{name}")}),
            Kind::Pool => {
                let origin = |number: u8| {
                    json!({
                        "name": format!("o{number}"),
                        "address": format!("10.0.{name}.{number}"),
                        "port": 80,
                        "enabled": a >> number & 1 == 1,
                    })
                };
                let monitor = self.named(Kind::Monitor, b % NAMES);
                json!({
                    "name": format!("{name}-pool"),
                    "origins": [origin(1), origin(2)],
                    "monitor": monitor.map_or(String::new(), |entry| entry.id.to_string()),
                    "minimum_origins": 1 + c % 2,
                    "enabled": d % 4 > 0,
                })
            }
            Kind::LoadBalancer => json!({
                "name": format!("{name}.example.org"),
                "default_pools": self.pools(a),
                "fallback_pool": self.pools(b).first().cloned().unwrap_or_default(),
                "country_pools": {"DE": self.pools(c)},
                "steering_policy": policy,
                "enabled": d < 200,
            }),
            _ => json!({
                "protocol": "tcp/80",
                "dns": {"type": "ADDRESS", "name": format!("{name}.app.example.org")},
                "origin_dns": {"name": format!("{}.example.org", a % NAMES)},
                "origin_port": 80,
                "edge_ips": {"type": "static", "ips": [format!("203.0.113.{}", 10 + name)]},
            }),
        }
    }

    /// Does a step; a refusal changes nothing.
    fn step(&mut self, step: &Step) {
        let (kind, action) = match step {
            Step::Health(pool, bits) => {
                for number in [1, 2] {
                    let address = IpAddr::from([10, 0, *pool, number]);
                    match bits >> (number - 1) & 1 {
                        0 => self.dead.remove(&address),
                        _ => self.dead.insert(address),
                    };
                }
                return;
            }
            Step::Put(kind, name, what) => {
                let body = fields(self.body(*kind, *name, *what));
                match self.named(kind_of(*kind), *name) {
                    Some(entry) => (*kind, Action::Replace(entry.id.to_string(), body)),
                    None => (*kind, Action::Create(body)),
                }
            }
            Step::Patch(kind, name, what) => {
                let Some(entry) = self.named(kind_of(*kind), *name) else {
                    return;
                };
                let mut body = fields(self.body(*kind, *name, *what));
                let field = body.keys().nth(usize::from(what[3]) % body.len()).cloned();
                body.retain(|name, _| Some(name) == field.as_ref());
                (*kind, Action::Merge(entry.id.to_string(), body))
            }
            Step::Rename(kind, name) => {
                let Some(entry) = self.named(kind_of(*kind), *name) else {
                    return;
                };
                let body = match kind_of(*kind) {
                    Kind::Pool => json!({"name": format!("{name}-renamed-{}", self.now)}),
                    Kind::LoadBalancer => json!({"name": format!("{name}.renamed{}.org", self.now)}),
                    _ => return,
                };
                (*kind, Action::Merge(entry.id.to_string(), fields(body)))
            }
            Step::Delete(kind, name) => match self.named(kind_of(*kind), *name) {
                Some(entry) => (*kind, Action::Delete(entry.id.to_string())),
                None => return,
            },
        };
        let deleted = match &action {
            Action::Delete(id) => self.catalog.find(kind_of(kind), id).ok().cloned(),
            _ => None,
        };
        let referred = deleted
            .as_ref()
            .is_some_and(|entry| !references(&self.catalog, entry).0.is_empty());
        match self.change(kind_of(kind), action) {
            Ok(()) => assert!(!referred, "{deleted:?} was referred to"),
            Err(failure) => {
                assert!((400..500).contains(&failure.status), "{failure:?}");
                assert_eq!(deleted.is_some(), failure.status == 412, "{failure:?}");
            }
        }
    }

    fn change(&mut self, kind: Kind, action: Action) -> Result<(), Failure> {
        self.now += 1;
        let moment = Moment {
            now: self.now,
            random: u128::from(self.now),
        };
        let applied = Change { kind, action }.apply(&self.catalog, moment)?;
        let config = compiled(&self.source, &applied.catalog)
            .map_err(|(rendered, errors)| refusal(&applied.catalog, &rendered, &applied.entry, &errors))?;
        self.catalog = applied.catalog;
        self.config = config.clone();
        self.tell(Event::Configure(Arc::new(config)));
        Ok(())
    }

    fn check(&self) {
        let config = &self.config;
        for pool in &config.pools {
            let monitor = pool.monitor.as_deref();
            assert!(
                monitor.is_none_or(|name| config.monitor(name).is_some()),
                "{pool:?}"
            );
        }
        for balancer in &config.load_balancers {
            for name in balancer.pools() {
                assert!(config.pool(name).is_some(), "{name} of {balancer:?}");
            }
        }
        let health = |name: &str| {
            let pool = self.view.pools.iter().find(|pool| pool.name == name);
            pool.unwrap_or_else(|| panic!("{name} is not in the status"))
        };
        for application in &config.applications {
            let name = match &application.destination {
                Destination::LoadBalancer(name) => name,
                // A name that no load balancer has is a host's, and this world has nobody to ask for its addresses.
                Destination::Direct(hosts) => {
                    let is_host = |name: &str| config.load_balancer(name).is_none();
                    let known = hosts.iter().all(|host| host.address.name().is_some_and(is_host));
                    assert!(known, "{application:?}");
                    continue;
                }
            };
            let balancer = config.load_balancer(name).expect("a load balancer");
            for country in [DE, FR, Country::UNKNOWN] {
                let found = self.maps.found(application.addresses[0], country);
                let served = application.enabled && balancer.enabled;
                assert_eq!(found.is_some(), served, "{application:?}");
                let Some((steered, last)) = found else { continue };
                let routes = routes(balancer, &config.node, true);
                let route = routes.of((country != Country::UNKNOWN).then_some(country));
                // A pool that nobody monitors serves as it is.
                let lives = |name: &&String| match health(name).health {
                    GroupHealth::Healthy | GroupHealth::Degraded => true,
                    GroupHealth::Unknown => config.pool(name).is_some_and(|pool| pool.monitor.is_none()),
                    GroupHealth::Critical | GroupHealth::Disabled => false,
                };
                let living = route.pools.iter().filter(lives).map(|name| health(name));
                let living: BTreeSet<OriginId> = living
                    .flat_map(|pool| &pool.origins)
                    .filter(|origin| !origin.draining)
                    .map(|origin| origin.id)
                    .collect();
                assert_eq!(steered.is_empty(), living.is_empty(), "{country}: {route:?}");
                assert!(steered.is_subset(&living), "{country}: {steered:?} of {living:?}");
                for origin in &steered {
                    assert_eq!(self.maps.origins[&origin.0].state, OriginState::UP);
                }
                if let Some(name) = route.fallback {
                    let mut enabled = health(name).origins.iter().filter(|origin| !origin.draining);
                    assert_eq!(last.is_empty(), enabled.next().is_none(), "{country}: {route:?}");
                }
            }
        }
    }
}

fn compiled(
    source: &Arc<Source>,
    catalog: &Catalog,
) -> Result<Config, (Rendered, crate::config::ConfigErrors)> {
    let rendered = render(catalog, &[], &BTreeSet::new());
    let defaults = HostDefaults {
        node_name: "n".to_owned(),
    };
    match compile(source, Some(&rendered.source), &Imports::default(), &defaults) {
        Ok(compiled) => {
            let rows = vec![("198.18.0.0/16".parse().expect("a prefix"), DE)];
            Ok(Config {
                geoip: Some(Arc::new(CountryTable::new(rows))),
                ..compiled.config
            })
        }
        Err(errors) => Err((rendered, errors)),
    }
}

fn fields(body: Value) -> Map<String, Value> {
    body.as_object().cloned().unwrap()
}

fn path(address: IpAddr) -> Path {
    Path::Via {
        ifindex: 2,
        tags: [Tag::NONE; 2],
        next_hop: address,
        neighbour: Some(Mac::from([2, 0, 0, 0, 0, 1])),
        interface_mac: Mac::from([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        sources: vec![IpAddr::from([192, 0, 2, 1])],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn references_resolve_and_who_can_serve_is_found(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new();
        // Something to begin with: without it most steps would be refused.
        for kind in 0..4 {
            for name in 0..NAMES {
                world.step(&Step::Put(kind, name, [255, 1 << name, 1, 1]));
            }
        }
        world.settle();
        world.check();
        prop_assert!(!world.config.applications.is_empty());
        for step in &steps {
            world.step(step);
            world.settle();
            world.check();
        }
    }
}
