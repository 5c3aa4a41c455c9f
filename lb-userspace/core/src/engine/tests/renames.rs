//! Pools and origins that are called otherwise, and stay what they are.

use super::world::*;
use crate::health::OriginHealth;
use crate::image::TableOp;
use crate::model::{Config, Pool};
use lb_common::abi::OriginState;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

fn named(pool_name: &str, origin_name: &str) -> Config {
    let mut pool: Pool = pool(pool_name, &[A, B]);
    pool.identity = Some("00000000000000000000000000000001".into());
    pool.origins[0].name = origin_name.into();
    pool.origins[0].identity = Some("a".into());
    web(vec![pool], None)
}

#[test]
fn a_new_name_ends_no_flow_and_forgets_no_health() {
    let mut world = World::settled(named("eu", "a"));
    world.kill(B);
    let (id, reports) = (world.origin(A).id, world.reports.len());
    let applied = world.applied.len();
    world.silent = true;
    world.configure(named("europe", "first"));
    let after = world.origin(A);
    assert_eq!(
        (after.name.as_str(), after.id, after.health),
        ("first", id, OriginHealth::Healthy)
    );
    assert_eq!(world.origin(B).health, OriginHealth::Unhealthy);
    assert_eq!(world.serving(VIP), [A]);
    let drains = world.applied[applied..].iter().flatten();
    let drains = drains
        .filter(|op| matches!(op, TableOp::Origin { record, .. } if record.state == OriginState::DRAINING));
    assert_eq!(drains.count(), 0);
    assert_eq!(world.views.last().unwrap().pools[0].name, "europe");
    // Nothing has become of anybody's health: only that there is another configuration.
    assert_eq!(
        world.reports.len(),
        reports + 1,
        "{:?}",
        &world.reports[reports..]
    );
    // What the next daemon finds is known by what stays, too.
    world.silent = false;
    world.run(3);
    let mut next = world.restart(world.saved.clone());
    next.silent = true;
    next.configure(named("again", "and-again"));
    assert_eq!(next.serving(VIP), [A]);
    assert_eq!(next.origin(A).id, id);
    assert_eq!(next.origin(B).health, OriginHealth::Unhealthy);
}
