//! Next hops: the link address and interface behind which origins stand.

use super::Mac;
use bytemuck::{Pod, Zeroable};

/// Index of a [`Hop`]. 0 is never a hop: it stands for "not resolved".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct HopId(pub u32);

impl HopId {
    pub const UNRESOLVED: Self = Self(0);
}

/// One neighbour on one interface. Its identity (interface and neighbour address) never changes while the daemon
/// knows it; a new link address is one aligned 8-byte store, so a packet never meets half of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Hop {
    /// Link address of the neighbour.
    pub neighbour: Mac,
    /// Largest IP packet that the interface carries, in bytes.
    pub mtu: u16,
    /// Link address of our interface.
    pub interface: Mac,
    /// 0: the neighbour is not resolved and the hop must not be used.
    pub resolved: u16,
    /// The interface that runs the program; of a VLAN, the one below it.
    pub ifindex: u32,
    pub reserved: u32,
    /// Tags that frames to the neighbour carry.
    pub tags: [Tag; 2],
}

/// A VLAN tag as loaded: type (0x8100 or 0x88a8) and control information, in network order; 0: none. The outer one
/// stands first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Tag(pub u32);

impl Tag {
    pub const NONE: Self = Self(0);

    /// The tag of a VLAN: `protocol` is its type (0x8100 or 0x88a8), `id` its number (12 bits).
    #[must_use]
    pub const fn new(protocol: u16, id: u16) -> Self {
        let ([a, b], [c, d]) = (protocol.to_be_bytes(), id.to_be_bytes());
        Self(u32::from_ne_bytes([a, b, c, d]))
    }

    /// Whether both lead to the same VLAN: their priorities (IEEE 802.1Q section 9.6) may differ.
    #[inline(always)]
    pub const fn same_vlan(self, other: Self) -> bool {
        const PRIORITY: u32 = u32::from_ne_bytes([0, 0, 0xf0, 0]);
        (self.0 ^ other.0) & !PRIORITY == 0
    }
}

/// An interface that runs the program, by its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Interface {
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Hop>() == 32);
