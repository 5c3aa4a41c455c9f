//! Creating, reading, changing and deleting objects of every kind.

use super::super::Handle;
use super::answer::{Answer, Asked, Refused, object, success};
use crate::cloudflare::{Envelope, Failure, Reason, Reference};
use crate::config::Kind;
use crate::objects::{Action, Body, Catalog, Change, Entry, references};
use axum::extract::{Request, State};
use axum::routing::get;
use axum::{Json, Router};
use lb_core::view::{PoolView, View};
use serde_json::{Value, json};
use std::sync::Arc;

/// The routes of a kind below `base`.
pub(super) fn routes(router: Router<Handle>, base: &str, kind: Kind) -> Router<Handle> {
    let one = format!("{base}/{{id}}");
    let all = get(async move |handle: State<Handle>, asked: Asked| list(kind, &handle, &asked)).post(
        async move |handle: State<Handle>, _: Asked, request: Request| {
            let action = Action::Create(object(request).await?);
            change(kind, &handle, action).await
        },
    );
    let all = match kind {
        Kind::Pool => all.patch(change_pools),
        Kind::Monitor | Kind::MonitorGroup | Kind::LoadBalancer | Kind::Application => all,
    };
    router
        .route(base, all)
        .route(
            &one,
            get(async move |handle: State<Handle>, asked: Asked| show(kind, &handle, &asked))
                .put(
                    async move |handle: State<Handle>, asked: Asked, request: Request| {
                        let action = Action::Replace(asked.id().to_owned(), object(request).await?);
                        change(kind, &handle, action).await
                    },
                )
                .patch(
                    async move |handle: State<Handle>, asked: Asked, request: Request| {
                        let action = Action::Merge(asked.id().to_owned(), object(request).await?);
                        change(kind, &handle, action).await
                    },
                )
                .delete(async move |handle: State<Handle>, asked: Asked| remove(kind, &handle, &asked).await),
        )
        .route(
            &format!("{one}/references"),
            get(async move |handle: State<Handle>, asked: Asked| referring(kind, &handle, &asked)),
        )
}

fn catalog(handle: &Handle) -> Arc<Catalog> {
    handle.catalog.borrow().clone()
}

/// An object with what the node knows about it.
pub(in super::super) fn shown(entry: &Entry, view: &View) -> Value {
    let mut value = entry.shown();
    if let (Body::Pool(_), Value::Object(fields)) = (&entry.body, &mut value) {
        let pool = view.pools.iter().find(|pool| pool.name == entry.name);
        let healthy = pool.is_some_and(PoolView::is_healthy);
        fields.insert("healthy".to_owned(), json!(healthy));
    }
    value
}

fn list(kind: Kind, handle: &Handle, asked: &Asked) -> Answer<Vec<Value>> {
    let (catalog, view) = (catalog(handle), handle.view.borrow().clone());
    let mut entries: Vec<&Arc<Entry>> = catalog.of_kind(kind).collect();
    if let (Kind::Pool, Some(monitor)) = (kind, asked.text("monitor")) {
        entries.retain(|entry| matches!(&entry.body, Body::Pool(pool) if pool.monitor == monitor));
    }
    // Elsewhere everything is on one page unless somebody asks for pages.
    let default = if kind == Kind::Application { 20 } else { 25 };
    let most = if kind == Kind::Application { 100 } else { 1000 };
    let per_page = asked.number("per_page", 1..=most)?;
    let page = asked.number("page", 1..=usize::MAX)?;
    if kind == Kind::Application {
        sort_applications(&mut entries, asked)?;
    }
    let mut shown: Vec<Value> = entries.into_iter().map(|entry| shown(entry, &view)).collect();
    if asked.is_onlooker() {
        shown.iter_mut().for_each(blank);
    }
    Ok(Json(match (page, per_page, kind) {
        (None, None, Kind::Monitor | Kind::MonitorGroup | Kind::Pool | Kind::LoadBalancer) => {
            Envelope::all(shown)
        }
        (page, per_page, _) => Envelope::page(shown, page.unwrap_or(1), per_page.unwrap_or(default)),
    }))
}

