//! Writes the history on a thread of its own, some changes at a time: nothing waits for the disk.

use super::database::History;
use super::row::StoredNotice;
use crate::wire::{Event, micros};
use lb_core::history::{Known, Subject};
use lb_core::model;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// Changes are collected for so long, and then written together.
const LINGER: Duration = Duration::from_millis(200);
/// Without changes the time is noted this often: it tells the next start until when this daemon ran.
const ALIVE: Duration = Duration::from_secs(60);
/// Changes that may wait for the disk: later ones are lost.
const MAX_WAITING: usize = 200_000;
/// Changes of one transaction.
const MAX_GROUP: usize = 20_000;

/// A change of the history.
#[derive(Clone, Debug)]
pub enum HistoryChange {
    Event(Arc<Event>),
    /// What is known of a subject, and since when (microseconds since 1970); `None`: it is gone.
    State(Subject, Option<(Known, u64)>),
    /// A webhook is to be told: [`HistoryNews::Notices`] says when it is written.
    Notice(Arc<StoredNotice>),
    /// A notice has arrived, or is not to be sent any more: webhook and number.
    NoticeGone(String, u64),
}

/// What the writer tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HistoryNews {
    /// So many changes are not written, and why.
    Lost(usize, String),
    /// It can be written again.
    Recovered,
    /// These notices are on the disk, or cannot be written: they are to be sent now.
    Notices(Vec<Arc<StoredNotice>>),
}

enum Job {
    Changes(Vec<HistoryChange>),
    Limits(model::History),
    /// Write everything, and tell.
    Flush(oneshot::Sender<()>),
}

/// The thread.
pub struct HistoryWriter {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    waiting: Arc<AtomicUsize>,
    /// Whether numbers were given to events that are not written.
    has_lost: Arc<AtomicBool>,
}

impl HistoryWriter {
    /// Starts the thread. `tell` is called there.
    #[must_use]
    pub fn start(
        history: History,
        limits: model::History,
        tell: impl Fn(HistoryNews) + Send + 'static,
    ) -> Self {
        let (jobs, receiver) = mpsc::channel();
        let (waiting, has_lost) = (Arc::default(), Arc::default());
        let writer = Writer {
            history,
            limits,
            tell,
            waiting: Arc::clone(&waiting),
            has_lost: Arc::clone(&has_lost),
            failed: false,
        };
        Self {
            jobs: Some(jobs),
            thread: Some(std::thread::spawn(move || writer.run(&receiver))),
            waiting,
            has_lost,
        }
    }

    /// Has changes written, all or none.
    ///
    /// # Errors
    /// There is no room for them: they come back.
    pub fn write(&self, changes: Vec<HistoryChange>) -> Result<(), Vec<HistoryChange>> {
        let count = changes.len();
        if self.waiting.load(Ordering::Relaxed) + count > MAX_WAITING {
            self.has_lost.store(true, Ordering::Relaxed);
            return Err(changes);
        }
        self.waiting.fetch_add(count, Ordering::Relaxed);
        self.send(Job::Changes(changes));
        Ok(())
    }

    /// Other limits.
    pub fn limit(&self, limits: model::History) {
        self.send(Job::Limits(limits));
    }

    /// Has everything written that was given before; the receiver hears when.
    #[must_use]
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        self.send(Job::Flush(done));
        written
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when this sender does.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for HistoryWriter {
    /// Waits until everything is written.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there.
            let _ = thread.join();
        }
    }
}

struct Writer<T> {
    history: History,
    limits: model::History,
    tell: T,
    waiting: Arc<AtomicUsize>,
    has_lost: Arc<AtomicBool>,
    failed: bool,
}

