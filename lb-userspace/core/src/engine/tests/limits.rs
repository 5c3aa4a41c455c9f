//! Limits and affinity.

use super::world::*;
use crate::model::*;
use core::time::Duration;
use lb_common::abi::{self, Rate};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";

fn record(world: &World, name: &str) -> abi::Application {
    let id = world
        .view()
        .applications
        .iter()
        .find(|application| application.name == name)
        .unwrap()
        .id;
    let parity = world.maps.settings.parity();
    let mut records = world.maps.applications.iter();
    *records
        .find(|(key, record)| key.parity == parity && record.id == id)
        .unwrap()
        .1
}

#[test]
fn a_rate_is_the_time_of_one_flow() {
    let mut config = web(vec![unmonitored("first", &[A])], None);
    config.applications[0].limits = Limits {
        new_flows_per_second: Some(1000),
        new_flows_per_second_per_source: Some(1),
        flows_per_origin: None,
    };
    let world = World::settled(config);
    let record = record(&world, "web");
    assert_eq!(
        (record.rate, record.source_rate),
        (Rate(1 << 30), Rate(250 << 32))
    );
}

#[test]
fn of_several_limits_of_an_origin_the_smallest_counts() {
    let mut config = web(
        vec![unmonitored("first", &[A]), unmonitored("second", &[B])],
        None,
    );
    config.load_balancers.push(balancer("other", &["second"], None));
    for (name, address, balancer, limit) in [
        ("two", "203.0.113.11", "web", Some(20)),
        ("three", "203.0.113.12", "other", Some(5)),
        ("off", "203.0.113.13", "web", Some(1)),
    ] {
        let mut new = application(name, address, balancer);
        new.limits.flows_per_origin = limit;
        new.enabled = name != "off";
        config.applications.push(new);
    }
    let mut direct = application("direct", "203.0.113.14", "");
    direct.destination = Destination::Direct(vec![DirectOrigin {
        address: ip(C).into(),
        record_type: RecordType::Any,
        port: 80,
    }]);
    direct.limits.flows_per_origin = Some(7);
    config.applications.push(direct);
    let mut world = World::settled(config.clone());
    let limits =
        |world: &World| [A, B, C].map(|address| world.maps.origins[&world.origin(address).id].max_flows);
    assert_eq!(limits(&world), [20, 5, 7]);
    // It is the same origin with another limit.
    let id = world.origin(A).id;
    config.applications[1].limits.flows_per_origin = None;
    world.configure(config);
    assert_eq!(limits(&world), [0, 5, 7]);
    assert_eq!(world.origin(A).id, id);
}

fn sticky(pools: Vec<Pool>) -> Config {
    let mut config = web(pools, None);
    config.applications[0].affinity = Some(Affinity {
        ttl: Duration::from_secs(600),
    });
    config
        .applications
        .push(application("plain", "203.0.113.11", "web"));
    config
}

fn epoch(world: &World) -> u32 {
    record(world, "web").affinity_epoch
}

#[test]
fn bindings_hold_until_a_pool_comes_or_goes() {
    let config = sticky(vec![pool("first", &[A]), pool("second", &[B])]);
    let mut world = World::settled(config.clone());
    assert_eq!(record(&world, "web").affinity_ttl, 150_000);
    let plain = record(&world, "plain");
    assert_eq!((plain.affinity_ttl, plain.affinity_epoch), (0, 0));
    let bound = epoch(&world);
    // Nobody is bound to a pool that is empty, and those who are bound to others shall stay there.
    for address in [A, B] {
        world.kill(address);
        assert_eq!(epoch(&world), bound);
        world.revive(address);
        assert_eq!(epoch(&world), bound);
    }
    // The order says who is asked first, not who may serve; so do weights, and who is in the pool.
    let mut turned = config.clone();
    turned.load_balancers[0].default_pools.reverse();
    turned.pools[0].origins[0].weight = Weight::from_hundredths(10).unwrap();
    turned.pools[0]
        .origins
        .push(pool("first", &[C]).origins.remove(0));
    turned.applications[0].affinity = Some(Affinity {
        ttl: Duration::from_secs(1),
    });
    world.configure(turned);
    assert_eq!(epoch(&world), bound);
    assert_eq!(record(&world, "web").affinity_ttl, 250);
    let mut next = world.restart(world.saved.clone());
    next.configure(config.clone());
    assert_eq!(epoch(&next), bound);
    // The origins of a pool that is none of the load balancer's any more are up for others.
    let mut fewer = config.clone();
    fewer.load_balancers[0].default_pools.pop();
    next.configure(fewer);
    assert_ne!(epoch(&next), bound);
    next.configure(config.clone());
    assert_eq!(epoch(&next), bound);
    let mut none = config;
    none.applications[0].affinity = None;
    next.configure(none);
    let web = record(&next, "web");
    assert_eq!((web.affinity_ttl, web.affinity_epoch), (0, 0));
}

#[test]
fn a_pool_below_its_minimum_lets_its_clients_go() {
    let mut first = pool("first", &[A, C]);
    first.minimum_origins = 2;
    let mut world = World::settled(sticky(vec![first, pool("second", &[B])]));
    let bound = epoch(&world);
    world.kill(A);
    assert_ne!(epoch(&world), bound, "C is up, and may not serve");
    world.kill(C);
    assert_eq!(epoch(&world), bound);
    world.revive(C);
    assert_ne!(epoch(&world), bound);
    world.revive(A);
    assert_eq!(epoch(&world), bound);
}

#[test]
fn what_is_taken_out_of_the_file_limits_no_longer() {
    let mut config = sticky(vec![unmonitored("first", &[A])]);
    config.applications[0].limits = Limits {
        new_flows_per_second: Some(5),
        new_flows_per_second_per_source: Some(2),
        flows_per_origin: Some(3),
    };
    let mut world = World::settled(config.clone());
    let limits = |world: &World| {
        let record = record(world, "web");
        let origin = world.maps.origins[&world.origin(A).id];
        (record.rate, record.source_rate, origin.max_flows)
    };
    assert_eq!(limits(&world), (Rate(50 << 32), Rate(125 << 32), 3));
    config.applications[0].limits.new_flows_per_second = Some(10);
    world.configure(config.clone());
    assert_eq!(limits(&world), (Rate(25 << 32), Rate(125 << 32), 3));
    config.applications[0].limits = Limits::default();
    world.configure(config);
    assert_eq!(limits(&world), (Rate::NONE, Rate::NONE, 0));
}
