//! Generations: the tables and lists that belong to one configuration and one state of health.
//!
//! The maps hold two generations side by side. A new one is written where the one before last stood, and becomes
//! visible as a whole by one write of the settings. A packet that is still being handled may read the generation
//! before the live one, so a grace period comes before its rows and slots are written over.

use crate::arena::Arena;
use crate::image::{Capacity, TableOp};
use crate::maglev::{self, Member};
use core::fmt;
use lb_common::abi::{
    Application, ApplicationFlags, ApplicationKey, Ip, Parity, Pool, PoolFlags, PoolId, PoolList, Port,
    Protocol, Settings, Steering, Table,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run of slots is made from. Equal layouts share a run, and a layout that lives on keeps its run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layout {
    /// A consistent-hash table; members in the order of their identities.
    Ring(Vec<Member>),
    /// These owners in this order.
    List(Vec<u32>),
}

impl Layout {
    /// A table of those members; `None` when none of them can get a slot.
    pub fn ring(mut members: Vec<Member>) -> Option<Arc<Self>> {
        members.retain(|member| member.weight > 0);
        members.sort_unstable();
        members
            .iter()
            .any(|member| member.present)
            .then(|| Arc::new(Self::Ring(members)))
    }

    /// A list of pools; `None` when it is empty.
    pub fn list(owners: Vec<u32>) -> Option<Arc<Self>> {
        (!owners.is_empty()).then(|| Arc::new(Self::List(owners)))
    }

    fn build(&self) -> Vec<u32> {
        match self {
            Self::Ring(members) => maglev::build(members),
            Self::List(owners) => owners.clone(),
        }
    }
}

/// A pool as the next generation shall hold it.
#[derive(Clone, Debug)]
pub struct PoolDesign {
    pub id: PoolId,
    pub flags: PoolFlags,
    /// By [`lb_common::abi::TableKind`].
    pub tables: [Option<Arc<Layout>>; 4],
}

/// One address of an application as the next generation shall hold it.
#[derive(Clone, Debug)]
pub struct ListenerDesign {
    pub address: Ip,
    pub port: Port,
    pub protocol: Protocol,
    pub application: u32,
    pub pools: Option<Arc<Layout>>,
    pub steering: Steering,
    pub fallback: PoolId,
    pub origin_port: Port,
    pub flags: ApplicationFlags,
}

/// Something does not fit into the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    pub what: &'static str,
    pub needed: u64,
    pub available: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            needed,
            available,
        } = self;
        write!(
            f,
            "{needed} {what} are needed and the maps, whose size was fixed when they were made, hold {available}: \
             `lb detach`, then start lb with this configuration, and the maps are made anew in the right size \
             (tracked flows are lost)"
        )
    }
}

#[derive(Clone, Debug)]
struct Run {
    base: u32,
    owners: Arc<Vec<u32>>,
}

impl Run {
    fn size(&self) -> u32 {
        // Runs come from an arena that counts in u32.
        self.owners.len() as u32
    }
}

