//! Who refers to whom.

use super::catalog::Catalog;
use super::change::field;
use super::entry::{Body, Entry, Id};
use crate::cloudflare::{Failure, LoadBalancer, Reason};
use crate::config::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object that another one refers to.
struct Target<'e> {
    kind: Kind,
    by: By<'e>,
    /// Where in the body (RFC 6901).
    pointer: String,
}

enum By<'e> {
    Id(&'e str),
    Name(&'e str),
}

impl<'e> Target<'e> {
    fn id(kind: Kind, id: &'e str, pointer: impl Into<String>) -> Self {
        Self {
            kind,
            by: By::Id(id),
            pointer: pointer.into(),
        }
    }

    fn meant<'c>(&self, catalog: &'c Catalog) -> Option<&'c Arc<Entry>> {
        match self.by {
            By::Id(id) => catalog.get(self.kind, &Id::parse(id)?),
            By::Name(name) => catalog.named(self.kind, name),
        }
    }
}

/// Everything that an object refers to. Where one may be named and is not, there is nothing.
fn targets(entry: &Entry) -> Vec<Target<'_>> {
    match &entry.body {
        Body::Monitor(_) => Vec::new(),
        Body::MonitorGroup(group) => {
            let members = group.members.iter().enumerate();
            members
                .map(|(index, member)| {
                    Target::id(
                        Kind::Monitor,
                        &member.monitor_id,
                        format!("/members/{index}/monitor_id"),
                    )
                })
                .collect()
        }
        Body::Pool(pool) => {
            let all = [
                Target::id(Kind::Monitor, &pool.monitor, "/monitor"),
                Target::id(Kind::MonitorGroup, &pool.monitor_group, "/monitor_group"),
            ];
            let named = |target: &Target<'_>| !matches!(target.by, By::Id(""));
            all.into_iter().filter(named).collect()
        }
        Body::LoadBalancer(balancer) => pools(balancer),
        Body::Application(application) => {
            let balancer = application.origin_dns.iter();
            balancer
                .map(|dns| Target {
                    kind: Kind::LoadBalancer,
                    by: By::Name(&dns.name),
                    pointer: "/origin_dns/name".to_owned(),
                })
                .collect()
        }
    }
}

fn pools(balancer: &LoadBalancer) -> Vec<Target<'_>> {
    let mut targets = Vec::new();
    list(&mut targets, "/default_pools", &balancer.default_pools);
    if !balancer.fallback_pool.is_empty() {
        targets.push(Target::id(Kind::Pool, &balancer.fallback_pool, "/fallback_pool"));
    }
    for (key, places) in [
        ("region_pools", &balancer.region_pools),
        ("country_pools", &balancer.country_pools),
        ("pop_pools", &balancer.pop_pools),
    ] {
        for (place, pools) in places {
            list(&mut targets, &format!("/{key}/{}", escaped(place)), pools);
        }
    }
    let weights = &balancer.random_steering.pool_weights;
    keys(&mut targets, "/random_steering/pool_weights", weights);
    for (index, set) in balancer.pool_sets.iter().enumerate() {
        let Some(overrides) = &set.overrides else { continue };
        let base = format!("/pool_sets/{index}/overrides");
        list(
            &mut targets,
            &format!("{base}/pools"),
            overrides.pools.iter().flatten(),
        );
        if let Some(fallback) = &overrides.fallback_pool {
            targets.push(Target::id(Kind::Pool, fallback, format!("{base}/fallback_pool")));
        }
        if let Some(weights) = &overrides.pool_weights {
            keys(&mut targets, &format!("{base}/pool_weights"), weights);
        }
    }
    targets
}

fn list<'e>(targets: &mut Vec<Target<'e>>, base: &str, ids: impl IntoIterator<Item = &'e String>) {
    let ids = ids.into_iter().enumerate();
    targets.extend(ids.map(|(index, id)| Target::id(Kind::Pool, id, format!("{base}/{index}"))));
}

fn keys<'e, T>(targets: &mut Vec<Target<'e>>, base: &str, weights: &'e BTreeMap<String, T>) {
    let ids = weights.keys();
    targets.extend(ids.map(|id| Target::id(Kind::Pool, id, format!("{base}/{}", escaped(id)))));
}

/// A key as a part of a pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Refuses an object that names others where their ids belong, or that refers by id to nobody: names change, and who is
/// referred to by one would not be known to be.
///
/// # Errors
/// Every such reference.
pub(super) fn refuse_strangers(catalog: &Catalog, entry: &Entry) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    for target in targets(entry) {
        let (By::Id(text), None) = (&target.by, target.meant(catalog)) else {
            continue;
        };
        let (kind, noun) = (target.kind, target.kind.noun());
        let message = match (Id::parse(text), catalog.named(kind, text)) {
            (Some(_), _) => format!("there is no {noun} `{text}`"),
            (None, Some(named)) => format!(
                "`{text}` is not the id of a {noun}, but the name of the one with the id {}",
                named.id
            ),
            (None, None) => {
                format!("`{text}` is not the id of a {noun}: ids are 32 lower-case hexadecimal digits")
            }
        };
        let message = format!("{}: {message}", field(&target.pointer));
        reasons.push(Reason::field(entry.kind(), &target.pointer, message));
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Failure::invalid(reasons)),
    }
}

/// The objects that refer to this one, and those that it refers to.
#[must_use]
pub fn references<'c>(catalog: &'c Catalog, entry: &Entry) -> (Vec<&'c Arc<Entry>>, Vec<&'c Arc<Entry>>) {
    let is_entry = |other: &Entry| other.kind() == entry.kind() && other.id == entry.id;
    let referrers = catalog.all().filter(|other| {
        let targets = targets(other);
        let mut meant = targets.iter().filter_map(|target| target.meant(catalog));
        meant.any(|meant| is_entry(meant))
    });
    let mut referrals: Vec<&Arc<Entry>> = Vec::new();
    for target in targets(entry) {
        if let Some(found) = target.meant(catalog)
            && !referrals.iter().any(|known| known.id == found.id)
        {
            referrals.push(found);
        }
    }
    (referrers.collect(), referrals)
}
