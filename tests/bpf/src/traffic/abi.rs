//! What the programs that make and count traffic, and the tests that use them, agree on. Both include this file.

use bytemuck::{Pod, Zeroable};

/// Names of the programs.
pub const GENERATE: &str = "generate";
pub const SINK: &str = "sink";
/// Name of the map that holds the [`Order`]: array of one.
pub const ORDER: &str = "ORDER";
/// Name of the map that holds the [`Tally`]: array of one.
pub const TALLY: &str = "TALLY";
/// Name of the map that holds the [`Generations`]: array of one.
pub const GENERATIONS: &str = "GENERATIONS";
/// Name of the map that has a bit for each numbered packet: array of words of 64.
pub const SEEN: &str = "SEEN";

/// Words of eight bytes of every frame.
pub const WORDS: usize = 9;
/// Length of every frame.
pub const FRAME_LEN: usize = 8 * WORDS;
/// Where the number of a packet stands in its frame, and the generation that is known to be in force when it is sent.
pub const NUMBER_AT: usize = 48;
pub const GENERATION_AT: usize = 56;
pub const APPLICATION_AT: usize = 60;

/// Sources of packets: 2³⁰ addresses from here, in the machine's order.
pub const FIRST_SOURCE: u32 = 20 << 24;
pub const SOURCES: u32 = 1 << 30;

/// TTL of every packet that is sent, and of what the sink takes: as it was, or one hop later. All else passes.
pub const TTL: u8 = 17;

/// Words of [`SEEN`]: room for 2²⁶ packets.
pub const SEEN_WORDS: u32 = 1 << 20;

/// Numbered packets go to this port and the following, one for each application.
pub const FIRST_PORT: u16 = 1_000;
/// They arrive at this port and the following: eight for each application, one for each [`LAP`]th generation.
pub const FIRST_ORIGIN_PORT: u16 = 10_000;
/// Generations after which the same origin serves again: as many as there are origins.
pub const LAP: u32 = 4;
/// Generations that change one application only, between two that change all.
pub const STRIDE: u32 = 10;
/// Last number of the first origin's IPv4 address; the others follow.
pub const FIRST_ORIGIN: u8 = 11;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Order {
    /// The frame before it is given its source.
    pub template: [u64; WORDS],
    /// Number of the next packet.
    pub next: u64,
    /// Applications that numbered packets go to in turns; 0: packets are not numbered, and their sources are random.
    pub applications: u32,
    /// The interface that they leave by.
    pub ifindex: u32,
    /// Offset of the transport checksum; 0: there is none.
    pub checksum_at: u32,
    /// Numbered packets that are on their way at most; 0: any number. While there are as many, a run makes none.
    pub window: u32,
    /// 1: each source first opens a connection and then acknowledges the answer that it has not seen.
    pub handshakes: u32,
    pub reserved: u32,
    /// Link addresses of the origins, each in the first six bytes.
    pub origins: [u64; LAP as usize],
}

/// Where a change of generations stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Generations {
    /// The one that is known to be in force.
    pub in_force: u32,
    /// The newest that may be.
    pub newest: u32,
}

/// What has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    /// Packets that the sink took.
    pub arrived: u64,
    /// Numbered packets: those that came a second time; that came to an origin or port that no generation between
    /// sending and arrival had; and those of them that were handled by the newer one of two.
    pub twice: u64,
    pub misdirected: u64,
    pub newer: u64,
    /// Packets on whose way more than one generation came into force: what they prove is less.
    pub slow: u64,
    /// The first that was misdirected: its number, its destination address and port, and generations.
    pub first: [u64; 3],
}

/// Which origin, and which of its ports, serves an application in a generation: the first application changes with each,
/// the others all at once.
#[inline(always)]
pub const fn place(application: u32, generation: u32) -> u32 {
    if application == 0 {
        generation % LAP
    } else {
        generation / STRIDE % LAP
    }
}