fn sort_applications(entries: &mut [&Arc<Entry>], asked: &Asked) -> Result<(), Refused> {
    let orders = ["protocol", "app_id", "created_on", "modified_on", "dns"];
    let order = asked.word("order", &orders)?.unwrap_or("dns");
    let direction = asked.word("direction", &["asc", "desc"])?.unwrap_or("asc");
    let text = |entry: &Entry, key: &str| match &entry.body {
        Body::Application(application) if key == "protocol" => application.protocol.clone(),
        _ if key == "app_id" => entry.id.to_string(),
        _ => entry.title().to_owned(),
    };
    match order {
        "created_on" => entries.sort_by_key(|entry| entry.created),
        "modified_on" => entries.sort_by_key(|entry| entry.modified),
        order => entries.sort_by_cached_key(|entry| text(entry, order)),
    }
    if direction == "desc" {
        entries.reverse();
    }
    Ok(())
}

fn show(kind: Kind, handle: &Handle, asked: &Asked) -> Answer<Value> {
    let catalog = catalog(handle);
    let entry = catalog.find(kind, asked.id())?;
    let mut value = shown(entry, &handle.view.borrow());
    if asked.is_onlooker() {
        blank(&mut value);
    }
    success(value)
}

/// Takes the values out of the headers of a monitor: they may be somebody's credentials.
fn blank(object: &mut Value) {
    let headers = object.get_mut("header").and_then(Value::as_object_mut);
    for values in headers.into_iter().flat_map(serde_json::Map::values_mut) {
        for value in values.as_array_mut().into_iter().flatten() {
            *value = json!("");
        }
    }
}

async fn change(kind: Kind, handle: &Handle, action: Action) -> Answer<Value> {
    let entry = handle.change(Change { kind, action }).await?;
    success(shown(&entry, &handle.view.borrow()))
}

async fn remove(kind: Kind, handle: &Handle, asked: &Asked) -> Answer<Value> {
    let action = Action::Delete(asked.id().to_owned());
    let entry = handle.change(Change { kind, action }).await?;
    success(match kind {
        Kind::MonitorGroup => shown(&entry, &handle.view.borrow()),
        Kind::Monitor | Kind::Pool | Kind::LoadBalancer | Kind::Application => json!({"id": entry.id}),
    })
}

/// `PATCH pools`: the same for all pools, of which Cloudflare allows `notification_email` alone. Whoever loses the id from a
/// path must not change them all.
async fn change_pools(handle: State<Handle>, _: Asked, request: Request) -> Answer<Vec<Value>> {
    const ALLOWED: &str = "notification_email";
    let changes = object(request).await?;
    let others = changes.keys().filter(|key| *key != ALLOWED);
    let reasons: Vec<Reason> = others
        .map(|key| {
            let message = format!(
                "{key}: of all pools at once `{ALLOWED}` alone can be changed: name a pool in the path"
            );
            Reason::field(Kind::Pool, &format!("/{key}"), message)
        })
        .collect();
    if !reasons.is_empty() {
        return Err(Refused(Failure::invalid(reasons)));
    }
    let catalog = catalog(&handle);
    let ours = catalog.of_api().iter().filter(|entry| entry.kind() == Kind::Pool);
    let mut changed = Vec::new();
    for entry in ours {
        let action = Action::Merge(entry.id.to_string(), changes.clone());
        let change = Change {
            kind: Kind::Pool,
            action,
        };
        changed.push(handle.change(change).await?);
    }
    changed.sort_by(|a, b| a.name.cmp(&b.name));
    let view = handle.view.borrow().clone();
    Ok(Json(Envelope::all(
        changed.iter().map(|entry| shown(entry, &view)).collect(),
    )))
}

/// What an object is called in references.
pub(super) fn resource_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Monitor => "monitor",
        Kind::MonitorGroup => "monitor_group",
        Kind::Pool => "pool",
        Kind::LoadBalancer => "load_balancer",
        Kind::Application => "application",
    }
}

/// The objects that one is connected with.
pub(super) fn connected(catalog: &Catalog, entry: &Entry) -> Vec<Reference> {
    let (referrers, referrals) = references(catalog, entry);
    let reference = |reference_type: &'static str, other: &Arc<Entry>| Reference {
        reference_type,
        resource_id: other.id.to_string(),
        resource_name: other.title().to_owned(),
        resource_type: resource_type(other.kind()),
    };
    let referrers = referrers.into_iter().map(|other| reference("referrer", other));
    let referrals = referrals.into_iter().map(|other| reference("referral", other));
    referrers.chain(referrals).collect()
}

fn referring(kind: Kind, handle: &Handle, asked: &Asked) -> Answer<Vec<Reference>> {
    let catalog = catalog(handle);
    let entry = catalog.find(kind, asked.id())?;
    Ok(Json(Envelope::all(connected(&catalog, entry))))
}
