//! Who may open flows.

use super::*;
use lb_common::abi::{AccessRule, Country, CountryKey, SettingsFlags};
use lb_common::datapath::DropReason;
use lb_common::testing::rules::{ABROAD, FEW, GLOBAL, HOME};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

const GUARDED: [&str; 2] = ["203.0.113.10:84", "[2001:db8::10]:84"];

fn host(v6: bool, number: u8) -> String {
    if v6 {
        format!("[2001:db8:c::{number:x}]:40000")
    } else {
        format!("198.51.100.{number}:40000")
    }
}

/// What becomes of a SYN, or a datagram, from a client of each family.
#[track_caller]
fn each_family(udp: bool, number: u8, refused: Option<DropReason>) {
    for v6 in [false, true] {
        let mut node = Node::new();
        let (client, to) = (host(v6, number), GUARDED[usize::from(v6)]);
        let outcome = if udp {
            node.udp(&client, to)
        } else {
            node.tcp(&client, to, SYN)
        };
        match refused {
            Some(reason) => {
                assert_eq!(outcome.verdict, Verdict::Drop(reason), "{client}");
                assert_eq!(outcome.moved, format!("drop {} 1", reason.name()));
            }
            None => assert_eq!(outcome.verdict, redirect(ORIGIN_SIDE), "{client}"),
        }
    }
}

#[test]
fn the_longest_prefix_counts() {
    for number in [4, 5, 7] {
        each_family(false, number, None);
    }
    each_family(false, 6, Some(DropReason::Denied));
}

#[test]
fn a_list_of_who_may_denies_everybody_else() {
    for number in [3, 8, 12] {
        each_family(false, number, Some(DropReason::Denied));
    }
}

#[test]
fn the_list_of_all_applications_comes_first() {
    each_family(false, 11, Some(DropReason::DeniedGlobally));
    each_family(true, 11, Some(DropReason::DeniedGlobally));
    let web = Node::new().tcp(&host(false, 11), WEB, SYN);
    assert_eq!(web.verdict, Verdict::Drop(DropReason::DeniedGlobally));
    // It lets in, but not past the application's own.
    let mut node = Node::new();
    node.0
        .scenario
        .rule(GLOBAL, "198.51.100.8", 32, AccessRule::ALLOW);
    let other = node.tcp(&host(false, 8), GUARDED[0], SYN);
    assert_eq!(other.verdict, Verdict::Drop(DropReason::Denied));
}

