//! Reads the flow tables: counts, lists, and removes what has timed out.
//!
//! The packet path ignores entries that have timed out; sweeping them keeps the counts true and frees source ports.

use super::buckets::{Buckets, Client, Look, Relocations};
use super::clock::Clock;
use super::flow_filter::{Draft, Keeper};
use super::loads::Loads;
use super::sys;
use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{
    Affinity, AffinityKey, Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, FlowSide, Forwarding, Ip, Origin,
    OriginId, Port, Protocol, TcpState, Timeouts, maps,
};
use lb_common::datapath::Memory;
use lb_common::datapath::track::{self, Age};
use lb_core::engine::SessionMoves;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

/// The flow tables of both families: established flows, and the others.
pub struct FlowTables {
    v4: [Table<FlowKey4, Flow4>; 2],
    v6: [Table<FlowKey6, Flow6>; 2],
    timeouts: Array<MapData, Timeouts>,
    origins: Array<MapData, Origin>,
    swept_at: Array<MapData, u32>,
    loads: Loads,
    affinity: MapData,
    buckets: Buckets,
    filter: Keeper,
}

/// What a sweep has found so far.
struct Finds<'a> {
    counts: FlowCounts,
    /// Established flows, as the program counts them.
    established: BTreeMap<OriginId, u32>,
    look: Look,
    /// Of the filter of established flows.
    draft: Option<Draft<'a>>,
}

struct Table<K, V> {
    memory: Memory,
    raw: MapData,
    map: HashMap<MapData, K, V>,
}

/// A flow as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// What the origin sees as its client; `None`: the client itself.
    pub snat: Option<SocketAddr>,
    /// Where its packets go; of an origin that takes the VIP's, the origin's own address with the VIP's port.
    pub origin_address: SocketAddr,
    pub application: u32,
    pub origin: OriginId,
    pub state: &'static str,
    pub idle: Duration,
}

/// Open flows of an application with clients of one IP version, and those whose end was seen. Times are in jiffies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ages {
    pub open: u64,
    /// The sum of the ages of the open ones.
    pub age: u64,
    /// Flows that have ended and are not forgotten.
    pub closing: u64,
    /// For how long each lasted that has ended.
    pub ended: Vec<u32>,
}

/// Open flows, by counter row. Of flows without entries, each bucket with recent packets counts as one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowCounts {
    pub applications: BTreeMap<u32, u64>,
    pub origins: BTreeMap<u32, u64>,
    /// Those of them that are not established yet, by origin.
    pub tentative: BTreeMap<u32, u64>,
    pub total: u64,
    /// Origins that some entry names, be it of a flow that is closing.
    pub named: BTreeSet<OriginId>,
    /// Entries that had timed out and were removed.
    pub expired: u64,
    /// By application, and whether its clients speak IPv6.
    pub ages: BTreeMap<(u32, bool), Ages>,
}

/// What the two families' entries have in common, for reading.
trait Entry: Pod {
    type Key: Client;
    const V6: bool;
    fn core(&self) -> &FlowCore;
    fn describe(&self, key: &Self::Key) -> Tuples;
    fn protocol(key: &Self::Key) -> Protocol;
    fn twin(&self, key: &Self::Key) -> Self::Key;
}

/// Source and destination of a packet before and after its translation.
struct Tuples {
    arriving: (SocketAddr, SocketAddr),
    leaving: (SocketAddr, SocketAddr),
}

fn socket(address: Ip, port: Port) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port.host())
}

macro_rules! entry {
    ($flow:ident, $key:ident, $v6:literal) => {
        impl Entry for $flow {
            type Key = $key;
            const V6: bool = $v6;

            fn core(&self) -> &FlowCore {
                &self.core
            }

            fn describe(&self, key: &$key) -> Tuples {
                Tuples {
                    arriving: (
                        socket(key.source.into(), key.source_port),
                        socket(key.destination.into(), key.destination_port),
                    ),
                    leaving: (
                        socket(self.source.into(), self.core.source_port),
                        socket(self.destination.into(), self.core.destination_port),
                    ),
                }
            }

            fn protocol(key: &$key) -> Protocol {
                key.protocol
            }

            fn twin(&self, key: &$key) -> $key {
                $key {
                    source: self.destination,
                    destination: self.source,
                    source_port: self.core.destination_port,
                    destination_port: self.core.source_port,
                    ..*key
                }
            }
        }
    };
}

