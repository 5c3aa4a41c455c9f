//! Where Cloudflare's documentation says what happens when hardly anything is left.

use super::steering::{A, B, C, D, steered};
use super::world::*;
use crate::engine::LookupFailure;
use crate::health::GroupHealth;
use crate::model::*;

/// The degenerate cases of Cloudflare's documentation, one row each.
#[test]
fn degenerate_cases_end_as_documented() {
    type Change = fn(&mut Config);
    let rows: &[(&str, Change, &[&str], &[&str])] = &[
        (
            "no monitor on any pool: the first pool gets everything, all its origins share it",
            |config| {
                for pool in &mut config.pools {
                    pool.monitor = None;
                }
                config.pools[0]
                    .origins
                    .extend(pool("more", &["10.0.0.9"]).origins);
            },
            &[A, B],
            &[A, "10.0.0.9"],
        ),
        ("a critical pool is skipped", |_| {}, &[A], &[B]),
        (
            "all pools are critical: the fallback pool, health ignored",
            |_| {},
            &[A, B, C, D],
            &[D],
        ),
        (
            "the fallback pool's monitor says that it is down",
            |config| config.pools[3].monitor = Some("check".into()),
            &[A, B, C, D],
            &[D],
        ),
        (
            "the fallback pool is disabled too: nobody",
            |config| config.pools[3].enabled = false,
            &[A, B, C],
            &[],
        ),
        (
            "all pools are disabled: the fallback pool",
            |config| config.pools[..3].iter_mut().for_each(|pool| pool.enabled = false),
            &[],
            &[D],
        ),
        (
            "a fallback pool that is also listed",
            |config| config.load_balancers[0].fallback_pool = Some("b".into()),
            &[A],
            &[B],
        ),
        (
            "the same, with all pools critical: its health is ignored",
            |config| config.load_balancers[0].fallback_pool = Some("b".into()),
            &[A, B, C],
            &[B],
        ),
        (
            "an origin of weight 0 gets nothing",
            |config| config.pools[0].origins[0].weight = Weight::ZERO,
            &[],
            &[B],
        ),
        (
            "a disabled origin gets nothing, in this pool only",
            |config| {
                config.pools[0].origins[0].enabled = false;
                config.pools[2].origins = pool("c", &[A]).origins;
            },
            &[B],
            &[A],
        ),
        (
            "a disabled pool is passed over",
            |config| config.pools[0].enabled = false,
            &[],
            &[B],
        ),
        (
            "a disabled load balancer serves nobody",
            |config| config.load_balancers[0].enabled = false,
            &[],
            &[],
        ),
        (
            "minimum_origins = 0 and nobody healthy: skipped",
            |config| config.pools[0].minimum_origins = 0,
            &[A],
            &[B],
        ),
        (
            "all weights are zero: nobody of the list, so the fallback pool",
            |config| {
                config.load_balancers[0].steering_policy = SteeringPolicy::Random;
                config.load_balancers[0].random_steering = weights(&[], 0);
            },
            &[],
            &[D],
        ),
    ];
    for (words, change, dead, serving) in rows {
        let mut config = steered(SteeringPolicy::Off);
        change(&mut config);
        let mut world = World::settled(config);
        for address in *dead {
            world.dead.insert(ip(address));
        }
        world.run(7);
        assert_eq!(world.serving(VIP), *serving, "{words}");
    }
}

#[test]
fn an_origin_without_a_result_counts_as_down() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(steered(SteeringPolicy::Off));
    world.run(0);
    assert_eq!(world.serving(VIP), [D]);
}

#[test]
fn origins_of_weight_0_are_probed_and_disabled_ones_are_not() {
    let mut config = steered(SteeringPolicy::Off);
    config.pools[0].origins[0].weight = Weight::ZERO;
    config.pools[1].origins[0].enabled = false;
    config.pools[2].enabled = false;
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(config);
    world.run(1);
    let probed: Vec<_> = world.probes.iter().map(|request| request.address).collect();
    assert_eq!(probed, [ip(A)]);
}

