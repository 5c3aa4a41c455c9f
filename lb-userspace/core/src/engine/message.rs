//! What goes into the engine and what comes out of it.

use super::names::{Answer, LookupFailure, NameRecord};
use super::sessions::SessionMoves;
use crate::health::{FailureReason, Observation};
use crate::image::{Capacity, TableOp};
use crate::model::{Config, Forwarding, Monitor};
use crate::view::View;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{
    AccessKey, AccessRule, Application, ApplicationKey, CountryKey, HashKey, Hop, HopId, Interface, Ip, Mac,
    Origin, OriginId, PortRange, Route, RouteKey, Settings, SettingsFlags, Table, Tag, Vip, VipKey,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that can happen to the engine.
#[derive(Clone, Debug)]
pub enum Event {
    /// A whole validated configuration replaces the running one.
    Configure(Arc<Config>),
    /// An attempt that [`Command::Probe`] asked for has ended.
    Observed {
        target: TargetId,
        attempt: u64,
        observation: Observation,
    },
    /// An attempt that [`Command::Probe`] asked for could not be made in time: the run is missed, which says nothing of the
    /// origin.
    Missed { target: TargetId, attempt: u64 },
    /// Why attempts at this target do not go the way that [`ProbeRequest::via`] says, and ask the origin's own address
    /// instead; `None`: they do again.
    Astray { target: TargetId, why: Option<String> },
    /// How the addresses of [`Command::WatchPaths`] are reached now. Addresses that are missing are unreachable.
    Paths(BTreeMap<IpAddr, Path>),
    /// A name of [`Command::WatchNames`] was looked up.
    Resolved { name: String, answer: Answer },
    /// Time has passed; due probes are started.
    Tick,
    /// No flow means these origins any more: those that are not in the configuration are forgotten, and their numbers
    /// are free. Without this event they drain for ever, which costs a row each.
    Drained(Vec<OriginId>),
    /// The program is to run with other flags than [`Environment::flags`]: interfaces have come or gone.
    Flags(SettingsFlags),
    /// Packets are traced until that jiffy; 0: they are not.
    Trace(u32),
    /// The program runs on exactly these interfaces, given by index with their MTU.
    Interfaces(BTreeMap<u32, u32>),
    /// The addresses that interfaces of this node have, also those without the program.
    Addresses(BTreeSet<IpAddr>),
    /// Open flows by origin, for the policies that go by them; origins that are missing have none. Wanted about once a second
    /// as long as [`super::Engine::counts_flows`] says so.
    OpenFlows(BTreeMap<OriginId, u64>),
}

/// Everything the engine can ask for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Bring the maps to a new state: steps in order.
    Apply(Vec<TableOp>),
    /// Make one attempt, and report it as [`Event::Observed`] with the same numbers.
    Probe(ProbeRequest),
    /// Keep [`Event::Paths`] coming for exactly these addresses.
    WatchPaths(Vec<IpAddr>),
    /// Keep [`Event::Resolved`] coming for exactly these names.
    WatchNames(Vec<String>),
    /// The snapshot has changed.
    Publish(Arc<View>),
    /// What a next start may go on with has changed.
    Persist(Kept),
    /// From now on these sessions are to move: what remembers them is to be removed whenever it is seen.
    Shed(Arc<SessionMoves>),
    /// Tell the operator.
    Report(Report),
}

/// Which origin under which monitor. Never reused within one run of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub u64);

/// One attempt to make.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    pub target: TargetId,
    /// Number of the attempt; an answer with an old number is ignored.
    pub attempt: u64,
    pub monitor: Arc<Monitor>,
    pub address: IpAddr,
    /// 0 for `icmp_ping`.
    pub port: u16,
    /// What an HTTP monitor asks for instead of the host that it names itself.
    pub host: Option<String>,
    /// The name that the address is one of: what an HTTP monitor asks for when nobody names a host.
    pub host_name: Option<String>,
    /// The way that its packets go, where that is not the usual one.
    pub via: Option<Via>,
}

/// The way of clients' packets to an origin that answers them directly: a monitor's go it too, and ask the VIP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    pub vip: IpAddr,
    pub forwarding: Forwarding,
    /// How packets leave where the origin's own address cannot say it, being of another family than the VIP; `None`
    /// also as long as nobody knows.
    pub exit: Option<Exit>,
}

/// How packets to an origin leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    pub ifindex: u32,
    /// An address of the node, of the origin's family.
    pub source: IpAddr,
}

