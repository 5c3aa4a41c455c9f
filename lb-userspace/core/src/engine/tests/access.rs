//! Access lists and countries: content decides, and nothing changes under the eyes of a packet.

use super::world::*;
use crate::engine::{Environment, Kept, Report};
use crate::image::{AccessRules, Capacity, TableOp};
use crate::model::*;
use core::net::IpAddr;
use lb_common::abi::{AccessList, AccessRule, Country, Ip};
use std::sync::Arc;

const A: &str = "10.0.0.1";
const DE: Country = Country::new(*b"DE");
const FR: Country = Country::new(*b"FR");

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

fn guarded(access: Access) -> Config {
    let mut config = web(vec![unmonitored("first", &[A])], None);
    config.applications[0].access = Some(Arc::new(access));
    config
        .applications
        .push(application("open", "203.0.113.11", "web"));
    config
}

fn denies(list: &[&str]) -> Access {
    Access {
        deny: prefixes(list),
        ..Access::default()
    }
}

/// The access list of an application in the live generation.
fn list_of(world: &World, name: &str) -> AccessList {
    let id = world
        .view()
        .applications
        .iter()
        .find(|application| application.name == name)
        .unwrap()
        .id;
    let parity = world.maps.settings.parity();
    let mut records = world.maps.applications.iter();
    records
        .find(|(key, record)| key.parity == parity && record.id == id)
        .unwrap()
        .1
        .access
}

fn rules(access: Access) -> AccessRules {
    let mut world = World::new(environment());
    let mut config = guarded(access);
    config.geoip = Some(Arc::new(CountryTable::new(vec![(
        prefixes(&["10.0.0.0/8"])[0],
        DE,
    )])));
    world.configure(config);
    let rules = &world.maps.access[&list_of(&world, "web")];
    AccessRules::clone(rules)
}

#[test]
fn whoever_allows_somebody_denies_all_others() {
    let (ten, all) = (Ip::from(ip("10.0.0.0")), Ip::default());
    let none = Country::UNKNOWN;
    let (allow, deny) = (AccessRule::ALLOW, AccessRule::DENY);
    let countries = |list: &[Country]| list.to_vec();
    for (access, prefixes, countries) in [
        (denies(&["10.0.0.0/8"]), vec![(104, ten, deny)], vec![]),
        (
            Access {
                allow: prefixes(&["10.0.0.0/8"]),
                ..Access::default()
            },
            vec![(0, all, deny), (104, ten, allow)],
            vec![],
        ),
        (
            Access {
                allow_countries: countries(&[DE]),
                ..denies(&["10.0.0.0/8"])
            },
            vec![(104, ten, deny)],
            vec![(none, deny), (DE, allow)],
        ),
        (
            Access {
                deny_countries: countries(&[DE]),
                ..Access::default()
            },
            vec![],
            vec![(DE, deny)],
        ),
        // Whom no prefix allows, his country may.
        (
            Access {
                allow: prefixes(&["10.0.0.0/8"]),
                allow_countries: countries(&[FR]),
                ..Access::default()
            },
            vec![(104, ten, allow)],
            vec![(none, deny), (FR, allow)],
        ),
        (
            Access {
                allow: prefixes(&["2001:db8::/32"]),
                deny_countries: countries(&[FR]),
                ..Access::default()
            },
            vec![(0, all, deny), (32, ip("2001:db8::").into(), allow)],
            vec![(FR, deny)],
        ),
    ] {
        assert_eq!(
            rules(access.clone()),
            AccessRules { prefixes, countries },
            "{access:?}"
        );
    }
}

/// What a list says to a client, as longest-prefix matching finds it.
fn judged(rules: &AccessRules, client: &str) -> Option<AccessRule> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let client = bits(ip(client));
    let holds = |length: u32, address: Ip| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        (client ^ bits(address.into())) & mask == 0
    };
    let mut rows = rules.prefixes.iter().rev();
    rows.find(|(length, address, _)| holds(*length, *address))
        .map(|(_, _, rule)| *rule)
}

#[test]
fn prefixes_of_one_family_say_nothing_of_the_other() {
    let (allow, deny) = (Some(AccessRule::ALLOW), Some(AccessRule::DENY));
    let neutral = Some(AccessRule::NEUTRAL);
    let of = |allow: &[&str], deny: &[&str], countries: &[Country]| Access {
        allow: prefixes(allow),
        deny: prefixes(deny),
        allow_countries: countries.to_vec(),
        ..Access::default()
    };
    for (access, v4, v6) in [
        (of(&[], &["::/0"], &[]), neutral, deny),
        (of(&[], &["::/8"], &[]), neutral, None),
        (of(&[], &["::/80"], &[DE]), neutral, None),
        (of(&[], &["0.0.0.0/0"], &[]), deny, None),
        (of(&[], &["0.0.0.0/0", "::/0"], &[]), deny, deny),
        (of(&["10.0.0.0/8", "::/0"], &[], &[]), allow, allow),
        (of(&["::/0"], &[], &[]), deny, allow),
        (of(&["0.0.0.0/0"], &[], &[]), allow, deny),
        (of(&["10.0.0.0/8"], &["::/0"], &[]), allow, deny),
        (of(&["0.0.0.0/0"], &["::/0"], &[]), allow, deny),
        (of(&["::/0"], &["10.0.0.0/8"], &[]), deny, allow),
        (of(&["::/0"], &[], &[DE]), neutral, allow),
        (of(&["10.0.0.0/8"], &[], &[]), allow, deny),
    ] {
        let rules = rules(access.clone());
        assert_eq!(judged(&rules, "10.1.2.3"), v4, "{access:?}");
        assert_eq!(judged(&rules, "2001:db8::1"), v6, "{access:?}");
        let mut keys: Vec<_> = rules.prefixes.iter().map(|row| (row.0, row.1)).collect();
        keys.dedup();
        assert_eq!(keys.len(), rules.prefixes.len(), "one rule a prefix: {rules:?}");
    }
    // Whom nobody named is judged as without the other family's prefixes.
    let rules = rules(of(&["10.0.0.0/8", "::/0"], &[], &[]));
    assert_eq!(judged(&rules, "192.0.2.1"), deny);
}

