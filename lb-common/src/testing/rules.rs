//! Applications with rules, for a [`Scenario`]: ranges of ports, access lists, rates, affinity, caps.

use super::scenario::{Scenario, TIMEOUTS, TWO_ARMED, VIPS, app, at};
use crate::abi::{
    AccessKey, AccessList, AccessRule, Application, ApplicationFlags, Country, CountryKey, Ip, Load,
    OriginId, PoolId, Port, PortSpan, Protocol, Rate, SettingsFlags, Spans, Vip, VipKey,
};
use std::net::IpAddr;

/// The list of all applications: denies one client.
pub const GLOBAL: AccessList = AccessList(9);
/// Lets four clients in, less one.
pub const FEW: AccessList = AccessList(1);
/// Denies a country, and lets one client of it in.
pub const ABROAD: AccessList = AccessList(2);
/// The country that is denied, and that of most clients.
pub const DENIED: Country = Country::new(*b"AA");
pub const HOME: Country = Country::new(*b"ZZ");

/// A limit that no test outlasts: one flow, and none for days.
pub const ONE_FLOW: Rate = Rate(1 << 62);
/// Five flows at once in the second of scenarios, which no test outlasts either.
pub const FIVE_FLOWS: Rate = Rate(24_000 << 32);
/// A limit that is never reached.
pub const ANY_FLOWS: Rate = Rate(1);

/// Origins with at most so many established flows; the first one of each family has them already.
pub const FULL: [&str; 2] = ["10.0.7.61:80", "[2001:db8:7::61]:80"];
pub const ROOMY: [&str; 2] = ["10.0.7.62:80", "[2001:db8:7::62]:80"];
pub const MAX_FLOWS: u32 = 2;

/// Adds the applications from [`app::RANGE`] on; their pools are `pools` with the fallback pool `fallback`.
pub(super) fn add(scenario: &mut Scenario, pools: &[PoolId], fallback: PoolId) {
    let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
    let full = FULL.map(|address| capped(scenario, address));
    let roomy = ROOMY.map(|address| capped(scenario, address));
    for id in full {
        let load = Load {
            established: MAX_FLOWS,
            reserved: 0,
        };
        scenario.tables.loads.borrow_mut().insert(id.0, load);
    }
    let all_full = scenario.pool(&full.map(|id| (id, 1)));
    let some_full = scenario.pool(
        &[full, roomy]
            .concat()
            .iter()
            .map(|&id| (id, 1))
            .collect::<Vec<_>>(),
    );
    for vip in VIPS {
        let mut open = |id, protocol, port, pools: &[PoolId], fallback| {
            let vip: IpAddr = vip.parse().expect("an address");
            scenario.application(id, protocol, (vip, port).into(), pools, fallback);
        };
        open(app::RANGE, tcp, 6000, pools, fallback);
        open(app::OTHER_RANGE, tcp, 6200, pools, fallback);
        open(app::UDP_RANGE, udp, 6000, pools, fallback);
        open(app::FEW, tcp, 84, pools, fallback);
        open(app::ABROAD, udp, 84, pools, fallback);
        open(app::ONE_FLOW, tcp, 85, pools, fallback);
        open(app::ONE_FLOW_EACH, udp, 85, pools, fallback);
        open(app::AFFINE, tcp, 86, pools, fallback);
        open(app::SOME_FULL, tcp, 87, &[some_full], PoolId::NONE);
        open(app::ALL_FULL, udp, 87, &[all_full], PoolId::NONE);
    }
    ranges(scenario);
    access(scenario);
    for application in scenario.tables.applications.values_mut() {
        rule(application);
    }
}

fn capped(scenario: &mut Scenario, address: &str) -> OriginId {
    let id = scenario.origin(at(address), TWO_ARMED);
    let origin = scenario.tables.origins.get_mut(&id).expect("just made");
    origin.max_flows = MAX_FLOWS;
    id
}

fn rule(application: &mut Application) {
    match application.id {
        app::RANGE | app::UDP_RANGE => {
            application.first_port = Port::new(6000);
            application.origin_port = Port::new(7000);
        }
        app::OTHER_RANGE => application.first_port = Port::new(6200),
        app::FEW => application.access = FEW,
        app::ABROAD => {
            application.access = ABROAD;
            application.flags = ApplicationFlags(ApplicationFlags::COUNTRIES);
        }
        app::ONE_FLOW => (application.rate, application.source_rate) = (ONE_FLOW, ANY_FLOWS),
        app::ONE_FLOW_EACH => (application.rate, application.source_rate) = (FIVE_FLOWS, ONE_FLOW),
        app::AFFINE => (application.affinity_ttl, application.affinity_epoch) = (TIMEOUTS.tcp, 1),
        _ => {}
    }
}

