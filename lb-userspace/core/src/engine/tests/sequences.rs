//! Whatever happens in whatever order, the maps make sense after every single write.

use super::world::*;
use crate::engine::{Environment, Event, LookupFailure, Path, Report};
use crate::health::{FailureReason, OriginHealth};
use crate::image::Capacity;
use crate::model::*;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{Country, OriginId, OriginState};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    Configure(Box<Config>),
    /// Kills or revives the origin with this last byte, and lets the probes find out.
    Toggle(u8),
    /// Answers no probe for a while.
    Silence,
    /// Each watched address is reached by the router of its turn; 3: not at all, 4: silent neighbour.
    Paths(Vec<u8>),
    Restart,
    /// The first origins that are not configured any more have no flows.
    Drained,
    /// A lookup of this name ends so.
    Resolved(u8, Result<Vec<u8>, LookupFailure>),
    /// Origins have so many open flows, in turn.
    OpenFlows(Vec<u64>),
}

fn address(number: u8) -> IpAddr {
    if number < 12 {
        ip(&format!("10.0.0.{number}"))
    } else {
        ip(&format!("2001:db8::{number}"))
    }
}

fn host_name(number: u8) -> String {
    format!("origins-{number}.example.com")
}

/// One of a few access lists.
fn access(number: usize) -> Arc<Access> {
    let prefixes = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let mut access = Access::default();
    match number {
        0 => access.allow = prefixes(&["10.0.0.0/8"]),
        1 => access.deny = prefixes(&["10.0.0.0/8", "2001:db8::/32"]),
        2 => access.allow_countries = vec![Country::new(*b"DE")],
        3 => access.deny_countries = vec![Country::new(*b"FR"), Country::new(*b"US")],
        _ => {
            access.allow = prefixes(&["192.0.2.0/24"]);
            access.deny = prefixes(&["192.0.2.7"]);
            access.allow_countries = vec![Country::new(*b"DE")];
        }
    }
    Arc::new(access)
}

fn countries(version: usize) -> Arc<CountryTable> {
    let row = |prefix: &str, letters| (prefix.parse().unwrap(), Country::new(letters));
    Arc::new(CountryTable::new(match version {
        0 => vec![row("10.0.0.0/8", *b"DE")],
        _ => vec![row("10.0.0.0/9", *b"FR"), row("2001:db8::/32", *b"DE")],
    }))
}

fn any_range() -> impl Strategy<Value = (Ports, Transport)> {
    (79u16..90, 0u16..6, any::<bool>()).prop_map(|(first, more, tcp)| {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        (Ports::range(first, first + more).unwrap(), transport)
    })
}

fn any_forwarding() -> impl Strategy<Value = Forwarding> {
    prop_oneof![
        4 => Just(Forwarding::Nat),
        1 => Just(Forwarding::Dnat),
        1 => Just(Forwarding::DsrL2),
        1 => Just(Forwarding::DsrIpip),
        1 => (1u16..3).prop_map(|port| Forwarding::DsrGue { port }),
    ]
}

prop_compose! {
    fn any_pool(index: usize)(
        numbers in prop::collection::btree_set(1u8..16, 0..6),
        weights in prop::collection::vec(prop::sample::select(vec![0u8, 1, 30, 100]), 6),
        enabled in prop::collection::vec(prop::bool::weighted(0.85), 7),
        modes in prop::collection::vec(any_forwarding(), 6),
        named in prop::option::weighted(0.4, (0u8..3, any::<prop::sample::Index>())),
        monitored in prop::bool::weighted(0.7),
        minimum_origins in 0u32..3,
        drain_timeout in prop::sample::select(vec![0u64, 8, 300]),
        reset in any::<bool>(),
        origin_steering in prop::sample::select(vec![
            OriginSteering::Random,
            OriginSteering::Random,
            OriginSteering::Hash,
            OriginSteering::LeastConnections,
        ]),
        load_shedding in any_shedding(),
        placed in any::<bool>(),
    ) -> Pool {
        let name = format!("pool-{index}");
        let origins = numbers.iter().zip(&weights).zip(&enabled).zip(&modes).map(|(((number, weight), enabled), mode)| Origin {
            name: format!("origin-{number}"),
            address: address(*number).into(),
            port: Some(80),
            weight: Weight::from_hundredths(*weight).unwrap(),
            enabled: *enabled,
            forwarding: *mode,
            host: None,
        });
        let mut origins: Vec<Origin> = origins.collect();
        if let Some((name, place)) = named
            && !origins.is_empty()
        {
            place.get_mut(&mut origins).address = Host::Name(host_name(name));
        }
        Pool {
            enabled: enabled[6],
            monitor: monitored.then(|| "check".to_owned()),
            minimum_origins,
            drain_timeout: Duration::from_secs(drain_timeout),
            on_unhealthy: if reset { OnUnhealthy::Reset } else { OnUnhealthy::Keep },
            origins,
            origin_steering,
            load_shedding,
            coordinates: placed.then_some(Coordinates { latitude: index as f64, longitude: 0.0 }),
            ..pool(&name, &[])
        }
    }
}

