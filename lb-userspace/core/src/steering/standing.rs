//! From the health of origins to which pools may get new flows, and in which role.

use crate::health::{GroupHealth, OriginHealth};
use crate::model::Weight;
use core::net::IpAddr;

/// An address family. Addresses are not translated between the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What steering needs to know of an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OriginFacts {
    /// Of its address.
    pub family: Family,
    /// Packets arrive at it as they were sent: it serves clients of both families.
    pub direct: bool,
    /// Of an origin without a monitor: healthy. In a disabled pool: disabled.
    pub health: OriginHealth,
    pub weight: Weight,
}

impl OriginFacts {
    /// Whether clients of that family can be given to the origin.
    #[must_use]
    pub fn serves(&self, family: Family) -> bool {
        self.direct || self.family == family
    }

    /// Whether the origin may get new flows as long as its pool is used for its health.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.health == OriginHealth::Healthy && self.weight > Weight::ZERO
    }

    /// Whether the origin may get new flows when its pool is the fallback pool, in which health is ignored.
    #[must_use]
    pub fn is_last_resort(&self) -> bool {
        self.health != OriginHealth::Disabled && self.weight > Weight::ZERO
    }
}

/// What steering needs to know of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolFacts {
    pub enabled: bool,
    pub monitored: bool,
    pub minimum_origins: u32,
    pub origins: Vec<OriginFacts>,
    /// Enabled origins whose address is not known: unhealthy, and nobody's resort.
    pub unresolved: usize,
}

/// What follows from a pool's facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolStanding {
    pub health: GroupHealth,
    /// Whether the health is unknown because results of the monitor are still to come.
    pub awaits_results: bool,
    /// Enabled origins that are healthy, those of weight 0 included.
    pub healthy_origins: u32,
    usable4: bool,
    usable6: bool,
    last_resort4: bool,
    last_resort6: bool,
}

impl PoolStanding {
    /// Whether the pool may get new flows of that family.
    #[must_use]
    pub fn is_usable(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.usable4,
            Family::V6 => self.usable6,
        }
    }

    /// Whether the pool has somebody for flows of that family when it is the fallback pool.
    #[must_use]
    pub fn is_last_resort(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.last_resort4,
            Family::V6 => self.last_resort6,
        }
    }

    /// Whether the pool may get new flows at all.
    #[must_use]
    pub fn is_usable_somewhere(&self) -> bool {
        self.usable4 || self.usable6
    }
}

/// Judges a pool.
#[must_use]
pub fn pool_standing(pool: &PoolFacts) -> PoolStanding {
    let count = |health| {
        pool.origins
            .iter()
            .filter(|origin| origin.health == health)
            .count()
    };
    let healthy = count(OriginHealth::Healthy);
    let healthy_origins = u32::try_from(healthy).unwrap_or(u32::MAX);
    let enough = !pool.monitored || healthy_origins >= pool.minimum_origins;
    let usable = |family| {
        pool.enabled
            && enough
            && pool
                .origins
                .iter()
                .any(|origin| origin.serves(family) && origin.is_eligible())
    };
    let last_resort = |family| {
        let mut origins = pool.origins.iter();
        origins.any(|origin| origin.serves(family) && origin.is_last_resort())
    };
    let health = pool_health(
        pool,
        healthy_origins,
        count(OriginHealth::Unhealthy) + pool.unresolved,
        count(OriginHealth::Unknown),
    );
    PoolStanding {
        health,
        awaits_results: pool.monitored && health == GroupHealth::Unknown,
        healthy_origins,
        usable4: usable(Family::V4),
        usable6: usable(Family::V6),
        last_resort4: last_resort(Family::V4),
        last_resort6: last_resort(Family::V6),
    }
}

