//! Origins with host names: what answers of name servers, and their failures, do to flows.

use super::world::*;
use crate::engine::{Answer, Command, Engine, Environment, Event, LookupFailure, MAX_ADDRESSES, Report};
use crate::health::{FailureReason, GroupHealth, OriginHealth};
use crate::image::Capacity;
use crate::model::*;
use crate::time::Timestamp;
use core::net::Ipv4Addr;
use core::time::Duration;
use lb_common::abi::OriginState;
use std::sync::Arc;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";
const D: &str = "10.0.0.4";
pub const NAME: &str = "origins.example.com";

/// A pool whose origins are the addresses of [`NAME`], and then these.
pub fn named(origins: &[&str]) -> Pool {
    let mut pool = pool("first", origins);
    let named = Origin {
        name: "named".into(),
        address: Host::Name(NAME.into()),
        ..super::world::pool("", &[A]).origins[0].clone()
    };
    pool.origins.insert(0, named);
    pool
}

fn resolved(pool: Pool, addresses: &[&str]) -> World {
    let mut world = World::settled(web(vec![pool], None));
    world.resolve(NAME, addresses);
    world.run(1);
    world
}

fn owners(world: &World) -> Vec<Option<String>> {
    let owner = |flow| {
        let (_, origin) = world.maps.select(VIP, crate::maglev::mix(flow))?;
        Some(core::net::IpAddr::from(world.maps.origins[&origin].address).to_string())
    };
    (0..4096).map(owner).collect()
}

#[test]
fn every_address_of_a_name_is_an_origin_and_they_share_its_weight() {
    let world = resolved(named(&[D]), &[A, B, C]);
    assert_eq!(world.names, [NAME]);
    let pool = world.pool("first");
    let shown = |origin: &crate::view::OriginView| (origin.address, origin.host_name.clone(), origin.weight);
    let name = || Some(NAME.to_owned());
    assert_eq!(
        pool.origins.iter().map(shown).collect::<Vec<_>>(),
        [
            (Some(ip(A)), name(), Weight::ONE),
            (Some(ip(B)), name(), Weight::ONE),
            (Some(ip(C)), name(), Weight::ONE),
            (Some(ip(D)), None, Weight::ONE),
        ]
    );
    assert_eq!((pool.health, pool.healthy_origins), (GroupHealth::Healthy, 4));
    let shares = world.shares(VIP);
    for (address, share) in [(A, 1.0 / 6.0), (B, 1.0 / 6.0), (C, 1.0 / 6.0), (D, 0.5)] {
        assert!((shares[address] - share).abs() < 0.02, "{shares:?}");
    }
    for origin in &pool.origins {
        let address = origin.address.expect("an address").to_string();
        assert!(
            (origin.share - shares[&address]).abs() < 0.02,
            "the view says what the maps do"
        );
    }
    // One of three is dead: the others have its part of the name's, and D its own.
    let mut world = world;
    world.kill(A);
    assert_eq!(world.serving(VIP), [B, C, D]);
    assert_eq!(world.pool("first").health, GroupHealth::Degraded);
}

#[test]
fn addresses_of_one_family_share_the_weight_for_its_clients() {
    let mut config = web(vec![named(&[D, "2001:db8::4"])], None);
    config.applications[0].addresses.push(ip("2001:db8:1::1"));
    let mut world = World::settled(config);
    world.resolve(NAME, &[A, B, "2001:db8::1"]);
    world.run(1);
    let (v4, v6) = (world.shares(VIP), world.shares("2001:db8:1::1"));
    for (shares, address, share) in [
        (&v4, A, 0.25),
        (&v4, D, 0.5),
        (&v6, "2001:db8::1", 0.5),
        (&v6, "2001:db8::4", 0.5),
    ] {
        assert!((shares[address] - share).abs() < 0.02, "{address} {shares:?}");
    }
}

#[test]
fn a_reshuffled_answer_moves_no_flow() {
    let mut world = resolved(named(&[D]), &[A, B, C]);
    let (before, generation) = (owners(&world), world.view().generation);
    world.resolve(NAME, &[C, A, B]);
    world.resolve(NAME, &[B, B, C, A]);
    assert_eq!(world.view().generation, generation);
    assert_eq!(owners(&world), before);
    let said = |report: &Report| matches!(report, Report::Addresses { .. });
    assert_eq!(world.reports.iter().filter(|report| said(report)).count(), 1);
}

