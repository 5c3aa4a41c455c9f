//! Policies at work: what the maps say follows health, open flows, round trips and load shedding.

use super::world::*;
use crate::engine::Event;
use crate::health::GroupHealth;
use crate::model::*;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{OriginId, Steering};
use std::collections::BTreeMap;

pub const A: &str = "10.0.0.1";
pub const B: &str = "10.0.0.2";
pub const C: &str = "10.0.0.3";
pub const D: &str = "10.0.0.4";

/// Pools `a`, `b` and `c` of one origin each, and `sorry`.
pub fn steered(policy: SteeringPolicy) -> Config {
    let mut config = web(
        vec![
            pool("a", &[A]),
            pool("b", &[B]),
            pool("c", &[C]),
            unmonitored("sorry", &[D]),
        ],
        Some("sorry"),
    );
    config.load_balancers[0].steering_policy = policy;
    config.load_balancers[0].random_steering = weights(&[("a", 50), ("b", 30)], 20);
    config
}

fn shed(config: &mut Config, pool: usize, percent: f64, policy: SheddingPolicy) {
    config.pools[pool].load_shedding.default_percent = percent;
    config.pools[pool].load_shedding.default_policy = policy;
}

pub fn check(world: &World, expected: &[(&str, f64)], words: &str) {
    let shares = world.shares(VIP);
    assert_eq!(
        shares.keys().collect::<Vec<_>>(),
        expected.iter().map(|(address, _)| address).collect::<Vec<_>>(),
        "{words}: {shares:?}"
    );
    for (address, share) in expected {
        assert!(
            (shares[*address] - share).abs() < 0.02,
            "{words}: {shares:?}, {expected:?} expected"
        );
    }
    // What the status says is what the maps do.
    for (pool, share) in &world.view().load_balancers[0].pool_shares {
        let address = world.pool(pool).origins[0].name.clone();
        assert!((shares[&address] - share).abs() < 0.02, "{words}: {pool} {share}");
    }
}

fn open_flows(world: &mut World, counts: &[(&str, u64)]) {
    let counts: BTreeMap<OriginId, u64> = counts
        .iter()
        .map(|(address, count)| (world.origin(address).id, *count))
        .collect();
    world.handle(Event::OpenFlows(counts));
    world.run(1);
}

#[test]
fn every_weighted_policy_in_every_state_of_its_pools() {
    for policy in SteeringPolicy::ALL
        .into_iter()
        .filter(|policy| policy.is_weighted())
    {
        let mut world = World::settled(steered(policy));
        let name = policy.name();
        check(&world, &[(A, 0.5), (B, 0.3), (C, 0.2)], name);
        assert_eq!(world.view().load_balancers[0].steering_policy, name);
        world.kill(A);
        check(&world, &[(B, 0.6), (C, 0.4)], name);
        assert_eq!(world.view().load_balancers[0].health, GroupHealth::Degraded);
        world.kill(B);
        world.kill(C);
        check(&world, &[(D, 1.0)], name);
        assert_eq!(world.view().load_balancers[0].health, GroupHealth::Critical);
        world.revive(A);
        check(&world, &[(A, 1.0)], name);
        let mut disabled = steered(policy);
        disabled.pools[0].enabled = false;
        world.configure(disabled);
        world.run(1);
        check(&world, &[(D, 1.0)], name);
    }
}

#[test]
fn hash_goes_by_the_client() {
    let steering = |policy| {
        let world = World::settled(steered(policy));
        world.maps.applications.values().next().unwrap().pools.steering
    };
    assert_eq!(steering(SteeringPolicy::Hash), Steering::WEIGHTED_BY_CLIENT);
    assert_eq!(steering(SteeringPolicy::Random), Steering::WEIGHTED);
    assert_eq!(steering(SteeringPolicy::Off), Steering::ORDERED);
    assert_eq!(steering(SteeringPolicy::Proximity), Steering::ORDERED);
}

