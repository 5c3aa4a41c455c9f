//! The view: what the engine knows, put into the operator's words.

use super::State;
use super::plan::{PlannedOrigin, PlannedPool, Route};
use crate::health::OriginHealth;
use crate::model::{Application, Config, LoadBalancer};
use crate::steering::{Family, OriginFacts, balancer_health, candidates};
use crate::view::{ApplicationView, LoadBalancerView, MonitoringView, OriginView, PoolView, View};

impl State {
    /// Puts together the snapshot of a configured engine.
    pub(super) fn snapshot(&self, config: &Config) -> View {
        View {
            node: config.node.name.clone(),
            generation: self.generations.live(),
            monitoring: self.monitoring_view(),
            applications: self.applications_view(config),
            load_balancers: config
                .load_balancers
                .iter()
                .map(|balancer| self.balancer_view(balancer))
                .collect(),
            pools: (0..self.plan.pools.len())
                .map(|index| self.pool_view(index))
                .collect(),
        }
    }

    fn monitoring_view(&self) -> MonitoringView {
        let (targets, runs) = self.probes.counts();
        MonitoringView { targets, runs }
    }

    /// Whether a load balancer's new flows go to its fallback pool.
    pub(super) fn is_on_fallback(&self, balancer: &LoadBalancer) -> bool {
        balancer.enabled
            && balancer.fallback_pool.is_some()
            && candidates(balancer, |pool| self.is_pool_usable_somewhere(pool)).is_empty()
    }

    fn is_pool_usable_somewhere(&self, pool: &str) -> bool {
        self.plan
            .pool(pool)
            .is_some_and(|index| self.standings[index].is_usable_somewhere())
    }

    fn applications_view(&self, config: &Config) -> Vec<ApplicationView> {
        let planned = self.plan.applications.iter();
        config
            .applications
            .iter()
            .zip(planned)
            .map(|(application, planned)| {
                let (pool, on_fallback) = self.pool_in_use(config, application, planned.route);
                ApplicationView {
                    name: application.name.clone(),
                    id: planned.id,
                    protocol: application.protocol(),
                    addresses: application.addresses.clone(),
                    load_balancer: match planned.route {
                        Route::Balancer(index) => Some(config.load_balancers[index].name.clone()),
                        Route::Direct(_) => None,
                    },
                    pool,
                    on_fallback,
                }
            })
            .collect()
    }

    /// The pool with the largest share of the application's new flows (at its first address), and whether it is the
    /// fallback pool in that role.
    fn pool_in_use(
        &self,
        config: &Config,
        application: &Application,
        route: Route,
    ) -> (Option<String>, bool) {
        let Some(family) = application.addresses.first().map(|address| Family::of(*address)) else {
            return (None, false);
        };
        if !application.enabled {
            return (None, false);
        }
        match route {
            Route::Direct(index) => {
                let usable = self.standings[index].is_usable(family);
                (usable.then(|| self.plan.pools[index].name.clone()), false)
            }
            Route::Balancer(index) => {
                let balancer = &config.load_balancers[index];
                if !balancer.enabled {
                    return (None, false);
                }
                let usable = |pool: &str| {
                    self.plan
                        .pool(pool)
                        .is_some_and(|pool| self.standings[pool].is_usable(family))
                };
                let mut shares = candidates(balancer, usable).shares();
                // Stable: of equal shares the first pool of the list wins.
                shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
                if let Some((pool, _)) = shares.first() {
                    return (Some((*pool).to_owned()), false);
                }
                let fallback = balancer.fallback_pool.as_ref().filter(|pool| {
                    self.plan
                        .pool(pool)
                        .is_some_and(|pool| self.standings[pool].is_last_resort(family))
                });
                (fallback.cloned(), fallback.is_some())
            }
        }
    }

    fn balancer_view(&self, balancer: &LoadBalancer) -> LoadBalancerView {
        let candidates = candidates(balancer, |pool| self.is_pool_usable_somewhere(pool));
        let on_fallback = self.is_on_fallback(balancer);
        let mut pool_shares: Vec<(String, f64)> = Vec::new();
        if balancer.enabled {
            pool_shares.extend(
                candidates
                    .shares()
                    .into_iter()
                    .map(|(pool, share)| (pool.to_owned(), share)),
            );
            pool_shares.extend(
                balancer
                    .fallback_pool
                    .iter()
                    .filter(|_| on_fallback)
                    .map(|pool| (pool.clone(), 1.0)),
            );
        }
        let pools = balancer
            .default_pools
            .iter()
            .filter_map(|pool| self.plan.pool(pool));
        let standings: Vec<_> = pools.map(|index| self.standings[index]).collect();
        LoadBalancerView {
            name: balancer.name.clone(),
            health: balancer_health(balancer.enabled, &standings),
            steering_policy: balancer.steering_policy.name(),
            pool_shares,
            on_fallback,
        }
    }

    fn pool_view(&self, index: usize) -> PoolView {
        let pool = &self.plan.pools[index];
        let standing = self.standings[index];
        let facts = &self.facts[index];
        // A pool that is not usable gives flows only as a fallback pool, whatever the health of its origins.
        let takes = |origin: &OriginFacts| match standing.is_usable(origin.family) {
            true => origin.is_eligible(),
            false => pool.last_resort && origin.is_last_resort(),
        };
        let total = |family| -> f64 {
            let takers = facts
                .origins
                .iter()
                .filter(|origin| origin.serves(family) && takes(origin));
            takers.map(|origin| origin.weight.value()).sum()
        };
        let totals = Family::ALL.map(total);
        let share = |origin: &OriginFacts| match takes(origin) {
            true => origin.weight.value() / totals[origin.family as usize],
            false => 0.0,
        };
        let origins = pool.origins.iter().zip(&facts.origins);
        PoolView {
            name: pool.name.clone(),
            health: standing.health,
            healthy_origins: standing.healthy_origins,
            minimum_origins: pool.minimum_origins,
            origins: origins
                .map(|(origin, facts)| self.origin_view(pool, origin, facts.health, share(facts)))
                .collect(),
        }
    }

    fn origin_view(
        &self,
        pool: &PlannedPool,
        origin: &PlannedOrigin,
        health: OriginHealth,
        share: f64,
    ) -> OriginView {
        OriginView {
            name: origin.name.clone(),
            id: origin.id,
            address: origin.address,
            port: origin.port,
            forwarding: origin.forwarding,
            enabled: origin.enabled,
            health,
            failure_reason: self.failure(pool, origin),
            monitors: self.member_views(pool, origin),
            path_problem: self
                .records
                .problem(origin.id)
                .cloned()
                .or_else(|| self.astray(pool, origin)),
            weight: origin.weight,
            share,
            rtt: self.rtt(pool, origin),
            draining: !(pool.enabled && origin.enabled),
            drain_deadline: self.drains.deadline_of(origin.id),
        }
    }
}
