//! Disabled and removed origins: how long their flows go on.

use super::world::*;
use crate::engine::{Environment, Event, Kept, Report};
use crate::image::Capacity;
use crate::model::*;
use core::time::Duration;
use lb_common::abi::{OriginFlags, OriginId, OriginState};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";

fn three(drain_timeout: u64) -> Config {
    let mut pool = pool("first", &[A, B, C]);
    pool.drain_timeout = Duration::from_secs(drain_timeout);
    web(vec![pool], None)
}

/// B disabled, C removed.
fn one_left(drain_timeout: u64) -> Config {
    let mut config = three(drain_timeout);
    config.pools[0].origins[1].enabled = false;
    config.pools[0].origins.pop();
    config
}

fn state(world: &World, id: OriginId) -> OriginState {
    world.maps.origins[&id].state
}

#[test]
fn flows_of_disabled_and_removed_origins_end_at_the_deadline() {
    let mut world = World::settled(three(60));
    let [b, c] = [B, C].map(|address| world.origin(address).id);
    world.configure(one_left(60));
    let end = world.now.after(Duration::from_secs(60));
    assert_eq!(world.origin(B).drain_deadline, Some(end));
    world.run(59);
    assert_eq!([b, c].map(|id| state(&world, id)), [OriginState::DRAINING; 2]);
    world.run(1);
    assert_eq!([b, c].map(|id| state(&world, id)), [OriginState::ENDED; 2]);
    world.configure(three(60));
    world.run(1);
    assert_eq!(
        [b, c].map(|id| state(&world, id)),
        [OriginState::UP; 2],
        "they are back"
    );
    assert_eq!(world.origin(B).drain_deadline, None);
}

#[test]
fn an_origin_may_have_a_time_of_its_own() {
    let mut world = World::settled(three(60));
    let b = world.origin(B).id;
    let mut config = three(60);
    config.pools[0].origins[1].enabled = false;
    config.pools[0].origins[1].drain_timeout = Some(Duration::from_secs(10));
    world.configure(config);
    world.run(9);
    assert_eq!(state(&world, b), OriginState::DRAINING);
    world.run(1);
    assert_eq!(state(&world, b), OriginState::ENDED);
}

#[test]
fn another_drain_timeout_holds_for_what_drains_already() {
    let mut world = World::settled(three(60));
    let [b, c] = [B, C].map(|address| world.origin(address).id);
    world.configure(one_left(60));
    world.run(20);
    world.configure(one_left(30));
    world.run(10);
    // What is gone has no configuration any more: it keeps the time it had.
    assert_eq!(
        [b, c].map(|id| state(&world, id)),
        [OriginState::ENDED, OriginState::DRAINING]
    );
    world.configure(one_left(300));
    assert_eq!(
        state(&world, b),
        OriginState::ENDED,
        "reset flows do not come back"
    );
    world.configure(one_left(0));
    world.run(30);
    assert_eq!(state(&world, c), OriginState::ENDED);
}

#[test]
fn without_any_time_flows_end_with_the_generation() {
    let mut world = World::settled(three(0));
    let c = world.origin(C).id;
    world.configure(one_left(0));
    assert_eq!(state(&world, c), OriginState::ENDED);
}

#[test]
fn a_restart_goes_on_with_the_deadlines() {
    let mut before = World::settled(three(60));
    let [b, c] = [B, C].map(|address| before.origin(address).id);
    before.configure(one_left(60));
    before.run(40);
    let mut kept = before.saved.clone();
    for drain in &mut kept.drains {
        drain.age = Duration::from_secs(40);
    }
    let mut world = before.restart(kept);
    world.configure(one_left(60));
    world.run(19);
    assert_eq!([b, c].map(|id| state(&world, id)), [OriginState::DRAINING; 2]);
    world.run(2);
    assert_eq!([b, c].map(|id| state(&world, id)), [OriginState::ENDED; 2]);
    // What has ended stays so, also when nothing else is known.
    let mut next = world.restart(Kept::default());
    next.configure(one_left(60));
    assert_eq!([b, c].map(|id| state(&next, id)), [OriginState::ENDED; 2]);
    // And without knowledge a drain begins anew.
    let mut next = before.restart(Kept::default());
    next.configure(one_left(60));
    next.run(61);
    assert_eq!(
        [b, c].map(|id| state(&next, id)),
        [OriginState::ENDED, OriginState::DRAINING]
    );
    next.run(Pool::DRAIN_TIMEOUT.as_secs());
    assert_eq!(state(&next, c), OriginState::ENDED);
}

#[test]
fn the_number_of_an_origin_is_not_given_away_while_a_flow_may_name_it() {
    let capacity = Capacity {
        origins: 3,
        ..capacity()
    };
    let mut world = World::new(Environment {
        capacity,
        ..environment()
    });
    world.configure(web(vec![pool("first", &[A, B])], None));
    world.run(1);
    let b = world.origin(B).id;
    world.configure(web(vec![pool("first", &[A])], None));
    let newcomer = web(vec![pool("first", &[A, C])], None);
    world.configure(newcomer.clone());
    let Some(Report::Refused(why)) = world.reports.pop() else {
        panic!("{:?}", world.reports)
    };
    assert!(why.starts_with("3 origins"), "{why}");
    assert_eq!(world.serving(VIP), [A]);
    // The end of the drain is not that of its flows: an idle one is reset when it speaks again.
    world.run(301);
    assert_eq!(state(&world, b), OriginState::ENDED);
    world.configure(newcomer.clone());
    assert!(matches!(world.reports.pop(), Some(Report::Refused(_))));
    assert_eq!(state(&world, b), OriginState::ENDED);
    // Nor does a new daemon know of one.
    let mut next = world.restart(world.saved.clone());
    next.configure(newcomer.clone());
    assert!(matches!(next.reports.pop(), Some(Report::Refused(_))));
    // Only who looks finds that there are none left.
    world.handle(Event::Drained(vec![b]));
    world.configure(newcomer);
    world.run(1);
    assert_eq!(world.origin(C).id, b);
    assert_eq!(world.serving(VIP), [A, C]);
    // What comes back has its number back.
    world.configure(web(vec![pool("first", &[A])], None));
    world.configure(web(vec![pool("first", &[A, C])], None));
    assert_eq!(world.origin(C).id, b);
}

#[test]
fn flows_of_unhealthy_origins_are_reset_only_where_the_pool_says_so() {
    let mut config = three(60);
    config.pools[0].on_unhealthy = OnUnhealthy::Reset;
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(config.clone());
    let a = world.origin(A).id;
    let resets = |world: &World| world.maps.origins[&a].flags.has(OriginFlags::RESET_WHEN_DOWN);
    assert!(!resets(&world), "nobody knows yet that it is down");
    world.silent = false;
    world.run(1);
    world.kill(A);
    assert_eq!(state(&world, a), OriginState::DOWN);
    assert!(resets(&world));
    world.configure(three(60));
    assert!(!resets(&world));
}
