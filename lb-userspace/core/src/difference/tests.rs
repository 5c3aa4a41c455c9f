//! Differences as they are told.

use super::*;
use crate::engine::tests::world::{application, balancer, ip, monitor, pool, web, weights};
use crate::model::{Affinity, MonitorKind, Probe, SteeringPolicy, Weight};
use core::time::Duration;

/// `web` with two pools.
fn start() -> Config {
    let mut config = web(
        vec![pool("eu", &["10.0.0.1", "10.0.0.2"]), pool("us", &["10.0.1.1"])],
        None,
    );
    config.monitors = vec![monitor("tcp")];
    config
}

/// A difference as one line for each field.
fn lines(before: &Config, after: &Config) -> Vec<String> {
    let none = || "-".to_owned();
    differences(before, after)
        .into_iter()
        .flat_map(|change| {
            let head = format!("{:?} {} {}", change.fate, change.part, change.name);
            change.fields.into_iter().map(move |field| {
                let (before, after) = (
                    field.before.unwrap_or_else(none),
                    field.after.unwrap_or_else(none),
                );
                format!("{head}: {} {before} > {after}", field.field)
            })
        })
        .collect()
}

#[test]
fn each_field_is_told_with_both_values() {
    for (change, expected) in [
        ((|_| {}) as fn(&mut Config), &[][..]),
        (
            |config| config.pools[0].origins[1].weight = Weight::from_hundredths(50).unwrap(),
            &["Changed origin eu/10.0.0.2: weight 1 > 0.5"],
        ),
        (
            |config| {
                config.pools[0].minimum_origins = 2;
                config.pools[0].origins[0].address = ip("10.0.0.9").into();
            },
            &[
                "Changed pool eu: minimum_origins 1 > 2",
                "Changed origin eu/10.0.0.1: address 10.0.0.1 > 10.0.0.9",
            ],
        ),
        (
            |config| config.load_balancers[0].default_pools.reverse(),
            &["Changed load balancer web: default_pools eu, us > us, eu"],
        ),
        (
            |config| {
                config.load_balancers[0].steering_policy = SteeringPolicy::Random;
                config.load_balancers[0].random_steering = weights(&[("eu", 0)], 50);
            },
            &[
                "Changed load balancer web: steering_policy off > random",
                "Changed load balancer web: random_steering.default_weight 1 > 0.5",
                "Changed load balancer web: random_steering.pool_weights.eu - > 0",
            ],
        ),
        (
            |config| {
                let ttl = Duration::from_millis(1500);
                config.applications[0].affinity = Some(Affinity { ttl });
            },
            &["Changed application web: affinity.ttl - > 1.5"],
        ),
        (
            |config| config.monitors[0].kind = MonitorKind::IcmpPing,
            &["Changed monitor tcp: type tcp > icmp_ping"],
        ),
        (
            |config| config.datapath.interfaces = vec!["eth1".to_owned()],
            &["Changed datapath : interfaces eth0 > eth1"],
        ),
    ] {
        let before = start();
        let mut after = before.clone();
        change(&mut after);
        assert_eq!(lines(&before, &after), expected);
    }
}

#[test]
fn what_comes_and_goes_is_told_whole_and_in_order() {
    let before = start();
    let mut after = before.clone();
    after.pools.remove(0);
    after.pools.push(pool("asia", &["10.0.2.1"]));
    after.load_balancers[0].default_pools = vec!["us".to_owned()];
    after.load_balancers.push(balancer("dns", &["asia"], None));
    after.applications.push(application("dns", "203.0.113.53", "dns"));
    let told: Vec<(Fate, Part, String)> = differences(&before, &after)
        .into_iter()
        .map(|change| (change.fate, change.part, change.name))
        .collect();
    let told: Vec<(Fate, Part, &str)> = told
        .iter()
        .map(|(fate, part, name)| (*fate, *part, name.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Fate::Added, Part::Pool, "asia"),
            (Fate::Removed, Part::Pool, "eu"),
            (Fate::Added, Part::Origin, "asia/10.0.2.1"),
            (Fate::Removed, Part::Origin, "eu/10.0.0.1"),
            (Fate::Removed, Part::Origin, "eu/10.0.0.2"),
            (Fate::Changed, Part::LoadBalancer, "web"),
            (Fate::Added, Part::LoadBalancer, "dns"),
            (Fate::Added, Part::Application, "dns"),
        ]
    );
    let added = lines(&before, &after);
    assert!(added.contains(&"Added origin asia/10.0.2.1: address - > 10.0.2.1".to_owned()));
    assert!(added.contains(&"Removed origin eu/10.0.0.2: weight 1 > -".to_owned()));
}

#[test]
fn long_lists_of_the_same_length_are_told_apart() {
    let addresses = |last: u8| {
        (1..=20)
            .chain([last])
            .map(|n| ip(&format!("192.0.2.{n}")))
            .collect()
    };
    let (mut before, mut after) = (start(), start());
    before.applications[0].addresses = addresses(100);
    after.applications[0].addresses = addresses(101);
    let [line] = lines(&before, &after).try_into().unwrap();
    assert!(
        line.contains("192.0.2.1, 192.0.2.2, 192.0.2.3, .. (21 in all"),
        "{line}"
    );
}

#[test]
fn what_a_monitor_asks_is_told() {
    let probe = Probe {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: vec![("Host".to_owned(), "a".to_owned())],
        expected_codes: crate::model::ExpectedCodes::parse("200,3xx").unwrap(),
        expected_body: String::new(),
        follow_redirects: false,
    };
    let (mut before, mut after) = (start(), start());
    before.monitors[0].kind = MonitorKind::Http(Probe {
        path: "/live".to_owned(),
        ..probe.clone()
    });
    after.monitors[0].kind = MonitorKind::Http(Probe {
        expected_codes: crate::model::ExpectedCodes::default(),
        ..probe
    });
    assert_eq!(
        lines(&before, &after),
        [
            "Changed monitor tcp: path /live > /",
            "Changed monitor tcp: expected_codes 200,300-399 > 200"
        ]
    );
}
