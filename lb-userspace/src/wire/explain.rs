//! `GET /api/v1/explain`: where a flow would go, step by step.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The flow that is asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub client: SocketAddr,
    pub vip: SocketAddr,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Explain {
    /// In the order in which the packet path takes them.
    pub steps: Vec<ExplainStep>,
    /// Such as `forward`, `pass` or the drop reason.
    pub verdict: String,
    pub application: Option<String>,
    pub pool: Option<String>,
    pub origin: Option<String>,
    /// Where the packets would go.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
}

/// One decision.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExplainStep {
    /// What is decided, such as `pool`.
    pub step: String,
    /// How, and why.
    pub detail: String,
}
