//! From a route and the figures of its pools to their order or their shares.

use super::route::Route;
use super::shedding::{Base, Rest, Shed, SheddingTable};
use crate::maglev::Member;
use crate::model::{SteeringPolicy, Weight};
use core::time::Duration;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What steering needs to know of a pool that may get flows.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PoolFigures {
    pub usable: bool,
    pub open_flows: u64,
    /// How fast monitors are answered.
    pub latency: Option<Duration>,
    /// From the node, in kilometres.
    pub distance: Option<f64>,
    /// How many of all classes of flows the pool gives up.
    pub shed: u32,
    /// Whether the client's address alone says which.
    pub sheds_by_client: bool,
}

/// The pools that compete for new flows, in the policy's terms.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidates<'a> {
    pub order: Order<'a>,
    pub entry: Entry,
    /// The usable pools among them that give up some classes, and how many.
    pub sheds: Vec<(&'a str, u32)>,
}

/// How they compete.
#[derive(Clone, PartialEq, Debug)]
pub enum Order<'a> {
    /// Usable pools: the first one gets everything, the next one what the first cannot serve.
    Ordered(Vec<&'a str>),
    /// All pools of positive weight, and whether each is usable; at least one is.
    Weighted(Vec<WeightedPool<'a>>),
}

/// A competitor of [`Order::Weighted`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WeightedPool<'a> {
    pub name: &'a str,
    /// In any unit.
    pub weight: u32,
    pub usable: bool,
}

/// What picks among several pools.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entry {
    Flow,
    /// The client's address alone.
    Client,
}

/// A weight in units that are small enough to be divided.
#[must_use]
pub fn parts(weight: Weight) -> u32 {
    // At most 100 · 2^20.
    u32::from(weight.hundredths()) << 20
}

/// Weights ÷ (open flows + 1) of competitors, their weights in [`parts`]; what has a weight keeps one. Nobody counts as
/// having less than half of what would be its part of all flows by weight: whoever is new or has come back gets more than
/// others, but not nearly everything until counts are taken again.
#[must_use]
pub fn balanced(competitors: &[(u32, u64)]) -> Vec<u32> {
    let weights: u128 = competitors.iter().map(|(weight, _)| u128::from(*weight)).sum();
    let counted = competitors.iter().filter(|(weight, _)| *weight > 0);
    let flows: u128 = counted.map(|(_, open_flows)| u128::from(*open_flows)).sum();
    let balanced = |&(weight, open_flows): &(u32, u64)| {
        if weight == 0 {
            return 0;
        }
        let part = flows * u128::from(weight) / weights / 2;
        let counted = open_flows.max(u64::try_from(part).unwrap_or(u64::MAX));
        let share = u64::from(weight) / counted.saturating_add(1);
        // Not more than the weight.
        share.max(1) as u32
    };
    competitors.iter().map(balanced).collect()
}

/// Applies a route's policy. Without any usable pool the list is empty and ordered.
pub fn candidates<'a>(route: &Route<'a>, figures: impl Fn(&str) -> PoolFigures) -> Candidates<'a> {
    let pools: Vec<(&str, PoolFigures)> = route
        .pools
        .iter()
        .map(|name| (name.as_str(), figures(name)))
        .collect();
    let order = match route.policy {
        SteeringPolicy::Off | SteeringPolicy::Geo => ordered(&pools, |_, _| Ordering::Equal),
        SteeringPolicy::DynamicLatency => {
            ordered(&pools, |a, b| known_first(a.latency, b.latency, |a, b| a.cmp(b)))
        }
        SteeringPolicy::Proximity => {
            ordered(&pools, |a, b| known_first(a.distance, b.distance, f64::total_cmp))
        }
        SteeringPolicy::Random | SteeringPolicy::Hash => {
            let weights = pools.iter().map(|(name, _)| route.weights.of(name));
            weighted(
                &pools,
                weights.map(|weight| u32::from(weight.hundredths())).collect(),
            )
        }
        SteeringPolicy::LeastConnections | SteeringPolicy::LeastOutstandingRequests => {
            let competitors = pools
                .iter()
                .map(|(name, figures)| (parts(route.weights.of(name)), figures.open_flows));
            let weights = balanced(&competitors.collect::<Vec<_>>());
            weighted(&pools, weights)
        }
    };
    let competes = |name: &str| match &order {
        Order::Ordered(pools) => pools.contains(&name),
        Order::Weighted(pools) => pools.iter().any(|pool| pool.name == name && pool.usable),
    };
    let shedding: Vec<_> = pools
        .iter()
        .filter(|(name, figures)| figures.shed > 0 && competes(name))
        .collect();
    let by_client =
        route.policy == SteeringPolicy::Hash || shedding.iter().any(|(_, figures)| figures.sheds_by_client);
    Candidates {
        sheds: shedding
            .iter()
            .map(|(name, figures)| (*name, figures.shed))
            .collect(),
        entry: if by_client { Entry::Client } else { Entry::Flow },
        order,
    }
}