#[test]
fn a_country_counts_where_no_prefix_does() {
    each_family(true, 0, None);
    for number in [1, 2, 3] {
        each_family(true, number, Some(DropReason::DeniedCountry));
    }
    each_family(true, 4, None);
    let stranger = Node::new().udp("192.0.2.200:5", GUARDED[0]);
    assert_eq!(stranger.verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn a_list_of_countries_that_may_denies_the_others() {
    let mut node = Node::new();
    let rules = &mut node.0.scenario.tables.country_rules;
    rules.clear();
    for (country, rule) in [(HOME, AccessRule::ALLOW), (Country::UNKNOWN, AccessRule::DENY)] {
        rules.insert(
            CountryKey {
                list: ABROAD,
                country,
            },
            rule,
        );
    }
    assert_eq!(
        node.udp(&host(false, 4), GUARDED[0]).verdict,
        redirect(ORIGIN_SIDE)
    );
    for stranger in ["198.51.100.2:5", "192.0.2.200:5"] {
        let denied = node.udp(stranger, GUARDED[0]);
        assert_eq!(
            denied.verdict,
            Verdict::Drop(DropReason::DeniedCountry),
            "{stranger}"
        );
    }
}

#[test]
fn all_applications_may_deny_a_country() {
    let mut node = Node::new();
    let key = CountryKey {
        list: GLOBAL,
        country: HOME,
    };
    node.0.scenario.tables.country_rules.insert(key, AccessRule::DENY);
    let denied = node.tcp(&host(false, 4), WEB, SYN);
    assert_eq!(denied.verdict, Verdict::Drop(DropReason::DeniedCountry));
    node.0.scenario.tables.settings.flags = SettingsFlags(0);
    assert_eq!(node.tcp(&host(false, 4), WEB, SYN).verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn who_is_denied_learns_nothing() {
    for flags in [ACK, FIN | ACK, RST] {
        let segment = Node::new().tcp(&host(false, 6), GUARDED[0], flags);
        assert_eq!(segment.verdict, Verdict::Drop(DropReason::Denied), "{flags}");
    }
}

#[test]
fn flows_that_are_open_stay_open() {
    let mut node = Node::new();
    let client = host(false, 4);
    node.connect(&client, GUARDED[0]);
    node.0.scenario.rule(FEW, "198.51.100.4", 32, AccessRule::DENY);
    assert_eq!(node.tcp(&client, GUARDED[0], ACK).verdict, redirect(ORIGIN_SIDE));
    let new = node.tcp("198.51.100.4:41000", GUARDED[0], SYN);
    assert_eq!(new.verdict, Verdict::Drop(DropReason::Denied));
}

/// A rule for a prefix of 198.51.0.0/16 with `length` bits.
type Prefix = (u16, u32, AccessRule);

/// What the longest of the rules says, worked out from the numbers.
fn longest(rules: &[Prefix], host: u16) -> Option<AccessRule> {
    let held = rules.iter().filter(|(at, length, _)| {
        let tail = 32 - length;
        u32::from(*at) >> tail == u32::from(host) >> tail
    });
    held.max_by_key(|(_, length, _)| *length).map(|(.., rule)| *rule)
}

fn address(host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(198, 51, high, low).into()
}

proptest! {
    #[test]
    fn lists_say_what_their_rules_say(
        rules in prop::collection::vec((any::<u16>(), 17u32..=32, 0u32..3), 0..12),
        denied in prop::collection::vec((any::<u16>(), 17u32..=32), 0..6),
        otherwise in 0u32..3,
        host: u16,
    ) {
        let mut node = Node::new();
        let scenario = &mut node.0.scenario;
        scenario.tables.access.clear();
        scenario.tables.countries.clear();
        scenario.tables.country_rules.clear();
        let mut seen = std::collections::BTreeSet::new();
        let cut = |at: u16, length: u32| (u32::from(at) >> (32 - length) << (32 - length)) as u16;
        // No two for one prefix: the first stays.
        let rules: Vec<Prefix> = rules
            .into_iter()
            .map(|(at, length, rule)| (cut(at, length), length, AccessRule(rule)))
            .filter(|&(at, length, _)| seen.insert((at, length)))
            .collect();
        for &(at, length, rule) in &rules {
            scenario.rule(ABROAD, &address(at).to_string(), length, rule);
        }
        let abroad = Country(7);
        for &(at, length) in &denied {
            scenario.country(&address(cut(at, length)).to_string(), length, abroad);
        }
        let table = &mut scenario.tables.country_rules;
        table.insert(CountryKey { list: ABROAD, country: abroad }, AccessRule::DENY);
        table.insert(CountryKey { list: ABROAD, country: Country::UNKNOWN }, AccessRule(otherwise));

        let countries: Vec<Prefix> =
            denied.iter().map(|&(at, length)| (cut(at, length), length, AccessRule::DENY)).collect();
        let wanted = match longest(&rules, host) {
            Some(AccessRule::DENY) => Some(DropReason::Denied),
            Some(AccessRule::ALLOW) => None,
            _ => {
                let rule = longest(&countries, host).unwrap_or(AccessRule(otherwise));
                (rule == AccessRule::DENY).then_some(DropReason::DeniedCountry)
            }
        };
        let outcome = node.udp(&format!("{}:5", address(host)), GUARDED[0]);
        match wanted {
            Some(reason) => prop_assert_eq!(outcome.verdict, Verdict::Drop(reason)),
            None => prop_assert_eq!(outcome.verdict, redirect(ORIGIN_SIDE)),
        }
    }
}

/// A SYN is screened before it is looked for; the flow of a client that is denied later goes on.
#[test]
fn handshakes_of_who_is_denied_meanwhile_end_and_flows_go_on() {
    let mut node = Node::new();
    let [fresh, old] = [4, 5].map(|number| host(false, number));
    node.connect(&old, GUARDED[0]);
    node.tcp(&fresh, GUARDED[0], SYN);
    node.0.scenario.rule(GLOBAL, "198.51.100.0", 28, AccessRule::DENY);
    let denied = Verdict::Drop(DropReason::DeniedGlobally);
    assert_eq!(node.tcp(&fresh, GUARDED[0], SYN).verdict, denied);
    assert!(matches!(
        node.tcp(&old, GUARDED[0], ACK).verdict,
        Verdict::Forward(_)
    ));
}
