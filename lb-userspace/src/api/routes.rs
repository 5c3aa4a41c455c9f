//! Paths, parameters and answers.

use super::error::ApiError;
use super::guard::{self, Guard};
use super::{Handle, Request, Standing, cloudflare, drafts, events, objects, stream};
use crate::wire::{
    Drops, ErrorCode, Explain, ExplainQuery, FlowFilter, Flows, Flushed, HandedOver, Reloaded, Status,
    StoredObjects,
};
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use std::net::SocketAddr;
use std::str::FromStr;

/// Bodies are not used yet; clients may send an empty object.
const MAX_BODY: usize = 64 << 10;

/// How many flows are listed unless the client says otherwise, and at most.
const DEFAULT_FLOWS: usize = 1000;
const MAX_FLOWS: usize = 1_000_000;

/// The routes without any guard, for tests and for embedding.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/openapi.json", get(async || Json(cloudflare::openapi())))
        .route("/api/v1/status", get(status))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/explain", get(explain))
        .route("/api/v1/flows", get(flows).delete(flush))
        .route("/api/v1/drops", get(drops))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/health/history", get(events::health))
        .fallback(async || ApiError::new(ErrorCode::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path does not know this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .merge(objects::router())
        .merge(cloudflare::router())
        .with_state(handle)
}

/// The routes behind a guard.
pub(super) fn guarded(handle: Handle, guard: Guard) -> Router {
    // Who takes over runs on the same machine and needs the privileges for it.
    let local = match guard {
        Guard::Trusted => Router::new()
            .route("/api/v1/handover", post(hand_over))
            .route("/api/v1/objects", get(stored_objects))
            .merge(drafts::local_routes())
            .with_state(handle.clone()),
        Guard::Local | Guard::Bearer(_) => Router::new(),
    };
    // Other people's packets, and the file that names paths and addresses of this machine, are for those who may see and do
    // everything: not for every user of this machine.
    let private = match guard {
        Guard::Trusted | Guard::Bearer(_) => Router::new()
            .route("/api/v1/trace", get(stream::trace))
            .route("/api/v1/capture", get(stream::capture))
            .merge(drafts::routes())
            .with_state(handle.clone()),
        Guard::Local => Router::new(),
    };
    router(handle)
        .merge(local)
        .merge(private)
        .layer(middleware::from_fn_with_state(guard, guard::check))
}

async fn ready(State(handle): State<Handle>) -> Result<impl IntoResponse, ApiError> {
    let standing = handle.ask(|reply| Request::Ready { reply }).await?;
    Ok(match standing {
        Standing::Ready => (StatusCode::OK, "ready\n"),
        Standing::Detached => (StatusCode::SERVICE_UNAVAILABLE, "not attached to any interface\n"),
        Standing::NotConfigured => (StatusCode::SERVICE_UNAVAILABLE, "no configuration is live\n"),
    })
}

async fn status(State(handle): State<Handle>) -> Result<Json<Status>, ApiError> {
    Ok(Json(handle.ask(|reply| Request::Status { reply }).await?))
}

async fn reload(State(handle): State<Handle>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(handle.ask(|reply| Request::Reload { reply }).await?))
}

async fn stored_objects(State(handle): State<Handle>) -> Result<Json<StoredObjects>, ApiError> {
    Ok(Json(handle.ask(|reply| Request::Objects { reply }).await?))
}

async fn hand_over(State(handle): State<Handle>) -> Result<Json<HandedOver>, ApiError> {
    Ok(Json(handle.ask(|reply| Request::HandOver { reply }).await?))
}

async fn explain(State(handle): State<Handle>, query: RawQuery) -> Result<Json<Explain>, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let protocol: String = parameters.required("protocol", "tcp or udp")?;
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(ApiError::parameter(
            "protocol",
            format!("`protocol` is {protocol:?}, not tcp or udp"),
        ));
    }
    let client: SocketAddr = parameters.required("client", "ADDRESS:PORT")?;
    let vip: SocketAddr = parameters.required("vip", "ADDRESS:PORT")?;
    parameters.finish()?;
    if client.is_ipv4() != vip.is_ipv4() {
        return Err(ApiError::parameter(
            "client",
            "`client` and `vip` are not of the same address family",
        ));
    }
    let query = ExplainQuery {
        protocol,
        client,
        vip,
    };
    Ok(Json(handle.ask(|reply| Request::Explain { query, reply }).await?))
}

async fn flows(State(handle): State<Handle>, query: RawQuery) -> Result<Json<Flows>, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let filter = parameters.filter()?;
    let limit = parameters.optional("limit", "a number")?.unwrap_or(DEFAULT_FLOWS);
    parameters.finish()?;
    if limit > MAX_FLOWS {
        return Err(ApiError::parameter(
            "limit",
            format!("`limit` is {limit}; {MAX_FLOWS} is the most"),
        ));
    }
    Ok(Json(
        handle
            .ask(|reply| Request::Flows { filter, limit, reply })
            .await?,
    ))
}

async fn flush(State(handle): State<Handle>, query: RawQuery) -> Result<Json<Flushed>, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let filter = parameters.filter()?;
    let all = parameters.optional("all", "true or false")?.unwrap_or(false);
    parameters.finish()?;
    if filter.is_empty() && !all {
        let message = "give `application`, `origin` or `all=true`: without a filter every flow is lost";
        return Err(ApiError::parameter("all", message));
    }
    Ok(Json(
        handle.ask(|reply| Request::FlushFlows { filter, reply }).await?,
    ))
}

async fn drops(State(handle): State<Handle>) -> Result<Json<Drops>, ApiError> {
    Ok(Json(handle.ask(|reply| Request::Drops { reply }).await?))
}

/// Query parameters: each is read once, and what is left over is an error, so that a typo is not an unfiltered answer.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(RawQuery(query): RawQuery) -> Result<Self, ApiError> {
        let query = query.unwrap_or_default();
        let uri = format!("/?{query}").parse::<axum::http::Uri>();
        let pairs = uri
            .ok()
            .and_then(|uri| axum::extract::Query::try_from_uri(&uri).ok());
        match pairs {
            Some(axum::extract::Query(pairs)) => Ok(Self(pairs)),
            None => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "the query string is malformed",
            )),
        }
    }

    pub(super) fn optional<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else {
            return Ok(None);
        };
        let (_, text) = self.0.remove(at);
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(ApiError::parameter(
                name,
                format!("`{name}` is {text:?}, not {expected}"),
            )),
        }
    }

    fn required<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<T, ApiError> {
        self.optional(name, expected)?
            .ok_or_else(|| ApiError::parameter(name, format!("`{name}` is missing: {expected}")))
    }

    fn filter(&mut self) -> Result<FlowFilter, ApiError> {
        Ok(FlowFilter {
            application: self.optional("application", "a name")?,
            origin: self.optional("origin", "a name")?,
        })
    }

    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::parameter(
                name,
                format!("unknown or repeated parameter `{name}`"),
            )),
        }
    }
}
