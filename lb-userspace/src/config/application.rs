//! `[applications.NAME]`.

use super::reader::{Located, Place, Table, Value};
use super::{address, enabled};
use lb_core::model::{Application, Destination, DirectOrigin, Transport};
use std::net::{IpAddr, SocketAddr};

/// An application with the places that later checks point at.
pub(super) struct ReadApplication {
    pub application: Application,
    /// Whether `protocol` was valid, so that comparing ports makes sense.
    pub protocol_known: bool,
    /// One for each of the application's addresses.
    pub addresses: Vec<Place>,
    pub load_balancer: Option<Located<String>>,
    pub origin_port: Option<Place>,
    /// One for each of the application's direct origins.
    pub direct: Vec<Place>,
}

pub(super) fn application(name: &Located<String>, table: Table<'_>) -> ReadApplication {
    let protocol = table
        .require("protocol", "such as \"tcp/80\" or \"udp/53\"")
        .and_then(|value| protocol(&value));
    let (transport, port) = protocol.unwrap_or((Transport::Tcp, 1));
    let (addresses, address_places) = addresses(&table);
    let load_balancer = table
        .get("load_balancer")
        .and_then(|value| value.string().map(|text| value.locate(text.to_owned())));
    let direct_value = table.get("origin_direct");
    let direct: Vec<(DirectOrigin, Place)> = direct_value
        .as_ref()
        .map(|value| direct(value, protocol))
        .unwrap_or_default();
    check_destination(&table, direct_value.as_ref());
    let (origins, direct): (Vec<_>, Vec<_>) = direct.into_iter().unzip();
    let application = Application {
        name: name.value.clone(),
        enabled: enabled(&table),
        transport,
        port,
        addresses,
        destination: match &load_balancer {
            Some(balancer) => Destination::LoadBalancer(balancer.value.clone()),
            None => Destination::Direct(origins),
        },
        origin_port: origin_port(&table),
    };
    refuse_the_rest(&table);
    table.note("description");
    table.report_unknown();
    ReadApplication {
        application,
        protocol_known: protocol.is_some(),
        addresses: address_places,
        load_balancer,
        origin_port: table.get("origin_port").map(|value| value.place),
        direct,
    }
}

/// Exactly one of `load_balancer` and `origin_direct`.
fn check_destination(table: &Table<'_>, direct: Option<&Value<'_>>) {
    match (table.get("load_balancer"), direct) {
        (Some(_), Some(direct)) => {
            direct.error("`load_balancer` is given too", "keep one of them".to_owned());
        }
        (None, None) => table.sink.error(
            &table.place,
            "nothing says where the traffic goes",
            "add `load_balancer = \"NAME\"` or `origin_direct = [\"tcp://ADDRESS:PORT\"]`".to_owned(),
        ),
        (Some(_), None) | (None, Some(_)) => {}
    }
}

/// `tcp/80`.
fn protocol(value: &Value<'_>) -> Option<(Transport, u16)> {
    let text = value.string()?;
    let wrong = |message: String, help: &str| {
        value.error(message, help.to_owned());
        None
    };
    let example = "write the transport and the port, such as \"tcp/80\" or \"udp/53\"";
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
    if port.contains('-') {
        return wrong(
            format!("\"{text}\": port ranges are not supported in this version"),
            "write one application for each port",
        );
    }
    // `u16::from_str` would also take a plus sign.
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((transport, number))
        }
        Ok(_) | Err(_) => wrong(format!("\"{port}\" is not a port from 1 to 65535"), example),
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

/// `origin_direct`: `tcp://10.0.0.11:8080`, with the application's transport.
fn direct(value: &Value<'_>, protocol: Option<(Transport, u16)>) -> Vec<(DirectOrigin, Place)> {
    let mut origins: Vec<(DirectOrigin, Place)> = Vec::new();
    let items = value.list("[\"tcp://10.0.0.11:8080\"]");
    if items.is_empty() && value.is_list() {
        value.error("the list is empty", "name at least one origin".to_owned());
    }
    for item in items {
        let Some(origin) = direct_origin(&item, protocol.map(|(transport, _)| transport)) else {
            continue;
        };
        if origins.iter().any(|(known, _)| *known == origin) {
            item.error(
                format!("{}:{} is listed twice", origin.address, origin.port),
                None,
            );
        }
        origins.push((origin, item.place.clone()));
    }
    origins
}

fn direct_origin(item: &Value<'_>, transport: Option<Transport>) -> Option<DirectOrigin> {
    let text = item.string()?;
    let wrong = |message: String, help: String| {
        item.error(message, help);
        None
    };
    let scheme = transport.map_or_else(|| "tcp".to_owned(), |transport| transport.to_string());
    let example = format!("such as \"{scheme}://10.0.0.11:8080\"");
    let Some((given, rest)) = text.split_once("://") else {
        return wrong(format!("\"{text}\" is not an origin"), example);
    };
    if !matches!(given, "tcp" | "udp") {
        return wrong(format!("\"{given}\" is neither tcp nor udp"), example);
    }
    if transport.is_some() && given != scheme {
        let help = format!("write \"{scheme}://{rest}\"");
        return wrong(
            format!("\"{text}\" does not have the application's protocol, {scheme}"),
            help,
        );
    }
    let Ok(socket) = rest.parse::<SocketAddr>() else {
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        return match rest.parse::<IpAddr>().is_ok() || rest.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        {
            true => wrong(format!("\"{text}\" has no port"), example),
            false if address::is_host_name(host) => wrong(
                format!("\"{text}\" names a host; host names are not supported in this version"),
                "write its IP address".to_owned(),
            ),
            false => wrong(format!("\"{rest}\" is not an address with a port"), example),
        };
    };
    if socket.port() == 0 {
        return wrong(
            format!("\"{text}\" has port 0"),
            "use a port from 1 to 65535".to_owned(),
        );
    }
    if let Some((flaw, help)) = address::flaw(socket.ip()) {
        let message = format!("{} is {flaw} and cannot be the address of an origin", socket.ip());
        item.error(message, help.map(str::to_owned));
        return None;
    }
    Some(DirectOrigin {
        address: socket.ip(),
        port: socket.port(),
    })
}

fn origin_port(table: &Table<'_>) -> Option<u16> {
    let value = table.get("origin_port")?;
    // Cloudflare's API gives ranges as strings.
    if let Some(text) = value.peek() {
        match text.contains('-') {
            true => value.error(
                format!("\"{text}\": port ranges are not supported in this version"),
                "write one application for each port".to_owned(),
            ),
            false => value.error(
                format!("expected a whole number, found \"{text}\""),
                "remove the quotes".to_owned(),
            ),
        }
        return None;
    }
    value.optional_port()
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
    table.unsupported(
        "affinity",
        "use `origin_steering = { policy = \"hash\" }` on the pools",
    );
    table.unsupported("access", "filter clients with nftables before lb");
    table.unsupported("ip_firewall", "filter clients with nftables before lb");
    table.unsupported("limits", "limit flows at the origins");
    table.refuse(
        "origin_dns",
        "is how Cloudflare's API names a load balancer",
        "write `load_balancer = \"NAME\"`",
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