#[test]
fn a_list_keeps_its_number_as_long_as_it_says_the_same() {
    let mut world = World::settled(guarded(denies(&["10.0.0.0/8"])));
    let first = list_of(&world, "web");
    assert_ne!(first, AccessList::NONE);
    assert_eq!(list_of(&world, "open"), AccessList::NONE);
    // An empty list is none, and equal ones are one.
    let mut config = guarded(denies(&["10.0.0.0/8"]));
    config.applications[1].access = Some(Arc::default());
    config.datapath.access = config.applications[0].access.clone();
    world.applied.clear();
    world.configure(config);
    assert_eq!([list_of(&world, "web"), world.maps.settings.access], [first; 2]);
    assert_eq!(list_of(&world, "open"), AccessList::NONE);
    let lists = |op: &TableOp| matches!(op, TableOp::AccessList { .. } | TableOp::RemoveAccessList { .. });
    assert!(!world.applied.concat().iter().any(lists));
    // Over a restart too.
    let mut next = world.restart(Kept::default());
    next.configure(guarded(denies(&["10.0.0.0/8"])));
    assert_eq!(list_of(&next, "web"), first);
    assert!(!next.applied.concat().iter().any(lists));
    // Another list is another number, and the old one goes when nobody reads it.
    next.configure(guarded(denies(&["10.0.0.0/8", "192.0.2.0/24"])));
    assert_ne!(list_of(&next, "web"), first);
    assert_eq!(next.maps.access.len(), 1);
    let mut open = guarded(Access::default());
    open.applications[0].access = None;
    next.configure(open);
    assert!(next.maps.access.is_empty());
}

#[test]
fn what_a_daemon_that_died_has_left_is_removed() {
    let world = World::settled(guarded(denies(&["10.0.0.0/8"])));
    let mut next = world.restart(Kept::default());
    let half = AccessRules {
        prefixes: vec![(104, ip("10.0.0.0").into(), AccessRule::DENY)],
        countries: Vec::new(),
    };
    next.maps.access.insert(AccessList(7), Arc::new(half));
    let mut next = next.restart(Kept::default());
    next.configure(guarded(denies(&["10.0.0.0/8"])));
    assert_eq!(
        next.maps.access.keys().copied().collect::<Vec<_>>(),
        [list_of(&next, "web")]
    );
}

#[test]
fn lists_that_have_no_room_are_refused() {
    let capacity = Capacity {
        access_prefixes: 3,
        ..capacity()
    };
    let mut world = World::new(Environment {
        capacity,
        ..environment()
    });
    world.configure(guarded(denies(&["10.0.0.0/8", "192.0.2.0/24"])));
    let first = list_of(&world, "web");
    world.configure(guarded(denies(&["10.0.0.0/8", "198.51.100.0/24"])));
    let Some(Report::Refused(why)) = world.reports.last() else {
        panic!("{:?}", world.reports)
    };
    assert!(why.starts_with("4 prefixes of access lists"), "{why}");
    assert_eq!(list_of(&world, "web"), first);
}

#[test]
fn countries_are_there_as_long_as_a_list_asks_for_them() {
    let mut config = guarded(Access {
        deny_countries: vec![FR],
        ..Access::default()
    });
    let table = |country| Arc::new(CountryTable::new(vec![(prefixes(&["10.0.0.0/8"])[0], country)]));
    config.geoip = Some(table(DE));
    let mut world = World::settled(config.clone());
    assert_eq!(world.maps.countries, table(DE));
    world.applied.clear();
    world.configure(config.clone());
    let countries = |op: &TableOp| matches!(op, TableOp::Countries { .. });
    assert!(!world.applied.concat().iter().any(countries));
    config.geoip = Some(table(FR));
    let mut next = world.restart(Kept::default());
    for world in [&mut world, &mut next] {
        world.configure(config.clone());
        assert_eq!(world.maps.countries, table(FR));
    }
    next.configure(guarded(denies(&["10.0.0.0/8"])));
    assert!(next.maps.countries.rows().is_empty());
}
