//! The kernel program, run packet by packet: BPF_PROG_TEST_RUN over maps that hold a scenario.

use crate::netns::Netns;
use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, PerfEventArray};
use aya::programs::{TestRun, TestRunOptions};
use aya::util::{nr_cpus, online_cpus};
use aya::{Ebpf, Pod};
use lb_common::abi::maps;
use lb_common::abi::{
    AccessRule, Application, ApplicationKey, Bucket, CountryKey, Held, Hop, Interface, Ip, Load, Origin,
    PathMtu, Pool, PortSpan, Route, RouteKey, Settings, Slot, Timeouts, Traffic, Vip, VipKey,
};
use lb_common::datapath::{Exit, Stage, Verdict};
use lb_common::testing::scenario::{ARRAY_ROWS, CLIENT_SIDE, ORIGIN_SIDE};
use lb_common::testing::{Frame, MemoryTables};
use lb_core::image::Capacity;
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::object::{Loaded, MapSizes, load, program};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Flows that the tables of tests hold, far more than any test opens: the kernel evicts before its LRU maps are full.
const MAX_FLOWS: u32 = 65_536;

/// An action of the kernel, by its number in `enum xdp_action`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action(pub u32);

impl Action {
    pub const ABORTED: Self = Self(0);
    pub const DROP: Self = Self(1);
    pub const PASS: Self = Self(2);
    pub const TX: Self = Self(3);
    pub const REDIRECT: Self = Self(4);

    /// What the kernel program must return for a verdict.
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass(_) => Self::PASS,
            Verdict::Hold(_) | Verdict::Drop(_) => Self::DROP,
            Verdict::Forward(Exit::Transmit) | Verdict::Reply(_, Exit::Transmit) => Self::TX,
            Verdict::Forward(Exit::Redirect { .. }) | Verdict::Reply(_, Exit::Redirect { .. }) => {
                Self::REDIRECT
            }
        }
    }
}

/// Makes a namespace that has the scenarios' interfaces.
#[must_use]
pub fn namespace() -> Netns {
    let namespace = Netns::new("prog");
    namespace.ip(&format!(
        "link add clients index {CLIENT_SIDE} type veth peer name origins index {ORIGIN_SIDE}"
    ));
    namespace
}

/// Sizes of maps for scenarios.
#[must_use]
pub fn small() -> MapSizes {
    MapSizes {
        capacity: Capacity {
            applications: ARRAY_ROWS,
            vips: ARRAY_ROWS,
            pools: ARRAY_ROWS,
            origins: ARRAY_ROWS,
            hops: ARRAY_ROWS,
            snat_addresses: ARRAY_ROWS,
            slots: ARRAY_ROWS,
            application_rows: ARRAY_ROWS,
            spans: ARRAY_ROWS,
            access_prefixes: ARRAY_ROWS,
            country_rules: ARRAY_ROWS,
            country_prefixes: ARRAY_ROWS,
            routes: ARRAY_ROWS,
            clients: ARRAY_ROWS,
            buckets: ARRAY_ROWS,
        },
        max_flows: MAX_FLOWS,
    }
}

/// The loaded program.
pub struct Kernel {
    loaded: Loaded,
    /// Rows of arrays that have been written, as far as [`COUNTED`] does not cover them: only they are read and cleared.
    used: BTreeMap<String, u32>,
    pub clock: Clock,
    /// Room for what a run leaves of a frame.
    output: Vec<u8>,
    /// Frames that the program hands over, one buffer a CPU.
    held: Vec<PerfEventArrayBuffer<MapData>>,
}

impl Kernel {
    /// Loads it with empty tables. Must be called, and used, inside [`namespace`].
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new(sizes: &MapSizes) -> Result<Self> {
        Self::load(sizes, None)
    }

