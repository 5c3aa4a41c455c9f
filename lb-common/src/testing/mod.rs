//! Stand-ins for the kernel: frames in memory, tables in maps, a world of applications, and builders, checkers and
//! generators of packets.

pub mod build;
pub mod check;
pub mod fixtures;
mod flow_filter;
mod frame;
pub mod generate;
mod memory;
pub mod messages;
pub mod modes;
pub mod outer;
pub mod pieces;
pub mod probes;
pub mod random;
pub mod reasons;
pub mod routes;
pub mod rules;
pub mod scenario;
pub mod script;
pub mod tunnels;

pub use build::{Checksum, PacketBuilder};
pub use frame::Frame;
pub use memory::{Counters, MemoryTables};
pub use random::Random;
pub use scenario::{Host, Scenario};
