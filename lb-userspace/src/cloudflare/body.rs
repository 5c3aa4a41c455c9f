//! From the body of a request to an object: defaults filled, and every mistake of shape named.

use super::{Failure, Reason};
use crate::config::{Kind, suggestion};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

/// An object of the API, as it is stored.
pub trait Object: Clone + PartialEq + Default + Serialize + DeserializeOwned {
    const KIND: Kind;
    /// Fields that a new object, or one that replaces another, must have.
    const REQUIRED: &'static [&'static str] = &[];
    /// Further fields that answers have and that clients send back: they are ignored. So are `id`, `created_on` and
    /// `modified_on`.
    const READ_ONLY: &'static [&'static str] = &[];

    /// Fills defaults that depend on other fields.
    fn complete(&mut self) {}

    /// Removes what clients send back from deeper in a body.
    fn tidy(_body: &mut Value) {}
}

/// Puts the fields of `changes` in the place of those of `body`; `null` is kept, and means the default.
pub fn merge(body: &mut Map<String, Value>, changes: Map<String, Value>) {
    for (key, value) in changes {
        body.insert(key, value);
    }
}

/// Reads a body. Fields that are missing or null get their defaults.
///
/// # Errors
/// Every required field that is missing, the first value of a wrong type, every unknown field.
pub fn read<T: Object>(mut body: Map<String, Value>) -> Result<T, Failure> {
    body.retain(|key, value| {
        let ignored = ["id", "created_on", "modified_on"].iter().chain(T::READ_ONLY);
        let mut ignored = ignored.copied();
        !value.is_null() && !ignored.any(|ignored| ignored == key)
    });
    let mut problems = Vec::new();
    for required in T::REQUIRED {
        if !body.contains_key(*required) {
            problems.push(Reason::field(
                T::KIND,
                &format!("/{required}"),
                format!("{required}: is missing: a {} needs it", T::KIND.noun()),
            ));
        }
    }
    let mut body = Value::Object(body);
    without_nulls(&mut body);
    T::tidy(&mut body);
    let mut unknown = Vec::new();
    let read: Result<T, _> = {
        let mut ignore = |path: serde_ignored::Path<'_>| unknown.push(segments(&path));
        let deserializer = serde_ignored::Deserializer::new(&body, &mut ignore);
        serde_path_to_error::deserialize(deserializer)
    };
    let mut object = match read {
        Ok(object) => object,
        Err(error) => {
            let (pointer, field) = (pointer(error.path()), error.path().to_string());
            let message = format!("{field}: {}", plain(&error.inner().to_string()));
            problems.push(Reason::field(T::KIND, &pointer, message));
            return Err(Failure::invalid(problems));
        }
    };
    for field in unknown {
        problems.push(unknown_field::<T>(&field));
    }
    if !problems.is_empty() {
        return Err(Failure::invalid(problems));
    }
    object.complete();
    Ok(object)
}

fn unknown_field<T: Object>(segments: &[String]) -> Reason {
    let known = serde_json::to_value(T::default()).unwrap_or_default();
    let known = known.as_object().into_iter().flat_map(Map::keys);
    let name = segments.last().map_or("", String::as_str);
    let help =
        suggestion(name, known.map(String::as_str)).map_or_else(String::new, |help| format!(" ({help})"));
    let field = segments.join(".");
    let pointer: String = segments
        .iter()
        .map(|segment| format!("/{}", escaped(segment)))
        .collect();
    Reason {
        code: match T::KIND {
            Kind::Application => 10012,
            _ => 1002,
        },
        ..Reason::field(T::KIND, &pointer, format!("{field}: unknown field{help}"))
    }
}

/// Removes nulls at any depth: each means the default.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where a field stands that nobody reads.
fn segments(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    let (parent, segment) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(index.to_string())),
        Path::Map { parent, key } => (parent, Some(key.clone())),
        // Types of ours, of which JSON shows nothing.
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            (parent, None)
        }
    };
    let mut found = segments(parent);
    found.extend(segment);
    found
}

