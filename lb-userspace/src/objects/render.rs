//! The objects of the API as a document in the file's vocabulary.
//!
//! Fields that have their default are left out. For each field that is written, the document knows where in which object
//! it comes from, so that what is said about the document can be said about the object.

use super::catalog::Catalog;
use super::entry::{Body, Entry, Id};
use crate::cloudflare::{Application, EdgeIps, Origin};
use crate::config::{Diagnostic, Document, Kind, Source, field_of};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// What messages call the document.
const NAME: &str = "objects of the API";

/// The document.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub source: Arc<Source>,
    /// By field of the document: the object and where in it (RFC 6901).
    fields: HashMap<String, (Kind, Id, String)>,
}

/// What the file says about the addresses of applications that leave them to the node.
pub type EdgeAddresses<'a> = &'a [IpAddr];

/// The document for the objects that the API made, but those that are left out.
#[must_use]
pub fn render(catalog: &Catalog, edge_ips: EdgeAddresses<'_>, left_out: &BTreeSet<Id>) -> Rendered {
    let mut writer = Writer {
        catalog,
        edge_ips,
        text: String::new(),
        fields: HashMap::new(),
    };
    for kind in Kind::ALL {
        let entries = catalog.of_api().iter();
        for entry in entries.filter(|entry| entry.kind() == kind && !left_out.contains(&entry.id)) {
            writer.object(entry);
        }
    }
    Rendered {
        source: Source::new(NAME, &writer.text),
        fields: writer.fields,
    }
}

impl Rendered {
    /// The object that a diagnostic of this document is about, and where in it; `None` for one about the file.
    #[must_use]
    pub fn place(&self, diagnostic: &Diagnostic) -> Option<(Kind, &Id, String)> {
        if diagnostic.document != Document::Objects {
            return None;
        }
        // The field itself, or the closest one around it that is known.
        let mut known = diagnostic.field.as_str();
        loop {
            if let Some((kind, id, pointer)) = self.fields.get(known) {
                let rest = &diagnostic.field[known.len()..];
                return Some((*kind, id, format!("{pointer}{}", pointer_of(rest))));
            }
            known = &known[..known.rfind(['.', '['])?];
        }
    }
}

/// The rest of a field such as `.policy` or `[0]` as a JSON pointer.
fn pointer_of(rest: &str) -> String {
    rest.replace('[', "/")
        .replace(']', "")
        .replace('.', "/")
        .replace('"', "")
}

struct Writer<'c> {
    catalog: &'c Catalog,
    edge_ips: EdgeAddresses<'c>,
    text: String,
    fields: HashMap<String, (Kind, Id, String)>,
}

/// A table that is being written.
struct Table<'e> {
    entry: &'e Entry,
    /// Its field in the document.
    field: String,
    /// Where in the object its fields stand.
    pointer: String,
}

impl<'c> Writer<'c> {
    fn object(&mut self, entry: &Entry) {
        let table = self.table(entry, field_of(entry.kind().table(), &entry.name), "");
        match &entry.body {
            Body::Monitor(body) => self.changed(&table, &entry.body, body),
            Body::MonitorGroup(body) => {
                self.changed_but(&table, &entry.body, body, &["members"]);
                self.members(&table, body);
            }
            Body::Pool(pool) => {
                let special = [
                    "name",
                    "origins",
                    "monitor",
                    "monitor_group",
                    "disabled_at",
                    "networks",
                ];
                self.changed_but(&table, &entry.body, pool, &special);
                for (key, kind, id) in [
                    ("monitor", Kind::Monitor, &pool.monitor),
                    ("monitor_group", Kind::MonitorGroup, &pool.monitor_group),
                ] {
                    if !id.is_empty() {
                        let name = Value::String(self.name_of(kind, id));
                        self.field(&table, key, key, &name);
                    }
                }
                if pool.origins.is_empty() {
                    self.field(&table, "origins", "origins", &Value::Object(Map::new()));
                }
                for (index, origin) in pool.origins.iter().enumerate() {
                    self.origin(&table, index, origin);
                }
            }
            Body::LoadBalancer(body) => self.load_balancer(&table, entry, body),
            Body::Application(application) => self.application(&table, application),
        }
    }

