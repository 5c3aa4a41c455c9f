//! Packets that go through a lab's node as if they had come in by its interface, counted on both sides.

#[path = "../../../bpf/src/forwarding/abi.rs"]
#[expect(dead_code, reason = "the rest is the programs' own")]
mod abi;

pub use abi::{CALL, PASS, REDIRECT, TRANSMIT};
use abi::{
    CLIENT_NUMBER, FRAME_LEN, INJECT, ORDER, ORIGIN_NUMBER, Order, PROGRAMS, RETURNED, TAKE, TALLY,
    TCP_CHECKSUM_AT, THROUGH, TTL, Tally, UDP_CHECKSUM_AT,
};
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunAttrs, TestRunOptions, XdpMode};
use aya::{Ebpf, Pod};
use lb_common::testing::PacketBuilder;
use lb_tests::lab::Lab;
use lb_tests::netns::Netns;
use lb_tests::traffic::link;
use lb_userspace::datapath::object::program;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

// SAFETY: bytemuck's derive proved that they are repr(C), without padding, valid for any bytes.
unsafe impl Pod for Order {}
// SAFETY: as above.
unsafe impl Pod for Tally {}

/// Frames that the kernel sends at a time.
const BATCH: u32 = 64;
/// How long what is on its way may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Turns a flow's number into another one: flows are used in an order that is not the one in which they were opened.
const STEP: u32 = 0x9e37_79b1;

/// A packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of TCP, which origins may answer.
    Syn,
    /// Of TCP: it ends the handshake, and repeats the first bytes of the connection again and again.
    Data,
    /// Of UDP.
    Datagram,
}

/// Which flows packets belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flows {
    /// Where numbering begins: two sets with the same have the same flows.
    pub first: u32,
    /// A power of two; `None`: each packet has its own.
    pub count: Option<u32>,
}

/// What was sent, and what came of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sent {
    /// CPU time of each packet, with all that follows from it on both sides of the node.
    pub nanoseconds: f64,
    pub arrived: u64,
    pub returned: u64,
}

/// The programs, for one lab whose origins are behind a switch.
pub struct Live {
    ebpf: Ebpf,
    // The kernel empties maps of programs when their last descriptor goes.
    programs: ProgramArray<MapData>,
    node: Netns,
    ends: ([u8; 6], [u8; 6]),
    /// The node's interfaces.
    inside: u32,
    outside: u32,
}

