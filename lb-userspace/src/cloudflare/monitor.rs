//! Monitors.

use super::{Number, Object};
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    /// Seconds; fractions are lb's own, and answered in `exact`.
    pub interval: Number,
    pub method: String,
    pub path: String,
    /// 0: the origin's, else the protocol's own.
    pub port: i64,
    pub probe_zone: String,
    pub retries: i64,
    /// Seconds; fractions are lb's own, and answered in `exact`.
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
    /// What `interval` and `timeout` are when they are no whole numbers, which Cloudflare's clients take alone: those are
    /// rounded up. Read back as long as it goes with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactTimes>,
    /// The source address of probes, or one of each family.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub source: Option<Value>,
}

/// Times with fractions, in seconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExactTimes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Number>,
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
            exact: None,
            interface: None,
            payload: None,
            source: None,
        }
    }
}

impl Object for Monitor {
    const KIND: Kind = Kind::Monitor;

    fn complete(&mut self) {
        let exact = self.exact.take().unwrap_or_default();
        for (shown, exact) in [
            (&mut self.interval, exact.interval),
            (&mut self.timeout, exact.timeout),
        ] {
            if let Some(exact) = exact.filter(|exact| exact.0.ceil() == shown.0.ceil()) {
                *shown = exact;
            }
        }
        for (key, default) in filled(&self.r#type) {
            let field = match *key {
                "method" => &mut self.method,
                "path" => &mut self.path,
                _ => &mut self.expected_codes,
            };
            if field.is_empty() {
                (*default).clone_into(field);
            }
        }
    }
}

/// What a monitor of this type has where nobody says otherwise.
fn filled(kind: &str) -> &'static [(&'static str, &'static str)] {
    match kind {
        "http" | "https" => &[("method", "GET"), ("path", "/"), ("expected_codes", "200")],
        "tcp" => &[("method", "connection_established")],
        _ => &[],
    }
}

impl Monitor {
    /// In whole seconds, with the exact ones beside them.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        let fraction = |number: Number| Some(number).filter(|number| number.0.fract() != 0.0);
        let exact = ExactTimes {
            interval: fraction(self.interval),
            timeout: fraction(self.timeout),
        };
        Self {
            interval: Number(self.interval.0.ceil()),
            timeout: Number(self.timeout.0.ceil()),
            exact: Some(exact).filter(|exact| *exact != ExactTimes::default()),
            ..self.clone()
        }
    }

    /// Before `changes` come in: with another type, what was filled in for the former one goes. Nobody has asked for it.
    pub fn prepare(body: &mut Map<String, Value>, changes: &Map<String, Value>) {
        let former = body
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let Some(kind) = changes.get("type") else { return };
        if kind.as_str().unwrap_or("http") == former {
            return;
        }
        for (key, default) in filled(&former) {
            if body.get(*key).and_then(Value::as_str) == Some(default) {
                body.remove(*key);
            }
        }
    }
}
