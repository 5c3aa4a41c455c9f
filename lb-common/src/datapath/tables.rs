//! The tables that the pipeline reads and writes: BPF maps in the kernel, plain memory in tests and in `lb explain`.

use crate::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, Hop, HopId, Ip, Origin,
    OriginId, Pool, PoolRow, Settings, Slot,
};

/// Access to the tables. Closures instead of references: no borrow of map memory escapes.
pub trait Tables {
    /// The settings. Other CPUs may see userspace change them one after the other.
    fn settings(&self) -> Option<&Settings>;
    /// The number of the live generation, read once a packet; 0: none.
    fn generation(&self) -> u32;
    fn application(&self, key: &ApplicationKey) -> Option<Application>;
    fn pool(&self, row: PoolRow) -> Option<Pool>;
    fn slot(&self, index: u32) -> Option<Slot>;
    fn origin(&self, id: OriginId) -> Option<Origin>;
    fn hop(&self, id: HopId) -> Option<Hop>;
    fn snat_address(&self, index: u32) -> Option<Ip>;

    fn flow4<R>(&self, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R>;
    /// Adds an entry where there is none.
    ///
    /// # Errors
    /// When there is one, or there is no room.
    fn insert4(&self, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError>;
    fn remove4(&self, key: &FlowKey4);

    fn flow6<R>(&self, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R>;
    /// As [`Self::insert4`].
    ///
    /// # Errors
    /// When there is one, or there is no room.
    fn insert6(&self, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError>;
    fn remove6(&self, key: &FlowKey6);

    /// Counts a verdict.
    fn count(&self, row: u32);
    /// Counts a forwarded packet.
    fn count_packet(&self, application: u32, origin: OriginId, sample: Sample);
    /// Counts a flow that was opened.
    fn count_flow(&self, application: u32, origin: OriginId);
}

/// Why an entry was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    Exists,
    Full,
}

/// One forwarded packet, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub side: FlowSide,
    /// Length of the Ethernet frame in bytes, without its padding.
    pub bytes: u64,
}
