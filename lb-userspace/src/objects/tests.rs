//! Changes, what becomes of them in the configuration, and what is said when nothing does.

mod fields;
mod ids;
mod names;
mod operations;
mod renames;
mod texts;

use super::*;
use crate::cloudflare::Failure;
use crate::config::{Compiled, HostDefaults, Imports, Kind, Source, compile};
use crate::store::{Row, RowChange};
use lb_core::model::{Destination, Forwarding};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

const FILE: &str = r#"
[monitors.tcp-check]
type = "tcp"
interval = 2
description = "of the file"
[pools.eu]
monitor = "tcp-check"
description = "Europe"
latitude = 50.0
longitude = 8.0
[pools.eu.origins.b]
address = "10.0.0.11"
port = 80
weight = 0.5
[pools.eu.origins.a]
address = "10.0.0.12"
port = 80
[load_balancers."lb.file"]
default_pools = ["eu"]
[applications.web]
protocol = "tcp/80"
addresses = ["203.0.113.10"]
load_balancer = "lb.file"
"#;

/// A node without anything but its objects.
struct World {
    source: Arc<Source>,
    edge_ips: Vec<IpAddr>,
    catalog: Catalog,
    compiled: Compiled,
    now: u64,
}

impl World {
    fn new(file: &str) -> Self {
        let source = Source::new("/etc/lb/lb.toml", file);
        let defaults = HostDefaults {
            node_name: "n".to_owned(),
        };
        Self {
            compiled: compile(&source, None, &Imports::default(), &defaults).unwrap(),
            catalog: Catalog::new(Arc::new(FileObjects::new(&source, 1_000_000)), Vec::new()),
            edge_ips: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            source,
            now: 1_700_000_000_000_000,
        }
    }

    fn change(&mut self, kind: Kind, action: Action) -> Result<Value, Failure> {
        self.now += 1;
        let moment = Moment {
            now: self.now,
            random: u128::from(self.now),
        };
        let applied = Change { kind, action }.apply(&self.catalog, moment)?;
        let rendered = render(&applied.catalog, &self.edge_ips, &BTreeSet::new());
        let defaults = HostDefaults {
            node_name: "n".to_owned(),
        };
        let compiled = compile(
            &self.source,
            Some(&rendered.source),
            &Imports::default(),
            &defaults,
        );
        let mut compiled =
            compiled.map_err(|errors| refusal(&applied.catalog, &rendered, &applied.entry, &errors))?;
        applied.catalog.overrides().apply(&mut compiled.config);
        self.compiled = compiled;
        self.catalog = applied.catalog;
        Ok(applied.entry.shown())
    }

    fn create(&mut self, kind: Kind, body: Value) -> Value {
        self.change(kind, Action::Create(fields(body))).unwrap()
    }

    fn refused(&mut self, kind: Kind, action: Action) -> (u16, Vec<(u16, String, Option<String>)>) {
        let before = self.catalog.of_api().to_vec();
        let failure = self.change(kind, action).unwrap_err();
        assert_eq!(self.catalog.of_api(), before);
        let reasons = failure.reasons.into_iter();
        let reasons = reasons.map(|reason| (reason.code, reason.message, reason.pointer));
        (failure.status, reasons.collect())
    }

    /// The id of an object of the file.
    fn of_file(&self, kind: Kind, name: &str) -> String {
        self.catalog.named(kind, name).unwrap().id.to_string()
    }
}

fn fields(body: Value) -> Map<String, Value> {
    body.as_object().cloned().unwrap()
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

/// One of everything.
fn everything(world: &mut World) -> BTreeMap<&'static str, Value> {
    let monitor = world.create(
        Kind::Monitor,
        json!({"type": "tcp", "port": 7, "interval": 0.5, "retries": 0}),
    );
    let eu = world.of_file(Kind::Pool, "eu");
    let pool = world.create(
        Kind::Pool,
        json!({
            "name": "us",
            "monitor": id(&monitor),
            "forwarding": "dnat",
            "origins": [
                {"name": "z", "address": "10.1.0.1", "port": 80, "weight": 0.25},
                {"name": "a", "address": "10.1.0.2", "port": 80, "enabled": false},
                {"name": "v6", "address": "2001:db8:1::1"},
            ],
        }),
    );
    let balancer = world.create(
        Kind::LoadBalancer,
        json!({
            "name": "*.example.com",
            "default_pools": [id(&pool), eu],
            "fallback_pool": eu,
            "steering_policy": "random",
            "random_steering": {"pool_weights": {id(&pool): 0.1}, "default_weight": 0.9},
            "proxied": true,
        }),
    );
    let application = world.create(
        Kind::Application,
        json!({
            "protocol": "tcp/1000-2000",
            "dns": {"type": "CNAME", "name": "game.example.com"},
            "origin_dns": {"name": "*.example.com", "ttl": 1200},
            "origin_port": "3000-4000",
            "traffic_type": "direct",
            "edge_ips": {"type": "dynamic", "connectivity": "ipv4"},
            "limits": {"new_flows_per_second": 5},
        }),
    );
    BTreeMap::from([
        ("monitor", monitor),
        ("pool", pool),
        ("balancer", balancer),
        ("application", application),
    ])
}

