//! `POST /api/v1/monitors/NAME/test`: one run of a monitor, step by step.

use serde::{Deserialize, Serialize};

/// Which origins are probed; without anything those of all pools that have the monitor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorTestQuery {
    /// All origins of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// `POOL/ORIGIN`, or `ORIGIN` in any pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Instead of origins: an address or a host name, perhaps with a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What was found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorTest {
    pub monitor: String,
    /// `tcp`, `http`, `https`, `icmp_ping`, `udp_icmp` or `smtp`.
    pub r#type: String,
    pub runs: Vec<MonitorRun>,
}

/// One run against one address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorRun {
    /// `POOL/ORIGIN`, or what was asked for.
    pub target: String,
    /// Address and port.
    pub address: String,
    pub healthy: bool,
    /// Why not, in the words of the API.
    pub failure_reason: Option<String>,
    /// What counts as the round trip.
    pub rtt_ms: Option<f64>,
    /// After a timeout the monitor may try again.
    pub attempts: Vec<MonitorAttempt>,
}

/// One attempt of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorAttempt {
    pub steps: Vec<MonitorStep>,
    pub failure_reason: Option<String>,
}

/// One step of an attempt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorStep {
    /// Such as `connect 192.0.2.1:80`.
    pub what: String,
    /// `None`: it takes none.
    pub took_ms: Option<f64>,
}

impl MonitorTest {
    /// Whether all runs ended well.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.runs.iter().all(|run| run.healthy)
    }
}