fn pool_health(pool: &PoolFacts, healthy: u32, unhealthy: usize, unknown: usize) -> GroupHealth {
    // With `minimum_origins = 0` and nobody healthy the pool is skipped, so it counts as critical too.
    let needed = pool.minimum_origins.max(1);
    if !pool.enabled {
        GroupHealth::Disabled
    } else if !pool.monitored && healthy == 0 && pool.unresolved > 0 {
        GroupHealth::Critical
    } else if !pool.monitored {
        GroupHealth::Unknown
    } else if healthy >= needed {
        if unhealthy + unknown == 0 {
            GroupHealth::Healthy
        } else {
            GroupHealth::Degraded
        }
    } else if healthy as usize + unknown >= needed as usize {
        // The results that are still to come may yet make it healthy.
        GroupHealth::Unknown
    } else {
        GroupHealth::Critical
    }
}

/// What follows from the pools of a load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalancerStanding {
    pub health: GroupHealth,
    /// Whether the health is unknown because results of monitors are still to come. Otherwise it stays unknown: who serves
    /// has no monitor.
    pub awaits_results: bool,
}

/// Judges an enabled load balancer by the pools of its routes on this node: `pools` are all of them, `competitors` those of
/// each route that get its flows whenever they are usable. A route whose flows nobody but the fallback pool takes is not
/// served.
#[must_use]
pub fn balancer_standing(pools: &[PoolStanding], competitors: &[Vec<PoolStanding>]) -> BalancerStanding {
    let any = |health| pools.iter().any(|pool| pool.health == health);
    let is_served = |route: &Vec<PoolStanding>| route.iter().any(PoolStanding::is_usable_somewhere);
    let served = competitors.iter().filter(|route| is_served(route)).count();
    let awaits_results = served == 0
        && !any(GroupHealth::Critical)
        && competitors.iter().flatten().any(|pool| pool.awaits_results);
    let health = if awaits_results {
        GroupHealth::Unknown
    } else if served == 0 {
        GroupHealth::Critical
    } else if served < competitors.len()
        || any(GroupHealth::Degraded)
        || any(GroupHealth::Critical)
        || pools
            .iter()
            .any(|pool| pool.health == GroupHealth::Unknown && !pool.is_usable_somewhere())
    {
        GroupHealth::Degraded
    } else if any(GroupHealth::Healthy) {
        GroupHealth::Healthy
    } else {
        GroupHealth::Unknown
    };
    BalancerStanding {
        health,
        awaits_results,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GroupHealth::{Critical, Degraded, Disabled, Healthy, Unknown};

    fn origin(letter: char) -> OriginFacts {
        let origin = |health, weight| OriginFacts {
            family: Family::V4,
            direct: false,
            health,
            weight,
        };
        match letter {
            'h' => origin(OriginHealth::Healthy, Weight::ONE),
            'z' => origin(OriginHealth::Healthy, Weight::ZERO),
            'u' => origin(OriginHealth::Unhealthy, Weight::ONE),
            '?' => origin(OriginHealth::Unknown, Weight::ONE),
            'd' => origin(OriginHealth::Disabled, Weight::ONE),
            '6' => OriginFacts {
                family: Family::V6,
                ..origin(OriginHealth::Healthy, Weight::ONE)
            },
            'D' => OriginFacts {
                direct: true,
                ..origin(OriginHealth::Healthy, Weight::ONE)
            },
            other => panic!("{other}"),
        }
    }

    fn facts(origins: &str, minimum_origins: u32) -> PoolFacts {
        let origins = origins.chars().map(origin).collect();
        PoolFacts {
            enabled: true,
            monitored: true,
            minimum_origins,
            origins,
            unresolved: 0,
        }
    }

    #[test]
    fn families_are_served_by_their_own_origins_and_by_those_that_get_packets_as_they_came() {
        for (origins, usable) in [
            ("h", [true, false]),
            ("6", [false, true]),
            ("D", [true, true]),
            ("z", [false, false]),
        ] {
            let standing = pool_standing(&facts(origins, 1));
            assert_eq!(
                Family::ALL.map(|family| standing.is_usable(family)),
                usable,
                "{origins}"
            );
        }
    }

    #[test]
    fn pools_are_judged_as_documented() {
        for (origins, minimum, health, usable) in [
            ("hh", 1, Healthy, true),
            ("hd", 1, Healthy, true),
            ("hu", 1, Degraded, true),
            ("hu", 2, Critical, false),
            ("hd", 2, Critical, false),
            ("uu", 1, Critical, false),
            ("u?", 1, Unknown, false),
            ("u?", 2, Critical, false),
            ("h?", 1, Degraded, true),
            ("uu", 0, Critical, false),
            ("hu", 0, Degraded, true),
            ("zu", 1, Degraded, false),
            ("zh", 2, Healthy, true),
            ("zz", 1, Healthy, false),
            ("dd", 1, Critical, false),
            ("6", 1, Healthy, false),
        ] {
            let standing = pool_standing(&facts(origins, minimum));
            assert_eq!(
                (standing.health, standing.is_usable(Family::V4)),
                (health, usable),
                "{origins} {minimum}"
            );
        }
        assert!(pool_standing(&facts("6u", 1)).is_usable(Family::V6));
    }

    #[test]
    fn a_pool_without_a_monitor_is_usable_and_of_unknown_health() {
        let standing = pool_standing(&PoolFacts {
            monitored: false,
            ..facts("hd", 5)
        });
        assert_eq!((standing.health, standing.is_usable(Family::V4)), (Unknown, true));
    }

    #[test]
    fn a_disabled_pool_is_not_usable() {
        let standing = pool_standing(&PoolFacts {
            enabled: false,
            ..facts("hh", 1)
        });
        assert_eq!(
            (standing.health, standing.is_usable_somewhere()),
            (Disabled, false)
        );
    }

    #[test]
    fn load_balancers_are_judged_by_their_pools() {
        let unmonitored = PoolFacts {
            monitored: false,
            ..facts("h", 1)
        };
        let disabled = PoolFacts {
            enabled: false,
            ..facts("h", 1)
        };
        let weightless = PoolFacts {
            monitored: false,
            ..facts("z", 1)
        };
        for (pools, health) in [
            (vec![facts("h", 1), facts("h", 1)], Healthy),
            (vec![facts("h", 1), facts("u", 1)], Degraded),
            (vec![facts("hu", 1)], Degraded),
            (vec![facts("u", 1), facts("u", 1)], Critical),
            (vec![facts("?", 1)], Unknown),
            (vec![facts("?", 1), facts("u", 1)], Critical),
            (vec![facts("?", 1), facts("h", 1)], Degraded),
            (vec![facts("h", 1), unmonitored.clone()], Healthy),
            (vec![unmonitored.clone()], Unknown),
            (vec![weightless.clone()], Critical),
            (vec![weightless.clone(), facts("?", 1)], Unknown),
            (vec![weightless, unmonitored.clone()], Degraded),
            (vec![disabled.clone()], Critical),
            (vec![disabled.clone(), facts("h", 1)], Healthy),
        ] {
            let standings: Vec<PoolStanding> = pools.iter().map(pool_standing).collect();
            let found = balancer_standing(&standings, std::slice::from_ref(&standings));
            let waits = pools.iter().any(|pool| pool == &facts("?", 1));
            assert_eq!(found.health, health, "{pools:?}");
            assert_eq!(found.awaits_results, health == Unknown && waits, "{pools:?}");
        }
        let standing = |facts: &PoolFacts| pool_standing(facts);
        let (well, waits) = (standing(&facts("h", 1)), standing(&facts("?", 1)));
        let unmonitored = standing(&unmonitored);
        for (pools, routes, health) in [
            // All weights are zero: nobody competes, whatever the health of the pools.
            (vec![well], vec![vec![]], Critical),
            (vec![unmonitored], vec![vec![]], Critical),
            (vec![waits], vec![vec![]], Critical),
            // The flows of one place have nobody but the fallback pool.
            (vec![well], vec![vec![well], vec![]], Degraded),
            (vec![unmonitored], vec![vec![unmonitored], vec![]], Degraded),
            (
                vec![well, standing(&disabled)],
                vec![vec![well], vec![standing(&disabled)]],
                Degraded,
            ),
        ] {
            let found = balancer_standing(&pools, &routes);
            assert_eq!(found.health, health, "{pools:?} {routes:?}");
        }
    }
}
