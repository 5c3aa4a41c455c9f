//! What the monitors of a pool make of one of its origins.

use super::State;
use super::plan::{PlannedOrigin, PlannedPool};
use super::probes::Probed;
use crate::health::{FailureReason, OriginHealth};
use crate::view::MonitorView;
use crate::vote::{Role, verdict};
use core::time::Duration;

impl State {
    /// The health of an enabled origin, by all its monitors.
    pub(super) fn verdict(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> OriginHealth {
        let result = |(role, probed): (Role, Option<&Probed>)| {
            let health = probed.map_or(OriginHealth::Unknown, |probed| probed.target.health());
            (role, health)
        };
        verdict(self.results(pool, origin).map(result))
    }

    /// Why its last runs failed: of a monitor whose results count, one that must be healthy before the others, and one
    /// that finds the origin unhealthy before one that has failed just now.
    pub(super) fn failure(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Option<FailureReason> {
        let failures = self.results(pool, origin).filter_map(|(role, probed)| {
            let target = &probed.filter(|_| role.counts())?.target;
            let reason = target.failure()?;
            Some((
                target.health() == OriginHealth::Unhealthy,
                role == Role::Veto,
                reason,
            ))
        });
        let mut first: Option<(bool, bool, _)> = None;
        for (unhealthy, veto, reason) in failures {
            if first.is_none_or(|(a, b, _)| (unhealthy, veto) > (a, b)) {
                first = Some((unhealthy, veto, reason));
            }
        }
        first.map(|(_, _, reason)| reason.clone())
    }

    /// The mean round-trip time of the monitors whose results count.
    pub(super) fn rtt(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Option<Duration> {
        let counted = self.results(pool, origin).filter(|(role, _)| role.counts());
        let times: Vec<Duration> = counted.filter_map(|(_, probed)| probed?.target.rtt()).collect();
        let count = u32::try_from(times.len()).ok()?;
        times.iter().sum::<Duration>().checked_div(count)
    }

    /// The same of moving averages.
    pub(super) fn average_rtt(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Option<Duration> {
        let counted = self.results(pool, origin).filter(|(role, _)| role.counts());
        let times: Vec<Duration> = counted.filter_map(|(_, probed)| probed?.latency()).collect();
        let count = u32::try_from(times.len()).ok()?;
        times.iter().sum::<Duration>().checked_div(count)
    }

    /// Status code of the first monitor whose results count that got one.
    pub(super) fn response_code(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Option<u16> {
        let mut counted = self.results(pool, origin).filter(|(role, _)| role.counts());
        counted.find_map(|(_, probed)| probed?.target.response_code())
    }

    /// Why some monitor's probes do not go the way that they should.
    pub(super) fn astray(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Option<String> {
        self.results(pool, origin)
            .find_map(|(_, probed)| probed?.astray.clone())
    }

    /// What each member of a monitor group has found out; nothing of a single monitor.
    pub(super) fn member_views(&self, pool: &PlannedPool, origin: &PlannedOrigin) -> Vec<MonitorView> {
        if pool.watchers.len() == 1 && pool.is_monitored() {
            return Vec::new();
        }
        let views = pool.watchers.iter().zip(self.results(pool, origin));
        views
            .map(|(watcher, (role, probed))| MonitorView {
                name: watcher.monitor.name.clone(),
                role,
                health: probed.map_or(OriginHealth::Disabled, |probed| probed.target.health()),
                failure_reason: probed.and_then(|probed| probed.target.failure().cloned()),
                rtt: probed.and_then(|probed| probed.target.rtt()),
            })
            .collect()
    }

    /// What each watcher of a pool has found out about an origin.
    fn results<'a>(
        &'a self,
        pool: &'a PlannedPool,
        origin: &'a PlannedOrigin,
    ) -> impl Iterator<Item = (Role, Option<&'a Probed>)> {
        let probes = pool.watchers.iter().zip(&origin.probes);
        probes.map(|(watcher, probe)| {
            let probed = probe.target.and_then(|id| self.probes.get(id));
            (watcher.role, probed)
        })
    }
}
