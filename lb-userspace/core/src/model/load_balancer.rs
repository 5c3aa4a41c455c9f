//! Load balancers: ordered pools, a policy and a fallback pool.

use super::Weight;
use lb_common::abi::Country;
use std::collections::{BTreeMap, BTreeSet};

/// `[load_balancers.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct LoadBalancer {
    pub name: String,
    /// Default true. The applications of a disabled load balancer are not served: their packets pass untouched.
    pub enabled: bool,
    /// Names of pools, in failover order; at least one.
    pub default_pools: Vec<String>,
    /// Used when every pool that could get a flow is disabled or critical; its own health is ignored.
    pub fallback_pool: Option<String>,
    pub steering_policy: SteeringPolicy,
    /// `random_steering`, for the policies that go by weight.
    pub random_steering: PoolWeights,
    /// For [`SteeringPolicy::Geo`].
    pub geo: GeoPools,
    /// The first one that is not disabled and matches replaces all of the above.
    pub pool_sets: Vec<PoolSet>,
}

/// `steering_policy`: how new flows are divided among the pools of a list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SteeringPolicy {
    /// The first usable pool of the list gets everything.
    #[default]
    Off,
    /// Usable pools by weight.
    Random,
    /// Usable pools by weight; the client's address alone picks.
    Hash,
    /// The list is chosen by place, see [`GeoPools`]; of that the first usable pool.
    Geo,
    /// The usable pool whose monitors are answered fastest.
    DynamicLatency,
    /// The usable pool that is next to the node.
    Proximity,
    /// Usable pools by weight ÷ (open flows + 1).
    LeastConnections,
    /// As [`Self::LeastConnections`].
    LeastOutstandingRequests,
}

impl SteeringPolicy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Off,
        Self::Random,
        Self::Hash,
        Self::Geo,
        Self::DynamicLatency,
        Self::Proximity,
        Self::LeastConnections,
        Self::LeastOutstandingRequests,
    ];

    /// The word used in files, in the API and in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Random => "random",
            Self::Hash => "hash",
            Self::Geo => "geo",
            Self::DynamicLatency => "dynamic_latency",
            Self::Proximity => "proximity",
            Self::LeastConnections => "least_connections",
            Self::LeastOutstandingRequests => "least_outstanding_requests",
        }
    }

    /// Whether pools get shares by their weights.
    #[must_use]
    pub const fn is_weighted(self) -> bool {
        match self {
            Self::Off | Self::Geo | Self::DynamicLatency | Self::Proximity => false,
            Self::Random | Self::Hash | Self::LeastConnections | Self::LeastOutstandingRequests => true,
        }
    }

    /// Whether the number of open flows counts.
    #[must_use]
    pub const fn counts_flows(self) -> bool {
        matches!(self, Self::LeastConnections | Self::LeastOutstandingRequests)
    }
}

/// Weights of pools by name, and of all others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PoolWeights {
    pub named: BTreeMap<String, Weight>,
    /// Default 1.
    pub default: Weight,
}

impl Default for PoolWeights {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            default: Weight::ONE,
        }
    }
}

impl PoolWeights {
    /// With which weight a pool competes; 0: never.
    #[must_use]
    pub fn of(&self, pool: &str) -> Weight {
        self.named.get(pool).copied().unwrap_or(self.default)
    }
}

/// Lists of pools by place: that of the node's pop, else of the client's country, else of the node's region, else
/// `default_pools`. When the pools of the list are down, the fallback pool is used, not the next wider place's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GeoPools {
    pub pops: BTreeMap<String, Vec<String>>,
    pub countries: BTreeMap<Country, Vec<String>>,
    pub regions: BTreeMap<String, Vec<String>>,
}

impl GeoPools {
    /// Whether no place has pools of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pops.is_empty() && self.countries.is_empty() && self.regions.is_empty()
    }

    fn lists(&self) -> impl Iterator<Item = &Vec<String>> {
        let lists = self.pops.values().chain(self.countries.values());
        lists.chain(self.regions.values())
    }
}

/// One of `pool_sets`: what holds for the flows of some places instead of the load balancer's own fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSet {
    pub name: String,
    pub disabled: bool,
    pub topology: Topology,
    /// `None`: the load balancer's `default_pools`.
    pub pools: Option<Vec<String>>,
    /// `pool_weights` and `pool_default_weight`; `None`: the load balancer's `random_steering`.
    pub weights: Option<PoolWeights>,
    /// `None`: the load balancer's.
    pub fallback_pool: Option<String>,
    /// Never [`SteeringPolicy::Geo`].
    pub steering_policy: SteeringPolicy,
}

/// Which flows a pool set is for: those to whom each list that is not empty applies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// The node's.
    pub pops: Vec<String>,
    /// The client's.
    pub countries: Vec<Country>,
    /// The node's.
    pub regions: Vec<String>,
}

impl LoadBalancer {
    /// All pools that may get flows in some place, each once, fallback pools not included.
    pub fn listed_pools(&self) -> impl Iterator<Item = &str> {
        let sets = self.pool_sets.iter().filter_map(|set| set.pools.as_ref());
        let lists = core::iter::once(&self.default_pools).chain(self.geo.lists());
        let mut seen = BTreeSet::new();
        lists
            .chain(sets)
            .flatten()
            .map(String::as_str)
            .filter(move |name| seen.insert(*name))
    }

    /// The pools of last resort of all places.
    pub fn fallback_pools(&self) -> impl Iterator<Item = &str> {
        let sets = self
            .pool_sets
            .iter()
            .filter_map(|set| set.fallback_pool.as_deref());
        self.fallback_pool.as_deref().into_iter().chain(sets)
    }

    /// Everything that may get flows in some place; a pool in both roles comes twice.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        self.listed_pools().chain(self.fallback_pools())
    }

    /// The countries that make a difference to where flows go.
    #[must_use]
    pub fn countries(&self) -> BTreeSet<Country> {
        let sets = self.pool_sets.iter().filter(|set| !set.disabled);
        let mut countries: BTreeSet<Country> =
            sets.flat_map(|set| &set.topology.countries).copied().collect();
        if self.steering_policy == SteeringPolicy::Geo {
            countries.extend(self.geo.countries.keys());
        }
        countries
    }

    /// Whether any of its pools gets flows by this policy.
    pub fn uses(&self, is_wanted: impl Fn(SteeringPolicy) -> bool) -> bool {
        let sets = self.pool_sets.iter().filter(|set| !set.disabled);
        sets.map(|set| set.steering_policy)
            .chain([self.steering_policy])
            .any(is_wanted)
    }
}
