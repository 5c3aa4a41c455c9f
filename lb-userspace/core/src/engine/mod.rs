//! The engine: one closed set of events in, a list of commands out.
//!
//! ```text
//! Configure ─▶ plan (names → numbers) ─▶ probes ─▶ facts ─▶ standings ─▶ designs ─▶ generations ─▶ Apply
//! Observed, Tick ────────────────────────▶ flips ──┘  (only the pools concerned)        ▲
//! Paths ─────────────────────────────────────────────▶ records (shared by generations) ─┘
//! ```

mod access;
mod balancers;
mod buckets;
mod capacity;
mod compile;
mod design;
mod drains;
mod figures;
mod hops;
mod ids;
mod layout;
mod message;
mod moves;
mod names;
mod network;
mod plan;
mod probes;
mod records;
mod routing;
mod served;
mod sessions;
mod shares;
mod snapshot;
mod sources;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod trials;
mod verdict;

pub use self::message::{
    Adopted, Command, DrainRecord, Environment, Event, Exit, HealthRecord, Kept, Path, ProbeRequest, Report,
    TargetId, Via,
};
pub use self::trials::Trials;

pub use self::moves::{Move, Share, Shift, moves};
pub use self::names::{Answer, LookupFailure, MAX_ADDRESSES, NameRecord};
pub use self::sessions::SessionMoves;

