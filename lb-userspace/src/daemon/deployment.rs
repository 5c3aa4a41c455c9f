//! Deploying another file: with a way back, and atomically on the disk.
//!
//! What is deployed is brought into force, written to the store as a revision, and then put into the configuration file,
//! in this order: a crash between the last two is made good at the next start. While it waits for a confirmation, the
//! file is not touched: whatever ends the daemon, the next one starts with the configuration before.

use super::file::{Staged, Unwritten};
use super::file_part::FilePart;
use super::node::Node;
use super::objects::NewFile;
use super::records::Then;
use crate::api::{Deployment, DeploymentSource, Reply};
use crate::cloudflare::{Failure, Reason};
use crate::config::{self, ConfigErrors, Diagnostic, HostDefaults, Loaded, Source};
use crate::objects::{Catalog, Id, Overrides, Stored};
use crate::store::{Cause, RowChange, Unfinished};
use crate::wire::{Deployed, ErrorCode, ErrorDetail, Problem, rfc3339};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// A way back that could not be taken is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// What goes back unless somebody confirms it.
pub struct Unconfirmed {
    pub revision: u64,
    deadline: Instant,
    /// The same, for people.
    expires: SystemTime,
    /// What it goes back to; usually the configuration file holds it.
    former: Rc<FilePart>,
    /// What the configuration file held when it was deployed: something else, when that was to be replaced all the same.
    on_disk: String,
    left_out: BTreeSet<Id>,
    /// What was set by hand on what the file in force does not declare any more.
    pub(super) returning: Overrides,
}

/// A deployment that is in force, and on its way to the disk.
pub struct Written {
    /// `None`: it waits for its confirmation.
    staged: Option<Staged>,
    instead_of: String,
    answer: Deployed,
    reply: Reply<Deployed>,
}

impl Written {
    /// Says that it came to nothing.
    pub fn refuse(self, why: ErrorDetail) {
        // A client that has gone does not want it any more.
        let _ = self.reply.send(Err(why));
    }
}

/// What is to come into force.
pub(super) struct Wanted {
    pub text: String,
    /// What messages call it.
    pub name: String,
    /// The objects of the API, and what was set by hand; `None`: as they are.
    pub objects: Option<Stored>,
    pub cause: Cause,
    pub note: String,
    pub force: bool,
    pub confirm: Option<Duration>,
}

/// Waits until what is not confirmed goes back.
pub async fn until_confirmed(unconfirmed: &Option<Unconfirmed>) {
    match unconfirmed {
        Some(unconfirmed) => sleep_until(unconfirmed.deadline).await,
        None => std::future::pending().await,
    }
}

fn conflict(message: impl Into<String>) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::Conflict, message)
}

/// What is wrong with a file, as `lb check` tells it.
pub(super) fn invalid(name: &str, errors: &ConfigErrors) -> ErrorDetail {
    let message = format!("{name} is invalid; nothing was changed");
    ErrorDetail::new(ErrorCode::ConfigurationInvalid, message)
        .with_problems(errors.errors.iter().map(Problem::from).collect())
}

impl Node {
    /// Deploys a file or a draft.
    pub(super) fn deploy(&mut self, deployment: Deployment, reply: Reply<Deployed>) {
        let Deployment {
            source,
            force,
            confirm,
        } = deployment;
        let wanted = match source {
            DeploymentSource::Text { text, file } => Wanted {
                note: file.clone(),
                name: file,
                text,
                objects: None,
                cause: Cause::Apply,
                force,
                confirm,
            },
            DeploymentSource::Draft(name) => {
                let draft = match self.draft_to_deploy(&name, force) {
                    Ok(draft) => draft,
                    Err(refusal) => return drop(reply.send(Err(refusal))),
                };
                Wanted {
                    text: draft.text.clone(),
                    name: format!("draft {name}"),
                    objects: None,
                    cause: Cause::Apply,
                    note: format!("draft {name}"),
                    force,
                    confirm,
                }
            }
        };
        self.bring(wanted, reply);
    }

