//! Load balancers: ordered pools, a policy and a fallback pool.

use super::Weight;

/// `[load_balancers.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct LoadBalancer {
    pub name: String,
    /// Default true. The applications of a disabled load balancer are not served: their packets pass untouched.
    pub enabled: bool,
    /// Names of pools, in failover order; at least one.
    pub default_pools: Vec<String>,
    /// Used when every default pool is disabled or critical; its own health is ignored.
    pub fallback_pool: Option<String>,
    pub steering_policy: SteeringPolicy,
}

/// `steering_policy` with its own fields.
#[derive(Clone, PartialEq, Debug)]
pub enum SteeringPolicy {
    /// The first usable pool of the list gets everything.
    Off,
    /// Usable pools by weight: `random_steering.pool_weights`, else `random_steering.default_weight` (1).
    Random {
        weights: Vec<(String, Weight)>,
        default_weight: Weight,
    },
}

impl SteeringPolicy {
    /// The word used in files, in the API and in output.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Random { .. } => "random",
        }
    }

    /// With which weight a pool of the list competes; 0: never.
    #[must_use]
    pub fn weight_of(&self, pool: &str) -> Weight {
        match self {
            Self::Off => Weight::ONE,
            Self::Random {
                weights,
                default_weight,
            } => weights
                .iter()
                .find(|(name, _)| name == pool)
                .map_or(*default_weight, |(_, weight)| *weight),
        }
    }
}
