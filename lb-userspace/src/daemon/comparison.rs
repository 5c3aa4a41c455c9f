//! `lb diff`: two versions of the configuration side by side.

use super::deployment::invalid;
use super::file_part::FilePart;
use super::node::Node;
use crate::api::Reply;
use crate::config::{self, ConfigErrors, HostDefaults};
use crate::objects::{Id, Stored};
use crate::wire::{ErrorCode, ErrorDetail, FieldDiff, PartDiff, Plan, Problem, ShareDiff, Side, TrafficDiff};
use lb_core::difference::{Fate, PartChange, differences};
use lb_core::engine::{Move, NameRecord, moves};
use lb_core::model::Config;
use lb_core::steering::Family;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A version as it is compared.
enum Compared {
    /// It is compiled already.
    Config(Arc<Config>),
    Text {
        text: String,
        /// What messages call it.
        name: String,
        stored: Stored,
        left_out: BTreeSet<Id>,
        interfaces: Vec<String>,
    },
}

impl Node {
    /// Compares two versions, on a thread that may take its time.
    pub(super) fn diff(&self, from: &Side, to: &Side, reply: Reply<Plan>) {
        let (before, after) = match (self.compared(from), self.compared(to)) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(refusal), _) | (_, Err(refusal)) => return drop(reply.send(Err(refusal))),
        };
        let (from, to) = (self.title(from), self.title(to));
        let names = self.known_names();
        tokio::task::spawn_blocking(move || {
            // A client that has gone does not want it any more.
            let _ = reply.send(plan(from, before, to, after, &names));
        });
    }

    fn compared(&self, side: &Side) -> Result<Compared, ErrorDetail> {
        let (text, name, stored) = match side {
            Side::Running => return Ok(Compared::Config(Arc::clone(&self.config))),
            Side::File => {
                let path = &self.config_path;
                let text = config::text(path).map_err(|why| {
                    ErrorDetail::new(ErrorCode::NotFound, format!("{}: {why}", path.display()))
                })?;
                (text, path.display().to_string(), None)
            }
            Side::Draft(name) => (self.draft(name)?.text.clone(), format!("draft {name}"), None),
            Side::Revision(number) => {
                let stored = self.objects_of(*number)?;
                (self.text_of(*number)?, format!("revision {number}"), Some(stored))
            }
            Side::Text { text, file } => (text.clone(), file.clone(), None),
        };
        Ok(Compared::Text {
            text,
            name,
            stored: stored.unwrap_or_else(|| self.objects.catalog().stored()),
            left_out: self.objects.left_out.clone(),
            interfaces: self.overrides.clone(),
        })
    }

    fn title(&self, side: &Side) -> String {
        match side {
            Side::Running => format!("running (revision {})", self.objects.records.revisions.number()),
            Side::File => self.config_path.display().to_string(),
            Side::Draft(name) => format!("draft {name}"),
            Side::Revision(number) => format!("revision {number}"),
            Side::Text { file, .. } => file.clone(),
        }
    }
}

fn plan(
    from: String,
    before: Compared,
    to: String,
    after: Compared,
    names: &[NameRecord],
) -> Result<Plan, ErrorDetail> {
    let (before, _) = before.compile()?;
    let (after, warnings) = after.compile()?;
    let traffic = moves(&before, &after, names)
        .map_err(|why| ErrorDetail::new(ErrorCode::Conflict, format!("it cannot come into force: {why}")))?;
    Ok(Plan {
        from,
        to,
        changes: differences(&before, &after).into_iter().map(part).collect(),
        traffic: traffic.into_iter().map(traffic_of).collect(),
        warnings,
    })
}

impl Compared {
    fn compile(self) -> Result<(Arc<Config>, Vec<Problem>), ErrorDetail> {
        match self {
            Self::Config(config) => Ok((config, Vec::new())),
            Self::Text {
                text,
                name,
                stored,
                left_out,
                interfaces,
            } => {
                let compiled = compile(&text, &name, &stored, &left_out);
                let (mut config, warnings) = compiled.map_err(|errors| invalid(&name, &errors))?;
                if !interfaces.is_empty() {
                    config.datapath.interfaces = interfaces;
                }
                Ok((Arc::new(config), warnings))
            }
        }
    }
}

/// A file together with objects; those that do not fit to what is in force need not fit to this either.
fn compile(
    text: &str,
    name: &str,
    stored: &Stored,
    left_out: &BTreeSet<Id>,
) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    let loaded = config::parse(text, name, &HostDefaults::of_this_machine())?;
    let file = FilePart::new(&loaded);
    let catalog = file.with(stored);
    let compiled = match file.compile(&catalog, &BTreeSet::new()) {
        Err(_) if !left_out.is_empty() => file.compile(&catalog, left_out),
        other => other,
    };
    let compiled = compiled.map_err(|(_, errors)| errors)?;
    let warnings = loaded.warnings.iter().map(Problem::from).collect();
    Ok((compiled.config, warnings))
}

fn part(change: PartChange) -> PartDiff {
    let fields = change.fields.into_iter().map(|field| FieldDiff {
        field: field.field,
        before: field.before,
        after: field.after,
    });
    PartDiff {
        change: match change.fate {
            Fate::Added => "added",
            Fate::Removed => "removed",
            Fate::Changed => "changed",
        }
        .to_owned(),
        object: change.part.noun().to_owned(),
        name: change.name,
        fields: fields.collect(),
    }
}

fn traffic_of(traffic: Move) -> TrafficDiff {
    let shares = traffic.shares.into_iter().map(|shift| ShareDiff {
        origin: shift.origin,
        before: shift.before,
        after: shift.after,
    });
    TrafficDiff {
        application: traffic.application,
        family: match traffic.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
        .to_owned(),
        country: traffic.country.map(|country| country.to_string()),
        moved: traffic.moved,
        shares: shares.collect(),
    }
}
