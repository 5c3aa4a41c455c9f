//! Switches and weights: changes of one field that operators make in a hurry, by name, on objects of the API and of the
//! file alike.

use super::catalog::Catalog;
use super::entry::{Body, Entry};
use super::overrides::Subject;
use crate::cloudflare::{Failure, Number, Pool, Reason};
use crate::config::{Document, Kind, suggestion};
use lb_core::model::Weight;
use std::sync::Arc;

/// The longest time that flows may go on, as in the file: seconds.
const LONGEST_DRAIN: f64 = 604_800.0;

/// What is done.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    Enable,
    Disable,
    /// Disables an origin, and ends its flows after so many seconds instead of the pool's `drain_timeout`.
    Drain(Option<Number>),
    Weight(Number),
    /// Back to what the file says.
    Reset,
}

impl Operation {
    /// Its name in the API and on the command line.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Drain(_) => "drain",
            Self::Weight(_) => "weight",
            Self::Reset => "reset",
        }
    }

    /// Whether its number is one.
    fn check(&self) -> Result<(), Failure> {
        let wrong = |field: &str, message: String| {
            Err(Failure::invalid(vec![Reason::field(
                Kind::Pool,
                &format!("/{field}"),
                message,
            )]))
        };
        match self {
            Self::Weight(Number(weight)) => match Weight::try_from(*weight) {
                Ok(_) => Ok(()),
                Err(error) => wrong(
                    "weight",
                    format!("weight: {error} (weights are 0 to 1 in steps of 0.01)"),
                ),
            },
            Self::Drain(Some(Number(deadline))) if !(0.0..=LONGEST_DRAIN).contains(deadline) => wrong(
                "deadline",
                format!("deadline: {deadline} is outside 0 to {LONGEST_DRAIN} seconds"),
            ),
            Self::Enable | Self::Disable | Self::Drain(_) | Self::Reset => Ok(()),
        }
    }
}

/// What an operation comes to.
pub(super) enum Outcome {
    /// Another body of an object of the API.
    Body(Box<Body>),
    /// Another override of something in the file.
    Overridden(Catalog),
}

/// Does it to an object, or to one of a pool's origins.
///
/// # Errors
/// It makes no sense there.
pub(super) fn operate(
    catalog: &Catalog,
    entry: &Entry,
    origin: Option<&str>,
    operation: &Operation,
    now: u64,
) -> Result<Outcome, Failure> {
    operation.check()?;
    let subject = match (origin, &entry.body) {
        (Some(origin), Body::Pool(pool)) => Subject::Origin {
            pool: entry.name.clone(),
            origin: find(pool, &entry.name, origin)?.clone(),
        },
        (_, _) => Subject::Object(entry.kind(), entry.name.clone()),
    };
    if origin.is_none() && !takes(entry.kind(), operation) {
        let message = format!(
            "{} has no meaning for a {}",
            operation.verb(),
            entry.kind().noun()
        );
        return Err(Failure::new(400, 1002, message));
    }
    match entry.document {
        Document::Objects => of_api(entry, origin, operation).map(|body| Outcome::Body(Box::new(body))),
        Document::File => of_file(catalog, entry, subject, operation, now).map(Outcome::Overridden),
    }
}

fn takes(kind: Kind, operation: &Operation) -> bool {
    match (kind, operation) {
        (Kind::Monitor | Kind::MonitorGroup, _) | (_, Operation::Drain(_) | Operation::Weight(_)) => false,
        (_, Operation::Enable | Operation::Disable | Operation::Reset) => true,
    }
}

fn find<'p>(pool: &'p Pool, name: &str, wanted: &str) -> Result<&'p String, Failure> {
    let mut names = pool.origins.iter().map(|origin| &origin.name);
    names.find(|origin| *origin == wanted).ok_or_else(|| {
        let known = pool.origins.iter().map(|origin| origin.name.as_str());
        let help = suggestion(wanted, known).map_or_else(String::new, |help| format!(" ({help})"));
        Failure::new(404, 1001, format!("pool `{name}` has no origin `{wanted}`{help}"))
    })
}

fn of_api(entry: &Entry, origin: Option<&str>, operation: &Operation) -> Result<Body, Failure> {
    if *operation == Operation::Reset {
        let message = format!(
            "the {} `{}` was made through the API: it has no other values than those that it was given",
            entry.kind().noun(),
            entry.title()
        );
        return Err(Failure::new(400, 1002, message));
    }
    let enabled = *operation == Operation::Enable;
    let mut body = entry.body.clone();
    match (&mut body, origin) {
        (Body::Pool(pool), Some(name)) => {
            for origin in pool.origins.iter_mut().filter(|origin| origin.name == name) {
                match operation {
                    Operation::Weight(weight) => origin.weight = *weight,
                    Operation::Drain(deadline) => {
                        origin.enabled = false;
                        origin.drain_timeout = deadline.or(origin.drain_timeout);
                    }
                    Operation::Enable => (origin.enabled, origin.drain_timeout) = (true, None),
                    Operation::Disable | Operation::Reset => origin.enabled = false,
                }
            }
        }
        (Body::Pool(pool), None) => pool.enabled = enabled,
        (Body::LoadBalancer(balancer), _) => balancer.enabled = enabled,
        (Body::Application(application), _) => application.enabled = enabled,
        (Body::Monitor(_) | Body::MonitorGroup(_), _) => {}
    }
    Ok(body)
}

fn of_file(
    catalog: &Catalog,
    entry: &Entry,
    subject: Subject,
    operation: &Operation,
    now: u64,
) -> Result<Catalog, Failure> {
    let declared = catalog.file().declared_values(&subject);
    // The file is checked as it is: what it leaves disabled may be at odds with the rest.
    if entry.kind() == Kind::Application && *operation == Operation::Enable && !declared.0 {
        return Err(Failure::new(
            403,
            1003,
            format!(
                "the application `{}` is disabled in {}: set `enabled = true` there",
                entry.name,
                catalog.file().place(entry.kind(), &entry.name)
            ),
        ));
    }
    let mut overrides = catalog.overrides().clone();
    let former = overrides.get(&subject).cloned().unwrap_or_default();
    let next = former.after(operation, declared, now);
    if *operation == Operation::Reset && matches!(subject, Subject::Object(Kind::Pool, _)) {
        // Of its origins, too.
        overrides.retain(|other| !matches!(other, Subject::Origin { pool, .. } if *pool == entry.name));
    }
    overrides.set(subject, next);
    Ok(catalog.with_overrides(Arc::new(overrides)))
}
