//! Load balancers as the next generation shall hold them: lists and tables of pools.

use super::State;
use super::ids::pool_identity;
use super::layout::Layout;
use crate::maglev::Member;
use crate::model::{Application, Config, LoadBalancer, SheddingPolicy, Transport};
use crate::steering::{
    Candidates, Classes, Entry, Family, Order, PoolFigures, Rest, Route, Routes, candidates, routes,
};
use lb_common::abi::{PoolId, Steering};
use lb_common::datapath::select::MAX_POOLS;
use std::sync::Arc;

/// The packet path tries this many pools of an ordered list.
pub const ORDERED_POOLS: usize = MAX_POOLS as usize;

/// Which flows are meant, for load shedding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Traffic {
    /// Connections, which stay where they are: only new ones are shed.
    Connections,
    /// Clients that are bound to origins, and datagrams: who has come before is shed too.
    Sessions,
}

impl Traffic {
    /// Of an application.
    pub fn of(application: &Application) -> Self {
        match application.transport {
            Transport::Tcp if application.affinity.is_none() => Self::Connections,
            Transport::Tcp | Transport::Udp => Self::Sessions,
        }
    }
}

/// Where a route's flows go in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolListDesign {
    pub layout: Option<Arc<Layout>>,
    pub steering: Steering,
    pub fallback: PoolId,
    /// Whether anybody can serve.
    pub serves: bool,
}

/// What a load balancer does on this node.
pub fn balancer_routes<'a>(config: &'a Config, balancer: &'a LoadBalancer) -> Routes<'a> {
    routes(balancer, &config.node, config.geoip.is_some())
}

impl State {
    /// What steering needs to know of a pool; `family`: of clients, `None` for any.
    fn figures_of(&self, name: &str, family: Option<Family>, traffic: Traffic) -> PoolFigures {
        let Some(index) = self.plan.pool(name) else {
            return PoolFigures::default();
        };
        let (pool, standing) = (&self.plan.pools[index], &self.standings[index]);
        let figures = self.figures.of(index);
        let shedding = pool.load_shedding;
        let (new, by_client) = (
            Classes::of_percent(shedding.default_percent),
            shedding.default_policy == SheddingPolicy::Hash,
        );
        let sessions = match traffic {
            Traffic::Connections => 0,
            Traffic::Sessions => Classes::of_percent(shedding.session_percent),
        };
        PoolFigures {
            usable: family.map_or(standing.is_usable_somewhere(), |family| {
                standing.is_usable(family)
            }),
            open_flows: figures.open_flows,
            latency: figures.latency,
            distance: pool.distance,
            shed: new.max(sessions),
            sheds_by_client: sessions > 0 || new > 0 && by_client,
        }
    }

    /// Applies a route's policy.
    pub(super) fn candidates<'a>(
        &self,
        route: &Route<'a>,
        family: Option<Family>,
        traffic: Traffic,
    ) -> Candidates<'a> {
        candidates(route, |name| self.figures_of(name, family, traffic))
    }

    /// The route's pool of last resort, if it has somebody for clients of that family.
    pub(super) fn last_resort<'a>(&self, route: &Route<'a>, family: Option<Family>) -> Option<&'a str> {
        let serves = |name: &&str| {
            self.plan.pool(name).is_some_and(|index| {
                let standing = &self.standings[index];
                match family {
                    Some(family) => standing.is_last_resort(family),
                    None => Family::ALL.iter().any(|family| standing.is_last_resort(*family)),
                }
            })
        };
        route.fallback.filter(serves)
    }

    /// Where a route's flows go.
    pub(super) fn pool_list(&self, route: &Route<'_>, family: Family, traffic: Traffic) -> PoolListDesign {
        let (layout, steering) = self.pool_layout(route, family, traffic);
        let fallback = route.fallback.and_then(|name| self.plan.pool(name));
        PoolListDesign {
            serves: layout.is_some() || self.last_resort(route, Some(family)).is_some(),
            layout,
            steering,
            fallback: fallback.map_or(PoolId::NONE, |index| self.plan.pools[index].id),
        }
    }

    fn pool_layout(
        &self,
        route: &Route<'_>,
        family: Family,
        traffic: Traffic,
    ) -> (Option<Arc<Layout>>, Steering) {
        let owner = |name: &str| self.plan.pool(name).map(|index| self.plan.pools[index].id.0);
        let candidates = self.candidates(route, Some(family), traffic);
        let steering = match candidates.entry {
            Entry::Flow => Steering::WEIGHTED,
            Entry::Client => Steering::WEIGHTED_BY_CLIENT,
        };
        if candidates.is_empty() {
            return (None, Steering::ORDERED);
        }
        let rest = Rest::of(self.last_resort(route, Some(family)).is_some());
        if let Some(table) = candidates.shedding_table(pool_identity, owner, rest) {
            return (Some(Arc::new(Layout::Shedding(table))), steering);
        }
        match candidates.order {
            Order::Ordered(pools) => {
                let owners = pools.into_iter().filter_map(owner).take(ORDERED_POOLS).collect();
                (Layout::list(owners), Steering::ORDERED)
            }
            Order::Weighted(pools) => {
                let member = |pool: crate::steering::WeightedPool<'_>| {
                    Some(Member {
                        identity: pool_identity(pool.name),
                        owner: owner(pool.name)?,
                        weight: pool.weight,
                        present: pool.usable,
                    })
                };
                (
                    Layout::ring(pools.into_iter().filter_map(member).collect()),
                    steering,
                )
            }
        }
    }
}
