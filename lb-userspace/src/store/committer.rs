//! Commits on a thread of their own: a disk may take its time, and nothing else should wait for it. What has queued up
//! meanwhile is written together.

use super::backup;
use super::{Database, Further, Opened, Row, RowChange, Table};
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::warn;

/// At most so many changes are written together, so that the first need not wait for too many others.
const MAX_GROUP: usize = 256;
/// The copy follows the database after this time at the earliest.
const COPY_INTERVAL: Duration = Duration::from_secs(2);

/// A change to be written.
struct Job {
    epoch: u64,
    number: u64,
    rows: Vec<RowChange>,
}

/// What has become of the changes of one epoch up to a number.
#[derive(Debug)]
pub struct Committed {
    pub epoch: u64,
    pub number: u64,
    /// Why they are not on the disk; those that follow in the epoch are not either, since they build on them.
    pub result: Result<(), String>,
}

/// The thread has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dead;

/// The thread.
pub struct Committer {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread with what the database holds. `tell` is called there.
    #[must_use]
    pub fn start(
        database: Database,
        rows: &[Row],
        further: &Further,
        state_dir: PathBuf,
        tell: impl Fn(Committed) + Send + 'static,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel();
        let rows = std::iter::once((Table::Objects, rows))
            .chain(further.iter().map(|(table, rows)| (*table, rows.as_slice())))
            .flat_map(|(table, rows)| rows.iter().map(move |row| (table, row)))
            .map(|(table, row)| ((table, row.key.clone()), row.value.clone()));
        let writer = Writer {
            database: Some(database),
            copy: Copy {
                rows: rows.collect(),
                state_dir,
                written: None,
                is_due: false,
            },
        };
        Self {
            jobs: Some(jobs),
            thread: Some(std::thread::spawn(move || writer.run(&waiting, tell))),
        }
    }

    /// Has a change written after those before it. Numbers grow within an epoch; a new epoch begins after a failure.
    ///
    /// # Errors
    /// When nothing can be written any more: the thread has died.
    pub fn commit(&self, epoch: u64, number: u64, rows: Vec<RowChange>) -> Result<(), Dead> {
        let jobs = self.jobs.as_ref().ok_or(Dead)?;
        jobs.send(Job { epoch, number, rows }).map_err(|_| Dead)
    }
}

impl Drop for Committer {
    /// Waits until everything is written.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there.
            let _ = thread.join();
        }
    }
}

struct Writer {
    /// `None` after a failure: then nobody knows what the file holds.
    database: Option<Database>,
    copy: Copy,
}

/// What the database holds, and the copy of the objects beside it.
struct Copy {
    rows: BTreeMap<(Table, String), Vec<u8>>,
    state_dir: PathBuf,
    written: Option<Instant>,
    is_due: bool,
}

impl Writer {
    fn run(mut self, waiting: &mpsc::Receiver<Job>, tell: impl Fn(Committed)) {
        let mut failed: Option<(u64, String)> = None;
        loop {
            let first = match self.copy.wait() {
                None => waiting.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(wait) => waiting.recv_timeout(wait),
            };
            let first = match first {
                Ok(job) => job,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.copy.write();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let mut jobs = vec![first];
            jobs.extend(waiting.try_iter().take(MAX_GROUP - 1));
            // The jobs of one epoch follow one another.
            for group in jobs.chunk_by(|a, b| a.epoch == b.epoch) {
                let Some(last) = group.last() else { continue };
                let known = failed.as_ref().filter(|(epoch, _)| *epoch == last.epoch);
                let result = match known {
                    Some((_, why)) => Err(why.clone()),
                    None => {
                        let rows = group.iter().map(|job| job.rows.as_slice());
                        // What the library did not expect is a failure like others: the file is opened anew after it.
                        let committed = catch_unwind(AssertUnwindSafe(|| self.commit(rows)));
                        let committed = committed.unwrap_or_else(|_| Err(anyhow!("writing it fails")));
                        committed.map_err(|error| format!("{error:#}"))
                    }
                };
                match &result {
                    Ok(()) => self.copy.follow(group),
                    Err(why) => failed = Some((last.epoch, why.clone())),
                }
                tell(Committed {
                    epoch: last.epoch,
                    number: last.number,
                    result,
                });
            }
        }
        self.copy.write();
    }

    fn commit<'c>(&mut self, changes: impl Iterator<Item = &'c [RowChange]>) -> Result<()> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => self.recover()?,
        };
        database.commit(changes)?;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file again after a failure. What has failed may be in it all the same: its clients were told that it is
    /// not, so it goes.
    fn recover(&self) -> Result<Database> {
        let Opened {
            database,
            rows,
            further,
            problem,
        } = super::open(&self.copy.state_dir);
        let mut database = database.ok_or_else(|| anyhow!(problem.unwrap_or_default()))?;
        let known = &self.copy.rows;
        let tables = further.into_iter().chain([(Table::Objects, rows)]);
        let there: BTreeMap<(Table, String), Vec<u8>> = tables
            .flat_map(|(table, rows)| rows.into_iter().map(move |row| ((table, row.key), row.value)))
            .collect();
        let change = |(table, key): &(Table, String), value: Option<&Vec<u8>>| RowChange {
            table: *table,
            key: key.clone(),
            value: value.cloned(),
        };
        let gone = there.keys().filter(|place| !known.contains_key(*place));
        let gone = gone.map(|place| change(place, None));
        let missing = known
            .iter()
            .filter(|(place, value)| there.get(*place) != Some(*value));
        let missing = missing.map(|(place, value)| change(place, Some(value)));
        let changes: Vec<RowChange> = gone.chain(missing).collect();
        if !changes.is_empty() {
            database.commit([changes.as_slice()])?;
        }
        Ok(database)
    }
}

