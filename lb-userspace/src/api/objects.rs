//! Objects by name and in the file's vocabulary, for the command line: `/api/v1/pools` and its like.
//!
//! What is changed here is changed by the same code as through Cloudflare's API; only the words come from the file.

use super::error::ApiError;
use super::guard::Onlooker;
use super::{Handle, Request, cloudflare};
use crate::cloudflare::{Failure, Number};
use crate::config::{Document, Kind};
use crate::objects::{
    Action, Catalog, Change, Declare, Entry, Mistake, Operation, Override, Subject, for_people, parse_text,
    places, references, time,
};
use crate::probe::run_trials;
use crate::wire::{
    Declared, ErrorCode, ErrorDetail, MonitorTest, MonitorTestQuery, Object, ObjectText, Objects, Operand,
    Overridden, Problem,
};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A pool with 10,000 origins needs about 1 MiB.
const MAX_BODY: usize = 8 << 20;

/// What messages call the text of a request.
const TEXT: &str = "";

type Answer<T> = Result<Json<T>, ApiError>;

/// The routes of all kinds.
pub(super) fn router() -> Router<Handle> {
    let mut router = Router::new();
    for kind in Kind::ALL {
        let base = format!("/api/v1/{}", kind.table());
        router = router
            .route(
                &base,
                get(async move |handle: State<Handle>, onlooker: Looker| list(kind, &handle, &onlooker))
                    .post(async move |handle: State<Handle>, body: Bytes| {
                        declare(kind, &handle, None, &body).await
                    }),
            )
            .route(
                &format!("{base}/{{name}}"),
                get(
                    async move |handle: State<Handle>, Path(name): Path<String>, onlooker: Looker| {
                        show(kind, &handle, &name, &onlooker)
                    },
                )
                .put(
                    async move |handle: State<Handle>, Path(name): Path<String>, body: Bytes| {
                        declare(kind, &handle, Some(name), &body).await
                    },
                ),
            )
            .route(
                &format!("{base}/{{name}}/{{verb}}"),
                post(
                    async move |handle: State<Handle>,
                                Path((name, verb)): Path<(String, String)>,
                                body: Bytes| {
                        operate(kind, &handle, name, None, &verb, &body).await
                    },
                ),
            );
    }
    router
        .route(
            "/api/v1/pools/{pool}/origins/{origin}/{verb}",
            post(
                async |handle: State<Handle>,
                       Path((pool, origin, verb)): Path<(String, String, String)>,
                       body: Bytes| {
                    operate(Kind::Pool, &handle, pool, Some(origin), &verb, &body).await
                },
            ),
        )
        .route(
            "/api/v1/monitors/{name}/test",
            post(
                async |handle: State<Handle>, Path(name): Path<String>, body: Bytes| {
                    test(&handle, &name, &body).await
                },
            ),
        )
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

fn catalog(handle: &Handle) -> Arc<Catalog> {
    handle.catalog.borrow().clone()
}

fn list(kind: Kind, handle: &Handle, looker: &Looker) -> Answer<Objects> {
    let catalog = catalog(handle);
    let entries = catalog.of_kind(kind);
    let objects = entries.map(|entry| for_looker(shown(handle, &catalog, entry), looker));
    Ok(Json(Objects {
        objects: objects.collect(),
    }))
}

fn show(kind: Kind, handle: &Handle, name: &str, looker: &Looker) -> Answer<Object> {
    let catalog = catalog(handle);
    let entry = catalog.called(kind, name).map_err(|failure| refused(&failure))?;
    Ok(Json(for_looker(whole(handle, &catalog, entry), looker)))
}

/// Whether secrets are not for who asks.
type Looker = Option<Extension<Onlooker>>;

/// An object as its onlookers see it.
fn for_looker(mut object: Object, looker: &Looker) -> Object {
    if looker.is_some() {
        cloudflare::blank(&mut object.object);
        // It says the same in the file's words, and is not taken apart here.
        if object.object.get("header").is_some() {
            object.toml = None;
        }
    }
    object
}

/// As it is in lists.
fn shown(handle: &Handle, catalog: &Catalog, entry: &Entry) -> Object {
    let line = catalog.file().line(entry.kind(), &entry.name);
    let declared = line.filter(|_| entry.document == Document::File);
    Object {
        id: entry.id.to_string(),
        name: catalog.label(entry).to_owned(),
        declared: declared.map(|line| Declared {
            file: catalog.file().path.clone(),
            line,
        }),
        etag: entry.modified.to_string(),
        overridden: overridden(catalog, entry).collect(),
        object: cloudflare::shown(entry, &handle.view.borrow()),
        toml: None,
        referrers: Vec::new(),
    }
}

fn whole(handle: &Handle, catalog: &Catalog, entry: &Entry) -> Object {
    let (referrers, _) = references(catalog, entry);
    Object {
        toml: Some(for_people(catalog, entry)),
        referrers: referrers
            .into_iter()
            .map(|other| format!("{} `{}`", other.kind().noun(), catalog.label(other)))
            .collect(),
        ..shown(handle, catalog, entry)
    }
}

/// What was set by hand on an object and its origins.
fn overridden<'c>(catalog: &'c Catalog, entry: &'c Entry) -> impl Iterator<Item = (String, Overridden)> + 'c {
    let of_file = entry.document == Document::File;
    let overrides = catalog.overrides().iter().filter(move |_| of_file);
    overrides.filter_map(|(subject, value)| match subject {
        Subject::Object(kind, name) if *kind == entry.kind() && *name == entry.name => {
            Some((String::new(), by_hand(value)))
        }
        Subject::Origin { pool, origin } if entry.kind() == Kind::Pool && *pool == entry.name => {
            Some((origin.clone(), by_hand(value)))
        }
        Subject::Object(..) | Subject::Origin { .. } => None,
    })
}

/// An override, as the API tells it.
pub(crate) fn by_hand(value: &Override) -> Overridden {
    Overridden {
        enabled: value.enabled,
        weight: value.weight.map(|weight| weight.0),
        drain_timeout: value.drain_timeout.map(|time| time.0),
        since: time(value.since),
    }
}

async fn declare(kind: Kind, handle: &Handle, replaces: Option<String>, body: &[u8]) -> Answer<Object> {
    let ObjectText { toml, etag } = read(body)?;
    let seen = match etag.as_deref().map(str::parse::<u64>) {
        None => None,
        Some(Ok(seen)) => Some(seen),
        Some(Err(_)) => {
            return Err(ApiError::parameter(
                "etag",
                "`etag` is not one that this API gives",
            ));
        }
    };
    let object = parse_text(kind, &toml).map_err(|mistakes| invalid(kind, mistakes))?;
    let action = Action::Declare(Declare {
        object: object.clone(),
        replaces,
        seen,
    });
    match handle.change(Change { kind, action }).await {
        Ok(entry) => Ok(Json(whole(handle, &catalog(handle), &entry))),
        Err(failure) if failure.status == 400 => Err(invalid(kind, places(&toml, &object, &failure))),
        Err(failure) => Err(refused(&failure)),
    }
}

async fn operate(
    kind: Kind,
    handle: &Handle,
    name: String,
    origin: Option<String>,
    verb: &str,
    body: &[u8],
) -> Answer<Object> {
    let operand: Operand = if body.is_empty() {
        Operand::default()
    } else {
        read(body)?
    };
    let operation = match (verb, operand.weight, operand.deadline) {
        ("enable", None, None) => Operation::Enable,
        ("disable", None, None) => Operation::Disable,
        ("reset", None, None) => Operation::Reset,
        ("drain", None, deadline) => Operation::Drain(deadline.map(Number)),
        ("weight", Some(weight), None) => Operation::Weight(Number(weight)),
        ("weight", None, _) => return Err(ApiError::parameter("weight", "`weight` is missing: 0 to 1")),
        ("enable" | "disable" | "reset" | "drain" | "weight", ..) => {
            let message = format!("{verb} takes no such operand");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        _ => return Err(ApiError::new(ErrorCode::NotFound, "there is no such path")),
    };
    let action = Action::Operate {
        name,
        origin,
        operation,
    };
    let changed = handle.change(Change { kind, action }).await;
    let entry = changed.map_err(|failure| refused(&failure))?;
    Ok(Json(whole(handle, &catalog(handle), &entry)))
}

/// The run goes on as long as the client waits for it.
async fn test(handle: &Handle, name: &str, body: &[u8]) -> Answer<MonitorTest> {
    let mut query: MonitorTestQuery = if body.is_empty() {
        MonitorTestQuery::default()
    } else {
        read(body)?
    };
    let catalog = catalog(handle);
    let entry = catalog
        .called(Kind::Monitor, name)
        .map_err(|failure| refused(&failure))?;
    if let Some(pool) = &mut query.pool {
        let found = catalog
            .called(Kind::Pool, pool)
            .map_err(|failure| refused(&failure))?;
        pool.clone_from(&found.name);
    }
    let monitor = entry.name.clone();
    let (set, probes) = handle
        .ask(|reply| Request::MonitorTest {
            monitor,
            query,
            reply,
        })
        .await?;
    let mut found = run_trials(set, &probes).await;
    catalog.label(entry).clone_into(&mut found.monitor);
    Ok(Json(found))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body is not what is expected here: {error}");
        ApiError::new(ErrorCode::InvalidRequest, message)
    })
}

