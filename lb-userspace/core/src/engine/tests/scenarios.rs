//! What operators count on, one sentence each.

use super::world::*;
use crate::engine::{Environment, Event, Kept, Path, Report};
use crate::health::{FailureReason, GroupHealth, OriginHealth};
use crate::image::{Capacity, TableOp};
use crate::model::*;
use core::time::Duration;
use lb_common::abi::{HopId, OriginId, OriginState, PoolFlags};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";
const D: &str = "10.0.0.4";

fn three_pools() -> Config {
    web(
        vec![
            pool("first", &[A]),
            pool("second", &[B, C]),
            unmonitored("sorry", &[D]),
        ],
        Some("sorry"),
    )
}

#[test]
fn an_unknown_origin_gets_no_traffic() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(web(vec![pool("first", &[A])], None));
    assert!(world.serving(VIP).is_empty());
    assert_eq!(world.origin(A).health, OriginHealth::Unknown);
    assert_eq!(world.pool("first").health, GroupHealth::Unknown);
    world.silent = false;
    world.run(1);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
}

#[test]
fn an_origin_without_a_monitor_counts_as_up() {
    let mut world = World::new(environment());
    world.configure(web(vec![unmonitored("first", &[A])], None));
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.pool("first").health, GroupHealth::Unknown);
    // The tables follow the source addresses, which were not known before.
    world.run(1);
    assert!(world.probes.is_empty() && world.engine.next_deadline().is_none());
}

#[test]
fn traffic_fails_over_and_back_in_order() {
    let mut world = World::settled(three_pools());
    assert_eq!(world.serving(VIP), [A]);
    world.kill(A);
    assert_eq!(world.serving(VIP), [B, C]);
    world.kill(B);
    assert_eq!(world.serving(VIP), [C]);
    world.kill(C);
    assert_eq!(world.serving(VIP), [D]);
    assert!(world.view().applications[0].on_fallback);
    world.revive(B);
    assert_eq!(world.serving(VIP), [B]);
    world.revive(A);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.view().applications[0].pool.as_deref(), Some("first"));
}

#[test]
fn when_all_pools_are_critical_the_fallback_pool_serves_whatever_its_health() {
    let mut world = World::settled(web(
        vec![pool("first", &[A]), pool("sorry", &[B, C])],
        Some("sorry"),
    ));
    for address in [A, B, C] {
        world.kill(address);
    }
    assert_eq!(world.serving(VIP), [B, C]);
    let view = world.view();
    assert_eq!(view.load_balancers[0].health, GroupHealth::Critical);
    assert!(view.load_balancers[0].on_fallback);
    assert_eq!(view.load_balancers[0].pool_shares, [("sorry".to_owned(), 1.0)]);
    let active = |active| Report::Fallback {
        load_balancer: "web".into(),
        active,
    };
    assert!(world.reports.contains(&active(true)));
    world.revive(A);
    assert_eq!(world.reports.last(), Some(&active(false)));
}

#[test]
fn without_a_fallback_pool_nobody_serves() {
    let mut world = World::settled(web(vec![pool("first", &[A])], None));
    world.kill(A);
    assert!(world.serving(VIP).is_empty());
    assert_eq!(world.view().applications[0].pool, None);
    assert!(!world.view().load_balancers[0].on_fallback);
}

#[test]
fn a_disabled_fallback_pool_serves_nobody() {
    let mut config = three_pools();
    config.pools[2].enabled = false;
    let mut world = World::settled(config);
    for address in [A, B, C] {
        world.kill(address);
    }
    assert!(world.serving(VIP).is_empty());
}

#[test]
fn a_pool_below_its_minimum_is_passed_over() {
    let mut config = three_pools();
    config.load_balancers[0].default_pools = vec!["second".into(), "first".into()];
    config.pools[1].minimum_origins = 2;
    let mut world = World::settled(config);
    assert_eq!(world.serving(VIP), [B, C]);
    world.kill(C);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.pool("second").health, GroupHealth::Critical);
}

#[test]
fn shares_follow_weights_and_a_weight_of_zero_means_none() {
    let mut config = web(vec![pool("first", &[A, B, C])], None);
    for (origin, hundredths) in config.pools[0].origins.iter_mut().zip([25, 75, 0]) {
        origin.weight = Weight::from_hundredths(hundredths).unwrap();
    }
    let world = World::settled(config);
    let shares = world.shares(VIP);
    assert!(
        (shares[A] - 0.25).abs() < 0.015 && (shares[B] - 0.75).abs() < 0.015,
        "{shares:?}"
    );
    assert_eq!(shares.len(), 2);
    // It is probed all the same, and counts.
    assert_eq!(world.origin(C).health, OriginHealth::Healthy);
    assert_eq!(world.pool("first").healthy_origins, 3);
    let viewed: Vec<f64> = world
        .pool("first")
        .origins
        .iter()
        .map(|origin| origin.share)
        .collect();
    assert_eq!(viewed, [0.25, 0.75, 0.0]);
}

