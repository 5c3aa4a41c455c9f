//! `[geoip]`: the countries of addresses, from a MaxMind database or a plain file.

use super::access::{Lists, code};
use super::lines;
use super::reader::{Table, Value};
use lb_common::abi::Country;
use lb_core::model::{CountryTable, Prefix};
use maxminddb::{PathElement, Reader};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;

/// Larger databases are refused; the largest that are sold have a third of it.
const MAX_DATABASE_SIZE: u64 = 1 << 30;

/// Where countries come from.
#[derive(Clone, Copy)]
enum Kind {
    Database,
    Prefixes,
}

/// Reads the table, and what it names if some access list or load balancer asks for countries.
pub(super) fn geoip(root: &Table<'_>, lists: &Lists<'_>) -> Option<Arc<CountryTable>> {
    let asked = lists.countries();
    let Some(table) = root.table("geoip") else {
        for place in asked {
            root.sink.error(
                &place,
                "needs to know the countries of addresses",
                "add [geoip] with `database = \"/PATH/GeoLite2-Country.mmdb\"` or `prefixes = \"/PATH\"`"
                    .to_owned(),
            );
        }
        return None;
    };
    let (database, prefixes) = (table.get("database"), table.get("prefixes"));
    let (kind, value) = match (database, prefixes) {
        (Some(database), None) => (Kind::Database, Some(database)),
        (None, Some(prefixes)) => (Kind::Prefixes, Some(prefixes)),
        (Some(_), Some(prefixes)) => {
            prefixes.error("`database` is given too", "keep one of them".to_owned());
            (Kind::Prefixes, None)
        }
        (None, None) => {
            let help =
                "add `database` (a MaxMind file) or `prefixes` (a file of lines such as `192.0.2.0/24 DE`)";
            table.sink.error(
                &table.place,
                "nothing says where countries come from",
                help.to_owned(),
            );
            (Kind::Prefixes, None)
        }
    };
    table.report_unknown();
    let value = value?;
    let path = value.string()?;
    if asked.is_empty() && !lists.wishes() {
        // A mistake is better found before the first list that needs it.
        if let Err(error) = fs::metadata(path) {
            value.error(format!("cannot read the file: {error}"), None);
        }
        return None;
    }
    let known = lists.imports().countries.borrow().get(path).cloned();
    if known.is_some() {
        return known;
    }
    let table = match kind {
        Kind::Prefixes => lines::read(&value, path, row).map(|rows| Arc::new(CountryTable::new(rows))),
        Kind::Database => database_table(&value, path),
    }?;
    let mut countries = lists.imports().countries.borrow_mut();
    countries.insert(path.to_owned(), Arc::clone(&table));
    Some(table)
}

/// `192.0.2.0/24 DE`.
fn row(line: &str) -> Result<(Prefix, Country), String> {
    let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
    let (Some(prefix), Some(country), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!(
            "\"{line}\" is not a prefix and a country, such as `192.0.2.0/24 DE`"
        ));
    };
    let prefix = prefix.parse().map_err(|error| format!("\"{prefix}\" {error}"))?;
    let country =
        code(country).ok_or_else(|| format!("\"{country}\" is not a country code: two capital letters"))?;
    Ok((prefix, country))
}

fn database_table(value: &Value<'_>, path: &str) -> Option<Arc<CountryTable>> {
    let rows = open(path)
        .and_then(|reader| rows(&reader).map_err(|error| format!("the database is damaged: {error}")));
    match rows {
        Ok(rows) if rows.is_empty() => {
            let help = "use a database with countries, such as GeoLite2-Country.mmdb";
            value.error("the database tells no countries", help.to_owned());
            None
        }
        Ok(rows) => Some(Arc::new(CountryTable::joined(rows))),
        Err(message) => {
            value.error(message, None);
            None
        }
    }
}

fn open(path: &str) -> Result<Reader<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DATABASE_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read the file: {error}"))?;
    if bytes.len() as u64 > MAX_DATABASE_SIZE {
        return Err(format!("the file is larger than {} MiB", MAX_DATABASE_SIZE >> 20));
    }
    Reader::from_source(bytes).map_err(|error| format!("not a MaxMind database: {error}"))
}

/// All prefixes with a country. What stands for the same addresses in another way (6to4, Teredo) is left out.
fn rows(reader: &Reader<Vec<u8>>) -> Result<Vec<(Prefix, Country)>, maxminddb::MaxMindDbError> {
    /// Where databases of different makers have the country.
    const PATHS: [&[PathElement<'_>]; 4] = [
        &[PathElement::Key("country"), PathElement::Key("iso_code")],
        &[
            PathElement::Key("registered_country"),
            PathElement::Key("iso_code"),
        ],
        &[PathElement::Key("country_code")],
        &[PathElement::Key("country")],
    ];
    let mut rows = Vec::new();
    // Many prefixes share a record.
    let mut known: HashMap<Option<usize>, Option<Country>> = HashMap::new();
    for found in reader.networks(Default::default())? {
        let found = found?;
        let country = *known.entry(found.offset()).or_insert_with(|| {
            // A path that leads to something else than a text is the next maker's.
            let text = |path: &&[PathElement<'_>]| found.decode_path::<&str>(path).ok().flatten();
            PATHS.iter().find_map(text).and_then(code)
        });
        let network = found.network()?;
        let prefix = Prefix::new(network.ip(), network.prefix());
        rows.extend(prefix.zip(country));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Database;
    use super::*;

    fn table(rows: &[(&str, &str)]) -> Vec<(Prefix, Country)> {
        let row = |(prefix, country): &(&str, &str)| (prefix.parse().unwrap(), code(country).unwrap());
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_database_tells_the_countries_of_its_prefixes() {
        let mut database = Database::new(&["country", "iso_code"]);
        for (prefix, country) in [
            ("192.0.2.0/25", "DE"),
            ("192.0.2.128/25", "DE"),
            ("198.51.100.7/32", "FR"),
        ] {
            database.insert(prefix, country);
        }
        database.insert("2001:db8::/33", "US");
        database.insert("203.0.113.0/24", "earth");
        let reader = Reader::from_source(database.bytes()).unwrap();
        let rows = rows(&reader).unwrap();
        let expected = [
            ("192.0.2.0/24", "DE"),
            ("198.51.100.7/32", "FR"),
            ("2001:db8::/33", "US"),
        ];
        assert_eq!(CountryTable::joined(rows).rows(), table(&expected));
    }

    #[test]
    fn other_makers_have_it_elsewhere() {
        for path in [
            &["registered_country", "iso_code"][..],
            &["country_code"],
            &["country"],
        ] {
            let mut database = Database::new(path);
            database.insert("192.0.2.0/24", "DE");
            let reader = Reader::from_source(database.bytes()).unwrap();
            assert_eq!(
                rows(&reader).unwrap(),
                table(&[("192.0.2.0/24", "DE")]),
                "{path:?}"
            );
        }
    }
}
