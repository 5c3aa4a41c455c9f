//! From the configuration and health to tables: what a new configuration, a flip of health and a new path lead to.

use super::capacity::check_slots;
use super::design::protocol;
use super::layout::{Designs, Full};
use super::plan::{Plan, Refusal};
use super::records::Wanted;
use super::{Command, Report, Setup, State, TargetId};
use crate::health::OriginHealth;
use crate::image::TableOp;
use crate::model::{self, Access, Config, FlowTimeouts, OnUnhealthy, Prefix, SteeringPolicy};
use crate::steering::pool_standing;
use crate::time::Timestamp;
use core::time::Duration;
use lb_common::abi::{
    AccessList, ApplicationKey, Forwarding, Ip, Ip6, OriginFlags, OriginId, OriginState, Parity, Port, Rate,
    Settings, SettingsFlags, Timeouts, TunnelSource,
};
use std::collections::BTreeMap;
use std::sync::Arc;

impl State {
    /// Brings a configuration into force. When it fails, `self` is of no use any more.
    pub(super) fn configure(
        &mut self,
        setup: &Setup,
        config: Arc<Config>,
        now: Timestamp,
        commands: &mut Vec<Command>,
    ) -> Result<(), Refusal> {
        self.names.follow(&config, self.own.as_ref());
        self.names_followed(now, false);
        check_slots(&config, &self.names, &setup.capacity)?;
        let first = self.config.is_none();
        self.inherit_applications(&config);
        let former: BTreeMap<String, bool> = self.usability();
        self.stale_pools.clear();
        self.stale_vips = false;
        self.stale_lists = false;
        self.rebuilt = Some(now);
        let mut plan = Plan::new(&config, &self.names, &mut self.numbers)?;
        if !setup.assume_healthy {
            let records = &self.records;
            let adopts = first && setup.adopted;
            // An origin that serves goes on until its new monitor has spoken: another question is no answer.
            let inherits = |state: &OriginState| adopts || *state == OriginState::UP;
            self.probes.reconcile(
                &mut plan,
                |origin| records.state_of(origin.id, origin.identity).filter(inherits),
                now,
            );
        }
        let former_plan = core::mem::replace(&mut self.plan, plan);
        self.facts = (0..self.plan.pools.len())
            .map(|pool| self.pool_facts(setup, pool))
            .collect();
        self.update_drains(&former_plan, now);
        self.standings = self.facts.iter().map(pool_standing).collect();
        self.renew_figures();
        let by_latency = |policy| policy == SteeringPolicy::DynamicLatency;
        let mut balancers = config.load_balancers.iter();
        self.steers_by_latency = balancers.any(|balancer| balancer.uses(by_latency));
        self.designs = (0..self.plan.pools.len())
            .map(|pool| self.pool_design(pool))
            .collect();
        self.config = Some(Arc::clone(&config));

        let (mut shared, mut late) = (Vec::new(), Vec::new());
        self.update_records(&config, &mut shared, &mut late);
        self.update_timeouts(setup, &config, &mut shared);
        self.update_access(&config, &mut shared)?;
        self.lower_mtu(&mut shared);
        let mut ops = self.advance(setup, &config, true, shared)?.unwrap_or_default();
        ops.append(&mut late);
        self.settle(setup, &mut ops);
        self.remove_access(&config, &mut ops)?;
        commands.push(Command::Apply(ops));
        self.watch(commands);
        self.watch_names(commands);
        for index in 0..self.plan.pools.len() {
            // A pool that is new has changed nothing.
            if let Some(former) = former.get(&self.plan.pools[index].name) {
                self.report_pool(index, *former, commands);
            }
        }
        self.report_fallbacks(&config, commands);
        self.follow_sessions(setup, &config, commands);
        self.publish(commands);
        self.records_are_due = !setup.assume_healthy;
        Ok(())
    }

