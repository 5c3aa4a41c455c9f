//! The benchmark's own programs: those that send packets through others, and the floors.

use crate::abi::{
    DRIVE, FLOORS, FOUND, FOUND_ROWS, FRAME_LEN, FULL, REAL_ROWS, REALS, RING_SIZE, RING_SLOTS, RING_VIPS,
    Real, RingVip, SERIES, Series, TARGET_SUBJECT, TARGETS,
};
use crate::frame::{NODE_MAC, Numbered, ORIGIN, ORIGIN_MAC, SNAT, Version, ttl};
use crate::layout::{Door, Shape};
use crate::modes::Mode;
use crate::subject::Subject;
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::abi::{Ip, Protocol, maps};
use lb_common::datapath::family::{V4, V6};
use lb_userspace::datapath::object;
use lb_userspace::datapath::pins::Pins;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

// SAFETY: bytemuck's derive proved of each that it is repr(C), without padding, valid for any bytes.
unsafe impl Pod for Series {}
// SAFETY: as above.
unsafe impl Pod for RingVip {}
// SAFETY: as above.
unsafe impl Pod for Real {}

/// The programs, ready to send.
pub struct Driver {
    ebpf: Ebpf,
    // The kernel empties maps of programs when their last descriptor goes.
    _targets: ProgramArray<MapData>,
}

/// What became of packets.
pub struct Sent {
    /// CPU time of each, on all CPUs together divided by their number.
    pub nanoseconds: f64,
    /// All, those included that only kept a CPU busy.
    pub packets: u64,
    /// Those that were left with another TTL or length than the series says.
    pub bad: u64,
    /// What the last one's program returned, on each CPU.
    pub actions: Vec<u32>,
}

