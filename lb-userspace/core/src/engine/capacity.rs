//! How many map rows a configuration needs.

use super::buckets;
use super::design::pool_grain;
use super::layout::Full;
use super::names::Names;
use super::routing::{ORDERED_POOLS, Traffic, balancer_routes, list_grain};
use crate::image::Capacity;
use crate::maglev::{Grain, table_size};
use crate::model::{Application, Config, Destination, Forwarding, Host, LoadBalancer, LoadShedding, Pool};
use crate::steering::{CLASSES, Family, Route};
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// Room for clients before anybody asks for it.
const FEW_CLIENTS: u32 = 16_384;

/// Addresses of a host name for which new maps have room; with more of them the room to grow shrinks.
const EXPECTED_ADDRESSES: usize = 8;

/// Rows for interfaces' own source addresses: more than a machine has interfaces that lead to origins.
const SOURCES: usize = 64;

/// The rows that a configuration needs in the worst state of health.
pub fn required_capacity(config: &Config) -> Capacity {
    let rows = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let twice = |number: usize| rows(number).saturating_mul(2);
    let mut origins = 1usize;
    let mut pools = config.pools.len();
    let mut addresses = BTreeSet::new();
    let mut named = 0;
    let mut add = |host: &Host| match host {
        Host::Address(address) => {
            origins += 1;
            addresses.insert(*address);
        }
        Host::Name(_) => {
            origins += EXPECTED_ADDRESSES;
            named += EXPECTED_ADDRESSES;
        }
    };
    for pool in &config.pools {
        pool.origins.iter().for_each(|origin| add(&origin.address));
    }
    for application in &config.applications {
        if let Destination::Direct(direct) = &application.destination {
            pools += 1;
            direct.iter().for_each(|origin| add(&origin.address));
        }
    }
    let sources = config.datapath.snat_addresses.len() + SOURCES;
    let origins_of_pools = config.pools.iter().flat_map(|pool| &pool.origins);
    let dnat: usize = origins_of_pools
        .filter(|origin| origin.forwarding == Forwarding::Dnat)
        .map(|origin| count(&origin.address, None, None))
        .sum();
    let (mut listeners, mut spans) = (0, 0);
    for application in &config.applications {
        listeners += application.addresses.len();
        if application.ports.is_range() {
            spans += application.addresses.len();
        }
    }
    let lists = config.applications.iter().map(|application| &application.access);
    let lists: BTreeSet<_> = lists.chain([&config.datapath.access]).flatten().collect();
    let (mut prefixes, mut countries) = (1, 1);
    for list in lists {
        prefixes += list.allow.len() + list.deny.len() + 2;
        countries += list.allow_countries.len() + list.deny_countries.len() + 1;
    }
    // Clients come and go: those of a part of the flows are remembered.
    let remembers = |application: &Application| {
        application.affinity.is_some() || application.limits.new_flows_per_second_per_source.is_some()
    };
    let clients = match config.applications.iter().any(remembers) {
        true => (config.datapath.max_flows / 4).max(FEW_CLIENTS),
        false => FEW_CLIENTS,
    };
    // Applications share the routes of their load balancer.
    let served = lists_in_use(config);
    let routed = |balancer: &LoadBalancer| {
        let lists = served.get(balancer.name.as_str()).map_or(0, BTreeSet::len);
        match lists {
            0 => 0,
            lists => balancer_routes(config, balancer).by_country.len() * lists,
        }
    };
    let routes = config.load_balancers.iter().map(routed).sum();
    Capacity {
        applications: twice(listeners),
        // Origins that are gone and drain still answer.
        vips: twice(listeners + sources + 2 * dnat),
        pools: twice(pools),
        // All origins may be replaced at once: the old ones drain.
        origins: twice(origins),
        // All origins may change their routers at once.
        hops: twice(addresses.len() + named + 1),
        snat_addresses: rows(sources),
        // Two generations, and half of one because the free space is not in one piece.
        slots: u32::try_from(slots(config, None) * 5 / 2).unwrap_or(u32::MAX),
        application_rows: rows(config.applications.len()),
        // As slots.
        spans: u32::try_from(spans * 5 / 2 + 1).unwrap_or(u32::MAX),
        // The default rules of each list, one for each family, stand with its prefixes, and that for other countries with its countries.
        access_prefixes: twice(prefixes),
        country_rules: twice(countries),
        country_prefixes: twice(config.geoip.as_ref().map_or(0, |table| table.rows().len())).max(1),
        clients,
        routes: twice(routes),
        buckets: u32::try_from(bucket_rows(config)).unwrap_or(u32::MAX),
    }
}

