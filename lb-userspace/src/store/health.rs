//! What outlives the daemon on disk: the health that a next start may restore, and the drains it goes on with.

use anyhow::{Context, Result};
use lb_core::engine::{DrainRecord, HealthRecord, Kept, NameRecord};
use lb_core::health::FailureReason;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tracing::warn;

/// The file's format; another one is ignored.
const VERSION: u32 = 1;

/// The health file of one node.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct HealthFile {
    version: u32,
    /// Milliseconds since 1970.
    written_at: u64,
    origins: Vec<Row>,
    #[serde(default)]
    drains: Vec<DrainRow>,
    #[serde(default)]
    names: Vec<NameRow>,
}

/// The addresses that a host name had last.
#[derive(Serialize, Deserialize)]
struct NameRow {
    name: String,
    addresses: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    pool: String,
    origin: String,
    address: IpAddr,
    monitor: String,
    healthy: bool,
    /// Words only: a restored reason is for the operator.
    failure_reason: Option<String>,
    /// The moving average of round-trip times, in microseconds; files of former versions have none.
    #[serde(default)]
    latency_us: Option<u64>,
    age_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct DrainRow {
    /// In hexadecimal digits: JSON's numbers are not exact enough everywhere.
    origin: String,
    age_ms: u64,
    timeout_ms: u64,
}

impl Store {
    /// The store in `state_dir`, which is made when it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self> {
        fs::create_dir_all(state_dir)
            .with_context(|| format!("make the state folder {}", state_dir.display()))?;
        Ok(Self {
            path: state_dir.join("health.json"),
        })
    }

    /// What is known from before, aged by the time since it was written. Nothing, when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or understood. It is kept aside as `health.json.damaged`.
    pub fn load(&self) -> Result<Kept> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(error).with_context(|| format!("read {}", self.path.display())),
        };
        let file: HealthFile = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(error) => {
                let aside = self.path.with_extension("json.damaged");
                // Nothing is lost when it cannot be renamed either: the next write replaces it.
                let _ = fs::rename(&self.path, &aside);
                return Err(error)
                    .with_context(|| format!("understand the health file, kept as {}", aside.display()));
            }
        };
        if file.version != VERSION {
            return Ok(Kept::default());
        }
        let passed = Duration::from_millis(now().saturating_sub(file.written_at));
        Ok(Kept {
            health: file.origins.into_iter().map(|row| row.record(passed)).collect(),
            drains: file
                .drains
                .into_iter()
                .filter_map(|row| row.record(passed))
                .collect(),
            names: file.names.into_iter().map(NameRow::record).collect(),
        })
    }

    /// Replaces the file as a whole: a crash leaves the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, kept: &Kept) -> Result<()> {
        let file = HealthFile {
            version: VERSION,
            written_at: now(),
            origins: kept.health.iter().map(Row::new).collect(),
            drains: kept.drains.iter().map(DrainRow::new).collect(),
            names: kept.names.iter().map(NameRow::new).collect(),
        };
        let text = serde_json::to_vec(&file)?;
        let new = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)
        };
        write().with_context(|| format!("write {}", self.path.display()))
    }
}

/// Saves on a thread of its own: a disk may take its time, and nothing else should wait for it.
pub struct Saver {
    /// `None` only while it is dropped.
    records: Option<mpsc::Sender<Kept>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Starts the thread.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let (records, waiting) = mpsc::channel::<Kept>();
        let thread = std::thread::spawn(move || {
            while let Ok(mut latest) = waiting.recv() {
                // What came meanwhile replaces it.
                while let Ok(later) = waiting.try_recv() {
                    latest = later;
                }
                if let Err(error) = store.save(&latest) {
                    warn!(error = %format!("{error:#}"), "health is not kept for the next start");
                }
            }
        });
        Self {
            records: Some(records),
            thread: Some(thread),
        }
    }

    /// Has the records saved, unless others follow first.
    pub fn save(&self, records: Kept) {
        if let Some(sender) = &self.records {
            // The thread ends only when this sender does.
            let _ = sender.send(records);
        }
    }
}

