//! Fields that depend on one another, and what clients in typed languages can read.

use super::*;

fn merge(world: &mut World, kind: Kind, id: &str, body: Value) -> Result<Value, Failure> {
    world.change(kind, Action::Merge(id.to_owned(), fields(body)))
}

#[test]
fn another_type_of_monitor_has_its_own_defaults() {
    let mut world = World::new(FILE);
    let monitor = id(&world.create(Kind::Monitor, json!({"type": "tcp", "port": 80})));
    let mut change = |body| merge(&mut world, Kind::Monitor, &monitor, body).unwrap();
    let http = change(json!({"type": "http"}));
    assert_eq!(
        [&http["method"], &http["path"], &http["expected_codes"]],
        ["GET", "/", "200"]
    );
    let https = change(json!({"type": "https", "path": "/health"}));
    assert_eq!(https["path"], "/health");
    let tcp = change(json!({"type": "tcp", "path": null}));
    assert_eq!(
        [&tcp["method"], &tcp["path"], &tcp["expected_codes"]],
        ["connection_established", "", ""]
    );
    // Nothing changes with the same type, and null means the default one.
    assert_eq!(change(json!({"type": "tcp"}))["method"], "connection_established");
    assert_eq!(change(json!({"type": null}))["method"], "GET");
    // What somebody has asked for is not dropped silently.
    change(json!({"path": "/health"}));
    let refused = merge(&mut world, Kind::Monitor, &monitor, json!({"type": "tcp"})).unwrap_err();
    assert_eq!(refused.reasons.len(), 1, "{refused:?}");
    assert!(
        refused.reasons[0].message.contains("has no `path`"),
        "{refused:?}"
    );
    // Whoever sends back what was answered to him is told what is wrong.
    let body = json!({"type": "http", "method": "connection_established"});
    let (_, reasons) = world.refused(Kind::Monitor, Action::Create(fields(body)));
    assert!(
        reasons[0]
            .1
            .contains("what tcp monitors have, not an HTTP method")
            && reasons[0].2.as_deref() == Some("/method"),
        "{reasons:?}"
    );
}

#[test]
fn the_firewall_is_the_access_list_or_nothing() {
    let mut world = World::new(FILE);
    let body = json!({
        "protocol": "tcp/90",
        "dns": {"name": "a.example.com"},
        "origin_direct": ["tcp://10.0.0.1:80"],
        "ip_firewall": true,
    });
    let made = world.create(Kind::Application, body);
    assert_eq!(made["ip_firewall"], true);
    let access = |world: &World| world.compiled.config.applications.last().unwrap().access.clone();
    assert_eq!(access(&world), None);
    let application = id(&made);
    let mut change = |body| merge(&mut world, Kind::Application, &application, body);
    assert_eq!(
        change(json!({"ip_firewall": false})).unwrap()["ip_firewall"],
        false
    );
    let limited = change(json!({"access": {"deny": ["192.0.2.0/24"]}})).unwrap();
    assert_eq!(limited["ip_firewall"], true);
    let refused = change(json!({"ip_firewall": false})).unwrap_err();
    assert_eq!(refused.reasons[0].pointer.as_deref(), Some("/ip_firewall"));
    assert!(
        refused.reasons[0].message.contains("set `access` to null"),
        "{refused:?}"
    );
    let open = change(json!({"ip_firewall": false, "access": null})).unwrap();
    assert!(
        open["ip_firewall"] == false && open.get("access").is_none(),
        "{open}"
    );
    let refused = change(json!({"origin_port": -5})).unwrap_err();
    assert_eq!(refused.reasons[0].code, 11001, "{refused:?}");
    assert!(access(&world).is_none());
}

