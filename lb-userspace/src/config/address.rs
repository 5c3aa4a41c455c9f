//! IP addresses in the file: which ones can stand for a VIP, an origin or a source address.

use super::reader::Value;
use lb_core::model::Prefix;
use std::net::IpAddr;

/// Reads the address of `what` ("an origin"); reports text that is none and addresses that packets cannot be
/// forwarded to or from.
pub(super) fn address(value: &Value<'_>, what: &str) -> Option<IpAddr> {
    let text = value.string()?;
    let Ok(address) = text.parse::<IpAddr>() else {
        explain(value, text, what);
        return None;
    };
    match flaw(address) {
        None => Some(address),
        Some((flaw, help)) => {
            value.error(
                format!("{address} is {flaw} and cannot be the address of {what}"),
                help.map(str::to_owned),
            );
            None
        }
    }
}

/// Reads a prefix, or an address as a prefix of all its bits; reports text that is none.
pub(super) fn prefix(value: &Value<'_>) -> Option<Prefix> {
    let text = value.string()?;
    match text.parse() {
        Ok(prefix) => Some(prefix),
        Err(error) => {
            value.error(format!("\"{text}\" {error}"), None);
            None
        }
    }
}

/// Why packets cannot go to or come from `address`, with a remedy.
pub(super) fn flaw(address: IpAddr) -> Option<(&'static str, Option<&'static str>)> {
    if address.is_unspecified() {
        return Some(("the unspecified address", Some("name each address explicitly")));
    }
    if address.is_multicast() {
        return Some(("a multicast address", None));
    }
    if address.is_loopback() {
        return Some((
            "a loopback address",
            Some("packets are forwarded on the wire and never reach `lo`"),
        ));
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(("the broadcast address", None)),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some(("an IPv4-mapped address", Some("write the IPv4 address itself")))
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some((
            "a link-local address",
            Some("use a global or unique local address"),
        )),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Says what `text` is instead of an address.
fn explain(value: &Value<'_>, text: &str, what: &str) {
    let parsed_host = text
        .rsplit_once(':')
        .map(|(host, _)| host.trim_matches(['[', ']']));
    if text.is_empty() {
        value.error("the address is empty", None);
    } else if text.contains('/') {
        value.error(
            format!("\"{text}\" is a prefix, not an address"),
            "list each address".to_owned(),
        );
    } else if parsed_host.is_some_and(|host| host.parse::<IpAddr>().is_ok()) {
        value.error(
            format!("\"{text}\" is an address with a port"),
            "put the port into its own field".to_owned(),
        );
    } else if is_host_name(text) {
        value.error(
            format!("\"{text}\" is a host name; host names are not supported in this version"),
            format!("write the IP address of {what}"),
        );
    } else {
        value.error(format!("\"{text}\" is not an IP address"), None);
    }
}

/// Whether `text` looks like a DNS name: its last label is not a number.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let last = text.rsplit('.').next().unwrap_or_default();
    text.split('.').all(label) && last.chars().any(|c| c.is_ascii_alphabetic())
}