#[test]
fn an_address_that_comes_or_goes_moves_no_more_than_its_part() {
    let mut world = resolved(named(&[]), &[A, B, C]);
    let before = owners(&world);
    world.resolve(NAME, &[A, B, C, D]);
    world.run(1);
    let after = owners(&world);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after);
    assert!(
        moved
            .clone()
            .filter(|(_, after)| after.as_deref() != Some(D))
            .count()
            < before.len() / 50,
        "flows move to the new one only"
    );
    let d = world.origin(D).id;
    world.resolve(NAME, &[C, A, B]);
    assert_eq!(owners(&world), before);
    assert_eq!(
        world.maps.origins[&d].state,
        OriginState::DRAINING,
        "its flows go on"
    );
    world.run(300);
    assert_eq!(world.maps.origins[&d].state, OriginState::ENDED);
    // And it comes back as the one it was.
    world.resolve(NAME, &[A, B, C, D]);
    world.run(1);
    assert_eq!(world.origin(D).id, d);
    assert_eq!(owners(&world), after);
}

#[test]
fn an_address_serves_until_its_successor_has_been_probed() {
    let mut world = resolved(named(&[]), &[A]);
    let a = world.origin(A).id;
    world.silent = true;
    world.resolve(NAME, &[B]);
    assert_eq!(world.serving(VIP), [A], "nobody knows anything of {B}");
    assert_eq!(world.view().names[0].addresses, [ip(B)]);
    world.silent = false;
    world.run(2);
    assert_eq!(world.serving(VIP), [B]);
    assert_eq!(world.maps.origins[&a].state, OriginState::DRAINING);
    // Nobody waits for ever.
    world.silent = true;
    world.dead.insert(ip(C));
    world.resolve(NAME, &[C]);
    assert_eq!(world.serving(VIP), [B]);
    world.silent = false;
    world.run(7);
    assert_eq!(
        world.serving(VIP),
        Vec::<String>::new(),
        "{B} is no origin any more, and {C} is dead"
    );
    assert_eq!(world.pool("first").health, GroupHealth::Critical);
}

#[test]
fn a_failed_lookup_changes_nothing_and_is_reported_once() {
    let mut world = resolved(named(&[]), &[A, B]);
    let before = owners(&world);
    for failure in [
        LookupFailure::Failed("request timed out".into()),
        LookupFailure::Failed("request timed out".into()),
        LookupFailure::UnknownHost,
    ] {
        world.fail_to_resolve(NAME, failure.clone());
        assert_eq!(owners(&world), before);
        assert_eq!(world.view().names[0].failure, Some(failure));
        assert_eq!(world.view().names[0].addresses, [ip(A), ip(B)]);
    }
    world.resolve(NAME, &[]);
    assert_eq!(world.view().names[0].failure, Some(LookupFailure::NoAddress));
    assert_eq!(owners(&world), before);
    world.resolve(NAME, &[A, B]);
    assert_eq!(world.view().names[0].failure, None);
    let lookups = world.reports.iter().filter_map(|report| match report {
        Report::Lookup {
            failure, addresses, ..
        } => Some((failure.is_some(), *addresses)),
        _ => None,
    });
    assert_eq!(
        lookups.collect::<Vec<_>>(),
        [(true, 2), (true, 2), (true, 2), (false, 2)]
    );
}

#[test]
fn one_family_that_cannot_be_looked_up_keeps_its_addresses() {
    let mut world = resolved(named(&[]), &[A, "2001:db8::1"]);
    let servfail = || LookupFailure::Failed("server failure".into());
    let addresses = |world: &World| world.view().names[0].addresses.clone();
    let mut answer = |v4: &[&str], v6| {
        let v4 = v4.iter().map(|text| text.parse::<Ipv4Addr>().unwrap()).collect();
        let answer = Answer { v4: Ok(v4), v6 };
        world.handle(Event::Resolved {
            name: NAME.into(),
            answer,
        });
        world.run(1);
        (addresses(&world), world.view().names[0].failure.clone())
    };
    assert_eq!(
        answer(&[B], Err(servfail())),
        (vec![ip(B), ip("2001:db8::1")], Some(servfail()))
    );
    // There is a name, and a server that denies it for one family means that family.
    assert_eq!(answer(&[B], Err(LookupFailure::UnknownHost)), (vec![ip(B)], None));
    assert_eq!(answer(&[], Err(servfail())), (vec![ip(B)], Some(servfail())));
}

