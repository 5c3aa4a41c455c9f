//! Origins that are disabled or gone: each has its time to end its flows, and then it has not.

use super::DrainRecord;
use crate::model::Pool;
use crate::time::Timestamp;
use core::time::Duration;
use lb_common::abi::{OriginId, OriginState};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Drains {
    draining: BTreeMap<OriginId, Drain>,
    /// Of a former daemon, by identity, with the age they have now; used up as they are asked for.
    records: BTreeMap<u64, DrainRecord>,
    /// When the records had the age they state.
    started: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    identity: u64,
    began: Timestamp,
    /// How long it had drained before `began`, under a former daemon.
    before: Duration,
    timeout: Duration,
    ended: Option<Timestamp>,
}

impl Drain {
    fn deadline(&self) -> Timestamp {
        self.began.after(self.timeout.saturating_sub(self.before))
    }
}

impl Drains {
    pub fn new(records: Vec<DrainRecord>, now: Timestamp) -> Self {
        Self {
            draining: BTreeMap::new(),
            records: records
                .into_iter()
                .map(|record| (record.identity, record))
                .collect(),
            started: now,
        }
    }

    /// Makes exactly these origins drain, given with their identity and, as far as it is configured, their time. What
    /// drains already goes on. `ended` says whose end stands in the maps already.
    pub fn reconcile(
        &mut self,
        wanted: impl Iterator<Item = (OriginId, u64, Option<Duration>)>,
        ended: impl Fn(OriginId, u64) -> bool,
        now: Timestamp,
    ) {
        let mut former = core::mem::take(&mut self.draining);
        for (id, identity, timeout) in wanted {
            let known = former.remove(&id).filter(|drain| drain.identity == identity);
            let mut drain = known.unwrap_or_else(|| self.begin(id, identity, &ended, now));
            drain.timeout = timeout.unwrap_or(drain.timeout);
            // A longer time does not bring back what has ended.
            if drain.ended.is_none() && drain.deadline() <= now {
                drain.ended = Some(now);
            }
            self.draining.insert(id, drain);
        }
    }

    fn begin(
        &mut self,
        id: OriginId,
        identity: u64,
        ended: impl Fn(OriginId, u64) -> bool,
        now: Timestamp,
    ) -> Drain {
        let record = self.records.remove(&identity);
        let since_start = now.since(self.started);
        Drain {
            identity,
            began: now,
            before: record
                .as_ref()
                .map_or(Duration::ZERO, |record| record.age.saturating_add(since_start)),
            timeout: record.map_or(Pool::DRAIN_TIMEOUT, |record| record.timeout),
            ended: ended(id, identity).then_some(now),
        }
    }

    /// The state of an origin's record while the origin is disabled or gone.
    pub fn state(&self, id: OriginId) -> OriginState {
        match self.draining.get(&id) {
            Some(drain) if drain.ended.is_some() => OriginState::ENDED,
            Some(_) | None => OriginState::DRAINING,
        }
    }

    /// When the origin's flows are reset, or were.
    pub fn deadline_of(&self, id: OriginId) -> Option<Timestamp> {
        self.draining
            .get(&id)
            .map(|drain| drain.ended.unwrap_or(drain.deadline()))
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        let open = self.draining.values().filter(|drain| drain.ended.is_none());
        open.map(Drain::deadline).min()
    }

    /// Ends what is due by now.
    pub fn expire(&mut self, now: Timestamp) -> Vec<OriginId> {
        let mut ended = Vec::new();
        for (id, drain) in &mut self.draining {
            if drain.ended.is_none() && drain.deadline() <= now {
                drain.ended = Some(now);
                ended.push(*id);
            }
        }
        ended
    }

    /// Nothing is left of these origins.
    pub fn forget(&mut self, id: OriginId) {
        self.draining.remove(&id);
    }

    /// What a next daemon may go on with.
    pub fn records(&self, now: Timestamp) -> Vec<DrainRecord> {
        let record = |drain: &Drain| DrainRecord {
            identity: drain.identity,
            age: now.since(drain.began).saturating_add(drain.before),
            timeout: drain.timeout,
        };
        self.draining.values().map(record).collect()
    }
}
