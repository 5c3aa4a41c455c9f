//! The objects of a running node: what is in force, what is on the disk, and who waits for that.
//!
//! A change is validated and brought into force at once, all or nothing, and answered when it is on the disk. If it cannot
//! be written it is undone together with those that were built on it.

use super::node::Node;
use super::records::{Records, Then, undo};
use crate::api::CloudflareReply;
use crate::cloudflare::Failure;
use crate::config::{self, Compiled, ConfigErrors, HostDefaults, Imports, Loaded, Source};
use crate::objects::{Catalog, Change, Entry, FileObjects, Id, Moment, Rendered, refusal, render, rows};
use crate::store::{self, Cause, Committed, Committer, Row, RowChange};
use anyhow::Result;
use lb_core::engine::Event;
use lb_core::model::Config;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
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
    /// What the operator must know of the store.
    pub(super) problem: Option<String>,
}

/// The file's part of the configuration.
#[derive(Debug)]
pub struct FilePart {
    pub(super) source: Arc<Source>,
    imports: Imports,
    edge_ips: Vec<IpAddr>,
    objects: Arc<FileObjects>,
}

/// What a crash leaves.
#[derive(Clone)]
pub struct Durable {
    objects: Vec<Arc<Entry>>,
    pub(super) file: Rc<FilePart>,
    pub(super) records: Records,
}

/// A change that is in force and not on the disk yet.
pub struct Waiting {
    number: u64,
    pub(super) durable: Durable,
    pub(super) then: Then,
}

/// What the disk's news mean.
#[derive(Default)]
pub struct Settled {
    /// What follows from changes that are on the disk.
    pub done: Vec<Then>,
    /// Changes that must be undone, and why.
    pub failed: Option<(Vec<Then>, String)>,
}

impl FilePart {
    fn new(loaded: &Loaded) -> Self {
        Self {
            source: Arc::clone(&loaded.file),
            imports: loaded.imports.clone(),
            edge_ips: loaded.config.api.edge_ips.clone(),
            objects: Arc::new(FileObjects::new(&loaded.file, micros(loaded.modified))),
        }
    }

    /// The configuration with these objects.
    pub(super) fn compile(
        &self,
        catalog: &Catalog,
        left_out: &BTreeSet<Id>,
    ) -> Result<Compiled, (Rendered, ConfigErrors)> {
        let rendered = render(catalog, &self.edge_ips, left_out);
        let defaults = HostDefaults::of_this_machine();
        config::compile(&self.source, Some(&rendered.source), &self.imports, &defaults)
            .map_err(|errors| (rendered, errors))
    }

    /// Its objects together with those of the API.
    pub(super) fn with(&self, of_api: &[Arc<Entry>]) -> Catalog {
        Catalog::new(Arc::clone(&self.objects), of_api.to_vec())
    }
}

impl Objects {
    /// The objects of a file; those of the API come later.
    pub fn new(loaded: &Loaded) -> Self {
        let file = Rc::new(FilePart::new(loaded));
        let catalog = file.with(&[]);
        let records = Records::default();
        let (tell, committed) = mpsc::unbounded_channel();
        Self {
            catalog: watch::channel(Arc::new(catalog)).0,
            left_out: BTreeSet::new(),
            durable: Durable {
                objects: Vec::new(),
                file: Rc::clone(&file),
                records: records.clone(),
            },
            file,
            records,
            waiting: VecDeque::new(),
            committer: None,
            committed,
            tell,
            epoch: 1,
            number: 0,
            problem: None,
        }
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
        self.problem = problem;
        let (records, flaws) = Records::read(&further);
        self.durable.records = records.clone();
        self.records = records;
        for flaw in flaws {
            self.add_problem(&flaw);
        }
        self.take(&rows);
        if let Some(problem) = &self.problem {
            error!("{problem}");
        }
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
        let mut entries = Vec::new();
        for row in rows {
            match Entry::of_row(row) {
                Ok(entry) => entries.push(Arc::new(entry)),
                Err(flaw) => self.add_problem(&format!("an object of the store is left out: {flaw}")),
            }
        }
        self.durable.objects.clone_from(&entries);
        let catalog = self.file.with(&entries);
        self.catalog.send_replace(Arc::new(catalog));
    }

    fn add_problem(&mut self, problem: &str) {
        let problems = self.problem.get_or_insert_default();
        if !problems.is_empty() {
            problems.push_str("; ");
        }
        problems.push_str(problem);
    }

    /// The configuration. Objects that do not fit to the file are left out: the file has changed while no daemon ran.
    pub fn configuration(&mut self, of_file: &Config) -> Config {
        self.left_out.clear();
        let catalog = self.catalog();
        loop {
            let (rendered, errors) = match self.file.compile(&catalog, &self.left_out) {
                Ok(compiled) => return compiled.config,
                Err(refused) => refused,
            };
            let before = self.left_out.len();
            for error in &errors.errors {
                if let Some((kind, id, _)) = rendered.place(error)
                    && self.left_out.insert(id.clone())
                {
                    let title = catalog.get(kind, id).map_or("", |entry| entry.title());
                    let message = format!("{} `{title}` is not in force: {}", kind.noun(), error.message);
                    warn!("{message}");
                    self.add_problem(&message);
                }
            }
            if self.left_out.len() == before {
                // An error in the file about an object of the API: nobody knows which one.
                let all = catalog.of_api().iter().map(|entry| entry.id.clone());
                self.left_out.extend(all);
                self.add_problem(&format!("no object of the API is in force: {errors}"));
                return of_file.clone();
            }
        }
    }

