//! Monitors.

use super::{Number, Object};
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What is probed, how often, and which answer counts as healthy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Monitor {
    pub allow_insecure: bool,
    pub consecutive_down: i64,
    pub consecutive_up: i64,
    pub description: String,
    pub expected_body: String,
    /// Codes, classes and ranges, such as `200,3xx`.
    pub expected_codes: String,
    pub follow_redirects: bool,
    pub header: BTreeMap<String, Vec<String>>,
    /// Seconds; fractions are lb's own.
    pub interval: Number,
    pub method: String,
    pub path: String,
    /// 0: the origin's, else the protocol's own.
    pub port: i64,
    pub probe_zone: String,
    pub retries: i64,
    /// Seconds; fractions are lb's own.
    pub timeout: Number,
    /// `http`, `https`, `tcp`, `udp_icmp`, `icmp_ping` or `smtp`.
    pub r#type: String,
    /// Of `udp_icmp`: what must occur in an answer; without it none need come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_reply: Option<String>,
    /// By which probes leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Of `udp_icmp`: what is sent, as text or as `0x` and hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The source address of probes, or one of each family.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub source: Option<Value>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            allow_insecure: false,
            consecutive_down: 0,
            consecutive_up: 0,
            description: String::new(),
            expected_body: String::new(),
            expected_codes: String::new(),
            follow_redirects: false,
            header: BTreeMap::new(),
            interval: Number(60.0),
            method: String::new(),
            path: String::new(),
            port: 0,
            probe_zone: String::new(),
            retries: 2,
            timeout: Number(5.0),
            r#type: "http".to_owned(),
            expected_reply: None,
            interface: None,
            payload: None,
            source: None,
        }
    }
}

impl Object for Monitor {
    const KIND: Kind = Kind::Monitor;

    fn complete(&mut self) {
        let fill = |field: &mut String, default: &str| {
            if field.is_empty() {
                default.clone_into(field);
            }
        };
        match self.r#type.as_str() {
            "http" | "https" => {
                fill(&mut self.method, "GET");
                fill(&mut self.path, "/");
                fill(&mut self.expected_codes, "200");
            }
            "tcp" => fill(&mut self.method, "connection_established"),
            _ => {}
        }
    }
}
