//! What the next generation shall hold: the tables and lists that follow from the plan and from health.

use super::compile::{has_countries, jiffies, rate};
use super::ids::{affinity_epoch, pool_identity};
use super::layout::{Layout, ListenerDesign, PoolDesign, VipDesign};
use super::plan::Route;
use super::{Setup, State};
use crate::health::OriginHealth;
use crate::maglev::Member;
use crate::model::{Application, Config, Echo, LoadBalancer, Ports, Transport};
use crate::steering::{Candidates, Family, OriginFacts, PoolFacts, candidates, competitors};
use core::net::IpAddr;
use lb_common::abi::{
    AddressRole, ApplicationFlags, Ip, PoolFlags, PoolId, Port, PortSpan, Protocol, Steering,
};
use lb_common::datapath::select::MAX_POOLS;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The packet path tries this many pools of an ordered list.
pub const ORDERED_POOLS: usize = MAX_POOLS as usize;

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
        }
    }

    pub(super) fn pool_design(&self, index: usize) -> PoolDesign {
        let pool = &self.plan.pools[index];
        let facts = &self.facts[index];
        let ring = |family, takes: fn(&OriginFacts) -> bool| {
            let members = pool
                .origins
                .iter()
                .zip(&facts.origins)
                .filter(|(_, facts)| facts.serves(family));
            Layout::ring(
                members
                    .map(|(origin, facts)| Member {
                        identity: origin.identity,
                        owner: origin.id.0,
                        weight: u32::from(origin.weight.hundredths()),
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
            flags: PoolFlags(if pool.by_client { PoolFlags::BY_CLIENT } else { 0 }),
            // In the order of TableKind.
            tables: [
                ring(Family::V4, OriginFacts::is_eligible),
                ring(Family::V6, OriginFacts::is_eligible),
                last_resort(Family::V4),
                last_resort(Family::V6),
            ],
        }
    }

    pub(super) fn listeners(&self, setup: &Setup, config: &Config) -> Vec<ListenerDesign> {
        let mut listeners = Vec::new();
        let mut lists = BTreeMap::new();
        for (application, planned) in config.applications.iter().zip(&self.plan.applications) {
            let mut flags = 0;
            if self.has_direct_origins(config, planned.route) {
                flags |= ApplicationFlags::DIRECT;
            }
            if has_countries(application.access.as_deref()) {
                flags |= ApplicationFlags::COUNTRIES;
            }
            let (last_resort, served) = match planned.route {
                Route::Balancer(index) => {
                    let balancer = &config.load_balancers[index];
                    let fallback = balancer
                        .fallback_pool
                        .as_deref()
                        .and_then(|pool| self.plan.pool(pool));
                    (fallback, balancer.enabled)
                }
                Route::Direct(_) => (None, true),
            };
            if !(application.enabled && served) {
                continue;
            }
            let affinity = application.affinity;
            for address in &application.addresses {
                let family = Family::of(*address);
                let (pools, steering) = match planned.route {
                    Route::Balancer(index) => lists
                        .entry((index, family))
                        .or_insert_with(|| self.pool_list(&config.load_balancers[index], family))
                        .clone(),
                    Route::Direct(pool) => {
                        let usable = self.standings[pool].is_usable(family);
                        let pools = usable.then(|| self.plan.pools[pool].id.0).into_iter().collect();
                        (Layout::list(pools), Steering::ORDERED)
                    }
                };
                let serves = pools.is_some()
                    || last_resort.is_some_and(|pool| self.standings[pool].is_last_resort(family));
                listeners.push(ListenerDesign {
                    address: Ip::from(*address),
                    ports: application.ports,
                    protocol: protocol(application.transport),
                    application: planned.id,
                    pools,
                    steering,
                    fallback: last_resort.map_or(PoolId::NONE, |pool| self.plan.pools[pool].id),
                    origin_port: Port::new(application.port_at_origins()),
                    flags: ApplicationFlags(flags),
                    access: planned.access,
                    rate: rate(setup.hz, application.limits.new_flows_per_second),
                    source_rate: rate(setup.hz, application.limits.new_flows_per_second_per_source),
                    affinity_ttl: affinity.map_or(0, |affinity| jiffies(setup.hz, affinity.ttl)),
                    affinity_epoch: affinity.map_or(0, |_| {
                        self.affinity_epoch(config, application, planned.route, family)
                    }),
                    echo: match application.echo {
                        Echo::Off => false,
                        Echo::Always => true,
                        Echo::Healthy => serves,
                    },
                });
            }
        }
        listeners
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

    /// Whether the pools of a route, usable or not, have origins that answer clients directly.
    fn has_direct_origins(&self, config: &Config, route: Route) -> bool {
        let has = |pool: usize| self.plan.pools[pool].direct;
        match route {
            Route::Direct(pool) => has(pool),
            Route::Balancer(index) => {
                let balancer = &config.load_balancers[index];
                let pools = balancer.default_pools.iter().chain(&balancer.fallback_pool);
                pools.filter_map(|name| self.plan.pool(name)).any(has)
            }
        }
    }

    /// What binds clients to origins holds as long as the application's pools are the same and all may serve of which an
    /// origin could: the packet path sees by itself when an origin does not.
    fn affinity_epoch(
        &self,
        config: &Config,
        application: &Application,
        route: Route,
        family: Family,
    ) -> u32 {
        let pools: Vec<usize> = match route {
            Route::Direct(pool) => vec![pool],
            Route::Balancer(index) => {
                let names = competitors(&config.load_balancers[index]);
                names.filter_map(|name| self.plan.pool(name)).collect()
            }
        };
        let serves = |origin: &OriginFacts| origin.health == OriginHealth::Healthy && origin.serves(family);
        let barred = pools.iter().copied().filter(|&pool| {
            !self.standings[pool].is_usable(family) && self.facts[pool].origins.iter().any(serves)
        });
        let name = |pool: usize| self.plan.pools[pool].name.as_str();
        affinity_epoch(
            &application.name,
            &pools.iter().copied().map(name).collect(),
            &barred.map(name).collect(),
        )
    }

    fn pool_list(&self, balancer: &LoadBalancer, family: Family) -> (Option<Arc<Layout>>, Steering) {
        let usable = |name: &str| {
            self.plan
                .pool(name)
                .is_some_and(|index| self.standings[index].is_usable(family))
        };
        let owner = |name: &str| self.plan.pool(name).map(|index| self.plan.pools[index].id.0);
        match candidates(balancer, usable) {
            Candidates::Ordered(pools) => {
                let owners = pools.into_iter().filter_map(owner).take(ORDERED_POOLS).collect();
                (Layout::list(owners), Steering::ORDERED)
            }
            Candidates::Weighted(pools) => {
                let member = |pool: crate::steering::WeightedPool<'_>| {
                    Some(Member {
                        identity: pool_identity(pool.name),
                        owner: owner(pool.name)?,
                        weight: u32::from(pool.weight.hundredths()),
                        present: pool.usable,
                    })
                };
                (
                    Layout::ring(pools.into_iter().filter_map(member).collect()),
                    Steering::WEIGHTED,
                )
            }
        }
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
