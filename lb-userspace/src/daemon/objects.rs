//! The objects of a running node: what is in force, what is on the disk, and who waits for that.
//!
//! A change is validated and brought into force at once, all or nothing, and answered when it is on the disk. If it cannot
//! be written it is undone together with those that were built on it. Whatever comes into force, be it by the API, another
//! file or a way back, is a revision ([`Objects::revise`]) and written by [`Objects::commit`].

use super::file_part::{FilePart, Fitting};
use super::node::Node;
use super::records::{Records, Then, undo};
use crate::api::CloudflareReply;
use crate::cloudflare::Failure;
use crate::config::{Compiled, ConfigErrors, Loaded};
use crate::objects::{Catalog, Change, Entry, Id, Moment, Overrides, Rendered, Stored, refusal, rows};
use crate::store::{
    self, Cause, Committed, Committer, Dead, NewRevision, Row, RowChange, Table, Undo, Unfinished,
};
use lb_core::engine::Event;
use lb_core::model::Config;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

/// How long a daemon that stops waits for the disk.
const LAST_COMMITS: Duration = Duration::from_secs(5);

/// Where the answer to a change goes: the object as it is now, or was.
pub(super) type ChangeReply = CloudflareReply<Arc<Entry>>;

/// The objects.
pub struct Objects {
    pub(super) file: Rc<FilePart>,
    /// What is in force and what is left out.
    catalog: watch::Sender<Arc<Catalog>>,
    /// Objects of the store that do not fit to the file: they are kept, and not in force.
    pub(super) left_out: BTreeSet<Id>,
    /// What was in force before, and drafts.
    pub(super) records: Records,
    /// What is on the disk.
    pub(super) durable: Durable,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) committer: Option<Committer>,
    committed: mpsc::UnboundedReceiver<Committed>,
    tell: mpsc::UnboundedSender<Committed>,
    epoch: u64,
    number: u64,
    /// What in the store is not as it is in force since the start: what becomes of it, and what would undo that.
    at_start: (Vec<RowChange>, Vec<Undo>),
    /// What the operator must know of what was found at start.
    found: Option<String>,
    /// Why the last change is not on the disk.
    unsaved: Option<String>,
}

/// What a crash leaves.
#[derive(Clone)]
pub struct Durable {
    /// With the objects of the file.
    catalog: Arc<Catalog>,
    file: Rc<FilePart>,
    pub(super) records: Records,
}

/// A change that is in force and not on the disk yet.
pub struct Waiting {
    number: u64,
    durable: Durable,
    pub(super) then: Then,
}

/// What news from the disk means.
pub(super) enum Settled {
    /// Changes are there; `again`: the first since others could not be saved.
    Saved { done: Vec<Then>, again: bool },
    /// Everything since must be undone.
    Undone {
        failed: Vec<Then>,
        why: String,
        /// For the operator.
        problem: String,
    },
}

/// Another file's part, and the objects with it.
pub struct NewFile {
    pub(super) file: Rc<FilePart>,
    pub(super) catalog: Catalog,
    pub(super) left_out: BTreeSet<Id>,
}

impl Objects {
    /// The objects of a file; those of the API come later.
    pub fn new(loaded: &Loaded) -> Self {
        let file = Rc::new(FilePart::new(loaded));
        let catalog = Arc::new(file.with(&Stored::default()));
        let records = Records::default();
        let (tell, committed) = mpsc::unbounded_channel();
        Self {
            durable: Durable {
                catalog: Arc::clone(&catalog),
                file: Rc::clone(&file),
                records: records.clone(),
            },
            catalog: watch::channel(catalog).0,
            left_out: BTreeSet::new(),
            file,
            records,
            waiting: VecDeque::new(),
            committer: None,
            committed,
            tell,
            epoch: 1,
            number: 0,
            at_start: Default::default(),
            found: None,
            unsaved: None,
        }
    }

