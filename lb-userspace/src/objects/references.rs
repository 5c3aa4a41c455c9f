//! Who refers to whom.

use super::catalog::Catalog;
use super::entry::{Body, Entry, Id};
use crate::config::Kind;
use std::sync::Arc;

/// The objects that one refers to, by kind and id or, where ids are not what it has, by name.
fn targets(entry: &Entry) -> Vec<(Kind, Target<'_>)> {
    let id = |kind: Kind, id: &'_ str| (kind, Target::Id(id.to_owned()));
    match &entry.body {
        Body::Monitor(_) => Vec::new(),
        Body::MonitorGroup(group) => {
            let members = group.members.iter();
            members
                .map(|member| id(Kind::Monitor, &member.monitor_id))
                .collect()
        }
        Body::Pool(pool) => vec![
            id(Kind::Monitor, &pool.monitor),
            id(Kind::MonitorGroup, &pool.monitor_group),
        ],
        Body::LoadBalancer(balancer) => {
            let places = [
                &balancer.region_pools,
                &balancer.country_pools,
                &balancer.pop_pools,
            ];
            let overrides = balancer.pool_sets.iter().filter_map(|set| set.overrides.as_ref());
            let of_sets = overrides.flat_map(|overrides| {
                let pools = overrides.pools.iter().flatten();
                pools.chain(&overrides.fallback_pool)
            });
            balancer
                .default_pools
                .iter()
                .chain([&balancer.fallback_pool])
                .chain(places.into_iter().flat_map(|lists| lists.values().flatten()))
                .chain(of_sets)
                .map(|pool| id(Kind::Pool, pool))
                .collect()
        }
        Body::Application(application) => {
            let balancer = application.origin_dns.iter();
            balancer
                .map(|dns| (Kind::LoadBalancer, Target::Name(&dns.name)))
                .collect()
        }
    }
}

enum Target<'a> {
    Id(String),
    Name(&'a str),
}

/// The objects that refer to this one, and those that it refers to.
#[must_use]
pub fn references<'c>(catalog: &'c Catalog, entry: &Entry) -> (Vec<&'c Arc<Entry>>, Vec<&'c Arc<Entry>>) {
    let meant = |kind: Kind, target: &Target<'_>| match target {
        Target::Id(id) => catalog.get(kind, &Id::parse(id)?),
        Target::Name(name) => catalog.named(kind, name),
    };
    let is_entry = |other: &Entry| other.kind() == entry.kind() && other.id == entry.id;
    let referrers = catalog.all().filter(|other| {
        let targets = targets(other);
        let mut meant = targets.iter().filter_map(|(kind, target)| meant(*kind, target));
        meant.any(|meant| is_entry(meant))
    });
    let mut referrals: Vec<&Arc<Entry>> = Vec::new();
    for (kind, target) in targets(entry) {
        if let Some(found) = meant(kind, &target)
            && !referrals.iter().any(|known| known.id == found.id)
        {
            referrals.push(found);
        }
    }
    (referrers.collect(), referrals)
}