fn any_shedding() -> impl Strategy<Value = LoadShedding> {
    let percent = || prop::sample::select(vec![0.0, 0.0, 0.0, 0.5, 30.0, 100.0]);
    (percent(), any::<bool>(), percent()).prop_map(|(default_percent, hash, session_percent)| LoadShedding {
        default_percent,
        default_policy: if hash {
            SheddingPolicy::Hash
        } else {
            SheddingPolicy::Random
        },
        session_percent,
    })
}

fn any_list() -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(vec![0, 1, 2], 1..=3)
        .prop_shuffle()
        .prop_map(|pools| pools.iter().map(|pool| format!("pool-{pool}")).collect())
}

fn any_places() -> impl Strategy<Value = Topology> {
    let some = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let countries = prop::sample::subsequence(vec![Country::new(*b"DE"), Country::new(*b"FR")], 0..=2);
    (any::<bool>(), any::<bool>(), countries).prop_map(move |(pop, region, countries)| Topology {
        pops: if pop { some(&["FRA", "AMS"]) } else { Vec::new() },
        regions: if region { some(&["WEU"]) } else { Vec::new() },
        countries,
    })
}

prop_compose! {
    fn any_set()(
        disabled in prop::bool::weighted(0.2),
        topology in any_places(),
        pools in prop::option::of(any_list()),
        weighted in any::<bool>(),
        fallback in prop::option::weighted(0.3, 0usize..3),
        policy in prop::sample::select(SteeringPolicy::ALL.to_vec()),
    ) -> PoolSet {
        PoolSet {
            name: "set".into(),
            disabled,
            topology,
            pools,
            weights: weighted.then(|| weights(&[("pool-0", 0)], 50)),
            fallback_pool: fallback.map(|index| format!("pool-{index}")),
            steering_policy: if policy == SteeringPolicy::Geo { SteeringPolicy::Off } else { policy },
        }
    }
}

prop_compose! {
    /// A load balancer's steering of the three pools.
    fn any_balancer()(
        policy in prop::sample::select(SteeringPolicy::ALL.to_vec()),
        list in any_list(),
        light in any::<bool>(),
        geo in (prop::option::of(any_list()), prop::option::of(any_list()), prop::option::of(any_list())),
        sets in prop::collection::vec(any_set(), 0..3),
        fallback in prop::option::of(0usize..3),
    ) -> LoadBalancer {
        let (pop, country, region) = geo;
        LoadBalancer {
            default_pools: list,
            fallback_pool: fallback.map(|index| format!("pool-{index}")),
            steering_policy: policy,
            random_steering: if light { weights(&[("pool-1", 10)], 100) } else { PoolWeights::default() },
            geo: GeoPools {
                pops: pop.map(|list| ("FRA".to_owned(), list)).into_iter().collect(),
                countries: country.map(|list| (Country::new(*b"DE"), list)).into_iter().collect(),
                regions: region.map(|list| ("WEU".to_owned(), list)).into_iter().collect(),
            },
            pool_sets: sets,
            ..balancer("web", &[], None)
        }
    }
}

