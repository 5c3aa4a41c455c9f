//! `GET /api/v1/events`: what has happened, newest last.

use super::error::failure_reason;
use super::time::rfc3339;
use lb_core::engine::{LookupFailure, Report};
use lb_core::history::{Change, Health, Problem, Subject};
use lb_core::view::origin_label;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::SystemTime;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1, over restarts too; a gap means that events were forgotten, or lost in a crash.
    pub sequence: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// One of [`KINDS`].
    pub kind: String,
    /// The object that changed, such as `eu/a`.
    pub object: Option<String>,
    pub message: String,
    /// The pool that it is about, if it is about one or one of its origins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Of the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// The health now; none: it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// The health before; none: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_health: Option<String>,
    /// Why: what a probe has found, or what has caused another configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of the event with which the problem began that this one begins, goes on with or ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<u64>,
    /// Whether the problem has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
    /// Of `started`: until when the history was written before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<String>,
}

/// Kinds of events.
pub const KINDS: [&str; 14] = [
    "origin_health",
    "monitor_health",
    "pool_health",
    "load_balancer_health",
    "fallback",
    "lookup",
    "addresses",
    "configured",
    "refused",
    "interface",
    "store",
    "webhook",
    "started",
    "stopped",
];

/// What `health` stands for in a filter.
const HEALTH_KINDS: [&str; 5] = [
    "origin_health",
    "monitor_health",
    "pool_health",
    "load_balancer_health",
    "fallback",
];

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// Give it as `since` to get what comes after.
    pub next: u64,
}

/// A line of the stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    Event(Box<Event>),
    /// So many events are missing here: the reader was too slow.
    Lost {
        lost: u64,
    },
}

/// Which events: those that meet all conditions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventFilter {
    /// Empty: all kinds.
    pub kinds: Vec<String>,
    pub pool: Option<String>,
    /// `POOL/ORIGIN`, or `ORIGIN` in any pool.
    pub origin: Option<String>,
    pub load_balancer: Option<String>,
    /// As [`Event::time`] writes it: not before.
    pub from: Option<String>,
    /// Before.
    pub until: Option<String>,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventQuery {
    /// After the event of that number; `None`: the newest ones.
    pub since: Option<u64>,
    pub filter: EventFilter,
    /// At most so many.
    pub limit: usize,
}

impl EventFilter {
    /// The kinds that a list of words means.
    ///
    /// # Errors
    /// The word that is none.
    pub fn kinds_of(words: &str) -> Result<Vec<String>, String> {
        let mut kinds = Vec::new();
        for word in words.split(',') {
            match word {
                "health" => kinds.extend(HEALTH_KINDS.map(str::to_owned)),
                word if KINDS.contains(&word) => kinds.push(word.to_owned()),
                other => return Err(other.to_owned()),
            }
        }
        Ok(kinds)
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let origin = |wanted: &String| match wanted.split_once('/') {
            None => event.is_of_origin(wanted),
            Some((pool, origin)) => event.pool.as_deref() == Some(pool) && event.is_of_origin(origin),
        };
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && is(&self.pool, &event.pool)
            && self.origin.as_ref().is_none_or(origin)
            && is(&self.load_balancer, &event.load_balancer)
            && self.from.as_ref().is_none_or(|from| event.time >= *from)
            && self.until.as_ref().is_none_or(|until| event.time < *until)
    }
}

impl Event {
    /// An event without an object.
    #[must_use]
    pub fn new(sequence: u64, time: SystemTime, kind: &str, message: String) -> Self {
        Self {
            sequence,
            time: rfc3339(time),
            kind: kind.to_owned(),
            message,
            ..Self::default()
        }
    }

    /// The same about an object.
    #[must_use]
    pub fn about(mut self, object: &str) -> Self {
        self.object = Some(object.to_owned());
        self
    }

