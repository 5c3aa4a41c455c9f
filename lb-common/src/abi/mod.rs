//! The binary contract between the kernel program and userspace: nothing crosses the line that is not here.
//!
//! Rules: `repr(C)`, no implicit padding (bytemuck proves it), no Rust `enum` or `bool` (map memory may hold any
//! byte), numbers in the machine's order unless the type says otherwise. A change of any layout bumps
//! [`ABI_VERSION`], which is part of the pin path, so a program never meets maps of another layout.

mod address;
mod application;
mod counters;
mod flow;
mod hop;
pub mod maps;
mod origin;
mod pool;
mod settings;
mod slot;
#[cfg(feature = "user")]
mod user;

pub use address::{Ip, Ip4, Ip6, Mac, Port, Protocol};
pub use application::{Application, ApplicationKey, PoolList, Steering};
pub use counters::{Traffic, Verdicts};
pub use flow::{Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, FlowSide, TcpState};
pub use hop::{Hop, HopId};
pub use origin::{Forwarding, Origin, OriginId, OriginState};
pub use pool::{Pool, PoolFlags, PoolId, PoolRow, Table, TableKind};
pub use settings::{HashKey, Parity, PortRange, Settings, SettingsFlags};
pub use slot::Slot;

/// The layout of all maps. Part of the pin path: see [`maps::pin_directory`].
pub const ABI_VERSION: u32 = 1;
