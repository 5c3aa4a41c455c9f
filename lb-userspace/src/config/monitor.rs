//! `[monitors.NAME]`.

use super::reader::{Located, Table, Value};
use super::{address, check_interface, seconds};
use lb_core::model::{ExpectedCodes, Monitor, MonitorKind, Probe, ProbeSource, UdpProbe};
use std::net::IpAddr;
use std::time::Duration;

/// `type`, before its own fields are known.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Tcp,
    Http,
    Https,
    IcmpPing,
    UdpIcmp,
    Smtp,
    /// Reported already.
    Wrong,
}

/// Fields that only an HTTP request has.
const HTTP_FIELDS: [&str; 7] = [
    "method",
    "path",
    "header",
    "expected_codes",
    "expected_body",
    "follow_redirects",
    "allow_insecure",
];

/// Fields that only a datagram has.
const UDP_FIELDS: [&str; 2] = ["payload", "expected_reply"];

/// Bytes that fit into one unfragmented packet everywhere (RFC 8200 section 5, less both headers).
const MAX_PAYLOAD: usize = 1232;

pub(super) fn monitor(name: &Located<String>, table: Table<'_>) -> Monitor {
    let kind = kind(&table);
    let duration = |key, default, range| {
        table
            .get(key)
            .and_then(|value| seconds(&value, range))
            .unwrap_or(Duration::from_secs(default))
    };
    let count = |key, default| {
        table
            .get(key)
            .and_then(|value| value.integer(0..=1000))
            .unwrap_or(default)
    };
    let monitor = Monitor {
        name: name.value.clone(),
        interval: duration("interval", 60, 0.1..=86_400.0),
        timeout: duration("timeout", 5, 0.001..=600.0),
        retries: count("retries", 2),
        consecutive_up: count("consecutive_up", 0),
        consecutive_down: count("consecutive_down", 0),
        port: port(&table, kind),
        source: source(&table),
        kind: match kind {
            Type::Tcp | Type::Wrong => MonitorKind::Tcp,
            Type::Http => MonitorKind::Http(probe(&table)),
            Type::Https => MonitorKind::Https {
                probe: probe(&table),
                allow_insecure: table
                    .get("allow_insecure")
                    .and_then(|value| value.boolean())
                    .unwrap_or(false),
            },
            Type::IcmpPing => MonitorKind::IcmpPing,
            Type::UdpIcmp => MonitorKind::UdpIcmp(UdpProbe {
                payload: bytes(&table, "payload"),
                expected_reply: bytes(&table, "expected_reply"),
            }),
            Type::Smtp => MonitorKind::Smtp,
        },
    };
    let other_fields = "remove it, or set `type` to \"http\" or \"https\"";
    match kind {
        Type::Http => refuse_insecure(&table),
        Type::Https => {}
        // The fields of a type that is refused anyway are not worth a second message.
        Type::Wrong => HTTP_FIELDS
            .into_iter()
            .chain(UDP_FIELDS)
            .for_each(|key| drop(table.get(key))),
        Type::Tcp | Type::IcmpPing | Type::UdpIcmp | Type::Smtp => {
            refuse_fields(&table, monitor.kind.name(), &HTTP_FIELDS, other_fields);
        }
    }
    if !matches!(kind, Type::UdpIcmp | Type::Wrong) {
        let help = "remove it, or set `type` to \"udp_icmp\"";
        refuse_fields(&table, monitor.kind.name(), &UDP_FIELDS, help);
    }
    if monitor.timeout > monitor.interval {
        let message = format!(
            "`timeout` ({} s) is longer than `interval` ({} s): runs of this monitor will be late",
            monitor.timeout.as_secs_f64(),
            monitor.interval.as_secs_f64()
        );
        table.sink.warning(&table.place, message, None);
    }
    table.unsupported("probe_zone", "it simulates a zone of Cloudflare's network");
    table.note("description");
    table.report_unknown();
    monitor
}

fn kind(table: &Table<'_>) -> Type {
    let Some(value) = table.get("type") else {
        return Type::Http;
    };
    let words = [
        ("tcp", Type::Tcp),
        ("http", Type::Http),
        ("https", Type::Https),
        ("icmp_ping", Type::IcmpPing),
        ("udp_icmp", Type::UdpIcmp),
        ("smtp", Type::Smtp),
    ];
    value.word(&words).unwrap_or(Type::Wrong)
}

