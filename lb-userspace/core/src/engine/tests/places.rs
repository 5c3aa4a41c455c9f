//! Pools by place: the node's own, and the clients' countries.

use super::steering::{A, B, C, D, check, steered};
use super::world::*;
use crate::model::*;
use core::net::IpAddr;
use lb_common::abi::Country;
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn a_node_serves_its_own_place() {
    let mut config = steered(SteeringPolicy::Geo);
    config.load_balancers[0].geo.regions = [("WEU".to_owned(), vec!["b".to_owned(), "c".to_owned()])].into();
    config.node.region = Some("WEU".into());
    let mut world = World::settled(config.clone());
    check(&world, &[(B, 1.0)], "its region");
    assert_eq!(
        world.view().load_balancers[0].routes[0].source,
        "region_pools.WEU"
    );
    world.kill(B);
    check(&world, &[(C, 1.0)], "failover in its region");
    world.kill(C);
    check(&world, &[(D, 1.0)], "no cascade to a");
    assert!(world.view().load_balancers[0].on_fallback);
    config.node.region = Some("OC".into());
    world.configure(config);
    world.run(1);
    check(&world, &[(A, 1.0)], "default_pools");
}

#[test]
fn a_pool_set_of_the_nodes_place_replaces_everything() {
    let mut config = steered(SteeringPolicy::Off);
    config.node.pop = Some("FRA".into());
    config.load_balancers[0].pool_sets = vec![PoolSet {
        name: "frankfurt".into(),
        disabled: false,
        topology: Topology {
            pops: vec!["FRA".into()],
            ..Topology::default()
        },
        pools: Some(vec!["b".into(), "c".into()]),
        weights: Some(weights(&[("b", 25)], 75)),
        fallback_pool: Some("a".into()),
        steering_policy: SteeringPolicy::Random,
    }];
    let mut world = World::settled(config.clone());
    check(&world, &[(B, 0.25), (C, 0.75)], "the set");
    world.kill(B);
    world.kill(C);
    check(&world, &[(A, 1.0)], "its fallback pool");
    config.load_balancers[0].pool_sets[0].disabled = true;
    world.configure(config);
    world.run(1);
    check(&world, &[(A, 1.0)], "default_pools again");
    assert!(!world.view().load_balancers[0].on_fallback);
}

/// `web` by country: DE has its own list, FR a pool set, JP a list all of whose pools are down.
fn by_country() -> Config {
    let mut config = steered(SteeringPolicy::Geo);
    let countries = [(DE, vec!["b".to_owned()]), (JP, vec!["c".to_owned()])];
    config.load_balancers[0].geo.countries = countries.into();
    config.load_balancers[0].pool_sets = vec![PoolSet {
        name: "french".into(),
        disabled: false,
        topology: Topology {
            countries: vec![FR],
            ..Topology::default()
        },
        pools: Some(vec!["a".into(), "b".into()]),
        weights: None,
        fallback_pool: Some("a".into()),
        steering_policy: SteeringPolicy::Random,
    }];
    let rows = vec![("10.0.0.0/8".parse().unwrap(), DE)];
    config.geoip = Some(Arc::new(CountryTable::new(rows)));
    config.node.country = Some("JP".into());
    config
}

const DE: Country = Country::new(*b"DE");
const FR: Country = Country::new(*b"FR");
const JP: Country = Country::new(*b"JP");
const US: Country = Country::new(*b"US");

/// The origins that clients of a country get.
fn from(world: &World, country: Country) -> Vec<String> {
    let flows = (0..512).map(crate::maglev::mix);
    let origins = flows.filter_map(|flow| world.maps.select_from(country, VIP, flow));
    let addresses: BTreeSet<String> = origins
        .map(|(_, origin)| IpAddr::from(world.maps.origins[&origin].address).to_string())
        .collect();
    addresses.into_iter().collect()
}

