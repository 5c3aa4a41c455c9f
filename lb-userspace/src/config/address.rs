//! IP addresses and host names in the file: which ones can stand for a VIP, an origin or a source address.

use super::reader::Value;
use lb_core::model::{AddressFlaw, Host, Prefix};
use std::net::IpAddr;

/// Characters of a host name, and of one of its labels (RFC 1035 section 2.3.4, without the final dot).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

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
pub(super) fn flaw(address: IpAddr) -> Option<(AddressFlaw, Option<&'static str>)> {
    let flaw = AddressFlaw::of(address)?;
    let help = match flaw {
        AddressFlaw::Unspecified => Some("name each address explicitly"),
        AddressFlaw::Multicast | AddressFlaw::Broadcast => None,
        AddressFlaw::Loopback => Some("packets are forwarded on the wire and never reach `lo`"),
        AddressFlaw::Mapped => Some("write the IPv4 address itself"),
        AddressFlaw::LinkLocal => Some("use a global or unique local address"),
    };
    Some((flaw, help))
}

/// Reads where an origin is: an address, or a host name.
pub(super) fn host(value: &Value<'_>) -> Option<Host> {
    let text = value.string()?;
    if !is_host_name(text) && text.is_ascii() {
        return address(value, "an origin").map(Host::Address);
    }
    match host_name(text) {
        Ok(name) => Some(Host::Name(name)),
        Err((flaw, help)) => {
            value.error(format!("\"{text}\" {flaw}"), help.map(str::to_owned));
            None
        }
    }
}

/// A host name in lower case and without a final dot.
///
/// # Errors
/// Why it cannot be looked up, with a remedy.
pub(super) fn host_name(text: &str) -> Result<String, (String, Option<&'static str>)> {
    if !text.is_ascii() {
        return Err((
            "has characters that no host name has".to_owned(),
            Some("write an internationalized name with its `xn--` labels"),
        ));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Err((
            "is this machine itself".to_owned(),
            Some("packets are forwarded on the wire and never reach `lo`"),
        ));
    }
    if name.len() > MAX_NAME {
        return Err((
            format!(
                "has {} characters; host names have at most {MAX_NAME}",
                name.len()
            ),
            None,
        ));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err((
                "has an empty label".to_owned(),
                Some("one dot between two labels"),
            ));
        }
        if label.len() > MAX_LABEL {
            let flaw = format!(
                "has a label of {} characters; they have at most {MAX_LABEL}",
                label.len()
            );
            return Err((flaw, None));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(("has a label that begins or ends with `-`".to_owned(), None));
        }
    }
    Ok(name)
}

/// Says what `text` is instead of an address.
fn explain(value: &Value<'_>, text: &str, what: &str) {
    let parsed_host = text
        .rsplit_once(':')
        .map(|(host, _)| host.trim_matches(['[', ']']));
    if text.is_empty() {
        value.error("the address is empty", None);
    } else if text.contains("://") {
        value.error(
            format!("\"{text}\" is a URL"),
            "write its host, and the port into its own field".to_owned(),
        );
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
    } else if parsed_host.is_some_and(is_host_name) {
        value.error(
            format!("\"{text}\" is a host name with a port"),
            "put the port into its own field".to_owned(),
        );
    } else if is_host_name(text) {
        value.error(
            format!("\"{text}\" is a host name"),
            format!("write the IP address of {what}"),
        );
    } else {
        value.error(format!("\"{text}\" is not an IP address"), None);
    }
}

/// Whether `text` looks like a host name: its last label is not a number.
pub(crate) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let characters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let last = text.rsplit('.').next().unwrap_or_default();
    text.chars().all(characters) && last.chars().any(|c| c.is_ascii_alphabetic())
}
