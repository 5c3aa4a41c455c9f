//! What an operator has set by hand on objects of the file, until it is reset: the file stays as it is.
//!
//! An override outlives restarts and reloads, and goes with the object that it is for.

use super::entry::{Body, Entry};
use super::operation::Operation;
use crate::cloudflare::{Number, Pool};
use crate::config::{Document, Kind};
use crate::store::{Row, RowChange, Table};
use lb_core::model::{Config, Weight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// First part of the keys of their rows in the store.
const PREFIX: &str = "overrides/";

/// What an override is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    Object(Kind, String),
    Origin { pool: String, origin: String },
}

/// What holds instead of the file's values; `None`: the file's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Override {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Of an origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Number>,
    /// Of an origin, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Number>,
    /// Microseconds since 1970.
    pub since: u64,
}

/// All overrides.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overrides(BTreeMap<Subject, Override>);

impl Subject {
    /// The subject of a row; `None`: the row is for something else.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(PREFIX)?.split('/');
        let (table, name) = (parts.next()?, parts.next()?.to_owned());
        let kind = Kind::ALL.into_iter().find(|kind| kind.table() == table)?;
        match (parts.next(), parts.next()) {
            (None, _) => Some(Self::Object(kind, name)),
            (Some(origin), None) => Some(Self::Origin {
                pool: name,
                origin: origin.to_owned(),
            }),
            (Some(_), Some(_)) => None,
        }
    }

    /// The key of its row: names contain no `/`.
    fn key(&self) -> String {
        match self {
            Self::Object(kind, name) => format!("{PREFIX}{}/{name}", kind.table()),
            Self::Origin { pool, origin } => format!("{PREFIX}{}/{pool}/{origin}", Kind::Pool.table()),
        }
    }
}

impl Override {
    fn is_empty(&self) -> bool {
        (self.enabled, self.weight, self.drain_timeout) == (None, None, None)
    }

    fn to_json(&self) -> Vec<u8> {
        // Structs can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The fields that it sets.
    #[must_use]
    pub fn fields(&self) -> Vec<&'static str> {
        let fields = [
            ("enabled", self.enabled.is_some()),
            ("weight", self.weight.is_some()),
            ("drain_timeout", self.drain_timeout.is_some()),
        ];
        fields
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(field, _)| field)
            .collect()
    }

    /// The override after an operation on something that the file has enabled or not. An end of all overrides is an empty
    /// one.
    #[must_use]
    pub fn after(&self, operation: &Operation, of_file: (bool, Number), now: u64) -> Self {
        let mut next = Self {
            since: now,
            ..self.clone()
        };
        match operation {
            Operation::Enable => (next.enabled, next.drain_timeout) = (Some(true), None),
            Operation::Disable => next.enabled = Some(false),
            Operation::Drain(deadline) => {
                next.enabled = Some(false);
                next.drain_timeout = deadline.or(next.drain_timeout);
            }
            Operation::Weight(weight) => next.weight = Some(*weight),
            Operation::Reset => return Self::default(),
        }
        next.enabled = next.enabled.filter(|enabled| *enabled != of_file.0);
        next.weight = next.weight.filter(|weight| *weight != of_file.1);
        let is_same = Self {
            since: self.since,
            ..next.clone()
        } == *self;
        // Done again, it is no change.
        if is_same { self.clone() } else { next }
    }
}

impl Overrides {
    /// Those of rows; `None` for rows of other things.
    #[must_use]
    pub fn of_row(row: &Row) -> Option<Result<(Subject, Override), String>> {
        if !row.key.starts_with(PREFIX) {
            return None;
        }
        let read = || {
            let subject = Subject::of_key(&row.key).ok_or("the key names no object")?;
            let value = serde_json::from_slice(&row.value).map_err(|error| error.to_string())?;
            Ok((subject, value))
        };
        Some(read().map_err(|flaw: String| format!("{}: {flaw}", row.key)))
    }

