//! `[applications.NAME]`.

use super::access::Lists;
use super::reader::{Located, Place, Table, Value};
use super::{address, direct, enabled, node};
use lb_core::model::{
    Affinity, Application, Destination, DirectOrigin, Echo, Host, Limits, Ports, Transport,
};
use std::net::IpAddr;

/// An application with the places that later checks point at.
pub(super) struct ReadApplication {
    pub application: Application,
    /// Whether `protocol` was valid, so that comparing ports makes sense.
    pub protocol_known: bool,
    /// One for each of the application's addresses.
    pub addresses: Vec<Place>,
    pub load_balancer: Option<Located<String>>,
    pub origin_dns: Option<Located<String>>,
    pub origin_port: Option<Place>,
    /// One for each of the application's direct origins.
    pub direct: Vec<Place>,
}

pub(super) fn application(name: &Located<String>, table: Table<'_>, lists: &Lists<'_>) -> ReadApplication {
    let protocol = table
        .require("protocol", "such as \"tcp/80\" or \"udp/53\"")
        .and_then(|value| protocol(&value));
    let (transport, ports) = protocol.unwrap_or((Transport::Tcp, Ports::single(1)));
    let (addresses, address_places) = addresses(&table);
    let load_balancer = table
        .get("load_balancer")
        .and_then(|value| value.string().map(|text| value.locate(text.to_owned())));
    let direct_value = table.get("origin_direct");
    let direct: Vec<(DirectOrigin, Place)> = direct_value
        .as_ref()
        .map(|value| direct::origins(value, protocol))
        .unwrap_or_default();
    check_destination(&table, direct_value.as_ref());
    let (mut origins, mut direct): (Vec<_>, Vec<_>) = direct.into_iter().unzip();
    let origin_port = origin_port(&table, protocol.map(|(_, ports)| ports));
    let origin_dns = direct::dns(&table);
    if let Some((name, record_type)) = &origin_dns {
        origins.push(DirectOrigin {
            address: Host::Name(name.value.clone()),
            record_type: *record_type,
            port: origin_port.unwrap_or(ports.first()),
        });
        direct.push(name.place.clone());
    }
    let application = Application {
        name: name.value.clone(),
        enabled: enabled(&table),
        transport,
        ports,
        addresses,
        destination: match &load_balancer {
            Some(balancer) => Destination::LoadBalancer(balancer.value.clone()),
            None => Destination::Direct(origins),
        },
        origin_port,
        flow_timeouts: node::flow_timeouts(&table),
        echo: table
            .get("echo")
            .and_then(|value| {
                value.word(&[
                    ("off", Echo::Off),
                    ("always", Echo::Always),
                    ("healthy", Echo::Healthy),
                ])
            })
            .unwrap_or_default(),
        access: lists.read(&table),
        limits: limits(&table),
        affinity: affinity(&table),
    };
    refuse_the_rest(&table);
    table.note("description");
    table.report_unknown();
    ReadApplication {
        application,
        protocol_known: protocol.is_some(),
        addresses: address_places,
        load_balancer,
        origin_dns: origin_dns.map(|(name, _)| name),
        origin_port: table.get("origin_port").map(|value| value.place),
        direct,
    }
}

/// Exactly one of `load_balancer`, `origin_direct` and `origin_dns`.
fn check_destination(table: &Table<'_>, direct: Option<&Value<'_>>) {
    let named = table.get("origin_dns");
    match (table.get("load_balancer"), direct) {
        (Some(_), Some(direct)) => {
            direct.error("`load_balancer` is given too", "keep one of them".to_owned());
        }
        (None, None) if named.is_some() => {}
        (None, None) => table.sink.error(
            &table.place,
            "nothing says where the traffic goes",
            "add `load_balancer = \"NAME\"` or `origin_direct = [\"tcp://ADDRESS:PORT\"]`".to_owned(),
        ),
        (Some(_), None) | (None, Some(_)) => {
            if let Some(named) = named {
                let other = if direct.is_some() {
                    "origin_direct"
                } else {
                    "load_balancer"
                };
                named.error(format!("`{other}` is given too"), "keep one of them".to_owned());
            }
        }
    }
}

/// `tcp/80` or `tcp/1000-2000`.
fn protocol(value: &Value<'_>) -> Option<(Transport, Ports)> {
    let text = value.string()?;
    let wrong = |message: String, help: &str| {
        value.error(message, help.to_owned());
        None
    };
    let example = "write the transport and the port, such as \"tcp/80\", \"udp/53\" or \"tcp/1000-2000\"";
    let Some((transport, port)) = text.split_once('/') else {
        let help = match text {
            "http" => "write \"tcp/80\"",
            "https" => "write \"tcp/443\"",
            "ssh" => "write \"tcp/22\"",
            "rdp" => "write \"tcp/3389\"",
            "minecraft" => "write \"tcp/25565\"",
            _ => example,
        };
        return wrong(format!("\"{text}\" is not a protocol with a port"), help);
    };
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        other => return wrong(format!("\"{other}\" is neither tcp nor udp"), example),
    };
    match ports(port) {
        Ok(ports) => Some((transport, ports)),
        Err(message) => wrong(message, example),
    }
}

/// `80` or `1000-2000`.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    // `u16::from_str` would also take a plus sign.
    let port = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        Ok(_) | Err(_) => Err(format!("\"{text}\" is not a port from 1 to 65535")),
    };
    match text.split_once('-') {
        None => Ok(Ports::single(port(text)?)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            Ports::range(first, last).ok_or_else(|| format!("\"{text}\" ends before it begins"))
        }
    }
}

