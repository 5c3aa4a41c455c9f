//! All targets: which origins are probed, when the next one is due, and what is known of each.

use super::plan::{Plan, PlannedOrigin, PlannedPool, Watcher};
use super::served::Asked;
use super::{HealthRecord, ProbeRequest, TargetId, Via};
use crate::health::Observation;
use crate::model::Monitor;
use crate::monitor::{Counts, Progress, Spread, Start, Target};
use crate::time::Timestamp;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::OriginState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A health record counts for this many intervals of its monitor.
const RECORD_HOLDS: u32 = 3;
/// What a moving average of round-trip times keeps with each new sample: a half after five.
const PAST: f64 = 0.870_550_563_296_124;

/// Pool, origin, its address, and the monitor.
type RecordKey = (String, String, IpAddr, String);

#[derive(Clone, Debug)]
pub struct Probes {
    targets: BTreeMap<TargetId, Probed>,
    /// One entry for each target.
    deadlines: BTreeSet<(Timestamp, TargetId)>,
    /// Records of a former daemon that were not used yet.
    records: BTreeMap<RecordKey, HealthRecord>,
    /// When the records had the age they state.
    started: Timestamp,
    next: u64,
    seed: u64,
    /// Of all runs since the daemon started.
    counts: Counts,
}

/// A target and whom it stands for.
#[derive(Clone, Debug)]
pub struct Probed {
    pub target: Target,
    /// Indices into the plan.
    pub pool: usize,
    pub origin: usize,
    identity: u64,
    request: ProbeRequest,
    /// Why attempts do not go the way that they should.
    pub astray: Option<String>,
    latency: Option<Duration>,
}

impl Probed {
    /// The moving average of its round-trip times.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    fn measure(&mut self, rtt: Duration) {
        self.latency = Some(match self.latency {
            None => rtt,
            Some(before) => before.mul_f64(PAST) + rtt.mul_f64(1.0 - PAST),
        });
    }
}

impl Probes {
    pub fn new(records: Vec<HealthRecord>, seed: u64, now: Timestamp) -> Self {
        Self {
            targets: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            records: records
                .into_iter()
                .map(|record| {
                    let (pool, origin) = (record.pool.clone(), record.origin.clone());
                    ((pool, origin, record.address, record.monitor.clone()), record)
                })
                .collect(),
            started: now,
            next: 1,
            seed,
            counts: Counts::default(),
        }
    }

    /// Makes the targets be those of the plan, and notes them there. A target whose origin and probe are the same goes
    /// on with its health; `inherited` is the state that the maps held for an origin when they were taken over.
    pub fn reconcile(
        &mut self,
        plan: &mut Plan,
        inherited: impl Fn(&PlannedOrigin) -> Option<OriginState>,
        now: Timestamp,
    ) {
        let mut former: BTreeMap<u64, Vec<(TargetId, Probed)>> = BTreeMap::new();
        for (id, probed) in core::mem::take(&mut self.targets) {
            former.entry(probed.identity).or_default().push((id, probed));
        }
        self.deadlines.clear();
        let mut resumed = Vec::new();
        let mut together = 0;
        for (pool_index, pool) in plan.pools.iter().enumerate().filter(|(_, pool)| pool.enabled) {
            for (origin_index, origin) in pool.origins.iter().enumerate() {
                if !origin.enabled {
                    continue;
                }
                let former = former.remove(&origin.identity).unwrap_or_default();
                let former = match_up(former, &pool.watchers, origin);
                for (watcher_index, former) in former.into_iter().enumerate() {
                    let interval = pool.watchers[watcher_index].monitor.interval;
                    let same = |(_, probed): &(_, Probed)| probed.target.monitor().interval == interval;
                    together += usize::from(!former.as_ref().is_some_and(same));
                    resumed.push(((pool_index, origin_index, watcher_index), former));
                }
            }
        }
        for (place, former) in resumed {
            let (pool, origin, watcher) = place;
            let id = self.resume(&plan.pools[pool], place, former, together, &inherited, now);
            plan.pools[pool].origins[origin].probes[watcher].target = Some(id);
        }
    }

    /// Lets a target go on, or starts one.
    fn resume(
        &mut self,
        pool: &PlannedPool,
        (pool_index, origin_index, watcher_index): (usize, usize, usize),
        former: Option<(TargetId, Probed)>,
        together: usize,
        inherited: impl Fn(&PlannedOrigin) -> Option<OriginState>,
        now: Timestamp,
    ) -> TargetId {
        let origin = &pool.origins[origin_index];
        let monitor = &pool.watchers[watcher_index].monitor;
        let asked = origin.probes[watcher_index].asked;
        let mut astray = None;
        let latency;
        let (id, target) = match former {
            Some((id, mut probed)) => {
                let number = self.seed.wrapping_add(id.0);
                let spread = Spread { number, together };
                probed.target.retime(Arc::clone(monitor), spread, now);
                astray = probed.astray;
                latency = probed.latency;
                (id, probed.target)
            }
            None => {
                let start;
                (start, latency) = self.start(pool, origin, monitor, inherited(origin), now);
                let id = TargetId(self.next);
                self.next += 1;
                let number = self.seed.wrapping_add(id.0);
                let spread = Spread { number, together };
                (id, Target::new(Arc::clone(monitor), start, spread, now))
            }
        };
        let request = ProbeRequest {
            target: id,
            attempt: 0,
            monitor: Arc::clone(monitor),
            address: origin.address,
            port: asked.port,
            host: origin.host.clone(),
            host_name: origin.host_name.clone(),
            via: asked.vip.map(|vip| Via {
                vip,
                forwarding: origin.forwarding,
                exit: None,
            }),
        };
        self.deadlines.insert((target.deadline(), id));
        self.targets.insert(
            id,
            Probed {
                target,
                pool: pool_index,
                origin: origin_index,
                identity: origin.identity,
                request,
                astray,
                latency,
            },
        );
        id
    }

