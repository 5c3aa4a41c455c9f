//! The view: what the engine knows, put into the operator's words.

use super::State;
use super::plan::{PlannedOrigin, PlannedPool, Route};
use crate::health::OriginHealth;
use crate::model::Config;
use crate::steering::{Family, OriginFacts};
use crate::view::{ApplicationView, MonitoringView, OriginView, PoolView, View};

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
                .map(|balancer| self.balancer_view(config, balancer))
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

    fn pool_view(&self, index: usize) -> PoolView {
        let pool = &self.plan.pools[index];
        let standing = self.standings[index];
        let facts = &self.facts[index];
        // A pool that is not usable gives flows only as a fallback pool, whatever the health of its origins.
        let takes = |origin: &OriginFacts| match standing.is_usable(origin.family) {
            true => origin.is_eligible(),
            false => pool.last_resort && origin.is_last_resort(),
        };
        let weights = self.origin_weights(index);
        let total = |family| -> f64 {
            let takers = facts
                .origins
                .iter()
                .zip(&weights)
                .filter(|(origin, _)| origin.serves(family) && takes(origin));
            takers.map(|(_, weight)| f64::from(*weight)).sum()
        };
        let totals = Family::ALL.map(total);
        let share = |origin: &OriginFacts, weight: u32| match takes(origin) {
            true => f64::from(weight) / totals[origin.family as usize],
            false => 0.0,
        };
        let origins = pool.origins.iter().zip(&facts.origins).zip(&weights);
        PoolView {
            name: pool.name.clone(),
            id: pool.id,
            health: standing.health,
            healthy_origins: standing.healthy_origins,
            minimum_origins: pool.minimum_origins,
            origins: origins
                .map(|((origin, facts), weight)| {
                    self.origin_view(pool, origin, facts.health, share(facts, *weight))
                })
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
