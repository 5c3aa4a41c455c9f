//! Floods and numbered packets: the programs of `tests/bpf/src/traffic`, which make frames in the client's namespace and
//! take them where they leave the node.

#[path = "../bpf/src/traffic/abi.rs"]
#[expect(dead_code, reason = "the rest is the programs' own")]
mod abi;
use crate::gate::traffic_object;
use crate::lab::Lab;
use crate::netns::Netns;
pub use abi::{FIRST_ORIGIN_PORT, FIRST_PORT, LAP, STRIDE, Tally, place};
use abi::{FRAME_LEN, GENERATE, GENERATIONS, Generations, ORDER, Order, SEEN, SEEN_WORDS, SINK, TALLY, TTL};
use aya::maps::{Array, Map, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, Pod};
use lb_common::testing::PacketBuilder;
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

// SAFETY: bytemuck's derive proved that they are repr(C), without padding, valid for any bytes.
unsafe impl Pod for Order {}
// SAFETY: as above.
unsafe impl Pod for Tally {}
// SAFETY: as above.
unsafe impl Pod for Generations {}

/// Numbered packets that can be told apart.
pub const MAX_NUMBERED: u64 = SEEN_WORDS as u64 * 64;
/// Frames that the kernel sends at a time.
const BATCH: u32 = 64;

/// The loaded programs. What they take at the node's side of the origins' network ends there as long as this lives.
pub struct Traffic {
    ebpf: Ebpf,
    client: Netns,
    node: Netns,
    /// Room that the kernel asks for.
    frame: Vec<u8>,
}

/// Which packets flood.
#[derive(Clone, Copy, Debug)]
pub enum Flood {
    Syn,
    Udp,
    /// SYNs, each followed by the acknowledgement of an answer that the sender has not seen.
    Handshakes,
}