/// `source`, one address or one of each family, and `interface`. Whether the node has them now is no matter: both may come
/// and go.
fn source(table: &Table<'_>) -> ProbeSource {
    let mut source = ProbeSource::default();
    if let Some(value) = table.get("source") {
        let items = match value.peek() {
            Some(_) => None,
            None => Some(value.list("\"192.0.2.1\" or [\"192.0.2.1\", \"2001:db8::1\"]")),
        };
        for item in items.as_deref().unwrap_or(std::slice::from_ref(&value)) {
            let Some(address) = address::address(item, "a probe") else {
                continue;
            };
            let twice = match address {
                IpAddr::V4(v4) => source.v4.replace(v4).is_some(),
                IpAddr::V6(v6) => source.v6.replace(v6).is_some(),
            };
            if twice {
                let message = "a monitor has one source address of each family";
                item.error(
                    message,
                    "make another monitor, and a monitor group of both".to_owned(),
                );
            }
        }
    }
    if let Some(value) = table.get("interface") {
        match value.string().map(|name| (name, check_interface(name))) {
            Some((name, Ok(()))) => source.interface = Some(name.to_owned()),
            Some((_, Err(message))) => value.error(message, None),
            None => {}
        }
    }
    source
}

fn port(table: &Table<'_>, kind: Type) -> Option<u16> {
    let value = table.get("port")?;
    let port = value.optional_port();
    if kind == Type::IcmpPing && port.is_some() {
        value.error("an icmp_ping monitor has no port", "remove it".to_owned());
    }
    port
}

/// Fields of other types. What says nothing may stand in any monitor, as it does in Cloudflare's answers.
fn refuse_fields(table: &Table<'_>, kind: &str, fields: &[&'static str], help: &str) {
    for &key in fields {
        let Some(value) = table.get(key).filter(|value| !value.is_vacant()) else {
            continue;
        };
        // Cloudflare's own answers carry this for tcp monitors.
        if key == "method" && value.peek() == Some("connection_established") {
            continue;
        }
        value.error(
            format!("a monitor of type \"{kind}\" has no `{key}`"),
            help.to_owned(),
        );
    }
}