#[test]
fn what_the_api_makes_is_in_the_configuration() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let config = &world.compiled.config;
    let pool = config.pool("us").unwrap();
    assert_eq!(pool.monitor.as_deref(), made["monitor"]["id"].as_str());
    let origins: Vec<_> = pool
        .origins
        .iter()
        .map(|origin| {
            (
                origin.name.as_str(),
                origin.weight.hundredths(),
                origin.enabled,
                origin.forwarding,
            )
        })
        .collect();
    assert_eq!(
        origins,
        [
            ("z", 25, true, Forwarding::Dnat),
            ("a", 100, false, Forwarding::Dnat),
            ("v6", 100, true, Forwarding::Dnat)
        ]
    );
    let monitor = config.monitor(&id(&made["monitor"])).unwrap();
    assert_eq!(
        (monitor.interval.as_millis(), monitor.port, monitor.retries),
        (500, Some(7), 0)
    );
    let balancer = config.load_balancer("*.example.com").unwrap();
    assert_eq!(balancer.default_pools, ["us", "eu"]);
    assert_eq!(balancer.fallback_pool.as_deref(), Some("eu"));
    assert_eq!(balancer.steering_policy.name(), "random");
    let application = config
        .applications
        .iter()
        .find(|application| application.name == "game.example.com")
        .unwrap();
    assert_eq!(application.protocol(), "tcp/1000-2000");
    assert_eq!(application.addresses, world.edge_ips[..1]);
    assert_eq!(application.origin_port, Some(3000));
    assert_eq!(application.limits.new_flows_per_second, Some(5));
    assert_eq!(
        application.destination,
        Destination::LoadBalancer("*.example.com".to_owned())
    );
    // What is shown has what was given, and everything else with its default.
    assert_eq!(made["pool"]["origins"][0]["name"], "z");
    assert_eq!(made["pool"]["minimum_origins"], 1);
    assert_eq!(
        made["pool"]["origins"][1]["disabled_at"],
        made["pool"]["created_on"]
    );
    assert_eq!(made["balancer"]["zone_name"], "example.com");
    assert_eq!(made["balancer"]["ttl"], 30);
    assert_eq!(made["application"]["tls"], "off");
    assert_eq!(made["monitor"]["method"], "connection_established");
}

#[test]
fn objects_outlive_the_store() {
    let mut world = World::new(FILE);
    everything(&mut world);
    let empty = World::new(FILE).catalog;
    let rows: Vec<Row> = rows(&empty, &world.catalog)
        .into_iter()
        .map(|RowChange { key, value, .. }| Row {
            key,
            value: value.unwrap(),
        })
        .collect();
    let entries = rows
        .iter()
        .map(|row| Arc::new(Entry::of_row(row).unwrap()))
        .collect();
    let again = Catalog::new(Arc::clone(world.catalog.file()), entries);
    assert_eq!(again.of_api(), world.catalog.of_api());
    // Only what differs is written.
    assert!(super::rows(&again, &world.catalog).is_empty());
    let gone = super::rows(&again, &empty);
    assert_eq!(gone.len(), 4);
    assert!(gone.iter().all(|row| row.value.is_none()));
}