/// A part of a pointer, RFC 6901 section 3.
fn escaped(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// RFC 6901.
fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escaped(key)),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// serde's words without the names of Rust's types.
fn plain(message: &str) -> String {
    let mut text = message
        .replace("invalid type: ", "")
        .replace("invalid value: ", "");
    for (theirs, ours) in [
        (
            "data did not match any variant of untagged enum OriginPort",
            "expected a port or a range such as \"3000-4000\"",
        ),
        ("expected f64", "expected a number"),
        ("expected i64", "expected a whole number"),
        ("floating point `", "the number `"),
        ("integer `", "the number `"),
        ("expected a sequence", "expected a list"),
        ("sequence, ", "a list, "),
        ("map, ", "an object, "),
        ("expected a map", "expected an object"),
        ("boolean `", "`"),
    ] {
        text = text.replace(theirs, ours);
    }
    // `expected struct Origin` and the like.
    if let Some((found, _)) = text.split_once("expected struct ") {
        text = format!("{found}expected an object");
    }
    match text.split_once(", expected ") {
        Some((found, expected)) => format!("expected {expected}, found {found}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Application, LoadBalancer, Monitor, Pool};
    use super::*;
    use serde_json::json;

    fn body(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn refused<T: Object>(value: Value) -> Vec<(u16, String, Option<String>)> {
        let Err(failure) = read::<T>(body(value)) else {
            panic!("accepted")
        };
        let reasons = failure.reasons.into_iter();
        reasons
            .map(|reason| (reason.code, reason.message, reason.pointer))
            .collect()
    }

    #[test]
    fn defaults_are_filled_and_what_clients_send_back_is_ignored() {
        let monitor: Monitor = read(body(
            json!({"id": "x", "created_on": "y", "port": null, "description": "d"}),
        ))
        .unwrap();
        assert_eq!(
            (
                monitor.method.as_str(),
                monitor.path.as_str(),
                monitor.expected_codes.as_str(),
                monitor.port
            ),
            ("GET", "/", "200", 0)
        );
        // What is answered can be sent again.
        let again: Monitor = read(body(serde_json::to_value(&monitor).unwrap())).unwrap();
        assert_eq!(again, monitor);
        let pool: Pool = read(body(json!({
            "name": "p",
            "origins": [{"name": "a", "address": "10.0.0.1", "disabled_at": "t", "header": {"Host": ["h"]}, "weight": 1}],
            "load_shedding": null,
            "healthy": true,
        })))
        .unwrap();
        assert_eq!(pool.minimum_origins, 1);
        assert_eq!(pool.origins[0].disabled_at, None);
        let text = serde_json::to_string(&pool).unwrap();
        assert!(
            text.contains(r#""weight":1}"#) && text.contains(r#""monitor":"""#),
            "{text}"
        );
    }

    #[test]
    fn mistakes_of_shape_are_named() {
        let field = |code, message: &str, pointer: &str| (code, message.to_owned(), Some(pointer.to_owned()));
        assert_eq!(
            refused::<Pool>(json!({"name": "p", "origins": [{"weight": "x"}]})),
            [field(
                1002,
                "origins[0].weight: expected a number, found string \"x\"",
                "/origins/0/weight"
            )]
        );
        assert_eq!(
            refused::<Pool>(json!({"name": 7, "origins": {}})),
            [field(
                1002,
                "name: expected a string, found the number `7`",
                "/name"
            )]
        );
        assert_eq!(
            refused::<LoadBalancer>(json!({"name": "x"})),
            [
                field(
                    1002,
                    "default_pools: is missing: a load balancer needs it",
                    "/default_pools"
                ),
                field(
                    1002,
                    "fallback_pool: is missing: a load balancer needs it",
                    "/fallback_pool"
                ),
            ]
        );
        assert_eq!(
            refused::<Monitor>(json!({"intreval": 5})),
            [field(
                1002,
                "intreval: unknown field (did you mean `interval`?)",
                "/intreval"
            )]
        );
        assert_eq!(
            refused::<Pool>(
                json!({"name": "p", "origins": [], "notification_filter": {"pool": {"healty": true, "a/b": 1}}})
            ),
            [
                field(
                    1002,
                    "notification_filter.pool.a/b: unknown field",
                    "/notification_filter/pool/a~1b"
                ),
                field(
                    1002,
                    "notification_filter.pool.healty: unknown field",
                    "/notification_filter/pool/healty"
                ),
            ]
        );
        assert_eq!(
            refused::<Application>(json!({"protocol": "tcp/1", "dns": {"name": "a"}, "colour": 1})),
            [field(10012, "colour: unknown field", "/colour")]
        );
        assert_eq!(
            refused::<Application>(json!({"protocol": "tcp/1", "dns": {"name": "a"}, "origin_port": [1]})),
            [field(
                11001,
                "origin_port: expected a port or a range such as \"3000-4000\"",
                "/origin_port"
            )]
        );
    }
}
