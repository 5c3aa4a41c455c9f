//! Applications: what listens where, and which load balancer or origins it leads to.

use core::fmt;
use core::net::IpAddr;

/// `[applications.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Application {
    pub name: String,
    /// Default true. Packets of a disabled application pass untouched.
    pub enabled: bool,
    pub transport: Transport,
    pub port: u16,
    /// The VIPs; at least one.
    pub addresses: Vec<IpAddr>,
    pub destination: Destination,
    /// Port at origins that name none; `None`: the application's own.
    pub origin_port: Option<u16>,
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

/// Where an application's flows go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// `load_balancer`: a load balancer's name.
    LoadBalancer(String),
    /// `origin_direct`: these origins, each with the same share and no monitor; at least one.
    Direct(Vec<DirectOrigin>),
}

/// One entry of `origin_direct`, such as `tcp://10.0.0.11:8080`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectOrigin {
    pub address: IpAddr,
    pub port: u16,
}

impl Application {
    /// `protocol` as it stands in files and output, such as `tcp/80`.
    #[must_use]
    pub fn protocol(&self) -> String {
        format!("{}/{}", self.transport, self.port)
    }
}