#[test]
fn random_steering_divides_flows_among_pools() {
    let mut config = three_pools();
    config.load_balancers[0].steering_policy = SteeringPolicy::Random;
    config.load_balancers[0].random_steering = weights(&[("first", 20)], 80);
    let mut world = World::settled(config);
    let shares = world.shares(VIP);
    assert!(
        (shares[A] - 0.2).abs() < 0.015 && (shares[B] - 0.4).abs() < 0.015,
        "{shares:?}"
    );
    world.kill(A);
    assert_eq!(world.serving(VIP), [B, C]);
}

#[test]
fn a_family_is_served_by_origins_of_its_own() {
    let mut config = web(
        vec![pool("first", &[A]), pool("second", &["2001:db8::1", B])],
        None,
    );
    config.applications[0].addresses.push(ip("2001:db8:1::10"));
    let world = World::settled(config);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.serving("2001:db8:1::10"), ["2001:db8::1"]);
}

#[test]
fn direct_origins_share_alike() {
    let mut config = config();
    let direct = |address| DirectOrigin {
        address: ip(address).into(),
        record_type: RecordType::Any,
        port: 9000,
    };
    config.applications = vec![Application {
        destination: Destination::Direct(vec![direct(A), direct(B)]),
        ..application("game", VIP, "")
    }];
    let mut world = World::new(environment());
    world.configure(config);
    let shares = world.shares(VIP);
    assert!((shares[A] - 0.5).abs() < 0.015 && shares.len() == 2);
    assert_eq!(world.view().applications[0].pool.as_deref(), Some("direct:game"));
}

#[test]
fn a_health_flip_writes_the_origin_before_any_table() {
    let mut world = World::settled(web(vec![pool("first", &[A, B, C])], None));
    world.applied.clear();
    world.kill(B);
    let [flip, tables] = &world.applied[..] else {
        panic!("{} batches", world.applied.len())
    };
    let id = world.origin(B).id;
    assert!(
        matches!(&flip[..], [TableOp::Origin { id: first, record }] if *first == id && record.state == OriginState::DOWN)
    );
    assert_eq!(tables[0], TableOp::Grace);
    assert!(matches!(tables.last(), Some(TableOp::Settings(_))));
}

#[test]
fn however_late_the_answers_are_read_each_is_one_write_and_the_tables_follow_once() {
    let mut world = World::settled(web(vec![pool("first", &[A, B, C])], None));
    world.silent = true;
    while world.probes.len() < 3 {
        world.now = world.engine.next_deadline().unwrap();
        world.handle(Event::Tick);
    }
    world.applied.clear();
    for request in std::mem::take(&mut world.probes) {
        // Longer than the pause between two generations: writing the last one took that long.
        world.now = world.now.after(Duration::from_millis(200));
        let refused = Err(FailureReason::ConnectionFailed);
        world.observe(request.target, request.attempt, refused);
    }
    assert!(
        world
            .applied
            .iter()
            .all(|ops| matches!(ops[..], [TableOp::Origin { .. }]))
    );
    assert_eq!(world.applied.len(), 3);
    assert!(world.serving(VIP).is_empty());
    world.handle(Event::Tick);
    assert_eq!(world.applied.len(), 4);
}

#[test]
fn an_origin_that_is_down_gets_nothing_even_from_the_old_tables() {
    let mut world = World::settled(web(vec![pool("first", &[A, B])], None));
    let before = world.maps.clone();
    world.applied.clear();
    world.kill(B);
    world.maps = before;
    world.maps.execute(&world.applied[0][0].clone());
    assert_eq!(world.serving(VIP), [A]);
}

#[test]
fn unchanged_tables_are_not_rewritten() {
    let mut config = three_pools();
    let mut world = World::settled(config.clone());
    world.applied.clear();
    // The same again: nothing but the number of the generation, and rows that this parity did not hold yet.
    world.configure(config.clone());
    world.configure(config.clone());
    world.configure(config.clone());
    let ops = world.applied.last().unwrap();
    assert!(
        matches!(ops[..], [TableOp::Grace, TableOp::Settings(_)]),
        "{ops:?}"
    );

    config.pools[0].origins[0].weight = Weight::from_hundredths(50).unwrap();
    config.pools.push(pool("other", &["10.0.0.9", "10.0.0.10"]));
    world.applied.clear();
    world.configure(config);
    let slots = |ops: &[TableOp]| {
        ops.iter()
            .filter(|op| matches!(op, TableOp::Slots { .. }))
            .count()
    };
    assert_eq!(
        world.applied.iter().map(|ops| slots(ops)).sum::<usize>(),
        1,
        "a single member needs one slot"
    );
}

