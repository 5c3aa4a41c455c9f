//! Monitor groups: who decides about an origin, and what of that outlives changes and restarts.

use super::world::*;
use crate::engine::Report;
use crate::health::{FailureReason, Observation, OriginHealth, Success};
use crate::model::*;
use crate::vote::Role;
use core::time::Duration;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

fn member(monitor: &str) -> Member {
    Member {
        monitor: monitor.into(),
        enabled: true,
        monitoring_only: false,
        must_be_healthy: false,
    }
}

fn observer(monitor: &str) -> Member {
    Member {
        monitoring_only: true,
        ..member(monitor)
    }
}

fn essential(monitor: &str) -> Member {
    Member {
        must_be_healthy: true,
        ..member(monitor)
    }
}

/// `web` over two origins that a group of these members watches; each asks a port of its own, from 1 on.
fn grouped(members: &[Member]) -> Config {
    let mut config = web(vec![pool("first", &[A, B])], None);
    config.pools[0].monitor = None;
    config.pools[0].monitor_group = Some("group".into());
    config.monitors = (1..)
        .zip(members)
        .map(|(port, member)| Monitor {
            port: Some(port),
            ..monitor(&member.monitor)
        })
        .collect();
    config.monitor_groups = vec![MonitorGroup {
        name: "group".into(),
        members: members.to_vec(),
    }];
    config
}

/// A world that has probed everything once, with these ports of [`A`] refusing.
fn world(members: &[Member], refused: &[u16]) -> World {
    let mut world = World::new(environment());
    world.refused = refused.iter().map(|&port| (ip(A), port)).collect();
    world.configure(grouped(members));
    world.run(6);
    world
}

#[test]
fn the_majority_decides_and_one_that_must_be_healthy_alone() {
    let (a, b, c) = (member("a"), member("b"), member("c"));
    for (members, refused, health) in [
        (vec![a.clone(), b.clone()], &[1][..], OriginHealth::Healthy),
        (vec![a.clone(), b.clone()], &[1, 2], OriginHealth::Unhealthy),
        (
            vec![a.clone(), b.clone(), c.clone()],
            &[1, 3],
            OriginHealth::Unhealthy,
        ),
        (
            vec![a.clone(), b.clone(), essential("c")],
            &[3],
            OriginHealth::Unhealthy,
        ),
        (
            vec![a.clone(), b.clone(), observer("c")],
            &[3, 1],
            OriginHealth::Healthy,
        ),
        (
            vec![a, observer("b"), observer("c")],
            &[2, 3],
            OriginHealth::Healthy,
        ),
    ] {
        let world = world(&members, refused);
        assert_eq!(world.origin(A).health, health, "{members:?} {refused:?}");
        assert_eq!(world.origin(B).health, OriginHealth::Healthy);
        let serving: &[_] = match health {
            OriginHealth::Healthy => &[A, B],
            _ => &[B],
        };
        assert_eq!(world.serving(VIP), serving);
    }
}

#[test]
fn the_reason_is_that_of_whoever_decided_and_each_member_is_shown() {
    let members = [member("a"), essential("b"), observer("c")];
    let world = world(&members, &[2, 3]);
    let origin = world.origin(A);
    assert_eq!(origin.health, OriginHealth::Unhealthy);
    assert_eq!(origin.failure_reason, Some(FailureReason::ConnectionFailed));
    let shown: Vec<_> = origin
        .monitors
        .iter()
        .map(|view| (view.name.as_str(), view.role, view.health))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", Role::Voter, OriginHealth::Healthy),
            ("b", Role::Veto, OriginHealth::Unhealthy),
            ("c", Role::Observer, OriginHealth::Unhealthy),
        ]
    );
    let told = |monitor: &str, healthy| {
        world.reports.contains(&Report::MonitorHealth {
            pool: "first".into(),
            origin: A.into(),
            address: None,
            monitor: monitor.into(),
            healthy,
            reason: (!healthy).then_some(FailureReason::ConnectionFailed),
        })
    };
    assert!(told("a", true) && told("b", false) && told("c", false));
}