#[test]
fn every_answer_can_be_sent_back_and_changes_nothing() {
    let mut world = World::new(FILE);
    for (name, object) in everything(&mut world) {
        let kind = match name {
            "monitor" => Kind::Monitor,
            "pool" => Kind::Pool,
            "balancer" => Kind::LoadBalancer,
            _ => Kind::Application,
        };
        let before = world.compiled.config.clone();
        for action in [
            Action::Replace(id(&object), fields(object.clone())),
            Action::Merge(id(&object), fields(object.clone())),
            Action::Merge(id(&object), Map::new()),
        ] {
            let mut again = world.change(kind, action).unwrap();
            again["modified_on"] = object["modified_on"].clone();
            assert_eq!(again, object, "{name}");
        }
        assert_eq!(world.compiled.config, before, "{name}");
    }
}

#[test]
fn put_replaces_and_patch_merges_and_null_resets() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let pool = id(&made["pool"]);
    let patched = world
        .change(
            Kind::Pool,
            Action::Merge(
                pool.clone(),
                fields(json!({"description": "new", "monitor": null})),
            ),
        )
        .unwrap();
    assert_eq!(patched["description"], "new");
    assert_eq!(patched["monitor"], "");
    assert_eq!(patched["forwarding"], "dnat");
    assert_eq!(patched["origins"], made["pool"]["origins"]);
    let put = json!({"name": "us", "origins": made["pool"]["origins"], "description": null});
    let put = world
        .change(Kind::Pool, Action::Replace(pool.clone(), fields(put)))
        .unwrap();
    assert_eq!(put["description"], "");
    assert!(put.get("forwarding").is_none());
    assert_eq!(put["created_on"], made["pool"]["created_on"]);
    assert_eq!(world.compiled.config.pool("us").unwrap().monitor, None);
    // A required field cannot be reset.
    let (status, reasons) = world.refused(Kind::Pool, Action::Merge(pool, fields(json!({"origins": null}))));
    assert_eq!(
        (status, reasons),
        (
            400,
            vec![(
                1002,
                "origins: is missing: a pool needs it".to_owned(),
                Some("/origins".to_owned())
            )]
        )
    );
}