fn ranges(scenario: &mut Scenario) {
    let spans = [(6000, 6099), (6200, 6200), (6000, 6001)];
    for (index, (first, last)) in spans.into_iter().enumerate() {
        let span = PortSpan {
            first,
            last,
            reserved: 0,
        };
        // Not at the arena's start, so that a forgotten base shows.
        scenario.tables.spans.insert(5 + index as u32, span);
    }
    for address in VIPS {
        let address: IpAddr = address.parse().expect("an address");
        let key = VipKey {
            address: address.into(),
            parity: scenario.parity(),
            reserved: [0; 3],
        };
        let vip = Vip {
            tcp: Spans { base: 5, count: 2 },
            udp: Spans { base: 7, count: 1 },
            ..Vip::default()
        };
        scenario.tables.vips.insert(key, vip);
    }
    scenario.tables.settings.flags.0 |= SettingsFlags::RANGES;
}

fn access(scenario: &mut Scenario) {
    use AccessRule as Rule;
    scenario.tables.settings.access = GLOBAL;
    scenario.tables.settings.flags.0 |= SettingsFlags::COUNTRIES;
    // The default of a list with prefixes that are allowed: its number alone.
    scenario.rule(FEW, "::", 0, Rule::DENY);
    for (list, prefix, length, rule) in [
        (GLOBAL, "198.51.100.11", 32, Rule::DENY),
        (GLOBAL, "2001:db8:c::b", 128, Rule::DENY),
        (FEW, "198.51.100.4", 30, Rule::ALLOW),
        (FEW, "198.51.100.6", 32, Rule::DENY),
        (FEW, "2001:db8:c::4", 126, Rule::ALLOW),
        (FEW, "2001:db8:c::6", 128, Rule::DENY),
        (ABROAD, "198.51.100.0", 32, Rule::ALLOW),
        (ABROAD, "2001:db8:c::", 128, Rule::ALLOW),
        // Says nothing, so that the country decides.
        (ABROAD, "198.51.100.1", 32, Rule::NEUTRAL),
    ] {
        scenario.rule(list, prefix, length, rule);
    }
    for (prefix, length, country) in [
        ("198.51.100.0", 24, HOME),
        ("2001:db8::", 32, HOME),
        ("198.51.100.0", 30, DENIED),
        ("2001:db8:c::", 126, DENIED),
    ] {
        scenario.country(prefix, length, country);
    }
    for (list, country, rule) in [
        (ABROAD, DENIED, Rule::DENY),
        (GLOBAL, Country::UNKNOWN, Rule::ALLOW),
    ] {
        scenario
            .tables
            .country_rules
            .insert(CountryKey { list, country }, rule);
    }
}

/// An address, and the length of a prefix of its family as that of a v4-mapped one.
fn prefix(address: &str, length: u32) -> (Ip, u32) {
    let address: IpAddr = address.parse().expect("an address");
    (address.into(), length + if address.is_ipv4() { 96 } else { 0 })
}

impl Scenario {
    /// Adds a prefix to an access list. `::` of length 0 is the list's default for both families.
    ///
    /// # Panics
    /// `address` is none.
    pub fn rule(&mut self, list: AccessList, address: &str, length: u32, rule: AccessRule) {
        let (address, length) = prefix(address, length);
        let key = AccessKey {
            list: list.0.to_be(),
            address,
        };
        self.tables.access.insert((32 + length, key), rule);
    }

    /// Says which country a prefix is in.
    ///
    /// # Panics
    /// `address` is none.
    pub fn country(&mut self, address: &str, length: u32, country: Country) {
        let (address, length) = prefix(address, length);
        self.tables.countries.insert((length, address), country);
    }

    /// Changes an application on each of its addresses.
    pub fn edit(&mut self, id: u32, edit: impl Fn(&mut Application)) {
        let applications = self.tables.applications.values_mut();
        applications
            .filter(|application| application.id == id)
            .for_each(edit);
    }
}