#[test]
fn one_node_that_sees_a_failure_steers_away_alone() {
    let settled = || World::settled(steered(SteeringPolicy::Off));
    let (mut one, mut other) = (settled(), settled());
    one.kill(A);
    other.run(7);
    assert_eq!(
        (one.serving(VIP), other.serving(VIP)),
        (vec![B.to_owned()], vec![A.to_owned()])
    );
    one.revive(A);
    assert_eq!(one.serving(VIP), [A]);
}

#[test]
fn without_monitors_the_fallback_pool_serves_only_if_no_name_is_found() {
    let named = |pool: &str, names: &[&str]| {
        let origins = names.iter().map(|name| Origin {
            name: (*name).into(),
            address: Host::Name((*name).into()),
            ..unmonitored(pool, &[A]).origins[0].clone()
        });
        Pool {
            origins: origins.collect(),
            ..unmonitored(pool, &[])
        }
    };
    let pools = vec![
        named("first", &["a.example.com", "b.example.com"]),
        named("second", &["c.example.com"]),
        unmonitored("sorry", &[D]),
    ];
    let mut config = web(pools, Some("sorry"));
    config.load_balancers[0].default_pools = vec!["first".into(), "second".into()];
    let mut world = World::settled(config);
    let names = [("a.example.com", A), ("b.example.com", B), ("c.example.com", C)];
    for (name, _) in names {
        world.fail_to_resolve(name, LookupFailure::UnknownHost);
    }
    world.run(1);
    assert_eq!(world.serving(VIP), [D], "none is found");
    let balancer = &world.view().load_balancers[0];
    assert_eq!(
        (balancer.health, balancer.on_fallback),
        (GroupHealth::Critical, true)
    );
    // One of the last pool, then one of the first: the pool serves by what it has.
    for (found, serving) in [(2, &[C][..]), (1, &[B]), (0, &[A, B])] {
        let (name, address) = names[found];
        world.resolve(name, &[address]);
        world.run(1);
        assert_eq!(world.serving(VIP), serving, "{name} is found");
        assert!(!world.view().load_balancers[0].on_fallback);
    }
    // Answers that fail take nothing away: what was found stays.
    for (name, _) in names {
        world.fail_to_resolve(name, LookupFailure::Failed("no server".into()));
    }
    world.run(1);
    assert_eq!(world.serving(VIP), [A, B]);
}

#[test]
fn a_pool_without_a_monitor_is_as_healthy_as_it_can_serve() {
    type Change = fn(&mut Pool);
    let rows: &[(&str, Change, &[&str], bool)] = &[
        (
            "without a monitor nothing is counted",
            |pool| pool.monitor = None,
            &[],
            true,
        ),
        (
            "without a monitor and without a weight",
            |pool| {
                pool.monitor = None;
                pool.origins[0].weight = Weight::ZERO;
            },
            &[],
            false,
        ),
        ("with one, too few", |_| {}, &[], false),
        ("enough", |pool| pool.minimum_origins = 1, &[], true),
        (
            "of none as many as needed, and nobody to serve",
            |pool| pool.minimum_origins = 0,
            &[A],
            false,
        ),
        (
            "disabled, of which none are needed",
            |pool| {
                pool.minimum_origins = 0;
                pool.enabled = false;
            },
            &[],
            false,
        ),
    ];
    for (words, change, dead, healthy) in rows {
        let mut config = steered(SteeringPolicy::Off);
        config.pools[0].minimum_origins = 5;
        change(&mut config.pools[0]);
        let mut world = World::settled(config);
        world.dead.extend(dead.iter().map(|address| ip(address)));
        world.run(7);
        let pool = world.pool("a");
        assert_eq!(pool.is_healthy(), *healthy, "{words}: {pool:?}");
    }
}
