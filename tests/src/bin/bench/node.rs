//! lb with a given number of flows in its tables, and the programs that measure it.

use crate::abi::{
    DRIVE, FOUND, FRAME_LEN, SERIES, Series, TARGET_LB, TARGET_LOOKUP4, TARGET_LOOKUP6, TARGET_TRANSMIT,
    TARGETS,
};
use crate::frame::{
    APPLICATION, Address, NODE_MAC, Numbered, ORIGIN, ORIGIN_MAC, ORIGIN_PORT, SNAT, VIP, VIP_PORT, Version,
    entries, new_client, ttl,
};
use crate::modes::Mode;
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::abi::maps;
use lb_common::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowKey4, FlowKey6, HashKey, Hop, HopId, Ip, Origin,
    OriginState, Parity, Pool, PoolFlags, PoolId, PoolList, Port, PortRange, Protocol, Settings,
    SettingsFlags, Steering, Table, Timeouts, Traffic,
};
use lb_common::datapath::Stage;
use lb_common::datapath::family::{V4, V6};
use lb_core::image::{Capacity, TableOp};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::object::{self, Loaded, MapSizes, load};
use lb_userspace::datapath::pins::Pins;
use lb_userspace::datapath::reader::Reader;
use lb_userspace::datapath::sys;
use lb_userspace::datapath::writer::Writer;
use rustix::time::{ClockId, clock_gettime};
use std::array;
use std::os::fd::AsFd;
use std::path::Path;

// SAFETY: bytemuck's derive proved that it is repr(C), without padding, valid for any bytes.
unsafe impl Pod for Series {}

/// New flows of one measurement. A power of two, so that none is opened twice.
pub const NEW_FLOWS: u32 = 1 << 14;
/// Slots of each family's table.
const SLOTS: u32 = 2048;
/// Source addresses of each family.
const SNAT_ADDRESSES: u32 = 64;
/// Source ports for new flows; those of [`entries`] lie below.
const SNAT_PORTS: PortRange = PortRange {
    first: 20_000,
    count: 40_000,
};
/// The smallest flow table: in a tiny one the kernel evicts long before it is full.
const LEAST_ENTRIES: u32 = 1 << 17;
/// Flows written by one system call.
const CHUNK: usize = 1 << 15;
/// A timeout whose eighth never passes: what is measured are packets that renew nothing.
const NEVER: u32 = u32::MAX / 4;
const ACTIONS: [&str; 5] = ["ABORTED", "DROP", "PASS", "TX", "REDIRECT"];
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;

/// One lb.
pub struct Node {
    /// Flows of each family and protocol in the tables.
    pub flows: u32,
    bench: Ebpf,
    writer: Writer,
    reader: Reader,
    flows4: Flows<FlowKey4, Flow4>,
    flows6: Flows<FlowKey6, Flow6>,
    /// Where new flows are.
    tentative4: Flows<FlowKey4, Flow4>,
    tentative6: Flows<FlowKey6, Flow6>,
    exit: u32,
    // The kernel empties maps of programs when their last descriptor goes.
    _targets: ProgramArray<MapData>,
    _lb: Loaded,
}

struct Flows<K, V> {
    raw: MapData,
    map: HashMap<MapData, K, V>,
}

/// All that lb and the floors count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub application: Traffic,
    /// As [`Mode::row`] has it.
    pub origins: [Traffic; Mode::ORIGINS],
    pub not_ours: u64,
    /// All other verdicts.
    pub others: u64,
    /// Flows found by a floor.
    pub found: u64,
}

/// What a run should do, beside leaving the frames' TTL as its series says.
pub struct Expected {
    pub action: u32,
    pub counters: Counters,
}

/// What a run did.
pub struct Run {
    pub nanoseconds: f64,
    /// Packets that went another way than expected.
    pub bad: u64,
}