/// Slots of one generation in the worst state of health, with the addresses that host names have or may have.
fn slots(config: &Config, names: Option<&Names>) -> u64 {
    let mut slots = 0;
    let fallbacks: BTreeSet<&str> = config
        .load_balancers
        .iter()
        .flat_map(|balancer| balancer.fallback_pools())
        .collect();
    let mut pools: BTreeMap<&str, &Pool> = BTreeMap::new();
    for pool in &config.pools {
        pools.insert(&pool.name, pool);
        let grain = pool_grain(pool.origin_steering, has_direct(pool));
        let roles = if fallbacks.contains(pool.name.as_str()) {
            2
        } else {
            1
        };
        for family in Family::ALL {
            let members = pool.origins.iter().map(|origin| {
                let family = (!origin.forwarding.is_direct()).then_some(family);
                count(&origin.address, family, names)
            });
            let members: usize = members.sum();
            slots += roles * u64::from(table_size(members, grain));
        }
    }
    for application in &config.applications {
        if let Destination::Direct(direct) = &application.destination {
            // The tables of each family, and a list of the one pool.
            let members = direct.iter().map(|origin| count(&origin.address, None, names));
            slots += u64::from(table_size(members.sum(), Grain::Coarse)) * 2 + 1;
        }
    }
    let served = lists_in_use(config);
    for balancer in &config.load_balancers {
        let Some(served) = served.get(balancer.name.as_str()) else {
            continue;
        };
        // Equal lists stand once.
        let routes = balancer_routes(config, balancer);
        let mut lists: Vec<&Route<'_>> = Vec::new();
        for route in routes.all() {
            let same = |known: &&Route<'_>| {
                (known.pools, known.policy, known.weights) == (route.pools, route.policy, route.weights)
            };
            if !lists.iter().any(same) {
                lists.push(route);
            }
        }
        for family in Family::ALL {
            let traffic = |traffic| served.contains(&(family, traffic));
            let served = [Traffic::Connections, Traffic::Sessions].map(traffic);
            let lists = lists.iter();
            slots += lists.map(|route| list_slots(&pools, route, served)).sum::<u64>();
        }
    }
    slots
}

/// Buckets of the applications whose TCP flows may need no entries, and as many again for those that come while these are there.
fn bucket_rows(config: &Config) -> u64 {
    let direct = |pool: &Pool| pool.origins.iter().all(|origin| origin.forwarding.is_direct());
    let sizes: BTreeMap<&str, u32> = config
        .pools
        .iter()
        .filter(|pool| direct(pool))
        .map(|pool| {
            let members = pool
                .origins
                .iter()
                .map(|origin| count(&origin.address, None, None));
            (pool.name.as_str(), table_size(members.sum(), Grain::Fine))
        })
        .collect();
    let of = |balancer: &LoadBalancer| {
        let slots = balancer.pools().filter_map(|name| sizes.get(name));
        slots.max().map_or(0, |slots| 2u64 << buckets::bits(*slots))
    };
    let rows: BTreeMap<&str, u64> = config
        .load_balancers
        .iter()
        .map(|balancer| (balancer.name.as_str(), of(balancer)))
        .collect();
    let served = config
        .applications
        .iter()
        .filter_map(|application| match &application.destination {
            Destination::LoadBalancer(name) => rows.get(name.as_str()),
            Destination::Direct(_) => None,
        });
    2 * served.sum::<u64>()
}

/// How many addresses a host has, of one family or of both. Of a name that nobody has looked up yet it is a guess.
fn count(host: &Host, family: Option<Family>, names: Option<&Names>) -> usize {
    let of_family = |address: &IpAddr| family.is_none_or(|family| Family::of(*address) == family);
    match (host, names) {
        (Host::Address(address), _) => usize::from(of_family(address)),
        (Host::Name(_), None) => EXPECTED_ADDRESSES,
        (Host::Name(_), Some(names)) => names.addresses(host).iter().filter(|a| of_family(a)).count(),
    }
}

/// By load balancer, for whom it needs lists.
fn lists_in_use(config: &Config) -> BTreeMap<&str, BTreeSet<(Family, Traffic)>> {
    let mut served: BTreeMap<&str, BTreeSet<(Family, Traffic)>> = BTreeMap::new();
    for application in &config.applications {
        if let Destination::LoadBalancer(name) = &application.destination {
            let addresses = application.addresses.iter().copied();
            let traffic = Traffic::of(application);
            let lists = addresses.map(|address| (Family::of(address), traffic));
            served.entry(name).or_default().extend(lists);
        }
    }
    served
}

fn has_direct(pool: &Pool) -> bool {
    pool.origins.iter().any(|origin| origin.forwarding.is_direct())
}

/// Slots of a route's lists in one family, when there are connections and sessions.
fn list_slots(pools: &BTreeMap<&str, &Pool>, route: &Route<'_>, [connections, sessions]: [bool; 2]) -> u64 {
    let listed = || route.pools.iter().filter_map(|name| pools.get(name.as_str()));
    let sheds = |sheds: fn(&LoadShedding) -> bool| listed().any(|pool| sheds(&pool.load_shedding));
    let grain = list_grain(route.policy, listed().any(|pool| has_direct(pool)));
    let size = match route.policy.is_weighted() {
        true => u64::from(table_size(route.pools.len(), grain)),
        false => route.pools.len().min(ORDERED_POOLS) as u64,
    };
    let fine = u64::from(table_size(route.pools.len(), Grain::Fine));
    let shedding = match route.policy.is_weighted() {
        true => fine.max(u64::from(CLASSES)),
        false => u64::from(CLASSES),
    };
    let of = |applies: bool, sheds: bool| match (applies, sheds) {
        (false, _) => 0,
        (true, false) => size,
        (true, true) => shedding,
    };
    let default_sheds = sheds(|shedding| shedding.default_percent > 0.0);
    let sessions_shed = sheds(|shedding| shedding.session_percent > 0.0);
    let lists = [
        of(connections, default_sheds),
        of(sessions, default_sheds || sessions_shed),
    ];
    match sessions_shed {
        true => lists.iter().sum(),
        // Both have the same.
        false => lists.into_iter().max().unwrap_or(0),
    }
}

/// Refuses what would fit only as long as some origins are down.
pub fn check_slots(config: &Config, names: &Names, capacity: &Capacity) -> Result<(), Full> {
    let (needed, available) = (2 * slots(config, Some(names)), u64::from(capacity.slots));
    if needed <= available {
        Ok(())
    } else {
        Err(Full {
            what: "slots (two generations)",
            needed,
            available,
        })
    }
}
