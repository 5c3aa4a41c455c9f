//! Access lists and countries in the kernel's maps: long ones are quick, and what is removed is gone.

use aya::maps::LpmTrie;
use lb_common::abi::{AccessList, AccessRule, Country, CountryKey, Ip, maps};
use lb_core::image::{AccessRules, TableOp};
use lb_core::model::CountryTable;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::access::AccessMaps;
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::writer::Writer;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prefixes of a long list.
const LONG: u32 = 100_000;

fn prefix(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number << 8).into()
}

fn list(prefixes: std::ops::Range<u32>, rule: AccessRule) -> Arc<AccessRules> {
    Arc::new(AccessRules {
        prefixes: prefixes
            .map(|number| (120, Ip::from(prefix(number)), rule))
            .collect(),
        countries: vec![(Country::UNKNOWN, AccessRule::DENY), (Country::new(*b"DE"), rule)],
    })
}

fn table(rows: std::ops::Range<u32>, country: [u8; 2]) -> Arc<CountryTable> {
    let row = |number| {
        (
            format!("{}/24", prefix(number)).parse().unwrap(),
            Country::new(country),
        )
    };
    Arc::new(CountryTable::new(rows.map(row).collect()))
}

#[test]
fn a_hundred_thousand_prefixes_are_written_compared_and_removed_quickly() {
    needs_root!();
    namespace().enter(|| {
        let mut sizes: MapSizes = small();
        (sizes.capacity.access_prefixes, sizes.capacity.country_prefixes) = (1 << 22, 1 << 22);
        let kernel = Kernel::new(&sizes).unwrap();
        let again = |name: &str| kernel.map(name);
        let mut writer = Writer::new(again).unwrap();
        let maps = AccessMaps::new(again).unwrap();
        let (first, second) = (AccessList(1), AccessList(2));
        let (short, long) = (list(7..9, AccessRule::ALLOW), list(0..LONG, AccessRule::DENY));
        let write = |list, rules: &Arc<AccessRules>| TableOp::AccessList {
            list,
            rules: Arc::clone(rules),
        };
        let remove = |list, rules: &Arc<AccessRules>| TableOp::RemoveAccessList {
            list,
            rules: Arc::clone(rules),
        };

        let started = Instant::now();
        writer
            .apply(&[write(first, &short), write(second, &long)])
            .unwrap();
        let written = started.elapsed();
        assert_eq!(maps.prefixes().unwrap().len(), LONG as usize + 2);
        let read = started.elapsed() - written;
        assert_eq!(maps.countries().unwrap().len(), 4);
        assert_eq!(writer.repair(&[write(first, &short)]).unwrap(), 0);
        let other = list(7..10, AccessRule::ALLOW);
        assert_eq!(writer.repair(&[write(first, &other)]).unwrap(), 1);
        assert_eq!(writer.repair(&[write(first, &other)]).unwrap(), 0);
        // What is not there any more is no obstacle.
        let started = Instant::now();
        writer
            .apply(&[
                remove(second, &list(0..50, AccessRule::DENY)),
                remove(second, &long),
            ])
            .unwrap();
        let removed = started.elapsed();
        println!("{LONG} prefixes: written in {written:?}, read in {read:?}, removed in {removed:?}");
        assert!(written + read + removed < Duration::from_secs(5));
        let mut left: Vec<_> = maps.prefixes().unwrap();
        left.sort_unstable();
        let expected: Vec<_> = (7..10).map(|number| Ip::from(prefix(number))).collect();
        assert_eq!(
            left.iter().map(|(_, key, _)| key.address).collect::<Vec<_>>(),
            expected
        );
        assert!(
            left.iter()
                .all(|(bits, key, rule)| (*bits, key.list, *rule) == (152, 1u32.to_be(), AccessRule::ALLOW))
        );
        let key = |country| CountryKey { list: first, country };
        assert_eq!(
            maps.countries()
                .unwrap()
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
            [
                (key(Country::UNKNOWN), AccessRule::DENY),
                (key(Country::new(*b"DE")), AccessRule::ALLOW)
            ]
            .into()
        );
    });
}

#[test]
fn countries_are_brought_from_one_table_to_the_next() {
    needs_root!();
    namespace().enter(|| {
        let mut sizes = small();
        sizes.capacity.country_prefixes = 1 << 22;
        let kernel = Kernel::new(&sizes).unwrap();
        let again = |name: &str| kernel.map(name);
        let access = AccessMaps::new(again).unwrap();
        let held = || {
            let trie: LpmTrie<_, Ip, Country> = again(maps::COUNTRIES).unwrap().try_into().unwrap();
            let rows = trie
                .iter()
                .map(|row| row.map(|(key, country)| (key.data(), country)));
            let mut rows: Vec<(Ip, Country)> = rows.collect::<Result<_, _>>().unwrap();
            rows.sort_unstable();
            rows
        };
        let expected = |table: &CountryTable| {
            let rows = table
                .rows()
                .iter()
                .map(|(prefix, country)| (Ip::from(prefix.address()), *country));
            let mut rows: Vec<_> = rows.collect();
            rows.sort_unstable();
            rows
        };
        let tables = [
            table(0..100, *b"DE"),
            table(50..200, *b"FR"),
            table(60..70, *b"FR"),
            Arc::default(),
        ];
        let mut former: Option<&Arc<CountryTable>> = None;
        for next in &tables {
            access.set_countries(next, former.map(|table| &**table)).unwrap();
            assert_eq!(held(), expected(next));
            // Whatever was there, without knowing it.
            access.set_countries(&tables[0], None).unwrap();
            assert_eq!(held(), expected(&tables[0]));
            access.set_countries(next, None).unwrap();
            former = Some(next);
        }
    });
}
