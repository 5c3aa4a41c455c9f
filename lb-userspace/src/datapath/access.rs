//! The maps of access lists and of countries: many rows at a time.

use super::sys;
use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use bytemuck::{Pod, Zeroable};
use lb_common::abi::{AccessKey, AccessList, AccessRule, Country, CountryKey, Ip, maps};
use lb_core::image::AccessRules;
use lb_core::model::CountryTable;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The maps.
pub struct AccessMaps {
    access: MapData,
    country_rules: MapData,
    countries: MapData,
}

/// `struct bpf_lpm_trie_key` (include/uapi/linux/bpf.h) of an access list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
struct ListPrefix {
    bits: u32,
    key: AccessKey,
}

/// The same of the countries of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
struct CountryPrefix {
    bits: u32,
    address: Ip,
}

/// Rows of longer lists are not compared with what they should be: nobody writes them but this daemon.
const COMPARED: usize = 1024;

impl AccessMaps {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut raw = |name: &str| match take(name)? {
            Map::LpmTrie(data) | Map::HashMap(data) => Ok(data),
            other => bail!("the map {name} is of another kind: {other:?}"),
        };
        Ok(Self {
            access: raw(maps::ACCESS)?,
            country_rules: raw(maps::COUNTRY_RULES)?,
            countries: raw(maps::COUNTRIES)?,
        })
    }

    /// Writes a list.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn write(&self, list: AccessList, rules: &AccessRules) -> Result<()> {
        let (prefixes, rows): (Vec<_>, Vec<_>) = prefixes(list, rules).unzip();
        sys::update_all(self.access.fd().as_fd(), &prefixes, &rows)?;
        let (countries, rows): (Vec<_>, Vec<_>) = countries(list, rules).unzip();
        sys::update_all(self.country_rules.fd().as_fd(), &countries, &rows)?;
        Ok(())
    }

    /// Removes a list.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, list: AccessList, rules: &AccessRules) -> Result<()> {
        let prefixes: Vec<_> = prefixes(list, rules).map(|(key, _)| key).collect();
        sys::remove_all(self.access.fd().as_fd(), &prefixes)?;
        let countries: Vec<_> = countries(list, rules).map(|(key, _)| key).collect();
        sys::remove_all(self.country_rules.fd().as_fd(), &countries)?;
        Ok(())
    }

    /// Whether the rows of a list are there, unless they are too many to look at.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn holds(&self, list: AccessList, rules: &AccessRules) -> Result<bool> {
        if rules.prefixes.len() + rules.countries.len() > COMPARED {
            return Ok(true);
        }
        for (key, rule) in prefixes(list, rules) {
            if sys::lookup(self.access.fd().as_fd(), &key)? != Some(rule) {
                return Ok(false);
            }
        }
        for (key, rule) in countries(list, rules) {
            if sys::lookup(self.country_rules.fd().as_fd(), &key)? != Some(rule) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings the countries of addresses from `former`, or from what the map holds, to `table`. What is new comes first, so
    /// that an address is never without a country that it has before and after.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_countries(&self, table: &CountryTable, former: Option<&CountryTable>) -> Result<()> {
        let map = self.countries.fd().as_fd();
        let mut former: BTreeMap<CountryPrefix, Country> = match former {
            Some(former) => rows(former).collect(),
            None => read(map)
                .context("read the countries of addresses")?
                .into_iter()
                .collect(),
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (prefix, country) in rows(table) {
            if former.remove(&prefix) != Some(country) {
                keys.push(prefix);
                values.push(country);
            }
        }
        sys::update_all(map, &keys, &values)?;
        let gone: Vec<CountryPrefix> = former.into_keys().collect();
        sys::remove_all(map, &gone)?;
        Ok(())
    }

    /// All prefixes of all lists, with the number of their bits.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prefixes(&self) -> Result<Vec<(u32, AccessKey, AccessRule)>> {
        let rows =
            read::<ListPrefix, AccessRule>(self.access.fd().as_fd()).context("read the access lists")?;
        Ok(rows
            .into_iter()
            .map(|(prefix, rule)| (prefix.bits, prefix.key, rule))
            .collect())
    }

    /// All countries of all lists.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn countries(&self) -> Result<Vec<(CountryKey, AccessRule)>> {
        read(self.country_rules.fd().as_fd()).context("read the countries of access lists")
    }
}

fn read<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> Result<Vec<(K, V)>> {
    let mut rows = Vec::new();
    sys::for_each(map, |key: &K, row: &V| rows.push((*key, *row)))?;
    Ok(rows)
}

fn prefixes(list: AccessList, rules: &AccessRules) -> impl Iterator<Item = (ListPrefix, AccessRule)> {
    rules.prefixes.iter().map(move |(bits, address, rule)| {
        let key = AccessKey {
            list: list.0.to_be(),
            address: *address,
        };
        (ListPrefix { bits: bits + 32, key }, *rule)
    })
}

fn countries(list: AccessList, rules: &AccessRules) -> impl Iterator<Item = (CountryKey, AccessRule)> {
    let rows = rules.countries.iter();
    rows.map(move |(country, rule)| {
        (
            CountryKey {
                list,
                country: *country,
            },
            *rule,
        )
    })
}

fn rows(table: &CountryTable) -> impl Iterator<Item = (CountryPrefix, Country)> {
    table.rows().iter().map(|(prefix, country)| {
        let mapped = if matches!(prefix.address(), IpAddr::V4(_)) {
            96
        } else {
            0
        };
        let prefix = CountryPrefix {
            bits: u32::from(prefix.length()) + mapped,
            address: prefix.address().into(),
        };
        (prefix, *country)
    })
}