#[test]
fn a_name_of_which_nothing_is_known_is_an_unhealthy_origin() {
    let mut world = World::settled(web(vec![named(&[D]), unmonitored("sorry", &[C])], Some("sorry")));
    let origin = |world: &World| world.pool("first").origins[0].clone();
    assert_eq!(
        (origin(&world).address, origin(&world).health),
        (None, OriginHealth::Unknown)
    );
    for (failure, reason) in [
        (LookupFailure::UnknownHost, FailureReason::DnsUnknownHost),
        (LookupFailure::NoAddress, FailureReason::DnsUnknownHost),
        (
            LookupFailure::Failed("request timed out".into()),
            FailureReason::DnsFailure("request timed out".into()),
        ),
    ] {
        world.fail_to_resolve(NAME, failure);
        assert_eq!(origin(&world).health, OriginHealth::Unhealthy);
        assert_eq!(origin(&world).failure_reason, Some(reason));
    }
    assert_eq!(world.pool("first").health, GroupHealth::Degraded);
    assert_eq!(world.serving(VIP), [D]);
    // Alone it is no resort either, not even the last one.
    for config in [
        web(vec![named(&[])], None),
        web(vec![named(&[])], Some("first")),
        web(
            vec![Pool {
                monitor: None,
                ..named(&[])
            }],
            None,
        ),
    ] {
        world.configure(config);
        world.run(1);
        assert_eq!(world.serving(VIP), Vec::<String>::new());
        assert_eq!(world.pool("first").health, GroupHealth::Critical);
    }
    world.resolve(NAME, &[A]);
    world.run(1);
    assert_eq!(world.serving(VIP), [A]);
    let mut off = named(&[D]);
    off.origins[0].enabled = false;
    world.configure(web(vec![off], None));
    world.run(1);
    assert_eq!(origin(&world).health, OriginHealth::Disabled);
    assert_eq!(world.names, [NAME], "its flows go on");
}

#[test]
fn hostile_answers_are_refused_by_the_rules_for_addresses_in_files() {
    let mut world = resolved(named(&[]), &[A]);
    world.handle(Event::Addresses([ip("192.0.2.1")].into()));
    let hostile = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        VIP,
        "192.0.2.1",
        "::",
        "::ffff:10.0.0.9",
        "fe80::1",
    ];
    for address in hostile {
        world.resolve(NAME, &[address]);
        let name = &world.view().names[0];
        assert!(
            matches!(&name.failure, Some(LookupFailure::Refused(..))),
            "{address} {name:?}"
        );
        assert_eq!(world.serving(VIP), [A], "{address}");
    }
    world.resolve(NAME, &[B, "127.0.0.1", VIP]);
    world.run(1);
    let name = &world.view().names[0];
    assert_eq!((&name.addresses[..], &name.failure), (&[ip(B)][..], &None));
    assert_eq!(
        name.refused,
        [
            (ip("127.0.0.1"), "a loopback address".to_owned()),
            (ip(VIP), "the address of an application".to_owned())
        ]
    );
    assert_eq!(world.serving(VIP), [B]);
    // What becomes a VIP later is no origin any more.
    let mut config = web(vec![named(&[D])], None);
    config.applications[0].addresses.push(ip(B));
    world.configure(config);
    world.run(1);
    assert_eq!(world.serving(VIP), [D]);
}

#[test]
fn of_too_many_addresses_those_stay_that_were_there() {
    let room = Capacity {
        origins: 500,
        hops: 500,
        slots: 4_000_000,
        ..capacity()
    };
    let environment = Environment {
        capacity: room,
        ..environment()
    };
    let mut engine = Engine::new(environment, Timestamp::default());
    let pool = Pool {
        monitor: None,
        ..named(&[])
    };
    let config = Arc::new(web(vec![pool], None));
    engine.handle(Event::Configure(config), Timestamp::default());
    let mut now = Timestamp::default();
    let mut resolve = |numbers: std::ops::RangeInclusive<u8>| {
        now = now.after(Duration::from_secs(60));
        let answer = Answer {
            v4: Ok(numbers.map(|number| Ipv4Addr::new(10, 0, 1, number)).collect()),
            v6: Ok(Vec::new()),
        };
        let name = NAME.to_owned();
        let mut commands = engine.handle(Event::Resolved { name, answer }, now);
        now = now.after(Duration::from_secs(1));
        commands.extend(engine.handle(Event::Tick, now));
        let view = commands.into_iter().rev().find_map(|command| match command {
            Command::Publish(view) => Some(view),
            _ => None,
        });
        let view = view.expect("a view");
        (view.names[0].clone(), view.generation)
    };
    let (few, _) = resolve(101..=150);
    assert_eq!((few.addresses.len(), few.left_out), (50, 0));
    let (most, generation) = resolve(1..=200);
    assert_eq!(
        (most.addresses.len(), most.left_out),
        (MAX_ADDRESSES, 200 - MAX_ADDRESSES)
    );
    assert!(
        few.addresses
            .iter()
            .all(|address| most.addresses.contains(address))
    );
    let (again, same) = resolve(1..=200);
    assert_eq!((again.addresses, same), (most.addresses, generation));
}

