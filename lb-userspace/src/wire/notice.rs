//! What webhooks are sent: the fields of Cloudflare's generic webhooks, and under `data` what has happened.

use super::error::failure_reason;
use super::event::Event;
use super::time::micros;
use lb_core::history::{Change, Subject};
use lb_core::notify::Notice;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::SystemTime;

/// The body of one notice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NoticeBody {
    /// Of the webhook.
    pub name: String,
    /// What has happened, in words: what chats show.
    pub text: String,
    /// Seconds since 1970.
    pub ts: u64,
    /// `load_balancing_health_alert` or `load_balancing_pool_enablement_alert`.
    pub alert_type: String,
    /// Of a health alert: `ALERT_STATE_EVENT_START` when a problem begins, `ALERT_STATE_EVENT_END` when it is over.
    pub alert_event: Option<String>,
    /// The same for all notices of one problem, and for no other: `NODE/NUMBER`, with the number of the event with which it began.
    pub alert_correlation_id: Option<String>,
    pub data: NoticeData,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NoticeData {
    pub node: String,
    /// Number of the event.
    pub sequence: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// `pool`, `origin` or `load_balancer`.
    pub event_source: String,
    pub pool: Option<String>,
    pub origin: Option<String>,
    /// Of the origin.
    pub address: Option<IpAddr>,
    pub load_balancer: Option<String>,
    /// `Healthy` or `Unhealthy`; none in notices of enablement.
    pub new_health: Option<String>,
    /// The health now, as events have it; none: it was removed.
    pub health: Option<String>,
    pub former_health: Option<String>,
    pub reason: Option<String>,
    /// Number of the event with which the problem began.
    pub problem: Option<u64>,
    /// Whether the problem is over.
    pub resolved: bool,
    /// In notices of enablement: whether the pool is enabled now.
    pub enabled: Option<bool>,
}

impl NoticeBody {
    /// What a webhook is told of a change at `time`.
    #[must_use]
    pub fn new(webhook: &str, node: &str, time: SystemTime, change: &Change, notice: Notice) -> Self {
        let event = Event::of_change(time, change);
        let (state, new_health, enabled) = match notice {
            Notice::Unhealthy => (Some("ALERT_STATE_EVENT_START"), Some("Unhealthy"), None),
            Notice::Resolved => (Some("ALERT_STATE_EVENT_END"), Some("Healthy"), None),
            Notice::Enablement { enabled } => (None, None, Some(enabled)),
        };
        let text = match (enabled, notice) {
            (Some(enabled), _) => {
                let pool = change.subject.name();
                format!(
                    "{node}: pool `{pool}` was {}",
                    if enabled { "enabled" } else { "disabled" }
                )
            }
            (None, Notice::Resolved) => format!("{node}: resolved: {}", event.message),
            (None, _) => format!("{node}: {}", event.message),
        };
        // A pool that was enabled may have a problem all the same: that is another notice.
        let problem = event.problem.filter(|_| enabled.is_none());
        Self {
            name: webhook.to_owned(),
            text,
            ts: micros(time) / 1_000_000,
            alert_type: match enabled {
                None => "load_balancing_health_alert",
                Some(_) => "load_balancing_pool_enablement_alert",
            }
            .to_owned(),
            alert_event: state.map(str::to_owned),
            alert_correlation_id: problem.map(|problem| format!("{node}/{problem}")),
            data: NoticeData {
                node: node.to_owned(),
                sequence: change.sequence,
                time: event.time,
                event_source: match change.subject {
                    Subject::Pool(_) => "pool",
                    Subject::Origin { .. } => "origin",
                    Subject::LoadBalancer(_) => "load_balancer",
                }
                .to_owned(),
                pool: event.pool,
                origin: event.origin,
                address: event.address,
                load_balancer: event.load_balancer,
                new_health: new_health.map(str::to_owned),
                health: event.health,
                former_health: event.former_health,
                reason: change.reason.as_ref().map(failure_reason),
                problem,
                resolved: notice == Notice::Resolved,
                enabled,
            },
        }
    }
}
