//! What generations are made of: designs, and the runs of rows that they share.

use super::routing::PoolListDesign;
use crate::arena::Arena;
use crate::maglev::{self, Grain, Member};
use crate::model::Ports;
use crate::steering::{Family, SheddingTable};
use core::fmt;
use lb_common::abi::{
    AccessList, AddressRole, ApplicationFlags, ApplicationKey, Country, Ip, Parity, PoolFlags, PoolId, Port,
    PortSpan, Protocol, Rate,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run of slots is made from. Equal layouts share a run, and a layout that lives on keeps its run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layout {
    /// A consistent-hash table; members in the order of their identities.
    Ring(Grain, Vec<Member>),
    /// These owners in this order.
    List(Vec<u32>),
    /// A table of pools some of which give up flows.
    Shedding(SheddingTable),
}

impl Layout {
    /// A table of those members; `None` when none of them can get a slot.
    pub fn ring(grain: Grain, mut members: Vec<Member>) -> Option<Arc<Self>> {
        members.retain(|member| member.weight > 0);
        members.sort_unstable();
        members
            .iter()
            .any(|member| member.present)
            .then(|| Arc::new(Self::Ring(grain, members)))
    }

    /// A list of pools; `None` when it is empty.
    pub fn list(owners: Vec<u32>) -> Option<Arc<Self>> {
        (!owners.is_empty()).then(|| Arc::new(Self::List(owners)))
    }

    pub fn build(&self) -> Vec<u32> {
        match self {
            Self::Ring(grain, members) => maglev::build(members, *grain),
            Self::List(owners) => owners.clone(),
            Self::Shedding(table) => table.build(),
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
    pub ports: Ports,
    pub protocol: Protocol,
    pub application: u32,
    pub pools: PoolListDesign,
    pub origin_port: Port,
    pub flags: ApplicationFlags,
    pub access: AccessList,
    pub rate: Rate,
    pub source_rate: Rate,
    pub affinity_ttl: u32,
    pub affinity_epoch: u32,
    /// The set of routes that its clients' countries have; 0 where they have none.
    pub routes: u32,
    /// Whether echo requests to the address are answered on its behalf.
    pub echo: bool,
    /// New TCP flows need no entry: buckets that its tables ask for, as a power of two.
    pub untracked: Option<u32>,
}

impl ListenerDesign {
    /// Where its record stands in a generation of a parity.
    pub fn key(&self, parity: Parity) -> ApplicationKey {
        ApplicationKey {
            address: self.address,
            port: Port::new(self.ports.first()),
            protocol: self.protocol,
            parity,
        }
    }
}

/// The pools of a country's clients, in a set of routes that applications share, as the next generation shall hold them.
#[derive(Clone, Debug)]
pub struct RouteDesign {
    /// Number of the set that it belongs to.
    pub set: u32,
    pub family: Family,
    /// [`Country::UNKNOWN`]: of clients whose country is not known.
    pub country: Country,
    pub pools: PoolListDesign,
}

/// An address as the next generation shall hold it.
#[derive(Clone, Debug)]
pub struct VipDesign {
    pub address: Ip,
    pub role: AddressRole,
    /// Ranges of ports, in ascending order and disjoint.
    pub tcp: Vec<PortSpan>,
    pub udp: Vec<PortSpan>,
    pub echo: bool,
}

/// A whole generation.
#[derive(Clone, Copy, Debug)]
pub struct Designs<'a> {
    pub pools: &'a [PoolDesign],
    pub vips: &'a [VipDesign],
    pub listeners: &'a [ListenerDesign],
    pub routes: &'a [RouteDesign],
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

/// Runs of consecutive rows of a map. Equal ones are one.
#[derive(Clone, Debug)]
pub struct Runs<K, T> {
    what: &'static str,
    capacity: u32,
    arena: Arena,
    runs: BTreeMap<K, Run<T>>,
}

#[derive(Clone, Debug)]
pub struct Run<T> {
    pub base: u32,
    pub rows: Arc<Vec<T>>,
}

impl<T> Run<T> {
    pub fn size(&self) -> u32 {
        // Runs come from an arena that counts in u32.
        self.rows.len() as u32
    }
}

impl<K: Ord + Clone, T: Clone> Runs<K, T> {
    pub fn new(what: &'static str, capacity: u32) -> Self {
        Self {
            what,
            capacity,
            arena: Arena::new(capacity),
            runs: BTreeMap::new(),
        }
    }

    /// Keeps rows of a former daemon from being given out, until [`Self::forget_reserved`].
    pub fn reserve(&mut self, base: u32, length: u32) {
        self.arena.reserve(base, length);
    }

    /// Ends [`Self::reserve`]. What was reserved may overlap, so it is not given back one by one.
    pub fn forget_reserved(&mut self) {
        self.arena = Arena::new(self.capacity);
        for run in self.runs.values() {
            self.arena.reserve(run.base, run.size());
        }
    }

    /// Where the rows of `key` stand, and whether they have yet to be written there.
    pub fn place(&mut self, key: &K, rows: impl FnOnce() -> Vec<T>) -> Result<(Run<T>, bool), Full> {
        if let Some(run) = self.runs.get(key) {
            return Ok((run.clone(), false));
        }
        let rows = rows();
        let length = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let Some(base) = self.arena.allocate(length) else {
            return Err(Full {
                what: self.what,
                needed: u64::from(self.capacity - self.arena.available()) + u64::from(length),
                available: u64::from(self.capacity),
            });
        };
        let run = Run {
            base,
            rows: Arc::new(rows),
        };
        self.runs.insert(key.clone(), run.clone());
        Ok((run, true))
    }

    /// Frees all runs but those that begin at `used`.
    pub fn retain(&mut self, used: &BTreeSet<u32>) {
        let arena = &mut self.arena;
        self.runs.retain(|_, run| {
            let kept = used.contains(&run.base);
            if !kept {
                arena.release(run.base, run.size());
            }
            kept
        });
    }

    /// Where the rows of `key` stand, if they do.
    pub fn get(&self, key: &K) -> Option<&Run<T>> {
        self.runs.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Run<T>> {
        self.runs.values()
    }
}
