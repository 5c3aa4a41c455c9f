//! Stand-ins for the kernel: frames in memory, tables in maps, and builders of packets.

mod frame;
mod memory;

pub use frame::Frame;
pub use memory::MemoryTables;