    /// What the operator must know of the store.
    pub fn problem(&self) -> Option<String> {
        let told: Vec<&str> = self
            .found
            .iter()
            .chain(&self.unsaved)
            .map(String::as_str)
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Where the API looks.
    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Takes in the objects that the store of `state_dir` holds, and keeps it open.
    pub fn open(&mut self, state_dir: &Path) {
        let store::Opened {
            database,
            rows,
            further,
            problem,
        } = store::open(state_dir);
        self.found = problem;
        let (records, flaws) = Records::read(&further);
        self.durable.records = records.clone();
        self.records = records;
        for flaw in flaws {
            self.add_problem(&flaw);
        }
        self.take(&rows);
        if let Some(problem) = &self.found {
            error!("{problem}");
        }
        self.note_start(&rows);
        let tell = self.tell.clone();
        self.committer = database.map(|database| {
            Committer::start(
                database,
                &rows,
                &further,
                state_dir.to_owned(),
                move |committed| {
                    // The daemon is stopping when nobody listens.
                    let _ = tell.send(committed);
                },
            )
        });
    }

    /// Takes in the objects of rows.
    pub fn take(&mut self, rows: &[Row]) {
        let (stored, flaws) = Stored::read(rows);
        for flaw in flaws {
            self.add_problem(&format!("an object of the store is left out: {flaw}"));
        }
        // What nobody confirmed has taken them away, and is taken back.
        let returning = match &self.records.unfinished {
            Some(Unfinished::Confirmation { returning, .. }) => Stored::read(returning).0.overrides,
            Some(Unfinished::File { .. }) | None => Arc::default(),
        };
        let catalog = Arc::new(self.file.with(&stored.and(&returning)));
        self.durable.catalog = Arc::clone(&catalog);
        self.catalog.send_replace(catalog);
    }

    /// Finds overrides of the store that are for nothing any more, since the file has changed while no daemon ran, and
    /// those that are back.
    fn note_start(&mut self, rows: &[Row]) {
        let catalog = self.catalog();
        let kept: Vec<Row> = catalog.overrides().rows().collect();
        let is_in = |rows: &[Row], key: &str| rows.iter().any(|row| row.key == key);
        let (changes, undo) = &mut self.at_start;
        let mut note = |key: &str, before: Option<&Row>, after: Option<&Row>| {
            changes.push(RowChange {
                table: Table::Objects,
                key: key.to_owned(),
                value: after.map(|row| row.value.clone()),
            });
            undo.push(Undo {
                key: key.to_owned(),
                value: before.map(|row| String::from_utf8_lossy(&row.value).into_owned()),
            });
        };
        let stored = rows.iter().filter(|row| Overrides::of_row(row).is_some());
        for stale in stored.filter(|row| !is_in(&kept, &row.key)) {
            note(&stale.key, Some(stale), None);
        }
        for back in kept.iter().filter(|row| !is_in(rows, &row.key)) {
            note(&back.key, None, Some(back));
        }
    }

    /// What the start has changed about the store: rows that become, and what undoes that.
    pub(super) fn take_start(&mut self) -> (Vec<RowChange>, Vec<Undo>) {
        std::mem::take(&mut self.at_start)
    }

    fn add_problem(&mut self, problem: &str) {
        let problems = self.found.get_or_insert_default();
        if problems.contains(problem) {
            return;
        }
        if !problems.is_empty() {
            problems.push_str("; ");
        }
        problems.push_str(problem);
    }

    /// The configuration. Objects that do not fit to the file are left out: the file has changed while no daemon ran.
    pub fn configuration(&mut self, of_file: &Config) -> Config {
        let file = Rc::clone(&self.file);
        let (config, left_out) = self.fitting(&file, &self.catalog(), of_file);
        self.left_out = left_out;
        config
    }

    /// The configuration without the objects that do not fit, of which the operator is told.
    fn fitting(&mut self, file: &FilePart, catalog: &Catalog, of_file: &Config) -> (Config, BTreeSet<Id>) {
        let Fitting {
            config,
            left_out,
            problems,
        } = file.compile_fitting(catalog, of_file);
        for problem in problems {
            warn!("{problem}");
            self.add_problem(&problem);
        }
        (config, left_out)
    }

    /// The configuration with other objects.
    pub(super) fn compile(&self, catalog: &Catalog) -> Result<Compiled, (Rendered, ConfigErrors)> {
        self.file.compile(catalog, &self.left_out)
    }

    /// The configuration with another file and those objects, and what [`Self::replace_file`] needs.
    ///
    /// # Errors
    /// What is wrong with the file, seen together with the objects.
    pub fn with_file(&self, loaded: &Loaded, stored: &Stored) -> Result<(Config, NewFile), ConfigErrors> {
        let file = Rc::new(FilePart::new(loaded));
        let catalog = file.with(stored);
        let (config, left_out) = match file.compile(&catalog, &BTreeSet::new()) {
            Ok(compiled) => (compiled.config, BTreeSet::new()),
            Err((_, errors)) if self.left_out.is_empty() => return Err(errors),
            Err(_) => match file.compile(&catalog, &self.left_out) {
                Ok(compiled) => (compiled.config, self.left_out.clone()),
                Err((_, errors)) => return Err(errors),
            },
        };
        let new = NewFile {
            file,
            catalog,
            left_out,
        };
        Ok((config, new))
    }

    /// Another file is in force.
    pub fn replace_file(&mut self, new: NewFile) {
        self.file = new.file;
        self.left_out = new.left_out;
        self.catalog.send_replace(Arc::new(new.catalog));
    }

    /// The configuration file holds this, whatever else is being written: so a crash leaves it, with what comes back
    /// because it declares that.
    pub(super) fn is_on_disk(&mut self, file: &Rc<FilePart>, returning: &Overrides) {
        let waiting = self.waiting.iter_mut().map(|waiting| &mut waiting.durable);
        for durable in waiting.chain([&mut self.durable]) {
            let stored = durable.catalog.stored().and(returning);
            durable.catalog = Arc::new(file.with(&stored));
            durable.file = Rc::clone(file);
        }
    }

    /// What is in force now is a revision: the rows to be written. Changes of objects that come while the one before is
    /// being written are one revision with it, and one that changes nothing is none.
    pub(super) fn revise(&mut self, former: &Catalog, cause: Cause, note: String) -> Vec<RowChange> {
        let mut changes = rows(former, &self.catalog());
        if changes.is_empty() && cause == Cause::Api {
            return changes;
        }
        let undo = undo(former, &changes);
        changes.extend(self.push_revision(cause, note, undo));
        changes
    }

    pub(super) fn push_revision(&mut self, cause: Cause, note: String, undo: Vec<Undo>) -> Vec<RowChange> {
        let history = &mut self.records.revisions;
        let joins = cause == Cause::Api && history.number() != self.durable.records.revisions.number();
        history.push(NewRevision {
            time: micros(SystemTime::now()),
            cause,
            note,
            text: self.file.source.text(),
            undo,
            joins,
        })
    }

    /// Has rows written, so that what is in force now is on the disk; `then`: what follows.
    pub(super) fn commit(&mut self, rows: Vec<RowChange>, then: Then) {
        self.number += 1;
        self.waiting.push_back(Waiting {
            number: self.number,
            durable: Durable {
                catalog: self.catalog(),
                file: Rc::clone(&self.file),
                records: self.records.clone(),
            },
            then,
        });
        let committer = self.committer.as_ref().ok_or(Dead);
        if committer
            .and_then(|committer| committer.commit(self.epoch, self.number, rows))
            .is_err()
        {
            // Nobody will tell: it is undone like what the disk refuses.
            self.committer = None;
            let why = "what writes them has failed for good: restart lb".to_owned();
            let _ = self.tell.send(Committed {
                epoch: self.epoch,
                number: self.number,
                result: Err(why),
            });
        }
    }

    /// Rows of everything that is in force, for a daemon that takes over.
    pub fn rows(&self) -> Vec<Row> {
        self.catalog.borrow().stored().rows()
    }

    /// The next news from the disk.
    pub async fn committed(&mut self) -> Committed {
        match self.committed.recv().await {
            Some(committed) => committed,
            // It has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Has the disk finish what it has, so that nobody who waits is left without an answer. Closes the store.
    async fn close(&mut self) {
        let committer = self.committer.take();
        let written = tokio::task::spawn_blocking(move || drop(committer));
        if tokio::time::timeout(LAST_COMMITS, written).await.is_err() {
            warn!("the disk does not answer: the last changes of objects may be lost");
        }
    }

    /// A change is in force: has it written.
    fn save(&mut self, catalog: Catalog, entry: Arc<Entry>, note: String, reply: ChangeReply) {
        let former = self.catalog.send_replace(Arc::new(catalog));
        self.left_out.remove(&entry.id);
        let changes = self.revise(&former, Cause::Api, note);
        self.commit(changes, Then::Object(entry, reply));
    }

    /// What is on the disk, to be brought into force again. Objects that do not fit to the file are left out again.
    ///
    /// # Errors
    /// What is wrong with the file by now.
    fn undo(&mut self) -> Result<(Config, NewFile), ConfigErrors> {
        let Durable {
            catalog,
            file,
            records,
        } = self.durable.clone();
        self.records = records;
        let of_file = file.compile_alone()?;
        let (config, left_out) = self.fitting(&file, &catalog, &of_file);
        let catalog = Catalog::clone(&catalog);
        let new = NewFile {
            file,
            catalog,
            left_out,
        };
        Ok((config, new))
    }

    /// Finds out what the disk's news mean.
    fn settle(&mut self, committed: &Committed) -> Settled {
        let mut done = Vec::new();
        if committed.epoch != self.epoch {
            return Settled::Saved { done, again: false };
        }
        match &committed.result {
            Ok(()) => {
                while let Some(waiting) = self
                    .waiting
                    .pop_front_if(|first| first.number <= committed.number)
                {
                    self.durable = waiting.durable;
                    done.push(waiting.then);
                }
                let again = self.unsaved.take().is_some();
                Settled::Saved { done, again }
            }
            Err(why) => {
                let failed = self.waiting.drain(..).map(|waiting| waiting.then).collect();
                self.epoch += 1;
                let problem = format!("a change could not be saved: {why}");
                self.unsaved = Some(problem.clone());
                Settled::Undone {
                    failed,
                    why: why.clone(),
                    problem,
                }
            }
        }
    }
}

impl Node {
    /// Brings a change into force and has it written; `reply` is answered then.
    pub(super) fn change(&mut self, change: Change, reply: ChangeReply) {
        let what = change.what();
        match self.try_change(change) {
            Ok((catalog, entry)) => {
                let note = what.unwrap_or_else(|| entry.title().to_owned());
                self.objects.save(catalog, entry, note, reply);
            }
            Err(failure) => {
                // A client that has gone does not want it any more.
                let _ = reply.send(Err(failure));
            }
        }
    }

    fn try_change(&mut self, change: Change) -> Result<(Catalog, Arc<Entry>), Failure> {
        if self.objects.committer.is_none() {
            let problem = self.objects.problem().unwrap_or_default();
            return Err(Failure::internal(format!(
                "objects cannot be changed now: {problem}"
            )));
        }
        let moment = Moment {
            now: micros(SystemTime::now()),
            random: super::setup::random().map_err(|error| Failure::internal(format!("{error:#}")))?,
        };
        let applied = change.apply(&self.objects.catalog(), moment)?;
        let mut left_out = self.objects.left_out.clone();
        left_out.remove(&applied.entry.id);
        let compiled = self.objects.file.compile(&applied.catalog, &left_out);
        let compiled = compiled
            .map_err(|(rendered, errors)| refusal(&applied.catalog, &rendered, &applied.entry, &errors))?;
        self.fits_unconfirmed(&applied.catalog, &left_out)?;
        let (entry, verb) = (
            &applied.entry,
            if applied.deleted { "deleted" } else { "changed" },
        );
        let cause = format!(
            "the API has {verb} the {} `{}`",
            entry.kind().noun(),
            entry.title()
        );
        self.journal.cause = Some(cause);
        self.configure(compiled.config)
            .map_err(|why| Failure::new(400, 1002, why))?;
        Ok((applied.catalog, applied.entry))
    }

    /// Brings a configuration with other objects into force.
    fn configure(&mut self, mut config: Config) -> Result<(), String> {
        if !self.overrides.is_empty() {
            config.datapath.interfaces.clone_from(&self.overrides);
        }
        if config == *self.config {
            self.journal.cause = None;
            return Ok(());
        }
        let config = Arc::new(config);
        self.refusal = None;
        self.tell(Event::Configure(Arc::clone(&config)));
        match self.refusal.take() {
            Some(why) => Err(why),
            None => {
                self.drains.seen.clear();
                self.config = config;
                Ok(())
            }
        }
    }

    /// The disk has news.
    pub(super) fn settle(&mut self, committed: &Committed) {
        let Some(problem) = self.answer_waiting(committed) else {
            return;
        };
        error!("{problem}: going back to what is on the disk");
        self.record_store(problem);
        self.journal.cause = Some("changes could not be saved, and are undone".to_owned());
        let former = self.objects.undo().map_err(|errors| errors.to_string());
        let forced = former.and_then(|(config, file)| self.force(config, file));
        self.journal.cause = None;
        if let Err(why) = forced {
            error!("what is on the disk cannot be put into force: {why}");
        }
    }

    /// Goes on with everything that has waited for these news; returns why what is in force must be undone.
    fn answer_waiting(&mut self, committed: &Committed) -> Option<String> {
        match self.objects.settle(committed) {
            Settled::Saved { done, again } => {
                if again {
                    self.record_store("changes of objects are saved again".to_owned());
                }
                for then in done {
                    self.proceed(then);
                }
                None
            }
            Settled::Undone { failed, why, problem } => {
                for then in failed {
                    self.give_up(then, &why);
                }
                Some(problem)
            }
        }
    }

    /// Answers everybody who waits for the disk, and closes the store.
    pub(super) async fn close_store(&mut self) {
        self.objects.close().await;
        while let Ok(committed) = self.objects.committed.try_recv() {
            // What failed is not undone any more: its clients are told.
            let _ = self.answer_waiting(&committed);
        }
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