prop_compose! {
    fn any_node()(
        pop in prop::option::of(Just("FRA")),
        region in prop::option::of(Just("WEU")),
        country in prop::option::of(Just("DE")),
        placed in any::<bool>(),
    ) -> Node {
        Node {
            pop: pop.map(Into::into),
            region: region.map(Into::into),
            country: country.map(Into::into),
            latitude: placed.then_some(1.9),
            longitude: placed.then_some(0.0),
            ..config().node
        }
    }
}

prop_compose! {
    fn any_config()(
        pools in (any_pool(0), any_pool(1), any_pool(2)),
        balancer in any_balancer(),
        node in any_node(),
        datagrams in any::<bool>(),
        applications in prop::collection::btree_set(0u8..4, 0..4),
        ranges in prop::collection::vec(any_range(), 0..3),
        lists in prop::collection::vec(prop::option::weighted(0.4, 0usize..5), 3),
        geoip in 0usize..2,
        direct_name in any::<bool>(),
        interval in 1u64..6,
        source in prop::option::weighted(0.3, Just("198.51.100.9")),
    ) -> Config {
        let mut config = web(vec![pools.0, pools.1, pools.2], None);
        config.monitors[0].interval = Duration::from_secs(interval);
        config.datapath.snat_addresses = source.into_iter().map(ip).collect();
        config.node = node;
        config.load_balancers = vec![balancer];
        config.applications = applications
            .into_iter()
            .map(|number| {
                let mut new = application(&format!("app-{number}"), &format!("203.0.113.{number}"), "web");
                new.addresses.push(ip(&format!("2001:db8:1::{number}")));
                if number == 2 && datagrams {
                    new.transport = Transport::Udp;
                }
                if number == 3 {
                    let origin = |address| DirectOrigin { address, record_type: RecordType::Any, port: 90 };
                    let mut origins = vec![origin(address(11).into())];
                    if direct_name {
                        origins.push(origin(Host::Name(host_name(0))));
                    }
                    new.destination = Destination::Direct(origins);
                }
                new
            })
            .collect();
        config.datapath.access = lists[0].map(access);
        for (application, list) in config.applications.iter_mut().zip(&lists[1..]) {
            application.access = list.map(access);
        }
        let asks = |access: &Option<Arc<Access>>| access.as_ref().is_some_and(|access| access.has_countries());
        let steers = !config.load_balancers[0].countries().is_empty();
        if steers && datagrams || asks(&config.datapath.access) || config.applications.iter().any(|application| asks(&application.access)) {
            config.geoip = Some(countries(geoip));
        }
        for (number, (ports, transport)) in (0..).zip(ranges) {
            let mut new = application(&format!("range-{number}"), "203.0.113.0", "web");
            (new.ports, new.transport) = (ports, transport);
            new.addresses.push(ip("203.0.113.1"));
            let overlaps = |other: &Application| {
                other.transport == transport
                    && other.ports.first() <= ports.last()
                    && ports.first() <= other.ports.last()
            };
            if !config.applications.iter().any(overlaps) {
                config.applications.push(new);
            }
        }
        config
    }
}

/// Addresses of origins, of VIPs (from 20 on), and some that nobody can have (0).
fn any_answer() -> impl Strategy<Value = Result<Vec<u8>, LookupFailure>> {
    let numbers = prop::sample::subsequence(vec![0u8, 1, 2, 3, 11, 12, 13, 20], 0..=5).prop_shuffle();
    prop_oneof![
        5 => numbers.prop_map(Ok),
        1 => Just(Err(LookupFailure::UnknownHost)),
        1 => Just(Err(LookupFailure::Failed("no answer".into()))),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any_config().prop_map(|config| Step::Configure(Box::new(config))),
        4 => (1u8..16).prop_map(Step::Toggle),
        3 => (0u8..3, any_answer()).prop_map(|(name, answer)| Step::Resolved(name, answer)),
        1 => Just(Step::Silence),
        2 => prop::collection::vec(0u8..5, 1..16).prop_map(Step::Paths),
        1 => Just(Step::Restart),
        1 => Just(Step::Drained),
        2 => prop::collection::vec(0u64..40, 1..6).prop_map(Step::OpenFlows),
    ]
}