impl Copy {
    /// How long the next change may be waited for; `None`: for ever.
    fn wait(&self) -> Option<Duration> {
        let since = self.written.map_or(COPY_INTERVAL, |written| written.elapsed());
        self.is_due.then(|| COPY_INTERVAL.saturating_sub(since))
    }

    fn follow(&mut self, group: &[Job]) {
        for change in group.iter().flat_map(|job| &job.rows) {
            self.is_due |= change.table == Table::Objects;
            let place = (change.table, change.key.clone());
            match &change.value {
                Some(value) => self.rows.insert(place, value.clone()),
                None => self.rows.remove(&place),
            };
        }
    }

    fn write(&mut self) {
        if !self.is_due {
            return;
        }
        let objects = self
            .rows
            .iter()
            .filter(|((table, _), _)| *table == Table::Objects);
        let objects = objects.map(|((_, key), value)| (key, value));
        if let Err(error) = backup::write(&self.state_dir, objects) {
            warn!(error = %format!("{error:#}"), "the copy of the API's objects could not be written");
        }
        (self.written, self.is_due) = (Some(Instant::now()), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: usize) -> Vec<RowChange> {
        vec![RowChange {
            table: Table::Objects,
            key: format!("{key}"),
            value: Some(b"{}".to_vec()),
        }]
    }

    #[test]
    fn what_has_failed_is_not_there_after_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = super::super::open(folder.path()).database.unwrap();
        // Told to have failed, and on the disk.
        database.commit([&put(2)[..], &put(3)[..]]).unwrap();
        drop(database);
        let row = |key: &str| ((Table::Objects, key.to_owned()), b"{}".to_vec());
        let mut writer = Writer {
            database: None,
            copy: Copy {
                rows: BTreeMap::from([row("1"), row("2")]),
                state_dir: folder.path().to_owned(),
                written: None,
                is_due: false,
            },
        };
        writer.commit([&put(4)[..]].into_iter()).unwrap();
        drop(writer);
        let rows = super::super::open(folder.path()).rows;
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, ["1", "2", "4"]);
    }

    #[test]
    fn everything_is_told_and_written_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let opened = super::super::open(folder.path());
        let (told, answers) = mpsc::channel();
        let tell = move |committed| told.send(committed).unwrap();
        let committer = Committer::start(
            opened.database.unwrap(),
            &opened.rows,
            &opened.further,
            folder.path().to_owned(),
            tell,
        );
        for number in 1..=500 {
            committer.commit(1, number as u64, put(number)).unwrap();
        }
        drop(committer);
        let answers: Vec<Committed> = answers.iter().collect();
        assert!(answers.len() < 500, "none were written together");
        assert!(answers.iter().all(|answer| answer.result.is_ok()));
        assert_eq!(answers.last().map(|answer| answer.number), Some(500));
        assert_eq!(super::super::open(folder.path()).rows.len(), 500);
        let copy = backup::read(folder.path()).unwrap().unwrap();
        assert_eq!(copy.rows.len(), 500);
    }

    #[test]
    fn who_cannot_write_any_more_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let opened = super::super::open(folder.path());
        let committer = Committer::start(
            opened.database.unwrap(),
            &[],
            &Further::new(),
            folder.path().to_owned(),
            |_| panic!("the thread dies"),
        );
        assert_eq!(committer.commit(1, 1, put(1)), Ok(()));
        let died = (2..10_000).any(|number| {
            std::thread::sleep(Duration::from_millis(1));
            committer.commit(1, number, put(2)) == Err(Dead)
        });
        assert!(died);
    }
}
