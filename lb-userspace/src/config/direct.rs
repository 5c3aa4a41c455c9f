//! `origin_direct` and `origin_dns`: origins without a load balancer, such as `tcp://10.0.0.11:8080`.

use super::address;
use super::application::{number, ports};
use super::reader::{Located, Place, Table, Value};
use lb_core::model::{DirectOrigin, Host, Ports, RecordType, Transport};
use std::net::{IpAddr, SocketAddr};

/// The origins, with the application's transport and as many ports as it has.
pub(super) fn origins(value: &Value<'_>, protocol: Option<(Transport, Ports)>) -> Vec<(DirectOrigin, Place)> {
    let mut origins: Vec<(DirectOrigin, Place)> = Vec::new();
    let items = value.list("[\"tcp://10.0.0.11:8080\"]");
    if items.is_empty() && value.is_list() {
        value.error("the list is empty", "name at least one origin".to_owned());
    }
    for item in items {
        let Some(origin) = origin(&item, protocol) else {
            continue;
        };
        if origins.iter().any(|(known, _)| *known == origin) {
            item.error(
                format!("{}:{} is listed twice", origin.address, origin.port),
                None,
            );
        }
        if let (Some((first, _)), Some((_, edge))) = (origins.first(), protocol)
            && edge.is_range()
            && first.port != origin.port
        {
            let message = "has other ports than the first origin: a range has the same ports at all origins";
            item.error(message, None);
        }
        origins.push((origin, item.place.clone()));
    }
    origins
}

fn origin(item: &Value<'_>, protocol: Option<(Transport, Ports)>) -> Option<DirectOrigin> {
    let text = item.string()?;
    let transport = protocol.map(|(transport, _)| transport);
    let edge = protocol.map_or(Ports::single(1), |(_, ports)| ports);
    let wrong = |message: String, help: String| {
        item.error(message, help);
        None
    };
    let scheme = transport.map_or_else(|| "tcp".to_owned(), |transport| transport.to_string());
    let example = match edge.count() {
        1 => format!("such as \"{scheme}://10.0.0.11:8080\""),
        count => format!("such as \"{scheme}://10.0.0.11:1-{count}\""),
    };
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
    let (rest, given) = match rest.rsplit_once(':') {
        Some((host, port)) if port.contains('-') => match ports(port) {
            Ok(ports) => (format!("{host}:{}", ports.first()), ports),
            Err(message) => return wrong(message, example),
        },
        _ => (rest.to_owned(), Ports::single(1)),
    };
    let socket = rest.parse::<SocketAddr>().ok();
    let named = rest
        .rsplit_once(':')
        .filter(|(host, _)| address::is_host_name(host) || !host.is_ascii());
    let (host, port) = match (socket, named) {
        (Some(socket), _) => (Host::Address(socket.ip()), socket.port()),
        (None, Some((host, port))) => {
            let name = match address::host_name(host) {
                Ok(name) => name,
                Err((flaw, help)) => {
                    item.error(format!("\"{host}\" {flaw}"), help.map(str::to_owned));
                    return None;
                }
            };
            match ports(port) {
                Ok(port) => (Host::Name(name), port.first()),
                Err(message) => return wrong(message, example),
            }
        }
        (None, None) => {
            let bare = rest.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            return match bare || address::is_host_name(&rest) {
                true => wrong(format!("\"{text}\" has no port"), example),
                false => wrong(format!("\"{rest}\" is not an address with a port"), example),
            };
        }
    };
    if port == 0 {
        return wrong(
            format!("\"{text}\" has port 0"),
            "use a port from 1 to 65535".to_owned(),
        );
    }
    if protocol.is_some() && given.count() != edge.count() {
        let message = format!(
            "\"{text}\" has {}, and `protocol` has {}",
            number(given),
            number(edge)
        );
        return wrong(message, example);
    }
    if let Some((address, (flaw, help))) = host
        .address()
        .and_then(|address| Some((address, address::flaw(address)?)))
    {
        let message = format!("{address} is {flaw} and cannot be the address of an origin");
        item.error(message, help.map(str::to_owned));
        return None;
    }
    Some(DirectOrigin {
        address: host,
        record_type: RecordType::Any,
        port,
    })
}

/// `origin_dns = { name = "db.example.com", type = "A" }`: the host name with its place, and which of its addresses.
pub(super) fn dns(table: &Table<'_>) -> Option<(Located<String>, RecordType)> {
    let table = table.table("origin_dns")?;
    let value = table.require("name", "the host name of the origins")?;
    let types = [
        ("", Some(RecordType::Any)),
        ("A", Some(RecordType::A)),
        ("AAAA", Some(RecordType::Aaaa)),
        ("SRV", None),
    ];
    let given = table.get("type");
    let record_type = given.as_ref().and_then(|value| value.word(&types));
    if let (Some(value), Some(None)) = (&given, record_type) {
        let help = "name the host itself, and its port with `origin_port`";
        value.error("SRV records are not looked up", help.to_owned());
    }
    if let Some(ttl) = table.get("ttl") {
        // Cloudflare's range. The record's own counts here.
        let _ = ttl.integer(600..=u32::MAX);
    }
    table.report_unknown();
    let text = value.string()?;
    if text.parse::<IpAddr>().is_ok() {
        let help = "write `origin_direct = [\"tcp://ADDRESS:PORT\"]`";
        value.error(format!("\"{text}\" is an address"), help.to_owned());
        return None;
    }
    match address::host_name(text) {
        Ok(name) if address::is_host_name(&name) => {
            Some((value.locate(name), record_type.flatten().unwrap_or_default()))
        }
        Ok(_) => {
            value.error(format!("\"{text}\" is not a host name"), None);
            None
        }
        Err((flaw, help)) => {
            value.error(format!("\"{text}\" {flaw}"), help.map(str::to_owned));
            None
        }
    }
}
