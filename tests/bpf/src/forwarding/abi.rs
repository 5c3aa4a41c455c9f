//! What the programs that send packets through a node, and the benchmark, agree on. Both include this file.

use bytemuck::{Pod, Zeroable};

/// Names of the programs.
pub const INJECT: &str = "inject";
pub const TAKE: &str = "take";
pub const RETURNED: &str = "returned";
pub const THROUGH: &str = "through";
/// Name of the map that holds the [`Order`]: array of one.
pub const ORDER: &str = "ORDER";
/// Name of the map that holds the [`Tally`]: array of one.
pub const TALLY: &str = "TALLY";
/// Name of the map that holds the program for [`CALL`]: array of programs, one.
pub const PROGRAMS: &str = "PROGRAMS";

/// Words of eight bytes of every frame.
pub const WORDS: usize = 8;
/// Length of every frame.
pub const FRAME_LEN: usize = 8 * WORDS;

/// Where the checksums of TCP and UDP stand in a frame.
pub const TCP_CHECKSUM_AT: u32 = 50;
pub const UDP_CHECKSUM_AT: u32 = 40;

/// TTL of every packet that is sent; packets are ours with this one, and with the next lower ones.
pub const TTL: u8 = 17;
/// Hops there and back.
pub const HOPS: u8 = 2;

/// Numbers that the client and the origin begin with.
pub const CLIENT_NUMBER: u32 = 0x1000_0000;
pub const ORIGIN_NUMBER: u32 = 0x2000_0000;

/// Source ports, from the first one.
pub const FIRST_PORT: u32 = 1_024;
pub const PORTS: u32 = 64_512;
/// Flows in a row with the same source address: 252 times as many have the same port, so no two are alike.
pub const SAME_SOURCE_BITS: u32 = 8;

/// What becomes of a frame once it is made: the kernel's stack has it, it goes back, it goes out of an interface, or
/// another program has it.
pub const PASS: u32 = 0;
pub const TRANSMIT: u32 = 1;
pub const REDIRECT: u32 = 2;
pub const CALL: u32 = 3;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Order {
    /// The frame before it is given its source.
    pub template: [u64; WORDS],
    /// Number of the next packet.
    pub next: u64,
    /// Packet number `n` is one of flow `first_flow + (n * step & mask)`.
    pub first_flow: u32,
    pub step: u32,
    pub mask: u32,
    /// Source of the first flow, in the machine's order.
    pub first_source: u32,
    /// Offset of the transport checksum.
    pub checksum_at: u32,
    /// One of [`PASS`] and the following.
    pub action: u32,
    /// For [`REDIRECT`].
    pub ifindex: u32,
    /// 1: origins answer SYNs.
    pub answers: u32,
}

/// What has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    /// Where the node's packets to origins go.
    pub arrived: u64,
    /// At the client.
    pub returned: u64,
}