    /// Notes changes of health, and writes each origin's own record: that is what stops or allows new flows.
    pub(super) fn flip(
        &mut self,
        flips: &[(TargetId, bool)],
        ops: &mut Vec<TableOp>,
        commands: &mut Vec<Command>,
    ) {
        for &(target, healthy) in flips {
            let Some(probed) = self.probes.get(target) else {
                continue;
            };
            let (index, origin_index) = (probed.pool, probed.origin);
            let pool = &self.plan.pools[index];
            let origin = &pool.origins[origin_index];
            if pool.watchers.len() > 1 || !pool.is_monitored() {
                commands.push(Command::Report(Report::MonitorHealth {
                    pool: pool.name.clone(),
                    origin: origin.name.clone(),
                    address: origin.named_address(),
                    monitor: probed.target.monitor().name.clone(),
                    healthy,
                    reason: probed.target.failure().cloned(),
                }));
            }
            let health = self.verdict(pool, origin);
            if health == self.facts[index].origins[origin_index].health {
                self.view_is_due = true;
                self.records_are_due = true;
                continue;
            }
            if health != OriginHealth::Unknown {
                commands.push(Command::Report(Report::OriginHealth {
                    pool: pool.name.clone(),
                    origin: origin.name.clone(),
                    address: origin.named_address(),
                    healthy: health == OriginHealth::Healthy,
                    reason: self.failure(pool, origin),
                }));
            }
            let id = origin.id;
            self.facts[index].origins[origin_index].health = health;
            let state = self.origin_state(index, origin_index);
            let flags = self.origin_flags(index, origin_index);
            self.records.set_health(id, state, flags, ops);
            self.stale_pools.insert(index);
        }
    }

    /// Lets standings and tables follow the health of the pools concerned.
    pub(super) fn rebuild(
        &mut self,
        setup: &Setup,
        now: Timestamp,
        ops: &mut Vec<TableOp>,
        commands: &mut Vec<Command>,
    ) {
        let Some(config) = self.config.clone() else { return };
        self.rebuilt = Some(now);
        self.stale_vips = false;
        let stale = core::mem::take(&mut self.stale_pools);
        self.follow_latencies(&stale);
        self.stale_lists = false;
        for pool in stale {
            let former = self.standings[pool];
            self.standings[pool] = pool_standing(&self.facts[pool]);
            self.designs[pool] = self.pool_design(pool);
            self.report_pool(pool, former.is_usable_somewhere(), commands);
        }
        match self.advance(setup, &config, false, Vec::new()) {
            Ok(rebuilt) => {
                ops.extend(rebuilt.into_iter().flatten());
                self.settle(setup, ops);
            }
            // The packet path goes by the origins' records, so only shares are less exact until there is room.
            Err(full) => commands.push(Command::Report(Report::Refused(format!(
                "health has changed, and the tables could not follow: {full}"
            )))),
        }
        self.report_fallbacks(&config, commands);
        self.follow_sessions(setup, &config, commands);
        self.publish(commands);
        // While many origins change, what is written to the disk each time is all that is known.
        self.records_are_due = !setup.assume_healthy;
    }

    /// Brings the records that all generations share in line with the plan, health and paths. What ends an origin's
    /// service goes to `late`, for after the generation that no longer names it: the one before names it still, and may
    /// have nobody else.
    pub(super) fn update_records(
        &mut self,
        config: &Config,
        ops: &mut Vec<TableOp>,
        late: &mut Vec<TableOp>,
    ) {
        let mut wanted = Vec::new();
        for (pool_index, pool) in self.plan.pools.iter().enumerate() {
            for (origin_index, origin) in pool.origins.iter().enumerate() {
                wanted.push(Wanted {
                    id: origin.id,
                    identity: origin.identity,
                    address: origin.address,
                    port: origin.port,
                    state: self.origin_state(pool_index, origin_index),
                    flags: self.origin_flags(pool_index, origin_index),
                    max_flows: pool.max_flows,
                    forwarding: origin.forwarding,
                });
            }
        }
        let retired = self.numbers.origins.retired().map(OriginId);
        let retired: Vec<_> = retired.map(|id| (id, self.drains.state(id))).collect();
        self.records
            .update(&wanted, &retired, &self.paths, &config.datapath, ops, late);
    }