impl Drop for Saver {
    /// Waits until the last records are saved.
    fn drop(&mut self) {
        self.records = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there.
            let _ = thread.join();
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl NameRow {
    fn new(record: &NameRecord) -> Self {
        Self {
            name: record.name.clone(),
            addresses: record.addresses.clone(),
        }
    }

    fn record(self) -> NameRecord {
        NameRecord {
            name: self.name,
            addresses: self.addresses,
        }
    }
}

impl DrainRow {
    fn new(record: &DrainRecord) -> Self {
        Self {
            origin: format!("{:016x}", record.identity),
            age_ms: milliseconds(record.age),
            timeout_ms: milliseconds(record.timeout),
        }
    }

    fn record(self, passed: Duration) -> Option<DrainRecord> {
        Some(DrainRecord {
            identity: u64::from_str_radix(&self.origin, 16).ok()?,
            age: Duration::from_millis(self.age_ms).saturating_add(passed),
            timeout: Duration::from_millis(self.timeout_ms),
        })
    }
}

impl Row {
    fn new(record: &HealthRecord) -> Self {
        Self {
            pool: record.pool.clone(),
            origin: record.origin.clone(),
            address: record.address,
            monitor: record.monitor.clone(),
            healthy: record.healthy,
            failure_reason: record.failure_reason.as_ref().map(crate::wire::failure_reason),
            latency_us: record
                .latency
                .and_then(|latency| u64::try_from(latency.as_micros()).ok()),
            age_ms: milliseconds(record.age),
        }
    }

    fn record(self, passed: Duration) -> HealthRecord {
        HealthRecord {
            pool: self.pool,
            origin: self.origin,
            address: self.address,
            monitor: self.monitor,
            healthy: self.healthy,
            failure_reason: self.failure_reason.map(FailureReason::Other),
            latency: self.latency_us.map(Duration::from_micros),
            age: Duration::from_millis(self.age_ms).saturating_add(passed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> HealthRecord {
        HealthRecord {
            pool: "eu".into(),
            origin: "a".into(),
            address: IpAddr::from([10, 0, 0, 1]),
            monitor: "tcp".into(),
            healthy: true,
            failure_reason: None,
            latency: Some(Duration::from_micros(1234)),
            age: Duration::from_millis(1500),
        }
    }

    fn kept() -> Kept {
        Kept {
            health: vec![record()],
            drains: vec![DrainRecord {
                identity: u64::MAX,
                age: Duration::from_secs(7),
                timeout: Duration::from_secs(60),
            }],
            names: vec![NameRecord {
                name: "origins.example.com".into(),
                addresses: vec![IpAddr::from([10, 0, 0, 1])],
            }],
        }
    }

    #[test]
    fn what_was_kept_comes_back_older() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(store.load().unwrap(), Kept::default());
        store.save(&kept()).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.names, kept().names);
        let [drain] = loaded.drains.try_into().unwrap();
        assert_eq!(
            (drain.identity, drain.timeout),
            (u64::MAX, Duration::from_secs(60))
        );
        assert!(drain.age >= Duration::from_secs(7) && drain.age < Duration::from_secs(60));
        let [loaded] = loaded.health.try_into().unwrap();
        assert!(loaded.age >= record().age && loaded.age < Duration::from_secs(60));
        assert_eq!(
            HealthRecord {
                age: record().age,
                ..loaded
            },
            record()
        );
    }

    #[test]
    fn the_last_records_are_saved_before_the_saver_ends() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let saver = Saver::start(store.clone());
        for _ in 0..100 {
            saver.save(Kept::default());
        }
        saver.save(kept());
        drop(saver);
        assert_eq!(store.load().unwrap().health.len(), 1);
    }

    #[test]
    fn a_damaged_file_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::write(folder.path().join("health.json"), "{").unwrap();
        assert!(store.load().is_err());
        assert!(folder.path().join("health.json.damaged").exists());
        assert_eq!(store.load().unwrap(), Kept::default());
    }
}
