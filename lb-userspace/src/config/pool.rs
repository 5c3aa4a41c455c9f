//! `[pools.NAME]` and `[pools.NAME.origins.NAME]`.

use super::diagnostic::Document;
use super::reader::{Located, Place, Sink, Table, Value};
use super::steering::REGIONS;
use super::{address, check_name, enabled, node, seconds, webhook};
use lb_core::model::{
    Coordinates, Forwarding, Host, LoadShedding, OnUnhealthy, Origin, OriginSteering, Pool, SheddingPolicy,
    Weight,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A pool with the places that later checks point at.
pub(super) struct ReadPool {
    pub pool: Pool,
    pub monitor: Option<Located<String>>,
    pub monitor_group: Option<Located<String>>,
    /// One for each origin of the pool: its name, and its address if it has a valid one.
    pub origins: Vec<OriginPlaces>,
}

/// Where an origin stands.
pub(super) struct OriginPlaces {
    pub name: Place,
    /// When the address is valid.
    pub address: Option<Place>,
    pub port: Option<Place>,
}

pub(super) fn pool(name: &Located<String>, table: Table<'_>) -> ReadPool {
    let named = |key| {
        let value = table.get(key).filter(|value| !value.is_vacant())?;
        value.string().map(|text| value.locate(text.to_owned()))
    };
    let (monitor, monitor_group) = (named("monitor"), named("monitor_group"));
    if let (Some(_), Some(group)) = (&monitor, &monitor_group) {
        let message = "a pool has a `monitor` or a `monitor_group`, not both";
        let help = "make the monitor a member of the group";
        table.sink.error(&group.place, message, help.to_owned());
    }
    let forwarding = forwarding(&table);
    let (origins, places) = origins(&table, &forwarding);
    if let Some(port) = &forwarding.gue_port
        && !origins.is_empty()
        && !origins
            .iter()
            .any(|origin| matches!(origin.forwarding, Forwarding::DsrGue { .. }))
    {
        pointless_gue_port(
            table.sink,
            port,
            "a pool without an origin of forwarding \"dsr_gue\"",
        );
    }
    let minimum = table.get("minimum_origins");
    let pool = Pool {
        name: name.value.clone(),
        identity: identity(&table),
        enabled: enabled(&table),
        monitor: monitor.as_ref().map(|monitor| monitor.value.clone()),
        monitor_group: monitor_group.as_ref().map(|group| group.value.clone()),
        minimum_origins: minimum
            .as_ref()
            .and_then(|value| value.integer(0..=u32::MAX))
            .unwrap_or(1),
        origin_steering: steering(&table),
        load_shedding: load_shedding(&table),
        coordinates: coordinates(&table),
        on_unhealthy: table
            .get("on_unhealthy")
            .and_then(|value| value.word(&[("keep", OnUnhealthy::Keep), ("reset", OnUnhealthy::Reset)]))
            .unwrap_or_default(),
        drain_timeout: drain_timeout(&table).unwrap_or(Pool::DRAIN_TIMEOUT),
        notification_filter: webhook::notification_filter(&table),
        origins,
    };
    if pool.on_unhealthy == OnUnhealthy::Reset
        && pool.monitor.is_none()
        && pool.monitor_group.is_none()
        && let Some(value) = table.get("on_unhealthy")
    {
        let message = "has no effect: without a `monitor` no origin is unhealthy";
        table.sink.warning(&value.place, message, None);
    }
    if let Some(value) = minimum {
        let enabled = pool.origins.iter().filter(|origin| origin.enabled).count();
        if pool.minimum_origins as usize > enabled && !pool.origins.is_empty() {
            let message = format!(
                "{} healthy origins are asked for, and the pool has {enabled} that are enabled: it is always critical",
                pool.minimum_origins
            );
            value.sink.warning(&value.place, message, None);
        }
    }
    if !pool.origins.is_empty() && pool.origins.iter().all(|origin| origin.weight == Weight::ZERO) {
        table.sink.warning(
            &table.place,
            "all origins have weight 0: the pool gets no traffic",
            None,
        );
    }
    table.unsupported("health_sources", "each node probes for itself");
    table.unsupported("notification_email", "have a webhook told: [webhooks.NAME]");
    check_regions(&table);
    table.inert("check_regions", "each node probes for itself");
    table.inert("networks", "it belongs to Cloudflare's network");
    table.note("description");
    table.report_unknown();
    ReadPool {
        pool,
        monitor,
        monitor_group,
        origins: places,
    }
}

/// Has no effect, but what Cloudflare would refuse is a mistake here, too.
fn check_regions(table: &Table<'_>) {
    let Some(value) = table.get("check_regions") else {
        return;
    };
    let words: Vec<_> = REGIONS
        .into_iter()
        .chain(["ALL_REGIONS"])
        .map(|word| (word, ()))
        .collect();
    for region in value.list("check_regions = [\"WEU\"]") {
        region.word(&words);
    }
}

/// What an object of the API is known by, whatever it is called; those of the file are known by their names.
fn identity(table: &Table<'_>) -> Option<String> {
    if table.place.document == Document::File {
        return None;
    }
    Some(table.get("identity")?.string()?.to_owned())
}

/// `drain_timeout` of a pool or an origin.
fn drain_timeout(table: &Table<'_>) -> Option<Duration> {
    let value = table.get("drain_timeout")?;
    seconds(&value, 0.0..=604_800.0)
}

fn steering(table: &Table<'_>) -> OriginSteering {
    let Some(steering) = table.table("origin_steering") else {
        return OriginSteering::default();
    };
    let words = [
        OriginSteering::Random,
        OriginSteering::Hash,
        OriginSteering::LeastConnections,
        OriginSteering::LeastOutstandingRequests,
    ]
    .map(|policy| (policy.name(), policy));
    let policy = steering.get("policy").and_then(|value| value.word(&words));
    steering.report_unknown();
    policy.unwrap_or_default()
}

fn load_shedding(table: &Table<'_>) -> LoadShedding {
    let mut shedding = LoadShedding::default();
    let Some(table) = table.table("load_shedding") else {
        return shedding;
    };
    for (key, percent) in [
        ("default_percent", &mut shedding.default_percent),
        ("session_percent", &mut shedding.session_percent),
    ] {
        let value = table.get(key);
        *percent = value
            .and_then(|value| value.number_in(0.0..=100.0, " percent"))
            .unwrap_or(0.0);
    }
    let words = [("random", SheddingPolicy::Random), ("hash", SheddingPolicy::Hash)];
    let policy = table.get("default_policy").and_then(|value| value.word(&words));
    shedding.default_policy = policy.unwrap_or_default();
    if let Some(value) = table.get("session_policy") {
        // A part of the sessions at random, again and again, would leave none.
        let _ = value.word(&[("hash", ())]);
    }
    table.report_unknown();
    shedding
}

fn coordinates(table: &Table<'_>) -> Option<Coordinates> {
    let (latitude, longitude) = node::coordinates(table);
    let (latitude, longitude) = (latitude?, longitude?);
    Some(Coordinates { latitude, longitude })
}

/// `forwarding` and `gue_port` of a pool or an origin, as they are written.
struct ReadForwarding {
    mode: Option<Forwarding>,
    gue_port: Option<Located<u16>>,
}

fn forwarding(table: &Table<'_>) -> ReadForwarding {
    let words = [
        Forwarding::Nat,
        Forwarding::Dnat,
        Forwarding::DsrL2,
        Forwarding::DsrIpip,
        Forwarding::DsrGue {
            port: Forwarding::GUE_PORT,
        },
    ]
    .map(|mode| (mode.name(), mode));
    let gue_port = |value: Value<'_>| {
        let port = value
            .integer(1..=65535)
            .and_then(|port| u16::try_from(port).ok())?;
        Some(value.locate(port))
    };
    ReadForwarding {
        mode: table.get("forwarding").and_then(|value| value.word(&words)),
        gue_port: table.get("gue_port").and_then(gue_port),
    }
}