#[test]
fn shed_flows_follow_the_policy() {
    for (policy, shedding, expected) in [
        (SteeringPolicy::Off, [30.0, 0.0, 0.0], vec![(A, 0.7), (B, 0.3)]),
        (
            SteeringPolicy::Off,
            [50.0, 50.0, 50.0],
            vec![(A, 0.5), (B, 0.25), (C, 0.125), (D, 0.125)],
        ),
        (
            SteeringPolicy::Random,
            [20.0, 0.0, 0.0],
            vec![(A, 0.4), (B, 0.36), (C, 0.24)],
        ),
        (SteeringPolicy::Random, [100.0; 3], vec![(D, 1.0)]),
        (
            SteeringPolicy::DynamicLatency,
            [100.0, 100.0, 0.0],
            vec![(C, 1.0)],
        ),
    ] {
        for by in [SheddingPolicy::Random, SheddingPolicy::Hash] {
            let mut config = steered(policy);
            for (pool, percent) in shedding.into_iter().enumerate() {
                shed(&mut config, pool, percent, by);
            }
            let world = World::settled(config);
            check(&world, &expected, policy.name());
            let expected = match by {
                SheddingPolicy::Random => Steering::WEIGHTED,
                SheddingPolicy::Hash => Steering::WEIGHTED_BY_CLIENT,
            };
            let steering = world.maps.applications.values().next().unwrap().pools.steering;
            assert_eq!(steering, expected);
        }
    }
}

#[test]
fn a_shedding_pool_that_is_down_sheds_nothing() {
    let mut config = steered(SteeringPolicy::Off);
    shed(&mut config, 0, 40.0, SheddingPolicy::Random);
    let mut world = World::settled(config);
    check(&world, &[(A, 0.6), (B, 0.4)], "all healthy");
    world.kill(B);
    check(&world, &[(A, 0.6), (C, 0.4)], "b is down");
    world.kill(A);
    check(&world, &[(C, 1.0)], "a and b are down");
    world.kill(C);
    check(&world, &[(D, 1.0)], "all are down");
}

#[test]
fn nobody_is_refused_because_a_pool_sheds() {
    let mut config = steered(SteeringPolicy::Off);
    config.load_balancers[0].fallback_pool = None;
    for pool in 0..3 {
        shed(&mut config, pool, 100.0, SheddingPolicy::Hash);
    }
    let mut world = World::settled(config.clone());
    check(&world, &[(A, 1.0)], "no fallback pool");
    config.load_balancers[0].fallback_pool = Some("sorry".into());
    config.pools[3].enabled = false;
    world.configure(config);
    world.run(1);
    check(&world, &[(A, 1.0)], "the fallback pool is disabled");
}

#[test]
fn sessions_are_shed_where_flows_can_move() {
    let mut config = steered(SteeringPolicy::Off);
    config.pools[0].load_shedding.session_percent = 25.0;
    let world = World::settled(config.clone());
    check(&world, &[(A, 1.0)], "connections stay");
    config.applications[0].affinity = Some(Affinity {
        ttl: Duration::from_secs(60),
    });
    let mut world = World::settled(config);
    let shares = world.shares(VIP);
    assert!((shares[A] - 0.75).abs() < 0.02 && (shares[B] - 0.25).abs() < 0.02);
    world.kill(B);
    assert!((world.shares(VIP)[C] - 0.25).abs() < 0.02);
}

/// The part of many clients that are to leave an origin.
fn leaving(world: &World, origin: &str) -> f64 {
    const CLIENTS: u32 = 4000;
    let id = world.origin(origin).id;
    let application = world.view().applications[0].id;
    let clients = (0..CLIENTS).map(|number| IpAddr::from((0x0a00_0000 + number * 7).to_be_bytes()));
    let gone = clients.filter(|client| world.moves.leaves(application, id, *client));
    gone.count() as f64 / f64::from(CLIENTS)
}