    /// Notes why attempts at a target do not go the way that they should, or that they do.
    pub fn set_astray(&mut self, id: TargetId, why: Option<String>) {
        if let Some(probed) = self.targets.get_mut(&id) {
            probed.astray = why;
        }
    }

    pub fn get(&self, id: TargetId) -> Option<&Probed> {
        self.targets.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Probed> {
        self.targets.values()
    }

    /// When [`Self::advance`] has something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Does the next thing that is due by now.
    pub fn advance(&mut self, now: Timestamp) -> Option<(TargetId, Progress)> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        Some((id, self.step(id, |target| target.advance(now))))
    }

    /// Takes in the end of an attempt; unknown targets and old attempts are ignored.
    pub fn observe(
        &mut self,
        id: TargetId,
        attempt: u64,
        observation: Observation,
        now: Timestamp,
    ) -> Progress {
        let rtt = observation.as_ref().ok().map(|success| success.rtt);
        let progress = self.step(id, |target| target.observe(attempt, observation, now));
        if let (Progress::Confirmed | Progress::Changed { .. }, Some(rtt)) = (progress, rtt)
            && let Some(probed) = self.targets.get_mut(&id)
        {
            probed.measure(rtt);
        }
        progress
    }

    /// Takes in that an attempt could not be made.
    pub fn give_up(&mut self, id: TargetId, attempt: u64) {
        self.step(id, |target| {
            target.give_up(attempt);
            Progress::Nothing
        });
    }

    /// How many targets there are, and how their runs went.
    pub fn counts(&self) -> (usize, Counts) {
        (self.targets.len(), self.counts)
    }

    /// What is to be sent for an attempt.
    pub fn request(&self, id: TargetId, attempt: u64) -> Option<ProbeRequest> {
        self.targets.get(&id).map(|probed| ProbeRequest {
            attempt,
            ..probed.request.clone()
        })
    }

    fn step(&mut self, id: TargetId, act: impl FnOnce(&mut Target) -> Progress) -> Progress {
        let Some(probed) = self.targets.get_mut(&id) else {
            return Progress::Nothing;
        };
        self.deadlines.remove(&(probed.target.deadline(), id));
        let before = probed.target.counts();
        let progress = act(&mut probed.target);
        let after = probed.target.counts();
        self.counts.started += after.started - before.started;
        self.counts.missed += after.missed - before.missed;
        self.deadlines.insert((probed.target.deadline(), id));
        progress
    }

    fn start(
        &mut self,
        pool: &PlannedPool,
        origin: &PlannedOrigin,
        monitor: &Monitor,
        inherited: Option<OriginState>,
        now: Timestamp,
    ) -> (Start, Option<Duration>) {
        let age = now.since(self.started);
        let (name, watcher) = (origin.key.clone(), monitor.name.clone());
        let key = (pool.key.clone(), name, origin.address, watcher);
        if let Some(record) = self.records.remove(&key)
            && record.age.saturating_add(age) < monitor.interval.saturating_mul(RECORD_HOLDS)
        {
            let (healthy, failure, age) = (
                record.healthy,
                record.failure_reason,
                record.age.saturating_add(age),
            );
            let start = Start::Restored {
                healthy,
                failure,
                age,
            };
            return (start, record.latency);
        }
        let start = match inherited {
            Some(OriginState::UP) => Start::Assumed { healthy: true },
            Some(OriginState::DOWN) => Start::Assumed { healthy: false },
            Some(_) | None => Start::Unknown,
        };
        (start, None)
    }
}

/// The former targets of an origin, by the watchers that go on with them: those of the same name before others, because a
/// monitor may have another name now.
fn match_up(
    mut former: Vec<(TargetId, Probed)>,
    watchers: &[Watcher],
    origin: &PlannedOrigin,
) -> Vec<Option<(TargetId, Probed)>> {
    let mut found: Vec<Option<_>> = watchers.iter().map(|_| None).collect();
    for by_name in [true, false] {
        for ((watcher, probe), found) in watchers.iter().zip(&origin.probes).zip(&mut found) {
            let goes_on = |(_, probed): &(TargetId, Probed)| {
                is_same_probe(&probed.request, &watcher.monitor, origin, probe.asked)
                    && (!by_name || probed.request.monitor.name == watcher.monitor.name)
            };
            if found.is_none()
                && let Some(place) = former.iter().position(goes_on)
            {
                *found = Some(former.swap_remove(place));
            }
        }
    }
    found
}

/// Whether the probe asks the same question of the same destination, however often and patiently.
fn is_same_probe(request: &ProbeRequest, monitor: &Monitor, origin: &PlannedOrigin, asked: Asked) -> bool {
    let vip = request.via.as_ref().map(|via| via.vip);
    request.monitor.kind == monitor.kind
        && request.monitor.source == monitor.source
        && (request.port, vip) == (asked.port, asked.vip)
        && (&request.host, &request.host_name) == (&origin.host, &origin.host_name)
}
