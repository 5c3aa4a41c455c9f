//! lb's flow tables.

use crate::cases::{Build, Case};
use crate::frame::{Numbered, entries, opening};
use crate::layout::Shape;
use crate::modes::Mode;
use anyhow::{Context, Result, bail};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::abi::{Forwarding, Protocol, maps};
use lb_core::image::Capacity;
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::sys;
use std::os::fd::AsFd;

const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];
/// The fewest flows that a table has room for.
const LEAST: u32 = 1 << 17;
/// Flows written by one system call.
const CHUNK: usize = 1 << 15;

/// Flows that lb must have room for, of each family.
pub fn room(build: Build, shape: Shape) -> u32 {
    let known = Mode::ALL.into_iter().flat_map(|mode| {
        PROTOCOLS.map(|protocol| {
            let entries = match (build.tracks(mode, protocol), mode.forwarding().is_direct()) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => 2,
            };
            entries * mode.flows(protocol, shape.flows)
        })
    });
    let entries = known.sum::<u32>();
    // Two entries a flow; and room, because lists of free entries are kept for each CPU.
    (entries / 2 + entries / 16).max(LEAST)
}

/// Entries of each family's table of new flows: they are evicted when it is full.
pub fn tentative(build: Build, shape: Shape) -> u32 {
    let sizes = MapSizes {
        capacity: Capacity::default(),
        max_flows: room(build, shape),
    };
    sizes.entries(maps::TENTATIVE4).unwrap_or(LEAST)
}

/// One table.
pub struct Flows<K, V> {
    raw: MapData,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + bytemuck::Pod, V: Pod + bytemuck::Pod> Flows<K, V> {
    /// Of the same map twice.
    ///
    /// # Errors
    /// It is of another kind, or of another layout than this tree's.
    pub fn new(raw: Map, map: Map) -> Result<Self> {
        let (Map::HashMap(raw) | Map::LruHashMap(raw)) = raw else {
            bail!("a flow table is no hash")
        };
        let map = map.try_into()?;
        Ok(Self { raw, map })
    }

    /// Adds the flows that are known, in an order that is not the one of their packets. TCP's and UDP's alternate: what
    /// is added last is found first in its bucket.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fill<F: Numbered<Key = K, Flow = V>>(
        &self,
        (build, shape): (Build, Shape),
        mode: Mode,
        now: u32,
    ) -> Result<()> {
        const ORDER: u32 = 0x85eb_ca6b;
        let flows = PROTOCOLS.map(|protocol| mode.flows(protocol, shape.flows));
        let most = flows[0].max(flows[1]);
        let mask = most.next_power_of_two() - 1;
        let order: Vec<u32> = (0..=mask)
            .map(|turn| turn.wrapping_mul(ORDER) & mask)
            .filter(|&flow| flow < most)
            .collect();
        for chunk in order.chunks(CHUNK) {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for &flow in chunk {
                for (protocol, flows) in PROTOCOLS.into_iter().zip(flows) {
                    if flow >= flows {
                        continue;
                    }
                    let both = entries::<F>((build, shape), mode, protocol, flow, now);
                    for (key, value) in both.origin.into_iter().chain(both.client) {
                        keys.push(key);
                        values.push(value);
                    }
                }
            }
            sys::update(self.raw.fd().as_fd(), &keys, &values).context("fill a flow table")?;
        }
        Ok(())
    }

    /// Of these flows, which a case has opened, how many are not there with both entries; of a case whose flows need no
    /// entries, how many are.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn amiss<F: Numbered<Key = K, Flow = V>>(&self, case: &Case, flows: &[u32]) -> Result<u64> {
        let direct = case.mode.forwarding().is_direct();
        let tracked = case.tracks();
        let mut amiss = 0;
        for &flow in flows {
            let Some(entry) = self.find(&F::key(&opening::<F>(case, flow)))? else {
                amiss += u64::from(tracked);
                continue;
            };
            let back = F::key(&F::leaving(&entry, case.protocol).reversed());
            let whole = direct || self.find(&back)?.is_some();
            amiss += u64::from(!tracked || !whole);
        }
        Ok(amiss)
    }

    fn find(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("look for a new flow"),
        }
    }

    /// Entries of flows that need none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn needless(&self, core: impl Fn(&K, &V) -> (Protocol, Forwarding)) -> Result<u64> {
        let mut count = 0;
        sys::for_each(self.raw.fd().as_fd(), |key: &K, flow: &V| {
            let (protocol, forwarding) = core(key, flow);
            count += u64::from(protocol == Protocol::TCP && forwarding.is_direct());
        })
        .context("read a flow table")?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_flows_of_each_kind_stay_bounded() {
        let million = |build| room(build, Shape::usual(1_000_000));
        // NAT's four entries of both protocols, and little more; with those of two modes' TCP.
        let (present, tracking) = (million(Build::Present), million(Build::Tracking));
        assert!((2_000_000..3_500_000).contains(&present), "{present}");
        assert!((present + 1_000_000..4_500_000).contains(&tracking), "{tracking}");
        assert_eq!(room(Build::Present, Shape::usual(1)), LEAST);
    }
}