impl Node {
    /// Loads lb and the benchmark's programs, and fills the flow tables.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(object: &Path, flows: u32) -> Result<Self> {
        // IPv4 and IPv6 have a table each; TCP and UDP share it.
        let established: u32 = Mode::ALL.iter().map(|mode| 4 * mode.flows(flows)).sum();
        let entries = (established + 4 * NEW_FLOWS)
            .next_power_of_two()
            .max(LEAST_ENTRIES);
        let sizes = MapSizes {
            capacity: Capacity {
                applications: 4096,
                pools: 4,
                origins: 16,
                hops: 16,
                snat_addresses: 2 * SNAT_ADDRESSES,
                slots: 1 + 2 * SLOTS,
                application_rows: 16,
                ..Capacity::default()
            },
            max_flows: entries / 2,
        };
        // By pins the programs come to share maps; afterwards nobody needs them.
        let pins = Pins::open(&format!("bench{}-{flows}", std::process::id()))?;
        let node = Self::pinned(object, flows, &sizes, &pins);
        pins.remove().context("remove the benchmark's pins")?;
        let mut node = node?;
        node.configure()?;
        Ok(node)
    }

    fn pinned(object: &Path, flows: u32, sizes: &MapSizes, pins: &Pins) -> Result<Self> {
        let mut lb = load(sizes, Some(pins.folder()))?;
        let now = Clock::measure(&mut lb.ebpf)?.now();
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let mut loader = EbpfLoader::new();
        for name in [maps::FLOWS4, maps::FLOWS6] {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut bench = loader.load(&bytes).context("create the maps of the benchmark")?;
        let targets = bench.take_map(TARGETS).context("the map of targets")?;
        let mut targets = ProgramArray::try_from(targets)?;
        let fd = object::program(&mut lb.ebpf, Stage::Known.program())?
            .fd()?
            .try_clone()?;
        targets
            .set(TARGET_LB, &fd, 0)
            .context("lb cannot be called: it was loaded in another way than the benchmark's programs")?;
        for (index, name) in [TARGET_TRANSMIT, TARGET_LOOKUP4, TARGET_LOOKUP6] {
            let program = object::program(&mut bench, name)?;
            program.load().with_context(|| format!("load {name}"))?;
            targets.set(index, program.fd()?, 0)?;
        }
        object::program(&mut bench, DRIVE)?
            .load()
            .context("load the driver")?;
        let open =
            |name: &str| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(pins.map(name))?)?) };
        let node = Self {
            flows,
            bench,
            writer: Writer::new(open)?,
            reader: Reader::new(open)?,
            flows4: Flows::new(open(maps::FLOWS4)?, open(maps::FLOWS4)?)?,
            flows6: Flows::new(open(maps::FLOWS6)?, open(maps::FLOWS6)?)?,
            tentative4: Flows::new(open(maps::TENTATIVE4)?, open(maps::TENTATIVE4)?)?,
            tentative6: Flows::new(open(maps::TENTATIVE6)?, open(maps::TENTATIVE6)?)?,
            exit: 0,
            _targets: targets,
            _lb: lb,
        };
        for mode in Mode::ALL {
            node.flows4.fill::<V4>(mode, flows, now)?;
            node.flows6.fill::<V6>(mode, flows, now)?;
        }
        Ok(node)
    }

    /// One application for each protocol and family, all of one pool with one origin of each family.
    fn configure(&mut self) -> Result<()> {
        const GENERATION: u32 = 1;
        let parity = Parity::of(GENERATION);
        let [table4, table6] = [0, 1].map(|family| Table {
            base: 1 + family * SLOTS,
            size: SLOTS,
        });
        let slots = |base, owner, count: u32| TableOp::Slots {
            base,
            owners: vec![owner; count as usize],
        };
        let mut steps = vec![
            // The application's list of pools.
            slots(0, POOL.0, 1),
            slots(table4.base, Mode::Nat.origin(Version::V4).0, SLOTS),
            slots(table6.base, Mode::Nat.origin(Version::V6).0, SLOTS),
            TableOp::Pool {
                row: POOL.row(parity),
                record: Pool {
                    tables: [table4, table6, Table::default(), Table::default()],
                    flags: PoolFlags::default(),
                    reserved: 0,
                },
            },
        ];
        steps.extend(of_family::<V4>(parity));
        steps.extend(of_family::<V6>(parity));
        steps.extend(origins().map(|(mode, version)| origin(mode, version)));
        steps.push(TableOp::Timeouts {
            application: APPLICATION,
            record: Timeouts {
                tcp: NEVER,
                tcp_handshake: NEVER,
                tcp_closing: NEVER,
                udp: NEVER,
            },
        });
        steps.push(TableOp::Settings(Settings {
            hash_key: HashKey { k0: 1, k1: 2 },
            second: 250,
            smallest_mtu: 1500,
            snat_ports: SNAT_PORTS,
            // As behind a network card.
            flags: SettingsFlags::default(),
            generation: GENERATION,
            ..Settings::default()
        }));
        self.writer.apply(&steps)
    }

    /// Makes packets to origins leave by an interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave_by(&mut self, ifindex: u32) -> Result<()> {
        if self.exit == ifindex {
            return Ok(());
        }
        self.exit = ifindex;
        self.writer.apply(&[TableOp::Hop {
            id: HOP,
            record: Hop {
                neighbour: ORIGIN_MAC.into(),
                mtu: 1500,
                interface: NODE_MAC.into(),
                resolved: 1,
                ifindex,
                ..Hop::default()
            },
        }])
    }

    /// Sends `packets` packets of a series, whose `turn` goes on, through its target.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn run(
        &mut self,
        version: Version,
        series: &mut Series,
        packets: u32,
        expected: &Expected,
    ) -> Result<Run> {
        let head = series.growth as usize;
        let mut frame = vec![0; head + FRAME_LEN];
        let template: &[u8] = bytemuck::bytes_of(&series.template);
        frame[head..][..template.len()].copy_from_slice(template);
        // As if the program had just handled one.
        frame[head + ttl(version)] = series.ttl_after as u8;
        let mut output = [0; FRAME_LEN + 256];
        let before = self.counters()?;
        let map = self.bench.map_mut(SERIES).context("the series map")?;
        Array::try_from(map)?.set(0, *series, 0)?;
        let program = object::program(&mut self.bench, DRIVE)?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut output),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let started = thread_time();
        let result = program.test_run(options)?;
        let took = thread_time() - started;
        let map = self.bench.map(SERIES).context("the series map")?;
        let after: Series = Array::try_from(map)?.get(&0, 0)?;
        ensure!(
            after.turn == series.turn.wrapping_add(packets),
            "the driver sent {} packets instead of {packets}",
            after.turn.wrapping_sub(series.turn)
        );
        series.turn = after.turn;
        let action = result.return_value;
        ensure!(
            action == expected.action,
            "the program returned {} instead of {}",
            ACTIONS.get(action as usize).unwrap_or(&"nonsense"),
            ACTIONS[expected.action as usize]
        );
        let last = u64::from(u32::from(output[head + ttl(version)]) != series.ttl_after);
        let counters = self.counters()?;
        let wrong = counters.since(&before).distance(&expected.counters);
        Ok(Run {
            nanoseconds: took / f64::from(packets),
            bad: u64::from(after.bad) + last + wrong,
        })
    }

    fn counters(&self) -> Result<Counters> {
        let found = self.bench.map(FOUND).context("the counter of floors")?;
        let found: PerCpuArray<_, u64> = found.try_into()?;
        let verdicts = self.reader.verdicts().into_iter().chain(self.reader.drops());
        let mut counters = Counters {
            application: self.reader.application(APPLICATION),
            found: found.get(&APPLICATION, 0)?.iter().sum(),
            ..Counters::default()
        };
        for (mode, version) in origins() {
            counters.origins[mode.row(version)] = self.reader.origin(mode.origin(version).0);
        }
        for (name, count) in verdicts {
            if name == lb_common::datapath::Pass::NotOurs.name() {
                counters.not_ours += count;
            } else {
                counters.others += count;
            }
        }
        Ok(counters)
    }

    /// Removes the flows that a run has opened, and returns how many were not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flush(&mut self, version: Version, protocol: Protocol) -> Result<u64> {
        match version {
            Version::V4 => self.tentative4.flush::<V4>(protocol),
            Version::V6 => self.tentative6.flush::<V6>(protocol),
        }
    }
}

