//! Applications: what listens where, and which load balancer or origins it leads to.

use super::{Access, Host, RecordType, SomeTimeouts};
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

/// `[applications.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Application {
    pub name: String,
    /// Default true. Packets of a disabled application pass untouched.
    pub enabled: bool,
    pub transport: Transport,
    pub ports: Ports,
    /// The VIPs; at least one.
    pub addresses: Vec<IpAddr>,
    pub destination: Destination,
    /// Port at origins that name none; `None`: the application's own. Of a range: for its first port, at all origins.
    pub origin_port: Option<u16>,
    /// Idle times of its flows; the others are the node's.
    pub flow_timeouts: SomeTimeouts,
    pub echo: Echo,
    /// Who may open flows, beside what holds for all applications.
    pub access: Option<Arc<Access>>,
    pub limits: Limits,
    pub affinity: Option<Affinity>,
}

/// `limits`; `None`: any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Of all clients together, at least 1. A second's worth may come at once.
    pub new_flows_per_second: Option<u32>,
    /// Of each client address, at least 1.
    pub new_flows_per_second_per_source: Option<u32>,
    /// Established flows of each origin, at least 1. An origin has one number of flows, whoever sent them: of several
    /// applications that lead to its pool the smallest limit counts.
    pub flows_per_origin: Option<u32>,
}

/// `affinity`: a client address stays with its origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// For so long after its last new flow.
    pub ttl: Duration,
}

/// `echo`: whether echo requests to its addresses are answered, as far as no interface of the node owns them. With several
/// applications on an address, one that wants an answer is enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Echo {
    Off,
    Always,
    /// As long as somebody can serve the application there, be it the fallback pool.
    #[default]
    Healthy,
}

/// First part of `protocol`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Second part of `protocol`: a port, or consecutive ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The ports from `first` to `last`; `None` when there are none.
    #[must_use]
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first <= last {
            Some(Self { first, last })
        } else {
            None
        }
    }

    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Number of ports, at least 1.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Whether there are several.
    #[must_use]
    pub const fn is_range(self) -> bool {
        self.first != self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_range() {
            true => write!(f, "{}-{}", self.first, self.last),
            false => write!(f, "{}", self.first),
        }
    }
}

/// Where an application's flows go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// `load_balancer`: a load balancer's name.
    LoadBalancer(String),
    /// `origin_direct` or `origin_dns`: these origins, each with the same share and no monitor; at least one.
    Direct(Vec<DirectOrigin>),
}

/// One entry of `origin_direct`, such as `tcp://10.0.0.11:8080`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectOrigin {
    pub address: Host,
    /// Of a host name: which of its addresses.
    pub record_type: RecordType,
    /// Of a range: its first port, the same at all origins.
    pub port: u16,
}

impl Application {
    /// `protocol` as it stands in files and output, such as `tcp/80` or `tcp/1000-2000`.
    #[must_use]
    pub fn protocol(&self) -> String {
        format!("{}/{}", self.transport, self.ports)
    }

    /// Port at origins that name none; of a range: for its first port.
    #[must_use]
    pub fn port_at_origins(&self) -> u16 {
        let direct = match &self.destination {
            Destination::Direct(origins) if self.ports.is_range() => origins.first(),
            Destination::Direct(_) | Destination::LoadBalancer(_) => None,
        };
        direct
            .map(|origin| origin.port)
            .or(self.origin_port)
            .unwrap_or(self.ports.first())
    }
}
