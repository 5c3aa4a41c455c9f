//! The objects of a running node: what is in force, what is on the disk, and who waits for that.
//!
//! A change is validated and brought into force at once, all or nothing, and answered when it is on the disk. If it cannot
//! be written it is undone together with those that were built on it.

use super::node::Node;
use crate::api::CloudflareReply;
use crate::cloudflare::Failure;
use crate::config::{self, Compiled, ConfigErrors, HostDefaults, Imports, Loaded, Source};
use crate::objects::{Catalog, Change, Entry, FileObjects, Id, Moment, Rendered, refusal, render, rows};
use crate::store::{self, Committed, Committer, Row};
use anyhow::Result;
use lb_core::engine::Event;
use lb_core::model::Config;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

/// How long a daemon that stops waits for the disk.
const LAST_COMMITS: Duration = Duration::from_secs(5);

/// Where the answer to a change goes: the object as it is now, or was.
type ChangeReply = CloudflareReply<Arc<Entry>>;

/// The objects.
pub struct Objects {
    file: FilePart,
    /// What is in force and what is left out.
    catalog: watch::Sender<Arc<Catalog>>,
    /// Objects of the store that do not fit to the file: they are kept, and not in force.
    left_out: BTreeSet<Id>,
    /// The objects of the API that are on the disk.
    durable: Vec<Arc<Entry>>,
    waiting: VecDeque<Waiting>,
    committer: Option<Committer>,
    committed: mpsc::UnboundedReceiver<Committed>,
    tell: mpsc::UnboundedSender<Committed>,
    epoch: u64,
    number: u64,
    /// What the operator must know of the store.
    pub(super) problem: Option<String>,
}

/// The file's part of the configuration.
struct FilePart {
    source: Arc<Source>,
    imports: Imports,
    edge_ips: Vec<IpAddr>,
    objects: Arc<FileObjects>,
}

/// A change that is in force and not on the disk yet.
struct Waiting {
    number: u64,
    objects: Vec<Arc<Entry>>,
    entry: Arc<Entry>,
    reply: ChangeReply,
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
    fn compile(
        &self,
        catalog: &Catalog,
        left_out: &BTreeSet<Id>,
    ) -> Result<Compiled, (Rendered, ConfigErrors)> {
        let rendered = render(catalog, &self.edge_ips, left_out);
        let defaults = HostDefaults::of_this_machine();
        config::compile(&self.source, Some(&rendered.source), &self.imports, &defaults)
            .map_err(|errors| (rendered, errors))
    }
}

impl Objects {
    /// The objects of a file; those of the API come later.
    pub fn new(loaded: &Loaded) -> Self {
        let file = FilePart::new(loaded);
        let catalog = Catalog::new(Arc::clone(&file.objects), Vec::new());
        let (tell, committed) = mpsc::unbounded_channel();
        Self {
            file,
            catalog: watch::channel(Arc::new(catalog)).0,
            left_out: BTreeSet::new(),
            durable: Vec::new(),
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
        self.durable.clone_from(&entries);
        let catalog = Catalog::new(Arc::clone(&self.file.objects), entries);
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

    /// The configuration with another file, and that file's part for [`Self::replace_file`].
    ///
    /// # Errors
    /// What is wrong with the file, seen together with the objects.
    pub fn with_file(&self, loaded: &Loaded) -> Result<(Config, NewFile), ConfigErrors> {
        let file = FilePart::new(loaded);
        let former = self.catalog();
        let catalog = Catalog::new(Arc::clone(&file.objects), former.of_api().to_vec());
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
        while let Ok(committed) = self.committed.try_recv() {
            // What failed is not undone any more: its clients are told.
            let _ = self.settle(&committed);
        }
    }

    /// Answers those who waited for this. Returns whether everything since must be undone.
    fn settle(&mut self, committed: &Committed) -> bool {
        if committed.epoch != self.epoch {
            return false;
        }
        match &committed.result {
            Ok(()) => {
                while let Some(waiting) = self
                    .waiting
                    .pop_front_if(|first| first.number <= committed.number)
                {
                    self.durable = waiting.objects;
                    // A client that has gone does not want it any more.
                    let _ = waiting.reply.send(Ok(waiting.entry));
                }
                false
            }
            Err(why) => {
                for waiting in self.waiting.drain(..) {
                    let message = format!("the change could not be saved, and was undone: {why}");
                    let _ = waiting.reply.send(Err(Failure::internal(message)));
                }
                self.epoch += 1;
                self.add_problem(&format!("a change could not be saved: {why}"));
                true
            }
        }
    }
}

/// Another file's part.
pub struct NewFile {
    file: FilePart,
    catalog: Catalog,
    left_out: BTreeSet<Id>,
}

impl Node {
    /// Brings a change into force and has it written; `reply` is answered then.
    pub(super) fn change(&mut self, change: Change, reply: ChangeReply) {
        match self.try_change(change) {
            Ok((catalog, entry)) => {
                let objects = &mut self.objects;
                let former = objects.catalog.send_replace(Arc::new(catalog));
                let catalog = objects.catalog();
                objects.left_out.remove(&entry.id);
                objects.number += 1;
                objects.waiting.push_back(Waiting {
                    number: objects.number,
                    objects: catalog.of_api().to_vec(),
                    entry,
                    reply,
                });
                if let Some(committer) = &objects.committer {
                    committer.commit(objects.epoch, objects.number, rows(&former, &catalog));
                }
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
        if !self.objects.settle(committed) {
            return;
        }
        error!("a change of objects could not be saved: going back to those that are on the disk");
        let objects = &self.objects;
        let catalog = Catalog::new(Arc::clone(&objects.file.objects), objects.durable.clone());
        let compiled = objects.file.compile(&catalog, &objects.left_out);
        let configured = match compiled {
            Ok(compiled) => self.configure(compiled.config),
            Err((_, errors)) => Err(errors.to_string()),
        };
        match configured {
            Ok(()) => drop(self.objects.catalog.send_replace(Arc::new(catalog))),
            Err(why) => error!("the objects that are on the disk cannot be put into force: {why}"),
        }
    }
}

/// Microseconds since 1970.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
