//! The machine lb runs on, how it attaches, and where its API listens.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::path::PathBuf;

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

/// `[api]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Default `/run/lb/lb.sock`.
    pub socket: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub token_file: Option<PathBuf>,
}