impl ReadForwarding {
    /// What holds for an origin of a pool with these fields.
    fn resolve(&self, sink: &Sink, pool: &Self) -> Forwarding {
        let mode = self.mode.or(pool.mode).unwrap_or_default();
        match (mode, &self.gue_port) {
            (Forwarding::DsrGue { .. }, _) => {
                let port = self.gue_port.as_ref().or(pool.gue_port.as_ref());
                Forwarding::DsrGue {
                    port: port.map_or(Forwarding::GUE_PORT, |port| port.value),
                }
            }
            (mode, Some(port)) => {
                pointless_gue_port(sink, port, &format!("forwarding \"{}\"", mode.name()));
                mode
            }
            (mode, None) => mode,
        }
    }
}

fn pointless_gue_port(sink: &Sink, port: &Located<u16>, subject: &str) {
    sink.error(
        &port.place,
        format!("{subject} sends no GUE packets"),
        "set `forwarding = \"dsr_gue\"`, or leave the key out".to_owned(),
    );
}

fn origins(table: &Table<'_>, forwarding: &ReadForwarding) -> (Vec<Origin>, Vec<OriginPlaces>) {
    let (mut origins, mut places): (Vec<Origin>, Vec<OriginPlaces>) = (Vec::new(), Vec::new());
    let Some(value) = table.get("origins") else {
        let help = format!("add [{}.origins.NAME] with an `address`", table.place.field);
        table.sink.error(&table.place, "the pool has no origins", help);
        return (origins, places);
    };
    let Some(named) = value.table() else {
        return (origins, places);
    };
    if named.entries().is_empty() {
        let help = format!("add [{}.origins.NAME] with an `address`", table.place.field);
        table.sink.error(&table.place, "the pool has no origins", help);
    }
    let mut seen: HashMap<(Host, Option<u16>), String> = HashMap::new();
    for (name, value) in named.entries() {
        check_name(table.sink, &name);
        let Some(fields) = value.table() else { continue };
        let (origin, place) = origin(&name, fields, forwarding);
        if let Some(place) = &place.address {
            let twin = seen
                .entry((origin.address.clone(), origin.port))
                .or_insert(origin.name.clone());
            if *twin != origin.name {
                let message = format!(
                    "{} with this port is also the address of `{twin}`",
                    origin.address
                );
                let help = "give the origin a weight instead of listing it twice".to_owned();
                table.sink.error(place, message, help);
            }
        }
        origins.push(origin);
        places.push(place);
    }
    (origins, places)
}

