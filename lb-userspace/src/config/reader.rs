//! A typed reader over TOML that never stops at the first mistake.
//!
//! Every question ("the string under `monitor`") either answers with a value or reports what is wrong and answers
//! `None`, so the caller just goes on. A table remembers what it was asked for: what is left over at the end is
//! unknown, and the closest question is what the user probably meant.

use super::diagnostic::{Diagnostic, Document, Severity, Source};
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// Where something stands: the field's path for people, and the bytes of the document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub document: Document,
    pub field: String,
    pub span: Range<usize>,
}

impl Place {
    /// What tells it from all others.
    pub fn key(&self) -> (Document, usize) {
        (self.document, self.span.start)
    }
}

/// A value with its place, for checks that follow when the whole file is known.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub value: T,
    pub place: Place,
}

/// Collects what is reported.
pub(super) struct Sink {
    file: Arc<Source>,
    objects: Option<Arc<Source>>,
    reported: RefCell<Vec<Diagnostic>>,
}

impl Sink {
    pub fn new(file: &Arc<Source>, objects: Option<&Arc<Source>>) -> Self {
        Self {
            file: Arc::clone(file),
            objects: objects.cloned(),
            reported: RefCell::default(),
        }
    }

    /// The text of a document.
    pub fn source(&self, document: Document) -> &Arc<Source> {
        match (document, &self.objects) {
            (Document::Objects, Some(objects)) => objects,
            (Document::Objects, None) | (Document::File, _) => &self.file,
        }
    }

    /// File and line of a place, for messages about another one.
    pub fn line_of(&self, place: &Place) -> String {
        let source = self.source(place.document);
        format!("{}:{}", source.name(), source.position(place.span.start).0)
    }

    pub fn error(&self, place: &Place, message: impl Display, help: impl Into<Option<String>>) {
        self.report(Severity::Error, place, message.to_string(), help.into());
    }

    pub fn warning(&self, place: &Place, message: impl Display, help: impl Into<Option<String>>) {
        self.report(Severity::Warning, place, message.to_string(), help.into());
    }

    /// An error in another file, which is named at `place`.
    pub fn error_in(&self, source: &Arc<Source>, span: Range<usize>, place: &Place, message: impl Display) {
        let mut diagnostic = Diagnostic::new(Severity::Error, source, place, span);
        diagnostic.message = message.to_string();
        self.reported
            .borrow_mut()
            .push(diagnostic.told_at(place.span.start));
    }

    fn report(&self, severity: Severity, place: &Place, message: String, help: Option<String>) {
        let source = self.source(place.document);
        let mut diagnostic = Diagnostic::new(severity, source, place, place.span.clone());
        diagnostic.message = message;
        diagnostic.help = help;
        self.reported.borrow_mut().push(diagnostic);
    }

    /// Errors and warnings, each in the order of the documents.
    pub fn into_parts(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let mut reported = self.reported.into_inner();
        reported.sort_by_key(Diagnostic::sort_key);
        reported
            .into_iter()
            .partition(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// A table of the file.
pub(super) struct Table<'a> {
    /// For the whole file an empty range at its start; else the table's key.
    pub place: Place,
    pub sink: &'a Sink,
    entries: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

/// A value of the file.
pub(super) struct Value<'a> {
    pub place: Place,
    pub sink: &'a Sink,
    key: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Table<'a> {
    /// A whole document.
    pub fn root(entries: &'a DeTable<'a>, sink: &'a Sink, document: Document) -> Self {
        Self {
            place: Place {
                document,
                field: String::new(),
                span: 0..0,
            },
            sink,
            entries,
            asked: RefCell::default(),
        }
    }

    /// The value under `key`, if there is one.
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        if !self.asked.borrow().contains(&key) {
            self.asked.borrow_mut().push(key);
        }
        let (key, value) = self.entries.get_key_value(key)?;
        Some(self.value(key, value))
    }

    /// The value under `key`; its absence is an error.
    pub fn require(&self, key: &'static str, help: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.sink
                .error(&self.place, format!("`{key}` is missing"), help.to_owned());
        }
        value
    }

    /// The table under `key`, if there is one.
    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        self.get(key)?.table()
    }

    /// `key` is free text that lb only keeps for people.
    pub fn note(&self, key: &'static str) {
        if let Some(value) = self.get(key) {
            let _ = value.string();
        }
    }

    /// `key` is understood, but something that lb does not do: any setting but an empty one is an error.
    pub fn refuse(&self, key: &'static str, message: &str, help: &str) {
        if let Some(value) = self.get(key).filter(|value| !value.is_vacant()) {
            value.error(message, help.to_owned());
        }
    }

    /// `key` is understood, and this version cannot do it.
    pub fn unsupported(&self, key: &'static str, help: &str) {
        self.refuse(key, "not supported in this version", help);
    }

    /// `key` is accepted, and changes nothing: says so unless it is off anyway.
    pub fn inert(&self, key: &'static str, reason: &str) {
        if let Some(value) = self.get(key).filter(|value| !value.is_vacant()) {
            value
                .sink
                .warning(&value.place, format!("has no effect: {reason}"), None);
        }
    }

    /// All entries in the order of the file, for tables whose keys are names that the user gives.
    pub fn entries(&self) -> Vec<(Located<String>, Value<'a>)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| {
                let value = self.value(key, value);
                let place = Place {
                    document: self.place.document,
                    field: value.place.field.clone(),
                    span: key.span(),
                };
                (
                    Located {
                        value: key.get_ref().to_string(),
                        place,
                    },
                    value,
                )
            })
            .collect()
    }

    /// Reports every key that nobody asked for.
    pub fn report_unknown(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries.iter() {
            let name: &str = key.get_ref();
            if asked.contains(&name) {
                continue;
            }
            let place = Place {
                document: self.place.document,
                field: join(&self.place.field, name),
                span: key.span(),
            };
            let help = suggestion(name, asked.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", asked.join(", ")));
            self.sink.error(&place, format!("unknown key `{name}`"), help);
        }
    }

    fn value(
        &self,
        key: &toml::Spanned<toml::de::DeString<'a>>,
        value: &'a toml::Spanned<DeValue<'a>>,
    ) -> Value<'a> {
        Value {
            place: Place {
                document: self.place.document,
                field: join(&self.place.field, key.get_ref()),
                span: value.span(),
            },
            sink: self.sink,
            key: key.span(),
            value: value.get_ref(),
        }
    }
}

