//! Objects as tables, and one of them as text.

use super::remote::{Remote, origins};
use crate::cli::table::{Align, Table};
use crate::cli::{Failure, Global, output};
use crate::config::Kind;
use crate::wire::{Object, Status};
use serde_json::Value;
use std::collections::HashMap;

/// `list` of any kind.
pub(super) fn list(remote: &Remote, global: &Global) -> Result<(), Failure> {
    let objects = remote.list()?;
    if global.json {
        let objects: Vec<&Value> = objects.iter().map(|object| &object.object).collect();
        return output::print_json(&objects);
    }
    let mut names = HashMap::new();
    let referred: &[Kind] = match remote.kind {
        Kind::Monitor | Kind::Application => &[],
        Kind::MonitorGroup => &[Kind::Monitor],
        Kind::Pool => &[Kind::Monitor, Kind::MonitorGroup],
        Kind::LoadBalancer => &[Kind::Pool],
    };
    for kind in referred {
        let others = remote.of(*kind).list()?;
        names.extend(others.into_iter().map(|object| (object.id, object.name)));
    }
    let status = match remote.kind {
        Kind::Pool | Kind::LoadBalancer => Some(remote.status()?),
        Kind::Monitor | Kind::MonitorGroup | Kind::Application => None,
    };
    let table = table(remote.kind, &objects, &names, status.as_ref());
    output::print(&table.render(output::stdout_has_color()))
}

/// The table of a kind; `names` by id of what objects refer to.
pub(super) fn table(
    kind: Kind,
    objects: &[Object],
    names: &HashMap<String, String>,
    status: Option<&Status>,
) -> Table {
    const LEFT: Align = Align::Left;
    let columns: &[(&'static str, Align)] = match kind {
        Kind::Monitor => &[
            ("MONITOR", LEFT),
            ("TYPE", LEFT),
            ("PORT", Align::Right),
            ("INTERVAL", Align::Right),
            ("TIMEOUT", Align::Right),
            ("SOURCE", LEFT),
        ],
        Kind::MonitorGroup => &[("MONITOR GROUP", LEFT), ("MEMBERS", LEFT), ("SOURCE", LEFT)],
        Kind::Pool => &[
            ("POOL", LEFT),
            ("HEALTH", LEFT),
            ("ORIGINS", LEFT),
            ("MONITOR", LEFT),
            ("SOURCE", LEFT),
        ],
        Kind::LoadBalancer => &[
            ("LOAD BALANCER", LEFT),
            ("HEALTH", LEFT),
            ("STEERING", LEFT),
            ("POOLS", LEFT),
            ("FALLBACK", LEFT),
            ("SOURCE", LEFT),
        ],
        Kind::Application => &[
            ("APPLICATION", LEFT),
            ("STATE", LEFT),
            ("PROTOCOL", LEFT),
            ("ADDRESSES", LEFT),
            ("LEADS TO", LEFT),
            ("SOURCE", LEFT),
        ],
    };
    let mut table = Table::new(columns);
    for object in objects {
        let fields = &object.object;
        let name = |id: &Value| {
            let id = id.as_str().unwrap_or_default();
            names.get(id).cloned().unwrap_or_else(|| id.to_owned())
        };
        let mut row = vec![object.name.clone()];
        row.extend(match kind {
            Kind::Monitor => vec![
                text(&fields["type"]),
                fields["port"]
                    .as_u64()
                    .filter(|port| *port > 0)
                    .map_or_else(dash, |port| port.to_string()),
                format!("{} s", fields["interval"]),
                format!("{} s", fields["timeout"]),
            ],
            Kind::MonitorGroup => vec![joined(
                items(&fields["members"]).map(|member| name(&member["monitor_id"])),
            )],
            Kind::Pool => {
                let found =
                    status.and_then(|status| status.pools.iter().find(|pool| pool.name == object.name));
                let of = origins(object).count();
                let monitor = [&fields["monitor"], &fields["monitor_group"]].map(name);
                vec![
                    found.map_or_else(dash, |pool| pool.health.clone()),
                    found.map_or_else(
                        || of.to_string(),
                        |pool| format!("{} of {of} healthy", pool.healthy_origins),
                    ),
                    monitor
                        .into_iter()
                        .find(|name| !name.is_empty())
                        .unwrap_or_else(dash),
                ]
            }
            Kind::LoadBalancer => {
                let balancers = status.map_or(&[][..], |status| &status.load_balancers);
                let found = balancers.iter().find(|balancer| balancer.name == object.name);
                let policy = text(&fields["steering_policy"]);
                vec![
                    found.map_or_else(|| switch(fields), |balancer| balancer.health.clone()),
                    found.map_or(policy, |balancer| balancer.steering_policy.clone()),
                    joined(items(&fields["default_pools"]).map(name)),
                    Some(name(&fields["fallback_pool"]))
                        .filter(|name| !name.is_empty())
                        .unwrap_or_else(dash),
                ]
            }
            Kind::Application => {
                let addresses = joined(items(&fields["edge_ips"]["ips"]).map(text));
                let balancer = fields["origin_dns"]["name"].as_str();
                let direct = || joined(items(&fields["origin_direct"]).map(text));
                vec![
                    switch(fields),
                    text(&fields["protocol"]),
                    if addresses.is_empty() {
                        "the node's".to_owned()
                    } else {
                        addresses
                    },
                    balancer.map_or_else(direct, str::to_owned),
                ]
            }
        });
        row.push(source(object));
        table.row(row);
    }
    table
}

/// An object with what is known of it, as a text that can be used again.
pub(super) fn whole(kind: Kind, object: &Object) -> String {
    let place = match &object.declared {
        Some(place) => format!("declared in {}:{}", place.file, place.line),
        None => "made through the API".to_owned(),
    };
    let mut lines = vec![
        format!("# {} `{}`, {place}", kind.noun(), object.name),
        format!("# id {}", object.id),
    ];
    for (key, word) in [("created_on", "made"), ("modified_on", "changed")] {
        if let (Some(time), None) = (object.object[key].as_str(), &object.declared) {
            lines.push(format!("# {word} {time}"));
        }
    }
    for (origin, by_hand) in &object.overridden {
        let what = if origin.is_empty() {
            "it".to_owned()
        } else {
            format!("origin `{origin}`")
        };
        lines.push(format!("# {what} is {} since {}", by_hand.words(), by_hand.since));
    }
    if !object.referrers.is_empty() {
        lines.push(format!("# used by {}", object.referrers.join(", ")));
    }
    format!(
        "{}\n{}",
        lines.join("\n"),
        object.toml.as_deref().unwrap_or_default()
    )
}

/// Who declares it, and whether somebody has laid hand on it.
pub(super) fn source(object: &Object) -> String {
    let declared = match &object.declared {
        Some(place) => {
            let file = place.file.rsplit('/').next().unwrap_or_default();
            format!("{file}:{}", place.line)
        }
        None => "api".to_owned(),
    };
    match object.overridden.get("") {
        Some(by_hand) => format!("{declared}, {}", by_hand.words()),
        None => declared,
    }
}

fn switch(fields: &Value) -> String {
    match fields["enabled"].as_bool() {
        Some(false) => "disabled",
        Some(true) | None => "enabled",
    }
    .to_owned()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

pub(super) fn dash() -> String {
    "-".to_owned()
}
