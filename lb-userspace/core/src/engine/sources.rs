//! Source addresses of the node, as origins' records point to them.

use crate::arena::Arena;
use crate::image::TableOp;
use lb_common::abi::{Ip, Origin, OriginId};
use std::collections::{BTreeMap, BTreeSet};

/// Source addresses for `nat`: runs that origins point into. Equal lists share a run.
#[derive(Clone, Debug)]
pub struct Sources {
    capacity: u32,
    arena: Arena,
    runs: BTreeMap<Vec<Ip>, u32>,
    pub addresses: BTreeMap<u32, Ip>,
}

impl Sources {
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            arena: Arena::new(capacity),
            runs: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    pub fn adopt<'a>(&mut self, addresses: &[Ip], origins: impl Iterator<Item = &'a Origin>) {
        let named: BTreeSet<(u32, u32)> = origins
            .map(|record| (record.snat_base, record.snat_count))
            .collect();
        for (base, count) in named.into_iter().filter(|(_, count)| *count > 0) {
            self.arena.reserve(base, count);
            let run = addresses.get(base as usize..base.saturating_add(count) as usize);
            if let Some(run) = run {
                self.runs.insert(run.to_vec(), base);
                self.addresses.extend((base..).zip(run.iter().copied()));
            }
        }
    }

    /// Base and count of a run that holds `list`, written if need be.
    pub fn place(
        &mut self,
        list: &[Ip],
        origins: &BTreeMap<OriginId, Origin>,
        ops: &mut Vec<TableOp>,
    ) -> Option<(u32, u32)> {
        let count = u32::try_from(list.len()).ok()?;
        if let Some(base) = self.runs.get(list) {
            return Some((*base, count));
        }
        let base = match self.arena.allocate(count) {
            Some(base) => base,
            None => {
                self.sweep(origins);
                let base = self.arena.allocate(count)?;
                ops.push(TableOp::Grace);
                base
            }
        };
        self.runs.insert(list.to_vec(), base);
        for (index, &address) in (base..).zip(list) {
            self.addresses.insert(index, address);
            ops.push(TableOp::SnatAddress { index, address });
        }
        Some((base, count))
    }

    /// Frees the entries that no origin's record names.
    fn sweep(&mut self, origins: &BTreeMap<OriginId, Origin>) {
        let named: BTreeSet<(u32, u32)> = origins
            .values()
            .map(|record| (record.snat_base, record.snat_count))
            .collect();
        self.arena = Arena::new(self.capacity);
        for &(base, count) in &named {
            self.arena.reserve(base, count);
        }
        self.runs
            .retain(|list, base| named.contains(&(*base, u32::try_from(list.len()).unwrap_or(u32::MAX))));
        let is_named = |index: u32| {
            named
                .iter()
                .any(|&(base, count)| (base..base.saturating_add(count)).contains(&index))
        };
        self.addresses.retain(|index, _| is_named(*index));
    }
}
