//! `[monitor_groups.NAME]`.

use super::reader::{Located, Table, Value};
use super::{Declared, enabled};
use lb_core::model::{Member, MonitorGroup};
use std::collections::HashSet;

/// A group with the places that later checks point at.
pub(super) struct ReadGroup {
    pub group: MonitorGroup,
    /// By member of the group, where its monitor is named.
    pub monitors: Vec<Located<String>>,
}

const EXAMPLE: &str = "[{ monitor = \"NAME\" }]";

pub(super) fn monitor_group(name: &Located<String>, table: Table<'_>) -> ReadGroup {
    let (mut members, mut monitors) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    let items = table.require("members", "name the monitors that decide together");
    for item in items.iter().flat_map(|value| value.list(EXAMPLE)) {
        let Some((member, monitor)) = item.table().and_then(member) else {
            continue;
        };
        if !known.insert(monitor.value.clone()) {
            let message = format!("monitor `{}` is a member twice", monitor.value);
            table
                .sink
                .error(&monitor.place, message, "keep one of them".to_owned());
        }
        members.push(member);
        monitors.push(monitor);
    }
    if let Some(value) = items.filter(Value::is_list) {
        let counts = |member: &Member| member.enabled && !member.monitoring_only;
        if members.is_empty() {
            value.error("the group has no members", format!("write {EXAMPLE}"));
        } else if !members.iter().any(counts) {
            let message = "no member's results count: origins of its pools count as healthy";
            table.sink.warning(&value.place, message, None);
        }
    }
    table.note("description");
    table.report_unknown();
    let name = name.value.clone();
    ReadGroup {
        group: MonitorGroup { name, members },
        monitors,
    }
}

fn member(table: Table<'_>) -> Option<(Member, Located<String>)> {
    let flag = |key| table.get(key).and_then(|value| value.boolean()).unwrap_or(false);
    let (monitoring_only, must_be_healthy) = (flag("monitoring_only"), flag("must_be_healthy"));
    if monitoring_only
        && must_be_healthy
        && let Some(value) = table.get("must_be_healthy")
    {
        let message = "has no effect: a member that is `monitoring_only` takes nobody down";
        table.sink.warning(&value.place, message, None);
    }
    let enabled = enabled(&table);
    let monitor = table.require("monitor", "a member names a monitor");
    table.report_unknown();
    let monitor = monitor?;
    let monitor = monitor.locate(monitor.string()?.to_owned());
    let member = Member {
        monitor: monitor.value.clone(),
        enabled,
        monitoring_only,
        must_be_healthy,
    };
    Some((member, monitor))
}

/// The model's part.
pub(super) fn groups(declared: Vec<Declared<ReadGroup>>) -> Vec<MonitorGroup> {
    declared
        .into_iter()
        .map(|declared| declared.object.group)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing_config as config;
    use lb_core::model::Member;

    #[test]
    fn members_have_flags() {
        let text = "
            [monitors.a]
            type = 'icmp_ping'
            [monitors.b]
            type = 'tcp'
            port = 80
            [monitor_groups.both]
            description = 'two'
            members = [
                { monitor = 'a', must_be_healthy = true },
                { monitor = 'b', enabled = false, monitoring_only = true },
            ]
            [pools.eu]
            monitor_group = 'both'
            [pools.eu.origins.a]
            address = '10.0.0.1'
        ";
        let config = config(text);
        assert_eq!(config.pools[0].monitor_group.as_deref(), Some("both"));
        let member = |monitor: &str| Member {
            monitor: monitor.to_owned(),
            enabled: true,
            monitoring_only: false,
            must_be_healthy: false,
        };
        assert_eq!(
            config.monitor_groups[0].members,
            [
                Member {
                    must_be_healthy: true,
                    ..member("a")
                },
                Member {
                    enabled: false,
                    monitoring_only: true,
                    ..member("b")
                }
            ]
        );
    }
}