impl Driver {
    /// Loads the programs, with tables of `full` entries for insertions; those that look in lb's tables find them by their pins.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(object: &Path, pins: &Pins, full: u32, subject: &dyn Subject) -> Result<Self> {
        let mut bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        if !subject.takes_frags() {
            without_frags(&mut bytes);
        }
        let mut loader = EbpfLoader::new();
        for name in [maps::FLOWS4, maps::FLOWS6, maps::ACCESS] {
            loader.map_pin_path(name, pins.map(name));
        }
        for name in FULL {
            loader.map_max_entries(name, full);
        }
        let mut ebpf = loader.load(&bytes).context("create the maps of the benchmark")?;
        let targets = ebpf.take_map(TARGETS).context("the map of targets")?;
        let mut targets = ProgramArray::try_from(targets)?;
        targets
            .set(TARGET_SUBJECT, &subject.entry()?, 0)
            .context("it cannot be called: it was loaded in another way than the benchmark's programs")?;
        for (index, name) in FLOORS {
            let program = object::program(&mut ebpf, name)?;
            program.load().with_context(|| format!("load {name}"))?;
            targets.set(index, program.fd()?, 0)?;
        }
        object::program(&mut ebpf, DRIVE)?
            .load()
            .context("load the driver")?;
        let mut driver = Self {
            ebpf,
            _targets: targets,
        };
        driver.fill_ring()?;
        Ok(driver)
    }

    fn fill_ring(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut(RING_VIPS).context("the ring's addresses")?;
        let mut vips: HashMap<_, RingVip, u32> = map.try_into()?;
        let vip = Shape::usual(0).vip(Mode::Nat);
        let [last4, address6] = [[0, 0, 0, V4::numbered(vip).0], V6::numbered(vip).0];
        for address in [last4, address6] {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let key = RingVip {
                    address,
                    port: Door::Open.port().to_be(),
                    protocol: protocol.0,
                    reserved: 0,
                };
                vips.insert(key, 0, 0)?;
            }
        }
        let map = self.ebpf.map_mut(REALS).context("the ring's reals")?;
        let mut reals: Array<_, Real> = map.try_into()?;
        let Ip(source) = V6::numbered(SNAT).into();
        for row in 0..REAL_ROWS as u32 {
            let Ip(mut address) = V6::numbered(ORIGIN).into();
            address[3] = (ORIGIN.0 + row).to_be();
            let real = Real {
                address,
                source,
                mac: ORIGIN_MAC,
                node_mac: NODE_MAC,
            };
            reals.set(row, real, 0)?;
        }
        let map = self.ebpf.map_mut(RING_SLOTS).context("the ring")?;
        let mut slots: Array<_, u32> = map.try_into()?;
        for slot in 0..RING_SIZE {
            slots.set(slot, slot % 2, 0)?;
        }
        Ok(())
    }

    /// Packets that floors did their work for.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn found(&self) -> Result<u64> {
        let map = self.ebpf.map(FOUND).context("the counter of floors")?;
        let found: PerCpuArray<_, u64> = map.try_into()?;
        let mut sum = 0;
        for row in 0..FOUND_ROWS as u32 {
            sum += found.get(&row, 0)?.iter().sum::<u64>();
        }
        Ok(sum)
    }

    /// Sends `packets` packets of each series, whose `turn` goes on, through its target: the first from the CPU that this
    /// thread is bound to, which is the first of `cpus`, the others from the others at the same time. Whoever is done first
    /// goes on until all are, so that nobody is alone.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn send(
        &mut self,
        version: Version,
        series: &mut [Series],
        cpus: &[usize],
        packets: u32,
    ) -> Result<Sent> {
        ensure!(series.len() <= cpus.len(), "there are not that many CPUs");
        let possible = nr_cpus().map_err(|(_, error)| error)?;
        let mut values = vec![Series::default(); possible];
        for (series, &cpu) in series.iter().zip(cpus) {
            *values
                .get_mut(cpu)
                .context("a CPU beyond those that are possible")? = *series;
        }
        let map = self.ebpf.map_mut(SERIES).context("the series map")?;
        let mut map: PerCpuArray<_, Series> = map.try_into()?;
        map.set(0, PerCpuValues::try_from(values)?, 0)?;
        let program = self.ebpf.program(DRIVE).context("the driver")?;
        let program: &Xdp = program.try_into()?;
        let party = Party {
            program,
            version,
            packets,
            begin: Barrier::new(series.len()),
            under_way: AtomicUsize::new(series.len()),
        };
        let parts: Vec<Result<Part>> = std::thread::scope(|scope| {
            let others: Vec<_> = series[1..]
                .iter()
                .zip(&cpus[1..])
                .map(|(series, &cpu)| {
                    let party = &party;
                    scope.spawn(move || party.run(series, Some(cpu)))
                })
                .collect();
            let own = party.run(&series[0], None);
            let others = others.into_iter().map(|other| {
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            std::iter::once(own).chain(others).collect()
        });
        let parts: Vec<Part> = parts.into_iter().collect::<Result<_>>()?;
        let map = self.ebpf.map(SERIES).context("the series map")?;
        let map: PerCpuArray<_, Series> = map.try_into()?;
        let after = map.get(&0, 0)?;
        let mut sent = Sent {
            nanoseconds: 0.0,
            packets: 0,
            bad: 0,
            actions: Vec::new(),
        };
        let shares = parts.len() as f64;
        for ((series, &cpu), part) in series.iter_mut().zip(cpus).zip(parts) {
            let done = after.get(cpu).context("a CPU's series")?;
            let count = done.turn.wrapping_sub(series.turn);
            ensure!(
                count == part.packets,
                "the driver sent {count} packets instead of {}: it ran on another CPU",
                part.packets
            );
            series.turn = done.turn;
            sent.nanoseconds += part.nanoseconds / shares;
            sent.packets += u64::from(count);
            sent.bad += u64::from(done.bad) + part.bad;
            sent.actions.push(part.action);
        }
        Ok(sent)
    }
}

/// Makes programs of an object such as are loaded for frames in one buffer: the names of their sections say which they are.
fn without_frags(object: &mut [u8]) {
    const WITH: &[u8] = b"\0xdp.frags\0";
    const WITHOUT: &[u8] = b"\0xdp\0";
    let starts = 0..object.len().saturating_sub(WITH.len());
    let found: Vec<usize> = starts.filter(|&at| object[at..].starts_with(WITH)).collect();
    for at in found {
        object[at..][..WITHOUT.len()].copy_from_slice(WITHOUT);
    }
}

/// Those who send at the same time.
struct Party<'a> {
    program: &'a Xdp,
    version: Version,
    packets: u32,
    begin: Barrier,
    under_way: AtomicUsize,
}

/// What became of one CPU's packets.
struct Part {
    nanoseconds: f64,
    packets: u32,
    bad: u64,
    action: u32,
}

impl Party<'_> {
    fn run(&self, series: &Series, cpu: Option<usize>) -> Result<Part> {
        let bound = cpu.map_or(Ok(()), pin);
        self.begin.wait();
        let first = bound.and_then(|()| self.send(series, self.packets));
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let mut part = first?;
        let few = (self.packets / 8).max(1);
        while self.under_way.load(Ordering::Relaxed) > 0 {
            let more = self.send(series, few)?;
            part.packets += more.packets;
            part.bad += more.bad;
        }
        Ok(part)
    }

    fn send(&self, series: &Series, packets: u32) -> Result<Part> {
        let head = series.growth as usize;
        let mut frame = vec![0; head + FRAME_LEN];
        let template: &[u8] = bytemuck::bytes_of(&series.template);
        frame[head..][..template.len()].copy_from_slice(template);
        // As if the program had just handled one.
        let ttl = head + ttl(self.version);
        frame[ttl] = series.ttl_after as u8;
        let mut output = [0; FRAME_LEN + 256];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut output),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let started = thread_time();
        let result = self.program.test_run(options)?;
        let took = thread_time() - started;
        Ok(Part {
            nanoseconds: took / f64::from(packets),
            packets,
            bad: u64::from(u32::from(output[ttl]) != series.ttl_after),
            action: result.return_value,
        })
    }
}

/// Binds this thread to a CPU.
///
/// # Errors
/// The kernel refuses.
pub fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("bind a thread to CPU {cpu}"))
}

/// CPU time of this thread in nanoseconds.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
