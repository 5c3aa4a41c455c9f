//! Buckets of TCP flows without entries, as a sweep sees them: which may have entries again, and whose flows they are.

use super::sys;
use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{
    Application, ApplicationKey, Bucket, BucketRun, FlowCore, FlowKey4, FlowKey6, HashKey, Ip, OriginId,
    Port, Protocol, Settings, Timeouts, maps,
};
use lb_common::hash;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bucket counts as a flow of its owner's as long as its last packet is no older than this, in seconds.
const ACTIVE_SECONDS: u32 = 60;
/// Jiffies that userspace may be ahead of a packet's.
const SLACK: u32 = 2;

/// The maps.
pub struct Buckets {
    rows: MapData,
    settled: MapData,
    applications: MapData,
    settings: Array<MapData, Settings>,
    timeouts: Array<MapData, Timeouts>,
    relocations: Relocations,
}

/// Times that applications have come to addresses where flows may have entries that no sweep has found for them: what a sweep
/// has seen that began before is not relied on. All that write or sweep the same maps share one.
#[derive(Clone, Debug, Default)]
pub struct Relocations(Arc<Mutex<Relocated>>);

#[derive(Clone, Copy, Debug, Default)]
struct Relocated {
    times: u64,
    /// The generation that was live when a generation was last written that has such addresses: that one is not live yet
    /// as long as this is.
    live: Option<u32>,
}

impl Relocations {
    /// No other comes while it is held.
    fn lock(&self) -> MutexGuard<'_, Relocated> {
        // Numbers are whole whoever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes entries be looked for in the flows of these buckets until a sweep has ended that begins from now on. `live`: the
    /// live generation, if the next one has them elsewhere and is written.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub(super) fn unsettle(
        &self,
        [rows, settled]: [&MapData; 2],
        base: u32,
        count: u32,
        live: Option<u32>,
    ) -> Result<()> {
        let mut relocated = self.lock();
        relocated.times = relocated.times.wrapping_add(1);
        relocated.live = live.or(relocated.live);
        let buckets: Vec<Bucket> = sys::rows(rows.fd().as_fd(), base, count).context("read buckets")?;
        let unsettled: Vec<u32> = buckets.iter().map(Bucket::unsettled).collect();
        sys::update_rows(settled.fd().as_fd(), base, &unsettled).context("unsettle buckets")
    }
}

/// What a sweep knows before it looks at flows.
#[derive(Debug, Default)]
pub struct Look {
    /// By where packets go, as these find them: an entry's application may have had another number. Of both generations when
    /// the one that is not live may become so before the sweep ends.
    places: BTreeMap<(Ip, Port), [BucketRun; 2]>,
    /// By application: it may have listened elsewhere, and may again.
    runs: BTreeMap<u32, BucketRun>,
    key: HashKey,
    /// When it began, in jiffies.
    began: u32,
    /// As often had applications come to addresses then.
    relocated: u64,
    /// Rows whose flows have an entry.
    tracked: BTreeSet<u32>,
}

/// A key of a flow table, as far as buckets go.
pub trait Client: Pod {
    const V6: bool;
    fn protocol(&self) -> Protocol;
    fn destination(&self) -> (Ip, Port);
    /// As buckets are found by it.
    fn hash(&self, key: HashKey) -> u32;
    /// As the filter of established flows knows it.
    fn key_hash(&self, key: HashKey) -> u32;
}

impl Client for FlowKey4 {
    const V6: bool = false;

    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn destination(&self) -> (Ip, Port) {
        (self.destination.into(), self.destination_port)
    }

    fn hash(&self, key: HashKey) -> u32 {
        hash::bucket4(key, self.source, self.source_port)
    }

    fn key_hash(&self, key: HashKey) -> u32 {
        hash::key4(key, self)
    }
}

impl Client for FlowKey6 {
    const V6: bool = true;

    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn destination(&self) -> (Ip, Port) {
        (self.destination.into(), self.destination_port)
    }

    fn hash(&self, key: HashKey) -> u32 {
        hash::bucket6(key, self.source, self.source_port)
    }

    fn key_hash(&self, key: HashKey) -> u32 {
        hash::key6(key, self)
    }
}

/// Whose flows without entries go on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Those that some flow may still have, be it idle.
    pub named: BTreeSet<OriginId>,
    /// Buckets with recent packets, by application and by origin: each has a flow at least.
    pub applications: BTreeMap<u32, u64>,
    pub origins: BTreeMap<u32, u64>,
}

impl Look {
    /// Notes an entry of a client's packets, made for the application with that number.
    pub fn note<K: Client>(&mut self, application: u32, key: &K) {
        if key.protocol() != Protocol::TCP {
            return;
        }
        let places = self.places.get(&key.destination());
        let places = places
            .into_iter()
            .flatten()
            .filter(|run| **run != BucketRun::NONE);
        for run in places.chain(self.runs.get(&application)) {
            let number = run.number(key.hash(self.key));
            self.tracked.insert(run.row(number, K::V6));
        }
    }

