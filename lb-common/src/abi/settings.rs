//! Settings of the whole program: one record, read once per packet.

use bytemuck::{Pod, Zeroable};

/// Which of the two copies of the configuration is meant. One packet reads it once and keeps to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Parity(pub u8);

impl Parity {
    /// The copy that generation `generation` stands in.
    #[inline(always)]
    pub const fn of(generation: u32) -> Self {
        Self((generation & 1) as u8)
    }

    /// The other copy.
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// Secret of the keyed flow hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct HashKey {
    pub k0: u64,
    pub k1: u64,
}

/// Consecutive ports, in the machine's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PortRange {
    pub first: u16,
    /// Number of ports; 0 when there are none.
    pub count: u16,
}

/// The settings record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    pub hash_key: HashKey,
    /// Idle times after which a flow is forgotten, in jiffies.
    pub tcp_timeout: u32,
    pub tcp_handshake_timeout: u32,
    pub tcp_closing_timeout: u32,
    pub udp_timeout: u32,
    /// Source ports for `nat`: disjoint from the host's own ephemeral ports.
    pub snat_ports: PortRange,
    pub flags: SettingsFlags,
    /// Number of the live generation: 0 means that nothing was written yet and every packet passes. Its lowest bit is
    /// the [`Parity`] of the live copy. Writing it makes a whole configuration visible at once.
    pub generation: u32,
    pub reserved: u32,
}

impl Settings {
    /// The copy of the configuration that is live.
    #[inline(always)]
    pub const fn parity(&self) -> Parity {
        Parity::of(self.generation)
    }
}

/// Properties of the node, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct SettingsFlags(pub u32);

impl SettingsFlags {
    /// Frames may arrive with only the pseudo-header summed (veth, virtio: the sender left the checksum to a device
    /// that never came). They are completed before they leave.
    pub const PARTIAL_CHECKSUMS: u32 = 1;
    /// Send by redirect even out of the interface a frame came in by (veth drops XDP_TX unless its peer runs XDP).
    pub const NO_XDP_TX: u32 = 2;

    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

const _: () = assert!(size_of::<Settings>() == 48);
