//! `GET /api/v1/health/history`: for how long origins, pools and load balancers were in which state.

use super::event::Event;
use super::time::{from_micros, from_rfc3339, micros, rfc3339};
use lb_core::history::{Health, Mark, Period, Subject, Times, periods};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is asked for: times are microseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HealthHistoryQuery {
    pub since: u64,
    pub until: u64,
    /// Of this pool: the pool itself and its origins.
    pub pool: Option<String>,
    /// `POOL/ORIGIN`, or `ORIGIN` in any pool.
    pub origin: Option<String>,
    pub load_balancer: Option<String>,
}

/// The answer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HealthHistory {
    /// RFC 3339, UTC.
    pub since: String,
    pub until: String,
    pub subjects: Vec<SubjectHistory>,
}

/// The window of one subject.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SubjectHistory {
    /// `origin`, `pool` or `load_balancer`.
    pub kind: String,
    /// Such as `eu/a`.
    pub name: String,
    /// At the end of the window; none: it was removed, or nobody looked.
    pub health: Option<String>,
    /// Which part of the time in which it should have served it did, 0 to 1; none: nobody knows of such a time.
    pub availability: Option<f64>,
    pub seconds: Seconds,
    /// How often its health changed.
    pub changes: u64,
    pub periods: Vec<HealthPeriod>,
}

/// Time in each state.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Seconds {
    pub healthy: f64,
    pub degraded: f64,
    pub critical: f64,
    pub unhealthy: f64,
    pub unknown: f64,
    pub disabled: f64,
    /// It was not there, or no daemon ran.
    pub unobserved: f64,
}

/// A time in one state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthPeriod {
    pub since: String,
    pub until: String,
    /// None: it was not there, or no daemon ran.
    pub health: Option<String>,
    /// Why an origin was unhealthy when that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The kinds of events that tell of it.
pub const HISTORY_KINDS: [&str; 4] = ["origin_health", "pool_health", "load_balancer_health", "started"];

impl HealthHistoryQuery {
    fn wants(&self, subject: &Subject) -> bool {
        let any = self.pool.is_none() && self.origin.is_none() && self.load_balancer.is_none();
        if any {
            return true;
        }
        match subject {
            Subject::LoadBalancer(name) => self.load_balancer.as_ref() == Some(name),
            Subject::Pool(name) => self.origin.is_none() && self.pool.as_ref() == Some(name),
            Subject::Origin { pool, origin } => {
                let is = |wanted: &String| match wanted.split_once('/') {
                    None => wanted == origin,
                    Some((of, name)) => of == pool && name == origin,
                };
                let pool_is = self.pool.as_ref().is_none_or(|wanted| wanted == pool);
                match &self.origin {
                    Some(wanted) => is(wanted) && pool_is,
                    None => self.pool.is_some() && pool_is,
                }
            }
        }
    }
}

/// What the events of the window say of one subject.
#[derive(Default)]
struct Told<'e> {
    marks: Vec<(u64, Mark)>,
    before: Option<Health>,
    reasons: BTreeMap<u64, &'e str>,
    changes: u64,
}

impl HealthHistory {
    /// Puts it together from the events of the window (kinds of [`HISTORY_KINDS`], in order) and from what is known now: each
    /// subject's health, and since when.
    #[must_use]
    pub fn new(query: &HealthHistoryQuery, events: &[Event], states: &[(Subject, Health, u64)]) -> Self {
        let mut subjects: BTreeMap<Subject, Told<'_>> = BTreeMap::new();
        for (subject, health, since) in states.iter().filter(|(subject, ..)| query.wants(subject)) {
            let told = subjects.entry(subject.clone()).or_default();
            // It has changed after the window otherwise, or within it, and then an event of it says what was before.
            if *since <= query.since {
                told.before = Some(*health);
            }
        }
        let health = |word: &Option<String>| word.as_deref().and_then(Health::named);
        let mut starts = Vec::new();
        for event in events {
            let Some(at) = from_rfc3339(&event.time).map(micros) else {
                continue;
            };
            if let Some(down_since) = event.down_since.as_deref().and_then(from_rfc3339) {
                let mark = Mark::Started {
                    down_since: micros(down_since),
                };
                starts.push((at, mark));
                for told in subjects.values_mut() {
                    told.marks.push((at, mark));
                }
                continue;
            }
            let Some(subject) = event.subject().filter(|subject| query.wants(subject)) else {
                continue;
            };
            let told = subjects.entry(subject).or_insert_with(|| Told {
                marks: starts.clone(),
                ..Told::default()
            });
            if told.changes == 0 {
                told.before = health(&event.former_health);
            }
            told.changes += 1;
            told.marks.push((at, Mark::Health(health(&event.health))));
            if let Some(reason) = &event.reason {
                told.reasons.insert(at, reason);
            }
        }
        for (subject, health, since) in states {
            // New and well in the window: no event says so.
            if let Some(told) = subjects.get_mut(subject)
                && told.changes == 0
                && (query.since..query.until).contains(since)
            {
                told.marks.push((*since, Mark::Health(Some(*health))));
            }
        }
        let subjects = subjects
            .iter()
            .map(|(subject, told)| told.history(query, subject));
        Self {
            since: rfc3339(from_micros(query.since)),
            until: rfc3339(from_micros(query.until)),
            subjects: subjects.collect(),
        }
    }
}

