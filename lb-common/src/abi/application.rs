//! Applications: what a new flow's destination selects.

use super::{AccessList, BucketRun, Ip, Parity, PoolId, Port, Protocol, Rate};
use bytemuck::{Pod, Zeroable};

/// One address, port and protocol of an application, in one configuration generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ApplicationKey {
    pub address: Ip,
    pub port: Port,
    pub protocol: Protocol,
    /// Which of the two generations this record belongs to.
    pub parity: Parity,
}

/// What the packet path needs to know of an application.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Application {
    /// Stable number of the application; its row in the application counters.
    pub id: u32,
    /// Where the candidate pools stand.
    pub pools: PoolList,
    /// The pool of last resort, or [`PoolId::NONE`].
    pub fallback: PoolId,
    /// Port at the origin for origins that name none; never 0. Of a range: for its first port.
    pub origin_port: Port,
    /// The first port of the application's range; 0: it has a single port.
    pub first_port: Port,
    /// Who may open flows.
    pub access: AccessList,
    pub flags: ApplicationFlags,
    /// How long a client stays with its origin, in jiffies; 0: no affinity.
    pub affinity_ttl: u32,
    /// Changes when a client's origin may not be one of the application's any more.
    pub affinity_epoch: u32,
    /// With [`ApplicationFlags::ROUTES`]: the number of the set of routes that its clients' countries have.
    pub routes: u32,
    /// What is known of TCP flows without entries.
    pub buckets: BucketRun,
    /// New flows of all clients together, and of each client.
    pub rate: Rate,
    pub source_rate: Rate,
}

/// Properties of an application, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct ApplicationFlags(pub u32);

impl ApplicationFlags {
    /// The access list has rules for countries.
    pub const COUNTRIES: u32 = 1;
    /// An origin answers its clients directly, so its flows may be forwarded without being known.
    pub const DIRECT: u32 = 2;
    /// Clients of some countries go to other pools: see [`super::Route`].
    pub const ROUTES: u32 = 4;
    /// New TCP flows need no entry: nothing but the buckets' owners must be known of them.
    pub const UNTRACKED: u32 = 8;

    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Idle times after which an application's flows are forgotten, in jiffies. One row an application, so that a change
/// holds for the flows there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Timeouts {
    pub tcp: u32,
    pub tcp_handshake: u32,
    pub tcp_closing: u32,
    pub udp: u32,
}

/// The candidate pools of an application: a run of slots that name pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PoolList {
    /// Index of the first slot.
    pub base: u32,
    /// [`Steering::ORDERED`]: the number of pools. [`Steering::WEIGHTED`]: the table's size minus one (a power of two).
    pub extent: u32,
    pub steering: Steering,
}

/// How [`PoolList`] is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Steering(pub u32);

impl Steering {
    /// The list in its order: the first pool that has an origin to give.
    pub const ORDERED: Self = Self(0);
    /// A consistent-hash table of pools, entered with the flow's hash. [`PoolId::NONE`] stands for the fallback pool.
    pub const WEIGHTED: Self = Self(1);
    /// As [`Self::WEIGHTED`], entered with the hash of the client's address.
    pub const WEIGHTED_BY_CLIENT: Self = Self(2);
}

const _: () = assert!(size_of::<Application>() == 64);
