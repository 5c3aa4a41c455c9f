//! The view: what the engine knows, put into the operator's words.

use super::names::LookupFailure;
use super::plan::{PlannedOrigin, PlannedPool, Route, Unresolved};
use super::shares::Shares;
use super::{Command, State};
use crate::health::{FailureReason, OriginHealth};
use crate::model::{Config, Host};
use crate::steering::{Family, OriginFacts};
use crate::view::{ApplicationView, MonitoringView, OriginView, PoolView, View};
use lb_common::abi::OriginId;
use std::sync::Arc;

impl State {
    /// Sends the view if it says anything new.
    pub(super) fn publish(&mut self, commands: &mut Vec<Command>) {
        let Some(config) = self.config.clone() else { return };
        self.view_is_due = false;
        let mut shares = core::mem::take(&mut self.shares);
        shares.renew();
        let view = self.snapshot(&config, &mut shares);
        self.shares = shares;
        if view != *self.view {
            self.view = Arc::new(view);
            commands.push(Command::Publish(Arc::clone(&self.view)));
        }
    }

    /// Puts together the snapshot of a configured engine.
    fn snapshot(&self, config: &Config, known: &mut Shares) -> View {
        View {
            node: config.node.name.clone(),
            generation: self.generations.live(),
            monitoring: self.monitoring_view(),
            applications: self.applications_view(config, known),
            load_balancers: config
                .load_balancers
                .iter()
                .map(|balancer| self.balancer_view(config, balancer, known))
                .collect(),
            pools: (0..self.plan.pools.len())
                .map(|index| self.pool_view(index))
                .collect(),
            names: self.names.views(),
        }
    }

    fn monitoring_view(&self) -> MonitoringView {
        let (targets, runs) = self.probes.counts();
        MonitoringView { targets, runs }
    }

    fn applications_view(&self, config: &Config, known: &mut Shares) -> Vec<ApplicationView> {
        let planned = self.plan.applications.iter();
        config
            .applications
            .iter()
            .zip(planned)
            .map(|(application, planned)| {
                let (pool, on_fallback) = self.pool_in_use(config, application, planned.route, known);
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
        let mut origins: Vec<OriginView> = origins
            .map(|((origin, facts), weight)| {
                self.origin_view(pool, origin, facts.health, share(facts, *weight))
            })
            .collect();
        for origin in pool.unresolved.iter().rev() {
            origins.insert(origin.place, self.unresolved_view(pool, origin));
        }
        PoolView {
            name: pool.name.clone(),
            id: pool.id,
            health: standing.health,
            awaits_results: standing.awaits_results,
            usable: standing.is_usable_somewhere(),
            healthy_origins: standing.healthy_origins,
            minimum_origins: pool.minimum_origins,
            origins,
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
            address: Some(origin.address),
            host_name: origin.host_name.clone(),
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
            response_code: self.response_code(pool, origin),
            draining: !(pool.enabled && origin.enabled),
            drain_deadline: self.drains.deadline_of(origin.id),
        }
    }

    fn unresolved_view(&self, pool: &PlannedPool, origin: &Unresolved) -> OriginView {
        let enabled = pool.enabled && origin.enabled;
        let failure = self.names.failure(&origin.host_name).map(LookupFailure::reason);
        // All the addresses that it has may be of the wrong family.
        let host = Host::Name(origin.host_name.clone());
        let wrong = !self.names.addresses(&host).is_empty();
        let failure = failure.or(wrong.then_some(FailureReason::DnsUnknownHost));
        OriginView {
            name: origin.name.clone(),
            id: OriginId::NONE,
            address: None,
            host_name: Some(origin.host_name.clone()),
            port: origin.port,
            forwarding: origin.forwarding,
            enabled: origin.enabled,
            health: match (enabled, &failure) {
                (false, _) => OriginHealth::Disabled,
                (true, Some(_)) => OriginHealth::Unhealthy,
                (true, None) => OriginHealth::Unknown,
            },
            failure_reason: failure,
            monitors: Vec::new(),
            path_problem: None,
            weight: origin.weight,
            share: 0.0,
            rtt: None,
            response_code: None,
            draining: !enabled,
            drain_deadline: None,
        }
    }
}
