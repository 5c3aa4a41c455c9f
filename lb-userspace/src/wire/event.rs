//! `GET /api/v1/events`: what has happened, newest last.

use super::error::failure_reason;
use lb_core::engine::{LookupFailure, Report};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::SystemTime;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1; a gap means that events were forgotten.
    pub sequence: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// `origin_health`, `monitor_health`, `pool_health`, `fallback`, `lookup`, `addresses`, `configured`, `refused`,
    /// `interface` or `store`.
    pub kind: String,
    /// The object that changed, such as `eu/a`.
    pub object: Option<String>,
    pub message: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// Give it as `since` to get what comes after.
    pub next: u64,
}

impl Event {
    /// What the engine reported at `time`.
    #[must_use]
    pub fn new(sequence: u64, time: SystemTime, report: &Report) -> Self {
        let (kind, object, message) = match report {
            Report::OriginHealth {
                pool,
                origin,
                address,
                healthy,
                reason,
            } => {
                let origin = origin_name(origin, *address);
                let message = match (healthy, reason) {
                    (true, _) => format!("origin `{origin}` of pool `{pool}` is healthy"),
                    (false, None) => format!("origin `{origin}` of pool `{pool}` is unhealthy"),
                    (false, Some(reason)) => {
                        format!(
                            "origin `{origin}` of pool `{pool}` is unhealthy: {}",
                            failure_reason(reason)
                        )
                    }
                };
                ("origin_health", Some(format!("{pool}/{origin}")), message)
            }
            Report::MonitorHealth {
                pool,
                origin,
                address,
                monitor,
                healthy,
                reason,
            } => {
                let origin = origin_name(origin, *address);
                let reason = match (healthy, reason) {
                    (true, _) => "healthy".to_owned(),
                    (false, None) => "unhealthy".to_owned(),
                    (false, Some(reason)) => format!("unhealthy: {}", failure_reason(reason)),
                };
                let message =
                    format!("monitor `{monitor}` finds origin `{origin}` of pool `{pool}` {reason}");
                ("monitor_health", Some(format!("{pool}/{origin}")), message)
            }
            Report::PoolHealth {
                pool,
                usable,
                healthy_origins,
                minimum_origins,
            } => {
                let state = if *usable { "usable" } else { "critical" };
                let message = format!(
                    "pool `{pool}` is {state}: {healthy_origins} healthy origins, {minimum_origins} are needed"
                );
                ("pool_health", Some(pool.clone()), message)
            }
            Report::Fallback {
                load_balancer,
                active,
            } => {
                let message = match active {
                    true => format!("load balancer `{load_balancer}` has gone to its fallback pool"),
                    false => format!("load balancer `{load_balancer}` has left its fallback pool"),
                };
                ("fallback", Some(load_balancer.clone()), message)
            }
            Report::Lookup {
                name,
                failure,
                addresses,
            } => (
                "lookup",
                Some(name.clone()),
                lookup(name, failure.as_ref(), *addresses),
            ),
            Report::Addresses {
                name,
                added,
                removed,
                refused,
                left_out,
            } => {
                let list = |list: &[IpAddr]| {
                    list.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
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
                if *left_out > 0 {
                    parts.push(format!(
                        "{left_out} addresses more than a name may have are left out"
                    ));
                }
                let message = format!("host name `{name}`: {}", parts.join("; "));
                ("addresses", Some(name.clone()), message)
            }
            Report::Configured { generation } => {
                ("configured", None, format!("configuration {generation} is live"))
            }
            Report::Refused(why) => ("refused", None, why.clone()),
        };
        Self {
            sequence,
            time: rfc3339(time),
            kind: kind.to_owned(),
            object,
            message,
        }
    }
}

/// An origin, and which of its addresses if it has a host name.
fn origin_name(origin: &str, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{origin} ({address})"),
        None => origin.to_owned(),
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

impl Event {
    /// What the operator must know of the store at `time`.
    #[must_use]
    pub fn of_store(sequence: u64, time: SystemTime, message: String) -> Self {
        Self {
            sequence,
            time: rfc3339(time),
            kind: "store".to_owned(),
            object: None,
            message,
        }
    }

    /// What has become of an interface at `time`.
    #[must_use]
    pub fn of_interface(sequence: u64, time: SystemTime, name: &str, message: String) -> Self {
        Self {
            sequence,
            time: rfc3339(time),
            kind: "interface".to_owned(),
            object: Some(name.to_owned()),
            message,
        }
    }
}

/// A time in UTC with milliseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let mut text = rfc3339_micros(time);
    // Six digits and the Z: the last three digits go.
    text.truncate(text.len() - 4);
    text.push('Z');
    text
}

/// A time in UTC with microseconds.
pub(crate) fn rfc3339_micros(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        since_epoch.subsec_micros()
    )
}

/// The date of a day counted from 1970-01-01, by eras of 400 years that begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696, "2000-02-29T12:34:56.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }
}
