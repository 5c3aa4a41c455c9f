//! Host names of origins: looked up when their TTL ends, each by a task of its own. What an answer means is the engine's
//! to say.
//!
//! A name is asked for again when the first of its records ends, within `dns.min_ttl` and `dns.max_ttl`, and up to a tenth
//! later, so that names do not keep coming up together. After a failure it is asked for again after a second, then two,
//! and so on up to [`LONGEST_PAUSE`]. [`MAX_LOOKUPS`] go on at the same time.

mod lookup;
#[cfg(test)]
mod tests;

use self::lookup::{Client, Found};
use lb_core::engine::{Answer, Event, NameRecord};
use lb_core::model::{Config, Dns};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

/// Lookups that may go on at the same time.
const MAX_LOOKUPS: usize = 16;
/// Between a lookup that failed and the next one, at first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The same at last.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps the addresses of names coming.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    names: BTreeMap<String, AbortHandle>,
    dns: Dns,
}

/// What the tasks have in common.
#[derive(Debug)]
struct Shared {
    client: Mutex<Arc<Client>>,
    permits: Semaphore,
    events: mpsc::UnboundedSender<Event>,
}

impl Resolver {
    /// A resolver without names, which sends [`Event::Resolved`].
    #[must_use]
    pub fn new(dns: &Dns, events: mpsc::UnboundedSender<Event>) -> Self {
        let shared = Shared {
            client: Mutex::new(Arc::new(Client::new(dns))),
            permits: Semaphore::new(MAX_LOOKUPS),
            events,
        };
        Self {
            shared: Arc::new(shared),
            names: BTreeMap::new(),
            dns: dns.clone(),
        }
    }

    /// Looks up exactly these names from now on.
    pub fn watch(&mut self, names: Vec<String>) {
        let mut former = std::mem::take(&mut self.names);
        for name in names {
            let task = former
                .remove(&name)
                .unwrap_or_else(|| start(name.clone(), self.dns.clone(), Arc::clone(&self.shared)));
            self.names.insert(name, task);
        }
        former.into_values().for_each(|task| task.abort());
    }

    /// Goes by these settings from now on, and looks everything up again if they are others.
    pub fn configure(&mut self, dns: &Dns) {
        if *dns == self.dns {
            return;
        }
        self.dns = dns.clone();
        *lock(&self.shared.client) = Arc::new(Client::new(dns));
        let names = std::mem::take(&mut self.names);
        names.values().for_each(AbortHandle::abort);
        self.watch(names.into_keys().collect());
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.names.values().for_each(AbortHandle::abort);
    }
}

fn start(name: String, dns: Dns, shared: Arc<Shared>) -> AbortHandle {
    let task = async move {
        let mut failures = 0;
        // It ends when the daemon does.
        while let Ok(permit) = shared.permits.acquire().await {
            let client = current(&shared.client, &dns);
            let found = client.look_up(&name).await;
            drop(permit);
            failures = match is_complete(&found.answer) {
                true => 0,
                false => failures + 1,
            };
            let pause = pause(&dns, &found, failures);
            let event = Event::Resolved {
                name: name.clone(),
                answer: found.answer,
            };
            if shared.events.send(event).is_err() {
                return;
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    };
    tokio::spawn(task).abort_handle()
}

/// The client, made anew when the system's files have changed.
fn current(client: &Mutex<Arc<Client>>, dns: &Dns) -> Arc<Client> {
    let mut client = lock(client);
    if client.is_outdated() {
        *client = Arc::new(Client::new(dns));
    }
    Arc::clone(&client)
}

/// Nothing that another thread could leave half done is under this lock.
fn lock(client: &Mutex<Arc<Client>>) -> std::sync::MutexGuard<'_, Arc<Client>> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is an address and both families were answered.
fn is_complete(answer: &Answer) -> bool {
    let (v4, v6) = (answer.v4.as_deref(), answer.v6.as_deref());
    matches!((v4, v6), (Ok(v4), Ok(v6)) if !(v4.is_empty() && v6.is_empty()))
}

fn pause(dns: &Dns, found: &Found, failures: u32) -> Duration {
    let ttl = found.ttl.map(|ttl| ttl.clamp(dns.min_ttl, dns.max_ttl));
    if failures == 0 {
        return ttl.unwrap_or(dns.min_ttl);
    }
    let backoff = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16));
    backoff.min(LONGEST_PAUSE).min(ttl.unwrap_or(LONGEST_PAUSE))
}

/// Up to a tenth longer.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    pause + pause / 10 * (random >> 48) as u32 / (1 << 16)
}

/// Looks all names of a configuration up once, for tables that nobody will change.
pub async fn once(config: &Config) -> Vec<NameRecord> {
    let client = Arc::new(Client::new(&config.dns));
    let permits = Arc::new(Semaphore::new(MAX_LOOKUPS));
    let mut lookups = JoinSet::new();
    for name in config.host_names() {
        let (name, client, permits) = (name.to_owned(), Arc::clone(&client), Arc::clone(&permits));
        lookups.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            let answer = client.look_up(&name).await.answer;
            (name, answer)
        });
    }
    let mut records = Vec::new();
    while let Some(ended) = lookups.join_next().await {
        let Ok((name, Answer { v4, v6 })) = ended else {
            continue;
        };
        let failure = v4.as_ref().err().or(v6.as_ref().err()).cloned();
        let v4 = v4.unwrap_or_default().into_iter().map(IpAddr::from);
        let addresses: Vec<IpAddr> = v4
            .chain(v6.unwrap_or_default().into_iter().map(IpAddr::from))
            .collect();
        if addresses.is_empty() {
            let failure = failure.map_or("the name has no address".to_owned(), |failure| {
                failure.to_string()
            });
            warn!(name, "its origins get no traffic: {failure}");
        }
        records.push(NameRecord { name, addresses });
    }
    records
}
