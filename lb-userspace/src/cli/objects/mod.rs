//! `lb pools`, `lb origins` and their like: objects by name, whoever declares them.
//!
//! Every verb asks the daemon, which validates and decides; nothing about an object is known here but how to write it down.

mod create;
mod edit;
mod list;
mod monitor_test;
mod origins;
mod remote;
#[cfg(test)]
mod tests;

pub(super) use origins::Origins;

use super::{Exit, Failure, Global, output};
use crate::config::Kind;
use crate::wire::{Object, Operand};
use clap::{Args, Subcommand};
use create::{Create, Fields, NewApplication, NewGroup, NewLoadBalancer, NewMonitor, NewPool};
use edit::Edit;
use remote::Remote;
use serde_json::Value;

/// List and change pools of origins
#[derive(Args, Debug)]
pub(super) struct Pools {
    #[command(subcommand)]
    verb: Option<Switchable<NewPool>>,
}

/// List, change and try monitors
#[derive(Args, Debug)]
pub(super) struct Monitors {
    #[command(subcommand)]
    verb: Option<MonitorVerb>,
}

/// List and change monitor groups: several monitors that vote
#[derive(Args, Debug)]
pub(super) struct MonitorGroups {
    #[command(subcommand)]
    verb: Option<Verb<NewGroup>>,
}

/// List and change load balancers: pools in order, a steering policy, a fallback pool
#[derive(Args, Debug)]
pub(super) struct LoadBalancers {
    #[command(subcommand)]
    verb: Option<Switchable<NewLoadBalancer>>,
}

/// List and change applications: what listens where, and where it leads
#[derive(Args, Debug)]
pub(super) struct Applications {
    #[command(subcommand)]
    verb: Option<Switchable<NewApplication>>,
}

/// What every kind of object has.
#[derive(Subcommand, Debug)]
enum Verb<C: Args> {
    /// List them with their state (this is also what happens without a verb)
    #[command(visible_alias = "ls")]
    List,
    /// Print one in the file's vocabulary, with what is known of it
    Show(Name),
    /// Make a new one
    Create(Create<C>),
    /// Change one in an editor ($VISUAL, $EDITOR), or field by field with --set
    Edit(Edit),
    /// Delete them: what others refer to is not deleted
    #[command(visible_alias = "rm")]
    Delete(Names),
}

/// What can be switched on and off, too.
#[derive(Subcommand, Debug)]
enum Switchable<C: Args> {
    #[command(flatten)]
    Verb(Verb<C>),
    /// Let them have traffic
    Enable(Names),
    /// Keep new flows away from them; an object of the configuration file is overridden until `enable` or `reset`
    Disable(Names),
    /// Forget what was set by hand: the configuration file holds again
    Reset(Names),
}

#[derive(Subcommand, Debug)]
enum MonitorVerb {
    #[command(flatten)]
    Verb(Verb<NewMonitor>),
    /// Probe once, now, and show each step and its time; exit code 1 when an origin is not healthy
    Test(monitor_test::Test),
}

/// One object.
#[derive(Args, Debug)]
struct Name {
    /// Its name or id
    name: String,
}

/// Some objects.
#[derive(Args, Debug)]
struct Names {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Pools {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        switchable(self.verb, global)
    }
}

impl LoadBalancers {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        switchable(self.verb, global)
    }
}

impl Applications {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        switchable(self.verb, global)
    }
}

impl MonitorGroups {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        self.verb.unwrap_or(Verb::List).run(global)
    }
}

impl Monitors {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self.verb {
            None => Verb::<NewMonitor>::List.run(global),
            Some(MonitorVerb::Verb(verb)) => verb.run(global),
            Some(MonitorVerb::Test(test)) => test.run(global),
        }
    }
}

fn switchable<C: Args + Fields>(verb: Option<Switchable<C>>, global: &Global) -> Result<(), Failure> {
    let (verb, Names { names }) = match verb {
        None => return Verb::<C>::List.run(global),
        Some(Switchable::Verb(verb)) => return verb.run(global),
        Some(Switchable::Enable(names)) => ("enable", names),
        Some(Switchable::Disable(names)) => ("disable", names),
        Some(Switchable::Reset(names)) => ("reset", names),
    };
    let remote = Remote::new(C::KIND, global)?;
    each(&names, |name| {
        let object = remote.operate(&[name, verb], &Operand::default())?;
        done(global, &object, || {
            format!("{}: {}", title(C::KIND, &object), state(&object, ""))
        })
    })
}

/// Does the same to each of `items`, also to those after one that it cannot be done to.
///
/// # Errors
/// All of those failures together, with the exit code of the first; or the first failure that is not about its item alone.
fn each<T>(items: &[T], mut act: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for item in items {
        match act(item) {
            Ok(()) => {}
            Err(failure) => match failure.exit {
                Exit::NotFound | Exit::Conflict | Exit::Configuration => failures.push(failure),
                _ => {
                    failures.push(failure);
                    break;
                }
            },
        }
    }
    let Some(first) = failures.first() else {
        return Ok(());
    };
    let messages: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
    Err(Failure::new(first.exit, messages.join("\n")))
}

impl<C: Args + Fields> Verb<C> {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let remote = Remote::new(C::KIND, global)?;
        match self {
            Self::List => list::list(&remote, global),
            Self::Show(Name { name }) => {
                let object = remote.show(&name)?;
                match global.json {
                    true => output::print_json(&object.object),
                    false => output::print(&list::whole(C::KIND, &object)),
                }
            }
            Self::Create(create) => create.run(&remote, global),
            Self::Edit(edit) => edit.run(&remote, global),
            Self::Delete(Names { names }) => each(&names, |name| {
                let object = remote.delete(name)?;
                done(global, &object, || format!("{} deleted", title(C::KIND, &object)))
            }),
        }
    }
}

/// Says what was done, or prints the object.
fn done(global: &Global, object: &Object, words: impl FnOnce() -> String) -> Result<(), Failure> {
    if global.json {
        return output::print_json(&object.object);
    }
    global.say(&words());
    Ok(())
}

/// An object in a sentence.
fn title(kind: Kind, object: &Object) -> String {
    format!("{} `{}`", kind.noun(), object.name)
}

/// Whether an object, or an origin of it, is enabled, and who says so.
fn state(object: &Object, origin: &str) -> String {
    let enabled = |value: &Value| value.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    let fields = match origin {
        "" => &object.object,
        name => remote::origin(object, name).unwrap_or(&object.object),
    };
    let state = if enabled(fields) { "enabled" } else { "disabled" };
    match (&object.declared, object.overridden.get(origin)) {
        (Some(place), Some(by_hand)) => {
            let file = format!("{}:{}", place.file, place.line);
            format!(
                "{}, which {file} does not say (`reset` forgets it)",
                by_hand.words()
            )
        }
        (Some(place), None) => format!("{state}, as {}:{} says", place.file, place.line),
        (None, _) => state.to_owned(),
    }
}