    /// What the engine reported at `time`. `None`: what it says of origins and pools is told by [`Self::of_change`].
    #[must_use]
    pub fn of_report(sequence: u64, time: SystemTime, report: &Report) -> Option<Self> {
        let event = |kind, message| Self::new(sequence, time, kind, message);
        match report {
            Report::OriginHealth { .. } | Report::PoolHealth { .. } => None,
            Report::MonitorHealth {
                pool,
                origin,
                address,
                monitor,
                healthy,
                reason,
            } => {
                let origin = origin_label(origin, *address);
                let reason = reason.as_ref().filter(|_| !healthy).map(failure_reason);
                let health = if *healthy {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                };
                let finding = match &reason {
                    Some(reason) => format!("unhealthy: {reason}"),
                    None => health.name().to_owned(),
                };
                let message =
                    format!("monitor `{monitor}` finds origin `{origin}` of pool `{pool}` {finding}");
                Some(Self {
                    pool: Some(pool.clone()),
                    origin: Some(origin.clone()),
                    health: Some(health.name().to_owned()),
                    reason,
                    ..event("monitor_health", message).about(&format!("{pool}/{origin}"))
                })
            }
            Report::Fallback {
                load_balancer,
                active,
            } => {
                let what = if *active { "gone to" } else { "left" };
                let message = format!("load balancer `{load_balancer}` has {what} its fallback pool");
                Some(Self {
                    load_balancer: Some(load_balancer.clone()),
                    ..event("fallback", message).about(load_balancer)
                })
            }
            Report::Lookup {
                name,
                failure,
                addresses,
            } => Some(event("lookup", lookup(name, failure.as_ref(), *addresses)).about(name)),
            Report::Addresses {
                name,
                added,
                removed,
                refused,
                left_out,
            } => {
                let changes = addresses(added, removed, refused, *left_out);
                Some(event("addresses", format!("host name `{name}`: {changes}")).about(name))
            }
            Report::Configured { generation } => {
                Some(event("configured", format!("configuration {generation} is live")))
            }
            Report::Refused(why) => Some(event("refused", why.clone())),
        }
    }

    /// Another configuration, with what has caused it.
    #[must_use]
    pub fn because(mut self, cause: Option<String>) -> Self {
        if let Some(cause) = &cause {
            self.message.push_str(&format!(": {cause}"));
        }
        self.reason = cause;
        self
    }

    /// A change of health at `time`.
    #[must_use]
    pub fn of_change(time: SystemTime, change: &Change) -> Self {
        let word = |health: Option<Health>| health.map(|health| health.name().to_owned());
        let reason = change.reason.as_ref().map(failure_reason);
        let (kind, what) = match &change.subject {
            Subject::Pool(name) => ("pool_health", format!("pool `{name}`")),
            Subject::Origin { pool, origin } => {
                ("origin_health", format!("origin `{origin}` of pool `{pool}`"))
            }
            Subject::LoadBalancer(name) => ("load_balancer_health", format!("load balancer `{name}`")),
        };
        let mut message = match change.now {
            Some(health) => format!("{what} is {}", health.name()),
            None => format!("{what} was removed"),
        };
        if let Some(reason) = &reason {
            message.push_str(&format!(": {reason}"));
        } else if let (Some((healthy, minimum)), Some(_)) = (change.origins, change.now) {
            let plural = if healthy == 1 { "" } else { "s" };
            message.push_str(&format!(": {healthy} healthy origin{plural}, {minimum} needed"));
        }
        Self {
            pool: change.subject.pool().map(str::to_owned),
            origin: match &change.subject {
                Subject::Origin { origin, .. } => Some(origin.clone()),
                Subject::Pool(_) | Subject::LoadBalancer(_) => None,
            },
            load_balancer: match &change.subject {
                Subject::LoadBalancer(name) => Some(name.clone()),
                Subject::Pool(_) | Subject::Origin { .. } => None,
            },
            address: change.address,
            health: word(change.now),
            former_health: word(change.was),
            reason,
            problem: change.problem.map(Problem::id),
            resolved: matches!(change.problem, Some(Problem::Ended(_))),
            ..Self::new(change.sequence, time, kind, message).about(&change.subject.name())
        }
    }

