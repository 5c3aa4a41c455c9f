//! Copying flows into tables that may be in use already.

use super::Copied;
use crate::datapath::sys;
use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use bytemuck::Pod;
use lb_common::abi::{Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, FlowSide, Load, OriginId, TcpState, maps};
use lb_common::datapath::Memory;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// Entries written by one system call.
const CHUNK: usize = 4096;
/// `BPF_NOEXIST`: only where there is none.
const IF_MISSING: u64 = 1;

/// What the entries of both families have in common.
pub trait Entry: Pod + aya::Pod {
    fn core(&self) -> &FlowCore;
    fn core_mut(&mut self) -> &mut FlowCore;
}

impl Entry for Flow4 {
    fn core(&self) -> &FlowCore {
        &self.core
    }

    fn core_mut(&mut self) -> &mut FlowCore {
        &mut self.core
    }
}

impl Entry for Flow6 {
    fn core(&self) -> &FlowCore {
        &self.core
    }

    fn core_mut(&mut self) -> &mut FlowCore {
        &mut self.core
    }
}

/// The keys of entries.
pub trait Key: Pod + aya::Pod {}
impl Key for FlowKey4 {}
impl Key for FlowKey6 {}

/// Which entries are copied, and whereto.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All, into tables that hold none.
    Fresh,
    /// All, into tables that are in use.
    All,
    /// Those that were stamped at that jiffy or later.
    Since(u32),
}

/// Writes the flows of one family.
pub struct Merger<K, V> {
    established: Table<K, V>,
    tentative: Table<K, V>,
    scope: Scope,
    done: Done,
    /// The first error; nothing is written after it.
    failed: Option<anyhow::Error>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    pub copied: Copied,
    /// By how much the number of an origin's established flows has changed.
    pub loads: BTreeMap<OriginId, i64>,
}

struct Table<K, V> {
    raw: MapData,
    map: HashMap<MapData, K, V>,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Key, V: Entry> Table<K, V> {
    fn new(take: &impl Fn(&str) -> Result<Map>, name: &str) -> Result<Self> {
        let (Map::HashMap(raw) | Map::LruHashMap(raw)) = take(name)? else {
            bail!("the map {name} is no hash")
        };
        Ok(Self {
            raw,
            map: take(name)?.try_into()?,
            keys: Vec::with_capacity(CHUNK),
            values: Vec::with_capacity(CHUNK),
        })
    }

    fn get(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("read a flow"),
        }
    }
}

impl<K: Key, V: Entry> Merger<K, V> {
    pub fn new(
        take: &impl Fn(&str) -> Result<Map>,
        established: &str,
        tentative: &str,
        scope: Scope,
    ) -> Result<Self> {
        Ok(Self {
            established: Table::new(take, established)?,
            tentative: Table::new(take, tentative)?,
            scope,
            done: Done::default(),
            failed: None,
        })
    }

    /// Takes an entry.
    pub fn take(&mut self, memory: Memory, key: &K, flow: &V) {
        if self.failed.is_some() {
            return;
        }
        let result = match self.scope {
            Scope::Fresh => self.push(memory, key, flow),
            Scope::Since(since) if is_before(flow.core().seen, since) => Ok(()),
            Scope::All | Scope::Since(_) => self.merge(memory, key, flow),
        };
        self.failed = result.err();
    }

    /// Has an entry written together with others.
    fn push(&mut self, memory: Memory, key: &K, flow: &V) -> Result<()> {
        let table = self.table(memory);
        table.keys.push(*key);
        table.values.push(*flow);
        if table.keys.len() < CHUNK {
            return Ok(());
        }
        self.flush(memory)
    }

    fn flush(&mut self, memory: Memory) -> Result<()> {
        let table = self.table(memory);
        let (keys, values) = (std::mem::take(&mut table.keys), std::mem::take(&mut table.values));
        if sys::update(table.raw.fd().as_fd(), &keys, &values).is_ok() {
            values.iter().for_each(|flow| self.counted(memory, flow, 1));
            return Ok(());
        }
        // It has become full: one by one, each where there is room.
        let mut entries = keys.iter().zip(&values);
        entries.try_for_each(|(key, flow)| self.insert(memory, key, flow, 0))
    }

