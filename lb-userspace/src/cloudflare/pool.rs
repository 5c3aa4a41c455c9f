//! Pools and their origins.

use super::{Number, Object};
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Origins that serve the same thing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Pool {
    pub check_regions: Option<Vec<String>>,
    pub description: String,
    /// Since when it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<String>,
    pub enabled: bool,
    pub health_sources: Option<Vec<String>>,
    pub latitude: Option<f64>,
    pub load_shedding: LoadShedding,
    pub longitude: Option<f64>,
    /// With fewer healthy ones the pool is passed over.
    pub minimum_origins: i64,
    /// Id of a monitor; empty: none.
    pub monitor: String,
    /// Id of a monitor group; empty: none.
    pub monitor_group: String,
    pub name: String,
    pub networks: Vec<String>,
    pub notification_email: String,
    pub notification_filter: Option<NotificationFilter>,
    pub origin_steering: OriginSteering,
    /// In the order in which they were given.
    pub origins: Vec<Origin>,
    /// How packets reach origins: `nat` (default), `dnat`, `dsr_l2`, `dsr_ipip` or `dsr_gue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gue_port: Option<i64>,
    /// What becomes of TCP flows of an origin that is found unhealthy: `keep` (default) or `reset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unhealthy: Option<String>,
    /// Seconds for which TCP flows of a disabled or removed origin may go on; default 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Number>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            check_regions: None,
            description: String::new(),
            disabled_at: None,
            enabled: true,
            health_sources: None,
            latitude: None,
            load_shedding: LoadShedding::default(),
            longitude: None,
            minimum_origins: 1,
            monitor: String::new(),
            monitor_group: String::new(),
            name: String::new(),
            networks: Vec::new(),
            notification_email: String::new(),
            notification_filter: None,
            origin_steering: OriginSteering::default(),
            origins: Vec::new(),
            forwarding: None,
            gue_port: None,
            on_unhealthy: None,
            drain_timeout: None,
        }
    }
}

/// Which part of the flows goes to other pools.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LoadShedding {
    pub default_percent: Number,
    /// `random` or `hash`.
    pub default_policy: String,
    pub session_percent: Number,
    /// `hash`.
    pub session_policy: String,
}

impl Default for LoadShedding {
    fn default() -> Self {
        Self {
            default_percent: Number(0.0),
            default_policy: "random".to_owned(),
            session_percent: Number(0.0),
            session_policy: "hash".to_owned(),
        }
    }
}

/// Which changes are told.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NotificationFilter {
    pub origin: Option<FilterOptions>,
    pub pool: Option<FilterOptions>,
}

/// Of pools or origins.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FilterOptions {
    pub disable: bool,
    /// `true`: only that it has become healthy; `false`: only that it has become unhealthy; `null`: both.
    pub healthy: Option<bool>,
}

/// How an origin of the pool is picked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OriginSteering {
    /// `random`, `hash`, `least_connections` or `least_outstanding_requests`.
    pub policy: String,
}

impl Default for OriginSteering {
    fn default() -> Self {
        Self {
            policy: "random".to_owned(),
        }
    }
}

/// One destination.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Origin {
    pub address: String,
    /// Since when it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<String>,
    pub enabled: bool,
    pub flatten_cname: bool,
    pub header: Option<OriginHeader>,
    pub name: String,
    /// 0: the application's `origin_port`, else its own port.
    pub port: i64,
    pub virtual_network_id: String,
    /// 0 to 1 in steps of 0.01.
    pub weight: Number,
    /// The pool's, unless it is given here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gue_port: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Number>,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            address: String::new(),
            disabled_at: None,
            enabled: true,
            flatten_cname: true,
            header: None,
            name: String::new(),
            port: 0,
            virtual_network_id: String::new(),
            weight: Number(1.0),
            forwarding: None,
            gue_port: None,
            drain_timeout: None,
        }
    }
}

/// Headers of HTTP requests to an origin.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OriginHeader {
    #[serde(rename = "Host")]
    pub host: Vec<String>,
}

impl Pool {
    /// Whether `health_sources` names them all, which is what it means not to name any.
    #[must_use]
    pub fn asks_all_sources(&self) -> bool {
        let sources = self.health_sources.as_deref().unwrap_or_default();
        ["local", "global"]
            .iter()
            .all(|source| sources.iter().any(|asked| asked == source))
            && sources.len() == 2
    }
}

impl Object for Pool {
    const KIND: Kind = Kind::Pool;
    const REQUIRED: &'static [&'static str] = &["name", "origins"];
    const READ_ONLY: &'static [&'static str] = &["disabled_at", "healthy", "networks"];

    fn tidy(body: &mut Value) {
        let origins = body.get_mut("origins").and_then(Value::as_array_mut);
        for origin in origins.into_iter().flatten().filter_map(Value::as_object_mut) {
            origin.remove("disabled_at");
            origin.remove("healthy");
        }
    }
}