use self::access::AccessLists;
use self::drains::Drains;
use self::figures::Figures;
use self::ids::Ids;
use self::layout::PoolDesign;
use self::names::Names;
use self::plan::{Numbers, Plan};
use self::probes::Probes;
use self::records::{Paths, Records};
use self::sessions::KnownLeaving;
use self::shares::Shares;
use self::tables::Generations;
use crate::health::OriginHealth;
use crate::image::{Capacity, TableOp};
use crate::model::Config;
use crate::monitor::Progress;
use crate::steering::{PoolFacts, PoolStanding};
use crate::time::Timestamp;
use crate::view::View;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{
    AccessList, AddressRole, ApplicationKey, HashKey, Interface, Ip, OriginId, OriginState, PortRange,
    Settings, SettingsFlags, Timeouts,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The engine.
pub struct Engine {
    setup: Setup,
    state: State,
}

/// What never changes.
#[derive(Clone, Debug)]
struct Setup {
    hz: u32,
    hash_key: HashKey,
    snat_ports: PortRange,
    flags: SettingsFlags,
    /// 0: nobody traces.
    trace_until: u32,
    capacity: Capacity,
    max_flows: u32,
    assume_healthy: bool,
    adopted: bool,
}

/// Everything that changes. A configuration that is refused is undone by going back to a copy.
#[derive(Clone)]
struct State {
    config: Option<Arc<Config>>,
    numbers: Numbers,
    plan: Plan,
    probes: Probes,
    names: Names,
    drains: Drains,
    records: Records,
    access: AccessLists,
    /// Who may open flows of any application.
    global_access: AccessList,
    generations: Generations,
    /// What was written last.
    settings: Settings,
    /// Whether an application has a range of ports.
    ranges: bool,
    /// What was written last, by application id.
    timeouts: BTreeMap<u32, Timeouts>,
    /// By pool of the plan.
    facts: Vec<PoolFacts>,
    standings: Vec<PoolStanding>,
    designs: Vec<PoolDesign>,
    /// Pools whose standings and designs are behind the facts.
    stale_pools: BTreeSet<usize>,
    figures: Figures,
    /// Whether the live generation's lists of pools are behind the figures.
    stale_lists: bool,
    /// Whether a load balancer goes by round-trip times.
    steers_by_latency: bool,
    /// What was said last.
    moves: Arc<SessionMoves>,
    /// What they were put together from.
    leaving: KnownLeaving,
    /// When tables were made last.
    rebuilt: Option<Timestamp>,
    /// By load balancer of the configuration, whether its fallback pool was reported to be in use.
    fallbacks: BTreeMap<String, bool>,
    /// Application numbers of the former daemon, which knew no names.
    inherited_applications: BTreeMap<ApplicationKey, u32>,
    paths: Paths,
    /// Addresses of this node; `None`: nobody has said so yet.
    own: Option<BTreeSet<IpAddr>>,
    /// Whether the live generation's addresses are behind `own` or `roles`.
    stale_vips: bool,
    /// Addresses by which origins answer, as the live generation knows them.
    roles: BTreeMap<Ip, AddressRole>,
    interfaces: BTreeMap<u32, Interface>,
    watched: Vec<IpAddr>,
    watched_names: Vec<String>,
    /// What the view was worked out from.
    shares: Shares,
    view: Arc<View>,
    view_is_due: bool,
    records_are_due: bool,
    /// When the view went out last, unless tables came with it.
    flushed: Option<Timestamp>,
    /// When the health records went out last.
    persisted: Option<Timestamp>,
}

/// Round-trip times and the age of results go out at most this often.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Targets whose records may be written that often: with more it is less often.
const RECORDS_PER_FLUSH: usize = 2000;
/// Tables follow a change of health at once, and then again after this time at the earliest: when many origins change
/// together, that makes few generations. Their own records say the truth in the meantime.
const REBUILD_INTERVAL: Duration = Duration::from_millis(50);

impl Engine {
    /// An engine with no configuration.
    #[must_use]
    pub fn new(environment: Environment, now: Timestamp) -> Self {
        let Environment {
            hz,
            hash_key,
            snat_ports,
            flags,
            capacity,
            max_flows,
            adopted,
            kept,
            assume_healthy,
            seed,
        } = environment;
        let mut state = State {
            config: None,
            numbers: Numbers {
                origins: Ids::new(1, capacity.origins),
                pools: Ids::new(0, capacity.pools / 2),
                applications: Ids::new(0, capacity.application_rows),
            },
            plan: Plan::default(),
            probes: Probes::new(kept.health, seed, now),
            names: Names::new(kept.names),
            drains: Drains::new(kept.drains, now),
            records: Records::new(&capacity, adopted.as_ref()),
            access: AccessLists::new(capacity, adopted.as_ref()),
            global_access: AccessList::NONE,
            generations: Generations::new(capacity),
            settings: Settings::default(),
            ranges: false,
            timeouts: BTreeMap::new(),
            facts: Vec::new(),
            standings: Vec::new(),
            designs: Vec::new(),
            stale_pools: BTreeSet::new(),
            figures: Figures::default(),
            stale_lists: false,
            steers_by_latency: false,
            moves: Arc::default(),
            leaving: KnownLeaving::new(),
            rebuilt: None,
            fallbacks: BTreeMap::new(),
            inherited_applications: BTreeMap::new(),
            paths: None,
            own: None,
            stale_vips: false,
            roles: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            watched: Vec::new(),
            watched_names: Vec::new(),
            shares: Shares::default(),
            view: Arc::default(),
            view_is_due: false,
            records_are_due: false,
            flushed: None,
            persisted: None,
        };
        let adopts = adopted.is_some();
        let setup = Setup {
            hz,
            hash_key,
            snat_ports,
            flags,
            trace_until: 0,
            capacity,
            max_flows,
            assume_healthy,
            adopted: adopts,
        };
        if let Some(adopted) = adopted {
            state.adopt(adopted);
        }
        Self { setup, state }
    }

    /// Handles one event.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut ops = Vec::new();
        // Observations that wait together are taken in before tables follow: each is one write, tables are many.
        let may_rebuild = matches!(event, Event::Tick);
        match event {
            Event::Configure(config) => self.configure(config, now, &mut commands),
            Event::Observed {
                target,
                attempt,
                observation,
            } => {
                let progress = self.state.probes.observe(target, attempt, observation, now);
                self.state.proceed(&[(target, progress)], &mut ops, &mut commands);
            }
            Event::Missed { target, attempt } => {
                self.state.probes.give_up(target, attempt);
                self.state.view_is_due = true;
            }
            Event::Astray { target, why } => {
                self.state.probes.set_astray(target, why);
                self.state.view_is_due = true;
            }
            Event::Paths(paths) => self.state.set_paths(&self.setup, paths, &mut commands),
            Event::Resolved { name, answer } => self.state.resolved(&name, answer, now, &mut commands),
            Event::Tick => {
                let mut steps = Vec::new();
                while let Some(step) = self.state.probes.advance(now) {
                    steps.push(step);
                }
                self.state.proceed(&steps, &mut ops, &mut commands);
                self.state.end_drains(now, &mut ops);
            }
            Event::Drained(origins) => self.state.forget(&self.setup, &origins, &mut commands),
            Event::Flags(flags) => {
                self.setup.flags = flags;
                self.state.update_settings(&self.setup, &mut ops);
            }
            Event::Trace(until) => {
                self.setup.trace_until = until;
                self.state.update_settings(&self.setup, &mut ops);
            }
            Event::Interfaces(interfaces) => {
                self.state.set_interfaces(&self.setup, &interfaces, &mut ops);
            }
            Event::Addresses(addresses) => self.state.set_addresses(addresses),
            Event::OpenFlows(counts) => self.state.set_open_flows(counts),
        }
        let due = self.state.rebuild_deadline();
        if may_rebuild {
            self.state.let_go(now);
        }
        let names_due = self.state.names.deadline();
        if may_rebuild && names_due.is_some_and(|deadline| deadline <= now) {
            self.follow_names(now, &mut commands);
        }
        if may_rebuild && due.is_some_and(|deadline| deadline <= now) {
            self.state.rebuild(&self.setup, now, &mut ops, &mut commands);
        }
        if !ops.is_empty() {
            commands.insert(0, Command::Apply(ops));
        }
        self.state.flush(now, &mut commands);
        commands
    }

    /// When the next [`Event::Tick`] is wanted.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let state = &self.state;
        [
            state.probes.deadline(),
            state.drains.deadline(),
            state.names.deadline(),
            state.rebuild_deadline(),
            state.flush_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether [`Event::OpenFlows`] makes a difference.
    #[must_use]
    pub fn counts_flows(&self) -> bool {
        let config = self.state.config.as_deref();
        config.is_some_and(figures::counts_flows)
    }

    /// Everything the maps should hold now, the number of the live generation last: for the periodic comparison that
    /// repairs drift, and to be written as a whole after a write has failed.
    #[must_use]
    pub fn image(&self) -> Vec<TableOp> {
        let mut ops = Vec::new();
        let state = &self.state;
        if state.config.is_some() {
            state.records.image(&mut ops);
            state.generations.image(&mut ops);
            state.access.image(&mut ops);
            let interfaces = state.interfaces.iter();
            ops.extend(interfaces.map(|(&index, &record)| TableOp::Interface {
                index,
                record: Some(record),
            }));
            let timeouts = state.timeouts.iter();
            ops.extend(timeouts.map(|(&application, &record)| TableOp::Timeouts { application, record }));
            ops.push(TableOp::Settings(state.settings));
        }
        ops
    }

    /// How many map rows this configuration needs; the loader sizes new maps from it with room to grow.
    #[must_use]
    pub fn required_capacity(config: &Config) -> Capacity {
        capacity::required_capacity(config)
    }

    fn configure(&mut self, config: Arc<Config>, now: Timestamp, commands: &mut Vec<Command>) {
        let former = self.state.clone();
        match self.state.configure(&self.setup, config, now, commands) {
            Ok(()) => {
                let generation = self.state.generations.live();
                commands.push(Command::Report(Report::Configured { generation }));
            }
            Err(refusal) => {
                self.state = former;
                commands.clear();
                commands.push(Command::Report(Report::Refused(refusal.to_string())));
            }
        }
    }
}

impl State {
    fn adopt(&mut self, adopted: Adopted) {
        for (id, record) in &adopted.origins {
            if *id != OriginId::NONE {
                self.numbers.origins.adopt(record.identity, id.0);
                // Of two rows with one identity the second is nobody's.
                self.numbers.origins.reserve(id.0);
            }
        }
        for (key, record) in &adopted.applications {
            self.inherited_applications.insert(*key, record.id);
        }
        self.settings = adopted.settings;
        self.interfaces = adopted.interfaces.iter().copied().collect();
        self.generations.adopt(&adopted);
    }

    /// Does what follows from steps of targets.
    fn proceed(
        &mut self,
        steps: &[(TargetId, Progress)],
        ops: &mut Vec<TableOp>,
        commands: &mut Vec<Command>,
    ) {
        let (mut flips, mut measured) = (Vec::new(), BTreeSet::new());
        for &(target, progress) in steps {
            match progress {
                Progress::Nothing => {}
                Progress::Attempt(attempt) => {
                    let request = self.probes.request(target, attempt);
                    commands.extend(request.map(|request| Command::Probe(self.with_exit(request))));
                }
                Progress::Confirmed => {
                    self.view_is_due = true;
                    self.records_are_due = true;
                    measured.extend(self.probes.get(target).map(|probed| probed.pool));
                }
                Progress::Changed { healthy } => flips.push((target, healthy)),
            }
        }
        self.flip(&flips, ops, commands);
        self.follow_latencies(&measured);
    }

    /// Says how packets to the origin leave, where its address cannot.
    fn with_exit(&self, mut request: ProbeRequest) -> ProbeRequest {
        if let Some(via) = &mut request.via
            && via.vip.is_ipv4() != request.address.is_ipv4()
            && let Some(Path::Via { ifindex, sources, .. }) =
                self.paths.as_ref().and_then(|paths| paths.get(&request.address))
        {
            let own = sources
                .iter()
                .find(|source| source.is_ipv4() == request.address.is_ipv4());
            via.exit = own.map(|&source| Exit {
                ifindex: *ifindex,
                source,
            });
        }
        request
    }

    /// When tables are to follow changes of health.
    fn rebuild_deadline(&self) -> Option<Timestamp> {
        let at_once = Timestamp::default();
        let deadline = self
            .rebuilt
            .map_or(at_once, |rebuilt| rebuilt.after(REBUILD_INTERVAL));
        (self.stale_vips || self.stale_lists || !self.stale_pools.is_empty()).then_some(deadline)
    }

    /// When results that changed nothing are to go out. Between a change of health and the tables that follow it the
    /// view would contradict itself; it goes out with the tables then.
    fn flush_deadline(&self) -> Option<Timestamp> {
        [self.view_deadline(), self.records_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn view_deadline(&self) -> Option<Timestamp> {
        let due = self.view_is_due && self.stale_pools.is_empty();
        due.then(|| {
            self.flushed
                .map_or(Timestamp::default(), |at| at.after(FLUSH_INTERVAL))
        })
    }

    fn records_deadline(&self) -> Option<Timestamp> {
        let due = self.records_are_due && self.stale_pools.is_empty();
        due.then(|| {
            let times = 1 + self.probes.counts().0 / RECORDS_PER_FLUSH;
            let pause = FLUSH_INTERVAL.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
            self.persisted.map_or(Timestamp::default(), |at| at.after(pause))
        })
    }

    fn forget(&mut self, setup: &Setup, origins: &[OriginId], commands: &mut Vec<Command>) {
        // A packet that is still being handled may have found such an origin in the tables of the generation before.
        let mut ops = vec![TableOp::Grace];
        for id in origins {
            if self.numbers.origins.forget(id.0) {
                self.records.clear(*id, &mut ops);
                self.drains.forget(*id);
            }
        }
        if ops.len() > 1 {
            self.update_settings(setup, &mut ops);
            self.stale_vips |= self.records.roles() != self.roles;
            commands.push(Command::Apply(ops));
            self.watch(commands);
        }
    }

    fn persist(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        self.records_are_due = false;
        let records = self.probes.iter().filter_map(|probed| {
            let (healthy, age) = probed.target.established(now)?;
            let pool = self.plan.pools.get(probed.pool)?;
            let origin = pool.origins.get(probed.origin)?;
            Some(HealthRecord {
                pool: pool.key.clone(),
                origin: origin.key.clone(),
                address: origin.address,
                monitor: probed.target.monitor().name.clone(),
                healthy,
                failure_reason: probed.target.failure().cloned(),
                latency: probed.latency(),
                age,
            })
        });
        commands.push(Command::Persist(Kept {
            health: records.collect(),
            drains: self.drains.records(now),
            names: self.names.records(),
        }));
    }

    /// Ends the drains that are due: their origins' flows are reset from now on.
    fn end_drains(&mut self, now: Timestamp, ops: &mut Vec<TableOp>) {
        for id in self.drains.expire(now) {
            self.records.set_state(id, OriginState::ENDED, ops);
            self.view_is_due = true;
        }
    }

    /// Sends what can wait, if it has waited long enough.
    fn flush(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if self.view_deadline().is_some_and(|deadline| deadline <= now) {
            self.flushed = Some(now);
            self.publish(commands);
        }
        if self.records_deadline().is_some_and(|deadline| deadline <= now) {
            self.persisted = Some(now);
            self.persist(now, commands);
        }
    }

    /// The state that an origin's record is to have.
    fn origin_state(&self, pool: usize, origin: usize) -> OriginState {
        match self.facts[pool].origins[origin].health {
            OriginHealth::Healthy => OriginState::UP,
            OriginHealth::Unhealthy | OriginHealth::Unknown => OriginState::DOWN,
            OriginHealth::Disabled => self.drains.state(self.plan.pools[pool].origins[origin].id),
        }
    }
}