#[test]
fn a_flip_that_changes_no_table_makes_no_generation() {
    let mut config = web(vec![pool("first", &[A, B])], None);
    config.pools[0].origins[1].weight = Weight::ZERO;
    let mut world = World::settled(config);
    let generation = world.maps.settings.generation;
    world.applied.clear();
    world.kill(B);
    assert_eq!(world.maps.settings.generation, generation);
    assert!(matches!(&world.applied[..], [ops] if ops.len() == 1));
}

#[test]
fn a_drained_origin_is_forgotten() {
    let mut config = web(vec![pool("first", &[A, B])], None);
    let mut world = World::settled(config.clone());
    let [a, b] = [A, B].map(|address| world.origin(address).id);
    config.pools[0].origins.pop();
    world.configure(config);
    assert_eq!(world.watched, [ip(A), ip(B)]);
    world.handle(Event::Drained(vec![a, b]));
    assert_eq!(world.watched, [ip(A)]);
    assert_eq!(world.maps.origins[&b], lb_common::abi::Origin::default());
    assert_eq!(world.maps.origins[&a].state, OriginState::UP);
}

#[test]
fn a_new_router_changes_the_hop_and_no_generation() {
    let mut world = World::settled(web(vec![pool("first", &[A, B])], None));
    let generation = world.maps.settings.generation;
    world.applied.clear();
    world.handle(Event::Paths(
        [(ip(A), path(ip(A), 7)), (ip(B), path(ip(B), 0))].into(),
    ));
    assert!(matches!(&world.applied[..], [ops] if matches!(ops[..], [TableOp::Hop { .. }])));
    assert_eq!(world.maps.settings.generation, generation);
}

#[test]
fn an_origin_that_cannot_be_reached_is_passed_by_and_the_view_says_why() {
    let mut world = World::settled(web(vec![pool("first", &[A, B, C])], None));
    let mut silent = path(ip(B), 0);
    if let Path::Via { neighbour, .. } = &mut silent {
        *neighbour = None;
    }
    world.handle(Event::Paths(
        [
            (ip(A), path(ip(A), 0)),
            (ip(B), silent),
            (ip(C), Path::Unusable("no eth7".into())),
        ]
        .into(),
    ));
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.origin(A).path_problem, None);
    assert!(world.origin(B).path_problem.as_ref().unwrap().contains(B));
    assert_eq!(world.origin(C).path_problem.as_deref(), Some("no eth7"));
    assert_eq!(world.maps.origins[&world.origin(C).id].hop, HopId::UNRESOLVED);
    assert_eq!(world.origin(B).health, OriginHealth::Healthy);
}