entry!(Flow4, FlowKey4, false);
entry!(Flow6, FlowKey6, true);

impl<K: aya::Pod + Client, V: aya::Pod + Entry<Key = K>> Table<K, V> {
    fn new(memory: Memory, raw: Map, map: Map) -> Result<Self> {
        let (Map::HashMap(raw) | Map::LruHashMap(raw)) = raw else {
            anyhow::bail!("a flow table is no hash")
        };
        Ok(Self {
            memory,
            raw,
            map: map.try_into()?,
        })
    }

    fn for_each(&self, visit: impl FnMut(&K, &V)) -> Result<()> {
        sys::for_each(self.raw.fd().as_fd(), visit).context("read the flow table")
    }

    fn sweep(
        &mut self,
        timeouts: &Array<MapData, Timeouts>,
        now: u32,
        finds: &mut Finds<'_>,
        loads: &mut Loads,
    ) -> Result<()> {
        let counts = &mut finds.counts;
        let mut rows = BTreeMap::new();
        let mut timeouts = |application: u32| {
            // An application without a row has no flows that go on.
            *rows
                .entry(application)
                .or_insert_with(|| timeouts.get(&application, 0).unwrap_or_default())
        };
        let mut expired = Vec::new();
        let established = self.memory == Memory::Established;
        self.for_each(|key, flow| {
            let core = flow.core();
            if core.side == FlowSide::CLIENT {
                finds.look.note(core.application, key);
            }
            if established && let Some(draft) = &mut finds.draft {
                draft.announce(key);
            }
            if established && core.side == FlowSide::CLIENT {
                count(core, &mut finds.established);
            }
            if track::age(&timeouts(core.application), V::protocol(key), core, now) == Age::Expired {
                expired.push(*key);
                return;
            }
            counts.named.insert(core.origin);
            if core.side != FlowSide::CLIENT {
                return;
            }
            let ages = counts.ages.entry((core.application, V::V6)).or_default();
            if core.tcp.closing() {
                ages.closing += 1;
            } else {
                ages.open += 1;
                ages.age += u64::from(elapsed(core.opened, now));
                *counts.applications.entry(core.application).or_default() += 1;
                *counts.origins.entry(core.origin.0).or_default() += 1;
                if !established {
                    *counts.tentative.entry(core.origin.0).or_default() += 1;
                }
                counts.total += 1;
            }
        })?;
        let mut removed = BTreeMap::new();
        for key in expired {
            // A packet may have renewed it since it was read.
            let Ok(flow) = self.map.get(&key, 0) else { continue };
            let core = flow.core();
            let still = track::age(&timeouts(core.application), V::protocol(&key), core, now) == Age::Expired;
            if still && self.map.remove(&key).is_ok() {
                counts.expired += 1;
                let protocol = V::protocol(&key);
                let lived = protocol != Protocol::TCP || core.tcp.has(TcpState::ESTABLISHED);
                if core.side == FlowSide::CLIENT && lived {
                    let ages = counts.ages.entry((core.application, V::V6)).or_default();
                    ages.ended.push(elapsed(core.opened, core.seen));
                }
                if established && core.side == FlowSide::CLIENT {
                    count(core, &mut removed);
                }
            } else {
                counts.named.insert(core.origin);
            }
        }
        loads.take_off(&removed)
    }

    fn list(
        &self,
        clock: &Clock,
        origins: &Array<MapData, Origin>,
        wanted: &mut dyn FnMut(&FlowCore) -> bool,
        flows: &mut Vec<Flow>,
    ) -> Result<()> {
        let now = clock.now();
        let mut rows = BTreeMap::new();
        let mut address = |origin: OriginId| {
            *rows.entry(origin).or_insert_with(|| {
                let record = origins.get(&origin.0, 0).ok();
                record
                    .filter(|record| record.identity != 0)
                    .map(|record| IpAddr::from(record.address))
            })
        };
        self.for_each(|key, flow| {
            let core = flow.core();
            if core.side != FlowSide::CLIENT || !wanted(core) {
                return;
            }
            let Tuples {
                arriving: (client, vip),
                leaving: (snat, mut origin_address),
            } = flow.describe(key);
            if core.forwarding.is_direct()
                && let Some(address) = address(core.origin)
            {
                origin_address.set_ip(address);
            }
            flows.push(Flow {
                protocol: V::protocol(key),
                client,
                vip,
                snat: (core.forwarding == Forwarding::NAT).then_some(snat),
                origin_address,
                application: core.application,
                origin: core.origin,
                state: state(V::protocol(key), core.tcp),
                idle: clock.duration(elapsed(core.seen, now)),
            });
        })
    }