impl Told<'_> {
    fn history(&self, query: &HealthHistoryQuery, subject: &Subject) -> SubjectHistory {
        let periods = periods(query.since, query.until, self.before, &self.marks);
        let times = Times::of(&periods);
        let word = |period: &Period| period.health.map(|health| health.name().to_owned());
        let seconds = |health| times.of_health(health) as f64 / 1e6;
        SubjectHistory {
            kind: match subject {
                Subject::Origin { .. } => "origin",
                Subject::Pool(_) => "pool",
                Subject::LoadBalancer(_) => "load_balancer",
            }
            .to_owned(),
            name: subject.name(),
            health: periods.last().and_then(word),
            availability: times.availability(),
            seconds: Seconds {
                healthy: seconds(Health::Healthy),
                degraded: seconds(Health::Degraded),
                critical: seconds(Health::Critical),
                unhealthy: seconds(Health::Unhealthy),
                unknown: seconds(Health::Unknown),
                disabled: seconds(Health::Disabled),
                unobserved: times.unobserved as f64 / 1e6,
            },
            changes: self.changes,
            periods: periods
                .iter()
                .map(|period| HealthPeriod {
                    since: rfc3339(from_micros(period.from)),
                    until: rfc3339(from_micros(period.until)),
                    health: word(period),
                    reason: self.reasons.get(&period.from).map(|reason| (*reason).to_owned()),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::health::FailureReason;
    use lb_core::history::Change;
    use std::time::{Duration, SystemTime};

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn origin() -> Subject {
        Subject::Origin {
            pool: "eu".into(),
            origin: "a".into(),
        }
    }

    fn change(second: u64, was: Health, now: Health) -> Event {
        let change = Change {
            sequence: second,
            subject: origin(),
            was: Some(was),
            now: Some(now),
            problem: None,
            reason: (now == Health::Unhealthy).then_some(FailureReason::TcpTimeout),
            address: None,
            origins: None,
        };
        Event::of_change(at(second), &change)
    }

    #[test]
    fn a_window_tells_time_in_each_state_and_availability() {
        use Health::{Healthy, Unhealthy};
        let query = HealthHistoryQuery {
            since: 1_000_000_000,
            until: 1_100_000_000,
            ..Default::default()
        };
        let started = Event {
            down_since: Some("1970-01-01T00:17:30.000Z".to_owned()),
            ..Event::new(3, at(1_060), "started", String::new())
        };
        let events = [
            change(1_010, Healthy, Unhealthy),
            change(1_030, Unhealthy, Healthy),
            started,
        ];
        let pool = Subject::Pool("eu".into());
        let states = [(origin(), Healthy, 1_030_000_000), (pool, Health::Degraded, 5)];
        let history = HealthHistory::new(&query, &events, &states);
        let [pool, origin] = history.subjects.as_slice() else {
            panic!("{history:?}")
        };
        assert_eq!((origin.name.as_str(), origin.changes), ("eu/a", 2));
        assert_eq!(
            (
                origin.seconds.healthy,
                origin.seconds.unhealthy,
                origin.seconds.unobserved
            ),
            (70.0, 20.0, 10.0)
        );
        assert_eq!(origin.availability, Some(70.0 / 90.0));
        assert_eq!(origin.periods[1].reason.as_deref(), Some("TCP Timeout"));
        assert_eq!(
            (pool.kind.as_str(), pool.seconds.degraded, pool.changes),
            ("pool", 90.0, 0)
        );
        assert_eq!(pool.health.as_deref(), Some("degraded"));
        let only = HealthHistoryQuery {
            origin: Some("eu/a".into()),
            ..query.clone()
        };
        assert_eq!(HealthHistory::new(&only, &events, &states).subjects.len(), 1);
        let other = HealthHistoryQuery {
            pool: Some("us".into()),
            ..query
        };
        assert!(HealthHistory::new(&other, &events, &states).subjects.is_empty());
    }
}
