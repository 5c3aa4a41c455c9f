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