fn origin(name: &Located<String>, table: Table<'_>, pool: &ReadForwarding) -> (Origin, OriginPlaces) {
    let value = table.require("address", "an origin needs an IP address or a host name");
    let address = value.as_ref().and_then(address::host);
    let port = table.get("port");
    let origin = Origin {
        name: name.value.clone(),
        identity: identity(&table),
        address: address
            .clone()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()),
        port: port.as_ref().and_then(Value::optional_port),
        weight: table
            .get("weight")
            .and_then(|value| weight(&value))
            .unwrap_or(Weight::ONE),
        enabled: enabled(&table),
        forwarding: forwarding(&table).resolve(table.sink, pool),
        host: table.table("header").and_then(host),
        drain_timeout: drain_timeout(&table),
    };
    table.unsupported(
        "virtual_network_id",
        "origins are reached by the routes of this node",
    );
    table.inert("flatten_cname", "lb keeps no DNS records");
    table.note("description");
    table.report_unknown();
    let places = OriginPlaces {
        name: name.place.clone(),
        address: address.and(value.map(|value| value.place)),
        port: port.map(|value| value.place),
    };
    (origin, places)
}

/// `header` of an origin: its `Host`, by which HTTP monitors ask for it. Clients' packets are not changed.
fn host(table: Table<'_>) -> Option<String> {
    let mut host = None;
    for (name, value) in table.entries() {
        let hosts = value.list("[\"www.example.com\"]");
        if !name.value.eq_ignore_ascii_case("host") {
            let message = "a packet-level balancer cannot set HTTP headers";
            value.error(message, "for probes, set `header` on the monitor".to_owned());
        } else if hosts.len() > 1 {
            value.error("a request has one Host", "keep one value".to_owned());
        } else if let Some(item) = hosts.first() {
            host = item.string().map(str::to_owned).filter(|host| !host.is_empty());
            if host
                .as_ref()
                .is_some_and(|host| !host.bytes().all(|byte| byte.is_ascii_graphic()))
            {
                item.error("contains characters that no host has", None);
            }
        }
    }
    host
}

/// A weight, 0 to 1 in steps of 0.01.
pub(super) fn weight(value: &Value<'_>) -> Option<Weight> {
    match Weight::try_from(value.number()?) {
        Ok(weight) => Some(weight),
        Err(error) => {
            value.error(error, "weights are 0 to 1 in steps of 0.01".to_owned());
            None
        }
    }
}
