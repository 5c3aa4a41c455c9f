//! The tables, and reading them.

use super::row::{self, State, StoredNotice};
use super::writer::HistoryChange;
use crate::wire::{Event, EventFilter, from_micros, rfc3339};
use anyhow::{Context, Result, anyhow, bail};
use lb_core::model;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Layout of the tables. A file of an older one is migrated when it is opened, one of a newer one is left alone.
const VERSION: u64 = 1;

/// `version`; `next`: no event has that number, nor a greater one; `alive`: when the history was written last.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Notices that wait for their webhooks.
const NOTICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notices");
const STATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("states");

/// Numbers that are set aside while a daemon runs: after a crash the next one begins behind them, so that no number means
/// two events.
const BLOCK: u64 = 100_000;
/// Events that one transaction forgets at most.
const MAX_PRUNED: usize = 10_000;

/// The database. Clones are the same one.
#[derive(Clone, Debug)]
pub struct History {
    path: PathBuf,
    /// `None` after a failure, until it can be opened again.
    redb: Arc<RwLock<Option<redb::Database>>>,
}

/// What was found in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Number of the next event.
    pub next_event: u64,
    /// When it was written last, in microseconds since 1970.
    pub alive: Option<u64>,
    pub states: Vec<State>,
    /// In order.
    pub notices: Vec<StoredNotice>,
}

/// Why a file cannot be used.
enum Unusable {
    Damaged(anyhow::Error),
    /// It may be well, and must not be touched.
    Closed(anyhow::Error),
}

impl History {
    /// Opens the history of `state_dir`, or makes it. A damaged one is kept aside; what the operator must know comes with it.
    ///
    /// # Errors
    /// When there can be none: events are remembered in memory only then.
    pub fn open(state_dir: &Path) -> Result<(Self, Restored, Option<String>)> {
        let path = state_dir.join("history.redb");
        let (redb, restored, problem) = match open(&path) {
            Ok((redb, restored)) => (redb, restored, None),
            Err(Unusable::Closed(error)) => {
                return Err(error.context(format!("open {}", path.display())));
            }
            Err(Unusable::Damaged(damage)) => {
                let aside = (1..)
                    .map(|number| state_dir.join(format!("history.redb.damaged-{number}")))
                    .find(|aside| !aside.exists())
                    .ok_or_else(|| anyhow!("no name is free"))?;
                fs::rename(&path, &aside).with_context(|| format!("keep it as {}", aside.display()))?;
                let (redb, restored) = open(&path).map_err(|unusable| match unusable {
                    Unusable::Damaged(error) | Unusable::Closed(error) => error,
                })?;
                let problem = format!(
                    "the history {} was damaged ({damage:#}) and is kept as {}: it begins anew",
                    path.display(),
                    aside.display()
                );
                (redb, restored, Some(problem))
            }
        };
        let history = Self {
            path,
            redb: Arc::new(RwLock::new(Some(redb))),
        };
        Ok((history, restored, problem))
    }

    /// Opens the file again after a failure. Nobody may be reading.
    pub(super) fn reopen(&self) -> Result<()> {
        let mut redb = self.redb.write().unwrap_or_else(PoisonError::into_inner);
        *redb = None;
        let (opened, _) = open(&self.path).map_err(|unusable| match unusable {
            Unusable::Damaged(error) | Unusable::Closed(error) => error,
        })?;
        *redb = Some(opened);
        Ok(())
    }

