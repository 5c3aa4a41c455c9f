//! Health of pools, and what a probe that was asked for has found.

use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET pools/{id}/health`.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct PoolHealth {
    pub pool_id: String,
    /// By the place that probes: this node.
    pub pop_health: BTreeMap<String, PopHealth>,
}

/// What one place sees.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct PopHealth {
    pub healthy: bool,
    /// Each has one key, the origin's address.
    pub origins: Vec<BTreeMap<String, OriginHealth>>,
}

/// One origin.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct OriginHealth {
    pub healthy: bool,
    /// Such as `12.1ms`.
    pub rtt: String,
    pub failure_reason: String,
    /// Status code of the last answer; 0 if there was none.
    pub response_code: u16,
}

/// Answer to the start of a preview.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct PreviewStarted {
    /// Names by id.
    pub pools: BTreeMap<String, String>,
    pub preview_id: String,
}

/// `GET preview/{id}`: by the pool's id.
pub type Preview = BTreeMap<String, PreviewedPool>;

/// What a preview has found of a pool.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct PreviewedPool {
    pub healthy: bool,
    pub origins: Vec<BTreeMap<String, OriginHealth>>,
}

impl OriginHealth {
    /// A duration as Go writes it.
    #[must_use]
    pub fn duration(time: Option<std::time::Duration>) -> String {
        match time {
            None => "0s".to_owned(),
            Some(time) => format!("{:.1}ms", time.as_secs_f64() * 1000.0),
        }
    }
}
