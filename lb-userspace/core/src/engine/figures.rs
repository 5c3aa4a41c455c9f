//! What steering goes by beside health: open flows and round-trip times.
//!
//! Figures change all the time, tables should not: a new figure comes into force only when it makes a difference, so
//! that tables are not made anew for nothing, and two pools that are equally near do not take turns.

use super::State;
use super::plan::PlannedPool;
use super::routing::balancer_routes;
use crate::health::OriginHealth;
use crate::model::{Config, OriginSteering, SteeringPolicy};
use crate::steering::balanced;
use core::time::Duration;
use lb_common::abi::OriginId;
use std::collections::{BTreeMap, BTreeSet};

/// The part of all new flows that must be steered wrongly before counts of flows come into force.
const WRONG_SHARE: f64 = 0.01;
/// The part by which a round-trip time must have changed before it comes into force.
const WRONG_LATENCY: f64 = 0.05;

/// The newest figures, and those in force.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Open flows by origin.
    newest: BTreeMap<OriginId, u64>,
    /// By pool of the plan.
    in_force: Vec<PoolInForce>,
}

/// The figures that a pool's tables go by, and its place in lists.
#[derive(Clone, Debug, Default)]
pub struct PoolInForce {
    /// Open flows by origin of the pool, for steering among them.
    pub origins: Vec<u64>,
    /// Of all origins together, for steering among pools.
    pub open_flows: u64,
    pub latency: Option<Duration>,
}

impl Figures {
    /// Those that a pool of the plan is steered by.
    pub fn of(&self, pool: usize) -> &PoolInForce {
        static NONE: PoolInForce = PoolInForce {
            origins: Vec::new(),
            open_flows: 0,
            latency: None,
        };
        self.in_force.get(pool).unwrap_or(&NONE)
    }

    fn counts(&self, pool: &PlannedPool) -> Vec<u64> {
        let count = |id: OriginId| self.newest.get(&id).copied().unwrap_or(0);
        pool.origins.iter().map(|origin| count(origin.id)).collect()
    }
}

impl State {
    /// Brings the newest figures of all pools into force.
    pub(super) fn renew_figures(&mut self) {
        let pools = self.plan.pools.iter().enumerate();
        let renewed = pools.map(|(index, pool)| {
            let origins = self.figures.counts(pool);
            PoolInForce {
                open_flows: origins.iter().sum(),
                origins,
                latency: self.latency(index),
            }
        });
        self.figures.in_force = renewed.collect();
    }

    /// Takes in counts of open flows.
    pub(super) fn set_open_flows(&mut self, counts: BTreeMap<OriginId, u64>) {
        self.figures.newest = counts;
        let Some(config) = self.config.clone() else { return };
        for (index, pool) in self.plan.pools.iter().enumerate() {
            if !pool.origin_steering.counts_flows() {
                continue;
            }
            let newest = self.figures.counts(pool);
            let weigh = |counts: &[u64]| -> Vec<u32> {
                let origins = pool.origins.iter().zip(counts);
                origins.map(|(origin, count)| origin.balanced(*count)).collect()
            };
            let in_force = &mut self.figures.in_force[index].origins;
            if difference(&weigh(in_force), &weigh(&newest)) > WRONG_SHARE {
                *in_force = newest;
                self.stale_pools.insert(index);
            }
        }
        self.follow_pools(&config);
    }

    /// Brings counts of pools into force, where a load balancer goes by them.
    fn follow_pools(&mut self, config: &Config) {
        let newest: Vec<u64> = self
            .plan
            .pools
            .iter()
            .map(|pool| self.figures.counts(pool).iter().sum())
            .collect();
        let mut renewed = BTreeSet::new();
        for balancer in &config.load_balancers {
            if !balancer.uses(SteeringPolicy::counts_flows) {
                continue;
            }
            let routes = balancer_routes(config, balancer);
            for route in routes.all().filter(|route| route.policy.counts_flows()) {
                let pools: Vec<usize> = route
                    .pools
                    .iter()
                    .filter_map(|name| self.plan.pool(name))
                    .collect();
                let weigh = |count: &dyn Fn(usize) -> u64| -> Vec<u32> {
                    let weight = |pool: usize| route.weights.of(&self.plan.pools[pool].name);
                    pools
                        .iter()
                        .map(|pool| balanced(weight(*pool), count(*pool)))
                        .collect()
                };
                let in_force = weigh(&|pool| self.figures.of(pool).open_flows);
                if difference(&in_force, &weigh(&|pool| newest[pool])) > WRONG_SHARE {
                    renewed.extend(pools);
                }
            }
        }
        for pool in renewed {
            self.figures.in_force[pool].open_flows = newest[pool];
            self.stale_lists = true;
        }
    }

    /// Brings round-trip times into force, where a load balancer goes by them.
    pub(super) fn follow_latencies(&mut self, pools: &BTreeSet<usize>) {
        for &pool in pools {
            let newest = self.latency(pool);
            let in_force = &mut self.figures.in_force[pool].latency;
            let changed = match (*in_force, newest) {
                (Some(before), Some(now)) => {
                    let (before, now) = (before.as_secs_f64(), now.as_secs_f64());
                    (now - before).abs() > before * WRONG_LATENCY
                }
                (before, now) => before != now,
            };
            if changed {
                *in_force = newest;
                self.stale_lists |= self.steers_by_latency;
            }
        }
    }

    /// The mean of what the monitors of a pool's healthy origins measure; `None`: nothing yet.
    fn latency(&self, index: usize) -> Option<Duration> {
        let pool = &self.plan.pools[index];
        let origins = pool.origins.iter().zip(&self.facts[index].origins);
        let healthy = origins.filter(|(_, facts)| facts.health == OriginHealth::Healthy);
        let measured: Vec<Duration> = healthy
            .filter_map(|(origin, _)| self.average_rtt(pool, origin))
            .collect();
        let count = u32::try_from(measured.len()).ok()?;
        measured.iter().sum::<Duration>().checked_div(count)
    }
}

/// Whether a configuration steers by open flows somewhere.
pub fn counts_flows(config: &Config) -> bool {
    let pools = config.pools.iter().map(|pool| pool.origin_steering);
    let mut balancers = config.load_balancers.iter();
    pools.into_iter().any(OriginSteering::counts_flows)
        || balancers.any(|balancer| balancer.uses(SteeringPolicy::counts_flows))
}

/// The part of all flows that goes elsewhere when these weights change.
fn difference(before: &[u32], after: &[u32]) -> f64 {
    let shares = |weights: &[u32]| -> Vec<f64> {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        weights
            .iter()
            .map(|weight| f64::from(*weight) / total.max(1.0))
            .collect()
    };
    let (before, after) = (shares(before), shares(after));
    let moved = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (before - after).abs());
    moved.sum::<f64>() / 2.0
}
