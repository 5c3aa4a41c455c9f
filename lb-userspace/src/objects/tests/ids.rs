//! Objects refer to others by id: names change, and nobody would know who refers.

use super::*;

#[test]
fn names_are_not_taken_where_ids_belong() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let (eu, us) = (world.of_file(Kind::Pool, "eu"), id(&made["pool"]));
    let check = world.of_file(Kind::Monitor, "tcp-check");
    let balancer = |fields: Value| {
        let mut body = json!({"name": "x", "default_pools": [eu], "fallback_pool": eu});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().cloned().unwrap());
        (Kind::LoadBalancer, body)
    };
    let name_of = |noun: &str, name: &str, id: &str| {
        format!("`{name}` is not the id of a {noun}, but the name of the one with the id {id}")
    };
    let rows = [
        (
            balancer(json!({"default_pools": ["us"]})),
            "/default_pools/0",
            format!("default_pools[0]: {}", name_of("pool", "us", &us)),
        ),
        (
            balancer(json!({"fallback_pool": "eu"})),
            "/fallback_pool",
            format!("fallback_pool: {}", name_of("pool", "eu", &eu)),
        ),
        (
            balancer(json!({"region_pools": {"WEU": ["p2"]}})),
            "/region_pools/WEU/0",
            "region_pools.WEU[0]: `p2` is not the id of a pool: ids are 32 lower-case hexadecimal digits"
                .to_owned(),
        ),
        (
            balancer(json!({"random_steering": {"pool_weights": {eu.clone(): 0.5, "eu": 0.2}}})),
            "/random_steering/pool_weights/eu",
            format!("random_steering.pool_weights.eu: {}", name_of("pool", "eu", &eu)),
        ),
        (
            balancer(json!({"pool_sets": [{"name": "s", "overrides": {"pools": ["eu"]}}]})),
            "/pool_sets/0/overrides/pools/0",
            format!("pool_sets[0].overrides.pools[0]: {}", name_of("pool", "eu", &eu)),
        ),
        (
            (
                Kind::Pool,
                json!({"name": "p", "monitor": "tcp-check", "origins": [{"name": "a", "address": "10.0.0.1"}]}),
            ),
            "/monitor",
            format!("monitor: {}", name_of("monitor", "tcp-check", &check)),
        ),
        (
            (
                Kind::MonitorGroup,
                json!({"members": [{"monitor_id": "tcp-check"}]}),
            ),
            "/members/0/monitor_id",
            format!(
                "members[0].monitor_id: {}",
                name_of("monitor", "tcp-check", &check)
            ),
        ),
    ];
    for ((kind, body), pointer, message) in rows {
        let told = world.refused(kind, Action::Create(fields(body.clone())));
        assert_eq!(
            told,
            (400, vec![(1002, message, Some(pointer.to_owned()))]),
            "{body}"
        );
    }
}

#[test]
fn whoever_has_a_weight_for_a_pool_refers_to_it() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let (eu, us) = (world.of_file(Kind::Pool, "eu"), id(&made["pool"]));
    let weights = json!({"default_pools": [eu], "random_steering": {"pool_weights": {us.clone(): 0.1}}});
    let action = Action::Merge(id(&made["balancer"]), fields(weights));
    world.change(Kind::LoadBalancer, action).unwrap();
    let (status, reasons) = world.refused(Kind::Pool, Action::Delete(us));
    assert_eq!((status, reasons[0].0), (412, 1005), "{reasons:?}");
}