#[test]
fn what_is_known_outlives_the_daemon() {
    let mut before = resolved(named(&[]), &[A, B]);
    before.run(2);
    let owned = owners(&before);
    let mut world = before.restart(before.saved.clone());
    world.silent = true;
    world.configure(web(vec![named(&[])], None));
    assert_eq!(world.names, [NAME]);
    assert_eq!(owners(&world), owned, "before any lookup");
    world.fail_to_resolve(NAME, LookupFailure::Failed("no server".into()));
    world.silent = false;
    world.run(10);
    assert_eq!(owners(&world), owned);
    assert_eq!(world.saved.names, before.saved.names);
}

#[test]
fn addresses_without_room_are_refused_and_tried_again() {
    let mut world = World::new(Environment {
        capacity: Capacity {
            origins: 6,
            ..capacity()
        },
        ..environment()
    });
    world.configure(web(vec![named(&[D])], None));
    world.resolve(NAME, &[A]);
    let many = [A, B, C, "10.0.0.5", "10.0.0.6", "10.0.0.7"];
    world.resolve(NAME, &many);
    world.run(1);
    assert_eq!(world.serving(VIP), [A, D]);
    let refused = |world: &World| {
        let refused = world
            .reports
            .iter()
            .filter(|report| matches!(report, Report::Refused(_)));
        refused.count()
    };
    assert_eq!(refused(&world), 1);
    world.resolve(NAME, &[A, B]);
    world.run(1);
    assert_eq!(world.serving(VIP), [A, B, D]);
    assert_eq!(refused(&world), 1);
}

#[test]
fn direct_origins_may_have_names() {
    let mut config = web(Vec::new(), None);
    let direct = |address: Host| DirectOrigin {
        address,
        record_type: RecordType::Any,
        port: 90,
    };
    config.load_balancers.clear();
    config.applications[0].destination =
        Destination::Direct(vec![direct(Host::Name(NAME.into())), direct(ip(D).into())]);
    let mut world = World::settled(config);
    assert_eq!(world.serving(VIP), [D]);
    assert_eq!(world.pool("direct:web").origins[0].name, format!("{NAME}:90"));
    world.resolve(NAME, &[A, B]);
    world.run(1);
    let shares = world.shares(VIP);
    assert!(
        (shares[D] - 0.5).abs() < 0.02 && (shares[A] - 0.25).abs() < 0.02,
        "{shares:?}"
    );
    // The same address twice counts once.
    world.resolve(NAME, &[A, B, D]);
    world.run(1);
    assert_eq!(world.pool("direct:web").origins.len(), 3);
}

#[test]
fn names_are_forgotten_with_the_configuration() {
    let mut world = resolved(named(&[D]), &[A]);
    world.configure(web(vec![pool("first", &[D])], None));
    assert_eq!(world.names, Vec::<String>::new());
    world.resolve(NAME, &[B]);
    assert_eq!(world.serving(VIP), [D]);
    assert!(world.view().names.is_empty());
    world.run(2);
    assert!(world.saved.names.is_empty());
}

#[test]
fn a_monitor_asks_for_the_name_unless_somebody_names_another() {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(web(vec![named(&[])], None));
    world.resolve(NAME, &[A]);
    world.now = world.now.after(Duration::from_secs(10));
    world.handle(Event::Tick);
    let request = world.probes.first().expect("a probe");
    assert_eq!(
        (request.address, request.host_name.as_deref()),
        (ip(A), Some(NAME))
    );
}
