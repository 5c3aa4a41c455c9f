//! From a route and the figures of its pools to their order or their shares.

use super::route::Route;
use super::shedding::{Base, Rest, Shed, SheddingTable};
use crate::maglev::Member;
use crate::model::{SteeringPolicy, Weight};
use core::time::Duration;
use std::cmp::Ordering;

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

/// Weight ÷ (open flows + 1), in any unit. What has a weight keeps one.
#[must_use]
pub fn balanced(weight: Weight, open_flows: u64) -> u32 {
    const UNIT: u64 = 1 << 20;
    if weight == Weight::ZERO {
        return 0;
    }
    let share = u64::from(weight.hundredths()) * UNIT / open_flows.saturating_add(1);
    // At most 100 units.
    share.max(1) as u32
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
            weighted(&pools, |name, _| u32::from(route.weights.of(name).hundredths()))
        }
        SteeringPolicy::LeastConnections | SteeringPolicy::LeastOutstandingRequests => {
            weighted(&pools, |name, figures| {
                balanced(route.weights.of(name), figures.open_flows)
            })
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

fn weighted<'a>(pools: &[(&'a str, PoolFigures)], weight: impl Fn(&str, &PoolFigures) -> u32) -> Order<'a> {
    let pools = pools.iter().map(|(name, figures)| WeightedPool {
        name,
        weight: weight(name, figures),
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

    /// Share of new flows by pool, 0 to 1; pools with no share are left out. `fallback` gets what all give up.
    #[must_use]
    pub fn shares(&self, identity: impl Fn(&str) -> u64, fallback: Option<&'a str>) -> Vec<(&'a str, f64)> {
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
        let slots = table.build();
        let mut counts = vec![0_usize; names.len()];
        let mut given_up = 0;
        for owner in &slots {
            match counts.get_mut(*owner as usize) {
                Some(count) => *count += 1,
                None => given_up += 1,
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
        let total = slots.len() as f64;
        let shares = names.into_iter().zip(counts).filter(|(_, count)| *count > 0);
        shares.map(|(name, count)| (name, count as f64 / total)).collect()
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