    /// Lets those origins drain that are disabled, or gone and not known to be without flows.
    fn update_drains(&mut self, former: &Plan, now: Timestamp) {
        let times: BTreeMap<OriginId, Duration> = former
            .origins()
            .map(|(pool, origin)| (origin.id, pool.drain_timeout))
            .collect();
        let mut draining = Vec::new();
        for (pool, facts) in self.plan.pools.iter().zip(&self.facts) {
            for (origin, facts) in pool.origins.iter().zip(&facts.origins) {
                if facts.health == OriginHealth::Disabled {
                    draining.push((origin.id, origin.identity, Some(pool.drain_timeout)));
                }
            }
        }
        for id in self.numbers.origins.retired().map(OriginId) {
            if let Some(identity) = self.records.identity(id) {
                draining.push((id, identity, times.get(&id).copied()));
            }
        }
        let records = &self.records;
        let ended = |id, identity| records.state_of(id, identity) == Some(OriginState::ENDED);
        self.drains.reconcile(draining.into_iter(), ended, now);
    }

    /// The flags that an origin's record is to have.
    fn origin_flags(&self, pool: usize, origin: usize) -> OriginFlags {
        let reset = self.plan.pools[pool].on_unhealthy == OnUnhealthy::Reset;
        // An origin that no probe has answered for yet is not known to be dead.
        let known = self.facts[pool].origins[origin].health != OriginHealth::Unknown;
        OriginFlags(if reset && known {
            OriginFlags::RESET_WHEN_DOWN
        } else {
            0
        })
    }

    /// Brings the idle times of the applications' flows in line with the configuration. Those of an application that is
    /// gone stay, for the flows that it still has.
    fn update_timeouts(&mut self, setup: &Setup, config: &Config, ops: &mut Vec<TableOp>) {
        for (planned, wanted) in self.plan.applications.iter().zip(&config.applications) {
            let application = planned.id;
            let times = wanted.flow_timeouts.or(&config.datapath.flow_timeouts);
            let record = timeouts(setup.hz, &times);
            if self.timeouts.insert(application, record) != Some(record) {
                ops.push(TableOp::Timeouts { application, record });
            }
        }
    }

    /// Writes the access lists and countries that the configuration needs.
    fn update_access(&mut self, config: &Config, ops: &mut Vec<TableOp>) -> Result<(), Full> {
        // Many applications may have the same long list.
        let mut placed: BTreeMap<Option<&Access>, AccessList> = BTreeMap::new();
        let mut place = |access| match placed.get(&access) {
            Some(list) => Ok(*list),
            None => {
                let list = self.access.place(access, ops)?;
                placed.insert(access, list);
                Ok(list)
            }
        };
        self.global_access = place(config.datapath.access.as_deref())?;
        for (planned, wanted) in self.plan.applications.iter_mut().zip(&config.applications) {
            planned.access = place(wanted.access.as_deref())?;
        }
        match &config.geoip {
            Some(table) => self.access.place_countries(table, ops),
            None => Ok(()),
        }
    }

    /// Removes the access lists and countries that only the generation before needs, once no packet reads it.
    fn remove_access(&mut self, config: &Config, ops: &mut Vec<TableOp>) -> Result<(), Full> {
        let used = self.plan.applications.iter().map(|planned| planned.access);
        let mut gone = self.access.retain(&used.chain([self.global_access]).collect());
        if config.geoip.is_none() {
            self.access.place_countries(&Arc::default(), &mut gone)?;
        }
        if !gone.is_empty() {
            ops.push(TableOp::Grace);
            ops.append(&mut gone);
        }
        Ok(())
    }

