//! Load from inside a namespace: something done again and again, at a rate or as fast as it goes, with every outcome
//! and its time kept.

use crate::netns::Netns;
use crate::{dns, http};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    pub started: Instant,
    pub took: Duration,
    /// The name of the origin that answered, or why none did.
    pub outcome: Result<String, String>,
}

/// What became of many requests, in the order they ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    samples: Vec<Sample>,
}

/// The time of day in UTC, as logs have it.
fn utc(instant: &Instant) -> String {
    let then = SystemTime::now() - instant.elapsed();
    let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs() % 86_400, since.subsec_millis());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// What is done again and again: returns the name of the origin that answered.
pub trait Job: Fn(usize) -> Result<String, String> + Send + Sync + 'static {}
impl<F: Fn(usize) -> Result<String, String> + Send + Sync + 'static> Job for F {}

/// An HTTP request on a connection of its own.
pub fn http(server: SocketAddr) -> impl Job {
    move |_| match http::get(server, "/") {
        Ok(answer) if answer.status == 200 => Ok(answer.body.trim().to_owned()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// A DNS question from a source port of its own, asked once.
pub fn dns(server: SocketAddr) -> impl Job {
    move |number| dns::ask(server, number as u16).map_err(|error| error.to_string())
}

/// Runs `job` `count` times from `workers` threads as fast as it goes.
///
/// # Panics
/// A worker does.
pub fn run(namespace: &Netns, count: usize, workers: usize, job: impl Job) -> Report {
    Load::begin(namespace, None, count, workers, job).join()
}

/// Load that runs until it is told to stop.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    next: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

impl Load {
    /// Starts `job` `rate` times a second, from as many threads as keep that rate while some requests hang.
    #[must_use]
    pub fn start(namespace: &Netns, rate: u32, job: impl Job) -> Self {
        let workers = (rate as usize / 4).clamp(16, 128);
        Self::begin(namespace, Some(rate), usize::MAX, workers, job)
    }

    fn begin(namespace: &Netns, rate: Option<u32>, count: usize, workers: usize, job: impl Job) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            samples: Mutex::default(),
        });
        let job = Arc::new(job);
        let started = Instant::now();
        let worker = |_| {
            let (shared, job) = (Arc::clone(&shared), Arc::clone(&job));
            namespace.thread(move || shared.work(started, rate, count, &*job))
        };
        let workers = (0..workers).map(worker).collect();
        Self { shared, workers }
    }

    /// What happened so far.
    #[must_use]
    pub fn so_far(&self) -> Report {
        Report {
            samples: self.shared.lock().clone(),
        }
    }

    /// Stops, waits for the requests under way, and tells what happened.
    #[must_use]
    pub fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(mut self) -> Report {
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker of the load does not panic");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, begun: Instant, rate: Option<u32>, count: usize, job: &impl Job) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= count || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(rate) = rate {
                let due = begun + Duration::from_secs_f64(number as f64 / f64::from(rate));
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            let started = Instant::now();
            let outcome = job(number);
            self.lock().push(Sample {
                started,
                took: started.elapsed(),
                outcome,
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// The part that started at `from` or later.
    #[must_use]
    pub fn since(&self, from: Instant) -> Self {
        self.keep(|sample| sample.started >= from)
    }

    /// The part that started before `until`.
    #[must_use]
    pub fn before(&self, until: Instant) -> Self {
        self.keep(|sample| sample.started < until)
    }

    fn keep(&self, wanted: impl Fn(&Sample) -> bool) -> Self {
        Self {
            samples: self
                .samples
                .iter()
                .filter(|sample| wanted(sample))
                .cloned()
                .collect(),
        }
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.samples.len()
    }

    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The requests that no origin answered.
    #[must_use]
    pub fn failures(&self) -> Vec<&Sample> {
        self.samples
            .iter()
            .filter(|sample| sample.outcome.is_err())
            .collect()
    }

    /// Failures by reason, most of them first, and when the first and the last of them began, by the clock of the logs.
    #[must_use]
    pub fn explain_failures(&self) -> String {
        let mut reasons = BTreeMap::<&str, Vec<Instant>>::new();
        for sample in &self.samples {
            if let Err(reason) = &sample.outcome {
                reasons.entry(reason).or_default().push(sample.started);
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, starts)| std::cmp::Reverse(starts.len()));
        let explain = |(reason, starts): &(&str, Vec<Instant>)| {
            let [first, last] =
                [starts.iter().min(), starts.iter().max()].map(|start| start.map_or_else(String::new, utc));
            format!("{} × {reason} ({first} to {last})", starts.len())
        };
        reasons.iter().map(explain).collect::<Vec<_>>().join(", ")
    }

    /// Requests served, by the origin's name.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for origin in self
            .samples
            .iter()
            .filter_map(|sample| sample.outcome.as_ref().ok())
        {
            *counts.entry(origin.clone()).or_default() += 1;
        }
        counts
    }

    /// Share of `origin` among the requests that were served, 0 to 1.
    #[must_use]
    pub fn share(&self, origin: &str) -> f64 {
        let counts = self.counts();
        let served: usize = counts.values().sum();
        counts.get(origin).copied().unwrap_or(0) as f64 / served.max(1) as f64
    }
}
