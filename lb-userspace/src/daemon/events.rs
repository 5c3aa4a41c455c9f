//! What has happened: told to the operator, remembered for the API, and kept in the history on the disk.

use super::node::Node;
use super::notices::notices;
use crate::api::{EventFeed, Reply};
use crate::store::{History, HistoryChange, HistoryNews, HistoryWriter, StoredNotice};
use crate::wire::{
    ErrorCode, ErrorDetail, Event, EventFilter, EventQuery, Events, HISTORY_KINDS, HealthHistory,
    HealthHistoryQuery, from_micros, micros, rfc3339,
};
use lb_core::engine::Report;
use lb_core::history::{Standings, Subject};
use lb_core::model;
use lb_core::view::{View, origin_label};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{broadcast, mpsc};
use tracing::{error, info, warn};

/// Events that are remembered in memory; the history on the disk has more.
const MAX_EVENTS: usize = 10_000;
/// How far a reader of live events may fall behind.
const LAG: usize = 4_096;

/// The events.
pub struct Journal {
    next: u64,
    recent: VecDeque<Arc<Event>>,
    /// `None` once no more are told.
    live: Option<broadcast::Sender<Arc<Event>>>,
    standings: Standings,
    history: Option<(History, HistoryWriter)>,
    news: mpsc::UnboundedReceiver<HistoryNews>,
    tell: mpsc::UnboundedSender<HistoryNews>,
    /// What the operator must know of the history.
    pub(super) problem: Option<String>,
    /// Why the next configuration comes.
    pub(super) cause: Option<String>,
    /// What a daemon before this one had still to tell webhooks.
    pub(super) undelivered: Vec<StoredNotice>,
}