fn step(world: &mut World, config: &mut Config, step: Step) {
    match step {
        Step::Configure(new) => {
            world.configure((*new).clone());
            if world
                .reports
                .pop_if(|report| matches!(report, Report::Refused(_)))
                .is_some()
            {
                // Numbers were missing, and they are there again when no flow means them any more.
                let gone = gone(world);
                world.handle(Event::Drained(gone));
                world.configure((*new).clone());
            }
            *config = *new;
            world.run(1);
        }
        Step::Toggle(number) => {
            let address = address(number);
            if !world.dead.remove(&address) {
                world.dead.insert(address);
            }
            world.run(7);
        }
        Step::Silence => {
            world.silent = true;
            world.run(12);
            world.silent = false;
            world.run(1);
        }
        Step::Resolved(number, Ok(numbers)) => {
            let named = |number: &u8| match number {
                0 => "0.0.0.0".to_owned(),
                20 => "203.0.113.0".to_owned(),
                number => address(*number).to_string(),
            };
            let addresses: Vec<String> = numbers.iter().map(named).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            world.resolve(&host_name(number), &addresses);
        }
        Step::Resolved(number, Err(failure)) => world.fail_to_resolve(&host_name(number), failure),
        Step::Paths(routers) => {
            let watched = world.watched.clone();
            let paths: BTreeMap<IpAddr, Path> = watched
                .into_iter()
                .zip(routers.iter().cycle())
                .filter(|(_, router)| **router != 3)
                .map(|(address, router)| {
                    let mut path = path(address, *router);
                    if let Path::Via { neighbour, .. } = &mut path
                        && *router == 4
                    {
                        *neighbour = None;
                    }
                    (address, path)
                })
                .collect();
            world.handle(Event::Paths(paths));
        }
        Step::Restart => {
            let served = world.serving("203.0.113.0");
            let mut next = world.restart(world.saved.clone());
            next.routed = false;
            next.configure(config.clone());
            if !follows_figures(config) {
                assert_eq!(
                    next.serving("203.0.113.0"),
                    served,
                    "a restart changes nothing by itself"
                );
            }
            next.routed = true;
            next.watched.clone_from(&world.watched);
            let paths = next
                .watched
                .iter()
                .map(|address| (*address, path(*address, 0)))
                .collect();
            next.handle(Event::Paths(paths));
            *world = next;
        }
        Step::OpenFlows(counts) => {
            let origins: Vec<_> = world.maps.origins.keys().copied().collect();
            let counts = origins.into_iter().zip(counts.into_iter().cycle()).collect();
            world.handle(Event::OpenFlows(counts));
            world.run(1);
        }
        Step::Drained => {
            let gone = gone(world).into_iter().take(3).collect();
            world.handle(Event::Drained(gone));
        }
    }
}

/// Whether steering goes by what a new daemon has to find out first.
fn follows_figures(config: &Config) -> bool {
    let moves = |policy: SteeringPolicy| policy.counts_flows() || policy == SteeringPolicy::DynamicLatency;
    config
        .pools
        .iter()
        .any(|pool| pool.origin_steering.counts_flows())
        || config.load_balancers.iter().any(|balancer| balancer.uses(moves))
}

/// Every application that some pool could serve finds somebody for every flow, and nobody else gets any.
fn check_service(world: &World, config: &Config) {
    let routed = world.maps.origins.values().all(|origin| {
        let hop = world.maps.hops.get(&origin.hop);
        hop.is_some_and(|hop| hop.resolved != 0)
    });
    let Some(balancer) = world.view().load_balancers.first().filter(|_| routed) else {
        return;
    };
    let usable = |name: &str, v4: bool| {
        let pool = world.pool(name);
        let health = pool.health != crate::health::GroupHealth::Critical
            && pool.health != crate::health::GroupHealth::Disabled;
        let serves = |origin: &crate::view::OriginView| {
            let of_family = origin.address.is_some_and(|address| address.is_ipv4() == v4);
            (origin.forwarding.is_direct() || of_family)
                && origin.weight > Weight::ZERO
                && origin.health == OriginHealth::Healthy
        };
        let enough = pool.healthy_origins >= pool.minimum_origins
            || config
                .pool(name)
                .is_some_and(|pool| pool.monitor.is_none() && pool.monitor_group.is_none());
        health && enough && pool.origins.iter().any(serves)
    };
    for route in &balancer.routes {
        let country = route.countries.first().copied().unwrap_or(Country::new(*b"??"));
        for vip in ["203.0.113.0", "2001:db8:1::0"] {
            let listens = |application: &Application| application.name == "app-0";
            if !config.applications.iter().any(listens) {
                continue;
            }
            let positive = |pool: &&crate::view::RoutedPool| !pool.why.contains("never picked");
            let mut pools = route.pools.iter().filter(positive);
            let living = pools.any(|pool| usable(&pool.name, !vip.contains(':')));
            for flow in 0..64 {
                let found = world.maps.select_from(country, vip, crate::maglev::mix(flow));
                assert!(!living || found.is_some(), "{vip} {route:?}");
            }
        }
    }
}

