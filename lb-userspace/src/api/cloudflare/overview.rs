//! Health, search, usage, and what Cloudflare's clients look up.

use super::super::Handle;
use super::answer::{Answer, Asked, Refused, no_route, success};
use super::objects::{connected, resource_type};
use crate::cloudflare::{
    Country, Envelope, Failure, OriginHealth as Origin, PROTOCOLS, PoolHealth, PopHealth, Protocol, Region,
    Regions, Resource, Resources, Usage, regions as all_regions,
};
use crate::config::Kind;
use crate::objects::{Body, Entry};
use crate::wire::failure_reason;
use axum::Json;
use axum::extract::State;
use lb_core::health::{FailureReason, Observation, OriginHealth};
use lb_core::view::OriginView;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How one origin is told: under its address, here of an attempt.
pub(crate) fn observed(address: String, observation: &Observation) -> BTreeMap<String, Origin> {
    let health = match observation {
        Ok(success) => Origin {
            healthy: true,
            rtt: Origin::duration(Some(success.rtt)),
            failure_reason: failure(None),
            response_code: success.response_code.unwrap_or(0),
        },
        Err(reason) => Origin {
            healthy: false,
            rtt: Origin::duration(None),
            failure_reason: failure(Some(reason)),
            response_code: reason.response_code().unwrap_or(0),
        },
    };
    BTreeMap::from([(address, health)])
}

fn failure(reason: Option<&FailureReason>) -> String {
    reason.map_or_else(|| "No failures".to_owned(), failure_reason)
}

fn of_view(view: &OriginView) -> BTreeMap<String, Origin> {
    let health = Origin {
        healthy: view.health == OriginHealth::Healthy,
        rtt: Origin::duration(view.rtt),
        failure_reason: failure(view.failure_reason.as_ref()),
        response_code: view.response_code.unwrap_or(0),
    };
    BTreeMap::from([(configured_address(view), health)])
}

/// `GET pools/{id}/health`.
pub(super) async fn health(handle: State<Handle>, asked: Asked) -> Answer<PoolHealth> {
    let (catalog, view) = (handle.catalog.borrow().clone(), handle.view.borrow().clone());
    let entry = catalog.find(Kind::Pool, asked.id())?;
    let has_monitor =
        matches!(&entry.body, Body::Pool(pool) if !pool.monitor.is_empty() || !pool.monitor_group.is_empty());
    if !has_monitor {
        let message = "Health info unavailable: the pool has no monitor";
        return Err(Refused(Failure::new(400, 1002, message)));
    }
    let pool = view.pools.iter().find(|pool| pool.name == entry.name);
    let seen = pool.map(|pool| {
        let health = PopHealth {
            healthy: pool.is_healthy(),
            origins: pool.origins.iter().map(of_view).collect(),
        };
        (view.node.clone(), health)
    });
    success(PoolHealth {
        pool_id: entry.id.to_string(),
        pop_health: seen.into_iter().collect(),
    })
}

/// `GET search`: objects by a part of their name, with those that they are connected with if asked for.
pub(super) async fn search(handle: State<Handle>, asked: Asked) -> Answer<Resources> {
    let query = asked.text("query").unwrap_or_default().to_lowercase();
    let wanted = asked
        .word("references", &["", "*", "referral", "referrer"])?
        .unwrap_or_default();
    let page = asked.number("page", 1..=usize::MAX)?.unwrap_or(1);
    let per_page = asked.number("per_page", 1..=1000)?.unwrap_or(25);
    let catalog = handle.catalog.borrow().clone();
    let found: Vec<&Arc<Entry>> = catalog
        .all()
        .filter(|entry| matches!(entry.kind(), Kind::Monitor | Kind::Pool | Kind::LoadBalancer))
        .filter(|entry| entry.title().to_lowercase().contains(&query) || entry.id.as_str() == query)
        .collect();
    let Envelope {
        result, result_info, ..
    } = Envelope::page(found, page, per_page);
    let resources = result.unwrap_or_default().into_iter().map(|entry| {
        let mut references = match wanted {
            "" => Vec::new(),
            _ => connected(&catalog, entry),
        };
        references.retain(|reference| wanted == "*" || reference.reference_type == wanted);
        Resource {
            reference_type: if wanted == "referrer" {
                "referrer"
            } else {
                "referral"
            },
            references,
            resource_id: entry.id.to_string(),
            resource_name: entry.title().to_owned(),
            resource_type: resource_type(entry.kind()),
        }
    });
    let resources = Resources {
        resources: resources.collect(),
    };
    Ok(Json(Envelope {
        result_info,
        ..Envelope::success(resources)
    }))
}

/// `GET usage`.
pub(super) async fn usage(handle: State<Handle>, _: Asked) -> Answer<Usage> {
    let catalog = handle.catalog.borrow().clone();
    let origins = catalog.all().map(|entry| match &entry.body {
        Body::Pool(pool) => pool.origins.len(),
        _ => 0,
    });
    success(Usage {
        load_balancers: catalog.of_kind(Kind::LoadBalancer).count(),
        monitors: catalog.of_kind(Kind::Monitor).count(),
        origins: origins.sum(),
        pools: catalog.of_kind(Kind::Pool).count(),
        // Nothing but memory is a limit.
        max_origins_per_pool: i32::MAX as usize,
        minimum_monitor_interval: 0.1,
    })
}

/// `GET spectrum/protocols`.
pub(super) async fn protocols(_: Asked) -> Answer<Vec<Protocol>> {
    Ok(Json(Envelope::all(PROTOCOLS.to_vec())))
}

/// `GET regions`: all, or those with a country or a part of one.
pub(super) async fn regions(asked: Asked) -> Answer<Regions> {
    let country = asked.text("country_code_a2").or(asked.text("country_code"));
    let part = asked
        .text("subdivision_code_a2")
        .or(asked.text("subdivision_code"));
    let mut all = all_regions();
    let keep = |found: &Country| {
        country.is_none_or(|code| found.country_code_a2.eq_ignore_ascii_case(code))
            && part.is_none_or(|code| {
                let mut parts = found.country_subdivisions.iter();
                parts.any(|part| part.subdivision_code_a2.eq_ignore_ascii_case(code))
            })
    };
    for region in &mut all.regions {
        region.countries.retain(keep);
    }
    all.regions.retain(|region| !region.countries.is_empty());
    success(all)
}

/// `GET regions/{region}`.
pub(super) async fn region(asked: Asked) -> Answer<Regions> {
    let mut all = all_regions();
    let wanted = asked.part("region");
    all.regions.retain(|region: &Region| region.region_code == wanted);
    match all.regions.is_empty() {
        false => success(all),
        true => Err(Refused(no_route(wanted))),
    }
}

/// What `address` of the origin says. A host name has an entry for each of its addresses.
fn configured_address(view: &OriginView) -> String {
    let name = view.host_name.clone();
    name.or(view.address.map(|address| address.to_string()))
        .unwrap_or_default()
}
