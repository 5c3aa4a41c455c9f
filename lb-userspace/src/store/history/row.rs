//! Rows of the history as bytes.

use crate::wire::Event;
use anyhow::{Context, Result, anyhow};
use lb_core::history::{Health, Known, Subject};
use serde::{Deserialize, Serialize};

/// The health that is known of a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub subject: Subject,
    pub known: Known,
    /// Microseconds since 1970.
    pub since: u64,
}

#[derive(Serialize, Deserialize)]
struct StateRow {
    health: String,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<u64>,
}

/// A notice that a webhook has not taken yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredNotice {
    pub webhook: String,
    /// Number of the event that it tells.
    pub id: u64,
    /// Microseconds since 1970.
    pub created: u64,
    /// What is sent.
    pub body: String,
}

#[derive(Serialize, Deserialize)]
struct NoticeRow {
    created: u64,
    body: String,
}

/// Sorts by webhook and number.
pub(super) fn notice_key(webhook: &str, id: u64) -> String {
    format!("{webhook}/{id:020}")
}

pub(super) fn notice_bytes(notice: &StoredNotice) -> Result<Vec<u8>> {
    let row = NoticeRow {
        created: notice.created,
        body: notice.body.clone(),
    };
    Ok(serde_json::to_vec(&row)?)
}

pub(super) fn notice(key: &str, bytes: &[u8]) -> Result<StoredNotice> {
    let row: NoticeRow = serde_json::from_slice(bytes).with_context(|| format!("read the notice {key}"))?;
    let (webhook, id) = key
        .split_once('/')
        .ok_or_else(|| anyhow!("{key} names no notice"))?;
    Ok(StoredNotice {
        webhook: webhook.to_owned(),
        id: id.parse().with_context(|| format!("{key} names no notice"))?,
        created: row.created,
        body: row.body,
    })
}

/// A key for each subject; names have no `/`.
pub(super) fn key(subject: &Subject) -> String {
    match subject {
        Subject::Pool(name) => format!("pool/{name}"),
        Subject::Origin { pool, origin } => format!("origin/{pool}/{origin}"),
        Subject::LoadBalancer(name) => format!("load_balancer/{name}"),
    }
}

fn subject(key: &str) -> Option<Subject> {
    let (kind, name) = key.split_once('/')?;
    Some(match kind {
        "pool" => Subject::Pool(name.to_owned()),
        "load_balancer" => Subject::LoadBalancer(name.to_owned()),
        "origin" => {
            let (pool, origin) = name.split_once('/')?;
            Subject::Origin {
                pool: pool.to_owned(),
                origin: origin.to_owned(),
            }
        }
        _ => return None,
    })
}

pub(super) fn state_bytes(known: Known, since: u64) -> Result<Vec<u8>> {
    let row = StateRow {
        health: known.health.name().to_owned(),
        since,
        problem: known.problem,
    };
    Ok(serde_json::to_vec(&row)?)
}

pub(super) fn state(key: &str, bytes: &[u8]) -> Result<State> {
    let row: StateRow = serde_json::from_slice(bytes).with_context(|| format!("read the state of {key}"))?;
    Ok(State {
        subject: subject(key).ok_or_else(|| anyhow!("{key} names nothing"))?,
        known: Known {
            health: Health::named(&row.health).ok_or_else(|| anyhow!("{} is no health", row.health))?,
            problem: row.problem,
        },
        since: row.since,
    })
}

pub(super) fn event_bytes(event: &Event) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(event)?)
}

pub(super) fn event(bytes: &[u8]) -> Result<Event> {
    serde_json::from_slice(bytes).context("read an event")
}
