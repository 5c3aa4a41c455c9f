//! `[load_balancers.NAME]`.

use super::access::Lists;
use super::reader::{Located, Place, Table, Value};
use super::{enabled, pool, pool_set};
use lb_core::model::{GeoPools, LoadBalancer, PoolWeights, SteeringPolicy, Weight};
use std::collections::BTreeMap;

/// Seconds that a DNS record may be kept, at most (RFC 2181 section 8).
const MOST_TTL: f64 = 2_147_483_647.0;
/// `location_strategy`, which decides what answers of DNS go by.
const MODES: [(&str, ()); 2] = [("pop", ()), ("resolver_ip", ())];
const PREFERENCES: [(&str, ()); 4] = [("always", ()), ("never", ()), ("proximity", ()), ("geo", ())];

/// A load balancer with the places that later checks point at.
pub(super) struct ReadLoadBalancer {
    pub load_balancer: LoadBalancer,
    /// Every reference to a pool.
    pub pools: Vec<Located<String>>,
    /// Weights of named pools, each with the list for which it counts.
    pub weighted: Vec<(Located<String>, Vec<String>)>,
    pub policies: Vec<Located<SteeringPolicy>>,
    /// Where places are named that the node may or may not be in.
    pub places: Vec<Named>,
}

/// A place that is named somewhere.
pub(super) enum Named {
    Pop(Located<String>),
    Region(Located<String>),
    Country(Place),
}

/// What is noted on the way.
#[derive(Default)]
pub(super) struct Notes {
    pub pools: Vec<Located<String>>,
    pub weighted: Vec<(Located<String>, Vec<String>)>,
    pub policies: Vec<Located<SteeringPolicy>>,
    pub places: Vec<Named>,
}

pub(super) fn load_balancer(name: &Located<String>, table: Table<'_>, lists: &Lists) -> ReadLoadBalancer {
    let mut notes = Notes::default();
    let default_pools = table
        .require("default_pools", "list the pools in the order of preference")
        .map(|value| pools(&value, &mut notes))
        .unwrap_or_default();
    let fallback_pool = pool_name(&table, "fallback_pool", &mut notes);
    let geo = geo(&table, lists, &mut notes);
    let (steering_policy, written) = policy(&table, &geo);
    let random_steering = random_steering(&table, steering_policy, &default_pools, &mut notes);
    let pool_sets = pool_set::pool_sets(&table, lists, &mut notes);
    if steering_policy.is_weighted() {
        warn_of_nobody(&table, &default_pools, &random_steering, "default pools");
    }
    if steering_policy != SteeringPolicy::Geo && !geo.is_empty() {
        for key in ["pop_pools", "country_pools", "region_pools"] {
            if let Some(value) = table.get(key).filter(|value| !value.is_vacant()) {
                let message = format!(
                    "has no effect with `steering_policy = \"{}\"`",
                    steering_policy.name()
                );
                let help = "set `steering_policy = \"geo\"`, or leave the policy out".to_owned();
                table.sink.warning(&value.place, message, help);
            }
        }
    }
    notes.policies.extend(written);
    let load_balancer = LoadBalancer {
        name: name.value.clone(),
        enabled: enabled(&table),
        default_pools,
        fallback_pool,
        steering_policy,
        random_steering,
        geo,
        pool_sets,
    };
    refuse_the_rest(&table);
    table.note("description");
    table.report_unknown();
    ReadLoadBalancer {
        load_balancer,
        pools: notes.pools,
        weighted: notes.weighted,
        policies: notes.policies,
        places: notes.places,
    }
}

/// A list of pools in failover order, each once.
pub(super) fn pools(value: &Value<'_>, notes: &mut Notes) -> Vec<String> {
    let mut pools: Vec<String> = Vec::new();
    let items = value.list("[\"pool\"]");
    for item in &items {
        let Some(name) = item.string() else { continue };
        if pools.iter().any(|pool| pool == name) {
            item.error(format!("pool `{name}` is listed twice"), None);
        }
        pools.push(name.to_owned());
        notes.pools.push(item.locate(name.to_owned()));
    }
    if items.is_empty() && value.is_list() {
        value.error("the list is empty", "name at least one pool".to_owned());
    }
    pools
}

/// The name of a single pool.
pub(super) fn pool_name(table: &Table<'_>, key: &'static str, notes: &mut Notes) -> Option<String> {
    let value = table.get(key)?;
    let name = value.string()?;
    notes.pools.push(value.locate(name.to_owned()));
    Some(name.to_owned())
}

/// Lists of pools by place.
fn geo(table: &Table<'_>, lists: &Lists, notes: &mut Notes) -> GeoPools {
    let mut geo = GeoPools::default();
    for (key, of) in [("pop_pools", &mut geo.pops), ("region_pools", &mut geo.regions)] {
        for (name, value) in table.table(key).iter().flat_map(Table::entries) {
            if name.value.is_empty() {
                table.sink.error(&name.place, "the name is empty", None);
            }
            notes.places.push(match key {
                "pop_pools" => Named::Pop(name.clone()),
                _ => Named::Region(name.clone()),
            });
            let pools = pools(&value, notes);
            of.insert(name.value, pools);
        }
    }
    for (name, value) in table.table("country_pools").iter().flat_map(Table::entries) {
        let country = lists.wish(table.sink, &name);
        notes.places.push(Named::Country(name.place.clone()));
        let pools = pools(&value, notes);
        geo.countries.extend(country.map(|country| (country, pools)));
    }
    geo
}