#[test]
fn configured_source_addresses_replace_the_interfaces_own() {
    let mut config = web(vec![pool("first", &[A])], None);
    let world = World::settled(config.clone());
    let sources = |world: &World| {
        let record = world.maps.origins[&world.origin(A).id];
        (record.snat_base..record.snat_base + record.snat_count)
            .map(|index| core::net::IpAddr::from(world.maps.sources[&index]).to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(sources(&world), ["192.0.2.1"]);
    config.datapath.snat_addresses = vec![ip("198.51.100.1"), ip("2001:db8::5"), ip("198.51.100.2")];
    let mut world = world;
    world.configure(config);
    assert_eq!(sources(&world), ["198.51.100.1", "198.51.100.2"]);
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let config = web(vec![pool("first", &[A])], None);
    for (what, small) in [
        (
            "origins",
            Capacity {
                origins: 3,
                ..capacity()
            },
        ),
        (
            "slots",
            Capacity {
                slots: 2000,
                ..capacity()
            },
        ),
        (
            "pools",
            Capacity {
                pools: 2,
                ..capacity()
            },
        ),
        (
            "addresses of applications",
            Capacity {
                applications: 3,
                ..capacity()
            },
        ),
        (
            "applications",
            Capacity {
                application_rows: 1,
                ..capacity()
            },
        ),
    ] {
        let mut world = World::new(Environment {
            capacity: small,
            ..environment()
        });
        world.configure(config.clone());
        world.run(1);
        assert_eq!(world.serving(VIP), [A], "{what}");
        let generation = world.maps.settings.generation;
        let mut large = config.clone();
        large.pools.push(pool("second", &[B, C]));
        large
            .applications
            .push(application("other", "203.0.113.11", "web"));
        world.configure(large);
        let Some(Report::Refused(why)) = world.reports.last() else {
            panic!("{what}: {:?}", world.reports)
        };
        assert!(why.contains(what) && why.contains("lb detach"), "{why}");
        assert_eq!(world.maps.settings.generation, generation);
        world.kill(A);
        assert!(world.serving(VIP).is_empty(), "{what}");
        world.revive(A);
        assert_eq!(world.serving(VIP), [A], "{what}");
    }
}

#[test]
fn applications_of_a_disabled_load_balancer_are_not_served() {
    let mut config = three_pools();
    let mut world = World::settled(config.clone());
    config.load_balancers[0].enabled = false;
    world.configure(config.clone());
    let live = world.maps.settings.parity();
    assert!(!world.maps.applications.keys().any(|key| key.parity == live));
    assert_eq!(world.view().load_balancers[0].health, GroupHealth::Disabled);
    config.load_balancers[0].enabled = true;
    config.applications[0].enabled = false;
    world.configure(config);
    assert_eq!(world.maps.select(VIP, 1), None);
}

#[test]
fn attached_without_monitors_every_enabled_origin_counts_as_up() {
    let mut config = web(vec![pool("first", &[A, B])], None);
    config.pools[0].origins[1].enabled = false;
    let mut world = World::new(Environment {
        assume_healthy: true,
        ..environment()
    });
    world.configure(config.clone());
    world.run(60);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(world.saves, 0, "it must not forget what a daemon has found out");
    // The daemon that comes later holds that until it knows better.
    let mut daemon = world.restart(Kept::default());
    daemon.silent = true;
    daemon.configure(config);
    assert_eq!(daemon.serving(VIP), [A]);
}

#[test]
fn steering_by_client_is_told_to_the_packet_path() {
    let mut config = web(vec![pool("first", &[A])], None);
    config.pools[0].origin_steering = OriginSteering::Hash;
    let world = World::settled(config);
    assert!(
        world
            .maps
            .pools
            .values()
            .all(|pool| pool.flags.has(PoolFlags::BY_CLIENT))
    );
}

#[test]
fn views_and_records_go_out_at_most_once_per_second_while_nothing_flips() {
    let mut config = three_pools();
    config.monitors[0].interval = Duration::from_millis(100);
    let mut world = World::settled(config);
    world.views.clear();
    world.saves = 0;
    world.run(10);
    assert!((8..=11).contains(&world.views.len()), "{}", world.views.len());
    assert!((8..=11).contains(&world.saves), "{}", world.saves);
    assert!(world.applied.iter().flatten().count() > 0);
}

#[test]
fn an_answer_of_a_former_configuration_is_ignored() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(web(vec![pool("first", &[A])], None));
    world.run(1);
    let request = world.probes.pop().unwrap();
    world.configure(web(vec![unmonitored("first", &[A])], None));
    world.observe(
        request.target,
        request.attempt,
        Err(crate::health::FailureReason::ConnectionFailed),
    );
    assert_eq!(world.serving(VIP), [A]);
}

#[test]
fn a_tcp_monitor_without_a_port_asks_where_the_application_leads() {
    let mut config = web(vec![pool("first", &[A])], None);
    config.pools[0].origins[0].port = None;
    config.applications[0].origin_port = Some(5432);
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(config);
    world.run(1);
    assert_eq!(world.probes[0].port, 5432);
}

#[test]
fn the_required_capacity_is_enough_for_any_health() {
    let mut config = three_pools();
    config.load_balancers[0].steering_policy = SteeringPolicy::Random;
    let capacity = crate::engine::Engine::required_capacity(&config);
    let mut world = World::new(Environment {
        capacity,
        ..environment()
    });
    world.configure(config);
    for _ in 0..3 {
        for address in [A, B, C] {
            world.kill(address);
        }
        for address in [C, A, B] {
            world.revive(address);
        }
    }
    assert!(
        !world
            .reports
            .iter()
            .any(|report| matches!(report, Report::Refused(_)))
    );
}

#[test]
fn ten_thousand_origins_are_configured_quickly() {
    let mut config = config();
    for number in 0..1000u32 {
        let name = format!("pool-{number}");
        let mut new = pool(&name, &[]);
        for origin in 0..10u32 {
            let address = core::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 16 + origin);
            new.origins.extend(pool("", &[&address.to_string()]).origins);
        }
        config.pools.push(new);
        config.load_balancers.push(balancer(&name, &[&name], None));
        let vip = core::net::Ipv4Addr::from_bits(0xcb00_0000 + number).to_string();
        config.applications.push(application(&name, &vip, &name));
    }
    let capacity = crate::engine::Engine::required_capacity(&config);
    assert!(
        capacity.origins == 20_002 && capacity.slots < 20_000_000,
        "{capacity:?}"
    );
    let environment = Environment {
        capacity,
        assume_healthy: true,
        ..environment()
    };
    let mut engine = crate::engine::Engine::new(environment, crate::time::Timestamp::default());
    let commands = engine.handle(
        Event::Configure(std::sync::Arc::new(config)),
        crate::time::Timestamp::default(),
    );
    assert!(
        commands
            .iter()
            .any(|command| matches!(command, crate::engine::Command::Apply(ops) if ops.len() > 12_000))
    );
    let _ = OriginId::NONE;
}
