//! What the kernel maps should hold, and the ordered steps that bring them there.

use lb_common::abi::{
    Application, ApplicationKey, Hop, HopId, Ip, Origin, OriginId, Pool, PoolRow, Settings,
};

/// One step of the datapath writer. Steps are executed in order; together they keep the rule that a packet meets one
/// generation only and never an entry that leads nowhere.
#[derive(Clone, PartialEq, Debug)]
pub enum TableOp {
    /// Writes an origin's record. Takes effect on the next packet, in all generations.
    Origin { id: OriginId, record: Origin },
    /// Writes a next hop.
    Hop { id: HopId, record: Hop },
    /// Writes a source address for `nat`.
    SnatAddress { index: u32, address: Ip },
    /// Writes a run of slots that the live generation does not use.
    Slots { base: u32, owners: Vec<u32> },
    /// Writes a pool's record of the generation that is not live.
    Pool { row: PoolRow, record: Pool },
    /// Writes an application's record of the generation that is not live.
    Application {
        key: ApplicationKey,
        record: Application,
    },
    /// Removes a record of the generation that is not live.
    RemoveApplication { key: ApplicationKey },
    /// Writes the settings. A new `generation` in them makes everything written before visible at once.
    Settings(Settings),
    /// Waits until no packet is still being handled that started before this step (an RCU grace period).
    Grace,
}

/// Sizes of the maps, fixed when they are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Entries of the application map: two generations.
    pub applications: u32,
    /// Rows of the pool array: two generations.
    pub pools: u32,
    /// Rows of the origin array and of its counters; row 0 is never used.
    pub origins: u32,
    /// Rows of the next-hop array; row 0 is never used.
    pub hops: u32,
    pub snat_addresses: u32,
    /// Entries of the slot arena.
    pub slots: u32,
    /// Rows of the application counters.
    pub application_rows: u32,
}
