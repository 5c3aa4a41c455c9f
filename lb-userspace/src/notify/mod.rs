//! Webhooks: each is told what it is to be told, in order, one notice at a time, until it has taken it.
//!
//! When to send what is decided by [`lb_core::notify`]; here it is sent. What waits is on the disk before it is sent for the
//! first time, and goes from there when it was taken: a receiver may hear of something twice, after a crash, and knows it by
//! its number.

mod hook;
mod send;
mod signature;

use crate::probe::Probes;
use crate::store::StoredNotice;
use crate::wire::WebhookStatus;
use hook::Hook;
use lb_core::model::Webhook;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What has become of a notice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotifyNews {
    pub webhook: String,
    pub what: Told,
}

/// What has become of a notice, given by its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Delivered {
        id: u64,
        /// After failures.
        recovered: bool,
    },
    Failed {
        why: String,
        /// Before this one all went well.
        first: bool,
    },
    /// It was tried for long enough.
    GivenUp { id: u64 },
    /// Too many waited.
    Dropped { id: u64 },
}

/// All webhooks.
pub struct Notifier {
    hooks: BTreeMap<String, Hook>,
    probes: Arc<Probes>,
    news: mpsc::UnboundedReceiver<NotifyNews>,
    tell: mpsc::UnboundedSender<NotifyNews>,
}

impl Notifier {
    /// One without webhooks, that opens TLS sessions as probes do.
    #[must_use]
    pub fn new(probes: Arc<Probes>) -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        Self {
            hooks: BTreeMap::new(),
            probes,
            news,
            tell,
        }
    }

    /// Goes on with exactly these webhooks. Returns the notices that nobody is to hear any more, by webhook and number.
    pub fn configure(&mut self, webhooks: &[Webhook]) -> Vec<(String, u64)> {
        let mut former = std::mem::take(&mut self.hooks);
        let mut forgotten = Vec::new();
        for webhook in webhooks.iter().filter(|webhook| webhook.enabled) {
            let hook = match former.remove(&webhook.name) {
                Some(hook) if hook.webhook == *webhook => hook,
                // What was on its way is sent again to the new address.
                Some(hook) => {
                    let mut changed = self.hook(webhook);
                    changed.inherit(hook);
                    changed
                }
                None => self.hook(webhook),
            };
            self.hooks.insert(webhook.name.clone(), hook);
        }
        for (name, hook) in former {
            forgotten.extend(hook.numbers().map(|id| (name.clone(), id)));
        }
        forgotten
    }

    fn hook(&self, webhook: &Webhook) -> Hook {
        Hook::start(webhook.clone(), Arc::clone(&self.probes), self.tell.clone())
    }

    /// Has a notice sent after those before it; false: there is no such webhook.
    pub fn push(&mut self, notice: Arc<StoredNotice>) -> bool {
        let hook = self.hooks.get_mut(&notice.webhook);
        hook.map(|hook| hook.push(notice)).is_some()
    }

    /// The next news of a webhook.
    pub async fn news(&mut self) -> NotifyNews {
        match self.news.recv().await {
            Some(news) => news,
            // It has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// News that wait already.
    pub fn waiting_news(&mut self) -> Option<NotifyNews> {
        self.news.try_recv().ok()
    }

    /// Counts what has become of a notice; false: nobody waits for that any more.
    pub fn settle(&mut self, news: &NotifyNews) -> bool {
        let hook = self.hooks.get_mut(&news.webhook);
        hook.is_some_and(|hook| hook.settle(&news.what))
    }

    /// How each is, in the order of their names.
    #[must_use]
    pub fn status(&self) -> Vec<WebhookStatus> {
        self.hooks.values().map(Hook::status).collect()
    }
}