    /// The settings as the configuration and the records want them.
    fn settings(&self, setup: &Setup) -> Settings {
        let mut flags = setup.flags.0;
        if setup.trace_until != 0 {
            flags |= SettingsFlags::TRACE;
        }
        if self.records.forwards_by(Forwarding::DNAT) {
            flags |= SettingsFlags::DNAT;
        }
        if self.ranges {
            flags |= SettingsFlags::RANGES;
        }
        if has_countries(
            self.config
                .as_ref()
                .and_then(|config| config.datapath.access.as_deref()),
        ) {
            flags |= SettingsFlags::COUNTRIES;
        }
        let (reply_rate, tunnel_source) = self.config.as_ref().map_or_else(Default::default, |config| {
            let datapath = &config.datapath;
            (
                rate(setup.hz, Some(datapath.max_replies_per_second)),
                tunnel_source(&datapath.tunnel_source),
            )
        });
        Settings {
            hash_key: setup.hash_key,
            reply_rate,
            tunnel_source,
            smallest_mtu: self.smallest_mtu(),
            second: setup.hz,
            access: self.global_access,
            trace_until: setup.trace_until,
            snat_ports: setup.snat_ports,
            flags: SettingsFlags(flags),
            generation: self.generations.live(),
            max_direct: setup.max_flows.div_ceil(2),
        }
    }

    /// The smallest MTU of interfaces and next hops; 0: there are none.
    pub(super) fn smallest_mtu(&self) -> u32 {
        let interfaces = self.interfaces.values().map(|interface| interface.mtu);
        interfaces.chain(self.records.smallest_mtu()).min().unwrap_or(0)
    }

    /// Lets the settings know of smaller MTUs before those are written.
    pub(super) fn lower_mtu(&mut self, ops: &mut Vec<TableOp>) {
        let mtu = self.smallest_mtu();
        if self.config.is_some() && mtu < self.settings.smallest_mtu {
            self.settings.smallest_mtu = mtu;
            ops.insert(0, TableOp::Settings(self.settings));
        }
    }

    /// Writes the settings if they changed and there is a generation that they hold for.
    pub(super) fn update_settings(&mut self, setup: &Setup, ops: &mut Vec<TableOp>) {
        let settings = self.settings(setup);
        if self.config.is_some() && settings.generation != 0 && settings != self.settings {
            self.settings = settings;
            ops.push(TableOp::Settings(settings));
        }
    }

    /// Applications that the maps know by address keep their counters under their name.
    fn inherit_applications(&mut self, config: &Config) {
        if self.inherited_applications.is_empty() {
            return;
        }
        let inherited = core::mem::take(&mut self.inherited_applications);
        for application in &config.applications {
            for address in &application.addresses {
                let found = [Parity(0), Parity(1)].into_iter().find_map(|parity| {
                    inherited.get(&ApplicationKey {
                        address: Ip::from(*address),
                        port: Port::new(application.ports.first()),
                        protocol: protocol(application.transport),
                        parity,
                    })
                });
                if let Some(id) = found {
                    self.numbers.applications.adopt(application.name.clone(), *id);
                }
            }
        }
        for id in inherited.into_values() {
            self.numbers.applications.reserve(id);
        }
    }

    pub(super) fn advance(
        &mut self,
        setup: &Setup,
        config: &Config,
        even_if_equal: bool,
        shared: Vec<TableOp>,
    ) -> Result<Option<Vec<TableOp>>, Full> {
        let (listeners, routes) = self.listeners(setup, config);
        self.roles = self.records.roles();
        self.ranges = listeners.iter().any(|listener| listener.ports.is_range());
        let wanted = self.settings(setup);
        // A packet of the generation before may still need what only that one asks for.
        let flags = SettingsFlags(wanted.flags.0 | self.settings.flags.0);
        let smallest_mtu = match self.settings.generation {
            0 => wanted.smallest_mtu,
            _ => wanted.smallest_mtu.min(self.settings.smallest_mtu),
        };
        let settings = |generation| Settings {
            flags,
            generation,
            smallest_mtu,
            ..wanted
        };
        let designs = Designs {
            pools: &self.designs,
            vips: &self.vips(&listeners),
            listeners: &listeners,
            routes: &routes,
        };
        let ops = self
            .generations
            .advance(&designs, settings, even_if_equal, shared)?;
        if ops.is_some() {
            self.settings = settings(self.generations.live());
        }
        Ok(ops)
    }

