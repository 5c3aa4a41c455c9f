//! The objects of the file in Cloudflare's shapes.

use super::entry::{Body, Entry, Id};
use crate::config::{Declaration, Document, Kind, Source, declarations};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What the file declares.
#[derive(Clone, Debug, Default)]
pub struct FileObjects {
    /// What messages call the file.
    pub path: String,
    declared: Vec<Declaration>,
    /// Microseconds since 1970.
    modified: u64,
}

impl FileObjects {
    /// The objects of a valid file, which was changed last at `modified` (microseconds since 1970).
    #[must_use]
    pub fn new(file: &Source, modified: u64) -> Self {
        Self {
            path: file.name().to_owned(),
            declared: declarations(file),
            modified,
        }
    }

    /// The objects.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        // A valid file refers to nobody else.
        let id = |kind, name: &Value| json!(Id::of_file(kind, name.as_str().unwrap_or_default()));
        let declared = self.declared.iter();
        declared
            .filter_map(|object| {
                let body = Value::Object(body(object, &id));
                Some(Arc::new(Entry {
                    id: Id::of_file(object.kind, &object.name),
                    document: Document::File,
                    name: object.name.clone(),
                    created: self.modified,
                    modified: self.modified,
                    body: Body::from_json(object.kind, body).ok()?,
                }))
            })
            .collect()
    }
}

/// An object's fields in Cloudflare's vocabulary.
fn body(object: &Declaration, id: &impl Fn(Kind, &Value) -> Value) -> Map<String, Value> {
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
    fields.insert("dns".to_owned(), json!({"name": name, "type": "ADDRESS"}));
    let addresses = fields.remove("addresses").unwrap_or_default();
    fields.insert("edge_ips".to_owned(), json!({"type": "static", "ips": addresses}));
    if let Some(dns) = fields.get_mut("origin_dns").and_then(Value::as_object_mut) {
        dns.insert("host_name".to_owned(), json!(true));
    }
    if let Some(balancer) = fields.remove("load_balancer") {
        fields.insert("origin_dns".to_owned(), json!({"name": balancer}));
    }
    if fields.contains_key("access") {
        fields.insert("ip_firewall".to_owned(), json!(true));
    }
}