impl Journal {
    /// One that remembers in memory only, until a history is opened.
    pub fn new() -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        Self {
            next: 1,
            recent: VecDeque::new(),
            live: Some(broadcast::channel(LAG).0),
            standings: Standings::default(),
            history: None,
            news,
            tell,
            problem: None,
            cause: None,
            undelivered: Vec::new(),
        }
    }

    /// Goes on with the history of `state_dir`.
    pub fn open(&mut self, state_dir: &Path, limits: model::History) {
        let (history, restored, problem) = match History::open(state_dir) {
            Ok(opened) => opened,
            Err(error) => {
                let problem = format!("events are not kept for the next start: {error:#}");
                error!("{problem}");
                self.problem = Some(problem);
                return;
            }
        };
        self.next = restored.next_event;
        self.undelivered = restored.notices;
        for state in restored.states {
            self.standings.restore(state.subject, state.known);
        }
        let tell = self.tell.clone();
        let writer = HistoryWriter::start(history.clone(), limits, move |news| {
            // The daemon is stopping when nobody listens.
            let _ = tell.send(news);
        });
        self.history = Some((history, writer));
        let now = SystemTime::now();
        let mut started = Event::new(
            0,
            now,
            "started",
            format!("lb {} has started", env!("CARGO_PKG_VERSION")),
        );
        if let Some(alive) = restored.alive {
            started.down_since = Some(rfc3339(from_micros(alive)));
        }
        self.record(started);
        if let Some(problem) = problem {
            error!("{problem}");
            self.record(Event::new(0, now, "store", problem.clone()));
            self.problem = Some(problem);
        }
    }

    /// Other limits of the history.
    pub(super) fn limit(&self, limits: model::History) {
        if let Some((_, writer)) = &self.history {
            writer.limit(limits);
        }
    }

    /// Ends: those who listen are let go, and everything is written when it returns.
    pub(super) async fn close(&mut self) {
        self.record(Event::new(0, SystemTime::now(), "stopped", "lb stops".to_owned()));
        self.live = None;
        if let Some(history) = self.history.take() {
            // A panic there has been reported there.
            let _ = tokio::task::spawn_blocking(move || drop(history)).await;
        }
    }

    /// The next news of the disk.
    pub(super) async fn news(&mut self) -> HistoryNews {
        match self.news.recv().await {
            Some(news) => news,
            // It has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Takes in news of the disk.
    pub(super) fn settle(&mut self, news: HistoryNews) {
        match news {
            HistoryNews::Lost(count, why) => {
                let problem = format!("{count} changes of the history are not written: {why}");
                if self.problem.is_none() {
                    error!("{problem}");
                }
                self.problem = Some(problem);
            }
            HistoryNews::Recovered => {
                let problem = self.problem.take().unwrap_or_default();
                let message = format!("the history is written again; before, {problem}");
                warn!("{message}");
                self.record(Event::new(0, SystemTime::now(), "store", message));
            }
            // The node has them sent.
            HistoryNews::Notices(_) => {}
        }
    }

    /// Gives an event its number and remembers it.
    pub(super) fn record(&mut self, mut event: Event) {
        event.sequence = self.next;
        self.next += 1;
        let event = self.remember(event);
        self.write(vec![HistoryChange::Event(event)]);
    }

    fn remember(&mut self, event: Event) -> Arc<Event> {
        let event = Arc::new(event);
        if self.recent.len() == MAX_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(&event));
        if let Some(live) = &self.live {
            // Nobody may be listening.
            let _ = live.send(Arc::clone(&event));
        }
        event
    }

    pub(super) fn write(&mut self, changes: Vec<HistoryChange>) {
        let Some((_, writer)) = &self.history else { return };
        let Err(changes) = writer.write(changes) else {
            return;
        };
        let notices = changes.into_iter().filter_map(|change| match change {
            HistoryChange::Notice(notice) => Some(notice),
            _ => None,
        });
        // They are sent all the same.
        let _ = self.tell.send(HistoryNews::Notices(notices.collect()));
        if self.problem.is_none() {
            let problem = "the disk is too slow for the history: some of it is lost".to_owned();
            error!("{problem}");
            self.problem = Some(problem);
        }
    }

    /// Records what a new snapshot changes about anybody's health, and has webhooks told.
    pub(super) fn follow(&mut self, view: &View, config: &model::Config) {
        let (changes, states) = self.standings.follow(view, &mut self.next);
        if states.is_empty() {
            return;
        }
        let now = SystemTime::now();
        let mut written = Vec::with_capacity(changes.len() + states.len());
        for change in &changes {
            let event = Event::of_change(now, change);
            if matches!(change.subject, Subject::LoadBalancer(_)) {
                info!("{}", event.message);
            }
            written.push(HistoryChange::Event(self.remember(event)));
        }
        let since = micros(now);
        let states = states
            .into_iter()
            .map(|state| HistoryChange::State(state.subject, state.known.map(|known| (known, since))));
        written.extend(states);
        let notices = notices(config, now, &changes);
        match &self.history {
            Some(_) => written.extend(notices.into_iter().map(HistoryChange::Notice)),
            None if notices.is_empty() => {}
            // The disk does not keep them: they are sent all the same.
            None => drop(self.tell.send(HistoryNews::Notices(notices))),
        }
        self.write(written);
    }

    /// Answers with events, and those that are still to come.
    pub(super) fn list(&self, query: EventQuery, reply: Reply<EventFeed>) {
        let Some(live) = &self.live else { return };
        let live = live.subscribe();
        let newest = self.next - 1;
        let wanted = self.recent.iter().filter(|event| query.filter.matches(event));
        let mut recent: Vec<Event> = match query.since {
            Some(since) => {
                let later = wanted.filter(|event| event.sequence > since);
                later.take(query.limit).map(|event| Event::clone(event)).collect()
            }
            None => {
                let mut newest: Vec<Event> = wanted
                    .rev()
                    .take(query.limit)
                    .map(|event| Event::clone(event))
                    .collect();
                newest.reverse();
                newest
            }
        };
        let first = self.recent.front().map_or(self.next, |event| event.sequence);
        let after = query.since.unwrap_or(0);
        let history = self.history.as_ref().map(|(history, _)| history.clone());
        let room = match query.since {
            // What is older comes first.
            Some(_) => query.limit,
            None => query.limit - recent.len(),
        };
        let finish = move |older: Vec<Event>| {
            let mut events = older;
            events.append(&mut recent);
            let complete = query.since.is_none() || events.len() < query.limit;
            events.truncate(query.limit);
            let last = events.last().map_or(newest, |event| event.sequence);
            EventFeed {
                events: Events {
                    events,
                    next: if complete { newest } else { last },
                },
                live,
            }
        };
        match history.filter(|_| after + 1 < first && room > 0) {
            // A client that has gone does not want it any more.
            None => drop(reply.send(Ok(finish(Vec::new())))),
            Some(history) => drop(tokio::task::spawn_blocking(move || {
                let found = history.events((after, first), &query.filter, room, query.since.is_none());
                let answer = found.map(finish).map_err(|error| unreadable(&error));
                let _ = reply.send(answer);
            })),
        }
    }

    /// Answers for how long everybody was in which state.
    pub(super) fn health(&self, query: HealthHistoryQuery, reply: Reply<HealthHistory>) {
        let Some((history, writer)) = &self.history else {
            let problem = self.problem.clone().unwrap_or_default();
            let refusal = ErrorDetail::new(ErrorCode::Unavailable, format!("there is no history: {problem}"));
            return drop(reply.send(Err(refusal)));
        };
        let (history, written) = (history.clone(), writer.flush());
        tokio::spawn(async move {
            // If it cannot be written, what is there must do.
            let _ = written.await;
            let read = move || {
                let filter = EventFilter {
                    kinds: HISTORY_KINDS.map(str::to_owned).to_vec(),
                    from: Some(rfc3339(from_micros(query.since))),
                    until: Some(rfc3339(from_micros(query.until))),
                    ..EventFilter::default()
                };
                let events = history.events((0, u64::MAX), &filter, usize::MAX, false)?;
                let states = history.states()?.into_iter();
                let states: Vec<_> = states
                    .map(|state| (state.subject, state.known.health, state.since))
                    .collect();
                Ok(HealthHistory::new(&query, &events, &states))
            };
            let answer = tokio::task::spawn_blocking(read).await;
            let answer = answer.map_err(anyhow::Error::from).flatten();
            let _ = reply.send(answer.map_err(|error| unreadable(&error)));
        });
    }
}

