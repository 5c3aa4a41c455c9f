//! `[monitors.NAME]`.

use super::reader::{Located, Table, Value};
use super::seconds;
use lb_core::model::{ExpectedCodes, Monitor, MonitorKind, Probe};
use std::time::Duration;

/// `type`, before its own fields are known.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Tcp,
    Http,
    Https,
    IcmpPing,
    Unsupported,
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
        kind: match kind {
            Type::Tcp | Type::Unsupported => MonitorKind::Tcp,
            Type::Http => MonitorKind::Http(probe(&table)),
            Type::Https => MonitorKind::Https {
                probe: probe(&table),
                allow_insecure: table
                    .get("allow_insecure")
                    .and_then(|value| value.boolean())
                    .unwrap_or(false),
            },
            Type::IcmpPing => MonitorKind::IcmpPing,
        },
    };
    match kind {
        Type::Tcp => refuse_http_fields(&table, "tcp", &HTTP_FIELDS),
        Type::IcmpPing => refuse_http_fields(&table, "icmp_ping", &HTTP_FIELDS),
        Type::Http => refuse_insecure(&table),
        // The fields of a type that is refused anyway are not worth a second message.
        Type::Unsupported => HTTP_FIELDS.into_iter().for_each(|key| drop(table.get(key))),
        Type::Https => {}
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
        ("udp_icmp", Type::Unsupported),
        ("smtp", Type::Unsupported),
    ];
    let kind = value.word(&words).unwrap_or(Type::Unsupported);
    if let (Type::Unsupported, Some(word @ ("udp_icmp" | "smtp"))) = (kind, value.peek()) {
        let help = match word {
            "smtp" => "use \"tcp\" with `port = 25`",
            _ => "use \"icmp_ping\", or \"tcp\" if the origin also serves TCP",
        };
        value.error(
            format!("monitors of type \"{word}\" are not supported in this version"),
            help.to_owned(),
        );
    }
    kind
}

fn port(table: &Table<'_>, kind: Type) -> Option<u16> {
    let value = table.get("port")?;
    let port = value.optional_port();
    if kind == Type::IcmpPing && port.is_some() {
        value.error("an icmp_ping monitor has no port", "remove it".to_owned());
    }
    port
}

fn refuse_http_fields(table: &Table<'_>, kind: &str, fields: &[&'static str]) {
    for &key in fields {
        let Some(value) = table.get(key) else { continue };
        // Cloudflare's own answers carry this for tcp monitors.
        if key == "method" && kind == "tcp" && value.peek() == Some("connection_established") {
            continue;
        }
        value.error(
            format!("a monitor of type \"{kind}\" has no `{key}`"),
            "remove it, or set `type` to \"http\" or \"https\"".to_owned(),
        );
    }
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
