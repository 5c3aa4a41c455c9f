//! `[node]`, `[datapath]` and `[api]`.

use super::access::Lists;
use super::reader::{Located, Table, Value};
use super::steering::REGIONS;
use super::{DEFAULT_SOCKET, HostDefaults, address, check_name, seconds};
use lb_core::model::{Api, AttachMode, Datapath, FlowTimeouts, Node, OnExit, SomeTimeouts, TunnelSource};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The longest path that fits into a socket address.
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn node(table: Option<Table<'_>>, defaults: &HostDefaults) -> Node {
    let mut node = Node {
        name: defaults.node_name.clone(),
        pop: None,
        region: None,
        country: None,
        latitude: None,
        longitude: None,
        state_dir: PathBuf::from("/var/lib/lb"),
    };
    let Some(table) = table else {
        return node;
    };
    if let Some(name) = text(&table, "name") {
        check_name(table.sink, &name);
        if matches!(name.value.as_str(), "." | "..") {
            table.sink.error(
                &name.place,
                "the name is also a directory and cannot be `.` or `..`",
                None,
            );
        }
        node.name = name.value;
    }
    node.pop = text(&table, "pop").map(|pop| pop.value);
    node.region = text(&table, "region").map(|region| {
        if !REGIONS.contains(&region.value.as_str()) {
            let message = format!(
                "\"{}\" is not one of Cloudflare's regions ({})",
                region.value,
                REGIONS.join(", ")
            );
            table.sink.warning(
                &region.place,
                message,
                super::reader::suggestion(&region.value, REGIONS),
            );
        }
        region.value
    });
    node.country = text(&table, "country").map(|country| {
        if country.value.len() != 2 || !country.value.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let message = format!("\"{}\" is not a country code", country.value);
            table.sink.error(
                &country.place,
                message,
                "two capital letters, such as \"DE\"".to_owned(),
            );
        }
        country.value
    });
    (node.latitude, node.longitude) = coordinates(&table);
    if let Some(directory) = table.get("state_dir") {
        node.state_dir = absolute(&directory).unwrap_or(node.state_dir);
    }
    table.report_unknown();
    node
}