const POOL: PoolId = PoolId(0);
const HOP: HopId = HopId(1);

/// All modes, for each family.
fn origins() -> impl Iterator<Item = (Mode, Version)> {
    Mode::ALL
        .into_iter()
        .flat_map(|mode| [Version::V4, Version::V6].map(|version| (mode, version)))
}

/// First row of a family's source addresses.
fn snat_base(version: Version) -> u32 {
    version as u32 * SNAT_ADDRESSES
}

/// The origin of a mode for a family.
fn origin(mode: Mode, version: Version) -> TableOp {
    let outer = mode.outer(version);
    let address = match outer {
        Version::V4 => V4::numbered(ORIGIN).into(),
        Version::V6 => V6::numbered(ORIGIN).into(),
    };
    TableOp::Origin {
        id: mode.origin(version),
        record: Origin {
            address,
            identity: 1,
            snat_base: snat_base(outer),
            snat_count: SNAT_ADDRESSES,
            hop: HOP,
            port: Port::default(),
            state: OriginState::UP,
            forwarding: mode.forwarding(),
            gue_port: Port::new(6080),
            ..Origin::default()
        },
    }
}

/// One family's applications, and source addresses.
fn of_family<F: Numbered>(parity: Parity) -> Vec<TableOp> {
    let ip = |address| -> Ip { F::numbered(address).into() };
    let snat_base = snat_base(F::VERSION);
    let mut steps = Vec::new();
    steps.extend((0..SNAT_ADDRESSES).map(|number| TableOp::SnatAddress {
        index: snat_base + number,
        address: ip(Address(SNAT.0 + number)),
    }));
    steps.extend(
        [Protocol::TCP, Protocol::UDP].map(|protocol| TableOp::Application {
            key: ApplicationKey {
                address: ip(VIP),
                port: Port::new(VIP_PORT),
                protocol,
                parity,
            },
            record: Application {
                id: APPLICATION,
                pools: PoolList {
                    base: 0,
                    extent: 1,
                    steering: Steering::ORDERED,
                },
                fallback: PoolId::NONE,
                origin_port: Port::new(ORIGIN_PORT),
                ..Application::default()
            },
        }),
    );
    steps
}