#[test]
fn disabled_members_do_not_probe() {
    let disabled = Member {
        enabled: false,
        must_be_healthy: true,
        ..member("b")
    };
    let mut world = world(&[member("a"), disabled], &[2]);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
    world.silent = true;
    world.run(11);
    assert!(!world.probes.is_empty() && world.probes.iter().all(|request| request.port == 1));
}

#[test]
fn without_voters_origins_count_as_healthy_and_are_watched() {
    let world = world(&[observer("a")], &[1]);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
    assert_eq!(world.origin(A).monitors[0].health, OriginHealth::Unhealthy);
    assert_eq!(world.serving(VIP), [A, B]);
}

#[test]
fn a_result_holds_until_the_members_next_run() {
    let mut config = grouped(&[essential("fast"), essential("slow")]);
    config.monitors[1].interval = Duration::from_secs(600);
    let mut world = World::new(environment());
    world.refused = [(ip(A), 2)].into();
    world.configure(config);
    world.run(1);
    assert_eq!(world.origin(A).health, OriginHealth::Unhealthy);
    world.refused.clear();
    world.run(100);
    assert_eq!(
        world.origin(A).health,
        OriginHealth::Unhealthy,
        "the slow one has not asked again"
    );
    world.run(1200);
    assert_eq!(world.origin(A).health, OriginHealth::Healthy);
}

#[test]
fn the_response_code_is_that_of_those_that_count() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(grouped(&[member("a"), member("b"), observer("c")]));
    world.run(1);
    assert_eq!(world.origin(A).response_code, None, "nobody has answered yet");
    for request in core::mem::take(&mut world.probes) {
        // The first speaks no HTTP, and the last does not count.
        let success = Success {
            rtt: Duration::from_millis(1),
            response_code: [None, Some(204), Some(503)][usize::from(request.port) - 1],
        };
        world.observe(request.target, request.attempt, Ok(success));
    }
    world.run(2);
    assert_eq!(world.origin(A).response_code, Some(204));
}

#[test]
fn the_round_trip_time_is_the_mean_of_those_that_count() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(grouped(&[member("a"), member("b"), observer("c")]));
    world.run(1);
    for request in core::mem::take(&mut world.probes) {
        let observation: Observation = Ok(Duration::from_millis(u64::from(request.port).pow(2) * 10).into());
        world.observe(request.target, request.attempt, observation);
    }
    world.run(2);
    assert_eq!(world.origin(A).rtt, Some(Duration::from_millis(25)));
}

#[test]
fn a_member_that_comes_or_goes_leaves_the_others_alone() {
    let mut world = world(&[member("a"), member("b")], &[]);
    world.silent = true;
    let changed = grouped(&[member("a"), member("b"), essential("c")]);
    world.configure(changed);
    assert_eq!(
        world.serving(VIP),
        [A, B],
        "an origin that serves goes on until the new member has spoken"
    );
    world.silent = false;
    world.refused = [(ip(A), 3)].into();
    world.run(6);
    assert_eq!(world.serving(VIP), [B]);
    world.configure(grouped(&[member("a"), member("b")]));
    assert_eq!(
        world.serving(VIP),
        [A, B],
        "without it the others decide, at once"
    );
}

#[test]
fn what_each_member_knew_survives_a_restart() {
    let members = [member("a"), essential("b")];
    let before = world(&members, &[2]);
    assert_eq!(before.saved.health.len(), 4);
    let mut after = before.restart(before.saved.clone());
    after.silent = true;
    after.configure(grouped(&members));
    let monitors = &after.origin(A).monitors;
    assert_eq!(
        monitors.iter().map(|view| view.health).collect::<Vec<_>>(),
        [OriginHealth::Healthy, OriginHealth::Unhealthy]
    );
    assert_eq!(after.origin(A).health, OriginHealth::Unhealthy);
    assert_eq!(after.origin(B).health, OriginHealth::Healthy);
    assert_eq!(after.serving(VIP), [B]);
}
