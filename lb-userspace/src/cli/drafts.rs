//! `lb drafts` and `lb revisions`: what is kept beside what is in force.

use super::apply::{ask, deploy, read, time};
use super::table::{Align, Table};
use super::{Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::{DeployBody, DraftBody, DraftRow, Drafts, RevisionRow, Revisions, Text};
use clap::{Args, Subcommand};
use hyper::Method;
use std::path::PathBuf;
use std::time::Duration;

/// Keep configuration files without deploying them, and deploy them later
///
/// A draft is a whole configuration file. Objects of the API and what was set by hand are no part of it: those stay as they
/// are (a disabled load balancer is their draft). `lb diff draft:NAME` shows what a draft would change.
#[derive(Args, Debug)]
#[command(name = "drafts")]
pub(super) struct DraftsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List drafts
    List,
    /// Print the file of a draft (over the daemon's socket only)
    Show { name: String },
    /// Save a file, in the place of a draft of that name; an invalid one is refused with exit code 3
    Save {
        /// The file; `-` for stdin
        file: PathBuf,
        /// Letters, digits, `-`, `_` and `.`
        #[arg(long)]
        name: String,
    },
    /// Delete a draft
    Delete { name: String },
    /// Deploy a draft as `lb apply` does a file; exit code 6 when another file is in force since it was saved
    Deploy {
        name: String,
        /// Go back after this time unless `lb confirm` comes before, such as 60s or 5m
        #[arg(long, value_name = "TIME", value_parser = time)]
        confirm: Option<Duration>,
        /// Also when another file is in force since, or the daemon's file has changed since it was loaded
        #[arg(long)]
        force: bool,
    },
}

/// List the revisions that `lb rollback` can go back to, the newest first
///
/// Each change makes one: of the file, by `lb apply` and drafts, of objects by the API, and of what is set by hand (`lb origins
/// drain` and its like). Changes of the latter that come while the one before is being written to the disk are one revision
/// together, shown as 4-7. Fifty are kept.
#[derive(Args, Debug)]
#[command(name = "revisions", args_conflicts_with_subcommands = true)]
pub(super) struct RevisionsArgs {
    #[command(subcommand)]
    verb: Option<RevisionVerb>,
}

#[derive(Subcommand, Debug)]
enum RevisionVerb {
    /// List them
    List,
    /// Print the file of a revision (over the daemon's socket only)
    Show { revision: u64 },
}

const DRAFTS: &str = "/api/v1/drafts";

impl DraftsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let of = |name: &str| Query::below(DRAFTS, &[name]);
        match self.verb {
            Verb::List => list(global),
            Verb::Show { name } => show(global, &Query::below(DRAFTS, &[&name, "text"])),
            Verb::Save { file, name } => {
                let (text, file) = read(&file)?;
                let file = Some(file);
                let body = ask(global, Method::PUT, &of(&name), &DraftBody { text, file })?;
                tell(global, &body, |draft| {
                    format!(
                        "draft {} is saved; `lb drafts deploy {}` deploys it",
                        draft.name, draft.name
                    )
                })
            }
            Verb::Delete { name } => {
                let body = global::wait(global.client()?.call(Method::DELETE, &of(&name)))?;
                tell(global, &body, |draft| format!("draft {} is deleted", draft.name))
            }
            Verb::Deploy { name, confirm, force } => {
                let body = DeployBody {
                    force,
                    confirm: confirm.map(|time| time.as_secs_f64()),
                };
                deploy(global, &Query::below(DRAFTS, &[&name, "deploy"]), &body)
            }
        }
    }
}

fn tell(global: &Global, body: &[u8], words: impl Fn(&DraftRow) -> String) -> Result<(), Failure> {
    if global.json {
        return output::print_answer(body);
    }
    global.say(&words(&parse(body)?));
    Ok(())
}

fn list(global: &Global) -> Result<(), Failure> {
    let body = global::wait(global.client()?.call(Method::GET, &Query::new(DRAFTS)))?;
    if global.json {
        return output::print_answer(&body);
    }
    let Drafts { drafts } = parse(&body)?;
    if drafts.is_empty() {
        global.say("there are no drafts");
        return Ok(());
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SAVED", Align::Left),
        ("BASE", Align::Right),
        ("BYTES", Align::Right),
        ("", Align::Left),
    ]);
    for draft in drafts {
        let conflicts = match draft.conflicts {
            true => "another file is in force since",
            false => "",
        };
        table.row([
            draft.name,
            draft.saved,
            draft.base.to_string(),
            draft.bytes.to_string(),
            conflicts.to_owned(),
        ]);
    }
    output::print(&table.render(output::stdout_has_color()))
}

fn show(global: &Global, query: &Query) -> Result<(), Failure> {
    let body = global::wait(global.client()?.call(Method::GET, query))?;
    if global.json {
        return output::print_answer(&body);
    }
    let Text { text } = parse(&body)?;
    output::print(&text)
}

impl RevisionsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if let Some(RevisionVerb::Show { revision }) = self.verb {
            let query = Query::below("/api/v1/revisions", &[&revision.to_string(), "text"]);
            return show(global, &query);
        }
        let body = global::wait(
            global
                .client()?
                .call(Method::GET, &Query::new("/api/v1/revisions")),
        )?;
        if global.json {
            return output::print_answer(&body);
        }
        let Revisions { revisions } = parse(&body)?;
        if revisions.is_empty() {
            global.say("no revision is kept");
            return Ok(());
        }
        output::print(&rendered(revisions))
    }
}

fn rendered(revisions: Vec<RevisionRow>) -> String {
    let mut table = Table::new(&[
        ("REVISION", Align::Right),
        ("TIME", Align::Left),
        ("CAUSE", Align::Left),
        ("OBJECTS", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for row in revisions {
        let number = match row.first == row.revision {
            true => row.revision.to_string(),
            false => format!("{}-{}", row.first, row.revision),
        };
        let state = match (row.running, row.confirm_by) {
            (false, _) => String::new(),
            (true, None) => "in force".to_owned(),
            (true, Some(time)) => format!("in force until {time} unless confirmed"),
        };
        let note = match (row.note.is_empty(), state.is_empty()) {
            (_, true) => row.note,
            (true, false) => state,
            (false, false) => format!("{} ({state})", row.note),
        };
        let objects = match row.objects_changed {
            0 => String::new(),
            count => count.to_string(),
        };
        table.row([number, row.time, row.cause, objects, note]);
    }
    table.render(output::stdout_has_color())
}