#[test]
fn sessions_leave_a_pool_only_for_another() {
    let mut config = steered(SteeringPolicy::Random);
    config.pools[0].load_shedding.session_percent = 25.0;
    let mut world = World::settled(config.clone());
    assert!(world.moves.is_empty(), "connections stay");
    config.applications[0].transport = Transport::Udp;
    world.configure(config.clone());
    world.run(1);
    assert!((leaving(&world, A) - 0.25).abs() < 0.03, "{}", leaving(&world, A));
    assert_eq!(leaving(&world, B), 0.0);
    world.kill(B);
    world.kill(C);
    // They go to the fallback pool.
    assert!((leaving(&world, A) - 0.25).abs() < 0.03);
    config.load_balancers[0].fallback_pool = None;
    world.configure(config.clone());
    world.run(1);
    assert_eq!(leaving(&world, A), 0.0, "there is nobody else");
    config.load_balancers[0].fallback_pool = Some("a".into());
    world.configure(config.clone());
    world.run(1);
    assert_eq!(
        leaving(&world, A),
        0.0,
        "they would come back as its fallback flows"
    );
    config.pools[0].load_shedding.session_percent = 0.0;
    world.configure(config);
    assert!(world.moves.is_empty());
}

#[test]
fn pools_with_few_flows_get_more() {
    let mut world = World::settled(steered(SteeringPolicy::LeastConnections));
    open_flows(&mut world, &[(A, 4), (B, 2)]);
    check(&world, &[(A, 0.25), (B, 0.25), (C, 0.5)], "4, 2 and 0 flows");
    open_flows(&mut world, &[(A, 9), (B, 9), (C, 9)]);
    check(&world, &[(A, 0.5), (B, 0.3), (C, 0.2)], "9 flows each");
    open_flows(&mut world, &[]);
    check(&world, &[(A, 0.5), (B, 0.3), (C, 0.2)], "no flows");
}

#[test]
fn who_comes_back_empty_does_not_get_everything() {
    let mut config = steered(SteeringPolicy::LeastConnections);
    config.load_balancers[0].random_steering = weights(&[], 100);
    let mut world = World::settled(config);
    open_flows(&mut world, &[(A, 1000), (B, 1000)]);
    // As if it had a third of half of all: 333.
    check(&world, &[(A, 0.2), (B, 0.2), (C, 0.6)], "it has none");
    open_flows(&mut world, &[(A, 1000), (B, 1000), (C, 500)]);
    check(&world, &[(A, 0.25), (B, 0.25), (C, 0.5)], "it has half as many");
    let mut config = web(vec![pool("a", &[A, B, C])], None);
    config.pools[0].origin_steering = OriginSteering::LeastConnections;
    let mut world = World::settled(config);
    open_flows(&mut world, &[(A, 1000), (B, 1000)]);
    let shares = world.shares(VIP);
    assert!((shares[C] - 0.6).abs() < 0.02, "{shares:?}");
}

#[test]
fn origins_with_few_flows_get_more() {
    for policy in [
        OriginSteering::LeastConnections,
        OriginSteering::LeastOutstandingRequests,
    ] {
        let mut config = web(vec![pool("a", &[A, B])], None);
        config.pools[0].origin_steering = policy;
        config.pools[0].origins[0].weight = Weight::from_hundredths(40).unwrap();
        config.pools[0].origins[1].weight = Weight::from_hundredths(60).unwrap();
        let mut world = World::settled(config);
        let shares = world.shares(VIP);
        assert!((shares[A] - 0.4).abs() < 0.02, "{shares:?}");
        // Cloudflare's example.
        open_flows(&mut world, &[(A, 3)]);
        let shares = world.shares(VIP);
        assert!((shares[A] - 0.1429).abs() < 0.02, "{shares:?}");
        let viewed = world.origin(A).share;
        assert!((viewed - 0.1429).abs() < 0.001, "{viewed}");
        world.kill(B);
        assert_eq!(world.serving(VIP), [A]);
    }
}

#[test]
fn counts_that_make_no_difference_make_no_tables() {
    let mut config = steered(SteeringPolicy::LeastConnections);
    config.pools[0].origin_steering = OriginSteering::LeastConnections;
    let mut world = World::settled(config);
    open_flows(&mut world, &[(A, 1000), (B, 1000), (C, 1000)]);
    let generation = world.maps.settings.generation;
    for more in 0..20 {
        open_flows(&mut world, &[(A, 1000 + more), (B, 1000 - more), (C, 1000)]);
    }
    // Until it adds up: a hundredth of the flows would go elsewhere.
    assert!(world.maps.settings.generation - generation <= 1);
    open_flows(&mut world, &[(A, 1300), (B, 700), (C, 1000)]);
    assert!(world.maps.settings.generation > generation);
}

