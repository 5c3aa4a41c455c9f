//! Settings of the whole program: one record, read once per packet.

use super::{AccessList, Ip6, Port, Rate};
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

impl PortRange {
    /// Whether `port` is one of them.
    #[inline(always)]
    pub const fn holds(self, port: Port) -> bool {
        port.host().wrapping_sub(self.first) < self.count
    }
}

/// The settings record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    pub hash_key: HashKey,
    /// Answers that the node gives itself (resets, ICMP), on each CPU.
    pub reply_rate: Rate,
    /// Outer source addresses of tunnels.
    pub tunnel_source: TunnelSource,
    /// Jiffies in a second.
    pub second: u32,
    /// Who may open flows of any application; comes before the application's own list.
    pub access: AccessList,
    /// Packets are traced until this jiffy (low 32 bits), with [`SettingsFlags::TRACE`].
    pub trace_until: u32,
    /// The smallest MTU of all interfaces and hops: packets that are no longer, with any header that may be added, need no
    /// further look.
    pub smallest_mtu: u32,
    /// Source ports for `nat`: disjoint from the host's own ephemeral ports.
    pub snat_ports: PortRange,
    pub flags: SettingsFlags,
    /// Number of the live generation: 0 means that nothing was written yet and every packet passes. Its lowest bit is
    /// the [`Parity`] of the live copy. Writing it makes a whole configuration visible at once.
    pub generation: u32,
    /// Established flows that are forwarded directly, in both families together; 0: any number. Their clients prove nothing
    /// to the node, and leave room for those of others.
    pub max_direct: u32,
}

/// Where the outer source addresses of tunnels come from: the origin's source addresses, or, where a mask is not 0, a prefix
/// that is filled up with the flow's hash, so that a receiver spreads flows over its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TunnelSource {
    pub prefix6: Ip6,
    pub prefix4: u32,
    /// Bits of the IPv4 address, and of the last word of the IPv6 address, that the hash fills; in network order.
    pub mask4: u32,
    pub mask6: u32,
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
    /// An application has a range of ports.
    pub const RANGES: u32 = 4;
    /// An origin is forwarded to with `dnat`: any packet may be an answer.
    pub const DNAT: u32 = 8;
    /// Flows of another layout are being taken over: segments of unknown flows are dropped, not reset.
    pub const MIGRATING: u32 = 16;
    /// Verdicts are reported; see [`Settings::trace_until`].
    pub const TRACE: u32 = 32;
    /// The access list of all applications has rules for countries.
    pub const COUNTRIES: u32 = 64;

    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

const _: () = assert!(size_of::<Settings>() == 88);
