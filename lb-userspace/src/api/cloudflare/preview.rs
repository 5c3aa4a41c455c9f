//! Previews: what a monitor would find, without having it decide about anything.

use super::super::{Handle, Request as Ask};
use super::answer::{Answer, Asked, Refused, object, success};
use crate::cloudflare::{Failure, Preview, PreviewStarted};
use crate::config::Kind;
use crate::objects::Body;
use axum::extract::{Request, State};

/// `POST pools/{id}/preview`.
pub(super) async fn of_pool(handle: State<Handle>, asked: Asked, request: Request) -> Answer<PreviewStarted> {
    let monitor = object(request).await?;
    let catalog = handle.catalog.borrow().clone();
    let pool = catalog.find(Kind::Pool, asked.id())?.id.clone();
    start(&handle, monitor, vec![pool]).await
}

/// `POST monitors/{id}/preview`: of all pools that have the monitor.
pub(super) async fn of_monitor(
    handle: State<Handle>,
    asked: Asked,
    request: Request,
) -> Answer<PreviewStarted> {
    let monitor = object(request).await?;
    let catalog = handle.catalog.borrow().clone();
    let id = &catalog.find(Kind::Monitor, asked.id())?.id;
    let pools = catalog.of_kind(Kind::Pool).filter(|entry| match &entry.body {
        Body::Pool(pool) => pool.monitor == id.as_str(),
        _ => false,
    });
    let pools = pools.map(|entry| entry.id.clone()).collect();
    start(&handle, monitor, pools).await
}

async fn start(
    handle: &Handle,
    monitor: serde_json::Map<String, serde_json::Value>,
    pools: Vec<crate::objects::Id>,
) -> Answer<PreviewStarted> {
    let started = handle
        .ask_cloudflare(|reply| Ask::Preview {
            monitor,
            pools,
            reply,
        })
        .await?;
    success(started)
}

/// `GET preview/{id}`.
pub(super) async fn result(handle: State<Handle>, asked: Asked) -> Answer<Preview> {
    let id = asked.id().to_owned();
    let found = handle
        .ask_cloudflare(|reply| Ask::PreviewResult { id, reply })
        .await?;
    match found {
        Some(preview) => success(preview),
        None => Err(Refused(Failure::new(
            404,
            1001,
            "there is no such preview: they are kept for the last 100",
        ))),
    }
}
