//! The objects of a document as they are written, for those who show them in another vocabulary.

use super::Source;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// Kinds of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    Monitor,
    MonitorGroup,
    Pool,
    LoadBalancer,
    Application,
}

impl Kind {
    /// In the order in which they refer to each other.
    pub const ALL: [Self; 5] = [
        Self::Monitor,
        Self::MonitorGroup,
        Self::Pool,
        Self::LoadBalancer,
        Self::Application,
    ];

    /// The table of the file that holds them.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Monitor => "monitors",
            Self::MonitorGroup => "monitor_groups",
            Self::Pool => "pools",
            Self::LoadBalancer => "load_balancers",
            Self::Application => "applications",
        }
    }

    /// What messages call one of them.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::MonitorGroup => "monitor group",
            Self::Pool => "pool",
            Self::LoadBalancer => "load balancer",
            Self::Application => "application",
        }
    }
}

/// One object, as it is written.
#[derive(Clone, PartialEq, Debug)]
pub struct Declaration {
    pub kind: Kind,
    pub name: String,
    /// Where it begins, counted from 1.
    pub line: usize,
    pub fields: Map<String, Value>,
    /// Of a pool: its origins in the order of the document, each with its `name`, instead of the table of that key.
    pub origins: Vec<Map<String, Value>>,
}

/// The objects of a valid document, each kind in the order of the document.
#[must_use]
pub fn declarations(source: &Source) -> Vec<Declaration> {
    let (document, _) = DeTable::parse_recoverable(source.text());
    let lines = Lines::of_text(source.text());
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let named = document.get_ref().get(kind.table());
        let named = named.and_then(|value| value.get_ref().as_table());
        for (name, at, value) in named.into_iter().flat_map(in_order) {
            let DeValue::Table(entries) = value else { continue };
            let mut fields = object(entries);
            let mut origins = Vec::new();
            if kind == Kind::Pool {
                fields.remove("origins");
                let named = entries.get("origins");
                let named = named.and_then(|value| value.get_ref().as_table());
                for (name, _, value) in named.into_iter().flat_map(in_order) {
                    let DeValue::Table(entries) = value else { continue };
                    let mut origin = object(entries);
                    origin.insert("name".to_owned(), Value::String(name.to_owned()));
                    origins.push(origin);
                }
            }
            found.push(Declaration {
                kind,
                name: name.to_owned(),
                line: lines.of(at),
                fields,
                origins,
            });
        }
    }
    found
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of_text(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(ends.map(|(at, _)| at + 1).collect())
    }

    /// The line of a byte, counted from 1.
    fn of(&self, at: usize) -> usize {
        self.0.partition_point(|begin| *begin <= at) + 1
    }
}

/// Keys, where they stand, and values.
fn in_order<'t>(table: &'t DeTable<'_>) -> Vec<(&'t str, usize, &'t DeValue<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| (key.get_ref().as_ref(), key.span().start, value.get_ref()))
        .collect()
}

fn object(table: &DeTable<'_>) -> Map<String, Value> {
    table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())))
        .collect()
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(digits) => {
            i64::from_str_radix(digits.as_str(), digits.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(entries) => Value::Object(object(entries)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_come_as_they_are_written() {
        let text = r#"
            [pools.z.origins.second]
            address = "10.0.0.2"
            [pools.z.origins.first]
            address = "10.0.0.1"
            weight = 0.5
            [pools.a]
            origins = {}
            minimum_origins = 0x2
            [monitors.m]
            header = { Host = ["x"] }
        "#;
        let found = declarations(&Source::new("lb.toml", text));
        let names: Vec<_> = found
            .iter()
            .map(|found| (found.kind, found.name.as_str()))
            .collect();
        assert_eq!(
            names,
            [(Kind::Monitor, "m"), (Kind::Pool, "z"), (Kind::Pool, "a")]
        );
        let lines: Vec<usize> = found.iter().map(|found| found.line).collect();
        assert_eq!(lines, [10, 2, 7]);
        assert_eq!(
            Value::Object(found[0].fields.clone()),
            json!({"header": {"Host": ["x"]}})
        );
        assert_eq!(
            serde_json::to_value(&found[1].origins).ok(),
            Some(json!([
                {"name": "second", "address": "10.0.0.2"},
                {"name": "first", "address": "10.0.0.1", "weight": 0.5}
            ]))
        );
        assert_eq!(
            Value::Object(found[2].fields.clone()),
            json!({"minimum_origins": 2})
        );
    }
}
