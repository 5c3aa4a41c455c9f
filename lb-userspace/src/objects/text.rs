//! One object as text in the file's vocabulary: read, changed, and the place of every mistake in it.

use super::catalog::Catalog;
use super::entry::{Body, Entry};
use super::file::translated;
use super::render::toml;
use crate::cloudflare::{Failure, Reason};
use crate::config::{Declaration, Kind, Source, declarations, field_of};
use crate::objects::Declare;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::fmt::Write;
use toml::de::{DeTable, DeValue};

/// Something that is wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Line and column, counted from 1; `None`: the text as a whole is meant.
    pub place: Option<(usize, usize)>,
    pub message: String,
}

/// Reads a text that declares one object of that kind and nothing else.
///
/// # Errors
/// Everything that is wrong with its form.
pub fn parse(kind: Kind, text: &str) -> Result<Declaration, Vec<Mistake>> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let at = |at: usize, message: String| Mistake {
        place: Some(position(text, at)),
        message,
    };
    let mut mistakes: Vec<Mistake> = syntax
        .iter()
        .map(|error| {
            at(
                error.span().map_or(0, |span| span.start),
                format!("not valid TOML: {}", error.message()),
            )
        })
        .collect();
    // After a first mistake the rest of its line is noise.
    mistakes.dedup_by_key(|mistake| mistake.place.map(|(line, _)| line));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let table = kind.table();
    for (key, value) in document.get_ref() {
        if key.get_ref() != table {
            let message = format!(
                "`{}` is not part of a {}: it begins with [{table}.NAME]",
                key.get_ref(),
                kind.noun()
            );
            mistakes.push(at(key.span().start, message));
        } else if value.get_ref().as_table().is_none() {
            mistakes.push(at(key.span().start, format!("expected a table [{table}.NAME]")));
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut declared = declarations(&Source::new("", text));
    match (declared.pop(), declared.last()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(vec![Mistake {
            place: None,
            message: format!("there is no {}: it begins with [{table}.NAME]", kind.noun()),
        }]),
        (Some(second), Some(_)) => Err(vec![Mistake {
            place: Some((second.line, 1)),
            message: format!("`{}` is one too many: one {} at a time", second.name, kind.noun()),
        }]),
    }
}

/// The text of an object.
#[must_use]
pub fn write(object: &Declaration) -> String {
    let mut text = String::new();
    let field = field_of(object.kind.table(), &object.name);
    let mut table = |field: &str, fields: &Map<String, Value>| {
        // Writing to a text does not fail.
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{field}]");
        for (key, value) in fields {
            let _ = writeln!(text, "{} = {}", field_of("", key), toml(value));
        }
    };
    table(&field, &object.fields);
    for origin in &object.origins {
        let mut fields = origin.clone();
        let name = fields.remove("name");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        table(&field_of(&format!("{field}.origins"), name), &fields);
    }
    text
}

/// Sets fields of an object, each given as `FIELD=VALUE`, such as `minimum_origins=2` or `origins.a.weight=0.5`. A value that
/// is not TOML is text; without one the field goes.
///
/// # Errors
/// Which one is not of that form.
pub fn set(object: &mut Declaration, assignments: &[String]) -> Result<(), String> {
    for assignment in assignments {
        let (field, value) = assignment
            .split_once('=')
            .map(|(field, value)| (field.trim(), value.trim()))
            .filter(|(field, _)| !field.is_empty())
            .ok_or_else(|| {
                format!("`{assignment}` is not of the form FIELD=VALUE, such as minimum_origins=2")
            })?;
        let read = |value: &str| toml::from_str::<Value>(&format!("{field} = {value}")).ok();
        let quoted = || read(&toml(&Value::String(value.to_owned())));
        let given = if value.is_empty() {
            quoted()
        } else {
            read(value).or_else(quoted)
        };
        let Some(Value::Object(given)) = given else {
            return Err(format!(
                "`{field}` is not the name of a field, such as origins.a.weight"
            ));
        };
        let given = if value.is_empty() {
            emptied(Value::Object(given))
        } else {
            Value::Object(given)
        };
        let Value::Object(mut given) = given else { continue };
        if object.kind == Kind::Pool
            && let Some(Value::Object(origins)) = given.remove("origins")
        {
            for (name, fields) in origins {
                set_origin(&mut object.origins, &name, fields);
            }
        }
        merge(&mut object.fields, given);
    }
    Ok(())
}

/// `null` at the end of the path.
fn emptied(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, emptied(value)))
            .collect(),
        _ => Value::Null,
    }
}

fn set_origin(origins: &mut Vec<Map<String, Value>>, name: &str, fields: Value) {
    let at = origins
        .iter()
        .position(|origin| origin.get("name").and_then(Value::as_str) == Some(name));
    match (at, fields) {
        (Some(at), Value::Object(fields)) => merge(&mut origins[at], fields),
        (None, Value::Object(mut fields)) => {
            fields.retain(|_, value| !value.is_null());
            fields.insert("name".to_owned(), json!(name));
            origins.push(fields);
        }
        (Some(at), _) => drop(origins.remove(at)),
        (None, _) => {}
    }
}

/// Puts values in the place of others, in depth; null removes.
fn merge(fields: &mut Map<String, Value>, given: Map<String, Value>) {
    for (key, value) in given {
        match (fields.get_mut(&key), value) {
            (_, Value::Null) => drop(fields.remove(&key)),
            (Some(Value::Object(inner)), Value::Object(value)) => merge(inner, value),
            (_, value) => drop(fields.insert(key, value)),
        }
    }
}

