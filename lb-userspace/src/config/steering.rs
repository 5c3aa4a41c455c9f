//! Steering that cannot work on this node: policies that lack what they go by, places that nobody is in.

use super::Declared;
use super::load_balancer::{Named, ReadLoadBalancer};
use super::pool::ReadPool;
use super::reader::{Located, Sink, suggestion};
use lb_core::model::{Node, Pool, SteeringPolicy};
use std::collections::HashMap;

/// Cloudflare's region codes: what `region_pools` of load balancers can name.
pub(super) const REGIONS: [&str; 13] = [
    "WNAM", "ENAM", "WEU", "EEU", "NSAM", "SSAM", "OC", "ME", "NAF", "SAF", "SAS", "SEAS", "NEAS",
];

/// Warns of what has no effect here, or not the one that was meant.
pub(super) fn check(
    sink: &Sink,
    node: &Node,
    has_geoip: bool,
    pools: &[Declared<ReadPool>],
    balancers: &[Declared<ReadLoadBalancer>],
) {
    let pools: HashMap<&str, &Pool> = pools
        .iter()
        .map(|declared| (declared.name.value.as_str(), &declared.object.pool))
        .collect();
    for declared in balancers {
        let balancer = &declared.object;
        let listed: Vec<&Pool> = balancer
            .load_balancer
            .listed_pools()
            .filter_map(|name| pools.get(name).copied())
            .collect();
        for policy in &balancer.policies {
            lacking(sink, node, policy, &listed);
        }
        // Of what the node does not know about itself, once is enough.
        let mut told = Vec::new();
        for place in &balancer.places {
            let kind = std::mem::discriminant(place);
            if !told.contains(&kind) && place_of(sink, node, has_geoip, place) {
                told.push(kind);
            }
        }
    }
}

/// Warns of a policy that has nothing to go by.
fn lacking(sink: &Sink, node: &Node, policy: &Located<SteeringPolicy>, pools: &[&Pool]) {
    match policy.value {
        SteeringPolicy::Proximity if node.coordinates().is_none() => {
            let message = "nobody knows where this node is: the order of the list counts";
            let help = "add `latitude` and `longitude` to [node]".to_owned();
            sink.warning(&policy.place, message, help);
        }
        SteeringPolicy::Proximity => {
            let missing = pools.iter().filter(|pool| pool.coordinates.is_none());
            warn_of_last(
                sink,
                policy,
                missing,
                "has no coordinates",
                "`latitude` and `longitude`",
            );
        }
        SteeringPolicy::DynamicLatency => {
            let missing = pools
                .iter()
                .filter(|pool| pool.monitor.is_none() && pool.monitor_group.is_none());
            warn_of_last(sink, policy, missing, "has no round-trip times", "a `monitor`");
        }
        SteeringPolicy::Off
        | SteeringPolicy::Random
        | SteeringPolicy::Hash
        | SteeringPolicy::Geo
        | SteeringPolicy::LeastConnections
        | SteeringPolicy::LeastOutstandingRequests => {}
    }
}

fn warn_of_last<'a>(
    sink: &Sink,
    policy: &Located<SteeringPolicy>,
    mut missing: impl Iterator<Item = &'a &'a Pool>,
    words: &str,
    remedy: &str,
) {
    if let Some(pool) = missing.next() {
        let message = format!("pool `{}` {words}: it comes after those that have", pool.name);
        sink.warning(&policy.place, message, format!("give it {remedy}"));
    }
}

/// Warns of a place that no flow comes from, where that looks like a mistake; whether that holds for all of its kind.
fn place_of(sink: &Sink, node: &Node, has_geoip: bool, place: &Named) -> bool {
    match place {
        Named::Pop(pop) if node.pop.is_none() => {
            let message = format!(
                "this node has no pop: what is said of `{}` has no effect",
                pop.value
            );
            sink.warning(&pop.place, message, "add `pop` to [node]".to_owned());
            true
        }
        Named::Region(region) if node.region.is_none() => {
            let message = format!(
                "this node has no region: what is said of `{}` has no effect",
                region.value
            );
            sink.warning(&region.place, message, "add `region` to [node]".to_owned());
            true
        }
        Named::Region(region) if node.region.as_ref() != Some(&region.value) => {
            let known = REGIONS.into_iter().chain(node.region.as_deref());
            if !known.clone().any(|known| known == region.value)
                && let Some(help) = suggestion(&region.value, known)
            {
                let message = format!("no region is called `{}`", region.value);
                sink.warning(&region.place, message, help);
            }
            false
        }
        Named::Country(place) if !has_geoip && node.country.is_none() => {
            let message = "nobody knows in which country a client is: this has no effect";
            let help = "add [geoip], or `country` to [node] for clients near it".to_owned();
            sink.warning(place, message, help);
            true
        }
        Named::Pop(_) | Named::Region(_) | Named::Country(_) => false,
    }
}
