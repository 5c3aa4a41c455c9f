//! Every policy in every state of its pools, and every way from a place to a list.

use super::*;
use crate::maglev::mix;
use crate::model::{
    Coordinates, GeoPools, LoadBalancer, Node, PoolSet, PoolWeights, SteeringPolicy, Topology, Weight,
};
use core::time::Duration;
use lb_common::abi::Country;
use std::collections::BTreeMap;

const DE: Country = Country::new(*b"DE");
const FR: Country = Country::new(*b"FR");
const JP: Country = Country::new(*b"JP");

/// By pool.
type Shares<'a> = &'a [(&'a str, f64)];

fn balancer(policy: SteeringPolicy) -> LoadBalancer {
    LoadBalancer {
        name: "web".into(),
        enabled: true,
        default_pools: names(&["a", "b", "c"]),
        fallback_pool: Some("sorry".into()),
        steering_policy: policy,
        random_steering: PoolWeights::default(),
        geo: GeoPools::default(),
        pool_sets: Vec::new(),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn weights(named: &[(&str, u8)], default: u8) -> PoolWeights {
    let weight = |hundredths| Weight::from_hundredths(hundredths).unwrap();
    let named = named
        .iter()
        .map(|(pool, value)| ((*pool).to_owned(), weight(*value)));
    PoolWeights {
        named: named.collect(),
        default: weight(default),
    }
}

fn node(pop: Option<&str>, region: Option<&str>, country: Option<&str>) -> Node {
    Node {
        name: "edge".into(),
        pop: pop.map(Into::into),
        region: region.map(Into::into),
        country: country.map(Into::into),
        latitude: None,
        longitude: None,
        state_dir: "/nowhere".into(),
    }
}

fn identity(pool: &str) -> u64 {
    pool.bytes().fold(17, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Pools of this state: `h` usable, `x` not, in the order a, b, c, with these open flows, milliseconds and kilometres.
fn figures(
    states: &str,
    flows: [u64; 3],
    latencies: [u64; 3],
    distances: [u32; 3],
) -> BTreeMap<String, PoolFigures> {
    let known = |value: u64| (value > 0).then_some(value);
    let pools = ["a", "b", "c"].iter().zip(states.chars());
    pools
        .enumerate()
        .map(|(index, (name, state))| {
            let figures = PoolFigures {
                usable: state == 'h',
                open_flows: flows[index],
                latency: known(latencies[index]).map(Duration::from_millis),
                distance: known(distances[index].into()).map(|distance| distance as f64),
                ..PoolFigures::default()
            };
            ((*name).to_owned(), figures)
        })
        .collect()
}

fn shares(
    balancer: &LoadBalancer,
    figures: &BTreeMap<String, PoolFigures>,
    fallback: Option<&'static str>,
) -> Vec<(String, f64)> {
    let node = node(None, None, None);
    let routes = routes(balancer, &node, false);
    let found = candidates(&routes.main, |name| {
        figures.get(name).copied().unwrap_or_default()
    });
    let shares = found.shares(identity, fallback);
    assert_eq!(found.is_empty(), shares.is_empty());
    let mut shares: Vec<(String, f64)> = shares
        .into_iter()
        .map(|(name, share)| (name.to_owned(), share))
        .collect();
    shares.sort_by(|(a, _), (b, _)| a.cmp(b));
    shares
}

fn check(shares: &[(String, f64)], expected: &[(&str, f64)], words: &str) {
    let close = |((name, share), (expected, value)): (&(String, f64), &(&str, f64))| {
        name == expected && (share - value).abs() < 0.004
    };
    assert!(
        shares.len() == expected.len() && shares.iter().zip(expected).all(close),
        "{words}: {shares:?}, {expected:?} expected"
    );
}

#[test]
fn each_policy_divides_flows_among_usable_pools() {
    use SteeringPolicy::*;
    let none = [0; 3];
    // Weights of a, b and c: 0.5, 0.3, 0.2. Open flows, round trips and distances: 0 is unknown or none.
    type Row<'a> = (SteeringPolicy, &'a str, [u64; 3], [u64; 3], [u32; 3], Shares<'a>);
    let rows: &[Row<'_>] = &[
        (Off, "hhh", none, none, [0; 3], &[("a", 1.0)]),
        (Off, "xhh", none, none, [0; 3], &[("b", 1.0)]),
        (Off, "xxh", [9; 3], [9, 9, 9], [9, 1, 9], &[("c", 1.0)]),
        (Off, "xxx", none, none, [0; 3], &[]),
        (Geo, "hhh", none, none, [0; 3], &[("a", 1.0)]),
        (Geo, "xhh", none, none, [0; 3], &[("b", 1.0)]),
        (Geo, "xxx", none, none, [0; 3], &[]),
        (
            Random,
            "hhh",
            [5; 3],
            [5, 1, 1],
            [5, 1, 1],
            &[("a", 0.5), ("b", 0.3), ("c", 0.2)],
        ),
        (Random, "xhh", none, none, [0; 3], &[("b", 0.6), ("c", 0.4)]),
        (Random, "xxh", none, none, [0; 3], &[("c", 1.0)]),
        (Random, "xxx", none, none, [0; 3], &[]),
        (
            Hash,
            "hhh",
            none,
            none,
            [0; 3],
            &[("a", 0.5), ("b", 0.3), ("c", 0.2)],
        ),
        (
            Hash,
            "hxh",
            none,
            none,
            [0; 3],
            &[("a", 5.0 / 7.0), ("c", 2.0 / 7.0)],
        ),
        (Hash, "xxx", none, none, [0; 3], &[]),
        (DynamicLatency, "hhh", none, [30, 10, 20], [0; 3], &[("b", 1.0)]),
        (DynamicLatency, "hxh", none, [30, 10, 20], [0; 3], &[("c", 1.0)]),
        // Without data the failover order; what is measured comes before what is not.
        (DynamicLatency, "hhh", none, none, [0; 3], &[("a", 1.0)]),
        (DynamicLatency, "hhh", none, [0, 0, 90], [0; 3], &[("c", 1.0)]),
        (DynamicLatency, "hhx", none, [0, 0, 90], [0; 3], &[("a", 1.0)]),
        (DynamicLatency, "hhh", none, [7, 7, 7], [0; 3], &[("a", 1.0)]),
        (DynamicLatency, "xxx", none, [1, 2, 3], [0; 3], &[]),
        (Proximity, "hhh", none, none, [900, 80, 300], &[("b", 1.0)]),
        (Proximity, "hxh", none, none, [900, 80, 300], &[("c", 1.0)]),
        (Proximity, "hhh", none, none, [0, 0, 300], &[("c", 1.0)]),
        (Proximity, "hhh", none, none, [0; 3], &[("a", 1.0)]),
        (Proximity, "xxx", none, none, [1, 2, 3], &[]),
        (
            LeastConnections,
            "hhh",
            none,
            none,
            [0; 3],
            &[("a", 0.5), ("b", 0.3), ("c", 0.2)],
        ),
        // 0.5 / 5, 0.3 / 3, 0.2 / 1.
        (
            LeastConnections,
            "hhh",
            [4, 2, 0],
            none,
            [0; 3],
            &[("a", 0.25), ("b", 0.25), ("c", 0.5)],
        ),
        (
            LeastConnections,
            "hxh",
            [4, 2, 0],
            none,
            [0; 3],
            &[("a", 1.0 / 3.0), ("c", 2.0 / 3.0)],
        ),
        (
            LeastConnections,
            "xxh",
            [4, 2, 1_000_000_000],
            none,
            [0; 3],
            &[("c", 1.0)],
        ),
        (LeastConnections, "xxx", [4, 2, 0], none, [0; 3], &[]),
        (
            LeastOutstandingRequests,
            "hhh",
            [4, 2, 0],
            none,
            [0; 3],
            &[("a", 0.25), ("b", 0.25), ("c", 0.5)],
        ),
    ];
    for (policy, states, flows, latencies, distances, expected) in rows {
        let mut balancer = balancer(*policy);
        balancer.random_steering = weights(&[("a", 50), ("b", 30)], 20);
        let figures = figures(states, *flows, *latencies, *distances);
        let words = format!("{} {states}", policy.name());
        check(&shares(&balancer, &figures, Some("sorry")), expected, &words);
    }
    for policy in SteeringPolicy::ALL {
        assert!(rows.iter().any(|row| row.0 == policy), "{}", policy.name());
    }
}

#[test]
fn cloudflares_example_of_outstanding_requests() {
    // A .4 with 3 open, B .6 with 0: 14.29 % and 85.71 %.
    let mut balancer = balancer(SteeringPolicy::LeastOutstandingRequests);
    balancer.random_steering = weights(&[("a", 40), ("b", 60)], 0);
    let figures = figures("hhh", [3, 0, 0], [0; 3], [0; 3]);
    check(
        &shares(&balancer, &figures, None),
        &[("a", 0.1429), ("b", 0.8571)],
        "example",
    );
}

#[test]
fn a_weight_of_zero_is_never_picked_and_all_zero_is_nobody() {
    for policy in SteeringPolicy::ALL
        .into_iter()
        .filter(|policy| policy.is_weighted())
    {
        let mut balancer = balancer(policy);
        balancer.random_steering = weights(&[("b", 100)], 0);
        let figures_of = |states| figures(states, [0; 3], [0; 3], [0; 3]);
        check(&shares(&balancer, &figures_of("hhh"), None), &[("b", 1.0)], "b");
        check(
            &shares(&balancer, &figures_of("hxh"), None),
            &[],
            "others have no weight",
        );
    }
}

/// Usable pools a, b and c that give up these percentages.
fn shedding(percent: [f64; 3]) -> BTreeMap<String, PoolFigures> {
    let mut figures = figures("hhh", [0; 3], [0; 3], [0; 3]);
    for (figures, percent) in figures.values_mut().zip(percent) {
        figures.shed = Classes::of_percent(percent);
    }
    figures
}

#[test]
fn what_a_pool_gives_up_goes_to_the_others_by_the_policy_and_at_last_to_the_fallback_pool() {
    use SteeringPolicy::*;
    let rows: &[(SteeringPolicy, [f64; 3], Shares<'_>)] = &[
        (Off, [30.0, 0.0, 0.0], &[("a", 0.7), ("b", 0.3)]),
        (Off, [30.0, 50.0, 0.0], &[("a", 0.7), ("b", 0.15), ("c", 0.15)]),
        (
            Off,
            [50.0; 3],
            &[("a", 0.5), ("b", 0.25), ("c", 0.125), ("sorry", 0.125)],
        ),
        (Off, [100.0, 0.0, 0.0], &[("b", 1.0)]),
        (Off, [100.0; 3], &[("sorry", 1.0)]),
        (
            Random,
            [20.0, 0.0, 0.0],
            &[("a", 0.4), ("b", 0.3 + 0.1 * 0.6), ("c", 0.2 + 0.1 * 0.4)],
        ),
        (
            Hash,
            [20.0, 0.0, 0.0],
            &[("a", 0.4), ("b", 0.3 + 0.1 * 0.6), ("c", 0.2 + 0.1 * 0.4)],
        ),
        (Random, [100.0, 100.0, 0.0], &[("c", 1.0)]),
        (LeastConnections, [100.0, 0.0, 0.0], &[("b", 0.6), ("c", 0.4)]),
        (Proximity, [25.0, 0.0, 0.0], &[("a", 0.75), ("b", 0.25)]),
    ];
    for (policy, percent, expected) in rows {
        let mut balancer = balancer(*policy);
        balancer.random_steering = weights(&[("a", 50), ("b", 30)], 20);
        let words = format!("{} {percent:?}", policy.name());
        let found = shares(&balancer, &shedding(*percent), Some("sorry"));
        // Which classes two pools share is left to chance.
        let names = |list: &[(String, f64)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(
            names(&found),
            expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            "{words}"
        );
        for ((name, share), (_, expected)) in found.iter().zip(*expected) {
            assert!(
                (share - expected).abs() < 0.015,
                "{words}: {name} {share}, {expected} expected"
            );
        }
        assert!((found.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn without_a_fallback_pool_nothing_is_given_up_to_nobody() {
    let balancer = balancer(SteeringPolicy::Off);
    check(
        &shares(&balancer, &shedding([100.0; 3]), None),
        &[("a", 1.0)],
        "everybody gives up everything",
    );
    let found = shares(&balancer, &shedding([50.0; 3]), None);
    assert!((found.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(found.iter().all(|(name, _)| name != "sorry"));
}

#[test]
fn a_fallback_pool_that_is_listed_too_gets_both() {
    let balancer = balancer(SteeringPolicy::Off);
    let found = shares(&balancer, &shedding([100.0, 100.0, 100.0]), Some("c"));
    check(&found, &[("c", 1.0)], "all give up");
}

#[test]
fn a_percentage_is_exact_and_the_same_clients_are_concerned_when_it_grows() {
    let mut before = Classes::NONE;
    for percent in [0.0, 0.01, 10.0, 50.0, 99.99, 100.0] {
        let count = Classes::of_percent(percent);
        assert_eq!(count == 0, percent == 0.0);
        assert_eq!(count == CLASSES, percent == 100.0);
        assert!((f64::from(count) / f64::from(CLASSES) - percent / 100.0).abs() < 0.001);
        let classes = Classes::given_up(99, count);
        let members = (0..CLASSES).filter(|class| classes.contains(*class)).count();
        assert_eq!(members, count as usize);
        assert!((0..CLASSES).all(|class| !before.contains(class) || classes.contains(class)));
        before = classes;
    }
}

#[test]
fn clients_that_are_not_shed_stay_where_they_are() {
    let ring = |classes| SheddingTable {
        base: Base::Ring(
            (1..4)
                .map(|owner| crate::maglev::Member {
                    identity: mix(u64::from(owner)),
                    owner,
                    weight: 100,
                    present: true,
                })
                .collect(),
        ),
        sheds: vec![Shed {
            owner: 1,
            identity: 5,
            classes,
        }],
        rest: Rest::Pools,
    };
    let (before, after) = (ring(0).build(), ring(Classes::of_percent(40.0)).build());
    let shed = Classes::given_up(5, Classes::of_percent(40.0));
    for (slot, (before, after)) in (0..).zip(before.iter().zip(&after)) {
        if before != after {
            assert!(*before == 1 && shed.contains(slot % CLASSES));
        } else {
            assert!(*before != 1 || !shed.contains(slot % CLASSES));
        }
    }
}

/// The source and the pools of a place's route.
fn at(balancer: &LoadBalancer, node: &Node, country: Option<Country>) -> (String, String) {
    let routes = routes(balancer, node, true);
    let route = routes.of(country);
    (route.source.to_string(), route.pools.join(" "))
}

fn geo() -> LoadBalancer {
    let list = |pool: &str| names(&[pool]);
    LoadBalancer {
        geo: GeoPools {
            pops: [("FRA".to_owned(), list("pop"))].into(),
            countries: [(DE, list("de")), (FR, list("fr"))].into(),
            regions: [("WEU".to_owned(), list("weu"))].into(),
        },
        ..balancer(SteeringPolicy::Geo)
    }
}

#[test]
fn geo_takes_the_narrowest_place() {
    let nowhere = node(None, None, None);
    let weu = node(Some("AMS"), Some("WEU"), Some("DE"));
    let fra = node(Some("FRA"), Some("WEU"), Some("DE"));
    for (node, country, source) in [
        (&fra, Some(DE), "pop_pools.FRA"),
        (&fra, None, "pop_pools.FRA"),
        (&weu, Some(DE), "country_pools.DE"),
        (&weu, Some(FR), "country_pools.FR"),
        (&weu, Some(JP), "region_pools.WEU"),
        // A client whose country is not known counts as being where the node is.
        (&weu, None, "country_pools.DE"),
        (&nowhere, Some(DE), "country_pools.DE"),
        (&nowhere, Some(JP), "default_pools"),
        (&nowhere, None, "default_pools"),
    ] {
        assert_eq!(at(&geo(), node, country).0, source, "{node:?} {country:?}");
    }
}

#[test]
fn without_geoip_the_nodes_country_counts() {
    let (balancer, node) = (geo(), node(None, None, Some("FR")));
    let routes = routes(&balancer, &node, false);
    assert_eq!(routes.main.source, Source::CountryPools(FR));
    assert!(routes.by_country.is_empty());
}

#[test]
fn geo_does_not_go_on_to_a_wider_place() {
    let (balancer, node) = (geo(), node(None, Some("WEU"), None));
    let routes = routes(&balancer, &node, true);
    let found = candidates(routes.of(Some(DE)), |name| PoolFigures {
        usable: name != "de",
        ..PoolFigures::default()
    });
    assert!(found.is_empty());
    assert_eq!(routes.of(Some(DE)).fallback, Some("sorry"));
}

#[test]
fn only_geo_asks_for_places() {
    let mut balancer = geo();
    balancer.steering_policy = SteeringPolicy::Random;
    let node = node(Some("FRA"), Some("WEU"), Some("DE"));
    assert_eq!(at(&balancer, &node, Some(DE)).0, "default_pools");
    assert!(balancer.countries().is_empty());
}

fn set(name: &str, topology: Topology, pools: &[&str]) -> PoolSet {
    PoolSet {
        name: name.into(),
        disabled: false,
        topology,
        pools: (!pools.is_empty()).then(|| names(pools)),
        weights: None,
        fallback_pool: None,
        steering_policy: SteeringPolicy::Off,
    }
}

fn topology(pops: &[&str], countries: &[Country], regions: &[&str]) -> Topology {
    Topology {
        pops: names(pops),
        countries: countries.to_vec(),
        regions: names(regions),
    }
}

#[test]
fn the_first_pool_set_that_matches_replaces_everything() {
    let mut balancer = geo();
    balancer.pool_sets = vec![
        PoolSet {
            disabled: true,
            ..set("off", Topology::default(), &["never"])
        },
        set("both", topology(&[], &[DE, FR], &["WEU"]), &["x", "y"]),
        set("pop", topology(&["AMS", "LHR"], &[], &[]), &["z"]),
        set("german", topology(&[], &[DE], &[]), &[]),
    ];
    let weu = node(None, Some("WEU"), None);
    let ams = node(Some("AMS"), Some("OC"), Some("DE"));
    let home = node(None, None, Some("DE"));
    for (node, country, source, pools) in [
        (&weu, Some(DE), "pool set both", "x y"),
        (&weu, Some(FR), "pool set both", "x y"),
        (&weu, Some(JP), "region_pools.WEU", "weu"),
        (&weu, None, "region_pools.WEU", "weu"),
        // The region is another one: lists are ANDed.
        (&ams, Some(FR), "pool set pop", "z"),
        (&ams, None, "pool set pop", "z"),
        (&home, Some(DE), "pool set german", "a b c"),
        (&home, None, "pool set german", "a b c"),
        (&home, Some(FR), "country_pools.FR", "fr"),
        (&home, Some(JP), "default_pools", "a b c"),
    ] {
        let expected = (source.to_owned(), pools.to_owned());
        assert_eq!(at(&balancer, node, country), expected, "{node:?} {country:?}");
    }
    balancer
        .pool_sets
        .push(set("all", Topology::default(), &["last"]));
    assert_eq!(at(&balancer, &home, Some(JP)).0, "pool set all");
}

#[test]
fn a_pool_set_overrides_what_it_names() {
    let mut balancer = balancer(SteeringPolicy::Random);
    balancer.random_steering = weights(&[("a", 10)], 90);
    let own = PoolSet {
        weights: Some(weights(&[("a", 30)], 70)),
        fallback_pool: Some("own".into()),
        steering_policy: SteeringPolicy::Hash,
        ..set("own", topology(&[], &[DE], &[]), &["a", "b"])
    };
    let inherits = PoolSet {
        steering_policy: SteeringPolicy::Random,
        ..set("inherits", topology(&[], &[FR], &[]), &[])
    };
    balancer.pool_sets = vec![own, inherits, set("order", topology(&[], &[JP], &[]), &[])];
    let node = node(None, None, None);
    let routes = routes(&balancer, &node, true);
    let own = routes.of(Some(DE));
    assert_eq!((own.policy, own.fallback), (SteeringPolicy::Hash, Some("own")));
    assert_eq!(own.weights.of("a").hundredths(), 30);
    let inherits = routes.of(Some(FR));
    assert_eq!(
        (inherits.policy, inherits.fallback),
        (SteeringPolicy::Random, Some("sorry"))
    );
    assert_eq!(inherits.weights.of("a").hundredths(), 10);
    // Without a policy of its own a set goes by the order, whatever the load balancer's policy.
    assert_eq!(routes.of(Some(JP)).policy, SteeringPolicy::Off);
    assert_eq!(routes.main.policy, SteeringPolicy::Random);
}

#[test]
fn distances_come_from_coordinates() {
    let node = Node {
        latitude: Some(50.0),
        longitude: Some(8.0),
        ..node(None, None, None)
    };
    let home = node.coordinates().unwrap();
    let far = Coordinates {
        latitude: 35.0,
        longitude: 139.0,
    };
    assert!(home.distance(far) > 9000.0 && home.distance(home) == 0.0);
}

#[test]
fn a_count_never_takes_a_weight_away_nor_gives_one() {
    assert_eq!(balanced(Weight::ZERO, 0), 0);
    assert!(balanced(Weight::from_hundredths(1).unwrap(), u64::MAX) > 0);
    assert!(balanced(Weight::ONE, 0) > balanced(Weight::ONE, 1));
}
