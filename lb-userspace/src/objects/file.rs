//! The objects of the file in Cloudflare's shapes.

use super::entry::{Body, Entry, Id};
use super::overrides::{Overrides, Subject};
use crate::cloudflare::Number;
use crate::config::{Declaration, Document, Kind, Source, declarations};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the file declares.
#[derive(Clone, Debug, Default)]
pub struct FileObjects {
    /// What messages call the file.
    pub path: String,
    declared: Vec<Declaration>,
    index: HashMap<(Kind, String), usize>,
    /// Microseconds since 1970.
    modified: u64,
}

impl FileObjects {
    /// The objects of a valid file, which was changed last at `modified` (microseconds since 1970).
    #[must_use]
    pub fn new(file: &Source, modified: u64) -> Self {
        let declared = declarations(file);
        let key = |(index, object): (usize, &Declaration)| ((object.kind, object.name.clone()), index);
        Self {
            path: file.name().to_owned(),
            index: declared.iter().enumerate().map(key).collect(),
            declared,
            modified,
        }
    }

    fn find(&self, kind: Kind, name: &str) -> Option<&Declaration> {
        self.declared.get(*self.index.get(&(kind, name.to_owned()))?)
    }

    /// Where an object stands: the file and the line.
    #[must_use]
    pub fn place(&self, kind: Kind, name: &str) -> String {
        match self.line(kind, name) {
            Some(line) => format!("{}:{line}", self.path),
            None => self.path.clone(),
        }
    }

    /// The line of an object, counted from 1.
    #[must_use]
    pub fn line(&self, kind: Kind, name: &str) -> Option<usize> {
        self.find(kind, name).map(|object| object.line)
    }

    /// Whether the file has something.
    pub(super) fn declares(&self, subject: &Subject) -> bool {
        self.fields(subject).is_some()
    }

    /// `enabled` and `weight` as the file has them.
    pub(super) fn declared_values(&self, subject: &Subject) -> (bool, Number) {
        let fields = self.fields(subject);
        let value = |key: &str| fields.and_then(|fields| fields.get(key));
        (
            value("enabled").and_then(Value::as_bool).unwrap_or(true),
            Number(value("weight").and_then(Value::as_f64).unwrap_or(1.0)),
        )
    }

    fn fields(&self, subject: &Subject) -> Option<&Map<String, Value>> {
        match subject {
            Subject::Object(kind, name) => self.find(*kind, name).map(|object| &object.fields),
            Subject::Origin { pool, origin } => {
                let mut origins = self.find(Kind::Pool, pool)?.origins.iter();
                origins.find(|fields| fields.get("name").and_then(Value::as_str) == Some(origin))
            }
        }
    }

    /// The objects, as they are in force.
    pub(super) fn entries(&self, overrides: &Overrides) -> Vec<Arc<Entry>> {
        // A valid file refers to nobody else.
        let id = |kind, name: &Value| json!(Id::of_file(kind, name.as_str().unwrap_or_default()));
        let declared = self.declared.iter();
        declared
            .filter_map(|object| {
                let body = Value::Object(translated(object, &id));
                let mut entry = Entry {
                    id: Id::of_file(object.kind, &object.name),
                    document: Document::File,
                    name: object.name.clone(),
                    created: self.modified,
                    modified: self.modified,
                    first_names: BTreeMap::new(),
                    body: Body::from_json(object.kind, body).ok()?.completed(),
                };
                overrides.show(&mut entry);
                Some(Arc::new(entry))
            })
            .collect()
    }
}

/// An object's fields in Cloudflare's vocabulary.
pub(super) fn translated(object: &Declaration, id: &impl Fn(Kind, &Value) -> Value) -> Map<String, Value> {
    let mut fields = object.fields.clone();
    let refer = |fields: &mut Map<String, Value>, key: &str, kind: Kind| {
        if let Some(value) = fields.get_mut(key) {
            *value = id(kind, value);
        }
    };
    match object.kind {
        Kind::Monitor => {}
        Kind::MonitorGroup => {
            let members = fields.get_mut("members").and_then(Value::as_array_mut);
            for member in members.into_iter().flatten().filter_map(Value::as_object_mut) {
                if let Some(monitor) = member.remove("monitor") {
                    member.insert("monitor_id".to_owned(), id(Kind::Monitor, &monitor));
                }
            }
        }
        Kind::Pool => {
            refer(&mut fields, "monitor", Kind::Monitor);
            refer(&mut fields, "monitor_group", Kind::MonitorGroup);
            fields.insert("name".to_owned(), json!(object.name));
            fields.insert("origins".to_owned(), json!(object.origins));
        }
        Kind::LoadBalancer => {
            fields.insert("name".to_owned(), json!(object.name));
            pools(&mut fields, id);
        }
        Kind::Application => application(&mut fields, &object.name),
    }
    // What the reader takes for nothing is left to the defaults.
    fields.retain(|_, value| !value.is_null());
    fields
}

/// Ids in the place of pools' names.
fn pools(fields: &mut Map<String, Value>, id: &impl Fn(Kind, &Value) -> Value) {
    let one = |value: &mut Value| *value = id(Kind::Pool, value);
    let list = |value: &mut Value| value.as_array_mut().into_iter().flatten().for_each(one);
    let keys = |value: &mut Value| {
        if let Value::Object(weights) = value {
            *weights = std::mem::take(weights)
                .into_iter()
                .filter_map(|(name, weight)| {
                    let id = id(Kind::Pool, &Value::String(name));
                    Some((id.as_str()?.to_owned(), weight))
                })
                .collect();
        }
    };
    for (key, value) in fields.iter_mut() {
        match key.as_str() {
            "default_pools" => list(value),
            "fallback_pool" => one(value),
            "region_pools" | "country_pools" | "pop_pools" => {
                let lists = value.as_object_mut();
                lists.into_iter().flatten().for_each(|(_, value)| list(value));
            }
            "random_steering" => value.get_mut("pool_weights").into_iter().for_each(keys),
            "pool_sets" => {
                for set in value.as_array_mut().into_iter().flatten() {
                    let overrides = set.get_mut("overrides").and_then(Value::as_object_mut);
                    for (key, value) in overrides.into_iter().flatten() {
                        match key.as_str() {
                            "pools" => list(value),
                            "fallback_pool" => one(value),
                            "pool_weights" => keys(value),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

fn application(fields: &mut Map<String, Value>, name: &str) {
    if let Some(dns) = fields.get_mut("origin_dns").and_then(Value::as_object_mut) {
        dns.insert("host_name".to_owned(), json!(true));
    }
    match fields.remove("addresses") {
        Some(addresses) => {
            fields.insert("dns".to_owned(), json!({"name": name, "type": "ADDRESS"}));
            fields.insert("edge_ips".to_owned(), json!({"type": "static", "ips": addresses}));
        }
        // Only in objects of the API: those of the node.
        None => drop(fields.insert("dns".to_owned(), json!({"name": name}))),
    }
    if let Some(balancer) = fields.remove("load_balancer") {
        fields.insert("origin_dns".to_owned(), json!({"name": balancer}));
    }
    if fields.contains_key("access") {
        fields.insert("ip_firewall".to_owned(), json!(true));
    }
}