/// Origins with a record that are not in the configuration any more.
fn gone(world: &World) -> Vec<OriginId> {
    let pools = world.view().pools.iter();
    let configured: BTreeSet<_> = pools
        .flat_map(|pool| &pool.origins)
        .map(|origin| origin.id)
        .collect();
    let known = world.maps.origins.keys();
    known.filter(|id| !configured.contains(id)).copied().collect()
}

/// What the maps say of origins agrees with what the view says.
fn check_states(world: &World) {
    let origins = world.view().pools.iter().flat_map(|pool| &pool.origins);
    for origin in origins.filter(|origin| origin.address.is_some()) {
        let expected = match origin.health {
            OriginHealth::Healthy => OriginState::UP,
            OriginHealth::Unhealthy | OriginHealth::Unknown => OriginState::DOWN,
            OriginHealth::Disabled if origin.drain_deadline.is_some_and(|end| end > world.now) => {
                OriginState::DRAINING
            }
            OriginHealth::Disabled => OriginState::ENDED,
        };
        assert_eq!(world.maps.origins[&origin.id].state, expected, "{origin:?}");
    }
    let configured = world
        .view()
        .pools
        .iter()
        .flat_map(|pool| &pool.origins)
        .map(|origin| origin.id);
    let configured: Vec<_> = configured.collect();
    for (id, record) in &world.maps.origins {
        let drains = matches!(record.state, OriginState::DRAINING | OriginState::ENDED);
        assert!(configured.contains(id) || record.identity == 0 || drains);
    }
    // The tables of the live generation follow health exactly: whoever is in a steered table is up.
    for (row, pool) in &world.maps.pools {
        if row & 1 == u32::from(world.maps.settings.parity().0) {
            let known = world.view().pools.len() as u32 * 2;
            if *row < known {
                for table in &pool.tables[..2] {
                    for owner in world.maps.owners(table) {
                        assert_eq!(world.maps.origins[&owner].state, OriginState::UP);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_number_in_every_table_resolves_after_every_write(
        first in any_config(), steps in prop::collection::vec(any_step(), 1..14)
    ) {
        let mut config = first;
        // So few rows that numbers are used again.
        let capacity = Capacity { origins: 60, hops: 12, snat_addresses: 4, ..capacity() };
        let mut world = World::new(Environment { capacity, ..environment() });
        world.configure(config.clone());
        world.run(1);
        for next in steps {
            step(&mut world, &mut config, next);
            check_states(&world);
            check_service(&world, &config);
        }
        prop_assert!(!world.reports.iter().any(|report| matches!(report, Report::Refused(_))));
    }

    #[test]
    fn the_same_events_give_the_same_writes(config in any_config(), dead in prop::collection::vec(1u8..16, 0..4)) {
        let run = || {
            let mut world = World::new(Environment { seed: 7, ..environment() });
            world.configure(config.clone());
            world.run(3);
            for number in &dead {
                world.dead.insert(address(*number));
                world.run(7);
            }
            (world.applied, world.reports)
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn a_lost_answer_counts_as_a_timeout() {
    let mut world = World::settled(web(vec![pool("first", &["10.0.0.1"])], None));
    world.silent = true;
    world.run(12);
    assert_eq!(
        world.origin("10.0.0.1").failure_reason,
        Some(FailureReason::TcpTimeout)
    );
}