    /// As [`Kernel::new`], with the maps pinned in a folder.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn pinned(sizes: &MapSizes, folder: &Path) -> Result<Self> {
        Self::load(sizes, Some(folder))
    }

    fn load(sizes: &MapSizes, folder: Option<&Path>) -> Result<Self> {
        let mut loaded = load(sizes, folder)?;
        let clock = Clock::measure(&mut loaded.ebpf)?;
        let held = loaded
            .ebpf
            .take_map(maps::HELD)
            .context("a map for held frames")?;
        let mut held = PerfEventArray::try_from(held)?;
        let cpus = online_cpus().map_err(|(_, error)| error)?;
        let held = cpus.into_iter().map(|cpu| held.open(cpu, Some(BUFFER_PAGES)));
        Ok(Self {
            held: held.collect::<Result<_, _>>()?,
            loaded,
            used: BTreeMap::new(),
            clock,
            output: vec![0; 80 * 1024],
        })
    }

    #[must_use]
    pub fn ebpf(&self) -> &Ebpf {
        &self.loaded.ebpf
    }

    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.loaded.ebpf
    }

    /// A further handle to a map.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn map(&self, name: &str) -> Result<Map> {
        let map = self.loaded.ebpf.map(name).with_context(|| name.to_owned())?;
        let data = match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::PerCpuArray(data) => data,
            other => anyhow::bail!("{name} is a {other:?}"),
        };
        Ok(Map::from_map_data(MapData::from_id(data.info()?.id())?)?)
    }

    /// Bytes of kernel memory that each map takes, as the kernel accounts for them.
    ///
    /// # Errors
    /// /proc does not say.
    pub fn memory(&self) -> Result<BTreeMap<String, u64>> {
        let own = maps::PINNED.iter().chain([&maps::SCRATCH]);
        own.map(|name| {
            let map = self.loaded.ebpf.map(name).context("a map of the object")?;
            let data = match map {
                aya::maps::Map::Array(data)
                | aya::maps::Map::HashMap(data)
                | aya::maps::Map::LruHashMap(data)
                | aya::maps::Map::LpmTrie(data)
                | aya::maps::Map::PerCpuArray(data) => data,
                other => anyhow::bail!("{name} is a {other:?}"),
            };
            let fd = data.fd().as_fd().as_raw_fd();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
            let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
            let bytes = line.context("the kernel says what a map takes")?.trim().parse()?;
            Ok(((*name).to_owned(), bytes))
        })
        .collect()
    }

    /// Runs a frame that arrives by an interface.
    ///
    /// # Errors
    /// The kernel cannot run it: frames have at least 14 bytes, and the interface exists.
    pub fn receive(&mut self, ifindex: u32, frame: &Frame) -> Result<(Action, Frame)> {
        self.receive_behind(0, ifindex, frame)
    }

    /// As [`Self::receive`], where so many bytes of metadata (a multiple of four) leave the frame's head less room to grow.
    ///
    /// # Errors
    /// The kernel cannot run it.
    pub fn receive_behind(
        &mut self,
        metadata: usize,
        ifindex: u32,
        frame: &Frame,
    ) -> Result<(Action, Frame)> {
        let input = [&vec![0; metadata], &frame.0[..]].concat();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [metadata as u32, input.len() as u32, 0, ifindex, 0, 0];
        let options = TestRunOptions {
            data_in: Some(&input),
            data_out: Some(&mut self.output),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            ..TestRunOptions::new()
        };
        let result = program(&mut self.loaded.ebpf, Stage::Known.program())?.test_run(options)?;
        let left = self.output[metadata..result.data_size_out as usize].to_vec();
        Ok((Action(result.return_value), Frame(left)))
    }

    /// Takes no more frames that are to be held.
    pub fn stop_listening(&mut self) {
        self.held.clear();
    }

    /// Takes a stage out of the pipeline.
    ///
    /// # Errors
    /// The map of the stages cannot be written.
    pub fn without(&mut self, stage: Stage) -> Result<()> {
        Ok(self.loaded.stages.clear_index(&stage.index())?)
    }

    /// The frames that the program has handed over to be held, since this was last asked.
    pub fn held(&mut self) -> Vec<(Held, Frame)> {
        let mut frames = Vec::new();
        for buffer in &mut self.held {
            buffer.for_each(|event| {
                let PerfEvent::Sample { head, tail } = event else {
                    panic!("frames were lost: {event:?}");
                };
                let bytes = [head, tail].concat();
                let (held, rest) = bytes.split_at(size_of::<Held>());
                let held: Held = bytemuck::pod_read_unaligned(held);
                frames.push((held, Frame(rest[..held.length as usize].to_vec())));
            });
        }
        frames
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.loaded.ebpf.map_mut(name).with_context(|| name.to_owned())?;
        Ok(Array::try_from(map)?)
    }

    fn per_cpu<V: Pod>(&mut self, name: &str) -> Result<PerCpuArray<&mut MapData, V>> {
        let map = self.loaded.ebpf.map_mut(name).with_context(|| name.to_owned())?;
        Ok(PerCpuArray::try_from(map)?)
    }

    fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        let map = self.loaded.ebpf.map_mut(name).with_context(|| name.to_owned())?;
        Ok(HashMap::try_from(map)?)
    }

    fn fill<V: Pod>(&mut self, name: &str, rows: impl Iterator<Item = (u32, V)>) -> Result<()> {
        let mut used = self.used(name);
        let mut array = self.array(name)?;
        for (index, row) in rows {
            array.set(index, row, 0)?;
            used = used.max(index + 1);
        }
        self.used.insert(name.to_owned(), used);
        Ok(())
    }

    /// How many rows of an array may hold something.
    fn used(&self, name: &str) -> u32 {
        self.used.get(name).copied().unwrap_or(COUNTED)
    }

    fn clear<V: Pod + Default>(&mut self, name: &str) -> Result<()> {
        let rows = 0..self.used(name);
        self.fill(name, rows.map(|index| (index, V::default())))
    }

    fn replace<K: Pod, V: Pod>(&mut self, name: &str, rows: impl Iterator<Item = (K, V)>) -> Result<()> {
        let mut map = self.hash::<K, V>(name)?;
        let old: Vec<K> = map.keys().collect::<Result<_, _>>()?;
        for key in old {
            map.remove(&key)?;
        }
        for (key, row) in rows {
            map.insert(key, row, 0)?;
        }
        Ok(())
    }

    fn replace_prefixes<K: Pod, V: Pod>(
        &mut self,
        name: &str,
        rows: impl Iterator<Item = (Key<K>, V)>,
    ) -> Result<()> {
        let map = self.loaded.ebpf.map_mut(name).with_context(|| name.to_owned())?;
        let mut map: LpmTrie<_, K, V> = LpmTrie::try_from(map)?;
        let old: Vec<Key<K>> = map.keys().collect::<Result<_, _>>()?;
        for key in old {
            map.remove(&key)?;
        }
        for (key, row) in rows {
            map.insert(&key, row, 0)?;
        }
        Ok(())
    }

    /// Makes the maps hold what `tables` hold. Its counters are not copied: they start at zero.
    ///
    /// # Errors
    /// A map has no room.
    pub fn write(&mut self, tables: &MemoryTables) -> Result<()> {
        self.clear::<Pool>(maps::POOLS)?;
        self.clear::<Slot>(maps::SLOTS)?;
        self.clear::<Ip>(maps::SNAT_ADDRESSES)?;
        self.clear::<Origin>(maps::ORIGINS)?;
        self.clear::<Hop>(maps::HOPS)?;
        self.clear::<Timeouts>(maps::TIMEOUTS)?;
        self.clear::<PortSpan>(maps::SPANS)?;
        self.clear::<u64>(maps::ADDRESSES)?;
        self.clear::<Bucket>(maps::BUCKETS)?;
        self.clear::<u32>(maps::SETTLED)?;
        self.clear::<u64>(maps::RATES)?;
        self.clear::<Load>(maps::LOADS)?;
        self.clear::<Load>(maps::SWEPT)?;
        self.clear::<PathMtu>(maps::PATH_MTUS)?;
        self.write_configuration(tables)?;
        self.write_flows(tables)?;
        let swept_at = match tables.swept_at {
            0 => 0,
            // That is another clock's.
            _ => self.clock.now().max(1),
        };
        self.array(maps::SWEPT_AT)?.set(0, swept_at, 0)?;
        self.clear_counters()
    }

    /// Writes all that `tables` hold but flows and counters. Rows that they lack stay as they are.
    ///
    /// # Errors
    /// A map has no room.
    pub fn write_configuration(&mut self, tables: &MemoryTables) -> Result<()> {
        self.array::<Settings>(maps::SETTINGS)?
            .set(0, tables.settings, 0)?;
        let copied = |(key, row): (&u32, &_)| (*key, *row);
        self.fill::<Pool>(maps::POOLS, tables.pools.iter().map(copied))?;
        self.fill::<Slot>(maps::SLOTS, tables.slots.iter().map(|(k, v)| (*k, *v)))?;
        self.fill::<Ip>(
            maps::SNAT_ADDRESSES,
            tables.snat_addresses.iter().map(|(k, v)| (*k, *v)),
        )?;
        self.fill::<Origin>(maps::ORIGINS, tables.origins.iter().map(|(k, v)| (k.0, *v)))?;
        self.fill::<Hop>(maps::HOPS, tables.hops.iter().map(|(k, v)| (k.0, *v)))?;
        self.fill::<Timeouts>(maps::TIMEOUTS, tables.timeouts.iter().map(|(k, v)| (*k, *v)))?;
        self.fill::<PortSpan>(maps::SPANS, tables.spans.iter().map(|(k, v)| (*k, *v)))?;
        let routes = tables.routes.iter().map(|(k, v)| (*k, *v));
        self.replace::<RouteKey, Route>(maps::ROUTES, routes)?;
        self.fill(maps::ADDRESSES, tables.filter().into_iter())?;
        self.fill::<u32>(maps::SETTLED, tables.settled.iter().map(|(k, v)| (*k, *v)))?;
        let vips = tables.vips.iter().map(|(k, v)| (*k, *v));
        self.replace::<VipKey, Vip>(maps::VIPS, vips)?;
        let interfaces = tables.interfaces.iter().map(|(k, v)| (*k, *v));
        self.replace::<u32, Interface>(maps::INTERFACES, interfaces)?;
        let rules = tables.country_rules.iter().map(|(k, v)| (*k, *v));
        self.replace::<CountryKey, AccessRule>(maps::COUNTRY_RULES, rules)?;
        let prefixes = tables
            .access
            .iter()
            .map(|((length, key), rule)| (Key::new(*length, *key), *rule));
        self.replace_prefixes(maps::ACCESS, prefixes)?;
        let prefixes = tables
            .countries
            .iter()
            .map(|((length, key), row)| (Key::new(*length, *key), *row));
        self.replace_prefixes(maps::COUNTRIES, prefixes)?;
        let applications = tables.applications.iter().map(|(k, v)| (*k, *v));
        self.replace::<ApplicationKey, Application>(maps::APPLICATIONS, applications)
    }

    /// Makes the flow tables hold what those of `tables` hold.
    ///
    /// # Errors
    /// A map has no room.
    pub fn write_flows(&mut self, tables: &MemoryTables) -> Result<()> {
        fn rows<K: Copy, V: Copy>(map: &RefCell<BTreeMap<K, V>>) -> Vec<(K, V)> {
            map.borrow().iter().map(|(key, row)| (*key, *row)).collect()
        }
        self.replace(maps::FLOWS4, rows(&tables.flows4).into_iter())?;
        self.replace(maps::FLOWS6, rows(&tables.flows6).into_iter())?;
        self.replace(maps::TENTATIVE4, rows(&tables.tentative4).into_iter())?;
        self.replace(maps::TENTATIVE6, rows(&tables.tentative6).into_iter())?;
        self.replace(maps::SOURCE_RATES, rows(&tables.source_rates).into_iter())?;
        self.replace(maps::AFFINITY, rows(&tables.affinity).into_iter())?;
        self.replace(maps::FRAGMENTS, rows(&tables.fragments).into_iter())?;
        self.fill(maps::RATES, rows(&tables.rates).into_iter())?;
        self.fill(maps::LOADS, rows(&tables.loads).into_iter())?;
        self.fill(maps::PATH_MTUS, rows(&tables.path_mtus).into_iter())?;
        self.fill(maps::BUCKETS, rows(&tables.buckets).into_iter())?;
        self.clear::<u64>(maps::FLOW_FILTER)?;
        self.fill(maps::FLOW_FILTER, rows(&tables.flow_filter).into_iter())?;
        let count = *tables.fragment_count.borrow();
        self.array::<u32>(maps::FRAGMENT_COUNT)?.set(0, count, 0)?;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let due = PerCpuValues::try_from(vec![*tables.reply_rate.borrow(); cpus])?;
        self.per_cpu::<u64>(maps::REPLY_RATE)?.set(0, due, 0)?;
        Ok(())
    }

    fn rows<K: Pod + Ord, V: Pod>(&mut self, name: &str) -> Result<BTreeMap<K, V>> {
        Ok(self.hash::<K, V>(name)?.iter().collect::<Result<_, _>>()?)
    }

    /// The rows of an array that hold something.
    fn written<V: Pod + Default + PartialEq>(&mut self, name: &str) -> Result<BTreeMap<u32, V>> {
        let used = self.used(name);
        let array = self.array::<V>(name)?;
        let mut rows = BTreeMap::new();
        for index in 0..used {
            let row = array.get(&index, 0)?;
            if row != V::default() {
                rows.insert(index, row);
            }
        }
        Ok(rows)
    }

    fn clear_counters(&mut self) -> Result<()> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = || PerCpuValues::try_from(vec![0u64; cpus]);
        for index in 0..maps::VERDICT_ROWS {
            self.per_cpu::<u64>(maps::VERDICTS)?.set(index, zeros()?, 0)?;
        }
        for name in [maps::APPLICATION_TRAFFIC, maps::ORIGIN_TRAFFIC] {
            let mut rows = self.per_cpu::<Traffic>(name)?;
            for index in 0..COUNTED {
                rows.set(index, PerCpuValues::try_from(vec![Traffic::default(); cpus])?, 0)?;
            }
        }
        Ok(())
    }

    /// The flows and counters that the maps hold.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn snapshot(&mut self) -> Result<MemoryTables> {
        let tables = MemoryTables::default();
        *tables.flows4.borrow_mut() = self.rows(maps::FLOWS4)?;
        *tables.flows6.borrow_mut() = self.rows(maps::FLOWS6)?;
        *tables.tentative4.borrow_mut() = self.rows(maps::TENTATIVE4)?;
        *tables.tentative6.borrow_mut() = self.rows(maps::TENTATIVE6)?;
        *tables.source_rates.borrow_mut() = self.rows(maps::SOURCE_RATES)?;
        *tables.affinity.borrow_mut() = self.rows(maps::AFFINITY)?;
        *tables.fragments.borrow_mut() = self.rows(maps::FRAGMENTS)?;
        *tables.rates.borrow_mut() = self.written(maps::RATES)?;
        *tables.loads.borrow_mut() = self.written(maps::LOADS)?;
        *tables.path_mtus.borrow_mut() = self.written(maps::PATH_MTUS)?;
        *tables.flow_filter.borrow_mut() = self.written(maps::FLOW_FILTER)?;
        *tables.buckets.borrow_mut() = self.written(maps::BUCKETS)?;
        *tables.fragment_count.borrow_mut() = self.array::<u32>(maps::FRAGMENT_COUNT)?.get(&0, 0)?;
        let due = self.per_cpu::<u64>(maps::REPLY_RATE)?.get(&0, 0)?;
        *tables.reply_rate.borrow_mut() = due.iter().copied().max().unwrap_or_default();
        let verdicts = self.per_cpu::<u64>(maps::VERDICTS)?;
        for index in 0..maps::VERDICT_ROWS {
            let count: u64 = verdicts.get(&index, 0)?.iter().sum();
            tables.verdicts.borrow_mut().insert(index, count);
        }
        for (name, into) in [
            (maps::APPLICATION_TRAFFIC, &tables.application_traffic),
            (maps::ORIGIN_TRAFFIC, &tables.origin_traffic),
        ] {
            let rows = self.per_cpu::<Traffic>(name)?;
            for index in 0..COUNTED {
                let row = rows
                    .get(&index, 0)?
                    .iter()
                    .fold(Traffic::default(), |sum, cpu| Traffic {
                        packets_in: sum.packets_in + cpu.packets_in,
                        bytes_in: sum.bytes_in + cpu.bytes_in,
                        packets_out: sum.packets_out + cpu.packets_out,
                        bytes_out: sum.bytes_out + cpu.bytes_out,
                        new_flows: sum.new_flows + cpu.new_flows,
                    });
                into.borrow_mut().insert(index, row);
            }
        }
        Ok(tables)
    }
}

/// Pages of a CPU's buffer for held frames: room for the longest.
const BUFFER_PAGES: usize = 16;

/// Rows of counters that scenarios use, by application and by origin.
const COUNTED: u32 = 128;