    /// Whether there is anything to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl Buckets {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut raw = |name: &str| match take(name)? {
            Map::Array(data) | Map::HashMap(data) => Ok(data),
            other => anyhow::bail!("the map {name} is of another kind: {other:?}"),
        };
        Ok(Self {
            rows: raw(maps::BUCKETS)?,
            settled: raw(maps::SETTLED)?,
            applications: raw(maps::APPLICATIONS)?,
            settings: take(maps::SETTINGS)?.try_into()?,
            timeouts: take(maps::TIMEOUTS)?.try_into()?,
            relocations: Relocations::default(),
        })
    }

    /// Sweeps what others write who share these.
    pub fn share(&mut self, relocations: &Relocations) {
        self.relocations = relocations.clone();
    }

    /// Begins a sweep at jiffy `now`. Every entry that a packet makes afterwards is younger; those that came before may not have
    /// made theirs yet, and are waited for by whoever goes on.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn begin(&self, now: u32) -> Result<Look> {
        // Before the settings: a generation that becomes live meanwhile is read as such.
        let relocated = *self.relocations.lock();
        let settings = self.settings.get(&0, 0).context("read the settings")?;
        let next_too = relocated.live == Some(settings.generation);
        let mut look = Look {
            key: settings.hash_key,
            began: now.wrapping_sub(SLACK),
            relocated: relocated.times,
            ..Look::default()
        };
        sys::for_each(
            self.applications.fd().as_fd(),
            |key: &ApplicationKey, record: &Application| {
                let live = key.parity == settings.parity();
                if key.protocol == Protocol::TCP && record.buckets != BucketRun::NONE && (live || next_too) {
                    let places = look.places.entry((key.address, key.port)).or_default();
                    places[usize::from(key.parity.0 & 1)] = record.buckets;
                    if live {
                        look.runs.insert(record.id, record.buckets);
                    }
                }
            },
        )
        .context("read the applications")?;
        Ok(look)
    }

    /// Takes the buckets from their owners whose flows' entries, if they had any, would be `wanted`, and returns how many: the
    /// next packet of each flow is handled as the first of a new one.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn forget(&self, now: u32, wanted: &mut impl FnMut(&FlowCore) -> bool) -> Result<u64> {
        let mut forgotten = 0;
        for (application, run) in self.begin(now)?.runs {
            let buckets = self.read(run)?;
            for (row, bucket) in (run.base()..).zip(buckets) {
                let core = FlowCore {
                    application,
                    origin: bucket.owner,
                    ..FlowCore::default()
                };
                if bucket.owner == OriginId::NONE || !wanted(&core) {
                    continue;
                }
                // Packets of this moment may make entries, and what they note of that is lost.
                let mut empty = Bucket::default();
                empty.note(now);
                sys::update_rows(self.rows.fd().as_fd(), row, &[empty]).context("empty a bucket")?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Makes entries be looked for in every bucket's flows until the next sweep has ended.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn unsettle(&self, now: u32) -> Result<()> {
        let runs = self.begin(now)?.runs;
        (runs.into_values()).try_for_each(|run| {
            (self.relocations).unsettle([&self.rows, &self.settled], run.base(), run.rows(), None)
        })
    }

    fn read(&self, run: BucketRun) -> Result<Vec<Bucket>> {
        sys::rows(self.rows.fd().as_fd(), run.base(), run.rows()).context("read buckets")
    }

    /// Ends a sweep that has noted all entries: buckets without any need not be looked for in the flow tables.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn end(&self, look: &Look, now: u32) -> Result<Owners> {
        let mut owners = Owners::default();
        if look.is_empty() {
            return Ok(owners);
        }
        let second = self.settings.get(&0, 0).context("read the settings")?.second;
        let took = now.wrapping_sub(look.began);
        for (&application, &run) in &look.runs {
            let timeouts = self.timeouts.get(&application, 0).unwrap_or_default();
            let (base, count) = (run.base(), run.rows());
            // For each run anew, because whoever writes the next generation waits for it.
            let relocated = self.relocations.lock();
            let reliable = relocated.times == look.relocated && took < Bucket::LONGEST_SWEEP;
            let buckets = self.read(run)?;
            let settled: Vec<u32> =
                sys::rows(self.settled.fd().as_fd(), base, count).context("read buckets")?;
            let mut changed = settled.clone();
            for (row, (bucket, settled)) in (base..).zip(buckets.iter().zip(&mut changed)) {
                if look.tracked.contains(&row) {
                    if !bucket.may_be_tracked(*settled) {
                        *settled = bucket.unsettled();
                    }
                } else if reliable && bucket.may_be_tracked(*settled) {
                    *settled = bucket.settle(*settled, look.began);
                }
            }
            if changed != settled {
                sys::update_rows(self.settled.fd().as_fd(), base, &changed).context("settle buckets")?;
            }
            drop(relocated);
            for bucket in buckets.iter().filter(|bucket| bucket.owner != OriginId::NONE) {
                let idle = bucket.idle(now);
                if idle.saturating_sub(second) <= timeouts.tcp {
                    owners.named.insert(bucket.owner);
                }
                if idle <= second.saturating_mul(ACTIVE_SECONDS) {
                    *owners.applications.entry(application).or_default() += 1;
                    *owners.origins.entry(bucket.owner.0).or_default() += 1;
                }
            }
        }
        Ok(owners)
    }
}
