//! Which share of flows another configuration moves.

use super::world::{VIP, application, balancer, config, ip, unmonitored, web, weights};
use crate::engine::{Move, NameRecord, moves};
use crate::model::{
    Affinity, Config, Destination, DirectOrigin, Host, LoadShedding, OriginSteering, RecordType,
    SheddingPolicy, SteeringPolicy, Weight,
};
use crate::steering::Family;
use lb_common::abi::Country;
use std::sync::Arc;
use std::time::Duration;

/// A change, and the shares that move by it.
struct Case {
    name: &'static str,
    change: fn(&mut Config),
    moved: f64,
    /// Origins with their shares before and after.
    shares: &'static [(&'static str, f64, f64)],
}

/// `web` with a pool of two and a pool of one, and a fallback pool.
fn start() -> Config {
    let mut eu = unmonitored("eu", &["10.0.0.1", "10.0.0.2"]);
    for origin in &mut eu.origins {
        // The application's own.
        origin.port = None;
    }
    web(
        vec![
            eu,
            unmonitored("us", &["10.0.1.1"]),
            unmonitored("sorry", &["10.0.9.1"]),
        ],
        Some("sorry"),
    )
}

fn told(before: &Config, after: &Config) -> Vec<Move> {
    moves(&Arc::new(before.clone()), &Arc::new(after.clone()), &names()).unwrap()
}

/// What is known of host names.
fn names() -> Vec<NameRecord> {
    let record = |name: &str, addresses: &[&str]| NameRecord {
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
    };
    vec![record("known.example", &["10.0.0.1", "10.0.0.2"])]
}

const ALL: f64 = 1.0;

#[test]
fn moved_shares_are_exact() {
    for case in [
        Case {
            name: "an origin goes: its flows move, the others' stay",
            change: |config| drop(config.pools[0].origins.pop()),
            moved: 0.5,
            shares: &[("eu/10.0.0.1", 0.5, 1.0), ("eu/10.0.0.2", 0.5, 0.0)],
        },
        Case {
            name: "an origin gets no weight",
            change: |config| config.pools[0].origins[0].weight = Weight::ZERO,
            moved: 0.5,
            shares: &[("eu/10.0.0.2", 0.5, 1.0), ("eu/10.0.0.1", 0.5, 0.0)],
        },
        Case {
            name: "an origin is disabled",
            change: |config| config.pools[0].origins[1].enabled = false,
            moved: 0.5,
            shares: &[("eu/10.0.0.1", 0.5, 1.0), ("eu/10.0.0.2", 0.5, 0.0)],
        },
        Case {
            name: "the pool that serves is another one",
            change: |config| config.load_balancers[0].default_pools.reverse(),
            moved: ALL,
            shares: &[
                ("us/10.0.1.1", 0.0, 1.0),
                ("eu/10.0.0.1", 0.5, 0.0),
                ("eu/10.0.0.2", 0.5, 0.0),
            ],
        },
        Case {
            name: "the fallback pool takes over from disabled ones",
            change: |config| {
                config.pools[0].enabled = false;
                config.pools[1].enabled = false;
            },
            moved: ALL,
            shares: &[
                ("sorry/10.0.9.1", 0.0, 1.0),
                ("eu/10.0.0.1", 0.5, 0.0),
                ("eu/10.0.0.2", 0.5, 0.0),
            ],
        },
        Case {
            name: "a disabled application serves nobody",
            change: |config| config.applications[0].enabled = false,
            moved: ALL,
            shares: &[("eu/10.0.0.1", 0.5, 0.0), ("eu/10.0.0.2", 0.5, 0.0)],
        },
        Case {
            name: "another port at the origins is another service",
            change: |config| config.applications[0].origin_port = Some(8081),
            moved: ALL,
            shares: &[("eu/10.0.0.1", 0.5, 0.5), ("eu/10.0.0.2", 0.5, 0.5)],
        },
        Case {
            name: "by the client's address instead of the flow: half of the flows find the same origin by chance",
            change: |config| config.pools[0].origin_steering = OriginSteering::Hash,
            moved: 0.5,
            shares: &[("eu/10.0.0.1", 0.5, 0.5), ("eu/10.0.0.2", 0.5, 0.5)],
        },
        Case {
            name: "with affinity the client's address is asked, too",
            change: |config| {
                let ttl = Duration::from_secs(60);
                config.applications[0].affinity = Some(Affinity { ttl });
            },
            moved: 0.5,
            shares: &[("eu/10.0.0.1", 0.5, 0.5), ("eu/10.0.0.2", 0.5, 0.5)],
        },
        Case {
            name: "a direct origin in the place of a load balancer, the same as one of its origins",
            change: |config| {
                let direct = DirectOrigin {
                    address: ip("10.0.0.1").into(),
                    record_type: RecordType::Any,
                    port: 80,
                };
                config.applications[0].destination = Destination::Direct(vec![direct]);
            },
            moved: 0.5,
            shares: &[
                ("direct:web/10.0.0.1:80", 0.0, 1.0),
                ("eu/10.0.0.1", 0.5, 0.0),
                ("eu/10.0.0.2", 0.5, 0.0),
            ],
        },
    ] {
        let before = start();
        let mut after = before.clone();
        (case.change)(&mut after);
        let told = told(&before, &after);
        let [told] = told.as_slice() else {
            panic!("{}: {told:?}", case.name)
        };
        assert_eq!(
            (told.application.as_str(), told.family),
            ("web", Family::V4),
            "{}",
            case.name
        );
        assert_eq!(told.moved, case.moved, "{}", case.name);
        let shares: Vec<(&str, f64, f64)> = told
            .shares
            .iter()
            .map(|shift| (shift.origin.as_str(), shift.before, shift.after))
            .collect();
        assert_eq!(shares, case.shares, "{}", case.name);
    }
}

