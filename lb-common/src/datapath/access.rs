//! Who may open flows: lists of prefixes and countries.

use super::scratch::Opening;
use super::tables::Tables;
use super::verdict::DropReason;
use crate::abi::{
    AccessKey, AccessList, AccessRule, Application, ApplicationFlags, Country, CountryKey, Ip, Settings,
    SettingsFlags,
};

/// Whether anybody may not open flows of an application.
#[inline(always)]
pub fn applies(settings: &Settings, application: &Application) -> bool {
    settings.access != AccessList::NONE || application.access != AccessList::NONE
}

/// Whether `source` may open flows of an application: both the list of all applications and its own must let it. They are asked
/// once a packet.
#[inline(always)]
pub fn check<T: Tables>(
    tables: &T,
    settings: &Settings,
    opening: &mut Opening,
    source: Ip,
) -> Result<(), DropReason> {
    if opening.let_in != 0 {
        return Ok(());
    }
    let application = &opening.application;
    let countries = settings.flags.has(SettingsFlags::COUNTRIES);
    ask(
        tables,
        settings.access,
        countries,
        source,
        DropReason::DeniedGlobally,
    )?;
    let countries = application.flags.has(ApplicationFlags::COUNTRIES);
    ask(tables, application.access, countries, source, DropReason::Denied)?;
    opening.let_in = 1;
    Ok(())
}

/// What one list says; `denied` is its reason for a prefix.
#[inline(always)]
fn ask<T: Tables>(
    tables: &T,
    list: AccessList,
    countries: bool,
    source: Ip,
    denied: DropReason,
) -> Result<(), DropReason> {
    if list == AccessList::NONE {
        return Ok(());
    }
    let key = AccessKey {
        list: list.0.to_be(),
        address: source,
    };
    let rule = tables.access(&key).unwrap_or(AccessRule::NEUTRAL);
    if rule == AccessRule::DENY {
        return Err(denied);
    }
    if rule != AccessRule::NEUTRAL || !countries {
        return Ok(());
    }
    let country = tables.country(source).unwrap_or(Country::UNKNOWN);
    let rule = match tables.country_rule(&CountryKey { list, country }) {
        Some(rule) => Some(rule),
        None => tables.country_rule(&CountryKey {
            list,
            country: Country::UNKNOWN,
        }),
    };
    if rule == Some(AccessRule::DENY) {
        return Err(DropReason::DeniedCountry);
    }
    Ok(())
}