    fn flush(&mut self, wanted: &mut dyn FnMut(&K, &V) -> bool, loads: &mut Loads) -> Result<u64> {
        let mut found = Vec::new();
        self.for_each(|key, flow| {
            if flow.core().side == FlowSide::CLIENT && wanted(key, flow) {
                let twin = (!flow.core().forwarding.is_direct()).then(|| flow.twin(key));
                found.push((*key, twin, *flow.core()));
            }
        })?;
        let mut flushed = 0;
        let mut removed = BTreeMap::new();
        for (key, twin, core) in found {
            // Either may have gone meanwhile.
            let _gone = twin.map(|twin| self.map.remove(&twin));
            if self.map.remove(&key).is_ok() {
                flushed += 1;
                if self.memory == Memory::Established {
                    count(&core, &mut removed);
                }
            }
        }
        loads.take_off(&removed)?;
        Ok(flushed)
    }
}

/// Jiffies from one stamp to another; one of another CPU may be a tick ahead.
fn elapsed(from: u32, until: u32) -> u32 {
    let passed = until.wrapping_sub(from);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

/// Counts an established flow wherever the program has counted it.
fn count(core: &FlowCore, flows: &mut BTreeMap<OriginId, u32>) {
    *flows.entry(core.origin).or_default() += 1;
    if core.forwarding.is_direct() {
        *flows.entry(OriginId::DIRECT).or_default() += 1;
    }
}

fn state(protocol: Protocol, tcp: TcpState) -> &'static str {
    if protocol != Protocol::TCP {
        "-"
    } else if tcp.closing() {
        "closing"
    } else if tcp.has(TcpState::ESTABLISHED) {
        "established"
    } else {
        "handshake"
    }
}

