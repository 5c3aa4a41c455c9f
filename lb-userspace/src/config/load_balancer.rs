//! `[load_balancers.NAME]`.

use super::reader::{Located, Table};
use super::{enabled, pool};
use lb_core::model::{LoadBalancer, SteeringPolicy, Weight};

/// A load balancer with the places that later checks point at.
pub(super) struct ReadLoadBalancer {
    pub load_balancer: LoadBalancer,
    pub default_pools: Vec<Located<String>>,
    pub fallback_pool: Option<Located<String>>,
    /// Keys of `random_steering.pool_weights`.
    pub weighted_pools: Vec<Located<String>>,
}

/// `steering_policy`, before its own fields are known.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Off,
    Random,
    Unsupported,
}

pub(super) fn load_balancer(name: &Located<String>, table: Table<'_>) -> ReadLoadBalancer {
    let default_pools = default_pools(&table);
    let fallback_pool = table
        .get("fallback_pool")
        .and_then(|value| value.string().map(|text| value.locate(text.to_owned())));
    let policy = policy(&table);
    let (weights, default_weight) = random_steering(&table, policy);
    let weighted_pools = weights.iter().map(|(name, _)| name.clone()).collect();
    let load_balancer = LoadBalancer {
        name: name.value.clone(),
        enabled: enabled(&table),
        default_pools: default_pools.iter().map(|pool| pool.value.clone()).collect(),
        fallback_pool: fallback_pool.as_ref().map(|pool| pool.value.clone()),
        steering_policy: match policy {
            Policy::Off | Policy::Unsupported => SteeringPolicy::Off,
            Policy::Random => SteeringPolicy::Random {
                weights: weights
                    .into_iter()
                    .map(|(name, weight)| (name.value, weight))
                    .collect(),
                default_weight,
            },
        },
    };
    if let SteeringPolicy::Random {
        weights,
        default_weight,
    } = &load_balancer.steering_policy
    {
        let weight = |pool: &String| {
            weights
                .iter()
                .find(|(name, _)| name == pool)
                .map_or(*default_weight, |(_, weight)| *weight)
        };
        if !default_pools.is_empty()
            && default_pools
                .iter()
                .all(|pool| weight(&pool.value) == Weight::ZERO)
        {
            table.sink.warning(
                &table.place,
                "all default pools have weight 0: none of them gets traffic",
                None,
            );
        }
    }
    refuse_the_rest(&table);
    table.note("description");
    table.report_unknown();
    ReadLoadBalancer {
        load_balancer,
        default_pools,
        fallback_pool,
        weighted_pools,
    }
}

fn default_pools(table: &Table<'_>) -> Vec<Located<String>> {
    let mut pools: Vec<Located<String>> = Vec::new();
    let Some(value) = table.require("default_pools", "list the pools in the order of preference") else {
        return pools;
    };
    let before = value.list("[\"pool\"]");
    for item in &before {
        let Some(name) = item.string() else { continue };
        if pools.iter().any(|pool| pool.value == name) {
            item.error(format!("pool `{name}` is listed twice"), None);
        }
        pools.push(item.locate(name.to_owned()));
    }
    if before.is_empty() && value.is_list() {
        value.error(
            "the list is empty",
            "a load balancer needs at least one pool".to_owned(),
        );
    }
    pools
}

fn policy(table: &Table<'_>) -> Policy {
    let Some(value) = table.get("steering_policy") else {
        return Policy::Off;
    };
    let words = [
        ("off", Policy::Off),
        ("random", Policy::Random),
        ("hash", Policy::Unsupported),
        ("geo", Policy::Unsupported),
        ("dynamic_latency", Policy::Unsupported),
        ("proximity", Policy::Unsupported),
        ("least_connections", Policy::Unsupported),
        ("least_outstanding_requests", Policy::Unsupported),
        // Cloudflare's default: `off` as long as no pools are given by place.
        ("", Policy::Off),
    ];
    let Some(policy) = value.word(&words) else {
        return Policy::Unsupported;
    };
    if policy == Policy::Unsupported {
        let word = value.string().unwrap_or_default();
        let help = "use \"off\" (the first usable pool) or \"random\" (by weight)".to_owned();
        value.error(
            format!("steering policy \"{word}\" is not supported in this version"),
            help,
        );
    }
    policy
}

/// `random_steering`: the weights of pools that are named, and of all others.
fn random_steering(table: &Table<'_>, policy: Policy) -> (Vec<(Located<String>, Weight)>, Weight) {
    let Some(steering) = table.table("random_steering") else {
        return (Vec::new(), Weight::ONE);
    };
    if policy == Policy::Off {
        let message = "has no effect with `steering_policy = \"off\"`";
        table.sink.warning(
            &steering.place,
            message,
            "set `steering_policy = \"random\"`".to_owned(),
        );
    }
    let default = steering
        .get("default_weight")
        .and_then(|value| pool::weight(&value))
        .unwrap_or(Weight::ONE);
    let mut weights = Vec::new();
    if let Some(named) = steering.table("pool_weights") {
        for (name, value) in named.entries() {
            weights.push((name, pool::weight(&value).unwrap_or(Weight::ONE)));
        }
    }
    steering.report_unknown();
    (weights, default)
}

/// Cloudflare's other fields, each with the reason why it is not taken.
fn refuse_the_rest(table: &Table<'_>) {
    for key in ["region_pools", "country_pools", "pop_pools"] {
        table.unsupported(
            key,
            "steering policy \"geo\" is not there yet; use `default_pools`",
        );
    }
    table.unsupported("pool_sets", "use `default_pools`");
    table.unsupported(
        "adaptive_routing",
        "the next pool takes over when a monitor finds a pool critical",
    );
    table.refuse(
        "rules",
        "custom rules look into HTTP requests, which a packet-level balancer cannot",
        "use one application and load balancer for each port",
    );
    if let Some(value) = table.get("session_affinity")
        && let Some(word) = value.string().filter(|word| !matches!(*word, "none" | ""))
    {
        value.error(
            format!("session affinity \"{word}\" needs HTTP, which a packet-level balancer does not see"),
            "use `origin_steering = { policy = \"hash\" }` on the pools: the client's address picks the origin"
                .to_owned(),
        );
    }
    for key in ["session_affinity_ttl", "session_affinity_attributes"] {
        table.refuse(
            key,
            "session affinity needs HTTP, which a packet-level balancer does not see",
            "use `origin_steering = { policy = \"hash\" }` on the pools",
        );
    }
    table.inert("proxied", "applications are always forwarded through lb");
    table.inert("ttl", "lb answers no DNS queries");
    table.inert("location_strategy", "lb answers no DNS queries");
    table.inert("networks", "it belongs to Cloudflare's network");
}
