//! What differs between two configurations, in the words of the file.
//!
//! Compared is what the configurations mean: comments, the order of keys and defaults that are written out make no
//! difference. What a difference means for traffic is told by [`crate::engine::moves`].

mod fields;
mod machine;
#[cfg(test)]
mod tests;
mod writer;

use crate::model::Config;
use core::fmt;
use std::collections::BTreeMap;

/// What stands under a table of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    Node,
    Datapath,
    Api,
    Dns,
    History,
    Geoip,
    Webhook,
    Monitor,
    MonitorGroup,
    Pool,
    Origin,
    LoadBalancer,
    Application,
}

impl Part {
    /// The word used in output.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Datapath => "datapath",
            Self::Api => "api",
            Self::Dns => "dns",
            Self::History => "history",
            Self::Geoip => "geoip",
            Self::Webhook => "webhook",
            Self::Monitor => "monitor",
            Self::MonitorGroup => "monitor group",
            Self::Pool => "pool",
            Self::Origin => "origin",
            Self::LoadBalancer => "load balancer",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.noun())
    }
}

/// What becomes of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Added,
    Removed,
    Changed,
}

/// A part that is not the same in both configurations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartChange {
    pub part: Part,
    /// Of an origin `POOL/ORIGIN`; empty for tables that there is one of, such as `[node]`.
    pub name: String,
    pub fate: Fate,
    /// Of what is added or removed all fields that it has, of what is changed those that differ.
    pub fields: Vec<FieldChange>,
}

/// A field with both values as texts; `None`: it has none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldChange {
    pub field: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Everything that differs: in the order of [`Part`], within that what stays in the order of `after`, then what goes. The
/// origins of a pool follow it.
#[must_use]
pub fn differences(before: &Config, after: &Config) -> Vec<PartChange> {
    let (before, after) = (fields::parts(before), fields::parts(after));
    let known: BTreeMap<(Part, &str), &Fields> = before
        .iter()
        .map(|part| ((part.part, part.name.as_str()), &part.fields))
        .collect();
    let kept: BTreeMap<(Part, &str), ()> = after
        .iter()
        .map(|part| ((part.part, part.name.as_str()), ()))
        .collect();
    let mut changes = Vec::new();
    for part in &after {
        let former = known.get(&(part.part, part.name.as_str())).copied();
        let fields = changed(former, Some(&part.fields));
        let fate = match former {
            None => Fate::Added,
            Some(_) if fields.is_empty() => continue,
            Some(_) => Fate::Changed,
        };
        changes.push(part.becomes(fate, fields));
    }
    let gone = before
        .iter()
        .filter(|part| !kept.contains_key(&(part.part, part.name.as_str())));
    changes.extend(gone.map(|part| part.becomes(Fate::Removed, changed(Some(&part.fields), None))));
    // Stable: within a kind of part the order stays.
    changes.sort_by_key(|change| change.part);
    changes
}

/// Fields with their values, in the order in which they are told.
type Fields = Vec<(String, String)>;

/// A part as it is compared.
struct Described {
    part: Part,
    name: String,
    fields: Fields,
}

impl Described {
    fn becomes(&self, fate: Fate, fields: Vec<FieldChange>) -> PartChange {
        PartChange {
            part: self.part,
            name: self.name.clone(),
            fate,
            fields,
        }
    }
}

fn changed(before: Option<&Fields>, after: Option<&Fields>) -> Vec<FieldChange> {
    let value = |fields: Option<&Fields>, name: &str| {
        let mut fields = fields.into_iter().flatten();
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.clone())
    };
    let present = after.into_iter().flatten().map(|(field, _)| field);
    let gone = before
        .into_iter()
        .flatten()
        .map(|(field, _)| field)
        .filter(|field| value(after, field).is_none());
    present
        .chain(gone)
        .map(|field| FieldChange {
            field: field.clone(),
            before: value(before, field),
            after: value(after, field),
        })
        .filter(|change| change.before != change.after)
        .collect()
}