/// What is wrong with a text, each mistake at its line.
fn invalid(kind: Kind, mistakes: Vec<Mistake>) -> ApiError {
    let problem = |mistake: Mistake| {
        let (line, column) = mistake.place.unzip();
        Problem {
            message: mistake.message,
            field: String::new(),
            file: TEXT.to_owned(),
            line,
            column,
            help: None,
        }
    };
    let message = format!("the {} is invalid: nothing was changed", kind.noun());
    let detail = ErrorDetail::new(ErrorCode::ConfigurationInvalid, message);
    ApiError(detail.with_problems(mistakes.into_iter().map(problem).collect()))
}

/// A refusal of Cloudflare's API in the words of this one.
fn refused(failure: &Failure) -> ApiError {
    let messages: Vec<&str> = failure
        .reasons
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let code = match failure.status {
        400 => ErrorCode::ConfigurationInvalid,
        404 => ErrorCode::NotFound,
        // What the file declares, what others refer to, what somebody else has changed.
        403 | 409 | 412 => ErrorCode::Conflict,
        503 => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    let error = ApiError::new(code, messages.join("\n"));
    let pointer = failure
        .reasons
        .first()
        .and_then(|reason| reason.pointer.as_deref());
    match pointer.and_then(|pointer| pointer.strip_prefix('/')) {
        Some(field) => ApiError(error.0.of_field(field)),
        None => error,
    }
}