#[test]
fn what_moves_nobody_is_not_told() {
    let before = start();
    for (name, change) in [
        ("nothing", (|_| {}) as fn(&mut Config)),
        ("a pool behind the one that serves", |config| {
            config.pools[1].origins[0].address = ip("10.0.1.9").into();
        }),
        ("the fallback pool", |config| {
            config.load_balancers[0].fallback_pool = None;
        }),
        ("another name for the same address", |config| {
            config.pools[0].origins[0].name = "first".to_owned();
        }),
        ("a further address of the application", |config| {
            config.applications[0].addresses.push(ip("203.0.113.11"));
        }),
    ] {
        let mut before = before.clone();
        if name.starts_with("another name") {
            before.pools[0].origins.pop();
        }
        let mut after = before.clone();
        change(&mut after);
        let told = told(&before, &after);
        assert!(told.iter().all(|told| told.moved == 0.0), "{name}: {told:?}");
    }
}

#[test]
fn weights_of_pools_move_what_they_must() {
    let mut before = start();
    let mut after = start();
    before.load_balancers[0].steering_policy = SteeringPolicy::Random;
    after.load_balancers[0].steering_policy = SteeringPolicy::Random;
    before.load_balancers[0].random_steering = weights(&[("eu", 50), ("us", 50)], 100);
    after.load_balancers[0].random_steering = weights(&[("eu", 50), ("us", 0)], 100);
    let [told] = told(&before, &after).try_into().unwrap();
    assert_eq!(told.moved, 0.5);
    let shares: Vec<(f64, f64)> = told
        .shares
        .iter()
        .map(|shift| (shift.before, shift.after))
        .collect();
    assert_eq!(shares, [(0.25, 0.5), (0.25, 0.5), (0.5, 0.0)]);
    // Within the pool nobody moves: both tables of it are the same.
    after.load_balancers[0].random_steering = weights(&[("eu", 25), ("us", 75)], 100);
    let [told] = super::moves::told(&before, &after).try_into().unwrap();
    assert!((0.25..0.27).contains(&told.moved), "{}", told.moved);
    let us = told
        .shares
        .iter()
        .find(|shift| shift.origin == "us/10.0.1.1")
        .unwrap();
    assert!((us.after - 0.75).abs() < 0.001 && us.before == 0.5);
}

