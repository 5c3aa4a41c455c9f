//! Drafts, revisions and deployments.

use super::error::ApiError;
use super::version_request::{Deployment, DeploymentSource, Version, VersionRequest};
use super::{Handle, Reply, Request};
use crate::wire::{
    ApplyBody, DeployBody, Deployed, DiffBody, DraftBody, DraftRow, Drafts, ErrorCode, Plan, RevisionRow,
    Revisions, RollbackBody, Text,
};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A file may have 64 MiB, and each of its lines costs a character more in JSON.
const MAX_BODY: usize = 96 << 20;

/// The longest time that a deployment may wait for its confirmation.
const LONGEST_WAIT: f64 = 86_400.0;

type Answer<T> = Result<Json<T>, ApiError>;

/// The routes for those who may read and replace the configuration file.
pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/api/v1/revisions", get(revisions))
        .route("/api/v1/revisions/{number}", get(revision))
        .route("/api/v1/drafts", get(drafts))
        .route(
            "/api/v1/drafts/{name}",
            get(draft).put(save_draft).delete(delete_draft),
        )
        .route("/api/v1/drafts/{name}/deploy", post(deploy_draft))
        .route("/api/v1/diff", post(diff))
        .route("/api/v1/apply", post(apply))
        .route("/api/v1/confirm", post(confirm))
        .route("/api/v1/rollback", post(roll_back))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Files as they were written, which may hold secrets: for those alone who could read them on this machine.
pub(super) fn local_routes() -> Router<Handle> {
    Router::new()
        .route("/api/v1/revisions/{number}/text", get(revision_text))
        .route("/api/v1/drafts/{name}/text", get(draft_text))
}

async fn ask<T>(handle: &Handle, make: impl FnOnce(Reply<T>) -> VersionRequest) -> Answer<T> {
    let answer = handle.ask(|reply| Request::Version(make(reply))).await?;
    Ok(Json(answer))
}

/// A body of JSON; an empty one stands for `{}`.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    let body = if body.is_empty() { &b"{}"[..] } else { body };
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            format!("the body is not understood: {error}"),
        )
    })
}

fn wait(seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds > 0.0 && seconds <= LONGEST_WAIT => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        Some(seconds) => Err(ApiError::parameter(
            "confirm",
            format!("`confirm` is {seconds}, not more than 0 and at most {LONGEST_WAIT} seconds"),
        )),
    }
}

async fn revisions(State(handle): State<Handle>) -> Answer<Revisions> {
    ask(&handle, |reply| VersionRequest::Revisions { reply }).await
}

fn number(text: &str) -> Result<u64, ApiError> {
    text.parse()
        .map_err(|_| ApiError::parameter("revision", format!("{text:?} is not the number of a revision")))
}

async fn revision(State(handle): State<Handle>, Path(text): Path<String>) -> Answer<RevisionRow> {
    let number = number(&text)?;
    ask(&handle, |reply| VersionRequest::Revision { number, reply }).await
}

async fn revision_text(State(handle): State<Handle>, Path(text): Path<String>) -> Answer<Text> {
    let of = Version::Revision(number(&text)?);
    ask(&handle, |reply| VersionRequest::Text { of, reply }).await
}

async fn drafts(State(handle): State<Handle>) -> Answer<Drafts> {
    ask(&handle, |reply| VersionRequest::Drafts { reply }).await
}

async fn draft(State(handle): State<Handle>, Path(name): Path<String>) -> Answer<DraftRow> {
    ask(&handle, |reply| VersionRequest::Draft { name, reply }).await
}

async fn draft_text(State(handle): State<Handle>, Path(name): Path<String>) -> Answer<Text> {
    let of = Version::Draft(name);
    ask(&handle, |reply| VersionRequest::Text { of, reply }).await
}

async fn save_draft(State(handle): State<Handle>, Path(name): Path<String>, body: Bytes) -> Answer<DraftRow> {
    let DraftBody { text, file } = read(&body)?;
    let file = file.unwrap_or_else(|| format!("draft {name}"));
    ask(&handle, |reply| VersionRequest::SaveDraft {
        name,
        text,
        file,
        reply,
    })
    .await
}

async fn delete_draft(State(handle): State<Handle>, Path(name): Path<String>) -> Answer<DraftRow> {
    ask(&handle, |reply| VersionRequest::DeleteDraft { name, reply }).await
}

async fn deploy_draft(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<Deployed> {
    let DeployBody { force, confirm } = read(&body)?;
    let deployment = Deployment {
        source: DeploymentSource::Draft(name),
        force,
        confirm: wait(confirm)?,
    };
    ask(&handle, |reply| VersionRequest::Deploy { deployment, reply }).await
}

async fn diff(State(handle): State<Handle>, body: Bytes) -> Answer<Plan> {
    let DiffBody { from, to } = read(&body)?;
    ask(&handle, |reply| VersionRequest::Diff { from, to, reply }).await
}

async fn apply(State(handle): State<Handle>, body: Bytes) -> Answer<Deployed> {
    let ApplyBody {
        text,
        file,
        force,
        confirm,
    } = read(&body)?;
    let deployment = Deployment {
        source: DeploymentSource::Text { text, file },
        force,
        confirm: wait(confirm)?,
    };
    ask(&handle, |reply| VersionRequest::Deploy { deployment, reply }).await
}

async fn confirm(State(handle): State<Handle>) -> Answer<Deployed> {
    ask(&handle, |reply| VersionRequest::Confirm { reply }).await
}

async fn roll_back(State(handle): State<Handle>, body: Bytes) -> Answer<Deployed> {
    let RollbackBody { revision, force } = read(&body)?;
    ask(&handle, |reply| VersionRequest::RollBack {
        revision,
        force,
        reply,
    })
    .await
}