impl Traffic {
    /// Loads them for a lab whose origins are behind a switch.
    ///
    /// # Panics
    /// The kernel refuses them.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        let object = fs::read(traffic_object()).expect("the object can be read");
        let mut ebpf = Ebpf::load(&object).expect("the kernel takes the maps");
        for name in [GENERATE, SINK] {
            program(&mut ebpf, name)
                .load()
                .expect("the kernel takes the program");
        }
        let (namespace, interface) = lab.beside_node();
        namespace.enter(|| {
            let sink = program(&mut ebpf, SINK);
            sink.attach(interface, XdpMode::Driver)
                .expect("nothing is attached there");
        });
        Self {
            ebpf,
            client: lab.client.clone(),
            node: lab.node.clone(),
            frame: vec![0; FRAME_LEN],
        }
    }

    fn array<V: Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        let map = self.ebpf.map_mut(name).expect("a map of the object");
        Array::try_from(map).expect("an array of such values")
    }

    /// What the sink has taken so far.
    pub fn tally(&mut self) -> Tally {
        self.array(TALLY).get(&0, 0).expect("the only value")
    }

    /// Says that spoofed packets to an address are to be sent.
    pub fn order_flood(&mut self, flood: Flood, to: SocketAddr) {
        let from: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let (builder, checksum_at) = match flood {
            Flood::Syn | Flood::Handshakes => (PacketBuilder::tcp(from, to, 2), 50),
            Flood::Udp => (PacketBuilder::udp(from, to).payload(&[0x55; 22]), 40),
        };
        let handshakes = matches!(flood, Flood::Handshakes);
        self.order(builder, checksum_at, (0, 0), handshakes, [0; LAP as usize]);
    }

    /// Says that numbered datagrams to a VIP's ports from [`FIRST_PORT`] on are to be sent, in turns; they must arrive
    /// at the lab's origins. No more than `window` are on their way at once; 0: any number.
    ///
    /// # Panics
    /// The lab has another number of origins.
    pub fn order_numbered(&mut self, lab: &Lab, vip: Ipv4Addr, applications: u32, window: u32) {
        let mut origins = [0; LAP as usize];
        assert_eq!(lab.origins.len(), origins.len(), "one origin for each place");
        for (host, word) in lab.origins.iter().zip(&mut origins) {
            *word = u64::from_le_bytes({
                let mut bytes = [0; 8];
                bytes[..6].copy_from_slice(&link(&host.namespace, "eth0").0);
                bytes
            });
        }
        let from: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let builder = PacketBuilder::udp(from, (vip, FIRST_PORT).into())
            .payload(&[0; 30])
            .checksum(lb_common::testing::Checksum::None);
        self.order(builder, 0, (applications, window), false, origins);
    }

    fn order(
        &mut self,
        builder: PacketBuilder,
        checksum_at: u32,
        (applications, window): (u32, u32),
        handshakes: bool,
        origins: [u64; LAP as usize],
    ) {
        let (from, ifindex) = link(&self.client, "eth0");
        let (to, _) = link(&self.node, "eth0");
        let mut frame = builder.ttl(TTL).link(from, to).frame().0;
        frame.resize(FRAME_LEN, 0);
        let order = Order {
            template: bytemuck::pod_read_unaligned(&frame),
            next: 0,
            applications,
            ifindex,
            checksum_at,
            window,
            handshakes: handshakes.into(),
            reserved: 0,
            origins,
        };
        self.array(ORDER).set(0, order, 0).expect("the only value");
        self.array(TALLY)
            .set(0, Tally::default(), 0)
            .expect("the only value");
    }

    /// How many packets were made since the order.
    pub fn made(&mut self) -> u64 {
        self.array::<Order>(ORDER)
            .get(&0, 0)
            .expect("the only value")
            .next
    }

    /// Sends so many packets, as fast as they are made, fewer where the order's window says so; to be called inside the client's namespace.
    ///
    /// # Panics
    /// The kernel refuses to.
    pub fn send(&mut self, count: u32) {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(count)),
            ..TestRunOptions::new()
        };
        let sent = program(&mut self.ebpf, GENERATE).test_run(options);
        sent.expect("the kernel sends live frames");
    }

    /// Says which generations may be in force, also while another thread sends.
    ///
    /// # Panics
    /// We may open no more files.
    #[must_use]
    pub fn conduct(&self) -> Conductor {
        let Some(Map::Array(map)) = self.ebpf.map(GENERATIONS) else {
            panic!("a map of the object")
        };
        let fd = map.fd().as_fd().try_clone_to_owned();
        let map = fd.map(MapData::from_fd).expect("a file can be opened twice");
        let map = Map::Array(map.expect("it is a map"));
        Conductor(Array::try_from(map).expect("an array of such values"))
    }

    /// How many of the first `count` numbered packets have never arrived.
    ///
    /// # Panics
    /// There were more than there are bits.
    pub fn lost(&mut self, count: u64) -> u64 {
        assert!(count <= MAX_NUMBERED);
        let seen = self.array::<u64>(SEEN);
        let words = count.div_ceil(64) as u32;
        let seen = (0..words).map(|word| seen.get(&word, 0).expect("a word of the map"));
        count - seen.map(|word| u64::from(word.count_ones())).sum::<u64>()
    }
}

/// Says which generations may be in force.
pub struct Conductor(Array<MapData, Generations>);

impl Conductor {
    /// From here on `in_force` is, and packets may meet `newest` already.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn say(&mut self, in_force: u32, newest: u32) {
        let generations = Generations { in_force, newest };
        self.0.set(0, generations, 0).expect("the only value");
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).expect("a program of the object");
    program.try_into().expect("an XDP program")
}

/// Link address and index of an interface.
///
/// # Panics
/// There is none of that name.
#[must_use]
pub fn link(namespace: &Netns, interface: &str) -> ([u8; 6], u32) {
    let shown = namespace.run("ip", &["-json", "link", "show", "dev", interface]);
    let shown: Value = serde_json::from_str(&shown).expect("ip writes JSON");
    let address = shown[0]["address"].as_str().expect("an interface has an address");
    let mut bytes = address.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let mac = [(); 6].map(|()| bytes.next().and_then(Result::ok).expect("six bytes"));
    let index = shown[0]["ifindex"].as_u64().expect("an interface has an index");
    (mac, index as u32)
}
