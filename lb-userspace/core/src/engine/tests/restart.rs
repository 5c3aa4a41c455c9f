//! What is taken over: from a former daemon, from a former monitor; and what becomes of origins no longer wanted.

use super::world::*;
use crate::engine::{Environment, Event, Kept};
use crate::health::OriginHealth;
use crate::image::TableOp;
use core::time::Duration;
use lb_common::abi::OriginState;
use std::collections::BTreeMap;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";
const D: &str = "10.0.0.4";

#[test]
fn a_restart_never_empties_a_pool() {
    let mut before = World::settled(web(vec![pool("first", &[A, B, C])], None));
    before.kill(C);
    let saved = before.saved.clone();
    let generation = before.maps.settings.generation;
    for kept in [saved, Kept::default()] {
        let mut world = before.restart(kept);
        world.silent = true;
        world.routed = false;
        world.configure(web(vec![pool("first", &[A, B, C])], None));
        assert_eq!(world.maps.settings.generation, generation + 1);
        assert_eq!(world.serving(VIP), [A, B], "before any path or probe is known");
        assert_eq!(world.origin(A).health, OriginHealth::Healthy);
        assert_eq!(world.origin(C).health, OriginHealth::Unhealthy);
        assert_eq!(world.origin(A).id, before.origin(A).id);
        world.handle(Event::Paths(
            [A, B, C].map(|a| (ip(a), path(ip(a), 0))).into_iter().collect(),
        ));
        assert_eq!(world.serving(VIP), [A, B]);
        world.silent = false;
        world.run(1);
        assert_eq!(world.serving(VIP), [A, B]);
        // The probes are obeyed as ever.
        world.kill(A);
        assert_eq!(world.serving(VIP), [B]);
        world.revive(C);
        assert_eq!(world.serving(VIP), [B, C]);
    }
}

#[test]
fn health_that_is_too_old_is_not_restored() {
    let mut before = World::settled(web(vec![pool("first", &[A])], None));
    before.run(5);
    for (age, health) in [(14, OriginHealth::Healthy), (15, OriginHealth::Unknown)] {
        let mut kept = before.saved.clone();
        kept.health[0].age = Duration::from_secs(age);
        let mut world = World::new(Environment {
            kept,
            ..environment()
        });
        world.silent = true;
        world.configure(web(vec![pool("first", &[A])], None));
        assert_eq!(world.origin(A).health, health, "{age} s");
    }
}

#[test]
fn a_restored_origin_is_flipped_by_the_usual_count() {
    let mut config = web(vec![pool("first", &[A])], None);
    config.monitors[0].consecutive_down = 2;
    let before = World::settled(config.clone());
    let mut world = World::new(Environment {
        kept: before.saved.clone(),
        ..environment()
    });
    world.dead.insert(ip(A));
    world.configure(config);
    world.run(1);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
    world.run(6);
    assert_eq!(world.origin(A).health, OriginHealth::Unhealthy);
}

#[test]
fn an_adopted_row_that_nobody_claims_drains() {
    let before = World::settled(web(vec![pool("first", &[A, B])], None));
    let gone = before.origin(B).id;
    let mut world = before.restart(Kept::default());
    world.configure(web(vec![pool("first", &[A, C])], None));
    world.run(1);
    assert_eq!(world.maps.origins[&gone].state, OriginState::DRAINING);
    assert_ne!(world.origin(C).id, gone);
    assert!(world.watched.contains(&ip(B)), "its flows go on");
}

#[test]
fn counters_keep_their_rows_over_a_restart() {
    let mut config = web(vec![pool("first", &[A])], None);
    config
        .applications
        .insert(0, application("other", "203.0.113.11", "web"));
    let before = World::settled(config.clone());
    let ids = |world: &World| -> BTreeMap<String, u32> {
        world
            .view()
            .applications
            .iter()
            .map(|application| (application.name.clone(), application.id))
            .collect()
    };
    let mut world = before.restart(Kept::default());
    config.applications.reverse();
    world.configure(config);
    assert_eq!(ids(&world), ids(&before));
}

#[test]
fn removed_and_disabled_origins_drain_and_keep_their_numbers() {
    let mut config = web(vec![pool("first", &[A, B, C])], None);
    let mut world = World::settled(config.clone());
    let [a, b, c] = [A, B, C].map(|address| world.origin(address).id);
    config.pools[0].origins[1].enabled = false;
    let removed = config.pools[0].origins.pop().unwrap();
    world.configure(config.clone());
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(
        [b, c].map(|id| world.maps.origins[&id].state),
        [OriginState::DRAINING; 2]
    );
    assert!(world.origin(B).draining && world.origin(B).health == OriginHealth::Disabled);
    // A newcomer does not get the number; the old one does.
    config.pools[0].origins.extend(pool("", &[D]).origins);
    world.configure(config.clone());
    assert!(![a, b, c].contains(&world.origin(D).id));
    config.pools[0].origins.push(removed);
    world.configure(config);
    assert_eq!(world.origin(C).id, c);
}

#[test]
fn a_removed_origin_serves_until_the_generation_without_it_is_live() {
    let mut world = World::settled(web(vec![unmonitored("first", &[A])], None));
    world.applied.clear();
    world.configure(web(vec![unmonitored("first", &[B])], None));
    let ops: Vec<_> = world.applied.concat();
    let flip = ops
        .iter()
        .position(|op| matches!(op, TableOp::Settings(_)))
        .unwrap();
    let retires =
        |op: &TableOp| matches!(op, TableOp::Origin { record, .. } if record.state == OriginState::DRAINING);
    assert!(ops.iter().position(retires).unwrap() > flip, "{ops:?}");
}

#[test]
fn a_change_of_the_monitors_times_keeps_the_health_and_of_its_question_until_the_first_answer() {
    let mut config = web(vec![pool("first", &[A])], None);
    let mut world = World::settled(config.clone());
    world.silent = true;
    config.monitors[0].interval = Duration::from_secs(1);
    config.monitors[0].consecutive_down = 4;
    config.monitors[0].name = "renamed".into();
    config.pools[0].monitor = Some("renamed".into());
    world.configure(config.clone());
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
    config.monitors[0].port = Some(9);
    world.configure(config);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
    assert_eq!(world.serving(VIP), [A]);
    // However many failures in a row the monitor wants to see.
    world.silent = false;
    world.dead.insert(ip(A));
    world.run(1);
    assert_eq!(world.origin(A).health, OriginHealth::Unhealthy);
}

#[test]
fn a_pool_that_gets_a_monitor_serves_on_until_the_first_answer() {
    let mut world = World::settled(web(vec![unmonitored("first", &[A])], None));
    world.silent = true;
    world.configure(web(vec![pool("first", &[A])], None));
    assert_eq!(world.serving(VIP), [A]);
}