    /// Whether it is about an origin of that name: all addresses of a host name, unless the name says which.
    fn is_of_origin(&self, wanted: &str) -> bool {
        let Some(origin) = self.origin.as_deref() else {
            return false;
        };
        let rest = origin.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
    }

    /// What the health of a subject is about, if it is about that.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        match (self.kind.as_str(), &self.pool, &self.origin, &self.load_balancer) {
            ("origin_health", Some(pool), Some(origin), _) => Some(Subject::Origin {
                pool: pool.clone(),
                origin: origin.clone(),
            }),
            ("pool_health", Some(pool), ..) => Some(Subject::Pool(pool.clone())),
            ("load_balancer_health", _, _, Some(name)) => Some(Subject::LoadBalancer(name.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change {
            sequence: 7,
            subject: Subject::Origin {
                pool: "eu".into(),
                origin: "a".into(),
            },
            was: Some(Health::Healthy),
            now: Some(Health::Unhealthy),
            problem: Some(Problem::Began(7)),
            reason: Some(lb_core::health::FailureReason::TcpTimeout),
            address: Some(IpAddr::from([10, 0, 0, 1])),
            origins: None,
        }
    }

    #[test]
    fn a_change_says_what_it_was_and_why_and_is_found_again() {
        let event = Event::of_change(SystemTime::UNIX_EPOCH, &change());
        assert_eq!(event.message, "origin `a` of pool `eu` is unhealthy: TCP Timeout");
        assert_eq!(event.subject(), Some(change().subject));
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        assert!(
            !text.contains("resolved") && text.contains(r#""former_health":"healthy""#),
            "{text}"
        );
        // As an older version has written it.
        let old = r#"{"sequence":1,"time":"t","kind":"configured","object":null,"message":"m"}"#;
        assert_eq!(serde_json::from_str::<Event>(old).unwrap().pool, None);
        let filter = |origin: &str, kinds: &str| EventFilter {
            origin: Some(origin.to_owned()),
            kinds: EventFilter::kinds_of(kinds).unwrap(),
            ..EventFilter::default()
        };
        assert!(
            filter("a", "health").matches(&event) && filter("eu/a", "origin_health,store").matches(&event)
        );
        assert!(!filter("us/a", "health").matches(&event) && !filter("a", "pool_health").matches(&event));
        assert_eq!(EventFilter::kinds_of("health,odd"), Err("odd".to_owned()));
        let time = |from: &str, until: &str| EventFilter {
            from: Some(from.to_owned()),
            until: Some(until.to_owned()),
            ..EventFilter::default()
        };
        assert!(time("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.001Z").matches(&event));
        assert!(!time("1970-01-01T00:00:00.001Z", "1971-01-01T00:00:00.000Z").matches(&event));
    }
}

fn lookup(name: &str, failure: Option<&LookupFailure>, addresses: usize) -> String {
    match (failure, addresses) {
        (None, _) => format!("host name `{name}` is looked up again"),
        (Some(failure), 0) => {
            format!("host name `{name}` could not be looked up, and nothing is known of it: {failure}")
        }
        (Some(failure), addresses) => {
            format!("host name `{name}` could not be looked up, its {addresses} addresses stay: {failure}")
        }
    }
}

/// How the addresses of a host name have changed.
fn addresses(added: &[IpAddr], removed: &[IpAddr], refused: &[(IpAddr, String)], left_out: usize) -> String {
    let list = |list: &[IpAddr]| {
        let addresses: Vec<String> = list.iter().map(ToString::to_string).collect();
        addresses.join(", ")
    };
    let mut parts = Vec::new();
    if !added.is_empty() {
        parts.push(format!("has {}", list(added)));
    }
    if !removed.is_empty() {
        parts.push(format!("has no longer {}", list(removed)));
    }
    for (address, why) in refused {
        parts.push(format!("{address} is {why} and is left out"));
    }
    if left_out > 0 {
        parts.push(format!(
            "{left_out} addresses more than a name may have are left out"
        ));
    }
    parts.join("; ")
}
