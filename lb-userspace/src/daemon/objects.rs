//! The objects of a running node: what is in force, what is on the disk, and who waits for that.
//!
//! A change is validated and brought into force at once, all or nothing, and answered when it is on the disk. If it cannot
//! be written it is undone together with those that were built on it.

use super::node::Node;
use crate::api::{CloudflareReply, by_hand};
use crate::cloudflare::Failure;
use crate::config::{self, Compiled, ConfigErrors, HostDefaults, Imports, Kind, Loaded, Source};
use crate::objects::{
    Catalog, Change, Entry, FileObjects, Id, Moment, Overrides, Rendered, Subject, refusal, render, rows,
};
use crate::store::{self, Committed, Committer, Dead, Row, RowChange};
use crate::wire::Status;
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
    /// The objects of the API and the overrides that are on the disk.
    durable: Arc<Catalog>,
    waiting: VecDeque<Waiting>,
    committer: Option<Committer>,
    committed: mpsc::UnboundedReceiver<Committed>,
    tell: mpsc::UnboundedSender<Committed>,
    epoch: u64,
    number: u64,
    /// What the operator must know of what was found at start.
    found: Option<String>,
    /// Why the last change is not on the disk.
    unsaved: Option<String>,
}

/// What news from the disk means.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Settled {
    /// As expected.
    Saved,
    /// The first change since others could not be saved.
    SavedAgain,
    /// Everything since must be undone.
    Undone(String),
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
    catalog: Arc<Catalog>,
    /// Who waits, and for what; `None`: nobody.
    reply: Option<(ChangeReply, Arc<Entry>)>,
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
        let compiled = config::compile(&self.source, Some(&rendered.source), &self.imports, &defaults);
        let mut compiled = compiled.map_err(|errors| (rendered, errors))?;
        catalog.overrides().apply(&mut compiled.config);
        Ok(compiled)
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
            durable: Arc::new(catalog.clone()),
            catalog: watch::channel(Arc::new(catalog)).0,
            left_out: BTreeSet::new(),
            waiting: VecDeque::new(),
            committer: None,
            committed,
            tell,
            epoch: 1,
            number: 0,
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
            problem,
        } = store::open(state_dir);
        self.found = problem;
        self.take(&rows);
        if let Some(problem) = &self.found {
            error!("{problem}");
        }
        let tell = self.tell.clone();
        self.committer = database.map(|database| {
            Committer::start(database, &rows, state_dir.to_owned(), move |committed| {
                // The daemon is stopping when nobody listens.
                let _ = tell.send(committed);
            })
        });
        self.forget_stale(&rows);
    }

    /// Removes the rows of overrides that are for nothing any more: the file has changed while no daemon ran.
    fn forget_stale(&mut self, rows: &[Row]) {
        let kept: BTreeSet<String> = self.rows().into_iter().map(|row| row.key).collect();
        let stale = rows
            .iter()
            .filter(|row| Overrides::of_row(row).is_some() && !kept.contains(&row.key));
        let gone: Vec<RowChange> = stale
            .map(|row| RowChange {
                key: row.key.clone(),
                value: None,
            })
            .collect();
        if self.committer.is_some() && !gone.is_empty() {
            self.number += 1;
            self.commit(gone);
        }
    }

    /// Takes in the objects of rows.
    pub fn take(&mut self, rows: &[Row]) {
        let (mut entries, mut overrides) = (Vec::new(), Vec::new());
        let mut left_out = |flaw| self.add_problem(&format!("an object of the store is left out: {flaw}"));
        for row in rows {
            match Overrides::of_row(row) {
                Some(Ok(read)) => overrides.push(read),
                Some(Err(flaw)) => left_out(flaw),
                None => match Entry::of_row(row) {
                    Ok(entry) => entries.push(Arc::new(entry)),
                    Err(flaw) => left_out(flaw),
                },
            }
        }
        let overrides: Overrides = overrides.into_iter().collect();
        let file = Arc::clone(&self.file.objects);
        let catalog = Arc::new(Catalog::with(file, entries, Arc::new(overrides)));
        self.durable = Arc::clone(&catalog);
        self.catalog.send_replace(catalog);
    }

    /// Has everything written that differs from a former catalog, and somebody answered then.
    fn write_since(&mut self, former: &Catalog, reply: Option<(ChangeReply, Arc<Entry>)>) {
        let catalog = self.catalog();
        let rows = rows(former, &catalog);
        if reply.is_none() && (rows.is_empty() || self.committer.is_none()) {
            return;
        }
        self.number += 1;
        self.waiting.push_back(Waiting {
            number: self.number,
            catalog,
            reply,
        });
        self.commit(rows);
    }

    /// Has rows written, as what the newest number stands for.
    fn commit(&mut self, rows: Vec<RowChange>) {
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
                let mut config = of_file.clone();
                catalog.overrides().apply(&mut config);
                return config;
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
        let catalog = self.catalog().with_file(Arc::clone(&file.objects));
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
        let former = self.catalog.send_replace(Arc::new(new.catalog));
        // Overrides of what is not there any more have gone.
        self.write_since(&former, None);
    }

    /// Rows of everything that is in force, for a daemon that takes over.
    pub fn rows(&self) -> Vec<Row> {
        let row = |entry: &Arc<Entry>| Row {
            key: entry.key(),
            value: entry.value(),
        };
        let catalog = self.catalog.borrow();
        let objects = catalog.of_api().iter().map(row);
        objects.chain(catalog.overrides().rows()).collect()
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

    /// A change is in force: has it written.
    fn save(&mut self, catalog: Catalog, entry: Arc<Entry>, reply: ChangeReply) {
        let former = self.catalog.send_replace(Arc::new(catalog));
        self.left_out.remove(&entry.id);
        self.write_since(&former, Some((reply, entry)));
    }

    /// Goes back to the objects that are on the disk. Those that do not fit to the file are left out again.
    fn undo(&mut self) -> Result<Config, ConfigErrors> {
        let defaults = HostDefaults::of_this_machine();
        let file = config::compile(&self.file.source, None, &self.file.imports, &defaults)?;
        let catalog = self.durable.with_file(Arc::clone(&self.file.objects));
        self.catalog.send_replace(Arc::new(catalog));
        Ok(self.configuration(&file.config))
    }

    /// Answers those who waited for this.
    fn settle(&mut self, committed: &Committed) -> Settled {
        if committed.epoch != self.epoch {
            return Settled::Saved;
        }
        match &committed.result {
            Ok(()) => {
                while let Some(waiting) = self
                    .waiting
                    .pop_front_if(|first| first.number <= committed.number)
                {
                    self.durable = waiting.catalog;
                    if let Some((reply, entry)) = waiting.reply {
                        // A client that has gone does not want it any more.
                        let _ = reply.send(Ok(entry));
                    }
                }
                match self.unsaved.take() {
                    Some(_) => Settled::SavedAgain,
                    None => Settled::Saved,
                }
            }
            Err(why) => {
                for (reply, _) in self.waiting.drain(..).filter_map(|waiting| waiting.reply) {
                    let message = format!("the change could not be saved, and was undone: {why}");
                    let _ = reply.send(Err(Failure::internal(message)));
                }
                self.epoch += 1;
                let problem = format!("a change could not be saved: {why}");
                self.unsaved = Some(problem.clone());
                Settled::Undone(problem)
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
            Ok((catalog, entry)) => self.objects.save(catalog, entry, reply),
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
        match self.objects.settle(committed) {
            Settled::Saved => return,
            Settled::SavedAgain => return self.record_store("changes of objects are saved again".to_owned()),
            Settled::Undone(problem) => {
                error!("{problem}: going back to the objects that are on the disk");
                self.record_store(problem);
            }
        }
        self.journal.cause = Some("changes could not be saved, and are undone".to_owned());
        let config = self.objects.undo().map_err(|errors| errors.to_string());
        if let Err(why) = config.and_then(|config| self.configure(config)) {
            error!("the objects that are on the disk cannot be put into force: {why}");
        }
    }
}

/// Notes in a status what was set by hand.
pub(super) fn mark_overridden(status: &mut Status, catalog: &Catalog) {
    for (subject, value) in catalog.overrides().iter() {
        let place = match subject {
            Subject::Object(Kind::Pool, name) => {
                let mut pools = status.pools.iter_mut();
                pools
                    .find(|pool| pool.name == *name)
                    .map(|pool| &mut pool.overridden)
            }
            Subject::Object(Kind::LoadBalancer, name) => {
                let mut balancers = status.load_balancers.iter_mut();
                let found = balancers.find(|balancer| balancer.name == *name);
                found.map(|balancer| &mut balancer.overridden)
            }
            Subject::Object(Kind::Application, name) => {
                let mut applications = status.applications.iter_mut();
                let found = applications.find(|application| application.name == *name);
                found.map(|application| &mut application.overridden)
            }
            Subject::Object(Kind::Monitor | Kind::MonitorGroup, _) => None,
            Subject::Origin { pool, origin } => {
                let pools = status.pools.iter_mut().filter(|found| found.name == *pool);
                // Each address of a name is one.
                for found in pools.flat_map(|pool| &mut pool.origins) {
                    if found.name == *origin {
                        found.overridden = Some(by_hand(value));
                    }
                }
                None
            }
        };
        if let Some(place) = place {
            *place = Some(by_hand(value));
        }
    }
}

/// Microseconds since 1970.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