fn unreadable(error: &anyhow::Error) -> ErrorDetail {
    ErrorDetail::new(
        ErrorCode::Internal,
        format!("the history cannot be read: {error:#}"),
    )
}

impl Node {
    pub(super) fn report(&mut self, report: Report) {
        let event = Event::of_report(0, SystemTime::now(), &report);
        match &report {
            Report::Refused(why) => {
                error!("{why}");
                self.refusal = Some(why.clone());
                self.journal.cause = None;
            }
            Report::OriginHealth {
                pool,
                origin,
                address,
                healthy,
                reason,
            } => {
                let origin = origin_label(origin, *address);
                match (healthy, reason) {
                    (true, _) => info!("origin `{origin}` of pool `{pool}` is healthy"),
                    (false, None) => warn!("origin `{origin}` of pool `{pool}` is unhealthy"),
                    (false, Some(reason)) => {
                        let reason = crate::wire::failure_reason(reason);
                        warn!("origin `{origin}` of pool `{pool}` is unhealthy: {reason}");
                    }
                }
            }
            Report::PoolHealth {
                pool,
                usable,
                healthy_origins,
                minimum_origins,
            } => {
                let counts = format!("{healthy_origins} healthy origins, {minimum_origins} are needed");
                match usable {
                    true => info!("pool `{pool}` is usable: {counts}"),
                    false => warn!("pool `{pool}` is critical: {counts}"),
                }
            }
            Report::Fallback { active: true, .. } | Report::Lookup { failure: Some(_), .. } => {
                tell(&event, |message| warn!("{message}"));
            }
            Report::Addresses { .. } => {
                // An address that comes back and goes again may have had flows meanwhile.
                self.drains.seen.clear();
                tell(&event, |message| info!("{message}"));
            }
            Report::MonitorHealth { .. }
            | Report::Fallback { .. }
            | Report::Lookup { .. }
            | Report::Configured { .. } => tell(&event, |message| info!("{message}")),
        }
        let Some(event) = event else { return };
        let cause = match &report {
            Report::Configured { .. } => self.journal.cause.take(),
            _ => None,
        };
        self.journal.record(match cause {
            Some(cause) => event.because(Some(cause)),
            None => event,
        });
    }

    /// Remembers what happened to an interface.
    pub(super) fn record_interface(&mut self, name: &str, message: String) {
        let event = Event::new(0, SystemTime::now(), "interface", message);
        self.journal.record(event.about(name));
    }

    /// Remembers what the operator must know of the store.
    pub(super) fn record_store(&mut self, message: String) {
        self.journal
            .record(Event::new(0, SystemTime::now(), "store", message));
    }
}

fn tell(event: &Option<Event>, say: impl FnOnce(&str)) {
    if let Some(event) = event {
        say(&event.message);
    }
}
