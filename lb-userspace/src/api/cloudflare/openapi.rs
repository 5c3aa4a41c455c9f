//! `/openapi.json`: what there is under `/client/v4`, with the shapes from the types that are read and written.

use super::PREFIX;
use crate::cloudflare as shapes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(
    shapes::Monitor,
    shapes::MonitorGroup,
    shapes::Member,
    shapes::Pool,
    shapes::LoadShedding,
    shapes::NotificationFilter,
    shapes::FilterOptions,
    shapes::OriginSteering,
    shapes::Origin,
    shapes::OriginHeader,
    shapes::LoadBalancer,
    shapes::AdaptiveRouting,
    shapes::LocationStrategy,
    shapes::RandomSteering,
    shapes::SessionAffinityAttributes,
    shapes::PoolSet,
    shapes::Match,
    shapes::Topology,
    shapes::Overrides,
    shapes::Application,
    shapes::Dns,
    shapes::EdgeIps,
    shapes::OriginDns,
    shapes::OriginPort,
    shapes::Protocol,
    shapes::PoolHealth,
    shapes::PopHealth,
    shapes::OriginHealth,
    shapes::PreviewStarted,
    shapes::PreviewedPool,
    shapes::Reference,
    shapes::Resources,
    shapes::Resource,
    shapes::Usage,
    shapes::CurrentTraffic,
    shapes::Analytics,
    shapes::AnalyticsRow,
    shapes::AnalyticsMetrics,
    shapes::AnalyticsQuery,
    shapes::Regions,
    shapes::Region,
    shapes::Country,
    shapes::Subdivision,
    shapes::Message,
    shapes::Source,
    shapes::ResultInfo,
)))]
struct Shapes;

/// The document.
pub(in super::super) fn document() -> Value {
    let mut paths = Map::new();
    for (base, shape) in [
        ("/accounts/{account}/load_balancers/monitors", "Monitor"),
        (
            "/accounts/{account}/load_balancers/monitor_groups",
            "MonitorGroup",
        ),
        ("/accounts/{account}/load_balancers/pools", "Pool"),
        ("/accounts/{account}/load_balancers", "LoadBalancer"),
        ("/zones/{zone}/load_balancers", "LoadBalancer"),
        ("/zones/{zone}/spectrum/apps", "Application"),
    ] {
        objects(&mut paths, base, shape);
    }
    let load_balancers = "/accounts/{account}/load_balancers";
    for (path, summary, query, result) in [
        (
            "/pools/{id}/health",
            "Health of a pool",
            &[][..],
            shape("PoolHealth"),
        ),
        (
            "/preview/{id}",
            "What a preview has found",
            &[],
            json!({"type": "object", "additionalProperties": shape("PreviewedPool")}),
        ),
        (
            "/search",
            "Objects by name",
            &["query", "references", "page", "per_page"],
            shape("Resources"),
        ),
        ("/usage", "How many objects there are", &[], shape("Usage")),
        (
            "/regions",
            "Regions and their countries",
            &["country_code_a2", "subdivision_code_a2"],
            shape("Regions"),
        ),
        ("/regions/{region}", "One region", &[], shape("Regions")),
    ] {
        let path = format!("{PREFIX}{load_balancers}{path}");
        let operation = operation(&path, summary, query, None, result);
        paths.insert(path, json!({"get": operation}));
    }
    for kind in ["pools", "monitors"] {
        let path = format!("{PREFIX}{load_balancers}/{kind}/{{id}}/preview");
        let body = Some("Monitor");
        let operation = operation(
            &path,
            "Run a monitor, without effect",
            &[],
            body,
            shape("PreviewStarted"),
        );
        paths.insert(path, json!({"post": operation}));
    }
    let path = format!("{PREFIX}/zones/{{zone}}/spectrum/protocols");
    let protocols = operation(&path, "Names of protocols", &[], None, list("Protocol"));
    paths.insert(path, json!({"get": protocols}));

    let asked = [
        "dimensions",
        "metrics",
        "filters",
        "sort",
        "since",
        "until",
        "limit",
        "time_delta",
    ];
    let (summary, by_time) = (&asked[..7], &asked[..]);
    for (path, words, query, result) in [
        (
            "aggregate/current",
            "What applications do now",
            &["appID", "colo_name"][..],
            list("CurrentTraffic"),
        ),
        (
            "events/summary",
            "Events of connections",
            summary,
            shape("Analytics"),
        ),
        (
            "events/bytime",
            "Events of connections by time",
            by_time,
            shape("Analytics"),
        ),
    ] {
        let path = format!("{PREFIX}/zones/{{zone}}/spectrum/analytics/{path}");
        let operation = operation(&path, words, query, None, result);
        paths.insert(path, json!({"get": operation}));
    }

    let generated = serde_json::to_value(Shapes::openapi()).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lb: Cloudflare's API for load balancing and Spectrum",
            "description": "Shapes, error codes and semantics are Cloudflare's. Any account or zone id of 32 hexadecimal \
                            digits means this node.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{"token": []}, {"email": [], "key": []}],
        "paths": paths,
        "components": {
            "schemas": generated["components"]["schemas"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "email": {"type": "apiKey", "in": "header", "name": "X-Auth-Email"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Auth-Key"},
            },
        },
    })
}

