//! Next hops: a row for each neighbour on an interface, shared by all origins behind it.

use super::ids::{Ids, Reuse};
use crate::image::TableOp;
use core::net::IpAddr;
use lb_common::abi::{Hop, HopId, Mac, Origin, Tag};
use std::collections::{BTreeMap, BTreeSet};

/// [`super::Path::Via`] as a value.
pub struct Via<'a> {
    pub ifindex: u32,
    pub tags: [Tag; 2],
    pub next_hop: IpAddr,
    pub neighbour: Option<Mac>,
    pub interface: Mac,
    pub mtu: u16,
    pub sources: &'a [IpAddr],
}

/// Next hops, one for each neighbour on an interface.
#[derive(Clone, Debug)]
pub struct Hops {
    ids: Ids<(u32, [Tag; 2], IpAddr)>,
    pub records: BTreeMap<HopId, Hop>,
    /// Rows of a former daemon, of which it is not known which neighbour they stood for.
    adopted: BTreeMap<HopId, Option<Hop>>,
}

impl Hops {
    pub fn new(capacity: u32) -> Self {
        Self {
            ids: Ids::new(1, capacity),
            records: BTreeMap::new(),
            adopted: BTreeMap::new(),
        }
    }

    pub fn adopt<'a>(&mut self, hops: &[(HopId, Hop)], origins: impl Iterator<Item = &'a Origin>) {
        self.adopted = origins.map(|record| (record.hop, None)).collect();
        for (id, hop) in hops {
            self.adopted.entry(*id).and_modify(|known| *known = Some(*hop));
        }
        self.adopted.remove(&HopId::UNRESOLVED);
        for id in self.adopted.keys() {
            self.ids.block(id.0);
        }
    }

    /// Writes the hop of a path if need be.
    pub fn place(&mut self, path: &Via<'_>, ops: &mut Vec<TableOp>) -> Option<HopId> {
        let key = (path.ifindex, path.tags, path.next_hop);
        let record = Hop {
            neighbour: path.neighbour.unwrap_or_default(),
            mtu: path.mtu,
            interface: path.interface,
            resolved: u16::from(path.neighbour.is_some()),
            ifindex: path.ifindex,
            tags: path.tags,
            ..Hop::default()
        };
        if self.ids.get(&key).is_none() {
            // The same link address on the same interface is the same neighbour: the row goes on.
            let same = |hop: &Hop| {
                record.resolved != 0
                    && (hop.resolved, hop.ifindex, hop.tags, hop.neighbour)
                        == (1, record.ifindex, record.tags, record.neighbour)
            };
            let row = self
                .adopted
                .iter()
                .find(|(_, hop)| hop.as_ref().is_some_and(same))
                .map(|(id, _)| *id);
            if let Some(row) = row {
                self.adopted.remove(&row);
                self.ids.claim(key, row.0);
            }
        }
        let (id, reuse) = self.ids.assign(&key)?;
        let id = HopId(id);
        if reuse == Reuse::Yes {
            self.records.remove(&id);
            ops.push(TableOp::Grace);
        }
        if self.records.get(&id) != Some(&record) {
            self.records.insert(id, record);
            ops.push(TableOp::Hop { id, record });
        }
        Some(id)
    }

    /// Lets go of the hops that no origin names.
    pub fn retain(&mut self, named: &BTreeSet<HopId>) {
        self.ids.retain(|_, id| named.contains(&HopId(id)));
        self.records.retain(|id, _| named.contains(id));
        let ids = &mut self.ids;
        self.adopted.retain(|id, _| {
            let kept = named.contains(id);
            if !kept {
                ids.release(id.0);
            }
            kept
        });
    }

    /// The smallest MTU of all.
    pub fn smallest_mtu(&self) -> Option<u32> {
        let hops = self.records.values().chain(self.adopted.values().flatten());
        hops.map(|hop| u32::from(hop.mtu)).filter(|mtu| *mtu > 0).min()
    }
}
