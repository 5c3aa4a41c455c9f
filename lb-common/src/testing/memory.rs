//! Tables in ordinary maps.

use crate::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, Hop, HopId, Ip, Origin,
    OriginId, Pool, PoolRow, Settings, Slot, Traffic,
};
use crate::datapath::{DropReason, InsertError, Pass, Reply, Sample, Tables};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// All tables in memory. The configuration is public; what packets change stands behind cells.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    pub settings: Settings,
    /// Rows that every array has. As in the kernel, a row below it that was never written holds zeros.
    pub array_rows: u32,
    pub applications: BTreeMap<ApplicationKey, Application>,
    pub pools: BTreeMap<u32, Pool>,
    pub slots: BTreeMap<u32, Slot>,
    pub origins: BTreeMap<OriginId, Origin>,
    pub hops: BTreeMap<HopId, Hop>,
    pub snat_addresses: BTreeMap<u32, Ip>,
    pub flows4: RefCell<BTreeMap<FlowKey4, Flow4>>,
    pub flows6: RefCell<BTreeMap<FlowKey6, Flow6>>,
    pub verdicts: RefCell<BTreeMap<u32, u64>>,
    pub application_traffic: RefCell<BTreeMap<u32, Traffic>>,
    pub origin_traffic: RefCell<BTreeMap<u32, Traffic>>,
}

/// Adds one packet to a counter row, as the kernel program does.
pub fn add(row: &mut Traffic, sample: Sample) {
    if sample.side == FlowSide::CLIENT {
        row.packets_in += 1;
        row.bytes_in += sample.bytes;
    } else {
        row.packets_out += 1;
        row.bytes_out += sample.bytes;
    }
}

fn insert<K: Ord + Copy, V: Copy>(
    map: &RefCell<BTreeMap<K, V>>,
    key: &K,
    value: &V,
) -> Result<(), InsertError> {
    let mut map = map.borrow_mut();
    if map.contains_key(key) {
        return Err(InsertError::Exists);
    }
    map.insert(*key, *value);
    Ok(())
}

impl MemoryTables {
    fn row<K: Ord, V: Copy + Default>(&self, array: &BTreeMap<K, V>, key: K, index: u32) -> Option<V> {
        let unwritten = (index < self.array_rows).then(V::default);
        array.get(&key).copied().or(unwritten)
    }

    /// Every counter that is not zero, by its name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = BTreeMap::new();
        let names = (Pass::ALL
            .iter()
            .map(|reason| (reason.row(), "pass", reason.name())))
        .chain(
            Reply::ALL
                .iter()
                .map(|reply| (reply.row(), "reply", reply.name())),
        )
        .chain(
            DropReason::ALL
                .iter()
                .map(|reason| (reason.row(), "drop", reason.name())),
        );
        let verdicts = self.verdicts.borrow();
        for (row, kind, name) in names {
            let count = verdicts.get(&row).copied().unwrap_or_default();
            counters.insert(format!("{kind} {name}"), count);
        }
        for (kind, rows) in [
            ("application", &self.application_traffic),
            ("origin", &self.origin_traffic),
        ] {
            for (id, row) in rows.borrow().iter() {
                for (what, count) in [
                    ("in", row.packets_in),
                    ("bytes in", row.bytes_in),
                    ("out", row.packets_out),
                    ("bytes out", row.bytes_out),
                    ("new", row.new_flows),
                ] {
                    counters.insert(format!("{kind} {id} {what}"), count);
                }
            }
        }
        counters.retain(|_, count| *count != 0);
        Counters(counters)
    }
}

/// Counters by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters(pub BTreeMap<String, u64>);

impl Counters {
    /// What has moved since `before`, and by how much, sorted by name.
    #[must_use]
    pub fn since(&self, before: &Self) -> String {
        let moved = self.0.iter().filter_map(|(name, count)| {
            let by = count - before.0.get(name).copied().unwrap_or_default();
            (by != 0).then(|| format!("{name} {by}"))
        });
        moved.collect::<Vec<_>>().join(", ")
    }
}

impl Tables for MemoryTables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn generation(&self) -> u32 {
        self.settings.generation
    }

    fn application(&self, key: &ApplicationKey) -> Option<Application> {
        self.applications.get(key).copied()
    }

    fn pool(&self, row: PoolRow) -> Option<Pool> {
        self.row(&self.pools, row.0, row.0)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.row(&self.slots, index, index)
    }

    fn origin(&self, id: OriginId) -> Option<Origin> {
        self.row(&self.origins, id, id.0)
    }

    fn hop(&self, id: HopId) -> Option<Hop> {
        self.row(&self.hops, id, id.0)
    }

    fn snat_address(&self, index: u32) -> Option<Ip> {
        self.row(&self.snat_addresses, index, index)
    }

    fn flow4<R>(&self, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        self.flows4.borrow_mut().get_mut(key).map(visit)
    }

    fn insert4(&self, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError> {
        insert(&self.flows4, key, flow)
    }

    fn remove4(&self, key: &FlowKey4) {
        self.flows4.borrow_mut().remove(key);
    }

    fn flow6<R>(&self, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        self.flows6.borrow_mut().get_mut(key).map(visit)
    }

    fn insert6(&self, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError> {
        insert(&self.flows6, key, flow)
    }

    fn remove6(&self, key: &FlowKey6) {
        self.flows6.borrow_mut().remove(key);
    }

    fn count(&self, row: u32) {
        *self.verdicts.borrow_mut().entry(row).or_default() += 1;
    }

    fn count_packet(&self, application: u32, origin: OriginId, sample: Sample) {
        add(
            self.application_traffic
                .borrow_mut()
                .entry(application)
                .or_default(),
            sample,
        );
        add(
            self.origin_traffic.borrow_mut().entry(origin.0).or_default(),
            sample,
        );
    }

    fn count_flow(&self, application: u32, origin: OriginId) {
        self.application_traffic
            .borrow_mut()
            .entry(application)
            .or_default()
            .new_flows += 1;
        self.origin_traffic
            .borrow_mut()
            .entry(origin.0)
            .or_default()
            .new_flows += 1;
    }
}