#[test]
fn each_family_and_each_application_is_told_apart() {
    let before = config();
    let mut after = start();
    after.pools[0].origins[1].address = ip("2001:db8::1").into();
    after.applications[0].addresses.push(ip("2001:db8::80"));
    after.load_balancers.push(balancer("other", &["us"], None));
    after
        .applications
        .push(application("other", "203.0.113.20", "other"));
    let told = told(&before, &after);
    let told: Vec<(&str, Family, f64, usize)> = told
        .iter()
        .map(|told| {
            (
                told.application.as_str(),
                told.family,
                told.moved,
                told.shares.len(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("web", Family::V4, 1.0, 1),
            ("web", Family::V6, 1.0, 1),
            ("other", Family::V4, 1.0, 1)
        ]
    );
    assert_eq!(after.applications[0].addresses[0], ip(VIP));
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let mut after = start();
    after.applications[0].destination = Destination::LoadBalancer("nobody".to_owned());
    let refusal = moves(&Arc::new(start()), &Arc::new(after), &[]).unwrap_err();
    assert!(refusal.contains("nobody"), "{refusal}");
}

#[test]
fn countries_with_pools_of_their_own_are_told_apart() {
    let de = Country::new(*b"DE");
    let before = Config {
        geoip: Some(Arc::default()),
        ..start()
    };
    let mut after = before.clone();
    after.load_balancers[0].steering_policy = SteeringPolicy::Geo;
    after.load_balancers[0].geo.countries = [(de, vec!["us".to_owned()])].into();
    let [told] = told(&before, &after).try_into().unwrap();
    assert_eq!((told.country, told.moved), (Some(de), ALL));
}

#[test]
fn what_a_pool_sheds_moves() {
    let before = start();
    let mut after = before.clone();
    after.pools[0].load_shedding = LoadShedding {
        default_percent: 25.0,
        default_policy: SheddingPolicy::Random,
        session_percent: 0.0,
    };
    let [told] = told(&before, &after).try_into().unwrap();
    assert_eq!(told.moved, 0.25);
    let shares: Vec<(&str, f64)> = told
        .shares
        .iter()
        .map(|shift| (shift.origin.as_str(), shift.after))
        .collect();
    assert_eq!(
        shares,
        [
            ("eu/10.0.0.1", 0.375),
            ("eu/10.0.0.2", 0.375),
            ("us/10.0.1.1", 0.25)
        ]
    );
}

#[test]
fn of_a_host_name_the_known_addresses_count() {
    let before = start();
    let mut after = before.clone();
    after.pools[0].origins.truncate(1);
    after.pools[0].origins[0].address = Host::Name("known.example".to_owned());
    let [known] = told(&before, &after).try_into().unwrap();
    // Both addresses are those that served before, so some flows find theirs again.
    assert!(known.moved > 0.0 && known.moved < 1.0, "{}", known.moved);
    let shares: Vec<(&str, f64)> = known
        .shares
        .iter()
        .map(|shift| (shift.origin.as_str(), shift.after))
        .collect();
    assert_eq!(shares, [("eu/10.0.0.1", ALL), ("eu/10.0.0.2", 0.0)]);
    // Of another one nobody knows anything yet: the next pool serves.
    after.pools[0].origins[0].address = Host::Name("other.example".to_owned());
    let [unknown] = told(&before, &after).try_into().unwrap();
    assert_eq!(
        (unknown.moved, unknown.shares[0].origin.as_str()),
        (ALL, "us/10.0.1.1")
    );
}