/// The body of what a text declares.
///
/// # Errors
/// It is at odds with what it replaces, or a name in it means several objects.
pub(super) fn declared(
    catalog: &Catalog,
    declare: &Declare,
    former: Option<&Entry>,
) -> Result<Map<String, Value>, Failure> {
    let object = &declare.object;
    if let (Some(seen), Some(former)) = (declare.seen, former)
        && former.modified != seen
    {
        let (noun, title) = (object.kind.noun(), former.title());
        let message = format!("the {noun} `{title}` was changed by somebody else meanwhile");
        return Err(Failure {
            status: 409,
            reasons: vec![Reason {
                pointer: Some("/etag".to_owned()),
                ..Reason::new(1003, message)
            }],
        });
    }
    let ambiguous = RefCell::new(None);
    let id = |kind: Kind, name: &Value| {
        let Some(text) = name.as_str().filter(|text| !text.is_empty()) else {
            return name.clone();
        };
        match catalog.called(kind, text) {
            Ok(entry) => json!(entry.id),
            // Whoever is meant by nobody is told where it is looked for.
            Err(failure) if failure.status == 404 => name.clone(),
            Err(failure) => {
                *ambiguous.borrow_mut() = Some(failure);
                name.clone()
            }
        }
    };
    let mut fields = translated(object, &id);
    if let Some(failure) = ambiguous.into_inner() {
        return Err(failure);
    }
    match object.kind {
        Kind::Monitor | Kind::MonitorGroup => {
            if fields.contains_key("description") {
                let message =
                    "description: the name says it: an object of the API is known by its description";
                return Err(Failure::invalid(vec![Reason::field(
                    object.kind,
                    "/description",
                    message,
                )]));
            }
            if former.is_none_or(|former| former.name != object.name) {
                fields.insert("description".to_owned(), json!(object.name));
            }
        }
        Kind::Application => {
            if let Some(Body::Application(former_body)) = former.map(|former| &former.body) {
                let same = former.is_some_and(|former| former.name == object.name);
                if same && let Some(Value::Object(dns)) = fields.get_mut("dns") {
                    dns.insert("name".to_owned(), json!(former_body.dns.name));
                }
                let name = fields
                    .get("origin_dns")
                    .and_then(|dns| dns.get("name"))
                    .and_then(Value::as_str);
                if let Some(dns) = former_body
                    .origin_dns
                    .as_ref()
                    .filter(|dns| Some(dns.name.as_str()) == name)
                {
                    fields.insert("origin_dns".to_owned(), json!(dns));
                }
            }
        }
        Kind::Pool | Kind::LoadBalancer => {}
    }
    Ok(fields)
}

/// Where in its text the mistakes of an object are.
#[must_use]
pub fn places(text: &str, object: &Declaration, failure: &Failure) -> Vec<Mistake> {
    let (document, _) = DeTable::parse_recoverable(text);
    let reasons = failure.reasons.iter().map(|reason| {
        let path = path(object, reason.pointer.as_deref());
        Mistake {
            place: reason
                .pointer
                .as_ref()
                .map(|_| position(text, deepest(document.get_ref(), &path))),
            message: reason.message.clone(),
        }
    });
    reasons.collect()
}

/// From a JSON pointer to the keys in the file's vocabulary.
fn path(object: &Declaration, pointer: Option<&str>) -> Vec<String> {
    let segments: Vec<&str> = pointer.unwrap_or_default().split('/').skip(1).collect();
    let mut path = vec![object.kind.table().to_owned(), object.name.clone()];
    let rest: Vec<&str> = match (object.kind, segments.as_slice()) {
        (Kind::Pool, ["origins", index, rest @ ..]) => {
            let origin = index
                .parse()
                .ok()
                .and_then(|index: usize| object.origins.get(index));
            let name = origin
                .and_then(|origin| origin.get("name"))
                .and_then(Value::as_str);
            [&["origins"][..], name.as_slice(), rest].concat()
        }
        (Kind::Application, ["origin_dns", ..]) => vec!["load_balancer"],
        (Kind::Application, ["edge_ips", "ips", rest @ ..]) => [&["addresses"][..], rest].concat(),
        (Kind::Application, ["edge_ips", ..]) => vec!["addresses"],
        (Kind::MonitorGroup, ["members", index, "monitor_id"]) => vec!["members", index, "monitor"],
        (_, segments) => segments.to_vec(),
    };
    path.extend(rest.into_iter().map(str::to_owned));
    path
}

/// Where the last key of a path begins that is there.
fn deepest(table: &DeTable<'_>, path: &[String]) -> usize {
    let Some((first, rest)) = path.split_first() else {
        return 0;
    };
    let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == first.as_str()) else {
        return 0;
    };
    let mut at = key.span().start;
    let (mut value, mut rest) = (value.get_ref(), rest);
    while let Some((next, after)) = rest.split_first() {
        let found = match value {
            DeValue::Table(table) => table
                .iter()
                .find(|(key, _)| key.get_ref() == next.as_str())
                .map(|(key, value)| (key.span().start, value)),
            DeValue::Array(items) => {
                let item = next.parse().ok().and_then(|index: usize| items.get(index));
                item.map(|item| (item.span().start, item))
            }
            _ => None,
        };
        let Some((start, inner)) = found else { break };
        (at, value, rest) = (start, inner.get_ref(), after);
    }
    at
}

/// Line and column of a byte, counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at.min(text.len()))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
