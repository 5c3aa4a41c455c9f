//! The binary contract between the kernel program and userspace: nothing crosses the line that is not here.
//!
//! Rules: `repr(C)`, no implicit padding (bytemuck proves it), no Rust `enum` or `bool` (map memory may hold any
//! byte), numbers in the machine's order unless the type says otherwise. A change of any layout bumps
//! [`ABI_VERSION`], which is part of the pin path, so a program never meets maps of another layout.

mod access;
mod address;
mod affinity;
mod application;
mod bucket;
mod counters;
mod filter;
mod flow;
mod flow_filter;
mod fragment;
mod hop;
pub mod maps;
mod origin;
mod pool;
mod route;
mod settings;
mod shortcut;
mod slot;
mod trace;
#[cfg(feature = "user")]
mod user;
mod vip;

pub use access::{AccessKey, AccessList, AccessRule, Country, CountryKey, Rate, SourceKey};
pub use address::{Ip, Ip4, Ip6, Mac, Port, Protocol};
pub use affinity::{Affinity, AffinityKey};
pub use application::{Application, ApplicationFlags, ApplicationKey, PoolList, Steering, Timeouts};
pub use bucket::{Bucket, BucketRun};
pub use counters::{Traffic, Verdicts};
pub use filter::{Filter, FilterBit};
pub use flow::{Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, FlowSide, TcpState};
pub use flow_filter::{FlowBit, FlowFilter, Half};
pub use fragment::{FragmentFlow, FragmentKey, Held};
pub use hop::{Hop, HopId, Interface, Tag};
pub use origin::{Forwarding, Load, Origin, OriginFlags, OriginId, OriginState, PathMtu};
pub use pool::{Pool, PoolFlags, PoolId, PoolRow, Table, TableKind};
pub use route::{Route, RouteKey};
pub use settings::{HashKey, Parity, PortRange, Settings, SettingsFlags, TunnelSource};
pub use shortcut::Shortcut;
pub use slot::Slot;
pub use trace::{Ends, MAX_SNAP, Prefix, Report, ReportKind, Tap, TraceKinds, Tracing};
pub use vip::{AddressRole, PortSpan, Spans, Vip, VipKey};

/// The layout of all maps. Part of the pin path: see [`maps::pin_directory`].
pub const ABI_VERSION: u32 = 2;
