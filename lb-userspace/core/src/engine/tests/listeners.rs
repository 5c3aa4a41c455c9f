//! Addresses and ports of applications.

use super::world::*;
use crate::engine::Kept;
use crate::image::TableOp;
use crate::model::*;
use lb_common::abi::{Ip, PortSpan, SettingsFlags, Spans, Vip, VipKey};

const A: &str = "10.0.0.1";
const OTHER: &str = "203.0.113.11";

fn ports(first: u16, last: u16) -> Ports {
    Ports::range(first, last).unwrap()
}

/// Two ranges and a port on two addresses.
fn ranges() -> Config {
    let mut config = web(vec![unmonitored("first", &[A])], None);
    for (name, ports, origin_port) in [
        ("high", ports(2000, 2999), Some(5000)),
        ("low", ports(1000, 1999), None),
    ] {
        config.applications.push(Application {
            ports,
            origin_port,
            ..application(name, VIP, "web")
        });
    }
    for application in &mut config.applications {
        application.addresses.push(ip(OTHER));
    }
    config
}

fn vip(world: &World, address: &str) -> Vip {
    let parity = world.maps.settings.parity();
    let key = VipKey {
        address: Ip::from(ip(address)),
        parity,
        reserved: [0; 3],
    };
    world.maps.vips[&key]
}

#[test]
fn ranges_stand_in_order_and_equal_ones_once() {
    let world = World::settled(ranges());
    let Spans { base, count } = vip(&world, VIP).tcp;
    let span = |first, last| PortSpan {
        first,
        last,
        reserved: 0,
    };
    assert_eq!(
        world.maps.spans[base as usize..(base + count) as usize],
        [span(1000, 1999), span(2000, 2999)]
    );
    assert_eq!(vip(&world, OTHER).tcp, vip(&world, VIP).tcp);
    assert_eq!(vip(&world, VIP).udp, Spans::default());
    let parity = world.maps.settings.parity();
    let records: Vec<(u16, u16, u16)> = world
        .maps
        .applications
        .iter()
        .filter(|(key, _)| key.parity == parity && key.address == Ip::from(ip(VIP)))
        .map(|(key, record)| {
            (
                key.port.host(),
                record.first_port.host(),
                record.origin_port.host(),
            )
        })
        .collect();
    assert_eq!(records.len(), 3);
    for record in [(80, 0, 80), (1000, 1000, 1000), (2000, 2000, 5000)] {
        assert!(records.contains(&record), "{record:?} in {records:?}");
    }
}

#[test]
fn unchanged_ranges_are_not_rewritten() {
    let mut world = World::settled(ranges());
    let before = vip(&world, VIP);
    world.configure(ranges());
    world.applied.clear();
    world.configure(ranges());
    assert_eq!(vip(&world, VIP), before);
    let ops = &world.applied[0];
    assert!(
        matches!(ops[..], [TableOp::Grace, TableOp::Settings(_)]),
        "{ops:?}"
    );
}

#[test]
fn packets_of_the_generation_before_still_find_their_range() {
    let mut world = World::settled(ranges());
    let ranged = |world: &World| world.maps.settings.flags.has(SettingsFlags::RANGES);
    assert!(ranged(&world));
    for mut world in [world.restart(Kept::default()), world.restart(world.saved.clone())] {
        world.configure(ranges());
        assert!(ranged(&world));
    }
    // That the flag outlives the generation is checked after every write.
    world.configure(web(vec![unmonitored("first", &[A])], None));
    assert!(!ranged(&world));
}

#[test]
fn an_application_of_a_range_keeps_its_number_over_a_restart() {
    let world = World::settled(ranges());
    let id = |world: &World, name| {
        let mut applications = world.view().applications.iter();
        applications
            .find(|application| application.name == name)
            .unwrap()
            .id
    };
    let mut next = world.restart(Kept::default());
    let mut config = ranges();
    config.applications.reverse();
    next.configure(config);
    for name in ["web", "high", "low"] {
        assert_eq!(id(&next, name), id(&world, name));
    }
}