    /// Takes back what only the generation before needed, once all else that follows a new one is written.
    pub(super) fn settle(&mut self, setup: &Setup, ops: &mut Vec<TableOp>) {
        if self.settings(setup) != self.settings {
            ops.push(TableOp::Grace);
            self.update_settings(setup, ops);
        }
    }

    fn usability(&self) -> BTreeMap<String, bool> {
        let pools = self.plan.pools.iter().zip(&self.standings);
        pools
            .map(|(pool, standing)| (pool.name.clone(), standing.is_usable_somewhere()))
            .collect()
    }

    /// Reports a pool that got or lost new flows.
    fn report_pool(&self, index: usize, former: bool, commands: &mut Vec<Command>) {
        let (pool, standing) = (&self.plan.pools[index], self.standings[index]);
        let usable = standing.is_usable_somewhere();
        if usable != former {
            commands.push(Command::Report(Report::PoolHealth {
                pool: pool.name.clone(),
                usable,
                healthy_origins: standing.healthy_origins,
                minimum_origins: pool.minimum_origins,
            }));
        }
    }

    fn report_fallbacks(&mut self, config: &Config, commands: &mut Vec<Command>) {
        let mut fallbacks = BTreeMap::new();
        for balancer in &config.load_balancers {
            let active = self.is_on_fallback(config, balancer);
            if active != self.fallbacks.get(&balancer.name).copied().unwrap_or(false) {
                let load_balancer = balancer.name.clone();
                commands.push(Command::Report(Report::Fallback {
                    load_balancer,
                    active,
                }));
            }
            fallbacks.insert(balancer.name.clone(), active);
        }
        self.fallbacks = fallbacks;
    }
}

/// Whether the country of a client counts.
pub(super) fn has_countries(access: Option<&Access>) -> bool {
    access.is_some_and(Access::has_countries)
}

/// So many events a second; `None` or 0: any number.
pub(super) fn rate(hz: u32, per_second: Option<u32>) -> Rate {
    match per_second {
        None | Some(0) => Rate::NONE,
        Some(count) => Rate(((u64::from(hz) << 32) / u64::from(count)).max(1)),
    }
}

fn tunnel_source(source: &model::TunnelSource) -> TunnelSource {
    // Of a short prefix the last 32 bits: they are all that the packet path fills.
    let mask = |prefix: Prefix| {
        let free = u32::from(prefix.bits() - prefix.length()).min(32);
        u32::MAX.checked_shr(32 - free).unwrap_or(0).to_be()
    };
    let mut record = TunnelSource::default();
    if let Some(prefix) = source.v4
        && let Some(address) = Ip::from(prefix.address()).v4()
    {
        (record.prefix4, record.mask4) = (address.0, mask(prefix));
    }
    if let Some(prefix) = source.v6 {
        (record.prefix6, record.mask6) = (Ip6(Ip::from(prefix.address()).0), mask(prefix));
    }
    record
}

/// A time in jiffies; never 0.
pub(super) fn jiffies(hz: u32, time: Duration) -> u32 {
    let jiffies = time.as_millis().saturating_mul(u128::from(hz)) / 1000;
    u32::try_from(jiffies).unwrap_or(u32::MAX).max(1)
}

fn timeouts(hz: u32, times: &FlowTimeouts) -> Timeouts {
    Timeouts {
        tcp: jiffies(hz, times.tcp),
        tcp_handshake: jiffies(hz, times.tcp_handshake),
        tcp_closing: jiffies(hz, times.tcp_closing),
        udp: jiffies(hz, times.udp),
    }
}
