//! What the benchmark's programs and the benchmark agree on. Both include this file.

use bytemuck::{Pod, Zeroable};

/// Name of the map that holds the [`Series`]: array of one.
pub const SERIES: &str = "SERIES";
/// Name of the map of programs that are measured, by the indices below.
pub const TARGETS: &str = "TARGETS";
pub const TARGET_LB: u32 = 0;
/// Index and program name of the floors.
pub const TARGET_TRANSMIT: (u32, &str) = (1, "floor_transmit");
pub const TARGET_LOOKUP4: (u32, &str) = (2, "floor_lookup4");
pub const TARGET_LOOKUP6: (u32, &str) = (3, "floor_lookup6");
/// Name of the program that calls them.
pub const DRIVE: &str = "drive";
/// Name of the lookup floors' counter: per-CPU array of `u64`, by application.
pub const FOUND: &str = "FOUND";

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
    pub reserved: u32,
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
