//! Spectrum applications.

use super::Object;
use crate::config::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A listener: protocol and ports on addresses, tied to a load balancer or to origins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Application {
    /// No effect: it belongs to Cloudflare's network.
    pub argo_smart_routing: bool,
    pub dns: Dns,
    pub edge_ips: EdgeIps,
    /// Whether `access` holds.
    pub ip_firewall: bool,
    /// Such as `tcp://192.0.2.1:8080`, or `tcp://192.0.2.1:3000-4000` for a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_direct: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_dns: Option<OriginDns>,
    /// The port at origins that name none; of a range: the first one, or all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_port: Option<OriginPort>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub origin_worker_id: String,
    /// Such as `tcp/22`, `udp/53` or `tcp/1000-2000`.
    pub protocol: String,
    /// `off`, `v1`, `v2` or `simple`.
    pub proxy_protocol: String,
    /// `off`: TLS passes through to the origins.
    pub tls: String,
    /// `direct`.
    pub traffic_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub virtual_network_id: String,
    /// Packets for a disabled one pass to the kernel.
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// lb's own fields, as in the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub access: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub affinity: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub flow_timeouts: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub limits: Option<Value>,
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Default for Application {
    fn default() -> Self {
        Self {
            argo_smart_routing: false,
            dns: Dns::default(),
            edge_ips: EdgeIps::default(),
            ip_firewall: false,
            origin_direct: None,
            origin_dns: None,
            origin_port: None,
            origin_worker_id: String::new(),
            protocol: String::new(),
            proxy_protocol: "off".to_owned(),
            tls: "off".to_owned(),
            traffic_type: "direct".to_owned(),
            virtual_network_id: String::new(),
            enabled: true,
            access: None,
            affinity: None,
            echo: None,
            flow_timeouts: None,
            limits: None,
        }
    }
}

/// The name that the application is known by.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Dns {
    pub name: String,
    /// `CNAME` with dynamic addresses, `ADDRESS` with static ones.
    pub r#type: String,
}

/// The addresses (VIPs).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct EdgeIps {
    /// With `dynamic`: `all`, `ipv4` or `ipv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connectivity: Option<String>,
    /// With `static`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ips: Option<Vec<String>>,
    /// `static`, or `dynamic`: those of `[api] edge_ips` in the configuration file.
    pub r#type: String,
}

impl Default for EdgeIps {
    fn default() -> Self {
        Self {
            connectivity: None,
            ips: None,
            r#type: "dynamic".to_owned(),
        }
    }
}

/// The load balancer by name, or a host name.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OriginDns {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<i64>,
    pub r#type: String,
    /// Whether it is a host name: no load balancer had that name when the application was written. Decided then, so
    /// that a load balancer that goes later is missed instead of being looked up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_name: bool,
}

/// `8080`, or `"3000-4000"`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OriginPort {
    Number(i64),
    Range(String),
}

/// A name for a protocol and its port.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, ToSchema)]
pub struct Protocol {
    pub name: &'static str,
    pub description: &'static str,
    pub transport: &'static str,
    #[schema(value_type = Vec<u16>)]
    pub ports: &'static [u16],
}

/// The names that `protocol` may be.
pub const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "ssh",
        description: "Secure Shell",
        transport: "tcp",
        ports: &[22],
    },
    Protocol {
        name: "rdp",
        description: "Remote Desktop Protocol",
        transport: "tcp",
        ports: &[3389],
    },
    Protocol {
        name: "minecraft",
        description: "Minecraft Java Edition",
        transport: "tcp",
        ports: &[25565],
    },
];

impl Application {
    /// `protocol` with a port, whatever name it was given by.
    #[must_use]
    pub fn transport_and_ports(&self) -> String {
        let named = PROTOCOLS.iter().find(|known| known.name == self.protocol);
        match named {
            Some(Protocol {
                transport,
                ports: [port, ..],
                ..
            }) => format!("{transport}/{port}"),
            Some(_) | None => self.protocol.clone(),
        }
    }
}

impl Object for Application {
    const KIND: Kind = Kind::Application;
    const REQUIRED: &'static [&'static str] = &["protocol", "dns"];
    const READ_ONLY: &'static [&'static str] = &["ipv4", "spp"];

    fn complete(&mut self) {
        if self.dns.r#type.is_empty() {
            self.dns.r#type = match self.edge_ips.r#type.as_str() {
                "static" => "ADDRESS",
                _ => "CNAME",
            }
            .to_owned();
        }
        if self.edge_ips.r#type == "dynamic" && self.edge_ips.connectivity.is_none() {
            self.edge_ips.connectivity = Some("all".to_owned());
        }
        if self.access.is_some() {
            self.ip_firewall = true;
        }
    }
}