/// Text, or bytes in hexadecimal digits after `0x`, with spaces between them where one likes.
fn bytes(table: &Table<'_>, key: &'static str) -> Vec<u8> {
    let Some(value) = table.get(key) else {
        return Vec::new();
    };
    let text = value.string().unwrap_or_default();
    let bytes = match text.strip_prefix("0x") {
        None => Some(text.as_bytes().to_vec()),
        Some(digits) => hexadecimal(digits),
    };
    let Some(bytes) = bytes else {
        value.error(
            format!("{text:?} is not a whole number of bytes in hexadecimal digits"),
            "write two digits a byte, such as \"0xff ff ff ff 54\"; text that begins with 0x too".to_owned(),
        );
        return Vec::new();
    };
    if bytes.len() > MAX_PAYLOAD {
        let message = format!(
            "has {} bytes; {MAX_PAYLOAD} fit into a packet on every path",
            bytes.len()
        );
        value.error(message, "shorten it".to_owned());
    }
    bytes
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// Cloudflare's answers carry `allow_insecure = false` for http monitors too; true is a misunderstanding.
fn refuse_insecure(table: &Table<'_>) {
    if let Some(value) = table.get("allow_insecure")
        && value.boolean() == Some(true)
    {
        value.error(
            "a monitor of type \"http\" verifies no certificate",
            "set `type` to \"https\"".to_owned(),
        );
    }
}

fn probe(table: &Table<'_>) -> Probe {
    Probe {
        method: table
            .get("method")
            .and_then(|value| method(&value))
            .unwrap_or_else(|| "GET".to_owned()),
        path: table
            .get("path")
            .and_then(|value| path(&value))
            .unwrap_or_else(|| "/".to_owned()),
        headers: table.table("header").map(headers).unwrap_or_default(),
        expected_codes: table
            .get("expected_codes")
            .and_then(|value| codes(&value))
            .unwrap_or_default(),
        expected_body: body(table),
        follow_redirects: table
            .get("follow_redirects")
            .and_then(|value| value.boolean())
            .unwrap_or(false),
    }
}

fn method(value: &Value<'_>) -> Option<String> {
    let text = value.string()?;
    if !is_token(text) {
        value.error(
            format!("{text:?} is not an HTTP method"),
            "such as \"GET\" or \"HEAD\"".to_owned(),
        );
        return None;
    }
    if text == "connection_established" {
        value.error(
            "\"connection_established\" is what tcp monitors have, not an HTTP method",
            "such as \"GET\" or \"HEAD\"".to_owned(),
        );
        return None;
    }
    if text == "CONNECT" {
        value.error(
            "CONNECT cannot be used to probe",
            "use \"GET\" or \"HEAD\"".to_owned(),
        );
    }
    Some(text.to_owned())
}

fn path(value: &Value<'_>) -> Option<String> {
    let text = value.string()?;
    if !text.starts_with('/') {
        value.error(
            format!("{text:?} does not start with `/`"),
            format!("write \"/{text}\""),
        );
        return None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let help = "encode them as in \"/a%20b\"".to_owned();
        value.error(
            format!("{text:?} contains characters that a request line cannot carry"),
            help,
        );
        return None;
    }
    Some(text.to_owned())
}

fn codes(value: &Value<'_>) -> Option<ExpectedCodes> {
    match ExpectedCodes::parse(value.string()?) {
        Ok(codes) => Some(codes),
        Err(part) => {
            let help = "write codes, classes and ranges, such as \"200,3xx,500-503\"".to_owned();
            value.error(format!("\"{part}\" is not an HTTP status code"), help);
            None
        }
    }
}

fn body(table: &Table<'_>) -> String {
    let Some(value) = table.get("expected_body") else {
        return String::new();
    };
    let text = value.string().unwrap_or_default();
    if text.len() > 10 << 10 {
        value.error(
            "is longer than 10 KiB, the part of the answer that is looked into",
            None,
        );
    }
    text.to_owned()
}

/// `header`: each name with a list of values, as in Cloudflare's API.
fn headers(table: Table<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, value) in table.entries() {
        let name_text = name.value.as_str();
        if !is_token(name_text) {
            table
                .sink
                .error(&name.place, format!("{name_text:?} is not a header name"), None);
        }
        let lower = name_text.to_ascii_lowercase();
        if matches!(
            lower.as_str(),
            "content-length" | "transfer-encoding" | "connection" | "upgrade" | "user-agent"
        ) {
            let message = format!("`{name_text}` is set by lb itself and cannot be given");
            table.sink.error(&name.place, message, "remove it".to_owned());
        }
        let items = value.list("[\"value\"]");
        if lower == "host" && items.len() > 1 {
            value.error("a request has one Host", "keep one value".to_owned());
        }
        for item in items {
            let Some(text) = item.string() else { continue };
            if text.chars().any(|c| c.is_control() && c != '\t') {
                item.error(format!("{text:?} contains control characters"), None);
            }
            headers.push((name_text.to_owned(), text.to_owned()));
        }
    }
    headers
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::super::testing_config as config;
    use lb_core::model::{MonitorKind, UdpProbe};

    #[test]
    fn datagrams_are_text_or_hexadecimal_digits() {
        let text = "
            [monitors.dns]
            type = 'udp_icmp'
            port = 53
            payload = '0xff FF 00 01'
            expected_reply = 'pong'
            [monitors.mail]
            type = 'smtp'
        ";
        let config = config(text);
        assert_eq!(
            config.monitors[0].kind,
            MonitorKind::UdpIcmp(UdpProbe {
                payload: vec![0xff, 0xff, 0, 1],
                expected_reply: b"pong".to_vec(),
            })
        );
        assert_eq!(config.monitors[1].kind, MonitorKind::Smtp);
    }

    #[test]
    fn probes_start_where_the_monitor_says() {
        let text = "
            [monitors.one]
            type = 'icmp_ping'
            source = '192.0.2.1'
            interface = 'eth1'
            [monitors.both]
            type = 'icmp_ping'
            source = ['2001:db8::1', '192.0.2.1']
        ";
        let config = config(text);
        let [one, both] = &config.monitors[..] else {
            panic!("two monitors")
        };
        let (v4, v6) = ("192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
        assert_eq!(one.source.interface.as_deref(), Some("eth1"));
        assert_eq!(one.source.address(v4), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(one.source.address(v6), None);
        assert_eq!(both.source.address(v6), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn an_origin_may_name_the_host_that_monitors_ask_for() {
        let text = "
            [pools.eu.origins.a]
            address = '10.0.0.1'
            header = { Host = ['www.example.com'] }
        ";
        let config = config(text);
        assert_eq!(
            config.pools[0].origins[0].host.as_deref(),
            Some("www.example.com")
        );
    }
}