    /// Their rows.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.0.iter().map(|(subject, value)| Row {
            key: subject.key(),
            value: value.to_json(),
        })
    }

    /// The value of the row of one.
    pub(super) fn value(&self, subject: &Subject) -> Option<Vec<u8>> {
        self.get(subject).map(Override::to_json)
    }

    /// Those for which others have nothing.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let rest = self.iter().filter(|(subject, _)| others.get(subject).is_none());
        rest.map(|(subject, value)| (subject.clone(), value.clone()))
            .collect()
    }

    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<&Override> {
        self.0.get(subject)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Override)> {
        self.0.iter()
    }

    /// Puts one in the place of what there was; an empty one goes.
    pub fn set(&mut self, subject: Subject, value: Override) {
        if value.is_empty() {
            self.0.remove(&subject);
        } else {
            self.0.insert(subject, value);
        }
    }

    /// Drops those of what the file does not declare any more.
    pub fn retain(&mut self, declared: impl Fn(&Subject) -> bool) {
        self.0.retain(|subject, _| declared(subject));
    }

    /// What is in force of a configuration.
    pub fn apply(&self, config: &mut Config) {
        for (subject, value) in &self.0 {
            match subject {
                Subject::Object(kind, name) => {
                    let enabled = match kind {
                        Kind::Pool => {
                            find(&mut config.pools, |pool| pool.name == *name).map(|pool| &mut pool.enabled)
                        }
                        Kind::LoadBalancer => {
                            find(&mut config.load_balancers, |balancer| balancer.name == *name)
                                .map(|balancer| &mut balancer.enabled)
                        }
                        Kind::Application => {
                            find(&mut config.applications, |application| application.name == *name)
                                .map(|application| &mut application.enabled)
                        }
                        Kind::Monitor | Kind::MonitorGroup => None,
                    };
                    if let (Some(place), Some(enabled)) = (enabled, value.enabled) {
                        *place = enabled;
                    }
                }
                Subject::Origin { pool, origin } => {
                    let found = find(&mut config.pools, |found| found.name == *pool)
                        .and_then(|pool| find(&mut pool.origins, |found| found.name == *origin));
                    let Some(found) = found else { continue };
                    found.enabled = value.enabled.unwrap_or(found.enabled);
                    let weight = value.weight.and_then(|weight| Weight::try_from(weight.0).ok());
                    found.weight = weight.unwrap_or(found.weight);
                    let seconds = value
                        .drain_timeout
                        .and_then(|time| Duration::try_from_secs_f64(time.0).ok());
                    found.drain_timeout = seconds.or(found.drain_timeout);
                }
            }
        }
    }

    /// What is in force of an object of the file.
    pub fn show(&self, entry: &mut Entry) {
        if entry.document != Document::File {
            return;
        }
        let subject = Subject::Object(entry.kind(), entry.name.clone());
        if let Some(enabled) = self.get(&subject).and_then(|value| value.enabled) {
            match &mut entry.body {
                Body::Pool(pool) => pool.enabled = enabled,
                Body::LoadBalancer(balancer) => balancer.enabled = enabled,
                Body::Application(application) => application.enabled = enabled,
                Body::Monitor(_) | Body::MonitorGroup(_) => {}
            }
        }
        if let Body::Pool(Pool { name, origins, .. }) = &mut entry.body {
            for origin in origins {
                let subject = Subject::Origin {
                    pool: name.clone(),
                    origin: origin.name.clone(),
                };
                let Some(value) = self.get(&subject) else { continue };
                origin.enabled = value.enabled.unwrap_or(origin.enabled);
                origin.weight = value.weight.unwrap_or(origin.weight);
                origin.drain_timeout = value.drain_timeout.or(origin.drain_timeout);
            }
        }
    }
}

/// The rows of the store that differ.
pub(super) fn rows(before: &Overrides, after: &Overrides) -> Vec<RowChange> {
    let mut changes: BTreeMap<String, Option<Vec<u8>>> = before.rows().map(|row| (row.key, None)).collect();
    for Row { key, value } in after.rows() {
        changes.insert(key, Some(value));
    }
    for Row { key, value } in before.rows() {
        if changes.get(&key) == Some(&Some(value)) {
            changes.remove(&key);
        }
    }
    let change = |(key, value)| RowChange {
        table: Table::Objects,
        key,
        value,
    };
    changes.into_iter().map(change).collect()
}

impl FromIterator<(Subject, Override)> for Overrides {
    fn from_iter<I: IntoIterator<Item = (Subject, Override)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

fn find<T>(items: &mut [T], wanted: impl Fn(&T) -> bool) -> Option<&mut T> {
    items.iter_mut().find(|item| wanted(item))
}