#[test]
fn clients_go_where_their_country_leads() {
    let mut world = World::settled(by_country());
    assert_eq!(from(&world, DE), [B]);
    assert_eq!(from(&world, FR), [A, B]);
    assert_eq!(from(&world, JP), [C]);
    assert_eq!(from(&world, US), [A]);
    // Whose country is not known counts as being where the node is.
    assert_eq!(from(&world, Country::UNKNOWN), [C]);
    world.kill(C);
    assert_eq!(from(&world, JP), [D], "no cascade");
    assert_eq!(from(&world, US), [A]);
    assert!(world.view().load_balancers[0].on_fallback);
    world.kill(B);
    assert_eq!(from(&world, DE), [D]);
    assert_eq!(from(&world, FR), [A]);
    world.kill(A);
    assert_eq!(from(&world, FR), [A], "the set's own fallback pool");
    let routes = &world.view().load_balancers[0].routes;
    let told: Vec<_> = routes
        .iter()
        .map(|route| (route.countries.clone(), route.source.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (vec![], "default_pools"),
            (vec![Country::UNKNOWN, JP], "country_pools.JP"),
            (vec![DE], "country_pools.DE"),
            (vec![FR], "pool set french"),
        ]
    );
}

#[test]
fn without_geoip_nobody_is_asked_for_a_country() {
    let mut config = by_country();
    config.geoip = None;
    let world = World::settled(config);
    assert!(world.maps.routes.is_empty());
    assert_eq!(from(&world, DE), [C], "the node is in JP");
}

#[test]
fn countries_outlive_the_daemon() {
    let mut world = World::settled(by_country());
    world.kill(C);
    let mut next = world.restart(world.saved.clone());
    next.routed = false;
    next.configure(by_country());
    assert_eq!(
        (from(&next, DE), from(&next, JP)),
        (vec![B.to_owned()], vec![D.to_owned()])
    );
    let mut config = by_country();
    config.load_balancers[0].pool_sets.clear();
    config.load_balancers[0].geo = GeoPools::default();
    next.configure(config.clone());
    next.configure(config);
    assert!(next.maps.routes.is_empty());
}

#[test]
fn applications_share_the_routes_of_their_load_balancer() {
    let mut config = by_country();
    let alone = World::settled(config.clone()).maps.routes.len();
    for number in 0..10 {
        let address = format!("203.0.113.{}", 100 + number);
        config
            .applications
            .push(application(&format!("app-{number}"), &address, "web"));
    }
    let needed = crate::engine::Engine::required_capacity(&config).routes;
    assert_eq!(
        needed as usize,
        2 * 4,
        "two generations of three countries and the unknown one"
    );
    let mut world = World::settled(config.clone());
    assert_eq!(world.maps.routes.len(), alone);
    let others = |world: &World| {
        let flows = (0..512).map(crate::maglev::mix);
        let found = flows.filter_map(|flow| world.maps.select_from(DE, "203.0.113.105", flow));
        let found: BTreeSet<IpAddr> = found
            .map(|(_, origin)| IpAddr::from(world.maps.origins[&origin].address))
            .collect();
        found
    };
    assert_eq!(others(&world), BTreeSet::from([ip(B)]));
    // The application that gave the set its number goes: the set stays.
    config.applications.remove(0);
    world.configure(config.clone());
    world.configure(config);
    assert_eq!(world.maps.routes.len(), alone);
    assert_eq!(others(&world), BTreeSet::from([ip(B)]));
}

#[test]
fn a_client_is_bound_as_long_as_its_own_countrys_pools_are_the_same() {
    let mut config = by_country();
    config.load_balancers[0].pool_sets.clear();
    config.applications[0].affinity = Some(Affinity {
        ttl: core::time::Duration::from_secs(600),
    });
    let countries = |config: &mut Config, [of_de, of_fr]: [&str; 2]| {
        let countries = [(DE, vec![of_de.to_owned()]), (FR, vec![of_fr.to_owned()])];
        config.load_balancers[0].geo.countries = countries.into();
    };
    countries(&mut config, ["b", "c"]);
    let mut world = World::settled(config.clone());
    let epoch = |world: &World| {
        let mut records = world.maps.applications.values();
        records.next_back().map(|record| record.affinity_epoch)
    };
    let bound = epoch(&world);
    world.kill(B);
    assert_eq!(epoch(&world), bound, "its pool is empty");
    world.revive(B);
    // The same pools all in all.
    let turned = {
        let mut turned = config.clone();
        countries(&mut turned, ["c", "b"]);
        turned
    };
    for (config, same) in [(turned, false), (config, true)] {
        world.configure(config.clone());
        world.configure(config);
        assert_eq!(epoch(&world) == bound, same);
    }
}
