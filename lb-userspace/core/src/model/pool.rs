//! Pools and their origins.

use super::{Coordinates, Host, NotificationFilter};
use core::fmt;
use core::time::Duration;

/// `[pools.NAME]`: origins that serve the same thing.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    pub name: String,
    /// Default true. A disabled pool gets no traffic and is not probed.
    pub enabled: bool,
    /// Name of the monitor; without one, or a group, enabled origins count as up.
    pub monitor: Option<String>,
    /// Name of the monitor group, instead of a monitor.
    pub monitor_group: Option<String>,
    /// Fewer healthy origins than this and the pool is critical; default 1.
    pub minimum_origins: u32,
    pub origin_steering: OriginSteering,
    pub on_unhealthy: OnUnhealthy,
    /// How long flows of a disabled or removed origin may go on; default [`Pool::DRAIN_TIMEOUT`].
    pub drain_timeout: Duration,
    pub load_shedding: LoadShedding,
    /// `latitude` and `longitude`, for steering by proximity.
    pub coordinates: Option<Coordinates>,
    /// Which changes of its health and its origins' are told to webhooks.
    pub notification_filter: NotificationFilter,
    /// In the order of the file.
    pub origins: Vec<Origin>,
}

impl Pool {
    /// `drain_timeout` of pools that do not say.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
}

/// `on_unhealthy`: what becomes of the TCP flows of an origin that its monitor finds unhealthy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnUnhealthy {
    /// They go on: a probe can be wrong, a reset cannot be taken back.
    #[default]
    Keep,
    /// They are reset.
    Reset,
}

/// `origin_steering.policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OriginSteering {
    /// By the flow's hash, weighted.
    #[default]
    Random,
    /// By the client's address, weighted and consistent.
    Hash,
    /// By the flow's hash and weight ÷ (open flows + 1).
    LeastConnections,
    /// As [`Self::LeastConnections`].
    LeastOutstandingRequests,
}

impl OriginSteering {
    /// The word used in files, in the API and in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Hash => "hash",
            Self::LeastConnections => "least_connections",
            Self::LeastOutstandingRequests => "least_outstanding_requests",
        }
    }

    /// Whether the number of open flows counts.
    #[must_use]
    pub const fn counts_flows(self) -> bool {
        matches!(self, Self::LeastConnections | Self::LeastOutstandingRequests)
    }
}

/// `load_shedding`: a part of the flows that a pool would get goes to the load balancer's other pools.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct LoadShedding {
    /// Of new flows, 0 to 100.
    pub default_percent: f64,
    pub default_policy: SheddingPolicy,
    /// Of clients that are bound to the pool, and of open UDP flows, 0 to 100; always by the client's address.
    pub session_percent: f64,
}

/// `load_shedding.default_policy`: which of the new flows go elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SheddingPolicy {
    /// Any.
    #[default]
    Random,
    /// All of the same clients.
    Hash,
}

/// `[pools.NAME.origins.NAME]`: one destination, or those that a name stands for.
#[derive(Clone, PartialEq, Debug)]
pub struct Origin {
    /// Unique in the pool.
    pub name: String,
    /// Of a name each address is an origin, and they share its weight.
    pub address: Host,
    /// `None` (0 in the file): the application's `origin_port`, else its own port.
    pub port: Option<u16>,
    pub weight: Weight,
    /// Default true. A disabled origin gets no new flows and is not probed.
    pub enabled: bool,
    /// The origin's own `forwarding` and `gue_port`, else the pool's.
    pub forwarding: Forwarding,
    /// `header.Host`: what HTTP monitors ask for, whatever they name themselves.
    pub host: Option<String>,
}

/// `forwarding`: how packets reach an origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Forwarding {
    /// Full NAT: the origin sees an address of the node.
    #[default]
    Nat,
    /// The origin sees the client's address, and answers through the node.
    Dnat,
    /// The packet as it came, to the origin's link address.
    DsrL2,
    /// The packet as it came, in an IP packet to the origin.
    DsrIpip,
    /// The packet as it came, in a UDP datagram to the origin.
    DsrGue {
        /// `gue_port`; default [`Forwarding::GUE_PORT`].
        port: u16,
    },
}

impl Forwarding {
    /// The port that IANA gave to GUE.
    pub const GUE_PORT: u16 = 6080;

    /// The word used in files, in the API and in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::DsrL2 => "dsr_l2",
            Self::DsrIpip => "dsr_ipip",
            Self::DsrGue { .. } => "dsr_gue",
        }
    }

    /// Whether packets arrive at the origin as the client has sent them, addresses and ports alike. Such an origin serves
    /// clients of both address families, whatever its own.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        match self {
            Self::Nat | Self::Dnat => false,
            Self::DsrL2 | Self::DsrIpip | Self::DsrGue { .. } => true,
        }
    }
}

/// Share of an origin or pool: 0 to 1 in steps of 0.01 (Cloudflare's range and step). 0: no traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Weight(u8);

/// Why a number is not a [`Weight`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WeightError {
    OutOfRange(f64),
    NotAStep(f64),
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange(value) => write!(f, "weight {value} is outside 0 to 1"),
            Self::NotAStep(value) => write!(f, "weight {value} is not a multiple of 0.01"),
        }
    }
}

impl Weight {
    pub const ZERO: Self = Self(0);
    pub const ONE: Self = Self(100);

    /// A weight in hundredths, 0 to 100.
    #[must_use]
    pub const fn from_hundredths(hundredths: u8) -> Option<Self> {
        if hundredths <= 100 {
            Some(Self(hundredths))
        } else {
            None
        }
    }

    /// The weight in hundredths, 0 to 100.
    #[must_use]
    pub const fn hundredths(self) -> u8 {
        self.0
    }

    /// The weight as a number, 0 to 1.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl TryFrom<f64> for Weight {
    type Error = WeightError;

    fn try_from(value: f64) -> Result<Self, WeightError> {
        if !(0.0..=1.0).contains(&value) {
            return Err(WeightError::OutOfRange(value));
        }
        let hundredths = (value * 100.0).round();
        if (value * 100.0 - hundredths).abs() > 1e-6 {
            return Err(WeightError::NotAStep(value));
        }
        // In range by the check above: 0 to 100.
        Ok(Self(hundredths as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_cloudflares_range_and_step() {
        assert_eq!(Weight::try_from(0.5).unwrap().hundredths(), 50);
        assert_eq!(Weight::try_from(0.29).unwrap().hundredths(), 29);
        assert_eq!(Weight::try_from(1.01), Err(WeightError::OutOfRange(1.01)));
        assert_eq!(Weight::try_from(0.005), Err(WeightError::NotAStep(0.005)));
        assert!(Weight::try_from(f64::NAN).is_err());
    }
}