/// `latitude` and `longitude`: both or neither.
pub(super) fn coordinates(table: &Table<'_>) -> (Option<f64>, Option<f64>) {
    let (latitude, longitude) = (table.get("latitude"), table.get("longitude"));
    match (&latitude, &longitude) {
        (Some(value), None) => value.error("is given without `longitude`", "give both or neither".to_owned()),
        (None, Some(value)) => value.error("is given without `latitude`", "give both or neither".to_owned()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    (
        latitude.and_then(|value| value.number_in(-90.0..=90.0, " degrees")),
        longitude.and_then(|value| value.number_in(-180.0..=180.0, " degrees")),
    )
}

pub(super) fn datapath(table: Option<Table<'_>>, lists: &Lists<'_>) -> Datapath {
    let mut datapath = Datapath {
        interfaces: Vec::new(),
        mode: AttachMode::default(),
        snat_addresses: Vec::new(),
        max_flows: 1_048_576,
        on_exit: OnExit::default(),
        flow_timeouts: FlowTimeouts::default(),
        max_replies_per_second: Datapath::MAX_REPLIES,
        tunnel_source: TunnelSource::default(),
        access: None,
    };
    let Some(table) = table else {
        return datapath;
    };
    for item in table
        .get("interfaces")
        .iter()
        .flat_map(|value| value.list("[\"eth0\"]"))
    {
        let Some(name) = item.string() else { continue };
        if let Err(flaw) = check_interface(name) {
            item.error(flaw, None);
        } else if datapath.interfaces.iter().any(|known| known == name) {
            item.error(format!("\"{name}\" is listed twice"), None);
        }
        datapath.interfaces.push(name.to_owned());
    }
    if let Some(mode) = table.get("mode") {
        let words = [
            ("auto", AttachMode::Auto),
            ("native", AttachMode::Native),
            ("generic", AttachMode::Generic),
        ];
        datapath.mode = mode.word(&words).unwrap_or_default();
    }
    for item in table
        .get("snat_addresses")
        .iter()
        .flat_map(|value| value.list("[\"192.0.2.10\"]"))
    {
        let Some(address) = address::address(&item, "this node") else {
            continue;
        };
        if datapath.snat_addresses.contains(&address) {
            item.error(format!("{address} is listed twice"), None);
        }
        datapath.snat_addresses.push(address);
    }
    if let Some(flows) = table.get("max_flows") {
        // Two map entries a flow, and the kernel counts entries in 32 bits.
        datapath.max_flows = flows.integer(1..=u32::MAX / 2).unwrap_or(datapath.max_flows);
    }
    if let Some(on_exit) = table.get("on_exit") {
        datapath.on_exit = on_exit
            .word(&[("keep", OnExit::Keep), ("detach", OnExit::Detach)])
            .unwrap_or_default();
    }
    datapath.flow_timeouts = flow_timeouts(&table).or(&FlowTimeouts::default());
    if let Some(replies) = table.get("max_replies_per_second") {
        datapath.max_replies_per_second = replies.integer(1..=u32::MAX).unwrap_or(Datapath::MAX_REPLIES);
    }
    datapath.access = lists.read(&table);
    if let Some(source) = table.get("tunnel_source") {
        datapath.tunnel_source = tunnel_source(&source);
    }
    table.report_unknown();
    datapath
}

/// `flow_timeouts` of the node or of an application.
pub(super) fn flow_timeouts(table: &Table<'_>) -> SomeTimeouts {
    let mut known = SomeTimeouts::default();
    if let Some(timeouts) = table.table("flow_timeouts") {
        for (key, timeout) in [
            ("tcp", &mut known.tcp),
            ("tcp_handshake", &mut known.tcp_handshake),
            ("tcp_closing", &mut known.tcp_closing),
            ("udp", &mut known.udp),
        ] {
            *timeout = timeouts.get(key).and_then(|value| flow_timeout(&value));
        }
        timeouts.report_unknown();
    }
    known
}

/// `"node"`, or a prefix of either family.
fn tunnel_source(value: &Value<'_>) -> TunnelSource {
    let mut source = TunnelSource::default();
    if value.peek().is_some() {
        let _ = value.word(&[("node", ())]);
        return source;
    }
    for item in value.list("[\"10.200.0.0/16\", \"2001:db8:ffff::/96\"]") {
        let Some(prefix) = address::prefix(&item) else {
            continue;
        };
        if prefix.length() == prefix.bits() {
            let help = "give a prefix, or \"node\" for the node's own addresses";
            item.error(
                format!("{prefix} leaves no bits for flows to differ in"),
                help.to_owned(),
            );
            continue;
        }
        if let Some((flaw, _)) = address::flaw(prefix.address()).filter(|_| prefix.length() > 0) {
            item.error(format!("{prefix} begins with {flaw}"), None);
            continue;
        }
        let (known, family) = match prefix.address() {
            IpAddr::V4(_) => (&mut source.v4, "IPv4"),
            IpAddr::V6(_) => (&mut source.v6, "IPv6"),
        };
        if let Some(known) = known {
            item.error(
                format!("{prefix} is the second {family} prefix beside {known}"),
                None,
            );
        }
        *known = Some(prefix);
    }
    source
}

/// The datapath counts idle time in 32 bits of jiffies: ten days stay clear of the wrap at 1000 Hz.
pub(super) fn flow_timeout(value: &Value<'_>) -> Option<Duration> {
    seconds(value, 0.1..=864_000.0)
}

/// Checks that the kernel would take `name` for a network interface.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_interface(name: &str) -> Result<(), String> {
    match name {
        "" => Err("the interface name is empty".to_owned()),
        "." | ".." => Err(format!("\"{name}\" is not an interface name")),
        _ if name.len() > 15 => Err(format!(
            "\"{name}\" has {} characters; interface names have at most 15",
            name.len()
        )),
        _ if name
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) =>
        {
            Err(format!(
                "{name:?} is not an interface name: no `/`, `:` or white space"
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn api(table: Option<Table<'_>>) -> Api {
    let mut api = Api {
        socket: PathBuf::from(DEFAULT_SOCKET),
        listen: Vec::new(),
        token_file: None,
        edge_ips: Vec::new(),
    };
    let Some(table) = table else {
        return api;
    };
    if let Some(socket) = table.get("socket") {
        api.socket = absolute(&socket).unwrap_or(api.socket);
        let length = api.socket.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let message =
                format!("the path has {length} characters; a socket's path has at most {MAX_SOCKET_PATH}");
            socket.error(message, None);
        }
    }
    for item in table
        .get("edge_ips")
        .iter()
        .flat_map(|value| value.list("[\"203.0.113.10\"]"))
    {
        let Some(address) = address::address(&item, "an application") else {
            continue;
        };
        if api.edge_ips.contains(&address) {
            item.error(format!("{address} is listed twice"), None);
        }
        api.edge_ips.push(address);
    }
    let token_file = table.get("token_file");
    api.token_file = token_file.as_ref().and_then(absolute);
    let plaintext = table
        .get("allow_plaintext")
        .and_then(|value| value.boolean())
        .unwrap_or(false);
    for item in table
        .get("listen")
        .iter()
        .flat_map(|value| value.list("[\"127.0.0.1:7600\"]"))
    {
        let Some(text) = item.string() else { continue };
        let Ok(address) = text.parse::<SocketAddr>() else {
            let help = "write ADDRESS:PORT, such as \"127.0.0.1:7600\" or \"[::1]:7600\"".to_owned();
            item.error(format!("\"{text}\" is not an address with a port"), help);
            continue;
        };
        if address.port() == 0 {
            item.error("the port is 0", "choose a port from 1 to 65535".to_owned());
        }
        if api.listen.contains(&address) {
            item.error(format!("{address} is listed twice"), None);
        }
        if !address.ip().is_loopback() {
            if token_file.is_none() {
                let message = format!("{address} is not a loopback address, which requires `api.token_file`");
                item.error(
                    message,
                    "without a token everybody who reaches the port controls lb".to_owned(),
                );
            }
            if !plaintext {
                let message =
                    format!("{address} is not a loopback address, and the API has no TLS in this version");
                let help = "put a TLS proxy or a tunnel before a loopback address, or accept that the token can be \
                            read on the way with `api.allow_plaintext = true`";
                item.error(message, help.to_owned());
            }
        }
        api.listen.push(address);
    }
    table.report_unknown();
    api
}

/// A string that is not empty.
fn text(table: &Table<'_>, key: &'static str) -> Option<Located<String>> {
    let value = table.get(key)?;
    let text = value.string()?;
    if text.is_empty() {
        value.error("is empty", "leave the key out".to_owned());
        return None;
    }
    Some(value.locate(text.to_owned()))
}

/// A path that does not depend on where the command was started.
pub(super) fn absolute(value: &Value<'_>) -> Option<PathBuf> {
    let text = value.string()?;
    if text.contains('\0') || !text.starts_with('/') {
        value.error(
            format!("{text:?} is not an absolute path"),
            "start it with `/`".to_owned(),
        );
        return None;
    }
    Some(PathBuf::from(text))
}