impl FlowTables {
    /// Takes the maps by name from `take`, each twice: once to read in batches, once to write single entries.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            v4: [
                Table::new(Memory::Established, take(maps::FLOWS4)?, take(maps::FLOWS4)?)?,
                Table::new(
                    Memory::Tentative,
                    take(maps::TENTATIVE4)?,
                    take(maps::TENTATIVE4)?,
                )?,
            ],
            v6: [
                Table::new(Memory::Established, take(maps::FLOWS6)?, take(maps::FLOWS6)?)?,
                Table::new(
                    Memory::Tentative,
                    take(maps::TENTATIVE6)?,
                    take(maps::TENTATIVE6)?,
                )?,
            ],
            timeouts: take(maps::TIMEOUTS)?.try_into()?,
            origins: take(maps::ORIGINS)?.try_into()?,
            swept_at: take(maps::SWEPT_AT)?.try_into()?,
            affinity: match take(maps::AFFINITY)? {
                Map::LruHashMap(data) => data,
                other => anyhow::bail!("the map {} is of another kind: {other:?}", maps::AFFINITY),
            },
            loads: Loads::new(&mut take)?,
            buckets: Buckets::new(&mut take)?,
            filter: Keeper::new(take)?,
        })
    }

    /// Sweeps what others write who share these.
    #[must_use]
    pub fn sharing(mut self, relocations: &Relocations) -> Self {
        self.buckets.share(relocations);
        self
    }

    /// Removes what has timed out and counts the rest; notes when.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn sweep(&mut self, clock: &Clock) -> Result<FlowCounts> {
        let before = self.loads.read()?;
        let mut finds = Finds {
            counts: FlowCounts::default(),
            established: BTreeMap::new(),
            look: self.buckets.begin(clock.now())?,
            draft: self.filter.begin()?,
        };
        let look = &mut finds.look;
        if !look.is_empty() || finds.draft.is_some() {
            sys::wait_for_packets();
        }
        if !look.is_empty() {
            // Entries go to the established ones and come back: they stand in both for a while, so whoever looks at these
            // before and after those misses none.
            for table in self.v4.iter().filter(|table| table.memory == Memory::Tentative) {
                table.for_each(|key, flow| look.note(flow.core.application, key))?;
            }
            for table in self.v6.iter().filter(|table| table.memory == Memory::Tentative) {
                table.for_each(|key, flow| look.note(flow.core.application, key))?;
            }
        }
        for table in &mut self.v4 {
            table.sweep(&self.timeouts, clock.now(), &mut finds, &mut self.loads)?;
        }
        for table in &mut self.v6 {
            table.sweep(&self.timeouts, clock.now(), &mut finds, &mut self.loads)?;
        }
        let Finds {
            mut counts,
            established,
            look,
            draft,
        } = finds;
        if let Some(draft) = draft {
            draft.put_to_use();
        }
        self.loads.compare(&before, &established)?;
        let owners = self.buckets.end(&look, clock.now())?;
        counts.named.extend(&owners.named);
        for (row, buckets) in owners.applications {
            *counts.applications.entry(row).or_default() += buckets;
            counts.total += buckets;
        }
        for (row, buckets) in owners.origins {
            *counts.origins.entry(row).or_default() += buckets;
        }
        // 0 would be never.
        self.swept_at.set(0, clock.now().max(1), 0)?;
        Ok(counts)
    }

    /// Lets the packet path rely on nothing that sweeps have found: programs that did not keep it true may have run since.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn distrust(&mut self, clock: &Clock) -> Result<()> {
        self.filter.put_out_of_use()?;
        self.buckets.unsettle(clock.now())
    }

    /// The flows whose entry is `wanted`.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn list(&self, clock: &Clock, mut wanted: impl FnMut(&FlowCore) -> bool) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for table in &self.v4 {
            table.list(clock, &self.origins, &mut wanted, &mut flows)?;
        }
        for table in &self.v6 {
            table.list(clock, &self.origins, &mut wanted, &mut flows)?;
        }
        Ok(flows)
    }

    /// Removes the flows whose entry is `wanted`, and returns how many; those that have none count by their buckets.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn flush(&mut self, clock: &Clock, mut wanted: impl FnMut(&FlowCore) -> bool) -> Result<u64> {
        let mut flushed = self.buckets.forget(clock.now(), &mut wanted)?;
        for table in &mut self.v4 {
            flushed += table.flush(&mut |_, flow| wanted(flow.core()), &mut self.loads)?;
        }
        for table in &mut self.v6 {
            flushed += table.flush(&mut |_, flow| wanted(flow.core()), &mut self.loads)?;
        }
        Ok(flushed)
    }

    /// Forgets the UDP flows and the bound clients that are to leave their origins, and returns how many.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn shed(&mut self, moves: &SessionMoves) -> Result<u64> {
        if moves.is_empty() {
            return Ok(0);
        }
        let mut shed = 0;
        for table in &mut self.v4 {
            shed += table.flush(&mut |key, flow| leaves(moves, key, flow), &mut self.loads)?;
        }
        for table in &mut self.v6 {
            shed += table.flush(&mut |key, flow| leaves(moves, key, flow), &mut self.loads)?;
        }
        let mut clients: Vec<AffinityKey> = Vec::new();
        let affinity = self.affinity.fd().as_fd();
        sys::for_each(affinity, |key: &AffinityKey, bound: &Affinity| {
            if moves.leaves(key.application, bound.origin, key.client.into()) {
                clients.push(*key);
            }
        })
        .context("read the clients that are bound to origins")?;
        sys::remove_all(affinity, &clients).context("release clients from their origins")?;
        Ok(shed + clients.len() as u64)
    }
}

/// Whether a flow is one of datagrams, whose client is to leave its origin.
fn leaves<V: Entry>(moves: &SessionMoves, key: &V::Key, flow: &V) -> bool {
    let core = flow.core();
    let client = || flow.describe(key).arriving.0.ip();
    V::protocol(key) == Protocol::UDP && moves.leaves(core.application, core.origin, client())
}