    /// Brings something into force and onto the disk, or answers why not.
    pub(super) fn bring(&mut self, wanted: Wanted, reply: Reply<Deployed>) {
        match self.try_bring(wanted) {
            Ok(Brought::Nothing(answer)) => drop(reply.send(Ok(answer))),
            Ok(Brought::Change {
                changes,
                staged,
                instead_of,
                answer,
            }) => {
                let written = Written {
                    staged,
                    instead_of,
                    answer,
                    reply,
                };
                self.objects.commit(changes, Then::Deployment(Box::new(written)));
            }
            // A client that has gone does not want it any more.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn try_bring(&mut self, wanted: Wanted) -> Result<Brought, ErrorDetail> {
        self.may_deploy()?;
        let path = self.config_path.clone();
        let on_disk = config::text(&path).map_err(|why| {
            conflict(format!(
                "nobody knows what would be replaced: {}: {why}",
                path.display()
            ))
        })?;
        let running = Arc::clone(&self.objects.file.source);
        if on_disk != running.text() && !wanted.force {
            return Err(conflict(format!(
                "{} has changed since it was loaded: `lb diff file` shows how, `lb reload` loads it, and --force replaces it",
                path.display()
            )));
        }
        let mut loaded = config::parse(&wanted.text, &wanted.name, &HostDefaults::of_this_machine())
            .map_err(|errors| invalid(&wanted.name, &errors))?;
        let former = self.objects.catalog();
        let stored = wanted.objects.unwrap_or_else(|| former.stored());
        // From now on it is the configuration file.
        loaded.file = Source::new(running.name(), &wanted.text);
        let (config, new) = self
            .objects
            .with_file(&loaded, &stored)
            .map_err(|errors| invalid(&wanted.name, &errors))?;
        let same_text = wanted.text == on_disk && on_disk == running.text();
        if same_text && new.catalog.stored() == former.stored() {
            return Ok(Brought::Nothing(self.deployed(false, &loaded)));
        }
        let returning = former.overrides().without(new.catalog.overrides());
        let staged = Staged::new(&path, &wanted.text).map_err(|error| {
            let message =
                format!("the configuration file cannot be replaced: {error:#}; nothing was changed");
            ErrorDetail::new(ErrorCode::Forbidden, message)
        })?;
        let (file, left_out) = (Rc::clone(&self.objects.file), self.objects.left_out.clone());
        self.journal.cause = Some(format!("deployment: {}", wanted.note));
        let forced = self.force(config, new);
        self.journal.cause = None;
        let (_, later) = forced.map_err(|why| conflict(format!("the old configuration stays: {why}")))?;
        for warning in &later {
            warn!("{warning}");
        }
        loaded.warnings.extend(later);
        let mut changes = self.objects.revise(&former, wanted.cause, wanted.note);
        let revision = self.objects.records.revisions.number();
        let staged = match wanted.confirm {
            Some(time) => {
                let rows = returning.rows().collect();
                self.unconfirmed = Some(Unconfirmed {
                    revision,
                    deadline: Instant::now() + time,
                    expires: SystemTime::now() + time,
                    former: file,
                    on_disk: on_disk.clone(),
                    left_out,
                    returning,
                });
                let unfinished = Unfinished::Confirmation {
                    revision,
                    returning: rows,
                };
                changes.push(unfinished.noted());
                None
            }
            None => {
                let instead_of = on_disk.clone();
                changes.push(Unfinished::File { revision, instead_of }.noted());
                Some(staged)
            }
        };
        info!(revision, "deployed");
        Ok(Brought::Change {
            changes,
            staged,
            instead_of: on_disk,
            answer: self.deployed(true, &loaded),
        })
    }

    /// Refuses what could not be recorded, or would leave two ways back.
    fn may_deploy(&self) -> Result<(), ErrorDetail> {
        if self.objects.committer.is_none() {
            let problem = self.objects.problem().unwrap_or_default();
            let message = format!("no revision can be saved now: {problem}");
            return Err(ErrorDetail::new(ErrorCode::Internal, message));
        }
        if let Some(unconfirmed) = &self.unconfirmed {
            return Err(conflict(format!(
                "revision {} waits for its confirmation: `lb confirm` keeps it, `lb rollback` goes back",
                unconfirmed.revision
            )));
        }
        let mut waiting = self.objects.waiting.iter();
        if waiting.any(|waiting| matches!(waiting.then, Then::Deployment(_))) {
            return Err(conflict("another deployment is being written: try again"));
        }
        Ok(())
    }

    fn deployed(&self, changed: bool, loaded: &Loaded) -> Deployed {
        Deployed {
            revision: self.objects.records.revisions.number(),
            changed,
            file: self.config_path.display().to_string(),
            confirm_by: self.confirm_by(),
            warnings: loaded.warnings.iter().map(Problem::from).collect(),
        }
    }

    /// When what is in force goes back.
    pub(super) fn confirm_by(&self) -> Option<String> {
        let unconfirmed = self.unconfirmed.as_ref()?;
        Some(rfc3339(unconfirmed.expires))
    }

    /// A deployment is in the store: now the configuration file follows.
    pub(super) fn finish_deployment(&mut self, written: Written) {
        let Written {
            staged,
            instead_of,
            answer,
            reply,
        } = written;
        let Some(staged) = staged else {
            // It waits.
            return drop(reply.send(Ok(answer)));
        };
        let result = match staged.put(&instead_of) {
            Ok(()) => {
                self.settle_file();
                self.objects.commit(vec![Unfinished::done()], Then::Nothing);
                Ok(answer)
            }
            Err(Unwritten::Changed) => {
                self.objects.commit(vec![Unfinished::done()], Then::Nothing);
                Err(conflict(format!(
                    "{} was changed meanwhile, and what it says now will be in force",
                    answer.file
                )))
            }
            Err(Unwritten::Failed(error)) => {
                error!(error = %format!("{error:#}"), "the configuration file could not be replaced");
                Err(ErrorDetail::new(
                    ErrorCode::Internal,
                    format!(
                        "revision {} is in force, but {} could not be replaced: {error:#}; the next start tries again",
                        answer.revision, answer.file
                    ),
                ))
            }
        };
        // A client that has gone does not want it any more.
        let _ = reply.send(result);
    }

    /// The configuration file holds what is in force: its change is no news.
    fn settle_file(&mut self) {
        if let Some(file) = &mut self.file {
            file.settle();
        }
    }

    /// What waits for its confirmation stays.
    pub(super) fn confirm(&mut self, reply: Reply<Deployed>) {
        match self.try_confirm() {
            Ok(answer) => {
                let words = "it stays, and the configuration file says so, but this could not be saved";
                let then = Then::answer_or(reply, answer, words);
                self.objects.commit(vec![Unfinished::done()], then);
            }
            // A client that has gone does not want it any more.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn try_confirm(&mut self) -> Result<Deployed, ErrorDetail> {
        let Some(unconfirmed) = &self.unconfirmed else {
            return Err(conflict(
                "nothing waits for a confirmation: it went back, or was confirmed",
            ));
        };
        let path = self.config_path.display().to_string();
        let text = self.objects.file.source.text();
        let instead_of = unconfirmed.on_disk.as_str();
        let put = match Staged::new(&self.config_path, text) {
            Ok(staged) => staged.put(instead_of),
            Err(error) => Err(Unwritten::Failed(error)),
        };
        match put {
            Ok(()) => {}
            Err(Unwritten::Changed) if config::text(&self.config_path).is_ok_and(|now| now == text) => {}
            Err(Unwritten::Changed) => {
                return Err(conflict(format!(
                    "{path} has changed meanwhile: `lb reload` loads it, and ends the wait"
                )));
            }
            Err(Unwritten::Failed(error)) => {
                let message = format!("it still waits: {path} cannot be replaced: {error:#}");
                return Err(ErrorDetail::new(ErrorCode::Forbidden, message));
            }
        }
        let revision = unconfirmed.revision;
        self.unconfirmed = None;
        self.settle_file();
        let file = Rc::clone(&self.objects.file);
        self.objects.is_on_disk(&file, &Overrides::default());
        let message = format!("revision {revision} is confirmed");
        info!("{message}");
        self.record_store(message);
        Ok(Deployed {
            revision: self.objects.records.revisions.number(),
            changed: false,
            file: path,
            confirm_by: None,
            warnings: Vec::new(),
        })
    }

    /// Nobody has confirmed it in time.
    pub(super) fn expire(&mut self) {
        let changes = self.go_back("nobody confirmed it in time");
        self.commit_way_back(changes, Then::Nothing);
    }

    /// The daemon stops: nobody would be there to go back.
    pub(super) fn leave_unconfirmed(&mut self) {
        if self.unconfirmed.is_some() {
            let changes = self.go_back("the daemon stops before it was confirmed");
            self.commit_way_back(changes, Then::Nothing);
        }
    }

    fn commit_way_back(&mut self, changes: Result<Vec<RowChange>, ErrorDetail>, then: Then) {
        match changes {
            Ok(changes) => self.objects.commit(changes, then),
            Err(why) => error!("{}", why.message),
        }
    }

    /// Takes the way back; returns the rows to be written.
    fn go_back(&mut self, why: &str) -> Result<Vec<RowChange>, ErrorDetail> {
        let Some(unconfirmed) = &mut self.unconfirmed else {
            return Ok(Vec::new());
        };
        // For the case that it does not work now.
        unconfirmed.deadline = Instant::now() + AGAIN;
        let (revision, file) = (unconfirmed.revision, Rc::clone(&unconfirmed.former));
        let left_out = unconfirmed.left_out.clone();
        let returning = unconfirmed.returning.clone();
        let former = self.objects.catalog();
        // What was changed meanwhile stays, by the API or by hand: it was not part of the deployment.
        let catalog = file.with(&former.stored().and(&returning));
        self.journal.cause = Some(format!("revision {revision} is taken back"));
        let back = match file.compile(&catalog, &left_out) {
            Ok(compiled) => self.force(
                compiled.config,
                NewFile {
                    file,
                    catalog,
                    left_out,
                },
            ),
            Err((_, errors)) => Err(errors.to_string()),
        };
        self.journal.cause = None;
        if let Err(error) = back {
            let message = format!("revision {revision} cannot be taken back: {error}; trying again");
            return Err(conflict(message));
        }
        self.unconfirmed = None;
        // Should this not be saved, what is in force stays: the file says so already.
        let file = Rc::clone(&self.objects.file);
        self.objects.is_on_disk(&file, &returning);
        let message = format!("revision {revision} is taken back: {why}");
        warn!("{message}");
        self.record_store(message);
        let note = format!("instead of {revision}: {why}");
        let mut changes = self.objects.revise(&former, Cause::Unconfirmed, note);
        changes.push(Unfinished::done());
        Ok(changes)
    }

    /// Goes back to a revision.
    pub(super) fn roll_back(&mut self, revision: Option<u64>, force: bool, reply: Reply<Deployed>) {
        if self.unconfirmed.is_some() && revision.is_none() {
            let other = self.unconfirmed.as_ref().filter(|unconfirmed| {
                let now = config::text(&self.config_path);
                now.is_ok_and(|now| now != unconfirmed.former.source.text())
            });
            let other = other.map(|unconfirmed| {
                let message = "the configuration file holds something else than what is in force".to_owned();
                let help = "`lb diff file` shows how, `lb reload` loads it";
                Problem::from(&Diagnostic::warning(
                    &unconfirmed.former.source,
                    "",
                    message,
                    help,
                ))
            });
            match self.go_back("lb rollback") {
                Ok(changes) => {
                    let answer = Deployed {
                        revision: self.objects.records.revisions.number(),
                        changed: true,
                        file: if other.is_some() {
                            String::new()
                        } else {
                            self.config_path.display().to_string()
                        },
                        confirm_by: None,
                        warnings: other.into_iter().collect(),
                    };
                    let words = "what was before is in force, but this could not be saved";
                    let then = Then::answer_or(reply, answer, words);
                    self.objects.commit(changes, then);
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            }
            return;
        }
        match self.revision_to_deploy(revision, force) {
            Ok(wanted) => self.bring(wanted, reply),
            // A client that has gone does not want it any more.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// While something waits for its confirmation, objects must fit to both: what is in force and what it may go back to.
    pub(super) fn fits_unconfirmed(&self, catalog: &Catalog, left_out: &BTreeSet<Id>) -> Result<(), Failure> {
        let Some(unconfirmed) = &self.unconfirmed else {
            return Ok(());
        };
        let file = &unconfirmed.former;
        let catalog = file.with(&catalog.stored().and(&unconfirmed.returning));
        let left_out = unconfirmed.left_out.intersection(left_out).cloned().collect();
        file.compile(&catalog, &left_out).map(drop).map_err(|(_, errors)| {
            let message = format!(
                "revision {} waits for its confirmation, and this does not fit to what it would go back to ({errors}): \
                 `lb confirm` first",
                unconfirmed.revision
            );
            Failure::invalid(vec![Reason::new(1002, message)])
        })
    }

    /// Ends what the daemon before this one has left half done, and notes what is in force now.
    pub(super) async fn resume_deployment(&mut self) {
        if self.objects.committer.is_none() {
            return;
        }
        let unfinished = self.objects.records.unfinished.take();
        let text = self.objects.file.source.text().to_owned();
        let (mut cause, mut note) = (
            Cause::Start,
            "the file has changed while no daemon ran".to_owned(),
        );
        let history = &self.objects.records.revisions;
        let of = |revision: u64| {
            history
                .find(revision)
                .and_then(|found| history.text(found))
                .cloned()
        };
        match &unfinished {
            None => {}
            Some(Unfinished::Confirmation { revision, .. })
                if of(*revision).as_deref() == Some(text.as_str()) => {}
            Some(Unfinished::Confirmation { revision, .. }) => {
                cause = Cause::Unconfirmed;
                note = format!("instead of {revision}: the daemon ended before it was confirmed");
                let message =
                    format!("revision {revision} is taken back: the daemon ended before it was confirmed");
                warn!("{message}");
                self.record_store(message);
            }
            Some(Unfinished::File { revision, instead_of }) => {
                if let Some(wanted) = of(*revision).filter(|wanted| text == *instead_of && **wanted != *text)
                {
                    let message =
                        format!("the deployment of revision {revision} goes on: the daemon had ended before");
                    info!("{message}");
                    self.record_store(message);
                    let put = Staged::new(&self.config_path, &wanted).map_err(Unwritten::Failed);
                    if let Err(error) = put.and_then(|staged| staged.put(&text)) {
                        error!(?error, "the configuration file could not be replaced");
                    }
                    // Told to the operator there.
                    let _ = self.reload("a deployment goes on").await;
                }
            }
        }
        let objects = &mut self.objects;
        let (mut changes, undo) = objects.take_start();
        if !objects.is_recorded() || !changes.is_empty() {
            if objects.records.revisions.number() == 0 {
                note = "the first one".to_owned();
            }
            changes.extend(objects.push_revision(cause, note, undo));
        }
        if unfinished.is_some() {
            changes.push(Unfinished::done());
        }
        if !changes.is_empty() {
            objects.commit(changes, Then::Nothing);
        }
    }
}

/// What has come of a deployment.
enum Brought {
    /// It was in force already.
    Nothing(Deployed),
    Change {
        changes: Vec<RowChange>,
        staged: Option<Staged>,
        instead_of: String,
        answer: Deployed,
    },
}
