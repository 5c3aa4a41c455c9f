//! What a node takes that was started with nothing in its file.

use super::*;
use crate::config::{self, HostDefaults, Imports, Kind, Source};
use crate::objects::{Action, Catalog, Change, Entry, FileObjects, Moment, render};
use lb_common::abi::PortRange;
use lb_core::engine::{Command, Event, Report};
use lb_core::model::Weight;
use lb_core::time::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

const APPLICATIONS: u32 = 1000;
/// Objects that a new one may refer to.
const NEWEST: usize = 8;

/// A node as the API sees it.
struct World {
    source: Arc<Source>,
    entries: Vec<Arc<Entry>>,
    now: u64,
}

impl World {
    fn new() -> Self {
        Self {
            source: Source::new("/etc/lb/lb.toml", ""),
            entries: Vec::new(),
            now: 1_700_000_000_000_000,
        }
    }

    /// Makes an object, and returns its id. It may refer to the newest; the others are looked at when all are put
    /// together.
    fn create(&mut self, kind: Kind, body: &Value) -> String {
        self.now += 1;
        let moment = Moment {
            now: self.now,
            random: u128::from(self.now),
        };
        let action = Action::Create(body.as_object().cloned().unwrap());
        let newest = self.entries[self.entries.len().saturating_sub(NEWEST)..].to_vec();
        let newest = Catalog::new(Arc::new(FileObjects::new(&self.source, self.now)), newest);
        let applied = Change { kind, action }.apply(&newest, moment).unwrap();
        self.entries.push(Arc::clone(&applied.entry));
        applied.entry.id.to_string()
    }

    fn config(&self) -> Config {
        let file = Arc::new(FileObjects::new(&self.source, self.now));
        let catalog = Catalog::new(file, self.entries.clone());
        let rendered = render(&catalog, &[], &BTreeSet::new());
        let defaults = HostDefaults {
            node_name: "n".to_owned(),
        };
        let objects = Some(&rendered.source);
        config::compile(&self.source, objects, &Imports::default(), &defaults)
            .unwrap()
            .config
    }
}

fn engine_of_a_default_node() -> Engine {
    let sizes = sizes(&World::new().config());
    Engine::new(
        Environment {
            hz: 1000,
            hash_key: HashKey { k0: 1, k1: 2 },
            snat_ports: PortRange {
                first: 61_000,
                count: 4_000,
            },
            flags: SettingsFlags(0),
            capacity: sizes.capacity,
            max_flows: sizes.max_flows,
            adopted: None,
            kept: Kept::default(),
            assume_healthy: false,
            seed: 1,
        },
        Timestamp::default(),
    )
}

/// Brings a configuration into force, and says how long that took.
fn configure(engine: &mut Engine, config: Config) -> std::time::Duration {
    let started = Instant::now();
    for command in engine.handle(Event::Configure(Arc::new(config)), Timestamp::default()) {
        if let Command::Report(Report::Refused(why)) = command {
            panic!("{why}");
        }
    }
    started.elapsed()
}

/// So many applications, each with a load balancer of its own: `random` over two pools, the second one also its fallback
/// pool.
fn applications(origins: u32) -> World {
    let mut world = World::new();
    for number in 0..APPLICATIONS {
        let [first, second] = [0, 1].map(|half| {
            let origin = |index: u32| {
                let [_, a, b, c] = (1 + (number * 2 + half) * origins + index).to_be_bytes();
                json!({"name": format!("o{index}"), "address": format!("10.{a}.{b}.{c}"), "port": 80})
            };
            let origins: Vec<Value> = (0..origins).map(origin).collect();
            let name = format!("pool-{number}-{half}");
            world.create(Kind::Pool, &json!({"name": name, "origins": origins}))
        });
        world.create(
            Kind::LoadBalancer,
            &json!({
                "name": format!("lb-{number}.example.org"),
                "default_pools": [first, second],
                "fallback_pool": second,
                "steering_policy": "random",
            }),
        );
        let [_, _, b, c] = number.to_be_bytes();
        world.create(
            Kind::Application,
            &json!({
                "protocol": "tcp/443",
                "dns": {"type": "ADDRESS", "name": format!("app-{number}.example.org")},
                "origin_dns": {"name": format!("lb-{number}.example.org")},
                "origin_port": 443,
                "edge_ips": {
                    "type": "static",
                    "ips": [format!("203.0.{b}.{c}"), format!("2001:db8::{number:x}")],
                },
            }),
        );
    }
    world
}

#[test]
fn a_default_node_takes_a_thousand_applications_with_pools_of_their_own() {
    for origins in [2, 5] {
        let mut engine = engine_of_a_default_node();
        let config = applications(origins).config();
        let first = configure(&mut engine, config.clone());
        // Every table is another one: two generations are as full as they can be.
        let mut other_tables = |weight: u8| {
            let mut next = config.clone();
            let pools = next.pools.iter_mut();
            for origin in pools.filter_map(|pool| pool.origins.first_mut()) {
                origin.weight = Weight::from_hundredths(weight).unwrap();
            }
            for balancer in &mut next.load_balancers {
                let weights = &mut balancer.random_steering;
                weights.named.insert(
                    balancer.default_pools[0].clone(),
                    Weight::from_hundredths(weight).unwrap(),
                );
            }
            configure(&mut engine, next)
        };
        let (second, third) = (other_tables(50), other_tables(25));
        let mut next = config.clone();
        next.pools[0].origins[0].enabled = false;
        let one = configure(&mut engine, next);
        eprintln!(
            "{APPLICATIONS} applications, {} origins: {first:?}, {second:?} and {third:?} with all other tables, \
             {one:?} with one",
            APPLICATIONS * 2 * origins
        );
    }
}
