//! Generations: the tables and lists that belong to one configuration and one state of health.
//!
//! The maps hold two generations side by side. A new one is written where the one before last stood, and becomes
//! visible as a whole by one write of the settings. A packet that is still being handled may read the generation
//! before the live one, so a grace period comes before its rows and slots are written over.

use super::Adopted;
use super::buckets::{Buckets, Succession};
use super::layout::{Designs, Full, Layout, ListenerDesign, Runs};
use super::routing::PoolListDesign;
use crate::image::{Capacity, TableOp};
use crate::steering::Family;
use lb_common::abi::{
    Application, ApplicationFlags, ApplicationKey, BucketRun, Parity, Pool, PoolId, PoolList, Port, PortSpan,
    Route, RouteKey, Settings, Spans, Steering, Table, Vip, VipKey,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the maps hold for one parity, as far as it is known.
#[derive(Clone, PartialEq, Debug, Default)]
struct Held {
    pools: BTreeMap<PoolId, Pool>,
    /// `None`: there is a record and its contents are not known.
    applications: BTreeMap<ApplicationKey, Option<Application>>,
    /// As `applications`.
    vips: BTreeMap<VipKey, Option<Vip>>,
    /// As `applications`.
    routes: BTreeMap<RouteKey, Option<Route>>,
    /// Bases of the runs of slots that this generation uses.
    slots: BTreeSet<u32>,
    /// Bases of the runs of port ranges that this generation uses.
    spans: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub struct Generations {
    live: u32,
    capacity: Capacity,
    slots: Runs<Arc<Layout>, u32>,
    spans: Runs<Vec<PortSpan>, PortSpan>,
    buckets: Buckets,
    /// The adopted generation, as long as its runs are not free.
    adopted: Option<u32>,
    /// By parity.
    held: [Held; 2],
}

impl Generations {
    pub fn new(capacity: Capacity) -> Self {
        Self {
            live: 0,
            capacity,
            slots: Runs::new("slots (two generations)", capacity.slots),
            spans: Runs::new("ranges of ports (two generations)", capacity.spans),
            buckets: Buckets::new(capacity.buckets),
            adopted: None,
            held: [Held::default(), Held::default()],
        }
    }

    /// Takes over what a former daemon left: its live generation stays as it is until the next one is complete.
    pub fn adopt(&mut self, adopted: &Adopted) {
        self.live = adopted.settings.generation;
        for table in &adopted.tables {
            self.slots.reserve(table.base, table.size);
        }
        for (_, vip) in &adopted.vips {
            for Spans { base, count } in [vip.tcp, vip.udp] {
                self.spans.reserve(base, count);
            }
        }
        self.adopted = Some(self.live);
        self.buckets
            .adopt(adopted.applications.iter().map(|(_, record)| record));
        for (key, record) in &adopted.applications {
            self.held_mut(key.parity).applications.insert(*key, Some(*record));
        }
        for key in &adopted.stale_applications {
            self.held_mut(key.parity).applications.insert(*key, None);
        }
        for (key, record) in &adopted.vips {
            self.held_mut(key.parity).vips.insert(*key, Some(*record));
        }
        for key in &adopted.stale_vips {
            self.held_mut(key.parity).vips.insert(*key, None);
        }
        for (key, record) in &adopted.routes {
            self.held_mut(key.parity).routes.insert(*key, Some(*record));
        }
        for key in &adopted.stale_routes {
            self.held_mut(key.parity).routes.insert(*key, None);
        }
    }

    /// Number of the live generation; 0: there is none yet.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Writes the next generation if it differs from the live one, or in any case if `even_if_equal`. `shared` are the
    /// writes of records that all generations share; they come after the grace period and before the tables. Nothing
    /// changes when it fails.
    pub fn advance(
        &mut self,
        designs: &Designs<'_>,
        settings: impl FnOnce(u32) -> Settings,
        even_if_equal: bool,
        shared: Vec<TableOp>,
    ) -> Result<Option<Vec<TableOp>>, Full> {
        let parity = Parity((self.live & 1) as u8).other();
        self.release_unused(parity.other());
        let mut runs = Vec::new();
        let mut next = self.lay_out(designs, parity, &mut runs)?;
        let unsettled = self.relocated(&next, parity, &runs);
        if !even_if_equal && self.is_live(&next) {
            return Ok(None);
        }

        let mut ops = Vec::new();
        if self.live != 0 {
            ops.push(TableOp::Grace);
        }
        ops.extend(shared);
        ops.extend(runs);
        let held = self.held_mut(parity);
        // What is not wanted any more makes room first.
        for key in held.applications.keys() {
            if !next.applications.contains_key(key) {
                ops.push(TableOp::RemoveApplication { key: *key });
            }
        }
        for key in held.vips.keys().filter(|key| !next.vips.contains_key(key)) {
            ops.push(TableOp::RemoveVip { key: *key });
        }
        for key in held.routes.keys().filter(|key| !next.routes.contains_key(key)) {
            ops.push(TableOp::RemoveRoute { key: *key });
        }
        for (id, record) in &next.pools {
            if held.pools.get(id) != Some(record) {
                ops.push(TableOp::Pool {
                    row: id.row(parity),
                    record: *record,
                });
            }
        }
        for (key, record) in &next.applications {
            if held.applications.get(key) != Some(record) {
                ops.extend(record.map(|record| TableOp::Application { key: *key, record }));
            }
        }
        for (key, record) in &next.vips {
            if held.vips.get(key) != Some(record) {
                ops.extend(record.map(|record| TableOp::Vip { key: *key, record }));
            }
        }
        for (key, record) in &next.routes {
            if held.routes.get(key) != Some(record) {
                ops.extend(record.map(|record| TableOp::Route { key: *key, record }));
            }
        }
        ops.extend(unsettled);
        // Rows of pools that are gone keep what they hold.
        for (id, record) in &held.pools {
            next.pools.entry(*id).or_insert(*record);
        }
        *held = next;
        self.live = following(self.live);
        ops.push(TableOp::Settings(settings(self.live)));
        Ok(Some(ops))
    }

    /// The rows of a layout, whether or not it stands anywhere.
    pub fn rows(&self, layout: &Arc<Layout>) -> Arc<Vec<u32>> {
        let placed = self.slots.get(layout);
        placed.map_or_else(|| Arc::new(layout.build()), |run| Arc::clone(&run.rows))
    }

    /// Everything of the live generation.
    pub fn image(&self, ops: &mut Vec<TableOp>) {
        let parity = Parity((self.live & 1) as u8);
        let held = &self.held[usize::from(parity.0 & 1)];
        for run in self.slots.iter().filter(|run| held.slots.contains(&run.base)) {
            ops.push(TableOp::Slots {
                base: run.base,
                owners: run.rows.to_vec(),
            });
        }
        for run in self.spans.iter().filter(|run| held.spans.contains(&run.base)) {
            ops.push(TableOp::Spans {
                base: run.base,
                spans: run.rows.to_vec(),
            });
        }
        ops.extend(held.pools.iter().map(|(id, record)| TableOp::Pool {
            row: id.row(parity),
            record: *record,
        }));
        for (key, record) in &held.applications {
            ops.extend(record.map(|record| TableOp::Application { key: *key, record }));
        }
        for (key, record) in &held.vips {
            ops.extend(record.map(|record| TableOp::Vip { key: *key, record }));
        }
        for (key, record) in &held.routes {
            ops.extend(record.map(|record| TableOp::Route { key: *key, record }));
        }
    }

    fn held_mut(&mut self, parity: Parity) -> &mut Held {
        &mut self.held[usize::from(parity.0 & 1)]
    }

    /// Frees all runs but those of the live generation. What is written there afterwards follows a grace period.
    fn release_unused(&mut self, live: Parity) {
        let live = &self.held[usize::from(live.0 & 1)];
        self.slots.retain(&live.slots);
        self.spans.retain(&live.spans);
        self.buckets.retain(live.applications.values().flatten());
        if self.adopted.is_some_and(|generation| generation != self.live) {
            self.adopted = None;
            self.slots.forget_reserved();
            self.spans.forget_reserved();
        }
    }

    fn lay_out(
        &mut self,
        designs: &Designs<'_>,
        parity: Parity,
        runs: &mut Vec<TableOp>,
    ) -> Result<Held, Full> {
        let Capacity {
            applications,
            vips,
            routes,
            ..
        } = self.capacity;
        for (what, needed, available) in [
            ("addresses of applications", designs.listeners.len(), applications),
            (
                "addresses of applications, nat and dnat",
                designs.vips.len(),
                vips,
            ),
            (
                "countries with pools of their own, by load balancer",
                designs.routes.len(),
                routes,
            ),
        ] {
            // Two generations.
            let (needed, available) = (needed as u64, u64::from(available / 2));
            if needed > available {
                return Err(Full {
                    what,
                    needed,
                    available,
                });
            }
        }
        let mut next = Held::default();
        for pool in designs.pools {
            let mut record = Pool {
                flags: pool.flags,
                ..Pool::default()
            };
            for (table, layout) in record.tables.iter_mut().zip(&pool.tables) {
                *table = self.table(layout.as_ref(), &mut next, runs)?;
            }
            next.pools.insert(pool.id, record);
        }
        self.hand_buckets_on(designs, parity);
        for listener in designs.listeners {
            let table = self.table(listener.pools.layout.as_ref(), &mut next, runs)?;
            let key = listener.key(parity);
            let (buckets, flag) = self.buckets.place(listener.application, listener.untracked, runs);
            let record = Application {
                buckets,
                flags: ApplicationFlags(listener.flags.0 | flag.0),
                ..record(listener, table)
            };
            next.applications.insert(key, Some(record));
        }
        for route in designs.routes {
            let table = self.table(route.pools.layout.as_ref(), &mut next, runs)?;
            let key = RouteKey {
                set: route.set,
                country: route.country,
                parity,
                v6: u8::from(route.family == Family::V6),
                reserved: [0; 2],
            };
            let record = Route {
                pools: pool_list(&route.pools, table),
                fallback: route.pools.fallback,
            };
            next.routes.insert(key, Some(record));
        }
        for vip in designs.vips {
            let key = VipKey {
                address: vip.address,
                parity,
                reserved: [0; 3],
            };
            let record = Vip {
                tcp: self.spans(&vip.tcp, &mut next, runs)?,
                udp: self.spans(&vip.udp, &mut next, runs)?,
                echo: vip.echo.into(),
                role: vip.role,
            };
            next.vips.insert(key, Some(record));
        }
        Ok(next)
    }

    /// Lets applications that listen where the live generation has others keep the flows without entries.
    fn hand_buckets_on(&mut self, designs: &Designs<'_>, parity: Parity) {
        let live = &self.held[usize::from(parity.other().0 & 1)];
        let addresses: Vec<Succession<'_>> = (designs.listeners.iter())
            .map(|listener| Succession {
                application: listener.application,
                former: (live.applications.get(&listener.key(parity.other()))).and_then(Option::as_ref),
            })
            .collect();
        self.buckets.hand_on(&addresses);
    }

    /// Has entries be looked for where an address gets buckets that it does not have in the live generation: those that were
    /// made there are no entries of theirs yet. What `runs` empties is not relied on anyway.
    fn relocated(&self, next: &Held, parity: Parity, runs: &[TableOp]) -> Vec<TableOp> {
        let live = &self.held[usize::from(parity.other().0 & 1)];
        let new: BTreeSet<u32> = (runs.iter())
            .filter_map(|op| match op {
                TableOp::Buckets { base, .. } => Some(*base),
                _ => None,
            })
            .collect();
        let relocated: BTreeSet<BucketRun> = (next.applications.iter())
            .filter_map(|(key, record)| {
                let run = record.as_ref()?.buckets;
                let parity = parity.other();
                let former = live.applications.get(&ApplicationKey { parity, ..*key });
                let stays = former.is_some_and(|former| former.is_some_and(|former| former.buckets == run));
                (run != BucketRun::NONE && !stays && !new.contains(&run.base())).then_some(run)
            })
            .collect();
        (relocated.iter())
            .map(|run| TableOp::Unsettle {
                base: run.base(),
                count: run.rows(),
            })
            .collect()
    }

    /// Where a layout stands; it is built and written if it stands nowhere yet.
    fn table(
        &mut self,
        layout: Option<&Arc<Layout>>,
        next: &mut Held,
        ops: &mut Vec<TableOp>,
    ) -> Result<Table, Full> {
        let Some(layout) = layout else {
            return Ok(Table::default());
        };
        let (run, is_new) = self.slots.place(layout, || layout.build())?;
        let (base, size) = (run.base, run.size());
        if is_new {
            let owners = run.rows.to_vec();
            ops.push(TableOp::Slots { base, owners });
        }
        next.slots.insert(base);
        Ok(Table { base, size })
    }

    /// Where ranges of ports stand; they are written if they stand nowhere yet.
    fn spans(
        &mut self,
        spans: &Vec<PortSpan>,
        next: &mut Held,
        ops: &mut Vec<TableOp>,
    ) -> Result<Spans, Full> {
        if spans.is_empty() {
            return Ok(Spans::default());
        }
        let (run, is_new) = self.spans.place(spans, || spans.clone())?;
        let (base, count) = (run.base, run.size());
        if is_new {
            let spans = spans.clone();
            ops.push(TableOp::Spans { base, spans });
        }
        next.spans.insert(base);
        Ok(Spans { base, count })
    }

    /// Whether the live generation already says what `next` says.
    fn is_live(&self, next: &Held) -> bool {
        let live = &self.held[(self.live & 1) as usize];
        let same_application = |(key, record): (&ApplicationKey, &Option<Application>)| {
            let parity = key.parity.other();
            live.applications.get(&ApplicationKey { parity, ..*key }) == Some(record)
        };
        let same_vip = |(key, record): (&VipKey, &Option<Vip>)| {
            let parity = key.parity.other();
            live.vips.get(&VipKey { parity, ..*key }) == Some(record)
        };
        let same_route = |(key, record): (&RouteKey, &Option<Route>)| {
            let parity = key.parity.other();
            live.routes.get(&RouteKey { parity, ..*key }) == Some(record)
        };
        let same_pool = |(id, record): (&PoolId, &Pool)| live.pools.get(id) == Some(record);
        self.live != 0
            && next.pools.iter().all(same_pool)
            && live.applications.len() == next.applications.len()
            && next.applications.iter().all(same_application)
            && live.vips.len() == next.vips.len()
            && next.vips.iter().all(same_vip)
            && live.routes.len() == next.routes.len()
            && next.routes.iter().all(same_route)
    }
}

fn pool_list(design: &PoolListDesign, table: Table) -> PoolList {
    PoolList {
        base: table.base,
        extent: match design.steering {
            Steering::ORDERED => table.size,
            _ => table.size.saturating_sub(1),
        },
        steering: design.steering,
    }
}

fn record(listener: &ListenerDesign, table: Table) -> Application {
    let first_port = match listener.ports.is_range() {
        true => Port::new(listener.ports.first()),
        false => Port::default(),
    };
    Application {
        id: listener.application,
        pools: pool_list(&listener.pools, table),
        fallback: listener.pools.fallback,
        origin_port: listener.origin_port,
        first_port,
        flags: listener.flags,
        access: listener.access,
        affinity_ttl: listener.affinity_ttl,
        affinity_epoch: listener.affinity_epoch,
        routes: listener.routes,
        buckets: BucketRun::NONE,
        rate: listener.rate,
        source_rate: listener.source_rate,
    }
}

/// The number after `generation`: of the other parity, and never 0, which means that there is none.
fn following(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 2,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_generation_has_the_other_parity_and_is_never_0() {
        for generation in [0, 1, 7, u32::MAX - 1, u32::MAX] {
            let next = following(generation);
            assert_ne!(next, 0);
            assert_ne!(next & 1, generation & 1);
        }
    }
}
