//! What the next generation shall hold: the tables and lists that follow from the plan and from health.

use super::buckets;
use super::compile::{has_countries, jiffies, rate};
use super::ids::{affinity_epoch, pools_epoch};
use super::layout::{Layout, ListenerDesign, PoolDesign, RouteDesign, VipDesign};
use super::plan::{PlannedApplication, PlannedOrigin, PlannedPool, Route};
use super::routing::{PoolListDesign, Traffic, balancer_routes};
use super::{Setup, State};
use crate::health::OriginHealth;
use crate::maglev::{Grain, Member, table_size};
use crate::model::{Application, Config, Echo, OriginSteering, Ports, Transport};
use crate::steering::{self, Family, OriginFacts, PoolFacts, balanced};
use core::net::IpAddr;
use lb_common::abi::{
    AddressRole, ApplicationFlags, Ip, PoolFlags, PoolId, Port, PortSpan, Protocol, Steering,
};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    pub(super) fn pool_facts(&self, setup: &Setup, index: usize) -> PoolFacts {
        let pool = &self.plan.pools[index];
        let origins = pool.origins.iter().map(|origin| OriginFacts {
            family: Family::of(origin.address),
            direct: origin.forwarding.is_direct(),
            health: if !(pool.enabled && origin.enabled) {
                OriginHealth::Disabled
            } else if setup.assume_healthy {
                OriginHealth::Healthy
            } else {
                self.verdict(pool, origin)
            },
            weight: origin.weight,
        });
        PoolFacts {
            enabled: pool.enabled,
            monitored: pool.is_monitored(),
            minimum_origins: pool.minimum_origins,
            origins: origins.collect(),
            unresolved: match pool.enabled {
                true => pool.unresolved.iter().filter(|origin| origin.enabled).count(),
                false => 0,
            },
        }
    }

    pub(super) fn pool_design(&self, index: usize) -> PoolDesign {
        let pool = &self.plan.pools[index];
        let facts = &self.facts[index];
        let grain = pool_grain(pool.origin_steering, pool.direct);
        let ring = |family, takes: fn(&OriginFacts) -> bool| {
            let members = pool
                .origins
                .iter()
                .zip(&facts.origins)
                .zip(self.origin_weights(index))
                .filter(|((_, facts), _)| facts.serves(family));
            Layout::ring(
                grain,
                members
                    .map(|((origin, facts), weight)| Member {
                        identity: origin.identity,
                        owner: origin.id.0,
                        weight,
                        present: takes(facts),
                    })
                    .collect(),
            )
        };
        let last_resort = |family| {
            if pool.last_resort {
                ring(family, OriginFacts::is_last_resort)
            } else {
                None
            }
        };
        PoolDesign {
            id: pool.id,
            flags: PoolFlags(match pool.origin_steering {
                OriginSteering::Hash => PoolFlags::BY_CLIENT,
                OriginSteering::Random
                | OriginSteering::LeastConnections
                | OriginSteering::LeastOutstandingRequests => 0,
            }),
            // In the order of TableKind.
            tables: [
                ring(Family::V4, OriginFacts::is_eligible),
                ring(Family::V6, OriginFacts::is_eligible),
                last_resort(Family::V4),
                last_resort(Family::V6),
            ],
        }
    }

    /// The weights by which a pool's origins compete, in any unit.
    pub(super) fn origin_weights(&self, index: usize) -> Vec<u32> {
        let pool = &self.plan.pools[index];
        let by_flows = pool.origin_steering.counts_flows();
        let counts = &self.figures.of(index).origins;
        let counted = |(number, origin): (usize, &PlannedOrigin)| {
            (origin.weight(), counts.get(number).copied().unwrap_or(0))
        };
        let origins = pool.origins.iter();
        match by_flows {
            true => balanced(&origins.enumerate().map(counted).collect::<Vec<_>>()),
            false => origins.map(PlannedOrigin::weight).collect(),
        }
    }

    /// The listeners, and the pools of countries that have some of their own.
    pub(super) fn listeners(
        &self,
        setup: &Setup,
        config: &Config,
    ) -> (Vec<ListenerDesign>, Vec<RouteDesign>) {
        let (mut listeners, mut rerouted) = (Vec::new(), Vec::new());
        let (mut lists, mut sets, mut epochs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        // Of load balancers that many applications share.
        let (mut routed, mut direct) = (BTreeMap::new(), BTreeMap::new());
        for (application, planned) in config.applications.iter().zip(&self.plan.applications) {
            let mut flags = 0;
            let has_direct = || self.has_direct_origins(config, planned.route);
            if *direct.entry(planned.route).or_insert_with(has_direct) {
                flags |= ApplicationFlags::DIRECT;
            }
            if has_countries(application.access.as_deref()) {
                flags |= ApplicationFlags::COUNTRIES;
            }
            let served = match planned.route {
                Route::Balancer(index) => config.load_balancers[index].enabled,
                Route::Direct(_) => true,
            };
            if !(application.enabled && served) {
                continue;
            }
            let traffic = Traffic::of(application);
            let routes = match planned.route {
                Route::Balancer(index) => {
                    let found = || balancer_routes(config, &config.load_balancers[index]);
                    Some((index, &*routed.entry(index).or_insert_with(found)))
                }
                Route::Direct(_) => None,
            };
            let families: BTreeSet<Family> = application.addresses.iter().copied().map(Family::of).collect();
            let (mut set, mut others_serve) = (0, false);
            if let Some((index, routes)) = &routes
                && !routes.by_country.is_empty()
            {
                flags |= ApplicationFlags::ROUTES;
                // The first application of a load balancer gives the number to what all of them share.
                set = *sets.entry((*index, traffic)).or_insert(planned.id);
                for family in &families {
                    for (number, (country, route)) in (1..).zip(&routes.by_country) {
                        let key = (*index, number, *family, traffic);
                        let pools = lists.entry(key).or_insert_with(|| {
                            let pools = self.pool_list(route, *family, traffic);
                            rerouted.push(RouteDesign {
                                set,
                                family: *family,
                                country: *country,
                                pools: pools.clone(),
                            });
                            pools
                        });
                        others_serve |= pools.serves;
                    }
                }
            }
            let affinity = application.affinity;
            for address in &application.addresses {
                let family = Family::of(*address);
                let pools = match (planned.route, &routes) {
                    (Route::Balancer(index), Some((_, routes))) => {
                        let list = || self.pool_list(&routes.main, family, traffic);
                        lists
                            .entry((index, 0, family, traffic))
                            .or_insert_with(list)
                            .clone()
                    }
                    (Route::Direct(pool) | Route::Balancer(pool), _) => self.direct_list(pool, family),
                };
                let serves = pools.serves || others_serve;
                let by_client = pools.steering == Steering::WEIGHTED_BY_CLIENT;
                listeners.push(ListenerDesign {
                    address: Ip::from(*address),
                    ports: application.ports,
                    protocol: protocol(application.transport),
                    application: planned.id,
                    pools,
                    origin_port: Port::new(application.port_at_origins()),
                    flags: ApplicationFlags(flags),
                    access: planned.access,
                    rate: rate(setup.hz, application.limits.new_flows_per_second),
                    source_rate: rate(setup.hz, application.limits.new_flows_per_second_per_source),
                    affinity_ttl: affinity.map_or(0, |affinity| jiffies(setup.hz, affinity.ttl)),
                    affinity_epoch: affinity.map_or(0, |_| {
                        let made = || self.pools_epoch(config, planned.route, family);
                        let pools = *epochs.entry((planned.route, family)).or_insert_with(made);
                        affinity_epoch(&application.name, pools)
                    }),
                    routes: set,
                    untracked: match by_client || set != 0 {
                        true => None,
                        false => self.untracked(config, application, planned),
                    },
                    echo: match application.echo {
                        Echo::Off => false,
                        Echo::Always => true,
                        Echo::Healthy => serves,
                    },
                });
            }
        }
        (listeners, rerouted)
    }

    /// The addresses that the listeners listen on, and those by which origins answer.
    pub(super) fn vips(&self, listeners: &[ListenerDesign]) -> Vec<VipDesign> {
        let mut vips: BTreeMap<Ip, VipDesign> = BTreeMap::new();
        let design = |address, role| VipDesign {
            address,
            role,
            tcp: Vec::new(),
            udp: Vec::new(),
            echo: false,
        };
        for listener in listeners {
            let address = listener.address;
            let vip = vips
                .entry(address)
                .or_insert_with(|| design(address, AddressRole::APPLICATION));
            // The kernel answers for addresses of its own.
            let is_own = || {
                let own = self.own.as_ref();
                own.is_none_or(|own| own.contains(&IpAddr::from(address)))
            };
            vip.echo |= listener.echo && !is_own();
            if listener.ports.is_range() {
                let spans = match listener.protocol {
                    Protocol::TCP => &mut vip.tcp,
                    _ => &mut vip.udp,
                };
                spans.push(span(listener.ports));
            }
        }
        for (address, role) in &self.roles {
            vips.entry(*address).or_insert_with(|| design(*address, *role));
        }
        for vip in vips.values_mut() {
            vip.tcp.sort_unstable();
            vip.udp.sort_unstable();
        }
        vips.into_values().collect()
    }

    /// Whether new TCP flows of an application need no entry, and for how many buckets: nothing depends on the client, nothing
    /// is counted, nobody is refused, and all origins answer clients directly.
    fn untracked(
        &self,
        config: &Config,
        application: &Application,
        planned: &PlannedApplication,
    ) -> Option<u32> {
        let limits = &application.limits;
        let plain = application.transport == Transport::Tcp
            && !application.ports.is_range()
            && application.affinity.is_none()
            && application.access.is_none()
            && config.datapath.access.is_none()
            && limits.new_flows_per_second.is_none()
            && limits.new_flows_per_second_per_source.is_none();
        if !plain {
            return None;
        }
        let pools: Vec<usize> = match planned.route {
            Route::Direct(pool) => vec![pool],
            Route::Balancer(index) if config.load_balancers[index].steering_policy.counts_flows() => {
                return None;
            }
            Route::Balancer(index) => {
                let names = config.load_balancers[index].pools();
                names.filter_map(|name| self.plan.pool(name)).collect()
            }
        };
        let pools = || pools.iter().map(|&index| &self.plan.pools[index]);
        let fits = |pool: &PlannedPool| {
            pool.only_direct && pool.max_flows == 0 && pool.origin_steering == OriginSteering::Random
        };
        if !pools().all(fits) {
            return None;
        }
        let slots = pools().map(|pool| table_size(pool.origins.len(), Grain::Fine));
        Some(buckets::bits(slots.max()?))
    }

    /// Whether the pools of a route, usable or not, have origins that answer clients directly.
    fn has_direct_origins(&self, config: &Config, route: Route) -> bool {
        let has = |pool: usize| self.plan.pools[pool].direct;
        match route {
            Route::Direct(pool) => has(pool),
            Route::Balancer(index) => {
                let balancer = &config.load_balancers[index];
                let mut pools = balancer.pools().filter_map(|name| self.plan.pool(name));
                pools.any(has)
            }
        }
    }

    /// What binds clients to origins holds as long as the pools that a client of any country may go to are the same, and
    /// all may serve of which an origin could: the packet path sees by itself when an origin does not.
    fn pools_epoch(&self, config: &Config, route: Route, family: Family) -> u64 {
        let serves = |origin: &OriginFacts| origin.health == OriginHealth::Healthy && origin.serves(family);
        let is_barred = |name: &str| {
            self.plan.pool(name).is_some_and(|pool| {
                let mut origins = self.facts[pool].origins.iter();
                !self.standings[pool].is_usable(family) && origins.any(serves)
            })
        };
        let pools = |names: BTreeSet<&str>| -> Vec<(String, bool)> {
            let names = names.into_iter();
            names
                .map(|name| (self.plan.pool_key(name).to_owned(), is_barred(name)))
                .collect()
        };
        match route {
            Route::Direct(pool) => {
                let only = BTreeSet::from([self.plan.pools[pool].name.as_str()]);
                pools_epoch(&pools(only), &[])
            }
            Route::Balancer(index) => {
                let routes = balancer_routes(config, &config.load_balancers[index]);
                let of = |route: &steering::Route<'_>| pools(route.competitors().collect());
                let by_country = routes.by_country.iter();
                let by_country: Vec<_> = by_country.map(|(country, route)| (*country, of(route))).collect();
                pools_epoch(&of(&routes.main), &by_country)
            }
        }
    }

    /// The list of the one pool that an application's `origin_direct` implies.
    fn direct_list(&self, pool: usize, family: Family) -> PoolListDesign {
        let usable = self.standings[pool].is_usable(family);
        let pools = usable.then(|| self.plan.pools[pool].id.0).into_iter().collect();
        PoolListDesign {
            layout: Layout::list(pools),
            steering: Steering::ORDERED,
            fallback: PoolId::NONE,
            serves: usable,
        }
    }
}

/// How fine a pool's tables are; `direct`: some of its origins answer clients directly.
pub fn pool_grain(origin_steering: OriginSteering, direct: bool) -> Grain {
    match origin_steering {
        OriginSteering::Hash => Grain::Fine,
        // Their flows may be too many to be remembered.
        _ if direct => Grain::Fine,
        OriginSteering::Random
        | OriginSteering::LeastConnections
        | OriginSteering::LeastOutstandingRequests => Grain::Coarse,
    }
}

fn span(ports: Ports) -> PortSpan {
    PortSpan {
        first: ports.first(),
        last: ports.last(),
        reserved: 0,
    }
}

pub fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
    }
}
