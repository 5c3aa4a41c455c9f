//! Where Cloudflare's documentation says what happens when hardly anything is left.

use super::steering::{A, B, C, D, steered};
use super::world::*;
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
