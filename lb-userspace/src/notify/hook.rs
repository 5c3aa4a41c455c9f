//! One webhook: the task that sends, and what is known of it.

use super::send::send;
use super::{NotifyNews, Told};
use crate::probe::Probes;
use crate::store::StoredNotice;
use crate::wire::{WebhookStatus, micros, rfc3339};
use lb_core::model::Webhook;
use lb_core::notify::{Outbox, Outcome, Step};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A webhook. Its task ends when this is dropped.
pub(super) struct Hook {
    pub webhook: Webhook,
    notices: mpsc::UnboundedSender<Arc<StoredNotice>>,
    task: JoinHandle<()>,
    waiting: BTreeMap<u64, Arc<StoredNotice>>,
    counts: Counts,
}

#[derive(Clone, Default)]
struct Counts {
    delivered: u64,
    failed: u64,
    dropped: u64,
    last_delivered: Option<SystemTime>,
    failing: Option<(SystemTime, String)>,
}

impl Hook {
    pub fn start(webhook: Webhook, probes: Arc<Probes>, tell: mpsc::UnboundedSender<NotifyNews>) -> Self {
        let (notices, receiver) = mpsc::unbounded_channel();
        let task = Task {
            outbox: Outbox::new(&webhook),
            webhook: webhook.clone(),
            probes,
            bodies: BTreeMap::new(),
            tell,
        };
        Self {
            webhook,
            notices,
            task: tokio::spawn(task.run(receiver)),
            waiting: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Goes on with what waits for a webhook that was configured otherwise.
    pub fn inherit(&mut self, former: Self) {
        self.counts = former.counts.clone();
        for notice in former.waiting.values() {
            self.push(Arc::clone(notice));
        }
    }

    pub fn push(&mut self, notice: Arc<StoredNotice>) {
        self.waiting.insert(notice.id, Arc::clone(&notice));
        // The task ends only when this hook does.
        let _ = self.notices.send(notice);
    }

    /// What waits.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.waiting.keys().copied()
    }

    pub fn settle(&mut self, what: &Told) -> bool {
        match what {
            Told::Delivered { id, .. } => {
                self.counts.delivered += 1;
                self.counts.last_delivered = Some(SystemTime::now());
                self.counts.failing = None;
                self.waiting.remove(id).is_some()
            }
            Told::Failed { why, .. } => {
                self.counts.failed += 1;
                let since = self
                    .counts
                    .failing
                    .take()
                    .map_or_else(SystemTime::now, |(since, _)| since);
                self.counts.failing = Some((since, why.clone()));
                true
            }
            Told::GivenUp { id } | Told::Dropped { id } => {
                self.counts.dropped += 1;
                self.waiting.remove(id).is_some()
            }
        }
    }

    pub fn status(&self) -> WebhookStatus {
        let counts = &self.counts;
        WebhookStatus {
            name: self.webhook.name.clone(),
            endpoint: self.webhook.url.endpoint(),
            pending: self.waiting.len(),
            delivered_total: counts.delivered,
            failed_attempts_total: counts.failed,
            dropped_total: counts.dropped,
            last_delivered: counts.last_delivered.map(rfc3339),
            failing_since: counts.failing.as_ref().map(|(since, _)| rfc3339(*since)),
            last_error: counts.failing.as_ref().map(|(_, why)| why.clone()),
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task has.
struct Task {
    webhook: Webhook,
    outbox: Outbox,
    probes: Arc<Probes>,
    bodies: BTreeMap<u64, Arc<StoredNotice>>,
    tell: mpsc::UnboundedSender<NotifyNews>,
}

impl Task {
    async fn run(mut self, mut notices: mpsc::UnboundedReceiver<Arc<StoredNotice>>) {
        loop {
            let now = micros(SystemTime::now());
            match self.outbox.step(now) {
                Step::Idle => match notices.recv().await {
                    Some(notice) => self.take(notice),
                    None => return,
                },
                Step::Wait(until) => tokio::select! {
                    Some(notice) = notices.recv() => self.take(notice),
                    () = tokio::time::sleep(Duration::from_micros(until - now)) => {}
                },
                Step::GiveUp(id) => {
                    self.bodies.remove(&id);
                    self.tell(Told::GivenUp { id });
                }
                Step::Send { id, attempt } => {
                    let Some(notice) = self.bodies.get(&id).cloned() else {
                        // It is told as delivered, since nothing is left to deliver.
                        self.answered(Ok(()));
                        continue;
                    };
                    let (webhook, probes) = (self.webhook.clone(), Arc::clone(&self.probes));
                    let sending = async move { send(&webhook, &probes, &notice, attempt).await };
                    tokio::pin!(sending);
                    let result = loop {
                        tokio::select! {
                            result = &mut sending => break result,
                            Some(notice) = notices.recv() => self.take(notice),
                        }
                    };
                    self.answered(result);
                }
            }
        }
    }

    fn take(&mut self, notice: Arc<StoredNotice>) {
        let (id, created) = (notice.id, notice.created);
        self.bodies.insert(id, notice);
        if let Some(id) = self.outbox.push(id, created) {
            self.bodies.remove(&id);
            self.tell(Told::Dropped { id });
        }
    }

    fn answered(&mut self, result: Result<(), String>) {
        let now = micros(SystemTime::now());
        let random = self.probes.random_number();
        match (self.outbox.answered(now, random, result.is_ok()), result) {
            (Some(Outcome::Delivered { id, recovered }), _) => {
                self.bodies.remove(&id);
                self.tell(Told::Delivered { id, recovered });
            }
            (Some(Outcome::Failed { first }), Err(why)) => self.tell(Told::Failed { why, first }),
            (Some(Outcome::Failed { .. }) | None, _) => {}
        }
    }

    fn tell(&self, what: Told) {
        // The daemon is stopping when nobody listens.
        let _ = self.tell.send(NotifyNews {
            webhook: self.webhook.name.clone(),
            what,
        });
    }
}