/// How a destination is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Path {
    /// By the neighbour `next_hop` (the gateway or the destination itself) on interface `ifindex`.
    Via {
        ifindex: u32,
        /// Of a VLAN on that interface.
        tags: [Tag; 2],
        next_hop: IpAddr,
        /// `None`: not resolved (yet).
        neighbour: Option<Mac>,
        interface_mac: Mac,
        mtu: u16,
        /// Addresses of the interface in the destination's family, the preferred one first.
        sources: Vec<IpAddr>,
    },
    /// It cannot be reached through the datapath; says why, for the operator.
    Unusable(String),
}

/// Health of one origin that outlives the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthRecord {
    pub pool: String,
    pub origin: String,
    pub address: IpAddr,
    pub monitor: String,
    pub healthy: bool,
    pub failure_reason: Option<FailureReason>,
    /// The moving average of its round-trip times.
    pub latency: Option<Duration>,
    /// How long before the record was made the last run ended.
    pub age: Duration,
}

/// A drain that outlives the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DrainRecord {
    /// Of the origin's record.
    pub identity: u64,
    /// How long it has drained.
    pub age: Duration,
    /// How long it may.
    pub timeout: Duration,
}

/// What outlives the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    pub health: Vec<HealthRecord>,
    pub drains: Vec<DrainRecord>,
    pub names: Vec<NameRecord>,
}

/// Something worth a line in the log and in the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    OriginHealth {
        pool: String,
        origin: String,
        /// Which of its addresses, if it has a host name.
        address: Option<IpAddr>,
        healthy: bool,
        reason: Option<FailureReason>,
    },
    /// One member of a monitor group has another opinion of an origin.
    MonitorHealth {
        pool: String,
        origin: String,
        /// As for [`Report::OriginHealth`].
        address: Option<IpAddr>,
        monitor: String,
        healthy: bool,
        reason: Option<FailureReason>,
    },
    PoolHealth {
        pool: String,
        usable: bool,
        healthy_origins: u32,
        minimum_origins: u32,
    },
    /// New flows of the load balancer go to the fallback pool (or no longer do).
    Fallback { load_balancer: String, active: bool },
    /// A host name could not be looked up, wholly or in part, and what was known of it stays in use; or it could again.
    Lookup {
        name: String,
        failure: Option<LookupFailure>,
        /// How many are in use.
        addresses: usize,
    },
    /// A host name has other addresses than before.
    Addresses {
        name: String,
        added: Vec<IpAddr>,
        removed: Vec<IpAddr>,
        /// Those that no origin can have, and why.
        refused: Vec<(IpAddr, String)>,
        /// How many more there are than a name may have.
        left_out: usize,
    },
    /// A configuration came into force.
    Configured { generation: u32 },
    /// A configuration could not be brought into the maps and the old one stays; says why and what to do.
    Refused(String),
}

/// What the engine must know of the machine and the maps, once.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Jiffies per second.
    pub hz: u32,
    pub hash_key: HashKey,
    pub snat_ports: PortRange,
    pub flags: SettingsFlags,
    pub capacity: Capacity,
    /// Flows that the maps remember for each address family.
    pub max_flows: u32,
    /// What stands in pinned maps that were taken over; `None` when the maps are new.
    pub adopted: Option<Adopted>,
    /// Known from before, with its age now; health that is too old is ignored by the engine.
    pub kept: Kept,
    /// Without monitors (`lb attach`): every enabled origin counts as up.
    pub assume_healthy: bool,
    /// Seed of the jitter of probes.
    pub seed: u64,
}

/// Contents of maps that a former daemon filled.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    /// Of the live generation.
    pub settings: Settings,
    /// All rows that are not empty.
    pub origins: Vec<(OriginId, Origin)>,
    /// All records of the live generation.
    pub applications: Vec<(ApplicationKey, Application)>,
    /// Runs of slots that the live generation uses.
    pub tables: Vec<Table>,
    /// Keys of the generation that is not live: a daemon that died may have left any of them.
    pub stale_applications: Vec<ApplicationKey>,
    /// All records of the live generation.
    pub vips: Vec<(VipKey, Vip)>,
    /// As `stale_applications`.
    pub stale_vips: Vec<VipKey>,
    /// All records of the live generation.
    pub routes: Vec<(RouteKey, Route)>,
    /// As `stale_applications`.
    pub stale_routes: Vec<RouteKey>,
    /// All rows that are not empty. Hops that are not given here are left alone until no origin names them.
    pub hops: Vec<(HopId, Hop)>,
    /// All records.
    pub interfaces: Vec<(u32, Interface)>,
    /// All prefixes of access lists, with the number of their bits.
    pub access: Vec<(u32, AccessKey, AccessRule)>,
    pub country_rules: Vec<(CountryKey, AccessRule)>,
    /// The whole table of source addresses, or nothing: then new rows are used.
    pub snat_addresses: Vec<Ip>,
}
