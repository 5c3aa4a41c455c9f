//! Load balancers.

use super::{Number, Object};
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Ordered pools, a policy and a fallback pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LoadBalancer {
    pub adaptive_routing: AdaptiveRouting,
    /// Ids of pools by country code.
    pub country_pools: BTreeMap<String, Vec<String>>,
    /// Ids of pools in failover order.
    pub default_pools: Vec<String>,
    pub description: String,
    /// A disabled one is a draft: its applications are not served.
    pub enabled: bool,
    /// Id of the pool of last resort.
    pub fallback_pool: String,
    pub location_strategy: LocationStrategy,
    /// By which applications refer to it.
    pub name: String,
    pub networks: Vec<String>,
    pub pool_sets: Vec<PoolSet>,
    /// Ids of pools by pop.
    pub pop_pools: BTreeMap<String, Vec<String>>,
    /// No effect: applications are always forwarded through lb.
    pub proxied: bool,
    pub random_steering: RandomSteering,
    /// Ids of pools by region.
    pub region_pools: BTreeMap<String, Vec<String>>,
    /// Custom rules look into HTTP: none can be given.
    #[schema(value_type = Vec<Object>)]
    pub rules: Vec<Value>,
    /// `none`: the others need HTTP.
    pub session_affinity: String,
    pub session_affinity_attributes: SessionAffinityAttributes,
    pub session_affinity_ttl: Option<Number>,
    /// Also `hash`, which is lb's own: the client's address picks the pool. It is answered as `random`, and in `exact`.
    pub steering_policy: String,
    /// A policy that Cloudflare's clients do not know. Read back as long as `steering_policy` goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactPolicy>,
    /// No effect: lb answers no DNS queries.
    pub ttl: Number,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            adaptive_routing: AdaptiveRouting::default(),
            country_pools: BTreeMap::new(),
            default_pools: Vec::new(),
            description: String::new(),
            enabled: true,
            fallback_pool: String::new(),
            location_strategy: LocationStrategy::default(),
            name: String::new(),
            networks: Vec::new(),
            pool_sets: Vec::new(),
            pop_pools: BTreeMap::new(),
            proxied: false,
            random_steering: RandomSteering::default(),
            region_pools: BTreeMap::new(),
            rules: Vec::new(),
            session_affinity: "none".to_owned(),
            session_affinity_attributes: SessionAffinityAttributes::default(),
            session_affinity_ttl: None,
            steering_policy: String::new(),
            exact: None,
            ttl: Number(30.0),
        }
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AdaptiveRouting {
    pub failover_across_pools: bool,
}

/// For DNS, which lb does not answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LocationStrategy {
    pub mode: String,
    pub prefer_ecs: String,
}

impl Default for LocationStrategy {
    fn default() -> Self {
        Self {
            mode: "pop".to_owned(),
            prefer_ecs: "proximity".to_owned(),
        }
    }
}

/// Weights of pools, for the policies that go by weight.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RandomSteering {
    /// Of pools that are not named.
    pub default_weight: Number,
    /// By id of the pool.
    pub pool_weights: BTreeMap<String, Number>,
}

impl Default for RandomSteering {
    fn default() -> Self {
        Self {
            default_weight: Number(1.0),
            pool_weights: BTreeMap::new(),
        }
    }
}

/// For cookies and headers, which lb does not see.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SessionAffinityAttributes {
    pub drain_duration: Number,
    pub headers: Vec<String>,
    pub require_all_headers: bool,
    pub samesite: String,
    pub secure: String,
    pub zero_downtime_failover: String,
}

impl Default for SessionAffinityAttributes {
    fn default() -> Self {
        Self {
            drain_duration: Number(0.0),
            headers: Vec::new(),
            require_all_headers: false,
            samesite: "Auto".to_owned(),
            secure: "Auto".to_owned(),
            zero_downtime_failover: "none".to_owned(),
        }
    }
}

/// What holds for the flows of some places instead of the load balancer's own fields.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolSet {
    pub disabled: bool,
    /// An answer over HTTP: none can be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub fixed_response: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<Match>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
}

/// Which flows a pool set is for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
}

/// Places: each list that is given must hold.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Topology {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub countries: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<String>>,
}

/// What a pool set says; what it does not say is the load balancer's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_default_weight: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_weights: Option<BTreeMap<String, Number>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steering_policy: Option<String>,
    /// As the load balancer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactPolicy>,
}

/// What is not in the words of Cloudflare's clients.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExactPolicy {
    /// `hash`.
    pub steering_policy: String,
}

impl ExactPolicy {
    /// The policy as Cloudflare's clients know it, and what it is.
    fn split(policy: &str) -> (String, Option<Self>) {
        match policy {
            "hash" => (
                "random".to_owned(),
                Some(Self {
                    steering_policy: policy.to_owned(),
                }),
            ),
            known => (known.to_owned(), None),
        }
    }

    /// What is meant by `policy` with this beside it.
    fn join(exact: Option<Self>, policy: &mut String) {
        if let Some(exact) = exact
            && Self::split(&exact.steering_policy).0 == *policy
        {
            *policy = exact.steering_policy;
        }
    }
}

impl Object for LoadBalancer {
    const KIND: Kind = Kind::LoadBalancer;
    const REQUIRED: &'static [&'static str] = &["name", "default_pools", "fallback_pool"];
    const READ_ONLY: &'static [&'static str] = &["networks", "zone_name", "tunnel_id", "healthy"];

    fn complete(&mut self) {
        // Cloudflare's older name for it.
        if self.session_affinity.is_empty() {
            "none".clone_into(&mut self.session_affinity);
        }
        ExactPolicy::join(self.exact.take(), &mut self.steering_policy);
        for overrides in self.pool_sets.iter_mut().filter_map(|set| set.overrides.as_mut()) {
            if let Some(policy) = &mut overrides.steering_policy {
                ExactPolicy::join(overrides.exact.take(), policy);
            }
            overrides.exact = None;
        }
    }
}

impl LoadBalancer {
    /// In words that Cloudflare's clients know, with the exact ones beside them.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        let mut shown = self.clone();
        (shown.steering_policy, shown.exact) = ExactPolicy::split(&self.steering_policy);
        for overrides in shown
            .pool_sets
            .iter_mut()
            .filter_map(|set| set.overrides.as_mut())
        {
            if let Some(policy) = &overrides.steering_policy {
                let (known, exact) = ExactPolicy::split(policy);
                (overrides.steering_policy, overrides.exact) = (Some(known), exact);
            }
        }
        shown
    }
}