#[test]
fn what_means_nothing_else_than_the_default_is_taken() {
    let mut world = World::new(FILE);
    let pool = |sources: &[&str]| json!({"name": "p", "origins": [{"name": "a", "address": "10.0.0.1"}], "health_sources": sources});
    let made = world.create(Kind::Pool, pool(&["global", "local"]));
    assert_eq!(made["health_sources"], json!(["global", "local"]));
    let action = Action::Replace(id(&made), fields(pool(&["local"])));
    let (_, reasons) = world.refused(Kind::Pool, action);
    assert_eq!(reasons[0].2.as_deref(), Some("/health_sources"), "{reasons:?}");
    let body = json!({
        "protocol": "tcp/90",
        "dns": {"name": "a.example.com"},
        "origin_dns": {"name": "lb.file", "ttl": -7},
    });
    let (_, reasons) = world.refused(Kind::Application, Action::Create(fields(body)));
    assert_eq!(reasons[0].2.as_deref(), Some("/origin_dns/ttl"), "{reasons:?}");
}

#[test]
fn typed_clients_read_whole_seconds_and_policies_that_they_know() {
    let file = r#"
        [monitors.fast]
        type = "http"
        interval = 0.5
        timeout = 0.25
        [pools.p.origins.a]
        address = "10.0.0.1"
        [load_balancers.l]
        default_pools = ["p"]
        steering_policy = "hash"
    "#;
    let mut world = World::new(file);
    let shown = |world: &World, kind, name: &str| {
        let id = world.of_file(kind, name);
        world.catalog.find(kind, &id).unwrap().shown()
    };
    let fast = shown(&world, Kind::Monitor, "fast");
    assert_eq!([&fast["interval"], &fast["timeout"]], [&json!(1), &json!(1)]);
    assert_eq!(fast["exact"], json!({"interval": 0.5, "timeout": 0.25}));
    assert_eq!([&fast["method"], &fast["path"]], ["GET", "/"]);
    let balancer = shown(&world, Kind::LoadBalancer, "l");
    assert_eq!(balancer["steering_policy"], "random");
    assert_eq!(balancer["exact"], json!({"steering_policy": "hash"}));
    // The same of the API's, whose answers can be sent back.
    let made = world.create(
        Kind::Monitor,
        json!({"type": "tcp", "interval": 0.5, "timeout": 2}),
    );
    let monitor = id(&made);
    assert_eq!([&made["interval"], &made["timeout"]], [&json!(1), &json!(2)]);
    let interval = |world: &World| {
        world
            .compiled
            .config
            .monitor(&monitor)
            .unwrap()
            .interval
            .as_millis()
    };
    for (body, shown, exact) in [
        (made.clone(), 1, 500),
        (json!({"description": "x"}), 1, 500),
        (json!({"exact": {"interval": 0.75}}), 1, 750),
        // Who changes the field that he knows means it.
        (json!({"interval": 5, "exact": {"interval": 0.75}}), 5, 5000),
        (json!({"interval": 0.5}), 1, 500),
        (json!({"interval": 1}), 1, 1000),
    ] {
        let changed = merge(&mut world, Kind::Monitor, &monitor, body.clone()).unwrap();
        assert_eq!(
            (changed["interval"].as_u64(), interval(&world)),
            (Some(shown), exact),
            "{body}"
        );
    }
    let pool = world.of_file(Kind::Pool, "p");
    let set = json!({"name": "s", "match": {"default": true}, "overrides": {"pools": [pool], "steering_policy": "hash"}});
    let body = json!({"name": "x", "default_pools": [pool], "fallback_pool": pool, "steering_policy": "hash", "pool_sets": [set]});
    let made = world.create(Kind::LoadBalancer, body);
    let overrides = &made["pool_sets"][0]["overrides"];
    assert_eq!(
        [&made["steering_policy"], &overrides["steering_policy"]],
        ["random", "random"]
    );
    assert_eq!(overrides["exact"], json!({"steering_policy": "hash"}));
    let policy = |world: &World| {
        world
            .compiled
            .config
            .load_balancer("x")
            .unwrap()
            .steering_policy
            .name()
    };
    let before = world.compiled.config.clone();
    let action = Action::Replace(id(&made), fields(made.clone()));
    world.change(Kind::LoadBalancer, action).unwrap();
    assert_eq!(world.compiled.config, before);
    assert_eq!(policy(&world), "hash");
    merge(
        &mut world,
        Kind::LoadBalancer,
        &id(&made),
        json!({"steering_policy": "random"}),
    )
    .unwrap();
    assert_eq!(policy(&world), "random");
}