fn shape(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(name: &str) -> Value {
    json!({"type": "array", "items": shape(name)})
}

/// An object as it is answered.
fn identified(name: &str) -> Value {
    let text = json!({"type": "string"});
    let more = json!({
        "type": "object",
        "properties": {"id": text, "created_on": text, "modified_on": text},
        "required": ["id", "created_on", "modified_on"],
    });
    json!({"allOf": [more, shape(name)]})
}

fn objects(paths: &mut Map<String, Value>, base: &str, name: &str) {
    let all = format!("{PREFIX}{base}");
    let one = format!("{all}/{{id}}");
    let query: &[&str] = match name {
        "Application" => &["page", "per_page", "order", "direction"],
        "Pool" => &["monitor", "page", "per_page"],
        _ => &["page", "per_page"],
    };
    let many = json!({"type": "array", "items": identified(name)});
    let gone = json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
    let references = format!("{one}/references");
    paths.insert(
        all.clone(),
        json!({
            "get": operation(&all, "List", query, None, many),
            "post": operation(&all, "Create", &[], Some(name), identified(name)),
        }),
    );
    paths.insert(
        one.clone(),
        json!({
            "get": operation(&one, "Read", &[], None, identified(name)),
            "put": operation(&one, "Replace: what is not given gets its default", &[], Some(name), identified(name)),
            "patch": operation(&one, "Change: what is not given stays, null resets", &[], Some(name), identified(name)),
            "delete": operation(&one, "Delete", &[], None, gone),
        }),
    );
    paths.insert(
        references.clone(),
        json!({"get": operation(&references, "Who refers to it, and to whom it refers", &[], None, list("Reference"))}),
    );
}

fn operation(path: &str, summary: &str, query: &[&str], body: Option<&str>, result: Value) -> Value {
    let in_path = path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = query
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}));
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
    let messages = list("Message");
    let envelope = |success: bool, result: Value| {
        json!({
            "type": "object",
            "properties": {
                "success": {"const": success},
                "errors": messages,
                "messages": messages,
                "result": result,
                "result_info": shape("ResultInfo"),
            },
            "required": ["success", "errors", "messages", "result"],
        })
    };
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": json_of(envelope(true, result))},
            "4XX": {"description": "Refused", "content": json_of(envelope(false, json!({"type": "null"})))},
        },
    });
    if let Some(name) = body {
        operation["requestBody"] = json!({"required": true, "content": json_of(shape(name))});
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value.as_str() {
                        Some(text) if key == "$ref" => drop(found.insert(text)),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_shape_that_is_named_is_there() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 30, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let pool = &document["components"]["schemas"]["Pool"]["properties"];
        assert!(
            pool["origins"].is_object() && pool["drain_timeout"].is_object(),
            "{pool}"
        );
        let one = "/client/v4/accounts/{account}/load_balancers/pools/{id}";
        let methods: Vec<&String> = document["paths"][one].as_object().unwrap().keys().collect();
        assert_eq!(methods.len(), 4, "{methods:?}");
    }
}