impl<T: Fn(HistoryNews)> Writer<T> {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let first = match jobs.recv_timeout(ALIVE) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (mut changes, mut done) = (Vec::new(), Vec::new());
            if let Some(job) = first {
                let deadline = Instant::now() + LINGER;
                self.take(job, &mut changes, &mut done);
                while done.is_empty() && changes.len() < MAX_GROUP {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match jobs.recv_timeout(left) {
                        Ok(job) => self.take(job, &mut changes, &mut done),
                        Err(_) => break,
                    }
                }
            }
            self.write(&changes, false);
            for done in done {
                // Who has asked may have gone.
                let _ = done.send(());
            }
        }
        let has_lost = self.has_lost.load(Ordering::Relaxed);
        self.write(&[], !has_lost);
    }

    fn take(&mut self, job: Job, changes: &mut Vec<HistoryChange>, done: &mut Vec<oneshot::Sender<()>>) {
        match job {
            Job::Changes(more) => {
                self.waiting.fetch_sub(more.len(), Ordering::Relaxed);
                changes.extend(more);
            }
            Job::Limits(limits) => self.limits = limits,
            Job::Flush(sender) => done.push(sender),
        }
    }

    fn write(&mut self, changes: &[HistoryChange], last: bool) {
        let write = |writer: &Self| {
            let now = micros(SystemTime::now());
            writer.history.write(changes, now, writer.limits, last)
        };
        let mut result = write(self);
        if result.is_err() {
            // After a failure of the disk the library takes nothing more until the file is opened again.
            result = self.history.reopen().and_then(|()| write(self));
        }
        match result {
            Ok(()) if std::mem::take(&mut self.failed) => (self.tell)(HistoryNews::Recovered),
            Ok(()) => {}
            Err(error) => {
                self.failed = true;
                self.has_lost.store(true, Ordering::Relaxed);
                (self.tell)(HistoryNews::Lost(changes.len(), format!("{error:#}")));
            }
        }
        let notices = changes.iter().filter_map(|change| match change {
            HistoryChange::Notice(notice) => Some(Arc::clone(notice)),
            _ => None,
        });
        let notices: Vec<_> = notices.collect();
        if !notices.is_empty() {
            (self.tell)(HistoryNews::Notices(notices));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::EventFilter;
    use lb_core::history::Health;

    fn event(sequence: u64, second: u64) -> HistoryChange {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        HistoryChange::Event(Arc::new(Event::new(
            sequence,
            time,
            "store",
            format!("event {sequence}"),
        )))
    }

    fn limits(max_events: u32) -> model::History {
        model::History {
            max_events,
            retention: Duration::from_secs(3600 * 24 * 365 * 200),
        }
    }

    fn numbers(history: &History, range: (u64, u64), limit: usize, newest: bool) -> Vec<u64> {
        let found = history
            .events(range, &EventFilter::default(), limit, newest)
            .unwrap();
        found.iter().map(|event| event.sequence).collect()
    }

    #[test]
    fn numbers_go_on_after_an_end_and_jump_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let (history, restored, problem) = History::open(folder.path()).unwrap();
        assert_eq!((restored.next_event, restored.alive, problem), (1, None, None));
        let subject = Subject::Pool("eu".into());
        let known = Known {
            health: Health::Critical,
            problem: Some(2),
        };
        let (told, news) = mpsc::channel();
        let writer = HistoryWriter::start(history, limits(100), move |news| told.send(news).unwrap());
        let notice = StoredNotice {
            webhook: "ops".into(),
            id: 2,
            created: 5,
            body: "{}".into(),
        };
        let delivered = StoredNotice {
            id: 1,
            ..notice.clone()
        };
        let notices = [notice.clone(), delivered].map(Arc::new);
        let mut changes = notices.clone().map(HistoryChange::Notice).to_vec();
        changes.push(HistoryChange::NoticeGone("ops".into(), 1));
        assert!(writer.write(changes).is_ok());
        let state = HistoryChange::State(subject.clone(), Some((known, 6)));
        assert!(writer.write(vec![event(1, 5), event(2, 6), state]).is_ok());
        // In order, and before it ends.
        drop(writer);
        assert_eq!(
            news.iter().collect::<Vec<_>>(),
            [HistoryNews::Notices(notices.to_vec())]
        );
        let (history, restored, _) = History::open(folder.path()).unwrap();
        assert_eq!(restored.next_event, 3);
        assert!(restored.alive.is_some());
        assert_eq!(restored.notices, [notice]);
        assert_eq!(
            restored.states,
            [super::super::State {
                subject: subject.clone(),
                known,
                since: 6
            }]
        );
        assert_eq!(numbers(&history, (0, 10), 10, false), [1, 2]);
        history
            .write(
                &[event(3, 7), HistoryChange::State(subject, None)],
                9,
                limits(100),
                false,
            )
            .unwrap();
        // Events that were given out and not written, and a crash.
        drop(history);
        let (history, restored, _) = History::open(folder.path()).unwrap();
        assert!(restored.next_event > 90_000, "{}", restored.next_event);
        assert_eq!((restored.alive, restored.states), (Some(9), Vec::new()));
        assert_eq!(numbers(&history, (0, u64::MAX), 10, false), [1, 2, 3]);
    }

    #[test]
    fn events_are_bounded_by_number_and_age_and_found_from_both_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (history, ..) = History::open(folder.path()).unwrap();
        let changes: Vec<_> = (1..=30).map(|number| event(number, number)).collect();
        history.write(&changes, 31_000_000, limits(20), false).unwrap();
        assert_eq!(
            numbers(&history, (0, 100), 100, false),
            (11..=30).collect::<Vec<_>>()
        );
        assert_eq!(numbers(&history, (12, 29), 3, false), [13, 14, 15]);
        assert_eq!(numbers(&history, (12, 29), 3, true), [26, 27, 28]);
        assert_eq!(numbers(&history, (30, 31), 3, true), [0; 0]);
        assert_eq!(numbers(&history, (u64::MAX, u64::MAX), 3, false), [0; 0]);
        let young = model::History {
            max_events: 20,
            retention: Duration::from_secs(5),
        };
        history.write(&[], 31_000_000, young, false).unwrap();
        assert_eq!(numbers(&history, (0, 100), 100, false), [26, 27, 28, 29, 30]);
    }

    #[test]
    fn a_damaged_history_is_kept_aside_and_one_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (history, ..) = History::open(folder.path()).unwrap();
        assert!(
            History::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("history.redb")
        );
        drop(history);
        std::fs::write(folder.path().join("history.redb"), "not a database".repeat(1000)).unwrap();
        let (_, restored, problem) = History::open(folder.path()).unwrap();
        assert_eq!(restored.next_event, 1);
        assert!(problem.unwrap().contains("damaged-1"));
        assert!(folder.path().join("history.redb.damaged-1").exists());
    }
}