fn addresses(table: &Table<'_>) -> (Vec<IpAddr>, Vec<Place>) {
    let mut addresses: Vec<(IpAddr, Place)> = Vec::new();
    if let Some(value) = table.require("addresses", "list the addresses that clients connect to") {
        let items = value.list("[\"203.0.113.10\"]");
        for item in &items {
            let Some(address) = address::address(item, "an application") else {
                continue;
            };
            if addresses.iter().any(|(known, _)| *known == address) {
                item.error(format!("{address} is listed twice"), None);
            }
            addresses.push((address, item.place.clone()));
        }
        if items.is_empty() && value.is_list() {
            value.error(
                "the list is empty",
                "list the addresses that clients connect to".to_owned(),
            );
        }
    }
    addresses.into_iter().unzip()
}

/// `limits`: 0 is no limit but a mistake, as nobody wants an application that takes no flows.
fn limits(table: &Table<'_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(table) = table.table("limits") {
        for (key, limit) in [
            ("new_flows_per_second", &mut limits.new_flows_per_second),
            (
                "new_flows_per_second_per_source",
                &mut limits.new_flows_per_second_per_source,
            ),
            ("flows_per_origin", &mut limits.flows_per_origin),
        ] {
            *limit = table.get(key).and_then(|value| value.integer(1..=u32::MAX));
        }
        table.report_unknown();
    }
    limits
}

/// `affinity = { ttl = 600 }`.
fn affinity(table: &Table<'_>) -> Option<Affinity> {
    let table = table.table("affinity")?;
    let ttl = table
        .require(
            "ttl",
            "for how many seconds after its last new flow a client stays with its origin",
        )
        .and_then(|value| node::flow_timeout(&value));
    table.report_unknown();
    Some(Affinity { ttl: ttl? })
}

/// `origin_port`: the port, or for a range its first one, or all of them as in Cloudflare's API.
fn origin_port(table: &Table<'_>, edge: Option<Ports>) -> Option<u16> {
    let value = table.get("origin_port")?;
    let edge = edge.unwrap_or(Ports::single(1));
    let Some(text) = value.peek() else {
        let first = value.optional_port()?;
        let last = u32::from(first) + edge.count() - 1;
        if last > u32::from(u16::MAX) {
            value.error(
                format!(
                    "from {first} on there are no {} ports, as many as `protocol` has",
                    edge.count()
                ),
                format!("{} is the highest that fits", 65536 - edge.count()),
            );
            return None;
        }
        return Some(first);
    };
    match ports(text) {
        Ok(ports) if !ports.is_range() && !edge.is_range() => value.error(
            format!("expected a whole number, found \"{text}\""),
            "remove the quotes".to_owned(),
        ),
        Ok(ports) if ports.count() == edge.count() => return Some(ports.first()),
        Ok(ports) => value.error(
            format!(
                "\"{text}\" has {}, and `protocol` has {}",
                number(ports),
                number(edge)
            ),
            "each port of the application has one at the origins: give as many, or the first one".to_owned(),
        ),
        Err(message) => value.error(message, "such as 8080, or \"3000-4000\" for a range".to_owned()),
    }
    None
}

pub(super) fn number(ports: Ports) -> String {
    match ports.count() {
        1 => "one port".to_owned(),
        count => format!("{count} ports"),
    }
}

/// Cloudflare's other fields, each with the reason why it is not taken.
fn refuse_the_rest(table: &Table<'_>) {
    if let Some(value) = table.get("proxy_protocol") {
        let words = [("off", true), ("v1", false), ("v2", false), ("simple", false)];
        if value.word(&words) == Some(false) {
            let word = value.string().unwrap_or_default();
            value.error(
                format!("proxy protocol \"{word}\" is not supported in this version"),
                "use \"off\"".to_owned(),
            );
        }
    }
    if let Some(value) = table.get("tls") {
        let words = [
            ("off", true),
            ("flexible", false),
            ("full", false),
            ("strict", false),
        ];
        if value.word(&words) == Some(false) {
            let word = value.string().unwrap_or_default();
            value.error(
                format!("TLS mode \"{word}\" terminates TLS, which a packet-level balancer cannot"),
                "use \"off\": TLS passes through to the origins".to_owned(),
            );
        }
    }
    if let Some(value) = table.get("traffic_type") {
        let words = [
            ("direct", true),
            ("http", false),
            ("https", false),
            ("worker", false),
        ];
        if value.word(&words) == Some(false) {
            let word = value.string().unwrap_or_default();
            value.error(
                format!("traffic type \"{word}\" needs an HTTP proxy, which a packet-level balancer is not"),
                "use \"direct\"".to_owned(),
            );
        }
    }
    table.unsupported("ip_firewall", "say with `access` who may open flows");
    table.refuse(
        "virtual_network_id",
        "names a network behind Cloudflare's tunnels, which lb does not have",
        "leave it out: origins are reached by the node's routes",
    );
    table.refuse(
        "origin_worker_id",
        "needs Cloudflare's Workers, which lb does not have",
        "leave it out",
    );
    table.refuse(
        "edge_ips",
        "is how Cloudflare's API names addresses",
        "write `addresses = [\"203.0.113.10\"]`",
    );
    table.refuse(
        "dns",
        "lb keeps no DNS records",
        "write `addresses = [\"203.0.113.10\"]`",
    );
    table.inert("argo_smart_routing", "it belongs to Cloudflare's network");
}
