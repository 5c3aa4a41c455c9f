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