    /// The configuration with other objects.
    pub(super) fn compile(&self, catalog: &Catalog) -> Result<Compiled, (Rendered, ConfigErrors)> {
        self.file.compile(catalog, &self.left_out)
    }

    /// The configuration with another file and those objects of the API, and what [`Self::replace_file`] needs.
    ///
    /// # Errors
    /// What is wrong with the file, seen together with the objects.
    pub fn with_file(
        &self,
        loaded: &Loaded,
        of_api: &[Arc<Entry>],
    ) -> Result<(Config, NewFile), ConfigErrors> {
        let file = Rc::new(FilePart::new(loaded));
        let catalog = file.with(of_api);
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

    /// Has rows written; `then`: what follows.
    pub(super) fn commit(&mut self, rows: Vec<RowChange>, then: Then) {
        self.number += 1;
        self.waiting.push_back(Waiting {
            number: self.number,
            durable: Durable {
                objects: self.catalog().of_api().to_vec(),
                file: Rc::clone(&self.file),
                records: self.records.clone(),
            },
            then,
        });
        if let Some(committer) = &self.committer {
            committer.commit(self.epoch, self.number, rows);
        }
    }

    /// Rows of everything that is in force, for a daemon that takes over.
    pub fn rows(&self) -> Vec<Row> {
        let row = |entry: &Arc<Entry>| Row {
            key: entry.key(),
            value: entry.value(),
        };
        self.catalog.borrow().of_api().iter().map(row).collect()
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
    pub async fn close(&mut self) {
        let committer = self.committer.take();
        let written = tokio::task::spawn_blocking(move || drop(committer));
        if tokio::time::timeout(LAST_COMMITS, written).await.is_err() {
            warn!("the disk does not answer: the last changes of objects may be lost");
        }
    }

    /// The last news after [`Self::close`].
    pub(super) fn last_committed(&mut self) -> Option<Committed> {
        self.committed.try_recv().ok()
    }

    /// Finds out what the disk's news mean.
    pub(super) fn settle(&mut self, committed: &Committed) -> Settled {
        let mut settled = Settled::default();
        if committed.epoch != self.epoch {
            return settled;
        }
        match &committed.result {
            Ok(()) => {
                while let Some(waiting) = self
                    .waiting
                    .pop_front_if(|first| first.number <= committed.number)
                {
                    self.durable = waiting.durable;
                    settled.done.push(waiting.then);
                }
            }
            Err(why) => {
                let failed = self.waiting.drain(..).map(|waiting| waiting.then).collect();
                settled.failed = Some((failed, why.clone()));
                self.epoch += 1;
                self.add_problem(&format!("a change could not be saved: {why}"));
            }
        }
        settled
    }
}

/// Another file's part.
pub struct NewFile {
    pub(super) file: Rc<FilePart>,
    pub(super) catalog: Catalog,
    pub(super) left_out: BTreeSet<Id>,
}

impl Node {
    /// Brings a change into force and has it written; `reply` is answered then.
    pub(super) fn change(&mut self, change: Change, reply: ChangeReply) {
        match self.try_change(change) {
            Ok((catalog, entry)) => {
                let objects = &mut self.objects;
                let former = objects.catalog.send_replace(Arc::new(catalog));
                objects.left_out.remove(&entry.id);
                let mut changes = rows(&former, &objects.catalog());
                let undo = undo(&former, &changes);
                let note = entry.title().to_owned();
                changes.extend(objects.push_revision(Cause::Api, note, undo));
                objects.commit(changes, Then::Object(entry, reply));
            }
            Err(failure) => {
                // A client that has gone does not want it any more.
                let _ = reply.send(Err(failure));
            }
        }
    }

    fn try_change(&mut self, change: Change) -> Result<(Catalog, Arc<Entry>), Failure> {
        if self.objects.committer.is_none() {
            let problem = self.objects.problem.clone().unwrap_or_default();
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
        self.fits_unconfirmed(applied.catalog.of_api(), &left_out)?;
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
        let Settled { done, failed } = self.objects.settle(committed);
        for then in done {
            self.proceed(then);
        }
        let Some((failed, why)) = failed else { return };
        for then in failed {
            self.give_up(then, &why);
        }
        error!("a change could not be saved: going back to what is on the disk");
        self.journal.cause = Some("changes could not be saved, and are undone".to_owned());
        let objects = &mut self.objects;
        let Durable {
            objects: of_api,
            file,
            records,
        } = objects.durable.clone();
        objects.records = records;
        let catalog = file.with(&of_api);
        let left_out = objects.left_out.clone();
        let configured = match file.compile(&catalog, &left_out) {
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
        match configured {
            Ok(_) => {}
            Err(why) => error!("what is on the disk cannot be put into force: {why}"),
        }
    }

    /// Answers everybody who waits for the disk, and closes the store.
    pub(super) async fn close_store(&mut self) {
        self.objects.close().await;
        while let Some(committed) = self.objects.last_committed() {
            let Settled { done, failed } = self.objects.settle(&committed);
            for then in done {
                self.proceed(then);
            }
            // It is not undone any more: its clients are told.
            if let Some((failed, why)) = failed {
                for then in failed {
                    self.give_up(then, &why);
                }
            }
        }
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
