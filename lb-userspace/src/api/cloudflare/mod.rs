//! Cloudflare's API, version 4, under `/client/v4`: load balancing and Spectrum, as its own clients speak it.
//!
//! There is one tenant: any well-formed id of an account or zone means this node.

mod analytics;
mod answer;
mod objects;
mod openapi;
mod overview;
mod preview;

pub(super) use objects::{blank, shown};
pub(crate) use overview::observed;

pub(super) use openapi::document as openapi;

use super::Handle;
use crate::config::Kind;
use answer::{Refused, failed};
use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;

/// Where it begins.
pub(super) const PREFIX: &str = "/client/v4";

/// The refusal of a request that is not for anybody, as clients of this API read it; `None` for other paths.
pub(super) fn unauthorized(path: &str, status: u16, message: &str) -> Option<Response> {
    path.starts_with(PREFIX).then(|| {
        failed(&crate::cloudflare::Failure::new(
            status,
            10000,
            format!("Authentication error: {message}"),
        ))
    })
}

/// The routes.
pub(super) fn router() -> Router<Handle> {
    let mut router = Router::new();
    // Who has no account has the same things under their name.
    for owner in ["/accounts/{account}", "/user"] {
        let base = format!("{PREFIX}{owner}/load_balancers");
        router = objects::routes(router, &format!("{base}/monitors"), Kind::Monitor);
        router = objects::routes(router, &format!("{base}/monitor_groups"), Kind::MonitorGroup);
        router = objects::routes(router, &format!("{base}/pools"), Kind::Pool);
        router = router
            .route(&format!("{base}/pools/{{id}}/health"), get(overview::health))
            .route(
                &format!("{base}/pools/{{id}}/preview"),
                axum::routing::post(preview::of_pool),
            )
            .route(
                &format!("{base}/monitors/{{id}}/preview"),
                axum::routing::post(preview::of_monitor),
            )
            .route(&format!("{base}/preview/{{id}}"), get(preview::result))
            .route(&format!("{base}/search"), get(overview::search))
            .route(&format!("{base}/usage"), get(overview::usage))
            .route(&format!("{base}/regions"), get(overview::regions))
            .route(&format!("{base}/regions/{{region}}"), get(overview::region));
    }
    for owner in ["/accounts/{account}", "/zones/{zone}"] {
        let base = format!("{PREFIX}{owner}/load_balancers");
        router = objects::routes(router, &base, Kind::LoadBalancer);
    }
    let spectrum = format!("{PREFIX}/zones/{{zone}}/spectrum");
    objects::routes(router, &format!("{spectrum}/apps"), Kind::Application)
        .route(&format!("{spectrum}/protocols"), get(overview::protocols))
        .route(
            &format!("{spectrum}/analytics/aggregate/current"),
            get(analytics::current),
        )
        .route(
            &format!("{spectrum}/analytics/events/summary"),
            get(analytics::summary),
        )
        .route(
            &format!("{spectrum}/analytics/events/bytime"),
            get(analytics::by_time),
        )
        .route(PREFIX, axum::routing::any(no_route))
        .route(&format!("{PREFIX}/"), axum::routing::any(no_route))
        .route(&format!("{PREFIX}/{{*path}}"), axum::routing::any(no_route))
        .method_not_allowed_fallback(no_method)
        .layer(axum::middleware::from_fn(answer::in_time))
}

async fn no_method() -> Refused {
    Refused(crate::cloudflare::Failure::new(
        405,
        7001,
        "Method not allowed for this URI",
    ))
}

async fn no_route(uri: Uri, _request: Request) -> Refused {
    Refused(answer::no_route(uri.path()))
}
