//! Access lists: each stands under a number that means its content and nothing else, so a packet never meets half of one.

use super::Adopted;
use super::layout::Full;
use crate::image::{AccessRules, Capacity, TableOp};
use crate::model::{Access, CountryTable, Prefix};
use core::net::IpAddr;
use lb_common::abi::{AccessKey, AccessList, AccessRule, Country, Ip};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bits of an [`AccessKey`] that name the list.
const LIST_BITS: u32 = 32;

/// The lists that the maps hold.
#[derive(Clone, Debug)]
pub struct AccessLists {
    lists: BTreeMap<AccessList, Arc<AccessRules>>,
    capacity: Capacity,
    /// What was written last; `None`: that of a former daemon.
    countries: Option<Arc<CountryTable>>,
}

impl AccessLists {
    /// As a former daemon left them, or none.
    pub fn new(capacity: Capacity, adopted: Option<&Adopted>) -> Self {
        let mut lists: BTreeMap<AccessList, AccessRules> = BTreeMap::new();
        for (length, AccessKey { list, address }, rule) in
            adopted.into_iter().flat_map(|adopted| &adopted.access)
        {
            let list = AccessList(u32::from_be(*list));
            let length = length.saturating_sub(LIST_BITS);
            lists
                .entry(list)
                .or_default()
                .prefixes
                .push((length, *address, *rule));
        }
        for (key, rule) in adopted.into_iter().flat_map(|adopted| &adopted.country_rules) {
            lists
                .entry(key.list)
                .or_default()
                .countries
                .push((key.country, *rule));
        }
        for rules in lists.values_mut() {
            rules.prefixes.sort_unstable();
            rules.countries.sort_unstable();
        }
        Self {
            lists: lists
                .into_iter()
                .map(|(list, rules)| (list, Arc::new(rules)))
                .collect(),
            capacity,
            countries: adopted.is_none().then(Arc::default),
        }
    }

    /// The number of a list with that content; it is written if there is none.
    pub fn place(&mut self, access: Option<&Access>, ops: &mut Vec<TableOp>) -> Result<AccessList, Full> {
        let Some(access) = access.filter(|access| !access.is_empty()) else {
            return Ok(AccessList::NONE);
        };
        let rules = rules(access);
        if let Some((list, _)) = self.lists.iter().find(|(_, known)| ***known == rules) {
            return Ok(*list);
        }
        let held = |count: fn(&AccessRules) -> usize| -> usize {
            self.lists.values().map(|rules| count(rules)).sum()
        };
        for (what, held, new, available) in [
            (
                "prefixes of access lists (old and new together)",
                held(|rules| rules.prefixes.len()),
                rules.prefixes.len(),
                self.capacity.access_prefixes,
            ),
            (
                "countries of access lists (old and new together)",
                held(|rules| rules.countries.len()),
                rules.countries.len(),
                self.capacity.country_rules,
            ),
        ] {
            let (needed, available) = ((held + new) as u64, u64::from(available));
            if needed > available {
                return Err(Full {
                    what,
                    needed,
                    available,
                });
            }
        }
        // The smallest number that is free.
        let taken = self
            .lists
            .keys()
            .zip(1..)
            .take_while(|(list, number)| list.0 == *number);
        let list = AccessList(taken.count() as u32 + 1);
        let rules = Arc::new(rules);
        self.lists.insert(list, Arc::clone(&rules));
        ops.push(TableOp::AccessList { list, rules });
        Ok(list)
    }

    /// Removes all lists but those in use. No packet may read the others any more.
    pub fn retain(&mut self, used: &BTreeSet<AccessList>) -> Vec<TableOp> {
        let mut ops = Vec::new();
        self.lists.retain(|list, rules| {
            let kept = used.contains(list);
            if !kept {
                let (list, rules) = (*list, Arc::clone(rules));
                ops.push(TableOp::RemoveAccessList { list, rules });
            }
            kept
        });
        ops
    }

    /// Brings the countries of addresses to `table`.
    pub fn place_countries(&mut self, table: &Arc<CountryTable>, ops: &mut Vec<TableOp>) -> Result<(), Full> {
        if self.countries.as_ref() == Some(table) {
            return Ok(());
        }
        let (needed, available) = (
            table.rows().len() as u64,
            u64::from(self.capacity.country_prefixes),
        );
        if needed > available {
            return Err(Full {
                what: "prefixes of [geoip]",
                needed,
                available,
            });
        }
        ops.push(TableOp::Countries {
            table: Arc::clone(table),
            former: self.countries.replace(Arc::clone(table)),
        });
        Ok(())
    }

    /// Everything that the rows should hold.
    pub fn image(&self, ops: &mut Vec<TableOp>) {
        ops.extend(self.lists.iter().map(|(list, rules)| TableOp::AccessList {
            list: *list,
            rules: Arc::clone(rules),
        }));
        ops.extend(self.countries.iter().map(|table| TableOp::Countries {
            table: Arc::clone(table),
            former: None,
        }));
    }
}

/// What an access list says, as the packet path asks it: the longest prefix, else the country.
fn rules(access: &Access) -> AccessRules {
    let mut countries = Vec::new();
    for (list, rule) in [
        (&access.allow_countries, AccessRule::ALLOW),
        (&access.deny_countries, AccessRule::DENY),
    ] {
        countries.extend(list.iter().map(|country| (*country, rule)));
    }
    // What holds for those whom no prefix names.
    let mut others = AccessRule::NEUTRAL;
    if !access.allow_countries.is_empty() {
        countries.push((Country::UNKNOWN, AccessRule::DENY));
    } else if !access.allow.is_empty() {
        others = AccessRule::DENY;
    }
    let mut prefixes: BTreeMap<Prefix, AccessRule> = BTreeMap::new();
    prefixes.extend(access.allow.iter().map(|prefix| (*prefix, AccessRule::ALLOW)));
    prefixes.extend(access.deny.iter().map(|prefix| (*prefix, AccessRule::DENY)));
    if prefixes.keys().any(|prefix| prefix.engulfs_ipv4()) {
        prefixes.entry(Prefix::IPV4).or_insert(others);
    }
    if others != AccessRule::NEUTRAL {
        // For both families.
        prefixes.entry(Prefix::IPV6).or_insert(others);
    }
    let row = |(prefix, rule): (Prefix, AccessRule)| {
        let mapped = if matches!(prefix.address(), IpAddr::V4(_)) {
            96
        } else {
            0
        };
        (
            u32::from(prefix.length()) + mapped,
            Ip::from(prefix.address()),
            rule,
        )
    };
    let mut rules = AccessRules {
        prefixes: prefixes.into_iter().map(row).collect(),
        countries,
    };
    rules.prefixes.sort_unstable();
    rules.countries.sort_unstable();
    rules.countries.dedup();
    rules
}
