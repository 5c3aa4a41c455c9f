//! `[[load_balancers.NAME.pool_sets]]`.

use super::access::Lists;
use super::load_balancer::{self, Named, Notes};
use super::reader::{Located, Table, Value};
use lb_core::model::{PoolSet, PoolWeights, SteeringPolicy, Topology};
use std::collections::HashSet;

/// Cloudflare's limits.
const MAX_SETS: usize = 1000;
const MAX_PLACES: usize = 1000;
const MAX_NAME: usize = 200;

/// `pool_sets` of a load balancer, in the order of the file.
pub(super) fn pool_sets(balancer: &Table<'_>, lists: &Lists, notes: &mut Notes) -> Vec<PoolSet> {
    let Some(value) = balancer.get("pool_sets") else {
        return Vec::new();
    };
    let items = value.list("[[load_balancers.NAME.pool_sets]] for each of them");
    if items.len() > MAX_SETS {
        value.error(format!("{} sets; {MAX_SETS} are allowed", items.len()), None);
    }
    let mut names = HashSet::new();
    let mut sets = Vec::new();
    for (number, item) in (1..).zip(&items) {
        let Some(table) = item.table() else { continue };
        let set = pool_set(number, &table, lists, notes);
        if !names.insert(set.name.clone()) {
            let message = format!("there is a set `{}` before this one", set.name);
            let help = "give each set a name of its own: output calls it by that".to_owned();
            table.sink.error(&table.place, message, help);
        }
        sets.push(set);
    }
    sets
}

fn pool_set(number: usize, table: &Table<'_>, lists: &Lists, notes: &mut Notes) -> PoolSet {
    let topology = matched(table, lists, notes);
    table.refuse(
        "fixed_response",
        "an answer instead of an origin needs HTTP, which a packet-level balancer does not speak",
        "use `overrides`, or `access` of the application to deny whole countries",
    );
    let mut set = PoolSet {
        name: name(number, table),
        disabled: table
            .get("disabled")
            .and_then(|value| value.boolean())
            .unwrap_or(false),
        topology,
        pools: None,
        weights: None,
        fallback_pool: None,
        steering_policy: SteeringPolicy::Off,
    };
    match table.table("overrides") {
        Some(overrides) => read_overrides(&mut set, &overrides, notes),
        None if table.get("overrides").is_none() => {
            let help = "say what holds there, such as `overrides = { pools = [\"pool\"] }`".to_owned();
            table.sink.error(&table.place, "`overrides` is missing", help);
        }
        None => {}
    }
    table.report_unknown();
    set
}

fn name(number: usize, table: &Table<'_>) -> String {
    let value = table.get("name");
    let name = value.as_ref().and_then(Value::string).unwrap_or_default();
    if let Some(value) = value.filter(|_| name.chars().count() > MAX_NAME) {
        let length = name.chars().count();
        value.error(
            format!("the name has {length} characters; {MAX_NAME} are allowed"),
            None,
        );
    }
    match name {
        "" => format!("#{number}"),
        name => name.to_owned(),
    }
}

/// `match`: without it every flow.
fn matched(table: &Table<'_>, lists: &Lists, notes: &mut Notes) -> Topology {
    let mut topology = Topology::default();
    let Some(found) = table.table("match") else {
        return topology;
    };
    let default = found.get("default");
    if let Some(value) = &default
        && value.boolean() == Some(false)
    {
        let help = "leave the key out, or write `true` for a set that is for every flow".to_owned();
        value.error("can only be true", help);
    }
    match found.table("topology") {
        Some(places) => {
            if let Some(value) = &default {
                value.error("`topology` is given too", "keep one of them".to_owned());
            }
            let mut text = |key, noted: fn(Located<String>) -> Named| -> Vec<String> {
                list(&places, key, |item| {
                    let text = item.string()?;
                    if text.is_empty() {
                        item.error("is empty", None);
                    }
                    notes.places.push(noted(item.locate(text.to_owned())));
                    Some(text.to_owned())
                })
            };
            topology.pops = text("pops", Named::Pop);
            topology.regions = text("regions", Named::Region);
            topology.countries = list(&places, "countries", |item| {
                let text = item.string()?;
                notes.places.push(Named::Country(item.place.clone()));
                lists.wish(item.sink, &item.locate(text.to_owned()))
            });
            if ["pops", "countries", "regions"]
                .iter()
                .all(|key| places.get(key).is_none())
            {
                let help = "give `pops`, `countries` or `regions`; all that are given must apply".to_owned();
                places.sink.error(&places.place, "no place is named", help);
            }
            places.report_unknown();
        }
        None if default.is_none() && found.get("topology").is_none() => {
            let help = "write `match = { topology = { countries = [\"DE\"] } }`, or leave the key out for every flow";
            found
                .sink
                .error(&found.place, "nothing is matched", help.to_owned());
        }
        None => {}
    }
    found.report_unknown();
    topology
}

/// A list of places, none of them twice.
fn list<T: PartialEq>(
    table: &Table<'_>,
    key: &'static str,
    mut read: impl FnMut(&Value<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = table.get(key) else {
        return Vec::new();
    };
    let items = value.list("[\"DE\"]");
    if items.is_empty() && value.is_list() {
        value.error(
            "the list is empty: it would match nothing",
            "leave the key out".to_owned(),
        );
    }
    if items.len() > MAX_PLACES {
        value.error(format!("{} places; {MAX_PLACES} are allowed", items.len()), None);
    }
    let mut list = Vec::new();
    for item in &items {
        let Some(place) = read(item) else { continue };
        if list.contains(&place) {
            item.error("is listed twice", None);
        }
        list.push(place);
    }
    list
}

fn read_overrides(set: &mut PoolSet, overrides: &Table<'_>, notes: &mut Notes) {
    set.pools = overrides
        .get("pools")
        .map(|value| load_balancer::pools(&value, notes));
    set.fallback_pool = load_balancer::pool_name(overrides, "fallback_pool", notes);
    if let Some(value) = overrides.get("steering_policy") {
        let mut words: Vec<_> = SteeringPolicy::ALL
            .into_iter()
            .map(|policy| (policy.name(), policy))
            .collect();
        words.push(("", SteeringPolicy::Off));
        set.steering_policy = value.word(&words).unwrap_or_default();
        if set.steering_policy == SteeringPolicy::Geo {
            let help = "a set is for one place already: name its pools in their order";
            value.error("\"geo\" cannot be the policy of a pool set", help.to_owned());
            set.steering_policy = SteeringPolicy::Off;
        }
        notes.policies.push(value.locate(set.steering_policy));
    }
    let pools = set.pools.clone().unwrap_or_default();
    let given = |key| overrides.get(key).map(|value| value.place);
    if let Some(place) = given("pool_weights").or(given("pool_default_weight")) {
        let weights = PoolWeights {
            default: load_balancer::default_weight(overrides, "pool_default_weight"),
            named: load_balancer::named_weights(overrides, &pools, notes),
        };
        if set.steering_policy.is_weighted() {
            load_balancer::warn_of_nobody(overrides, &pools, &weights, "pools of the set");
        } else {
            let message = format!(
                "has no effect with `steering_policy = \"{}\"`",
                set.steering_policy.name()
            );
            let help = "set `steering_policy = \"random\"` in the overrides".to_owned();
            overrides.sink.warning(&place, message, help);
        }
        set.weights = Some(weights);
    }
    overrides.report_unknown();
}