/// What the maps hold for one parity, as far as it is known.
#[derive(Clone, PartialEq, Debug, Default)]
struct Held {
    pools: BTreeMap<PoolId, Pool>,
    /// `None`: there is a record and its contents are not known.
    applications: BTreeMap<ApplicationKey, Option<Application>>,
    /// Bases of the runs that this generation uses.
    runs: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub struct Generations {
    live: u32,
    capacity: Capacity,
    arena: Arena,
    runs: BTreeMap<Arc<Layout>, Run>,
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
            arena: Arena::new(capacity.slots),
            runs: BTreeMap::new(),
            adopted: None,
            held: [Held::default(), Held::default()],
        }
    }

    /// Takes over what a former daemon left: its live generation stays as it is until the next one is complete.
    pub fn adopt(
        &mut self,
        generation: u32,
        tables: &[Table],
        applications: &[(ApplicationKey, Application)],
        stale: &[ApplicationKey],
    ) {
        self.live = generation;
        for table in tables {
            self.arena.reserve(table.base, table.size);
        }
        self.adopted = Some(generation);
        for (key, record) in applications {
            self.held_mut(key.parity).applications.insert(*key, Some(*record));
        }
        for key in stale {
            self.held_mut(key.parity).applications.insert(*key, None);
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
        pools: &[PoolDesign],
        listeners: &[ListenerDesign],
        settings: impl FnOnce(u32) -> Settings,
        even_if_equal: bool,
        shared: Vec<TableOp>,
    ) -> Result<Option<Vec<TableOp>>, Full> {
        let parity = Parity((self.live & 1) as u8).other();
        self.release_unused(parity.other());
        let mut slots = Vec::new();
        let next = self.lay_out(pools, listeners, parity, &mut slots)?;
        if !even_if_equal && self.is_live(&next) {
            return Ok(None);
        }

        let mut ops = Vec::new();
        if self.live != 0 {
            ops.push(TableOp::Grace);
        }
        ops.extend(shared);
        ops.extend(slots);
        let held = self.held_mut(parity);
        let gone = held
            .applications
            .keys()
            .filter(|key| !next.applications.contains_key(key));
        ops.extend(gone.map(|key| TableOp::RemoveApplication { key: *key }));
        let changed = next
            .pools
            .iter()
            .filter(|(id, record)| held.pools.get(id) != Some(record));
        ops.extend(changed.map(|(id, record)| TableOp::Pool {
            row: id.row(parity),
            record: *record,
        }));
        for (key, record) in &next.applications {
            if held.applications.get(key) != Some(record)
                && let Some(record) = record
            {
                ops.push(TableOp::Application {
                    key: *key,
                    record: *record,
                });
            }
        }
        // Rows of pools that are gone keep what they hold.
        let mut next = next;
        for (id, record) in &held.pools {
            next.pools.entry(*id).or_insert(*record);
        }
        *held = next;
        self.live = following(self.live);
        ops.push(TableOp::Settings(settings(self.live)));
        Ok(Some(ops))
    }

    /// Everything of the live generation.
    pub fn image(&self, ops: &mut Vec<TableOp>) {
        let parity = Parity((self.live & 1) as u8);
        let held = &self.held[usize::from(parity.0 & 1)];
        for run in self.runs.values().filter(|run| held.runs.contains(&run.base)) {
            ops.push(TableOp::Slots {
                base: run.base,
                owners: run.owners.to_vec(),
            });
        }
        ops.extend(held.pools.iter().map(|(id, record)| TableOp::Pool {
            row: id.row(parity),
            record: *record,
        }));
        for (key, record) in &held.applications {
            if let Some(record) = record {
                ops.push(TableOp::Application {
                    key: *key,
                    record: *record,
                });
            }
        }
    }

    fn held_mut(&mut self, parity: Parity) -> &mut Held {
        &mut self.held[usize::from(parity.0 & 1)]
    }

    /// Frees all runs but those of the live generation. What is written there afterwards follows a grace period.
    fn release_unused(&mut self, live: Parity) {
        let used = &self.held[usize::from(live.0 & 1)].runs;
        let arena = &mut self.arena;
        self.runs.retain(|_, run| {
            let kept = used.contains(&run.base);
            if !kept {
                arena.release(run.base, run.size());
            }
            kept
        });
        if self.adopted.is_some_and(|generation| generation != self.live) {
            // Adopted tables may share slots, so they are not given back one by one.
            self.adopted = None;
            self.arena = Arena::new(self.capacity.slots);
            for run in self.runs.values() {
                self.arena.reserve(run.base, run.size());
            }
        }
    }

    fn lay_out(
        &mut self,
        pools: &[PoolDesign],
        listeners: &[ListenerDesign],
        parity: Parity,
        slots: &mut Vec<TableOp>,
    ) -> Result<Held, Full> {
        let fits = |what, needed: usize, available: u32| {
            let (needed, available) = (needed as u64, u64::from(available));
            if needed <= available {
                Ok(())
            } else {
                Err(Full {
                    what,
                    needed,
                    available,
                })
            }
        };
        fits(
            "addresses of applications",
            listeners.len(),
            self.capacity.applications / 2,
        )?;
        let mut next = Held::default();
        for pool in pools {
            let mut record = Pool {
                flags: pool.flags,
                ..Pool::default()
            };
            for (table, layout) in record.tables.iter_mut().zip(&pool.tables) {
                *table = self.run(layout.as_ref(), &mut next, slots)?;
            }
            next.pools.insert(pool.id, record);
        }
        for listener in listeners {
            let table = self.run(listener.pools.as_ref(), &mut next, slots)?;
            let extent = match listener.steering {
                Steering::ORDERED => table.size,
                _ => table.size.saturating_sub(1),
            };
            let record = Application {
                id: listener.application,
                pools: PoolList {
                    base: table.base,
                    extent,
                    steering: listener.steering,
                },
                fallback: listener.fallback,
                origin_port: listener.origin_port,
                flags: listener.flags,
                ..Application::default()
            };
            let (address, port, protocol) = (listener.address, listener.port, listener.protocol);
            next.applications.insert(
                ApplicationKey {
                    address,
                    port,
                    protocol,
                    parity,
                },
                Some(record),
            );
        }
        Ok(next)
    }

    /// Where a layout stands; it is built and written if it stands nowhere yet.
    fn run(
        &mut self,
        layout: Option<&Arc<Layout>>,
        next: &mut Held,
        slots: &mut Vec<TableOp>,
    ) -> Result<Table, Full> {
        let Some(layout) = layout else {
            return Ok(Table::default());
        };
        let run = match self.runs.get(layout) {
            Some(run) => run.clone(),
            None => {
                let owners = layout.build();
                let length = u32::try_from(owners.len()).unwrap_or(u32::MAX);
                let Some(base) = self.arena.allocate(length) else {
                    return Err(Full {
                        what: "slots (two generations)",
                        needed: u64::from(self.capacity.slots - self.arena.available()) + u64::from(length),
                        available: u64::from(self.capacity.slots),
                    });
                };
                slots.push(TableOp::Slots {
                    base,
                    owners: owners.clone(),
                });
                let run = Run {
                    base,
                    owners: Arc::new(owners),
                };
                self.runs.insert(Arc::clone(layout), run.clone());
                run
            }
        };
        next.runs.insert(run.base);
        Ok(Table {
            base: run.base,
            size: run.size(),
        })
    }

    /// Whether the live generation already says what `next` says.
    fn is_live(&self, next: &Held) -> bool {
        let live = &self.held[(self.live & 1) as usize];
        let same = |(key, record): (&ApplicationKey, &Option<Application>)| {
            live.applications.get(&ApplicationKey {
                parity: key.parity.other(),
                ..*key
            }) == Some(record)
        };
        self.live != 0
            && next
                .pools
                .iter()
                .all(|(id, record)| live.pools.get(id) == Some(record))
            && live.applications.len() == next.applications.len()
            && next.applications.iter().all(same)
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