#[test]
fn without_such_a_policy_counts_mean_nothing() {
    let mut world = World::settled(steered(SteeringPolicy::Random));
    assert!(!world.engine.counts_flows());
    let applied = world.applied.len();
    open_flows(&mut world, &[(A, 1000), (B, 1)]);
    assert_eq!(world.applied.len(), applied);
    let world = World::settled(steered(SteeringPolicy::LeastOutstandingRequests));
    assert!(world.engine.counts_flows());
}

/// Answers the probes of these addresses after so many milliseconds, for some runs.
fn measure(world: &mut World, latencies: &[(&str, u64)], runs: usize) {
    world.silent = true;
    // A second at a time: later answers would come too late.
    for _ in 0..runs * 5 {
        world.run(1);
        for request in core::mem::take(&mut world.probes) {
            let known = latencies
                .iter()
                .find(|(address, _)| ip(address) == request.address);
            let rtt = Duration::from_millis(known.map_or(50, |(_, rtt)| *rtt));
            world.observe(request.target, request.attempt, Ok(rtt.into()));
        }
        world.run(0);
    }
    world.silent = false;
}

#[test]
fn the_fastest_pool_gets_everything() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(steered(SteeringPolicy::DynamicLatency));
    measure(&mut world, &[(A, 30), (B, 10), (C, 20)], 2);
    check(&world, &[(B, 1.0)], "b is the fastest");
    // The average follows: after five samples it is half way.
    measure(&mut world, &[(A, 30), (B, 100), (C, 20)], 1);
    check(&world, &[(C, 1.0)], "b has become slow");
    measure(&mut world, &[(A, 1), (B, 100), (C, 20)], 3);
    check(&world, &[(C, 1.0)], "a is faster now, not yet on average");
    measure(&mut world, &[(A, 1), (B, 100), (C, 20)], 2);
    check(&world, &[(A, 1.0)], "a is faster");
    // Not for a jitter.
    let generation = world.maps.settings.generation;
    measure(&mut world, &[(A, 1), (B, 101), (C, 20)], 2);
    assert!(world.maps.settings.generation - generation <= 2);
}

#[test]
fn round_trips_outlive_the_daemon() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(steered(SteeringPolicy::DynamicLatency));
    measure(&mut world, &[(A, 30), (B, 10), (C, 20)], 2);
    let mut next = world.restart(world.saved.clone());
    next.silent = true;
    next.configure(steered(SteeringPolicy::DynamicLatency));
    check(&next, &[(B, 1.0)], "b is the fastest");
}

#[test]
fn the_next_pool_on_the_globe_gets_everything() {
    let mut config = steered(SteeringPolicy::Proximity);
    let place = |latitude, longitude| Some(Coordinates { latitude, longitude });
    (config.node.latitude, config.node.longitude) = (Some(50.1), Some(8.7));
    config.pools[1].coordinates = place(35.7, 139.7);
    config.pools[2].coordinates = place(48.9, 2.3);
    let mut world = World::settled(config);
    check(&world, &[(C, 1.0)], "the nearest");
    world.kill(C);
    check(&world, &[(B, 1.0)], "the other one with coordinates");
    world.kill(B);
    check(&world, &[(A, 1.0)], "the one without");
    world.kill(A);
    check(&world, &[(D, 1.0)], "none");
}

#[test]
fn the_status_says_why() {
    let mut config = steered(SteeringPolicy::LeastConnections);
    shed(&mut config, 1, 20.0, SheddingPolicy::Hash);
    let mut world = World::settled(config);
    open_flows(&mut world, &[(A, 7)]);
    world.kill(C);
    let route = world.view().load_balancers[0].routes[0].clone();
    let why = |name: &str| {
        let found = route.pools.iter().find(|pool| pool.name == name);
        found.map(|pool| pool.why.as_str())
    };
    assert_eq!(why("a"), Some("weight 0.5, 7 open flows"));
    assert_eq!(
        why("b"),
        Some("weight 0.3, 0 open flows, gives up 20 % of clients")
    );
    assert_eq!(
        why("c"),
        Some("critical: 0 of 1 needed origins are healthy, weight 0.2, 0 open flows")
    );
    assert_eq!(why("sorry"), None);
    assert_eq!(route.source, "default_pools");
}