    fn with<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T>) -> Result<T> {
        let redb = self.redb.read().unwrap_or_else(PoisonError::into_inner);
        work(redb.as_ref().ok_or_else(|| anyhow!("the history is not open"))?)
    }

    /// Makes all changes in one transaction, notes the time `now`, and forgets what is too much or too old.
    ///
    /// # Errors
    /// When they cannot be written: then none of them is there.
    pub(super) fn write(
        &self,
        changes: &[HistoryChange],
        now: u64,
        limits: model::History,
        last: bool,
    ) -> Result<()> {
        self.with(|redb| {
            let mut transaction = redb.begin_write()?;
            // A start after a crash must not read the whole file first.
            transaction.set_quick_repair(true);
            {
                let mut events = transaction.open_table(EVENTS)?;
                let mut states = transaction.open_table(STATES)?;
                let mut notices = transaction.open_table(NOTICES)?;
                for change in changes {
                    match change {
                        HistoryChange::Event(event) => {
                            events.insert(event.sequence, row::event_bytes(event)?.as_slice())?;
                        }
                        HistoryChange::State(subject, Some((known, since))) => {
                            let bytes = row::state_bytes(*known, *since)?;
                            states.insert(row::key(subject).as_str(), bytes.as_slice())?;
                        }
                        HistoryChange::State(subject, None) => {
                            states.remove(row::key(subject).as_str())?;
                        }
                        HistoryChange::Notice(notice) => {
                            let key = row::notice_key(&notice.webhook, notice.id);
                            notices.insert(key.as_str(), row::notice_bytes(notice)?.as_slice())?;
                        }
                        HistoryChange::NoticeGone(webhook, id) => {
                            notices.remove(row::notice_key(webhook, *id).as_str())?;
                        }
                    }
                }
                let mut meta = transaction.open_table(META)?;
                let next = events.last()?.map_or(1, |(number, _)| number.value() + 1);
                let reserved = meta.get("next")?.map_or(0, |next| next.value());
                if last {
                    meta.insert("next", next)?;
                } else if next + BLOCK / 2 > reserved {
                    meta.insert("next", next + BLOCK)?;
                }
                meta.insert("alive", now)?;
                prune(&mut events, now, limits)?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// The events with numbers in `after + 1 .. before` that are wanted: the first `limit` ones, or the `newest`, in order.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(
        &self,
        (after, before): (u64, u64),
        filter: &EventFilter,
        limit: usize,
        newest: bool,
    ) -> Result<Vec<Event>> {
        self.with(|redb| {
            let transaction = redb.begin_read()?;
            let table = transaction.open_table(EVENTS)?;
            let first = after.saturating_add(1);
            if first >= before {
                return Ok(Vec::new());
            }
            let mut range = table.range(first..before)?;
            let mut found = Vec::new();
            while found.len() < limit {
                let next = if newest { range.next_back() } else { range.next() };
                let Some(next) = next else { break };
                let event = row::event(next?.1.value())?;
                if filter.matches(&event) {
                    found.push(event);
                }
            }
            if newest {
                found.reverse();
            }
            Ok(found)
        })
    }

    /// What is known of everybody.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn states(&self) -> Result<Vec<State>> {
        self.with(read_states)
    }
}

/// Forgets the oldest events.
fn prune(events: &mut redb::Table<'_, u64, &'static [u8]>, now: u64, limits: model::History) -> Result<()> {
    let age = u64::try_from(limits.retention.as_micros()).unwrap_or(u64::MAX);
    let oldest = rfc3339(from_micros(now.saturating_sub(age)));
    for _ in 0..MAX_PRUNED {
        let too_many = events.len()? > u64::from(limits.max_events);
        let too_old = match events.first()? {
            Some((_, value)) => row::event(value.value()).is_ok_and(|event| event.time < oldest),
            None => false,
        };
        if !too_many && !too_old {
            break;
        }
        events.pop_first()?;
    }
    Ok(())
}

fn read_states(redb: &redb::Database) -> Result<Vec<State>> {
    let transaction = redb.begin_read()?;
    let table = transaction.open_table(STATES)?;
    let mut states = Vec::new();
    for found in table.iter()? {
        let (key, value) = found?;
        states.push(row::state(key.value(), value.value())?);
    }
    Ok(states)
}

fn read_notices(redb: &redb::Database) -> Result<Vec<StoredNotice>> {
    let transaction = redb.begin_read()?;
    let table = transaction.open_table(NOTICES)?;
    let mut notices = Vec::new();
    for found in table.iter()? {
        let (key, value) = found?;
        notices.push(row::notice(key.value(), value.value())?);
    }
    Ok(notices)
}

fn open(path: &Path) -> Result<(redb::Database, Restored), Unusable> {
    let opened = catch_unwind(AssertUnwindSafe(|| open_checked(path)));
    // What the library's code did not expect in a file is damage, too.
    opened.unwrap_or_else(|_| Err(Unusable::Damaged(anyhow!("reading it fails"))))
}

fn open_checked(path: &Path) -> Result<(redb::Database, Restored), Unusable> {
    use redb::{DatabaseError, StorageError};
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("make the state folder {}", folder.display()))
            .map_err(Unusable::Closed)?;
    }
    let redb = redb::Database::create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Unusable::Closed(anyhow!("another process has it open")),
        DatabaseError::UpgradeRequired(version) => Unusable::Closed(anyhow!(
            "it has the file format {version} of another version of lb"
        )),
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            Unusable::Closed(anyhow::Error::new(error))
        }
        other => Unusable::Damaged(other.into()),
    })?;
    match begin(&redb) {
        Ok(Ok(restored)) => Ok((redb, restored)),
        Ok(Err(newer)) => Err(Unusable::Closed(anyhow!(
            "it was written by a later version of lb (layout {newer}, this one knows {VERSION})"
        ))),
        Err(error) => Err(Unusable::Damaged(error)),
    }
}

/// Brings the tables to the present layout, sets numbers aside, and reads what is known. The inner error is the version of
/// a newer layout.
fn begin(redb: &redb::Database) -> Result<Result<Restored, u64>> {
    let mut transaction = redb.begin_write()?;
    transaction.set_quick_repair(true);
    let (next_event, alive) = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("version")?.map(|version| version.value());
        match found {
            Some(VERSION) => {}
            Some(newer @ VERSION..) => return Ok(Err(newer)),
            // Migrations from older layouts stand here, one after another.
            Some(0) => bail!("its layout is 0, which never was"),
            None => drop(meta.insert("version", VERSION)?),
        }
        let events = transaction.open_table(EVENTS)?;
        transaction.open_table(STATES)?;
        transaction.open_table(NOTICES)?;
        let last = events.last()?.map_or(0, |(number, _)| number.value());
        let reserved = meta.get("next")?.map_or(1, |next| next.value());
        let next = reserved.max(last + 1);
        meta.insert("next", next + BLOCK)?;
        (next, meta.get("alive")?.map(|alive| alive.value()))
    };
    transaction.commit()?;
    Ok(Ok(Restored {
        next_event,
        alive,
        states: read_states(redb)?,
        notices: read_notices(redb)?,
    }))
}
