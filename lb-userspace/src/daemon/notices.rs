//! What webhooks are told, and what has become of that.

use super::node::Node;
use crate::notify::{NotifyNews, Told};
use crate::store::{HistoryChange, HistoryNews, StoredNotice};
use crate::wire::{Event, NoticeBody, micros};
use lb_core::history::Change;
use lb_core::model::{Config, NotificationFilter};
use lb_core::notify::notice;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;
use tracing::{info, warn};

/// The notices of changes at `now`.
pub(super) fn notices(config: &Config, now: SystemTime, changes: &[Change]) -> Vec<Arc<StoredNotice>> {
    let mut notices = Vec::new();
    if config.webhooks.is_empty() || changes.is_empty() {
        return notices;
    }
    let pools = config
        .pools
        .iter()
        .map(|pool| (pool.name.as_str(), &pool.notification_filter));
    let filters: HashMap<&str, &NotificationFilter> = pools.collect();
    let open = NotificationFilter::default();
    for change in changes {
        let filter = change.subject.pool().and_then(|pool| filters.get(pool));
        for webhook in &config.webhooks {
            let Some(notice) = notice(webhook, filter.unwrap_or(&&open), change) else {
                continue;
            };
            let body = NoticeBody::new(&webhook.name, &config.node.name, now, change, notice);
            // Shapes of our own can be written as JSON.
            let body = serde_json::to_string(&body).unwrap_or_default();
            notices.push(Arc::new(StoredNotice {
                webhook: webhook.name.clone(),
                id: change.sequence,
                created: micros(now),
                body,
            }));
        }
    }
    notices
}

impl Node {
    /// Follows the configuration.
    pub(super) fn configure_webhooks(&mut self) {
        let forgotten = self.notifier.configure(&self.config.webhooks);
        self.forget_notices(forgotten);
    }

    /// Goes on with what a daemon before this one has not delivered.
    pub(super) fn resume_notices(&mut self) {
        self.configure_webhooks();
        let mut orphans = Vec::new();
        for notice in std::mem::take(&mut self.journal.undelivered) {
            let place = (notice.webhook.clone(), notice.id);
            if !self.notifier.push(Arc::new(notice)) {
                orphans.push(place);
            }
        }
        self.forget_notices(orphans);
    }

    fn forget_notices(&mut self, notices: Vec<(String, u64)>) {
        if notices.is_empty() {
            return;
        }
        let count = notices.len();
        let message = format!("{count} notices wait for webhooks that are gone: they are not sent");
        warn!("{message}");
        self.journal
            .record(Event::new(0, SystemTime::now(), "webhook", message));
        let gone = notices
            .into_iter()
            .map(|(webhook, id)| HistoryChange::NoticeGone(webhook, id));
        self.journal.write(gone.collect());
    }

    /// The history has news.
    pub(super) fn settle_history(&mut self, news: HistoryNews) {
        let HistoryNews::Notices(notices) = news else {
            return self.journal.settle(news);
        };
        let mut orphans = Vec::new();
        for notice in notices {
            if !self.notifier.push(Arc::clone(&notice)) {
                orphans.push((notice.webhook.clone(), notice.id));
            }
        }
        self.forget_notices(orphans);
    }

    /// Ends the history. What webhooks have taken until now is not sent again by the next daemon.
    pub(super) async fn close_history(&mut self) {
        while let Some(news) = self.notifier.waiting_news() {
            self.settle_notice(news);
        }
        self.journal.close().await;
    }

    /// A webhook has news.
    pub(super) fn settle_notice(&mut self, news: NotifyNews) {
        if !self.notifier.settle(&news) {
            return;
        }
        let NotifyNews { webhook, what } = news;
        let (id, message) = match what {
            Told::Delivered { id, recovered } => {
                let message = format!("webhook `{webhook}` takes notices again");
                (Some(id), recovered.then_some(message))
            }
            Told::Failed { ref why, first } => {
                let message =
                    format!("webhook `{webhook}` does not take a notice, and is tried again: {why}");
                (None, first.then_some(message))
            }
            Told::GivenUp { id } => {
                let message =
                    format!("webhook `{webhook}` was not told of event {id}: it was tried for too long");
                (Some(id), Some(message))
            }
            Told::Dropped { id } => {
                let message = format!("webhook `{webhook}` was not told of event {id}: too many wait");
                (Some(id), Some(message))
            }
        };
        if let Some(message) = message {
            match what {
                Told::Delivered { .. } => info!("{message}"),
                _ => warn!("{message}"),
            }
            let event = Event::new(0, SystemTime::now(), "webhook", message);
            self.journal.record(event.about(&webhook));
        }
        if let Some(id) = id {
            self.journal.write(vec![HistoryChange::NoticeGone(webhook, id)]);
        }
    }
}
