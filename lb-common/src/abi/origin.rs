//! Origins: one record each, shared by all pools, generations and flows.

use super::{HopId, Ip, Port};
use bytemuck::{Pod, Zeroable};

/// Stable number of an origin of a pool; index into the origin records and counters. 0 is never an origin. A number is
/// not given to another origin while a flow may still name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct OriginId(pub u32);

impl OriginId {
    pub const NONE: Self = Self(0);
    /// Row of the [`Load`] of all origins that are forwarded to directly.
    pub const DIRECT: Self = Self(0);
}

/// What the packet path needs to know of an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Origin {
    pub address: Ip,
    /// Hash of the origin's identity (pool, name, address, port, forwarding): lets a new daemon recognise the record.
    pub identity: u64,
    /// First index of the source addresses in the source address table: those that `nat` translates to, or those of the
    /// outer headers of a tunnel.
    pub snat_base: u32,
    /// How many of them; 0: none, the origin cannot be used with `nat` or a tunnel.
    pub snat_count: u32,
    pub hop: HopId,
    /// Established flows that it may have; 0: any number.
    pub max_flows: u32,
    /// 0: the application's `origin_port`.
    pub port: Port,
    /// One write of this byte stops (or allows) new flows at once.
    pub state: OriginState,
    pub forwarding: Forwarding,
    pub flags: OriginFlags,
    /// UDP port of `dsr_gue`.
    pub gue_port: Port,
}

/// Properties of an origin, as bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct OriginFlags(pub u16);

impl OriginFlags {
    /// TCP flows are reset as long as the origin is [`OriginState::DOWN`], not kept (`on_unhealthy = "reset"`).
    pub const RESET_WHEN_DOWN: u16 = 1;

    #[inline(always)]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}

/// What packets change of an origin; shared by all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Load {
    /// Established flows.
    pub established: u32,
    pub reserved: u32,
}

/// The largest packet that the path to an origin has been seen to carry (RFC 1191, RFC 8201).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PathMtu {
    /// In bytes; 0: not known.
    pub mtu: u32,
    /// When it was learned, in jiffies (low 32 bits).
    pub seen: u32,
}

/// Whether an origin takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct OriginState(pub u8);

impl OriginState {
    /// Not in the configuration (any more): no new flows; tracked TCP flows go on.
    pub const ABSENT: Self = Self(0);
    /// Takes new flows.
    pub const UP: Self = Self(1);
    /// Its monitor says it is down, or has not spoken yet: new flows only in the fallback role.
    pub const DOWN: Self = Self(2);
    /// Disabled or draining: no new flows in any role; tracked TCP flows go on.
    pub const DRAINING: Self = Self(3);
    /// Its time to drain is over: no new flows, and tracked TCP flows are reset.
    pub const ENDED: Self = Self(4);
}

/// How packets reach an origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Forwarding(pub u8);

impl Forwarding {
    /// Full NAT: the origin sees an address of the node.
    pub const NAT: Self = Self(0);
    /// The origin sees the client's address, and answers through the node.
    pub const DNAT: Self = Self(1);
    /// The packet as it came, to the origin's link address; the origin answers the client directly.
    pub const DSR_L2: Self = Self(2);
    /// The packet as it came, in an IP packet to the origin (RFC 2003, RFC 2473, RFC 4213).
    pub const DSR_IPIP: Self = Self(3);
    /// The packet as it came, in a UDP datagram to the origin (draft-ietf-intarea-gue, variant 1).
    pub const DSR_GUE: Self = Self(4);

    /// Whether packets leave as they came, and answers do not come back.
    #[inline(always)]
    pub const fn is_direct(self) -> bool {
        self.0 >= Self::DSR_L2.0
    }

    /// Whether packets leave in an outer header.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.0 >= Self::DSR_IPIP.0
    }
}

const _: () = assert!(size_of::<Origin>() == 48);