#[test]
fn mistakes_are_told_at_their_place_in_the_body() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let (monitor, eu) = (id(&made["monitor"]), world.of_file(Kind::Pool, "eu"));
    let nobody = "f".repeat(32);
    let rows = [
        (
            Kind::Pool,
            json!({"name": "p", "origins": [{"name": "a", "address": "10.0.0.1", "weight": 2}]}),
            1002,
            "origins[0].weight: weight 2 is outside 0 to 1 (weights are 0 to 1 in steps of 0.01)",
            "/origins/0/weight",
        ),
        (
            Kind::Pool,
            json!({"name": "p q", "origins": [{"name": "a", "address": "10.0.0.1"}]}),
            1002,
            "name: the name \"p q\" contains ' ' (names consist of letters, digits, `-`, `_` and `.`)",
            "/name",
        ),
        (
            Kind::Pool,
            json!({"name": "us", "origins": [{"name": "a", "address": "10.0.0.1"}]}),
            1003,
            "name: value not unique: `us` is already the name of the pool with the id POOL",
            "/name",
        ),
        (
            Kind::Pool,
            json!({"name": "eu", "origins": [{"name": "a", "address": "10.0.0.1"}]}),
            1003,
            "name: value not unique: `eu` is already the name of the pool declared in /etc/lb/lb.toml",
            "/name",
        ),
        (
            Kind::Pool,
            json!({"name": "p", "monitor": nobody, "origins": [{"name": "a", "address": "10.0.0.1"}]}),
            1002,
            "monitor: there is no monitor `ffffffffffffffffffffffffffffffff`",
            "/monitor",
        ),
        (
            Kind::Pool,
            json!({"name": "p", "origins": [{"name": "a", "address": "10.0.0.1"}, {"name": "a", "address": "10.0.0.2"}]}),
            1002,
            "origins[1].name: `a` is already the name of another origin of the pool",
            "/origins/1/name",
        ),
        (
            Kind::Pool,
            json!({"name": "p", "origins": []}),
            1002,
            "origins: the list is empty: a pool needs at least one origin",
            "/origins",
        ),
        (
            Kind::Monitor,
            json!({"type": "tcp", "interval": 0}),
            1002,
            "interval: 0 is outside 0.1 to 86400 seconds",
            "/interval",
        ),
        (
            Kind::LoadBalancer,
            json!({"name": "x", "default_pools": [eu, nobody], "fallback_pool": eu}),
            1002,
            "default_pools[1]: there is no pool `ffffffffffffffffffffffffffffffff`",
            "/default_pools/1",
        ),
        (
            Kind::LoadBalancer,
            json!({"name": "x", "default_pools": [eu], "fallback_pool": eu, "session_affinity": "cookie"}),
            1002,
            "session_affinity: session affinity \"cookie\" needs HTTP, which a packet-level balancer does not see (use \
             `affinity = { ttl = 600 }` on the application, or `origin_steering = { policy = \"hash\" }` on the pools: the client's address picks the origin)",
            "/session_affinity",
        ),
        (
            Kind::LoadBalancer,
            json!({"name": "x", "default_pools": [eu], "fallback_pool": eu, "pool_sets": [{"name": "n".repeat(201), "overrides": {"pools": [eu]}}]}),
            1002,
            "pool_sets[0].name: the name has 201 characters; 200 are allowed",
            "/pool_sets/0/name",
        ),
        (
            Kind::LoadBalancer,
            json!({"name": "x", "default_pools": [eu], "fallback_pool": eu, "ttl": -1}),
            1002,
            "ttl: -1 is outside 0 to 2147483647 seconds",
            "/ttl",
        ),
        (
            Kind::Pool,
            json!({"name": "x", "origins": [{"name": "a", "address": "10.0.0.1"}], "check_regions": ["WEU", "EU"]}),
            1002,
            "check_regions[1]: \"EU\" is not one of WNAM, ENAM, WEU, EEU, NSAM, SSAM, OC, ME, NAF, SAF, SAS, SEAS, NEAS, \
             ALL_REGIONS (did you mean `WEU`?)",
            "/check_regions/1",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a"}, "origin_dns": {"name": "nowhere.example.com"}}),
            11001,
            "origin_dns.name: there is no load balancer `nowhere.example.com`, and a host name needs an `origin_port`",
            "/origin_dns/name",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a"}, "origin_direct": ["tcp://10.0.0.1:1"], "tls": "full"}),
            11000,
            "tls: TLS mode \"full\" terminates TLS, which a packet-level balancer cannot (use \"off\": TLS passes \
             through to the origins)",
            "/tls",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a"}, "origin_direct": ["tcp://10.0.0.1"]}),
            11002,
            "origin_direct[0]: \"tcp://10.0.0.1\" has no port (such as \"tcp://10.0.0.11:8080\")",
            "/origin_direct/0",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a"}}),
            11000,
            "origin_dns: nothing says where the traffic goes: give `origin_dns` with the `name` of a load balancer, or \
             `origin_direct`",
            "/origin_dns",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a", "type": "CNAME"}, "origin_direct": ["tcp://10.0.0.1:1"],
                   "edge_ips": {"type": "static", "ips": ["203.0.113.10"]}}),
            11004,
            "dns.type: \"CNAME\" does not fit edge_ips of type \"static\": it must be \"ADDRESS\"",
            "/dns/type",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/80", "dns": {"name": "a"}, "origin_direct": ["tcp://10.0.0.1:1"],
                   "edge_ips": {"type": "static", "ips": ["203.0.113.10"]}}),
            11033,
            "edge_ips.ips[0]: 203.0.113.10 with tcp/80 already belongs to application `web` (use another address or \
             other ports, or disable one of them)",
            "/edge_ips/ips/0",
        ),
        (
            Kind::Application,
            json!({"protocol": "tcp/1500", "dns": {"name": "a"}, "origin_direct": ["tcp://10.0.0.1:1"]}),
            11033,
            "edge_ips: tcp/1500 of 198.51.100.1 overlaps tcp/1000-2000 of application `game.example.com` (use another \
             address or other ports, or disable one of them)",
            "/edge_ips",
        ),
    ];
    for (kind, body, code, message, pointer) in rows {
        let told = world.refused(kind, Action::Create(fields(body.clone())));
        let message = message.replace("POOL", &id(&made["pool"]));
        let expected = (400, vec![(code, message, Some(pointer.to_owned()))]);
        assert_eq!(told, expected, "{body}");
    }
    // A change that breaks another object names it.
    let rename = Action::Merge(id(&made["balancer"]), fields(json!({"name": "new.example.com"})));
    let (status, reasons) = world.refused(Kind::LoadBalancer, rename);
    assert_eq!(status, 400);
    assert!(
        reasons[0]
            .1
            .starts_with("application `game.example.com`: origin_dns.name: there is no load balancer"),
        "{reasons:?}"
    );
    let _ = monitor;
}

