//! All targets: which origins are probed, when the next one is due, and what is known of each.

use super::plan::{Plan, PlannedOrigin, PlannedPool};
use super::{HealthRecord, ProbeRequest, TargetId, Via};
use crate::health::Observation;
use crate::model::Monitor;
use crate::monitor::{Progress, Start, Target};
use crate::time::Timestamp;
use core::time::Duration;
use lb_common::abi::OriginState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A health record counts for this many intervals of its monitor.
const RECORD_HOLDS: u32 = 3;
/// What a moving average of round-trip times keeps with each new sample: a half after five.
const PAST: f64 = 0.870_550_563_296_124;

#[derive(Clone, Debug)]
pub struct Probes {
    targets: BTreeMap<TargetId, Probed>,
    /// One entry for each target.
    deadlines: BTreeSet<(Timestamp, TargetId)>,
    /// Records of a former daemon that were not used yet.
    records: BTreeMap<(String, String), HealthRecord>,
    /// When the records had the age they state.
    started: Timestamp,
    next: u64,
    seed: u64,
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
                .map(|record| ((record.pool.clone(), record.origin.clone()), record))
                .collect(),
            started: now,
            next: 1,
            seed,
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
        let mut former: BTreeMap<u64, (TargetId, Probed)> = core::mem::take(&mut self.targets)
            .into_iter()
            .map(|(id, probed)| (probed.identity, (id, probed)))
            .collect();
        self.deadlines.clear();
        for (pool_index, pool) in plan.pools.iter_mut().enumerate() {
            let Some(monitor) = pool.monitor.clone().filter(|_| pool.enabled) else {
                continue;
            };
            for origin_index in 0..pool.origins.len() {
                let origin = &pool.origins[origin_index];
                if !origin.enabled {
                    continue;
                }
                let same =
                    |(_, probed): &(TargetId, Probed)| is_same_probe(&probed.request, &monitor, origin);
                let mut astray = None;
                let latency;
                let (id, target) = match former.remove(&origin.identity).filter(same) {
                    Some((id, mut probed)) => {
                        probed.target.retime(Arc::clone(&monitor), now);
                        astray = probed.astray;
                        latency = probed.latency;
                        (id, probed.target)
                    }
                    None => {
                        let start;
                        (start, latency) = self.start(pool, origin, &monitor, inherited(origin), now);
                        let id = TargetId(self.next);
                        self.next += 1;
                        (
                            id,
                            Target::new(Arc::clone(&monitor), start, self.seed.wrapping_add(id.0), now),
                        )
                    }
                };
                let request = ProbeRequest {
                    target: id,
                    attempt: 0,
                    monitor: Arc::clone(&monitor),
                    address: origin.address,
                    port: origin.probe_port,
                    via: origin.probe_vip.map(|vip| Via {
                        vip,
                        forwarding: origin.forwarding,
                        exit: None,
                    }),
                };
                self.deadlines.insert((target.deadline(), id));
                let identity = origin.identity;
                self.targets.insert(
                    id,
                    Probed {
                        target,
                        pool: pool_index,
                        origin: origin_index,
                        identity,
                        request,
                        astray,
                        latency,
                    },
                );
                pool.origins[origin_index].target = Some(id);
            }
        }
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
        let rtt = observation.as_ref().ok().copied();
        let progress = self.step(id, |target| target.observe(attempt, observation, now));
        if let (Progress::Confirmed | Progress::Changed { .. }, Some(rtt)) = (progress, rtt)
            && let Some(probed) = self.targets.get_mut(&id)
        {
            probed.measure(rtt);
        }
        progress
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
        let progress = act(&mut probed.target);
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
        if let Some(record) = self.records.remove(&(pool.name.clone(), origin.name.clone()))
            && record.address == origin.address
            && record.monitor == monitor.name
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

/// Whether the probe asks the same question of the same destination, however often and patiently.
fn is_same_probe(request: &ProbeRequest, monitor: &Monitor, origin: &PlannedOrigin) -> bool {
    let vip = request.via.as_ref().map(|via| via.vip);
    request.monitor.kind == monitor.kind && request.port == origin.probe_port && vip == origin.probe_vip
}
