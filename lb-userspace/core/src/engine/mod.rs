//! The engine: one closed set of events in, a list of commands out.
//!
//! ```text
//! Configure ─▶ plan (names → numbers) ─▶ probes ─▶ facts ─▶ standings ─▶ designs ─▶ generations ─▶ Apply
//! Observed, Tick ────────────────────────▶ flips ──┘  (only the pools concerned)        ▲
//! Paths ─────────────────────────────────────────────▶ records (shared by generations) ─┘
//! ```

mod compile;
mod ids;
mod plan;
mod probes;
mod records;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;

use self::ids::Ids;
use self::plan::{Numbers, Plan};
use self::probes::Probes;
use self::records::{Paths, Records};
use self::tables::{Generations, PoolDesign};
use crate::health::{FailureReason, Observation, OriginHealth};
use crate::image::{Capacity, TableOp};
use crate::model::{Config, Monitor};
use crate::monitor::Progress;
use crate::steering::{PoolFacts, PoolStanding};
use crate::time::Timestamp;
use crate::view::View;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{
    Application, ApplicationKey, HashKey, Hop, HopId, Ip, Mac, Origin, OriginId, OriginState, PortRange,
    Settings, SettingsFlags, Table, Timeouts,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that can happen to the engine.
#[derive(Clone, Debug)]
pub enum Event {
    /// A whole validated configuration replaces the running one.
    Configure(Arc<Config>),
    /// An attempt that [`Command::Probe`] asked for has ended.
    Observed {
        target: TargetId,
        attempt: u64,
        observation: Observation,
    },
    /// How the addresses of [`Command::WatchPaths`] are reached now. Addresses that are missing are unreachable.
    Paths(BTreeMap<IpAddr, Path>),
    /// Time has passed; due probes are started.
    Tick,
    /// No flow means these origins any more: those that are not in the configuration are forgotten, and their numbers
    /// are free. Without this event they drain for ever, which costs a row each.
    Drained(Vec<OriginId>),
    /// The program is to run with other flags than [`Environment::flags`]: interfaces have come or gone.
    Flags(SettingsFlags),
}

/// Everything the engine can ask for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Bring the maps to a new state: steps in order.
    Apply(Vec<TableOp>),
    /// Make one attempt, and report it as [`Event::Observed`] with the same numbers.
    Probe(ProbeRequest),
    /// Keep [`Event::Paths`] coming for exactly these addresses.
    WatchPaths(Vec<IpAddr>),
    /// The snapshot has changed.
    Publish(Arc<View>),
    /// Health that a next start may restore has changed.
    Persist(Vec<HealthRecord>),
    /// Tell the operator.
    Report(Report),
}

/// Which origin under which monitor. Never reused within one run of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub u64);

/// One attempt to make.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    pub target: TargetId,
    /// Number of the attempt; an answer with an old number is ignored.
    pub attempt: u64,
    pub monitor: Arc<Monitor>,
    pub address: IpAddr,
    /// 0 for `icmp_ping`.
    pub port: u16,
}

/// How a destination is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Path {
    /// By the neighbour `next_hop` (the gateway or the destination itself) on interface `ifindex`.
    Via {
        ifindex: u32,
        next_hop: IpAddr,
        /// `None`: not resolved (yet).
        neighbour: Option<Mac>,
        interface_mac: Mac,
        mtu: u16,
        /// Addresses of the interface in the destination's family, the preferred one first.
        sources: Vec<IpAddr>,
    },
    /// It cannot be reached through the datapath; says why, for the operator.
    Unusable(String),
}

/// Health of one origin that outlives the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthRecord {
    pub pool: String,
    pub origin: String,
    pub address: IpAddr,
    pub monitor: String,
    pub healthy: bool,
    pub failure_reason: Option<FailureReason>,
    /// How long before the record was made the last run ended.
    pub age: Duration,
}

/// Something worth a line in the log and in the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    OriginHealth {
        pool: String,
        origin: String,
        healthy: bool,
        reason: Option<FailureReason>,
    },
    PoolHealth {
        pool: String,
        usable: bool,
        healthy_origins: u32,
        minimum_origins: u32,
    },
    /// New flows of the load balancer go to the fallback pool (or no longer do).
    Fallback { load_balancer: String, active: bool },
    /// A configuration came into force.
    Configured { generation: u32 },
    /// A configuration could not be brought into the maps and the old one stays; says why and what to do.
    Refused(String),
}

/// What the engine must know of the machine and the maps, once.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Jiffies per second.
    pub hz: u32,
    pub hash_key: HashKey,
    pub snat_ports: PortRange,
    pub flags: SettingsFlags,
    pub capacity: Capacity,
    /// What stands in pinned maps that were taken over; `None` when the maps are new.
    pub adopted: Option<Adopted>,
    /// Health known from before, with its age now; too old records are ignored by the engine.
    pub health: Vec<HealthRecord>,
    /// Without monitors (`lb attach`): every enabled origin counts as up.
    pub assume_healthy: bool,
    /// Seed of the jitter of probes.
    pub seed: u64,
}

