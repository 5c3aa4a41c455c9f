//! The view of load balancers: where new flows go, and why.

use super::State;
use super::plan::Route as Destination;
use super::routing::{Traffic, balancer_routes};
use super::shares::Shares;
use crate::health::GroupHealth;
use crate::model::{Application, Config, LoadBalancer, SheddingPolicy, SteeringPolicy, Weight};
use crate::steering::{BalancerStanding, Family, PoolStanding, Route, Routes, balancer_standing};
use crate::view::{LoadBalancerView, RouteView, RoutedPool};
use lb_common::abi::Country;
use std::collections::BTreeSet;

impl State {
    /// Whether new flows of some place go to a fallback pool.
    pub(super) fn is_on_fallback(&self, config: &Config, balancer: &LoadBalancer) -> bool {
        let routes = balancer_routes(config, balancer);
        balancer.enabled && routes.all().any(|route| self.falls_back(route))
    }

    fn falls_back(&self, route: &Route<'_>) -> bool {
        route.fallback.is_some() && self.candidates(route, None, Traffic::Connections).is_empty()
    }

    /// Where new flows of a route go, by pool, 0 to 1; in one family or in any.
    fn route_shares<'a>(
        &self,
        route: &Route<'a>,
        family: Option<Family>,
        traffic: Traffic,
        known: &mut Shares,
    ) -> Vec<(&'a str, f64)> {
        let candidates = self.candidates(route, family, traffic);
        let last_resort = self.last_resort(route, family);
        match candidates.is_empty() {
            true => last_resort.map(|pool| (pool, 1.0)).into_iter().collect(),
            false => candidates.shares(
                |name| self.plan.pool_identity(name),
                last_resort,
                |table| known.counts(table),
            ),
        }
    }

    /// The pool with the largest share of the application's new flows (at its first address), and whether it is the
    /// fallback pool in that role.
    pub(super) fn pool_in_use(
        &self,
        config: &Config,
        application: &Application,
        destination: Destination,
        known: &mut Shares,
    ) -> (Option<String>, bool) {
        let Some(family) = application.addresses.first().map(|address| Family::of(*address)) else {
            return (None, false);
        };
        if !application.enabled {
            return (None, false);
        }
        match destination {
            Destination::Direct(index) => {
                let usable = self.standings[index].is_usable(family);
                (usable.then(|| self.plan.pools[index].name.clone()), false)
            }
            Destination::Balancer(index) => {
                let balancer = &config.load_balancers[index];
                if !balancer.enabled {
                    return (None, false);
                }
                let traffic = Traffic::of(application);
                if let Some(found) = known.in_use.get(&(index, family, traffic)) {
                    return found.clone();
                }
                let route = balancer_routes(config, balancer).main;
                let mut shares = self.route_shares(&route, Some(family), traffic, known);
                // Stable: of equal shares the first pool of the list wins.
                shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
                let first = shares.first().map(|(pool, _)| (*pool).to_owned());
                let falls_back = self.candidates(&route, Some(family), traffic).is_empty();
                let found = (first.clone(), first.is_some() && falls_back);
                known.in_use.insert((index, family, traffic), found.clone());
                found
            }
        }
    }

    /// Judges an enabled load balancer.
    fn balancer_standing(&self, routes: &Routes<'_>) -> BalancerStanding {
        let standing = |pool: &str| -> Option<PoolStanding> { Some(self.standings[self.plan.pool(pool)?]) };
        let listed = routes.all().flat_map(|route| route.pools);
        // Each once.
        let names: BTreeSet<&str> = listed.map(String::as_str).collect();
        let pools: Vec<PoolStanding> = names.into_iter().filter_map(standing).collect();
        let competitors = routes
            .all()
            .map(|route| route.competitors().filter_map(standing).collect());
        balancer_standing(&pools, &competitors.collect::<Vec<_>>())
    }

    pub(super) fn balancer_view(
        &self,
        config: &Config,
        balancer: &LoadBalancer,
        known: &mut Shares,
    ) -> LoadBalancerView {
        let found = balancer_routes(config, balancer);
        let standing = match balancer.enabled {
            true => self.balancer_standing(&found),
            false => BalancerStanding {
                health: GroupHealth::Disabled,
                awaits_results: false,
            },
        };
        let mut routes = vec![self.route_view(balancer, &found.main, Vec::new(), known)];
        let mut seen: Vec<&Route<'_>> = Vec::new();
        for (_, route) in &found.by_country {
            if !seen.contains(&route) {
                seen.push(route);
                let same = found.by_country.iter().filter(|(_, other)| other == route);
                let countries = same.map(|(country, _)| *country).collect();
                routes.push(self.route_view(balancer, route, countries, known));
            }
        }
        let pool_shares = routes.first().map_or_else(Vec::new, |route| {
            let shares = route.pools.iter().filter(|pool| pool.share > 0.0);
            shares.map(|pool| (pool.name.clone(), pool.share)).collect()
        });
        LoadBalancerView {
            name: balancer.name.clone(),
            health: standing.health,
            awaits_results: standing.awaits_results,
            steering_policy: balancer.steering_policy.name(),
            pool_shares,
            on_fallback: self.is_on_fallback(config, balancer),
            routes,
        }
    }

    fn route_view(
        &self,
        balancer: &LoadBalancer,
        route: &Route<'_>,
        countries: Vec<Country>,
        known: &mut Shares,
    ) -> RouteView {
        let shares = match balancer.enabled {
            true => self.route_shares(route, None, Traffic::Connections, known),
            false => Vec::new(),
        };
        let share = |name: &str| {
            let found = shares.iter().find(|(pool, _)| *pool == name);
            found.map_or(0.0, |(_, share)| *share)
        };
        let on_fallback = balancer.enabled && self.falls_back(route);
        let listed = route.pools.iter().map(|name| RoutedPool {
            name: name.clone(),
            share: share(name),
            why: self.reason(name, route),
        });
        let mut pools: Vec<RoutedPool> = listed.collect();
        if let Some(name) = route.fallback.filter(|name| share(name) > 0.0) {
            let why = match on_fallback {
                true => "fallback pool: no other pool can serve",
                false => "fallback pool: gets what all other pools give up",
            };
            match pools.iter_mut().find(|pool| pool.name == name) {
                Some(pool) if on_fallback => why.clone_into(&mut pool.why),
                Some(_) => {}
                None => pools.push(RoutedPool {
                    name: name.to_owned(),
                    share: share(name),
                    why: why.to_owned(),
                }),
            }
        }
        RouteView {
            countries,
            source: route.source.to_string(),
            steering_policy: route.policy.name(),
            fallback_pool: route.fallback.map(str::to_owned),
            on_fallback,
            pools,
        }
    }

    /// Why a pool of a route has the share that it has.
    fn reason(&self, name: &str, route: &Route<'_>) -> String {
        let Some(index) = self.plan.pool(name) else {
            return String::new();
        };
        let (pool, standing, figures) = (
            &self.plan.pools[index],
            &self.standings[index],
            self.figures.of(index),
        );
        let mut words = Vec::new();
        if standing.health == GroupHealth::Disabled {
            words.push("disabled".to_owned());
        } else if !standing.is_usable_somewhere() {
            words.push(match standing.health {
                GroupHealth::Unknown if pool.is_monitored() => "no results of its monitor yet".to_owned(),
                GroupHealth::Critical => format!(
                    "critical: {} of {} needed origins are healthy",
                    standing.healthy_origins,
                    pool.minimum_origins.max(1)
                ),
                _ => "none of its origins has a weight and is healthy".to_owned(),
            });
        }
        if route.policy.is_weighted() {
            words.push(format!("weight {}", route.weights.of(name).value()));
            if route.weights.of(name) == Weight::ZERO {
                words.push("never picked".to_owned());
            }
        }
        match route.policy {
            SteeringPolicy::LeastConnections | SteeringPolicy::LeastOutstandingRequests => {
                words.push(format!("{} open flows", figures.open_flows));
            }
            SteeringPolicy::DynamicLatency => words.push(match figures.latency {
                Some(latency) => format!("round trip {:.3} ms", latency.as_secs_f64() * 1e3),
                None => "round trip not measured".to_owned(),
            }),
            SteeringPolicy::Proximity => words.push(match pool.distance {
                Some(distance) => format!("{distance:.0} km away"),
                None => "distance not known".to_owned(),
            }),
            SteeringPolicy::Off | SteeringPolicy::Geo | SteeringPolicy::Random | SteeringPolicy::Hash => {}
        }
        let shedding = &pool.load_shedding;
        if shedding.default_percent > 0.0 {
            let whose = match shedding.default_policy {
                SheddingPolicy::Random => "new flows",
                SheddingPolicy::Hash => "clients",
            };
            words.push(format!("gives up {} % of {whose}", shedding.default_percent));
        }
        if shedding.session_percent > 0.0 {
            words.push(format!("gives up {} % of sessions", shedding.session_percent));
        }
        if words.is_empty() {
            "usable".to_owned()
        } else {
            words.join(", ")
        }
    }
}