/// The policy, and its place if it is written. Without one, or with `""`: `geo` where pools are given by place, else `off`.
fn policy(table: &Table<'_>, geo: &GeoPools) -> (SteeringPolicy, Option<Located<SteeringPolicy>>) {
    let implied = match geo.is_empty() {
        true => SteeringPolicy::Off,
        false => SteeringPolicy::Geo,
    };
    let mut words: Vec<_> = SteeringPolicy::ALL
        .into_iter()
        .map(|policy| (policy.name(), policy))
        .collect();
    words.push(("", implied));
    let written = table
        .get("steering_policy")
        .and_then(|value| Some(value.locate(value.word(&words)?)));
    (written.as_ref().map_or(implied, |written| written.value), written)
}

/// `random_steering`: the weights of pools that are named, and of all others.
fn random_steering(
    table: &Table<'_>,
    policy: SteeringPolicy,
    pools: &[String],
    notes: &mut Notes,
) -> PoolWeights {
    let Some(steering) = table.table("random_steering") else {
        return PoolWeights::default();
    };
    if !policy.is_weighted() && !sets_may_use_it(table) {
        let message = format!("has no effect with `steering_policy = \"{}\"`", policy.name());
        table.sink.warning(
            &steering.place,
            message,
            "set `steering_policy = \"random\"`".to_owned(),
        );
    }
    let weights = PoolWeights {
        default: default_weight(&steering, "default_weight"),
        named: named_weights(&steering, pools, notes),
    };
    steering.report_unknown();
    weights
}

/// Whether there are pool sets, which have no weights of their own by default.
fn sets_may_use_it(table: &Table<'_>) -> bool {
    table.get("pool_sets").is_some_and(|sets| !sets.is_vacant())
}

/// The weight of pools that are not named.
pub(super) fn default_weight(table: &Table<'_>, key: &'static str) -> Weight {
    table
        .get(key)
        .and_then(|value| pool::weight(&value))
        .unwrap_or(Weight::ONE)
}

/// `pool_weights`, for the pools of this list.
pub(super) fn named_weights(
    table: &Table<'_>,
    pools: &[String],
    notes: &mut Notes,
) -> BTreeMap<String, Weight> {
    let mut weights = BTreeMap::new();
    for (name, value) in table.table("pool_weights").iter().flat_map(Table::entries) {
        let weight = pool::weight(&value).unwrap_or(Weight::ONE);
        weights.insert(name.value.clone(), weight);
        notes.weighted.push((name, pools.to_vec()));
    }
    weights
}

/// Warns when no pool of a list can ever be picked.
pub(super) fn warn_of_nobody(table: &Table<'_>, pools: &[String], weights: &PoolWeights, words: &str) {
    if !pools.is_empty() && pools.iter().all(|pool| weights.of(pool) == Weight::ZERO) {
        table.sink.warning(
            &table.place,
            format!("all {words} have weight 0: none of them gets traffic"),
            None,
        );
    }
}

/// Cloudflare's other fields, each with the reason why it is not taken.
fn refuse_the_rest(table: &Table<'_>) {
    if let Some(routing) = table.table("adaptive_routing") {
        if let Some(value) = routing.get("failover_across_pools")
            && value.boolean() == Some(true)
        {
            let message =
                "retries between pools look into HTTP requests, which a packet-level balancer cannot";
            value.error(
                message,
                "the next pool takes over when a monitor finds a pool critical".to_owned(),
            );
        }
        routing.report_unknown();
    }
    table.refuse(
        "rules",
        "custom rules look into HTTP requests, which a packet-level balancer cannot",
        "use `pool_sets`, which go by place, or one application and load balancer for each port",
    );
    if let Some(value) = table.get("session_affinity")
        && let Some(word) = value.string().filter(|word| !matches!(*word, "none" | ""))
    {
        value.error(
            format!("session affinity \"{word}\" needs HTTP, which a packet-level balancer does not see"),
            "use `affinity = { ttl = 600 }` on the application, or `origin_steering = { policy = \"hash\" }` on the \
             pools: the client's address picks the origin"
                .to_owned(),
        );
    }
    for key in ["session_affinity_ttl", "session_affinity_attributes"] {
        table.refuse(
            key,
            "session affinity needs HTTP, which a packet-level balancer does not see",
            "use `affinity = { ttl = 600 }` on the application",
        );
    }
    table.inert("proxied", "applications are always forwarded through lb");
    if let Some(ttl) = table.get("ttl") {
        ttl.number_in(0.0..=MOST_TTL, " seconds");
    }
    table.inert("ttl", "lb answers no DNS queries");
    if let Some(strategy) = table.table("location_strategy") {
        let words = [("mode", &MODES[..]), ("prefer_ecs", &PREFERENCES)];
        for (key, words) in words {
            if let Some(value) = strategy.get(key) {
                value.word(words);
            }
        }
        strategy.report_unknown();
    }
    table.inert("location_strategy", "lb answers no DNS queries");
    table.inert("networks", "it belongs to Cloudflare's network");
}