/// Contents of maps that a former daemon filled.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    pub generation: u32,
    /// All rows that are not empty.
    pub origins: Vec<(OriginId, Origin)>,
    /// All records of the live generation.
    pub applications: Vec<(ApplicationKey, Application)>,
    /// Runs of slots that the live generation uses.
    pub tables: Vec<Table>,
    /// Keys of the generation that is not live: a daemon that died may have left any of them.
    pub stale_applications: Vec<ApplicationKey>,
    /// All rows that are not empty. Hops that are not given here are left alone until no origin names them.
    pub hops: Vec<(HopId, Hop)>,
    /// The whole table of source addresses, or nothing: then new rows are used.
    pub snat_addresses: Vec<Ip>,
}

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
    capacity: Capacity,
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
    records: Records,
    generations: Generations,
    /// What was written last.
    settings: Settings,
    /// What was written last, by application id.
    timeouts: BTreeMap<u32, Timeouts>,
    /// By pool of the plan.
    facts: Vec<PoolFacts>,
    standings: Vec<PoolStanding>,
    designs: Vec<PoolDesign>,
    /// Pools whose standings and designs are behind the facts.
    stale_pools: BTreeSet<usize>,
    /// When tables were made last.
    rebuilt: Option<Timestamp>,
    /// By load balancer of the configuration, whether its fallback pool was reported to be in use.
    fallbacks: BTreeMap<String, bool>,
    /// Application numbers of the former daemon, which knew no names.
    inherited_applications: BTreeMap<ApplicationKey, u32>,
    paths: Paths,
    watched: Vec<IpAddr>,
    view: Arc<View>,
    view_is_due: bool,
    records_are_due: bool,
    /// When the view and the health records went out last.
    flushed: Option<Timestamp>,
}

/// Round-trip times and the age of results go out at most this often.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
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
            adopted,
            health,
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
            probes: Probes::new(health, seed, now),
            records: Records::new(&capacity, adopted.as_ref()),
            generations: Generations::new(capacity),
            settings: Settings::default(),
            timeouts: BTreeMap::new(),
            facts: Vec::new(),
            standings: Vec::new(),
            designs: Vec::new(),
            stale_pools: BTreeSet::new(),
            rebuilt: None,
            fallbacks: BTreeMap::new(),
            inherited_applications: BTreeMap::new(),
            paths: None,
            watched: Vec::new(),
            view: Arc::default(),
            view_is_due: false,
            records_are_due: false,
            flushed: None,
        };
        let adopts = adopted.is_some();
        let setup = Setup {
            hz,
            hash_key,
            snat_ports,
            flags,
            capacity,
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
            Event::Paths(paths) => self.state.set_paths(paths, &mut commands),
            Event::Tick => {
                let mut steps = Vec::new();
                while let Some(step) = self.state.probes.advance(now) {
                    steps.push(step);
                }
                self.state.proceed(&steps, &mut ops, &mut commands);
            }
            Event::Drained(origins) => self.state.forget(&self.setup, &origins, &mut commands),
            Event::Flags(flags) => self.set_flags(flags, &mut ops),
        }
        let due = self.state.rebuild_deadline();
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
            state.rebuild_deadline(),
            state.flush_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
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
            let timeouts = state.timeouts.iter();
            ops.extend(timeouts.map(|(&application, &record)| TableOp::Timeouts { application, record }));
            ops.push(TableOp::Settings(state.settings));
        }
        ops
    }

    /// How many map rows this configuration needs; the loader sizes new maps from it with room to grow.
    #[must_use]
    pub fn required_capacity(config: &Config) -> Capacity {
        compile::required_capacity(config)
    }

    fn set_flags(&mut self, flags: SettingsFlags, ops: &mut Vec<TableOp>) {
        self.setup.flags = flags;
        self.state.update_settings(&self.setup, ops);
    }

    fn configure(&mut self, config: Arc<Config>, now: Timestamp, commands: &mut Vec<Command>) {
        let former = self.state.clone();
        if let Err(refusal) = self.state.configure(&self.setup, config, now, commands) {
            self.state = former;
            commands.clear();
            commands.push(Command::Report(Report::Refused(refusal.to_string())));
        }
        for command in commands {
            if let Command::Apply(ops) = command {
                retire_last(ops);
            }
        }
    }
}