/// The usable pools by `compare`; of equal ones the first of the list wins.
fn ordered<'a>(
    pools: &[(&'a str, PoolFigures)],
    compare: impl Fn(&PoolFigures, &PoolFigures) -> Ordering,
) -> Order<'a> {
    let mut usable: Vec<_> = pools.iter().filter(|(_, figures)| figures.usable).collect();
    usable.sort_by(|(_, a), (_, b)| compare(a, b));
    Order::Ordered(usable.into_iter().map(|(name, _)| *name).collect())
}

fn known_first<T>(a: Option<T>, b: Option<T>, compare: impl Fn(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => compare(&a, &b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

fn weighted<'a>(pools: &[(&'a str, PoolFigures)], weights: Vec<u32>) -> Order<'a> {
    let pools = pools
        .iter()
        .zip(weights)
        .map(|((name, figures), weight)| WeightedPool {
            name,
            weight,
            usable: figures.usable,
        });
    let pools: Vec<_> = pools.filter(|pool| pool.weight > 0).collect();
    if pools.iter().any(|pool| pool.usable) {
        Order::Weighted(pools)
    } else {
        Order::Ordered(Vec::new())
    }
}

impl<'a> Candidates<'a> {
    /// Whether nobody competes, so that the fallback pool is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.order {
            Order::Ordered(pools) => pools.is_empty(),
            Order::Weighted(pools) => !pools.iter().any(|pool| pool.usable),
        }
    }

    /// The table by which some pools give up flows, with pools numbered by `owner`; pools that it does not number are
    /// left out. `None` when no pool gives up any.
    pub fn shedding_table(
        &self,
        identity: impl Fn(&str) -> u64,
        owner: impl Fn(&str) -> Option<u32>,
        rest: Rest,
    ) -> Option<SheddingTable> {
        if self.sheds.is_empty() {
            return None;
        }
        let base = match &self.order {
            Order::Ordered(pools) => Base::List(pools.iter().copied().filter_map(&owner).collect()),
            Order::Weighted(pools) => {
                let member = |pool: &WeightedPool<'_>| {
                    Some(Member {
                        identity: identity(pool.name),
                        owner: owner(pool.name)?,
                        weight: pool.weight,
                        present: pool.usable,
                    })
                };
                Base::Ring(pools.iter().filter_map(member).collect())
            }
        };
        let shed = |(name, classes): &(&str, u32)| {
            Some(Shed {
                owner: owner(name)?,
                identity: identity(name),
                classes: *classes,
            })
        };
        Some(SheddingTable {
            base,
            sheds: self.sheds.iter().filter_map(shed).collect(),
            rest,
        })
    }

    /// Share of new flows by pool, 0 to 1; pools with no share are left out. `fallback` gets what all give up. `counts` is
    /// [`SheddingTable::counts`], or remembers what that said: it takes long.
    #[must_use]
    pub fn shares(
        &self,
        identity: impl Fn(&str) -> u64,
        fallback: Option<&'a str>,
        counts: impl FnOnce(SheddingTable) -> Arc<BTreeMap<u32, usize>>,
    ) -> Vec<(&'a str, f64)> {
        let mut names: Vec<&'a str> = match &self.order {
            Order::Ordered(pools) => pools.clone(),
            Order::Weighted(pools) => pools.iter().map(|pool| pool.name).collect(),
        };
        let number = |name: &str| {
            let index = names.iter().position(|known| *known == name)?;
            u32::try_from(index).ok()
        };
        let rest = Rest::of(fallback.is_some());
        let Some(table) = self.shedding_table(identity, number, rest) else {
            return self.plain_shares();
        };
        let owned = counts(table);
        let total: usize = owned.values().sum();
        let mut counts = vec![0_usize; names.len()];
        let mut given_up = 0;
        for (owner, owned) in owned.iter() {
            match counts.get_mut(*owner as usize) {
                Some(count) => *count += owned,
                None => given_up += owned,
            }
        }
        if let Some(fallback) = fallback {
            match names.iter().position(|name| *name == fallback) {
                Some(index) => counts[index] += given_up,
                None => {
                    names.push(fallback);
                    counts.push(given_up);
                }
            }
        }
        let shares = names.into_iter().zip(counts).filter(|(_, count)| *count > 0);
        shares
            .map(|(name, count)| (name, count as f64 / total as f64))
            .collect()
    }

    /// Shares when no pool gives up any flows.
    fn plain_shares(&self) -> Vec<(&'a str, f64)> {
        match &self.order {
            Order::Ordered(pools) => pools.first().map(|name| (*name, 1.0)).into_iter().collect(),
            Order::Weighted(pools) => {
                let usable = pools.iter().filter(|pool| pool.usable);
                let total: f64 = usable.clone().map(|pool| f64::from(pool.weight)).sum();
                usable
                    .map(|pool| (pool.name, f64::from(pool.weight) / total))
                    .collect()
            }
        }
    }
}
