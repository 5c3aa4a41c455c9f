//! Names that change, and what stays: flows and health go on when something is only called otherwise.
//!
//! A pool of the API is known by its id. Its origins are known by the names that they had first.

use super::entry::{Body, Entry};
use crate::cloudflare::{Origin, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where an origin's packets go: two of the same pool that agree in it are the same origin under two names.
fn endpoint(origin: &Origin) -> (String, i64, Option<&str>, Option<i64>) {
    let address = match origin.address.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => origin.address.clone(),
    };
    (
        address,
        origin.port,
        origin.forwarding.as_deref(),
        origin.gue_port,
    )
}

/// By name: what those origins are known by whose name is another one.
pub(super) fn first_names(former: &Entry, pool: &Pool) -> BTreeMap<String, String> {
    let Body::Pool(before) = &former.body else {
        return BTreeMap::new();
    };
    let mut left: Vec<&Origin> = before.origins.iter().collect();
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    // Who kept the name and the place first, so that another one at the same place does not take what it is known by.
    for by_name in [true, false] {
        for origin in &pool.origins {
            let same = |other: &&Origin| {
                endpoint(other) == endpoint(origin) && (!by_name || other.name == origin.name)
            };
            if known.contains_key(origin.name.as_str()) {
                continue;
            }
            if let Some(at) = left.iter().position(same) {
                let other = left.remove(at);
                let first = former.first_names.get(&other.name).unwrap_or(&other.name);
                known.insert(&origin.name, first.clone());
            }
        }
    }
    let mut taken: BTreeSet<String> = known.values().cloned().collect();
    for origin in &pool.origins {
        if known.contains_key(origin.name.as_str()) {
            continue;
        }
        let numbered = (2..).map(|number| format!("{}-{number}", origin.name));
        let mut free = std::iter::once(origin.name.clone()).chain(numbered);
        let Some(first) = free.find(|name| !taken.contains(name)) else {
            continue;
        };
        taken.insert(first.clone());
        known.insert(&origin.name, first);
    }
    let renamed = known.into_iter().filter(|(name, first)| name != first);
    renamed.map(|(name, first)| (name.to_owned(), first)).collect()
}