/// Moves the writes that end an origin's service behind the generation that no longer names it: the generation before
/// names it still, and may have nobody else.
fn retire_last(ops: &mut Vec<TableOp>) {
    let generation = |op: &TableOp| match op {
        TableOp::Settings(settings) => Some(settings.generation),
        _ => None,
    };
    let Some(newest) = ops.iter().rev().find_map(generation) else {
        return;
    };
    let Some(flip) = ops.iter().position(|op| generation(op) == Some(newest)) else {
        return;
    };
    let after = ops.split_off(flip + 1);
    let ends =
        |op: &TableOp| matches!(op, TableOp::Origin { record, .. } if record.state == OriginState::DRAINING);
    let (retiring, mut others): (Vec<_>, Vec<_>) = std::mem::take(ops).into_iter().partition(ends);
    ops.append(&mut others);
    ops.extend(retiring);
    ops.extend(after);
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
        self.generations.adopt(
            adopted.generation,
            &adopted.tables,
            &adopted.applications,
            &adopted.stale_applications,
        );
    }

    /// Does what follows from steps of targets.
    fn proceed(
        &mut self,
        steps: &[(TargetId, Progress)],
        ops: &mut Vec<TableOp>,
        commands: &mut Vec<Command>,
    ) {
        let mut flips = Vec::new();
        for &(target, progress) in steps {
            match progress {
                Progress::Nothing => {}
                Progress::Attempt(attempt) => {
                    commands.extend(self.probes.request(target, attempt).map(Command::Probe));
                }
                Progress::Confirmed => {
                    self.view_is_due = true;
                    self.records_are_due = true;
                }
                Progress::Changed { healthy } => flips.push((target, healthy)),
            }
        }
        self.flip(&flips, ops, commands);
    }

    /// When tables are to follow changes of health.
    fn rebuild_deadline(&self) -> Option<Timestamp> {
        let at_once = Timestamp::default();
        let deadline = self
            .rebuilt
            .map_or(at_once, |rebuilt| rebuilt.after(REBUILD_INTERVAL));
        (!self.stale_pools.is_empty()).then_some(deadline)
    }

    /// When results that changed nothing are to go out. Between a change of health and the tables that follow it the
    /// view would contradict itself; it goes out with the tables then.
    fn flush_deadline(&self) -> Option<Timestamp> {
        let due = (self.view_is_due || self.records_are_due) && self.stale_pools.is_empty();
        let at_once = Timestamp::default();
        due.then(|| {
            self.flushed
                .map_or(at_once, |flushed| flushed.after(FLUSH_INTERVAL))
        })
    }

    fn set_paths(&mut self, paths: BTreeMap<IpAddr, Path>, commands: &mut Vec<Command>) {
        // Without a configuration no address was asked for, so this says nothing of those that are missing.
        let Some(config) = self.config.clone() else { return };
        if self.paths.as_ref() == Some(&paths) {
            return;
        }
        self.paths = Some(paths);
        let mut ops = Vec::new();
        self.update_records(&config, &mut ops);
        if !ops.is_empty() {
            commands.push(Command::Apply(ops));
        }
        self.publish(commands);
    }

    fn forget(&mut self, setup: &Setup, origins: &[OriginId], commands: &mut Vec<Command>) {
        // A packet that is still being handled may have found such an origin in the tables of the generation before.
        let mut ops = vec![TableOp::Grace];
        for id in origins {
            if self.numbers.origins.forget(id.0) {
                self.records.clear(*id, &mut ops);
            }
        }
        if ops.len() > 1 {
            self.update_settings(setup, &mut ops);
            commands.push(Command::Apply(ops));
            self.watch(commands);
        }
    }

    /// Asks for the paths of all origins, those included that are gone and may still have flows.
    fn watch(&mut self, commands: &mut Vec<Command>) {
        let retired = self
            .numbers
            .origins
            .retired()
            .filter_map(|id| self.records.address(OriginId(id)));
        let mut addresses: Vec<IpAddr> = self
            .plan
            .origins()
            .map(|(_, origin)| origin.address)
            .chain(retired)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses != self.watched {
            self.watched.clone_from(&addresses);
            commands.push(Command::WatchPaths(addresses));
        }
    }

    /// Sends the view if it says anything new.
    fn publish(&mut self, commands: &mut Vec<Command>) {
        let Some(config) = self.config.clone() else { return };
        self.view_is_due = false;
        let view = self.snapshot(&config);
        if view != *self.view {
            self.view = Arc::new(view);
            commands.push(Command::Publish(Arc::clone(&self.view)));
        }
    }

    fn persist(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        self.records_are_due = false;
        let records = self.probes.iter().filter_map(|probed| {
            let (healthy, age) = probed.target.established(now)?;
            let pool = self.plan.pools.get(probed.pool)?;
            let origin = pool.origins.get(probed.origin)?;
            Some(HealthRecord {
                pool: pool.name.clone(),
                origin: origin.name.clone(),
                address: origin.address,
                monitor: probed.target.monitor().name.clone(),
                healthy,
                failure_reason: probed.target.failure().cloned(),
                age,
            })
        });
        commands.push(Command::Persist(records.collect()));
    }

    /// Sends what can wait, if it has waited long enough.
    fn flush(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        if self.flush_deadline().is_some_and(|deadline| deadline <= now) {
            self.flushed = Some(now);
            if self.view_is_due {
                self.publish(commands);
            }
            if self.records_are_due {
                self.persist(now, commands);
            }
        }
    }

    /// The state that an origin's record is to have.
    fn origin_state(&self, pool: usize, origin: usize) -> OriginState {
        match self.facts[pool].origins[origin].health {
            OriginHealth::Healthy => OriginState::UP,
            OriginHealth::Unhealthy | OriginHealth::Unknown => OriginState::DOWN,
            OriginHealth::Disabled => OriginState::DRAINING,
        }
    }
}