    fn merge(&mut self, memory: Memory, key: &K, flow: &V) -> Result<()> {
        let there = match self.established.get(key)? {
            Some(present) => Some((Memory::Established, present)),
            None => self
                .tentative
                .get(key)?
                .map(|present| (Memory::Tentative, present)),
        };
        let Some((place, mut present)) = there else {
            return self.insert(memory, key, flow, IF_MISSING);
        };
        let before = *present.core();
        if is_before(before.seen, flow.core().seen) {
            // The copy is older than what the old program did last.
            if place == memory {
                return self.write(place, key, flow);
            }
            // First in the one, then out of the other: a packet finds it all the time.
            self.insert(memory, key, flow, IF_MISSING)?;
            let _gone = self.table(place).map.remove(key);
            self.counted(place, &present, -1);
        } else if same_way(&before, flow.core()) && flow.core().tcp.0 & !before.tcp.0 != 0 {
            // The new program has gone on with it, from an older state. States only gain bits.
            present.core_mut().tcp = TcpState(before.tcp.0 | flow.core().tcp.0);
            return self.write(place, key, &present);
        }
        Ok(())
    }

    fn write(&mut self, place: Memory, key: &K, flow: &V) -> Result<()> {
        self.table(place).map.insert(key, flow, 0).context("write a flow")
    }

    fn insert(&mut self, memory: Memory, key: &K, flow: &V, flags: u64) -> Result<()> {
        let Err(error) = self.table(memory).map.insert(key, flow, flags) else {
            self.counted(memory, flow, 1);
            return Ok(());
        };
        match (&error, memory) {
            // The new program has opened it meanwhile.
            (MapError::SyscallError(call), _) if call.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            (MapError::SyscallError(call), Memory::Established)
                if call.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                self.insert(Memory::Tentative, key, flow, flags)
            }
            _ => Err(error).context("write a flow"),
        }
    }

    fn table(&mut self, memory: Memory) -> &mut Table<K, V> {
        match memory {
            Memory::Established => &mut self.established,
            Memory::Tentative => &mut self.tentative,
        }
    }

    /// Notes entries that were added, or taken away.
    fn counted(&mut self, memory: Memory, flow: &V, by: i64) {
        if by > 0 {
            self.done.copied.entries += 1;
        }
        if memory == Memory::Established {
            if by > 0 {
                self.done.copied.established += 1;
            }
            if flow.core().side == FlowSide::CLIENT {
                *self.done.loads.entry(flow.core().origin).or_default() += by;
                if flow.core().forwarding.is_direct() {
                    *self.done.loads.entry(OriginId::DIRECT).or_default() += by;
                }
            }
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// The first that happened.
    pub fn finish(mut self) -> Result<Done> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.flush(Memory::Established)?;
        self.flush(Memory::Tentative)?;
        Ok(self.done)
    }
}

/// Whether one jiffy is earlier than another; they wrap.
fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) > u32::MAX / 2
}

/// Whether both entries translate alike.
fn same_way(one: &FlowCore, other: &FlowCore) -> bool {
    let way = |core: &FlowCore| {
        (
            core.origin,
            core.source_port,
            core.destination_port,
            core.payload_delta,
        )
    };
    way(one) == way(other)
}

/// Brings the numbers of established flows up to date. Userspace counts what it removes, and the program what it adds:
/// what userspace adds it has not removed.
///
/// # Errors
/// When a map cannot be read or written.
pub fn count(take: &impl Fn(&str) -> Result<Map>, changes: [&BTreeMap<OriginId, i64>; 2]) -> Result<()> {
    let mut swept: Array<_, Load> = take(maps::SWEPT)?.try_into()?;
    for (origin, by) in changes.into_iter().flatten() {
        let mut load = swept.get(&origin.0, 0)?;
        load.established = load.established.wrapping_sub(*by as u32);
        swept.set(origin.0, load, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_wrap() {
        assert!(is_before(1, 2) && !is_before(2, 1) && !is_before(2, 2));
        assert!(is_before(u32::MAX - 1, 3) && !is_before(3, u32::MAX - 1));
    }
}
