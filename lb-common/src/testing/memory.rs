//! Tables in ordinary maps.

use crate::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, Hop, HopId, Ip, Origin,
    OriginId, Pool, PoolRow, Settings, Slot, Traffic,
};
use crate::datapath::{InsertError, Sample, Tables};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// All tables in memory. The configuration is public; what packets change stands behind cells.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    pub settings: Settings,
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
        self.pools.get(&row.0).copied()
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(&index).copied()
    }

    fn origin(&self, id: OriginId) -> Option<Origin> {
        self.origins.get(&id).copied()
    }

    fn hop(&self, id: HopId) -> Option<Hop> {
        self.hops.get(&id).copied()
    }

    fn snat_address(&self, index: u32) -> Option<Ip> {
        self.snat_addresses.get(&index).copied()
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
