//! Monitor groups.

use super::Object;
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Several monitors that vote on the health of an origin.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MonitorGroup {
    pub description: String,
    pub members: Vec<Member>,
}

/// One of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Member {
    /// Id of a monitor.
    pub monitor_id: String,
    pub enabled: bool,
    /// It probes, and has no vote.
    pub monitoring_only: bool,
    /// When it fails the origin is unhealthy, whatever the others say.
    pub must_be_healthy: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub updated_at: String,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            monitor_id: String::new(),
            enabled: true,
            monitoring_only: false,
            must_be_healthy: false,
            created_at: String::new(),
            updated_at: String::new(),
        }
    }
}

impl Object for MonitorGroup {
    const KIND: Kind = Kind::MonitorGroup;
    const REQUIRED: &'static [&'static str] = &["members"];
    const READ_ONLY: &'static [&'static str] = &["created_at", "updated_at"];
}
