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
}

/// What the packet path needs to know of an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Origin {
    pub address: Ip,
    /// Hash of the origin's identity (pool, name, address, port): lets a new daemon recognise the record.
    pub identity: u64,
    /// First index of the source addresses to translate to, in the source address table.
    pub snat_base: u32,
    /// How many of them; 0: none, the origin cannot be used with `nat`.
    pub snat_count: u32,
    pub hop: HopId,
    /// 0: the application's `origin_port`.
    pub port: Port,
    /// One write of this byte stops (or allows) new flows at once.
    pub state: OriginState,
    pub forwarding: Forwarding,
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
}

/// How packets reach an origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Forwarding(pub u8);

impl Forwarding {
    /// Full NAT: the origin sees an address of the node.
    pub const NAT: Self = Self(0);
}

const _: () = assert!(size_of::<Origin>() == 40);
