//! Counter rows. All counter maps are per CPU: a reader sums over the CPUs.

use bytemuck::{Pod, Zeroable};

/// One application's or one origin's traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets and bytes (of the Ethernet frame, without padding) from clients to origins.
    pub packets_in: u64,
    pub bytes_in: u64,
    /// Packets and bytes from origins to clients.
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows opened.
    pub new_flows: u64,
}

/// Row number of the per-CPU verdict counters; see [`crate::datapath::Verdict::row`].
pub type Verdicts = u32;
