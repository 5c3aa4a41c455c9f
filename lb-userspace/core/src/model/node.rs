//! The machine lb runs on, how it attaches, and where its API listens.

use super::{Access, Coordinates, Prefix};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

/// `[node]`: one machine that runs lb.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Default: the host's name. Names the pin directory.
    pub name: String,
    pub pop: Option<String>,
    pub region: Option<String>,
    pub country: Option<String>,
    /// Degrees, −90 to 90.
    pub latitude: Option<f64>,
    /// Degrees, −180 to 180.
    pub longitude: Option<f64>,
    /// Default `/var/lib/lb`.
    pub state_dir: PathBuf,
}

impl Node {
    /// Where the node stands, if it says so.
    #[must_use]
    pub fn coordinates(&self) -> Option<Coordinates> {
        let (latitude, longitude) = (self.latitude?, self.longitude?);
        Some(Coordinates { latitude, longitude })
    }
}

/// `[datapath]`: where and how the program attaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datapath {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    /// Source addresses for `nat`; empty: the outgoing interface's own addresses.
    pub snat_addresses: Vec<IpAddr>,
    /// Flows remembered for each address family; default 1,048,576.
    pub max_flows: u32,
    pub on_exit: OnExit,
    pub flow_timeouts: FlowTimeouts,
    /// Answers that the node gives itself (resets, ICMP), on each CPU; default [`Datapath::MAX_REPLIES`].
    pub max_replies_per_second: u32,
    pub tunnel_source: TunnelSource,
    /// Who may open flows of any application.
    pub access: Option<Arc<Access>>,
}

impl Datapath {
    pub const MAX_REPLIES: u32 = 1000;
}

/// `datapath.tunnel_source`: where the outer source addresses of `dsr_ipip` and `dsr_gue` come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunnelSource {
    /// A prefix that each flow fills up, so that origins spread flows over their receive queues. `None`: the node's own
    /// addresses.
    pub v4: Option<Prefix>,
    pub v6: Option<Prefix>,
}

/// `datapath.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachMode {
    /// Native, else generic with a warning.
    #[default]
    Auto,
    Native,
    Generic,
}

/// `datapath.on_exit`: what a daemon that stops leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExit {
    /// The pinned program keeps forwarding.
    #[default]
    Keep,
    Detach,
}

/// `datapath.flow_timeouts`: idle times after which a flow is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowTimeouts {
    pub tcp: Duration,
    pub tcp_handshake: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
}

/// Idle times that differ from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SomeTimeouts {
    pub tcp: Option<Duration>,
    pub tcp_handshake: Option<Duration>,
    pub tcp_closing: Option<Duration>,
    pub udp: Option<Duration>,
}

impl SomeTimeouts {
    /// These, and for the rest `others`.
    #[must_use]
    pub fn or(&self, others: &FlowTimeouts) -> FlowTimeouts {
        FlowTimeouts {
            tcp: self.tcp.unwrap_or(others.tcp),
            tcp_handshake: self.tcp_handshake.unwrap_or(others.tcp_handshake),
            tcp_closing: self.tcp_closing.unwrap_or(others.tcp_closing),
            udp: self.udp.unwrap_or(others.udp),
        }
    }
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(3600),
            tcp_handshake: Duration::from_secs(15),
            tcp_closing: Duration::from_secs(30),
            udp: Duration::from_secs(60),
        }
    }
}

/// `[dns]`: how host names of origins are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Empty: those of the system (`/etc/resolv.conf`, with its search list, and `/etc/hosts`).
    pub servers: Vec<SocketAddr>,
    /// A name is looked up again when its TTL ends, but no sooner than this; default [`Dns::MIN_TTL`].
    pub min_ttl: Duration,
    /// And no later than this; default [`Dns::MAX_TTL`].
    pub max_ttl: Duration,
}

impl Dns {
    pub const MIN_TTL: Duration = Duration::from_secs(5);
    pub const MAX_TTL: Duration = Duration::from_secs(3600);
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Self::MIN_TTL,
            max_ttl: Self::MAX_TTL,
        }
    }
}

/// `[api]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Default `/run/lb/lb.sock`.
    pub socket: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub token_file: Option<PathBuf>,
    /// `edge_ips`: addresses of the applications that Cloudflare's API leaves to the node (`"type": "dynamic"`).
    pub edge_ips: Vec<IpAddr>,
}
