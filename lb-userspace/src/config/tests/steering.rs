//! Load balancers: policies, places and what pools give up.

use super::parse_text;
use lb_common::abi::Country;
use lb_core::model::{LoadShedding, OriginSteering, SheddingPolicy, SteeringPolicy, Topology};

/// Pools `a`, `b` and `c`, a load balancer with these lines, and more of the file.
fn balanced(lines: &str, more: &str) -> String {
    let pools =
        ["a", "b", "c"].map(|pool| format!("[pools.{pool}.origins.x]\naddress = '10.0.0.{}'\n", pool.len()));
    format!(
        "{}\n[load_balancers.web]\ndefault_pools = ['a', 'b']\nfallback_pool = 'c'\n{lines}\n{more}",
        pools.concat()
    )
}

fn policy_of(lines: &str) -> SteeringPolicy {
    let config = parse_text(&balanced(lines, "[node]\npop = 'FRA'\nregion = 'WEU'"))
        .unwrap()
        .config;
    config.load_balancers[0].steering_policy
}

#[test]
fn every_steering_policy_is_taken() {
    for policy in SteeringPolicy::ALL {
        assert_eq!(
            policy_of(&format!("steering_policy = '{}'", policy.name())),
            policy
        );
    }
    let places = "pop_pools = { FRA = ['b'] }";
    for (lines, policy) in [
        ("", SteeringPolicy::Off),
        ("steering_policy = ''", SteeringPolicy::Off),
        (places, SteeringPolicy::Geo),
        (
            "region_pools = { WEU = ['b'] }\nsteering_policy = ''",
            SteeringPolicy::Geo,
        ),
        ("region_pools = {}\nsteering_policy = ''", SteeringPolicy::Off),
        (
            "pop_pools = { FRA = ['b'] }\nsteering_policy = 'random'",
            SteeringPolicy::Random,
        ),
    ] {
        assert_eq!(policy_of(lines), policy, "{lines}");
    }
}

#[test]
fn pools_are_listed_by_place() {
    let lines = "
        pop_pools = { FRA = ['b', 'a'] }
        country_pools = { DE = ['a'], FR = ['c'] }
        region_pools = { WEU = ['b'] }
        [[load_balancers.web.pool_sets]]
        name = 'asia'
        match = { topology = { countries = ['JP', 'KR'], regions = ['WEU'], pops = ['FRA'] } }
        overrides = { pools = ['c'], steering_policy = 'hash', pool_weights = { c = 0.3 }, pool_default_weight = 0.5, fallback_pool = 'a' }
        [[load_balancers.web.pool_sets]]
        disabled = true
        match = { default = true }
        overrides = {}
    ";
    let more = "[node]\npop = 'FRA'\nregion = 'WEU'\ncountry = 'DE'";
    let loaded = parse_text(&balanced(lines, more)).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let balancer = &loaded.config.load_balancers[0];
    assert_eq!(balancer.geo.pops["FRA"], ["b", "a"]);
    assert_eq!(balancer.geo.countries[&Country::new(*b"FR")], ["c"]);
    assert_eq!(balancer.geo.regions["WEU"], ["b"]);
    let [asia, rest] = &balancer.pool_sets[..] else {
        panic!("two sets")
    };
    assert_eq!((asia.name.as_str(), asia.disabled), ("asia", false));
    assert_eq!(
        asia.topology.countries,
        [Country::new(*b"JP"), Country::new(*b"KR")]
    );
    assert_eq!(asia.pools.as_deref(), Some(&["c".to_owned()][..]));
    assert_eq!(asia.steering_policy, SteeringPolicy::Hash);
    assert_eq!(asia.fallback_pool.as_deref(), Some("a"));
    let weights = asia.weights.as_ref().unwrap();
    assert_eq!(
        (weights.of("c").hundredths(), weights.of("a").hundredths()),
        (30, 50)
    );
    assert_eq!((rest.name.as_str(), rest.disabled), ("#2", true));
    assert_eq!((&rest.topology, &rest.pools), (&Topology::default(), &None));
}

#[test]
fn pools_say_what_they_give_up_and_where_they_are() {
    let text = "
        [pools.a]
        load_shedding = { default_percent = 12.5, default_policy = 'hash', session_percent = 3, session_policy = 'hash' }
        origin_steering = { policy = 'least_connections' }
        latitude = 50.1
        longitude = -8
        origins = { x = { address = '10.0.0.1' } }
    ";
    let pool = &parse_text(text).unwrap().config.pools[0];
    assert_eq!(
        pool.load_shedding,
        LoadShedding {
            default_percent: 12.5,
            default_policy: SheddingPolicy::Hash,
            session_percent: 3.0,
        }
    );
    assert_eq!(pool.origin_steering, OriginSteering::LeastConnections);
    let coordinates = pool.coordinates.unwrap();
    assert_eq!((coordinates.latitude, coordinates.longitude), (50.1, -8.0));
}