    /// Begins a table.
    fn table<'e>(&mut self, entry: &'e Entry, field: String, pointer: &str) -> Table<'e> {
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "\n[{field}]");
        let place = (entry.kind(), entry.id.clone(), pointer.to_owned());
        self.fields.insert(field.clone(), place);
        Table {
            entry,
            field,
            pointer: pointer.to_owned(),
        }
    }

    /// Writes `value` under `key`; it stands under `pointer` of the table's object.
    fn field(&mut self, table: &Table<'_>, key: &str, pointer: &str, value: &Value) {
        let _ = writeln!(self.text, "{} = {}", field_of("", key), toml(value));
        self.note(table, &field_of(&table.field, key), pointer);
    }

    /// Notes where a field of the document comes from.
    fn note(&mut self, table: &Table<'_>, field: &str, pointer: &str) {
        let pointer = format!("{}/{pointer}", table.pointer);
        let place = (table.entry.kind(), table.entry.id.clone(), pointer);
        self.fields.insert(field.to_owned(), place);
    }

    /// Writes the fields that do not have their default.
    fn changed<T: Default + serde::Serialize>(&mut self, table: &Table<'_>, body: &Body, of: &T) {
        self.changed_but(table, body, of, &[]);
    }

    fn changed_but<T: Default + serde::Serialize>(
        &mut self,
        table: &Table<'_>,
        body: &Body,
        _of: &T,
        special: &[&str],
    ) {
        for (key, value) in differences::<T>(body.to_json()) {
            if !special.contains(&key.as_str()) {
                self.field(table, &key, &key, &value);
            }
        }
    }

    /// The name of an object in the file's vocabulary. An id of nobody stays as it is, so that it is reported.
    fn name_of(&self, kind: Kind, id: &str) -> String {
        let entry = Id::parse(id).and_then(|id| self.catalog.get(kind, &id));
        entry.map_or_else(|| id.to_owned(), |entry| entry.name.clone())
    }

    fn members(&mut self, table: &Table<'_>, group: &crate::cloudflare::MonitorGroup) {
        let members = group.members.iter().map(|member| {
            serde_json::json!({
                "monitor": self.name_of(Kind::Monitor, &member.monitor_id),
                "enabled": member.enabled,
                "monitoring_only": member.monitoring_only,
                "must_be_healthy": member.must_be_healthy,
            })
        });
        let members: Value = members.collect();
        self.field(table, "members", "members", &members);
        for index in 0..group.members.len() {
            let field = format!("{}.members[{index}].monitor", table.field);
            self.note(table, &field, &format!("members/{index}/monitor_id"));
        }
    }

    fn origin(&mut self, pool: &Table<'_>, index: usize, origin: &Origin) {
        let field = field_of(&format!("{}.origins", pool.field), &origin.name);
        let table = self.table(pool.entry, field, &format!("/origins/{index}"));
        let Ok(Value::Object(fields)) = serde_json::to_value(origin) else {
            return;
        };
        for (key, value) in differences::<Origin>(fields) {
            if !["name", "disabled_at"].contains(&key.as_str()) {
                self.field(&table, &key, &key, &value);
            }
        }
    }

    fn load_balancer(&mut self, table: &Table<'_>, entry: &Entry, body: &crate::cloudflare::LoadBalancer) {
        let mut fields = differences::<crate::cloudflare::LoadBalancer>(entry.body.to_json());
        fields.retain(|(key, _)| !["name", "networks"].contains(&key.as_str()));
        // An empty list is a mistake, not a default.
        if body.default_pools.is_empty() {
            fields.push(("default_pools".to_owned(), Value::Array(Vec::new())));
        }
        for (key, mut value) in fields {
            self.pools(table, &field_of(&table.field, &key), &key, &key, &mut value);
            self.field(table, &key, &key, &value);
        }
    }

    /// Puts names in the place of ids of pools, as far as `value` of the field `key` has some.
    fn pools(&mut self, table: &Table<'_>, field: &str, pointer: &str, key: &str, value: &mut Value) {
        match (key, value) {
            ("default_pools" | "pools", Value::Array(ids)) => {
                for id in ids {
                    self.pool(id);
                }
            }
            ("fallback_pool", id) => self.pool(id),
            ("region_pools" | "country_pools" | "pop_pools", Value::Object(lists)) => {
                for list in lists.values_mut().filter_map(Value::as_array_mut).flatten() {
                    self.pool(list);
                }
            }
            ("pool_weights", Value::Object(weights)) => {
                let mut named = Map::new();
                for (id, weight) in std::mem::take(weights) {
                    let name = self.name_of(Kind::Pool, &id);
                    self.note(table, &field_of(field, &name), &format!("{pointer}/{id}"));
                    named.insert(name, weight);
                }
                *weights = named;
            }
            ("random_steering" | "overrides", Value::Object(fields)) => {
                for (key, value) in fields {
                    let (field, pointer) = (field_of(field, key), format!("{pointer}/{key}"));
                    self.pools(table, &field, &pointer, key, value);
                }
            }
            ("pool_sets", Value::Array(sets)) => {
                for (index, set) in sets.iter_mut().enumerate() {
                    if let Some(overrides) = set.get_mut("overrides") {
                        let field = format!("{field}[{index}].overrides");
                        let pointer = format!("{pointer}/{index}/overrides");
                        self.pools(table, &field, &pointer, "overrides", overrides);
                    }
                }
            }
            _ => {}
        }
    }

    fn pool(&self, id: &mut Value) {
        if let Some(text) = id.as_str() {
            *id = Value::String(self.name_of(Kind::Pool, text));
        }
    }

    fn application(&mut self, table: &Table<'_>, application: &Application) {
        let text = |text: &str| Value::String(text.to_owned());
        self.field(
            table,
            "protocol",
            "protocol",
            &text(&application.transport_and_ports()),
        );
        self.addresses(table, &application.edge_ips);
        if let Some(origins) = &application.origin_direct {
            let origins: Value = origins.iter().map(|origin| text(origin)).collect();
            self.field(table, "origin_direct", "origin_direct", &origins);
        }
        if let Some(dns) = &application.origin_dns {
            let balancer = self.catalog.named(Kind::LoadBalancer, &dns.name);
            if balancer.is_some() || !dns.host_name {
                self.field(table, "load_balancer", "origin_dns/name", &text(&dns.name));
            } else {
                let dns = serde_json::json!({"name": dns.name, "type": dns.r#type, "ttl": dns.ttl});
                self.field(table, "origin_dns", "origin_dns", &dns);
                for key in ["name", "type", "ttl"] {
                    self.note(
                        table,
                        &format!("{}.origin_dns.{key}", table.field),
                        &format!("origin_dns/{key}"),
                    );
                }
            }
        }
        // Direct origins have their own.
        if let (Some(port), None) = (&application.origin_port, &application.origin_direct)
            && let Ok(port) = serde_json::to_value(port)
        {
            self.field(table, "origin_port", "origin_port", &port);
        }
        let Ok(Value::Object(fields)) = serde_json::to_value(application) else {
            return;
        };
        let special = [
            "protocol",
            "dns",
            "edge_ips",
            "origin_direct",
            "origin_dns",
            "origin_port",
        ];
        for (key, value) in differences::<Application>(fields) {
            // With an access list of its own it is more than a word.
            let said = key == "ip_firewall" && application.access.is_some();
            if !said && !special.contains(&key.as_str()) {
                self.field(table, &key, &key, &value);
            }
        }
    }

    fn addresses(&mut self, table: &Table<'_>, edge: &EdgeIps) {
        if edge.r#type == "static" {
            let addresses: Value = edge.ips.iter().flatten().cloned().map(Value::String).collect();
            return self.field(table, "addresses", "edge_ips/ips", &addresses);
        }
        let wanted = |address: &&IpAddr| match edge.connectivity.as_deref() {
            Some("ipv4") => address.is_ipv4(),
            Some("ipv6") => address.is_ipv6(),
            Some(_) | None => true,
        };
        let addresses = self.edge_ips.iter().filter(wanted);
        let addresses: Value = addresses
            .map(|address| Value::String(address.to_string()))
            .collect();
        self.field(table, "addresses", "edge_ips", &addresses);
        for index in 0..self.edge_ips.len() {
            self.note(table, &format!("{}.addresses[{index}]", table.field), "edge_ips");
        }
    }
}

/// The fields that do not have their default.
fn differences<T: Default + serde::Serialize>(fields: Map<String, Value>) -> Vec<(String, Value)> {
    let defaults = serde_json::to_value(T::default()).unwrap_or_default();
    let is_default = |key: &String, value: &Value| value.is_null() || defaults.get(key) == Some(value);
    fields
        .into_iter()
        .filter(|(key, value)| !is_default(key, value))
        .collect()
}

/// A value in TOML, on one line.
fn toml(value: &Value) -> String {
    match value {
        // TOML has no null: nobody asks for a field that has none.
        Value::Null => "\"\"".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<String> = fields
                .map(|(key, value)| format!("{} = {}", quoted(key), toml(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
    }
}

/// A basic string: always on one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