impl<'a> Value<'a> {
    pub fn error(&self, message: impl Display, help: impl Into<Option<String>>) {
        self.sink.error(&self.place, message, help);
    }

    /// `value` together with the place of this one.
    pub fn locate<T>(&self, value: T) -> Located<T> {
        Located {
            value,
            place: self.place.clone(),
        }
    }

    pub fn string(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.wrong("a string", None),
        }
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(value) => Some(value),
            None => self.wrong("true or false", None),
        }
    }

    /// A whole number in `range`.
    pub fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let Some(digits) = self.value.as_integer() else {
            return self.wrong("a whole number", None);
        };
        match u32::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|number| range.contains(number))
        {
            Some(number) => Some(number),
            None => {
                self.error(
                    format!("{digits} is outside {} to {}", range.start(), range.end()),
                    None,
                );
                None
            }
        }
    }

    /// A port, where 0 stands for none.
    pub fn optional_port(&self) -> Option<u16> {
        self.integer(0..=65535)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port != 0)
    }

    /// A finite number, with or without a fraction.
    pub fn number(&self) -> Option<f64> {
        let number: Option<f64> = match self.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            // Radix prefixes make no sense for a quantity with fractions; decimal digits parse as they are.
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().parse().ok(),
            _ => return self.wrong("a number", None),
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Some(number),
            None => {
                self.error("is not a finite number", None);
                None
            }
        }
    }

    /// A number in `range`; `unit` follows the bounds in the message.
    pub fn number_in(&self, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        let number = self.number()?;
        if range.contains(&number) {
            return Some(number);
        }
        self.error(
            format!("{number} is outside {} to {}{unit}", range.start(), range.end()),
            None,
        );
        None
    }

    /// One of `words`.
    pub fn word<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(meaning.clone());
        }
        let names: Vec<&str> = words
            .iter()
            .map(|(word, _)| *word)
            .filter(|word| !word.is_empty())
            .collect();
        let help = suggestion(text, names.iter().copied());
        self.error(format!("\"{text}\" is not one of {}", names.join(", ")), help);
        None
    }

    /// The elements of a list; none after an error.
    pub fn list(&self, example: &str) -> Vec<Value<'a>> {
        let Some(items) = self.value.as_array() else {
            self.wrong::<()>("a list", Some(format!("write {example}")));
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, item)| Value {
                place: Place {
                    document: self.place.document,
                    field: format!("{}[{index}]", self.place.field),
                    span: item.span(),
                },
                sink: self.sink,
                key: item.span(),
                value: item.get_ref(),
            })
            .collect()
    }

    pub fn table(&self) -> Option<Table<'a>> {
        let Some(entries) = self.value.as_table() else {
            let help = match (&self.value, self.place.field.as_str()) {
                (DeValue::Array(_), field)
                    if [
                        "monitors",
                        "monitor_groups",
                        "pools",
                        "origins",
                        "load_balancers",
                        "applications",
                    ]
                    .contains(&field.rsplit('.').next().unwrap_or(field)) =>
                {
                    Some(format!("write [{field}.NAME] for each of them"))
                }
                _ => None,
            };
            return self.wrong("a table", help);
        };
        let place = Place {
            document: self.place.document,
            field: self.place.field.clone(),
            span: self.key.clone(),
        };
        Some(Table {
            place,
            sink: self.sink,
            entries,
            asked: RefCell::default(),
        })
    }

    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The string, if it is one; reports nothing.
    pub fn peek(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Whether the value says "nothing": false, `""`, 0, an empty list or an empty table.
    pub fn is_vacant(&self) -> bool {
        match self.value {
            DeValue::Boolean(value) => !value,
            DeValue::String(text) => text.is_empty(),
            DeValue::Integer(digits) => digits.as_str() == "0",
            DeValue::Array(items) => items.is_empty(),
            DeValue::Table(entries) => entries.is_empty(),
            DeValue::Float(_) | DeValue::Datetime(_) => false,
        }
    }

    fn wrong<T>(&self, expected: &str, help: Option<String>) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(format!("expected {expected}, found {found}"), help);
        None
    }
}

/// "did you mean", if one of `known` is close to what was written.
pub(crate) fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&written.to_lowercase(), &known.to_lowercase()),
                known,
            )
        })
        .filter(|(distance, known)| *distance <= 1 + written.chars().count().min(known.chars().count()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| format!("did you mean `{known}`?"))
}

/// `parent.key`, with the key quoted where TOML wants it quoted.
pub(crate) fn join(parent: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() {
        key
    } else {
        format!("{parent}.{key}")
    }
}
