//! `access` of applications and of the node: prefixes and countries, some of them in files of their own.

use super::reader::{Located, Place, Sink, Table, Value};
use super::{address, lines};
use lb_common::abi::Country;
use lb_core::model::{Access, CountryTable, Prefix};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// What was read from the files that a configuration names. With the same one, a configuration that differs only in its
/// objects is compiled without reading them again.
#[derive(Clone, Debug, Default)]
pub struct Imports {
    lists: RefCell<HashMap<String, Arc<Vec<Prefix>>>>,
    pub(super) countries: RefCell<HashMap<String, Arc<CountryTable>>>,
}

/// What the access lists of a configuration share.
pub(super) struct Lists<'i> {
    imports: &'i Imports,
    /// Files with mistakes, which are reported.
    damaged: RefCell<HashSet<String>>,
    /// The lists so far: equal ones are one.
    known: RefCell<BTreeSet<Arc<Access>>>,
    /// Where countries are asked for.
    countries: RefCell<Vec<Place>>,
    /// Whether countries make a difference where the node's own may do.
    wished: Cell<bool>,
}

impl<'i> Lists<'i> {
    pub fn new(imports: &'i Imports) -> Self {
        Self {
            imports,
            damaged: RefCell::default(),
            known: RefCell::default(),
            countries: RefCell::default(),
            wished: Cell::default(),
        }
    }

    pub fn imports(&self) -> &'i Imports {
        self.imports
    }

    /// Where countries are asked for.
    pub fn countries(&self) -> Vec<Place> {
        self.countries.borrow().clone()
    }

    /// Whether countries make a difference where the node's own may do.
    pub fn wishes(&self) -> bool {
        self.wished.get()
    }

    /// A country that makes a difference, whether or not it is known which clients are there.
    pub fn wish(&self, sink: &Sink, name: &Located<String>) -> Option<Country> {
        self.wished.set(true);
        let country = code(&name.value);
        if country.is_none() {
            let message = format!("\"{}\" is not a country code", name.value);
            let help = "two capital letters, such as \"DE\"".to_owned();
            sink.error(&name.place, message, help);
        }
        country
    }

    /// Reads `access` of a table.
    pub fn read(&self, table: &Table<'_>) -> Option<Arc<Access>> {
        let table = table.table("access")?;
        let mut access = Access {
            allow: prefixes(&table, "allow"),
            deny: prefixes(&table, "deny"),
            allow_countries: self.read_countries(&table, "allow_countries"),
            deny_countries: self.read_countries(&table, "deny_countries"),
        };
        self.read_files(&table, "allow_files", &mut access.allow);
        self.read_files(&table, "deny_files", &mut access.deny);
        for list in [&mut access.allow, &mut access.deny] {
            list.sort_unstable();
            list.dedup();
        }
        table.report_unknown();
        contradictions(&table, &access.allow, &access.deny, ToString::to_string);
        contradictions(&table, &access.allow_countries, &access.deny_countries, letters);
        if let Some(value) = table
            .get("deny_countries")
            .filter(|_| !access.deny_countries.is_empty())
            && !(access.allow.is_empty() && access.allow_countries.is_empty())
        {
            let message = "has no effect: as soon as anybody is allowed, everybody else is denied";
            table.sink.warning(&value.place, message, None);
        }
        if access.is_empty() {
            return None;
        }
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.get(&access) {
            return Some(Arc::clone(known));
        }
        let access = Arc::new(access);
        known.insert(Arc::clone(&access));
        Some(access)
    }

    fn read_countries(&self, table: &Table<'_>, key: &'static str) -> Vec<Country> {
        let Some(value) = table.get(key) else {
            return Vec::new();
        };
        let mut countries = once(&value, "[\"DE\"]", country, letters);
        if !countries.is_empty() {
            self.countries.borrow_mut().push(value.place);
        }
        countries.sort_unstable();
        countries
    }

    fn read_files(&self, table: &Table<'_>, key: &'static str, prefixes: &mut Vec<Prefix>) {
        for item in table
            .get(key)
            .iter()
            .flat_map(|value| value.list("[\"/etc/lb/deny.txt\"]"))
        {
            let Some(path) = item.string() else { continue };
            prefixes.extend(
                self.file(&item, path)
                    .iter()
                    .flat_map(|list| list.iter().copied()),
            );
        }
    }

    fn file(&self, item: &Value<'_>, path: &str) -> Option<Arc<Vec<Prefix>>> {
        let known = self.imports.lists.borrow().get(path).cloned();
        if known.is_some() || self.damaged.borrow().contains(path) {
            return known;
        }
        let list = lines::read(item, path, prefix_of_line).map(Arc::new);
        match &list {
            Some(list) => drop(
                self.imports
                    .lists
                    .borrow_mut()
                    .insert(path.to_owned(), list.clone()),
            ),
            None => drop(self.damaged.borrow_mut().insert(path.to_owned())),
        }
        list
    }
}

/// One prefix or address a line.
fn prefix_of_line(line: &str) -> Result<Prefix, String> {
    line.parse::<Prefix>()
        .map_err(|error| format!("\"{line}\" {error}"))
}

fn prefixes(table: &Table<'_>, key: &'static str) -> Vec<Prefix> {
    let value = table.get(key);
    value.map_or_else(Vec::new, |value| {
        once(&value, "[\"10.0.0.0/8\"]", address::prefix, ToString::to_string)
    })
}

/// The items of a list, none of them twice.
fn once<T: Copy + Eq + Hash>(
    value: &Value<'_>,
    example: &str,
    read: impl Fn(&Value<'_>) -> Option<T>,
    name: impl Fn(&T) -> String,
) -> Vec<T> {
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for item in value.list(example) {
        let Some(read) = read(&item) else { continue };
        if seen.insert(read) {
            items.push(read);
        } else {
            item.error(format!("{} is listed twice", name(&read)), None);
        }
    }
    items
}

fn country(value: &Value<'_>) -> Option<Country> {
    let text = value.string()?;
    let country = code(text);
    if country.is_none() {
        value.error(
            format!("\"{text}\" is not a country code"),
            "two capital letters, such as \"DE\"".to_owned(),
        );
    }
    country
}

/// The country with these two capital letters (ISO 3166-1 alpha-2).
pub(super) fn code(text: &str) -> Option<Country> {
    Country::parse(text)
}

fn letters(country: &Country) -> String {
    country.letters().into_iter().flatten().collect()
}

/// Reports the first of what is both allowed and denied; both lists are in order.
fn contradictions<T: Ord>(table: &Table<'_>, allow: &[T], deny: &[T], name: impl Fn(&T) -> String) {
    const TOLD: usize = 5;
    let both: Vec<&T> = deny
        .iter()
        .filter(|item| allow.binary_search(item).is_ok())
        .collect();
    let names: Vec<String> = both.iter().take(TOLD).map(|item| name(item)).collect();
    if let Some(more) = both.len().checked_sub(1) {
        let rest = match more.saturating_sub(TOLD - 1) {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        let verb = if more == 0 { "is" } else { "are" };
        table.sink.error(
            &table.place,
            format!("{}{rest} {verb} both allowed and denied", names.join(", ")),
            "of overlapping prefixes the longest counts; of equal ones keep one".to_owned(),
        );
    }
}
