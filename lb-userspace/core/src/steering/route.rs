//! Which pools a flow from some place may go to.

use crate::model::{LoadBalancer, Node, PoolSet, PoolWeights, SteeringPolicy, Topology, Weight};
use lb_common::abi::Country;
use std::fmt;

/// Where a flow comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place<'a> {
    /// The node's.
    pub pop: Option<&'a str>,
    /// The node's.
    pub region: Option<&'a str>,
    /// The client's; `None`: one that nothing is said about.
    pub country: Option<Country>,
}

/// What a load balancer does with the flows of one place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Route<'a> {
    pub source: Source<'a>,
    /// In failover order; at least one.
    pub pools: &'a [String],
    pub policy: SteeringPolicy,
    pub weights: &'a PoolWeights,
    /// The pool of last resort.
    pub fallback: Option<&'a str>,
}

impl<'a> Route<'a> {
    /// The pools that get flows whenever they are usable.
    pub fn competitors(&self) -> impl Iterator<Item = &'a str> {
        let (pools, weights, weighted) = (self.pools, self.weights, self.policy.is_weighted());
        let names = pools.iter().map(String::as_str);
        names.filter(move |name| !weighted || weights.of(name) > Weight::ZERO)
    }
}

/// Why these pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source<'a> {
    DefaultPools,
    PopPools(&'a str),
    CountryPools(Country),
    RegionPools(&'a str),
    PoolSet(&'a str),
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultPools => f.write_str("default_pools"),
            Self::PopPools(pop) => write!(f, "pop_pools.{pop}"),
            Self::CountryPools(country) => write!(f, "country_pools.{country}"),
            Self::RegionPools(region) => write!(f, "region_pools.{region}"),
            Self::PoolSet(name) => write!(f, "pool set {name}"),
        }
    }
}

/// What a load balancer does on one node.
#[derive(Clone, PartialEq, Debug)]
pub struct Routes<'a> {
    /// Of all clients but those below.
    pub main: Route<'a>,
    /// By the client's country; [`Country::UNKNOWN`] for clients whose country is not known.
    pub by_country: Vec<(Country, Route<'a>)>,
}

impl<'a> Routes<'a> {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Route<'a>> {
        core::iter::once(&self.main).chain(self.by_country.iter().map(|(_, route)| route))
    }

    /// That of a client's country; `None`: not known.
    #[must_use]
    pub fn of(&self, country: Option<Country>) -> &Route<'a> {
        let country = country.unwrap_or(Country::UNKNOWN);
        let found = self.by_country.iter().find(|(known, _)| *known == country);
        found.map_or(&self.main, |(_, route)| route)
    }
}

/// What a load balancer does on a node. With `has_countries` the countries of clients are known, with exceptions;
/// where one is not, the node's own counts.
#[must_use]
pub fn routes<'a>(balancer: &'a LoadBalancer, node: &'a Node, has_countries: bool) -> Routes<'a> {
    let home = node.country.as_deref().and_then(Country::parse);
    let at = |country| {
        route(
            balancer,
            Place {
                pop: node.pop.as_deref(),
                region: node.region.as_deref(),
                country,
            },
        )
    };
    if !has_countries {
        return Routes {
            main: at(home),
            by_country: Vec::new(),
        };
    }
    let main = at(None);
    let mentioned = balancer.countries().into_iter();
    let mentioned = mentioned.map(|country| (country, at(Some(country))));
    let by_country = core::iter::once((Country::UNKNOWN, at(home))).chain(mentioned);
    Routes {
        main,
        by_country: by_country.filter(|(_, route)| *route != main).collect(),
    }
}

/// What a load balancer does with the flows of a place.
fn route<'a>(balancer: &'a LoadBalancer, place: Place<'_>) -> Route<'a> {
    let fallback = balancer.fallback_pool.as_deref();
    let mut sets = balancer.pool_sets.iter().filter(|set| !set.disabled);
    if let Some(set) = sets.find(|set| matches(&set.topology, place)) {
        return Route {
            fallback: set.fallback_pool.as_deref().or(fallback),
            ..overridden(balancer, set)
        };
    }
    let (source, pools) = match balancer.steering_policy {
        SteeringPolicy::Geo => geo(balancer, place),
        _ => (Source::DefaultPools, balancer.default_pools.as_slice()),
    };
    Route {
        source,
        pools,
        policy: balancer.steering_policy,
        weights: &balancer.random_steering,
        fallback,
    }
}

fn overridden<'a>(balancer: &'a LoadBalancer, set: &'a PoolSet) -> Route<'a> {
    Route {
        source: Source::PoolSet(&set.name),
        pools: set.pools.as_ref().unwrap_or(&balancer.default_pools),
        policy: set.steering_policy,
        weights: set.weights.as_ref().unwrap_or(&balancer.random_steering),
        fallback: None,
    }
}

fn matches(topology: &Topology, place: Place<'_>) -> bool {
    fn holds<T, U: ?Sized + PartialEq<T>>(list: &[T], item: Option<&U>) -> bool {
        list.is_empty() || item.is_some_and(|item| list.iter().any(|listed| item == listed))
    }
    holds(&topology.pops, place.pop)
        && holds(&topology.regions, place.region)
        && holds(&topology.countries, place.country.as_ref())
}

/// The list of the narrowest place that has one.
fn geo<'a>(balancer: &'a LoadBalancer, place: Place<'_>) -> (Source<'a>, &'a [String]) {
    let geo = &balancer.geo;
    let pop = place.pop.and_then(|pop| geo.pops.get_key_value(pop));
    let country = place
        .country
        .and_then(|country| geo.countries.get_key_value(&country));
    let region = place.region.and_then(|region| geo.regions.get_key_value(region));
    match (pop, country, region) {
        (Some((pop, pools)), _, _) => (Source::PopPools(pop), pools),
        (None, Some((country, pools)), _) => (Source::CountryPools(*country), pools),
        (None, None, Some((region, pools))) => (Source::RegionPools(region), pools),
        (None, None, None) => (Source::DefaultPools, &balancer.default_pools),
    }
}