impl Live {
    /// Loads them. `bare`: nothing else is attached to the node's interfaces.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(lab: &Lab, object: &Path, bare: bool) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let mut ebpf = Ebpf::load(&bytes)?;
        for name in [INJECT, TAKE, RETURNED, THROUGH] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load {name}"))?;
        }
        let (switch, port) = lab.beside_node();
        let mut attach = |namespace: &Netns, interface: &str, name: &str| -> Result<()> {
            namespace.enter(|| {
                program(&mut ebpf, name)?
                    .attach(interface, XdpMode::Driver)
                    .with_context(|| format!("attach {name} to {interface}"))
            })?;
            Ok(())
        };
        attach(switch, port, TAKE)?;
        attach(&lab.client, "eth0", RETURNED)?;
        if bare {
            // Frames can only be said to come in by an interface that runs a program, and what XDP sends back out of a veth
            // wakes only a peer that does.
            for interface in ["eth0", "eth1"] {
                attach(&lab.node, interface, THROUGH)?;
            }
        }
        let programs = ebpf.take_map(PROGRAMS).context("the map of programs")?;
        let (from, _) = link(&lab.client, "eth0");
        let (to, outside) = link(&lab.node, "eth0");
        let (_, inside) = link(&lab.node, "eth1");
        Ok(Self {
            ebpf,
            programs: programs.try_into()?,
            node: lab.node.clone(),
            ends: (from, to),
            inside,
            outside,
        })
    }

    /// The program that [`CALL`] calls.
    ///
    /// # Errors
    /// It was loaded in another way than the benchmark's programs.
    pub fn set_program(&mut self, program: &ProgramFd) -> Result<()> {
        self.programs
            .set(0, program, 0)
            .context("lb's program cannot be called")
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.ebpf.map_mut(name).context("a map of the object")?;
        Ok(map.try_into()?)
    }

    fn tally(&mut self) -> Result<Tally> {
        Ok(self.array(TALLY)?.get(&0, 0)?)
    }

    /// Sends packets from CPU `cpu`, and waits until so many have arrived and returned, or nothing comes any more.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn send(
        &mut self,
        (kind, to): (Kind, SocketAddr),
        (flows, source): (Flows, Ipv4Addr),
        (action, count): (u32, u32),
        expected: (u64, u64),
    ) -> Result<Sent> {
        let nobody: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let (builder, checksum_at) = match kind {
            Kind::Syn => (
                PacketBuilder::tcp(nobody, to, 0x02).numbers(CLIENT_NUMBER, 0),
                TCP_CHECKSUM_AT,
            ),
            Kind::Data => (
                PacketBuilder::tcp(nobody, to, 0x10)
                    .numbers(CLIENT_NUMBER + 1, ORIGIN_NUMBER + 1)
                    .payload(&[0x55; 10]),
                TCP_CHECKSUM_AT,
            ),
            Kind::Datagram => (
                PacketBuilder::udp(nobody, to).payload(&[0x55; 22]),
                UDP_CHECKSUM_AT,
            ),
        };
        let mut frame = builder.ttl(TTL).link(self.ends.0, self.ends.1).frame().0;
        frame.resize(FRAME_LEN, 0);
        let first_open = kind == Kind::Syn || flows.count.is_none();
        let order = Order {
            template: bytemuck::pod_read_unaligned(&frame),
            next: 0,
            first_flow: flows.first,
            step: if first_open { 1 } else { STEP },
            mask: flows.count.map_or(u32::MAX, |count| count - 1),
            first_source: source.to_bits(),
            checksum_at,
            action,
            ifindex: self.inside,
            answers: (expected.1 > 0).into(),
        };
        self.array(ORDER)?.set(0, order, 0)?;
        let before = self.tally()?;
        let time = self.run(&frame, count)?;
        let (mut now, started) = (self.tally()?, Instant::now());
        let all = |now: &Tally| {
            now.arrived - before.arrived >= expected.0 && now.returned - before.returned >= expected.1
        };
        while !all(&now) && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(1));
            now = self.tally()?;
        }
        let made: Order = self.array(ORDER)?.get(&0, 0)?;
        ensure!(
            made.next == u64::from(count),
            "{} of {count} packets were made",
            made.next
        );
        Ok(Sent {
            nanoseconds: time.as_nanos() as f64 / f64::from(count),
            arrived: now.arrived - before.arrived,
            returned: now.returned - before.returned,
        })
    }

    /// Runs the program that makes them, and returns the CPU time of that.
    fn run(&mut self, frame: &[u8], count: u32) -> Result<Duration> {
        let cpu = available_parallelism()?.get() - 1;
        let others = Helper::of(cpu)?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [0, frame.len() as u32, 0, self.outside, 0, 0];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(count)),
            ..TestRunOptions::new()
        };
        let (node, ebpf) = (self.node.clone(), &mut self.ebpf);
        node.enter(move || {
            let mut set = CpuSet::new();
            set.set(cpu);
            sched_setaffinity(None, &set)?;
            let inject = program(ebpf, INJECT)?;
            let (helped, started) = (others.time()?, clock());
            inject.test_run(options).context("send live frames")?;
            Ok(clock() - started + (others.time()? - helped))
        })
    }
}

/// CPU time of this thread.
fn clock() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The kernel's thread that receives packets when a CPU has no time for it.
struct Helper(std::path::PathBuf);

impl Helper {
    fn of(cpu: usize) -> Result<Self> {
        let name = format!("ksoftirqd/{cpu}");
        let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let found = processes
            .into_iter()
            .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name));
        Ok(Self(found.with_context(|| format!("{name} is not to be seen"))?))
    }

    /// Its CPU time so far.
    fn time(&self) -> Result<Duration> {
        let text = fs::read_to_string(self.0.join("schedstat"))?;
        let first = text
            .split_whitespace()
            .next()
            .context("the kernel counts CPU time")?;
        Ok(Duration::from_nanos(first.parse()?))
    }
}
