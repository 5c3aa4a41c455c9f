//! What the benchmark's programs and the benchmark agree on. Both include this file.

use bytemuck::{Pod, Zeroable};

/// Name of the map that holds the [`Series`]: per-CPU array of one, so that CPUs can send at the same time.
pub const SERIES: &str = "SERIES";
/// Name of the map of programs that are measured, by the indices below.
pub const TARGETS: &str = "TARGETS";
pub const TARGET_SUBJECT: u32 = 0;
/// Name of the program that calls them.
pub const DRIVE: &str = "drive";
/// Name of the floors' counter: per-CPU array of `u64`, whose rows are added up.
pub const FOUND: &str = "FOUND";
/// Rows of [`FOUND`].
pub const FOUND_ROWS: usize = 16;

/// A floor's index in [`TARGETS`], and its program's name.
pub type Target = (u32, &'static str);

pub const TRANSMIT: Target = (1, "floor_transmit");
/// For IPv4 and IPv6, as all that follow.
pub const LOOKUP: [Target; 2] = [(2, "floor_lookup4"), (3, "floor_lookup6")];
pub const MISS: [Target; 2] = [(4, "floor_miss4"), (5, "floor_miss6")];
pub const INSERT: [Target; 2] = [(6, "floor_insert4"), (7, "floor_insert6")];
pub const PREFIX: [Target; 2] = [(8, "floor_prefix4"), (9, "floor_prefix6")];
pub const RING: [Target; 2] = [(10, "floor_ring4"), (11, "floor_ring6")];
pub const RING_TUNNEL: [Target; 2] = [(12, "floor_ring_tunnel4"), (13, "floor_ring_tunnel6")];
/// All of them.
pub const FLOORS: [Target; 13] = [
    TRANSMIT,
    LOOKUP[0],
    LOOKUP[1],
    MISS[0],
    MISS[1],
    INSERT[0],
    INSERT[1],
    PREFIX[0],
    PREFIX[1],
    RING[0],
    RING[1],
    RING_TUNNEL[0],
    RING_TUNNEL[1],
];

/// Names of the tables that the insertion floors fill, which the loader makes as large as lb's of new flows.
pub const FULL: [&str; 2] = ["FULL4", "FULL6"];

/// Names of the ring floors' maps: addresses (hash, [`RingVip`] → row of the ring's counters), ring (array of rows of the
/// reals), reals (array of [`Real`]).
pub const RING_VIPS: &str = "RING_VIPS";
pub const RING_SLOTS: &str = "RING_SLOTS";
pub const REALS: &str = "REALS";
/// Slots of the ring. A power of two: as many as lb has buckets beside it, so that caches hold both alike.
pub const RING_SIZE: u32 = 1 << 11;
/// Rows of the reals.
pub const REAL_ROWS: usize = 4;

/// What the ring floors serve. IPv4 addresses stand in the last word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RingVip {
    /// In network order, as the port.
    pub address: [u32; 4],
    pub port: u16,
    pub protocol: u8,
    pub reserved: u8,
}

/// Where the ring floors send packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Real {
    /// Outer addresses of a tunnel, in network order. IPv4 addresses stand in the last word.
    pub address: [u32; 4],
    pub source: [u32; 4],
    pub mac: [u8; 6],
    pub node_mac: [u8; 6],
}

/// Bytes of a frame that are written anew for each packet: all headers.
pub const TEMPLATE_LEN: usize = 80;
/// Length of every frame.
pub const FRAME_LEN: usize = 84;

/// Words of the template.
pub const WORDS: usize = TEMPLATE_LEN / 8;

/// What the packets of one run look like, and how they went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Series {
    /// The frame before it is made one flow's.
    pub template: [u64; WORDS],
    /// Number of the next packet: it chooses the flow.
    pub turn: u32,
    /// Number of flows less one, rounded up to all ones in binary.
    pub mask: u32,
    pub flows: u32,
    /// Which fields tell the flows apart.
    pub varied: Varied,
    /// The first flow's address (its last 32 bits) and port, in the machine's order.
    pub first_address: u32,
    pub first_port: u32,
    /// Index of the program that is measured.
    pub target: u32,
    /// What that program leaves in the TTL (or hop limit).
    pub ttl_after: u32,
    /// Packets that it left in another state.
    pub bad: u32,
    /// See [`ends`].
    pub port_bits: u32,
    /// Bytes that it makes a frame longer by, at its head.
    pub growth: u32,
    /// Addresses that the flows are for, the template's and those that follow; where the source is varied. See [`spread`].
    pub destinations: u32,
}

/// The fields that tell the flows of a [`Series`] apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Varied(pub u32);

impl Varied {
    pub const SOURCE4: Self = Self(0);
    pub const DESTINATION4: Self = Self(1);
    pub const SOURCE6: Self = Self(2);
    pub const DESTINATION6: Self = Self(3);
}

/// Address (its last 32 bits) and port of a flow, in the machine's order, when `1 << port_bits` flows share an address.
#[inline(always)]
pub const fn ends(first_address: u32, first_port: u32, port_bits: u32, flow: u32) -> (u32, u16) {
    let port_bits = port_bits & 31;
    let port = flow & !(u32::MAX << port_bits);
    let address = first_address.wrapping_add(flow >> port_bits);
    (address, first_port.wrapping_add(port) as u16)
}

/// Which of `count` things flow number `flow` has, where flows are spread evenly over them.
#[inline(always)]
pub const fn spread(flow: u32, count: u32) -> u32 {
    /// Knuth's multiplicative hash.
    const FACTOR: u32 = 0x9e37_79b1;
    ((flow.wrapping_mul(FACTOR) as u64 * count as u64) >> 32) as u32
}

/// The flow whose turn it is: each once in `mask + 1` turns, some twice when their number is no power of two.
#[inline(always)]
pub const fn flow(turn: u32, mask: u32, flows: u32) -> u32 {
    /// Makes neighbours in time strangers in memory. Odd, so that each turn meets another flow.
    const STRIDE: u32 = 0x9e37_79b1;
    let flow = turn.wrapping_mul(STRIDE) & mask;
    if flow < flows { flow } else { flow - flows }
}
