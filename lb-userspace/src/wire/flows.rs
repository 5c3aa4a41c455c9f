//! `/api/v1/flows` and `/api/v1/drops`.

use super::Ordered;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Which flows are meant; without any field all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Name of an application.
    pub application: Option<String>,
    /// Name of an origin, as `POOL/ORIGIN` or the origin's name alone.
    pub origin: Option<String>,
}

impl FlowFilter {
    /// Whether every flow is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.application.is_none() && self.origin.is_none()
    }
}

/// A tracked flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// What the origin sees as its client; `None` when it sees the client itself.
    pub snat: Option<SocketAddr>,
    pub origin_address: SocketAddr,
    /// `None`: no longer in the configuration.
    pub application: Option<String>,
    /// `None`: no longer in the configuration.
    pub origin: Option<String>,
    /// `None`: no longer in the configuration.
    pub pool: Option<String>,
    /// Such as `established`; `-` for UDP.
    pub state: String,
    pub idle_seconds: u64,
}

/// `GET /api/v1/flows`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Flows {
    /// At most `limit` of those that match.
    pub flows: Vec<FlowRow>,
    /// How many match.
    pub total: u64,
}

/// `DELETE /api/v1/flows`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Flushed {
    pub flushed: u64,
}

/// `GET /api/v1/drops`: packets since the maps were created.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Drops {
    /// By reason.
    pub drops: Ordered<u64>,
    /// Packets that were not dropped, by verdict.
    pub verdicts: Ordered<u64>,
}