#[test]
fn dynamic_addresses_come_from_the_file() {
    let mut world = World::new(FILE);
    world.edge_ips.clear();
    let body = json!({"protocol": "tcp/80", "dns": {"name": "a"}, "origin_direct": ["tcp://10.0.0.1:1"]});
    let (status, reasons) = world.refused(Kind::Application, Action::Create(fields(body)));
    assert_eq!((status, reasons[0].0), (400, 11033));
    assert!(reasons[0].1.contains("[api] edge_ips"), "{reasons:?}");
}

#[test]
fn what_the_file_declares_is_shown_and_not_changed() {
    let mut world = World::new(FILE);
    let eu = world.of_file(Kind::Pool, "eu");
    let shown = world.catalog.find(Kind::Pool, &eu).unwrap().shown();
    assert_eq!(shown["description"], "Europe");
    assert_eq!(shown["latitude"], 50.0);
    assert_eq!(shown["monitor"], world.of_file(Kind::Monitor, "tcp-check"));
    assert_eq!(shown["origins"][0]["name"], "b");
    assert_eq!(shown["origins"][1]["weight"], 1);
    assert_eq!(shown["created_on"], "1970-01-01T00:00:01.000000Z");
    let web = world.of_file(Kind::Application, "web");
    let web = world.catalog.find(Kind::Application, &web).unwrap().shown();
    assert_eq!(
        web["edge_ips"],
        json!({"type": "static", "ips": ["203.0.113.10"]})
    );
    assert_eq!(web["origin_dns"]["name"], "lb.file");
    for action in [
        Action::Delete(eu.clone()),
        Action::Merge(eu.clone(), Map::new()),
        Action::Replace(eu.clone(), fields(json!({"name": "eu", "origins": []}))),
    ] {
        let (status, reasons) = world.refused(Kind::Pool, action);
        assert_eq!(status, 403);
        assert!(
            reasons[0].1.contains("`eu` is declared in /etc/lb/lb.toml"),
            "{reasons:?}"
        );
    }
    assert_eq!(world.refused(Kind::Pool, Action::Delete("f".repeat(32))).0, 404);
    // The same text gives the same ids.
    assert_eq!(World::new(FILE).of_file(Kind::Pool, "eu"), eu);
}

#[test]
fn what_is_referred_to_cannot_be_deleted() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    for (kind, object, referrer) in [
        (Kind::Monitor, "monitor", "pool `us`"),
        (Kind::Pool, "pool", "load balancer `*.example.com`"),
        (Kind::LoadBalancer, "balancer", "application `game.example.com`"),
    ] {
        let (status, reasons) = world.refused(kind, Action::Delete(id(&made[object])));
        assert_eq!((status, reasons[0].0), (412, 1005));
        assert!(
            reasons[0]
                .1
                .starts_with("This object is referenced by other objects, delete them first: ")
                && reasons[0].1.contains(referrer),
            "{reasons:?}"
        );
    }
    for (kind, object) in [
        (Kind::Application, "application"),
        (Kind::LoadBalancer, "balancer"),
        (Kind::Pool, "pool"),
        (Kind::Monitor, "monitor"),
    ] {
        world.change(kind, Action::Delete(id(&made[object]))).unwrap();
    }
    assert_eq!(world.compiled.config, World::new(FILE).compiled.config);
}

#[test]
fn applications_with_the_same_name_get_names_of_their_own() {
    let mut world = World::new(FILE);
    let mut make = |protocol: &str| {
        let (transport, _) = protocol.split_once('/').unwrap();
        let origin = format!("{transport}://10.0.0.1:1");
        world.create(
            Kind::Application,
            json!({"protocol": protocol, "dns": {"name": "a.example.com"}, "origin_direct": [origin]}),
        )
    };
    let (first, _) = (make("tcp/80"), make("udp/53"));
    let names = |world: &World| -> Vec<String> {
        let applications = world.compiled.config.applications.iter();
        applications.map(|application| application.name.clone()).collect()
    };
    assert_eq!(names(&world), ["web", "a.example.com", "a.example.com-udp-53"]);
    // They keep them.
    let action = Action::Merge(id(&first), fields(json!({"dns": {"name": "b.example.com"}})));
    world.change(Kind::Application, action).unwrap();
    assert_eq!(names(&world), ["web", "a.example.com", "a.example.com-udp-53"]);
}
