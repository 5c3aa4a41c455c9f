//! `[dns]`: how host names of origins are looked up.

use super::reader::{Table, Value};
use super::{address, seconds};
use lb_core::model::Dns;
use std::net::{IpAddr, SocketAddr};

/// The port of name servers that name none.
const PORT: u16 = 53;
/// Seconds that `min_ttl` and `max_ttl` may be.
const TTLS: std::ops::RangeInclusive<f64> = 1.0..=86_400.0;

pub(super) fn dns(table: Option<Table<'_>>) -> Dns {
    let mut dns = Dns::default();
    let Some(table) = table else {
        return dns;
    };
    let servers = table.get("servers");
    for item in servers.iter().flat_map(|value| value.list("[\"192.0.2.53\"]")) {
        let Some(server) = server(&item) else { continue };
        if dns.servers.contains(&server) {
            item.error(format!("{server} is listed twice"), None);
        }
        dns.servers.push(server);
    }
    let (min, max) = (table.get("min_ttl"), table.get("max_ttl"));
    let ttl = |value: &Option<Value<'_>>| value.as_ref().and_then(|value| seconds(value, TTLS));
    dns.min_ttl = ttl(&min).unwrap_or(dns.min_ttl);
    dns.max_ttl = ttl(&max).unwrap_or(dns.max_ttl.max(dns.min_ttl));
    if let Some(value) = max.as_ref().or(min.as_ref())
        && dns.max_ttl < dns.min_ttl
    {
        let (max, min) = (dns.max_ttl.as_secs_f64(), dns.min_ttl.as_secs_f64());
        let message = format!("`max_ttl` is {max} seconds, less than `min_ttl` with {min}");
        value.error(message, "make `min_ttl` the smaller one".to_owned());
    }
    table.report_unknown();
    dns
}

/// `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:5353`.
fn server(item: &Value<'_>) -> Option<SocketAddr> {
    let text = item.string()?;
    let bare = text
        .parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, PORT));
    let Ok(server) = bare.or_else(|_| text.parse::<SocketAddr>()) else {
        let help = "such as \"192.0.2.53\", \"192.0.2.53:5353\" or \"[2001:db8::53]:5353\"";
        item.error(
            format!("\"{text}\" is not the address of a name server"),
            help.to_owned(),
        );
        return None;
    };
    // One on this host is as good as any.
    if let Some((flaw, _)) = address::flaw(server.ip()).filter(|_| !server.ip().is_loopback()) {
        item.error(format!("{} is {flaw} and no name server's", server.ip()), None);
        return None;
    }
    if server.port() == 0 {
        item.error("the port is 0", "leave it out for port 53".to_owned());
        return None;
    }
    Some(server)
}