/// CPU time of this thread in nanoseconds.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

impl<K: Pod + bytemuck::Pod, V: Pod + bytemuck::Pod> Flows<K, V> {
    fn new(raw: Map, map: Map) -> Result<Self> {
        let (Map::HashMap(raw) | Map::LruHashMap(raw)) = raw else {
            anyhow::bail!("a flow table is no hash")
        };
        let map = map.try_into()?;
        Ok(Self { raw, map })
    }

    /// Adds the flows that are never new, in an order that is not the one of their packets. TCP's and UDP's alternate: what
    /// is added last is found first in its bucket.
    fn fill<F: Numbered<Key = K, Flow = V>>(&self, mode: Mode, flows: u32, now: u32) -> Result<()> {
        const ORDER: u32 = 0x85eb_ca6b;
        let flows = mode.flows(flows);
        let mask = flows.next_power_of_two() - 1;
        let order: Vec<u32> = (0..=mask)
            .map(|turn| turn.wrapping_mul(ORDER) & mask)
            .filter(|&flow| flow < flows)
            .collect();
        for chunk in order.chunks(CHUNK) {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for &flow in chunk {
                for protocol in [Protocol::TCP, Protocol::UDP] {
                    let both = entries::<F>(mode, protocol, flow, now);
                    for (key, value) in both.origin.into_iter().chain([both.client]) {
                        keys.push(key);
                        values.push(value);
                    }
                }
            }
            sys::update(self.raw.fd().as_fd(), &keys, &values).context("fill a flow table")?;
        }
        Ok(())
    }

    fn flush<F: Numbered<Key = K, Flow = V>>(&self, protocol: Protocol) -> Result<u64> {
        let mut keys = Vec::with_capacity(2 * NEW_FLOWS as usize);
        let mut missing = 0;
        for flow in 0..NEW_FLOWS {
            let key = F::key(&new_client::<F>(protocol, flow));
            match self.map.get(&key, 0) {
                Ok(flow) => keys.extend([key, F::key(&F::leaving(&flow, protocol).reversed())]),
                Err(_) => missing += 1,
            }
        }
        sys::remove(self.raw.fd().as_fd(), &keys).context("remove the new flows")?;
        Ok(missing)
    }
}

impl Counters {
    fn since(&self, before: &Self) -> Self {
        let traffic = |now: Traffic, before: Traffic| Traffic {
            packets_in: now.packets_in - before.packets_in,
            bytes_in: now.bytes_in - before.bytes_in,
            packets_out: now.packets_out - before.packets_out,
            bytes_out: now.bytes_out - before.bytes_out,
            new_flows: now.new_flows - before.new_flows,
        };
        Self {
            application: traffic(self.application, before.application),
            origins: array::from_fn(|row| traffic(self.origins[row], before.origins[row])),
            not_ours: self.not_ours - before.not_ours,
            others: self.others - before.others,
            found: self.found - before.found,
        }
    }

    /// By how many packets the two differ, at most.
    fn distance(&self, other: &Self) -> u64 {
        let numbers = |counters: &Self| {
            let traffic = |traffic: Traffic| {
                let frames = FRAME_LEN as u64;
                [
                    traffic.packets_in,
                    traffic.bytes_in / frames,
                    traffic.packets_out,
                    traffic.bytes_out / frames,
                    traffic.new_flows,
                ]
            };
            let mut numbers = vec![counters.not_ours, counters.others, counters.found];
            numbers.extend(traffic(counters.application));
            numbers.extend(counters.origins.into_iter().flat_map(traffic));
            numbers
        };
        let pairs = numbers(self).into_iter().zip(numbers(other));
        pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0)
    }
}
