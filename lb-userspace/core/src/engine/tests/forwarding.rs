//! How packets reach origins: what each mode asks of records, tables and settings.

use super::world::*;
use crate::engine::{Event, Kept, Path};
use crate::image::TableOp;
use crate::model::*;
use core::net::IpAddr;
use lb_common::abi::{
    self, ApplicationFlags, ApplicationKey, Forwarding as Mode, OriginState, Port, SettingsFlags,
};
use std::collections::BTreeMap;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const SIX: &str = "2001:db8:9::1";
const VIP6: &str = "2001:db8:1::10";

/// `web` on an address of either family, leading to origins that are forwarded to in that way.
fn both_families(origins: &[(&str, Forwarding)]) -> Config {
    let addresses: Vec<&str> = origins.iter().map(|(address, _)| *address).collect();
    let mut config = web(vec![unmonitored("first", &addresses)], None);
    for (origin, (_, forwarding)) in config.pools[0].origins.iter_mut().zip(origins) {
        origin.forwarding = *forwarding;
    }
    config.applications[0].addresses.push(ip(VIP6));
    config
}

fn application(world: &World, vip: &str) -> abi::Application {
    let live = world.maps.settings.parity();
    let of =
        |key: &ApplicationKey| (key.address, key.port, key.parity) == (ip(vip).into(), Port::new(80), live);
    let (_, record) = world.maps.applications.iter().find(|(key, _)| of(key)).unwrap();
    *record
}

#[test]
fn origins_that_answer_directly_serve_clients_of_both_families() {
    let world = World::settled(both_families(&[
        (A, Forwarding::DsrIpip),
        (SIX, Forwarding::DsrGue { port: 7000 }),
        (B, Forwarding::Nat),
    ]));
    assert_eq!(world.serving(VIP), [A, B, SIX]);
    assert_eq!(world.serving(VIP6), [A, SIX]);
    let shares: Vec<f64> = world
        .pool("first")
        .origins
        .iter()
        .map(|origin| origin.share)
        .collect();
    assert_eq!(shares, [1.0 / 3.0, 0.5, 1.0 / 3.0]);
    let record = world.maps.origins[&world.origin(SIX).id];
    assert_eq!(
        (record.forwarding, record.gue_port),
        (Mode::DSR_GUE, Port::new(7000))
    );
    for vip in [VIP, VIP6] {
        assert!(application(&world, vip).flags.has(ApplicationFlags::DIRECT));
    }
    let world = World::settled(both_families(&[(A, Forwarding::Dnat)]));
    assert_eq!(world.serving(VIP6), [""; 0]);
    assert!(!application(&world, VIP).flags.has(ApplicationFlags::DIRECT));
}

#[test]
fn only_translation_and_tunnels_need_an_address_of_the_node() {
    let modes = [
        (A, Forwarding::Dnat),
        (B, Forwarding::DsrL2),
        ("10.0.0.3", Forwarding::DsrIpip),
        ("10.0.0.4", Forwarding::Nat),
    ];
    let mut world = World::settled(both_families(&modes));
    let count = |world: &World, address| world.maps.origins[&world.origin(address).id].snat_count;
    assert_eq!(modes.map(|(address, _)| count(&world, address)), [0, 0, 1, 1]);
    let bare = |address: &IpAddr| {
        let Path::Via {
            ifindex,
            tags,
            next_hop,
            neighbour,
            interface_mac,
            mtu,
            ..
        } = path(*address, 0)
        else {
            unreachable!()
        };
        let sources = Vec::new();
        (
            *address,
            Path::Via {
                ifindex,
                tags,
                next_hop,
                neighbour,
                interface_mac,
                mtu,
                sources,
            },
        )
    };
    let paths = world.watched.iter().map(bare).collect();
    world.handle(Event::Paths(paths));
    let problems = modes.map(|(address, _)| world.origin(address).path_problem.is_some());
    assert_eq!(problems, [false, false, true, true]);
}

#[test]
fn behind_a_router_dsr_l2_reaches_nobody() {
    let modes = [
        (A, Forwarding::DsrL2),
        (B, Forwarding::DsrL2),
        ("10.0.0.3", Forwarding::DsrIpip),
    ];
    let mut world = World::settled(both_families(&modes));
    assert_eq!(world.serving(VIP), modes.map(|(address, _)| address));
    let router = ip("10.0.0.254");
    let mut paths: BTreeMap<IpAddr, Path> = modes
        .iter()
        .map(|(address, _)| (ip(address), path(ip(address), 0)))
        .collect();
    for address in [B, "10.0.0.3"] {
        paths.insert(ip(address), path(router, 0));
    }
    world.handle(Event::Paths(paths));
    let problem = world.origin(B).path_problem.as_ref().unwrap();
    assert!(
        problem.contains("dsr_l2") && problem.contains("10.0.0.254"),
        "{problem}"
    );
    assert_eq!(
        world.maps.origins[&world.origin(B).id].hop,
        abi::HopId::UNRESOLVED
    );
    // Neither one on a network of the node nor a tunnel minds.
    for address in [A, "10.0.0.3"] {
        assert_eq!(world.origin(address).path_problem, None);
    }
    assert_eq!(world.serving(VIP), [A, "10.0.0.3"]);
}

#[test]
fn another_forwarding_is_another_origin_and_the_old_one_drains() {
    let mut world = World::settled(both_families(&[(A, Forwarding::Dnat)]));
    let old = world.origin(A).id;
    let dnat = |world: &World| world.maps.settings.flags.has(SettingsFlags::DNAT);
    assert!(dnat(&world));
    world.configure(both_families(&[(A, Forwarding::Nat)]));
    assert_ne!(world.origin(A).id, old);
    assert_eq!(world.maps.origins[&old].state, OriginState::DRAINING);
    assert_eq!(world.maps.origins[&old].forwarding, Mode::DNAT);
    assert!(dnat(&world), "answers to its clients still come");
    world.handle(Event::Drained(vec![old]));
    assert!(!dnat(&world));
    // A restart finds the same numbers.
    let mut next = world.restart(Kept::default());
    next.configure(both_families(&[(A, Forwarding::Nat)]));
    assert_eq!(next.origin(A).id, world.origin(A).id);
}

/// Whatever becomes of an application whose flows have no entries, they are still found.
#[test]
fn flows_without_entries_outlive_names_and_modes() {
    let direct = [(A, Forwarding::DsrL2), (B, Forwarding::DsrL2)];
    let mut world = World::settled(both_families(&direct));
    let before = application(&world, VIP);
    assert!(before.flags.has(ApplicationFlags::UNTRACKED));
    let same_buckets = |world: &mut World, config: Config, untracked: bool| {
        let applied = world.applied.len();
        world.configure(config);
        let mut ops = world.applied[applied..].iter().flatten();
        assert!(!ops.any(|op| matches!(op, TableOp::Buckets { .. })));
        for vip in [VIP, VIP6] {
            let now = application(world, vip);
            assert_eq!(now.buckets, before.buckets);
            assert!(now.flags.has(ApplicationFlags::DIRECT));
            assert_eq!(now.flags.has(ApplicationFlags::UNTRACKED), untracked);
        }
        application(world, VIP).id
    };
    let mut renamed = both_families(&direct);
    renamed.applications[0].name = "other".into();
    assert_ne!(same_buckets(&mut world, renamed, true), before.id);
    assert_eq!(same_buckets(&mut world, both_families(&direct), true), before.id);
    let one = both_families(&[(A, Forwarding::DsrL2), (B, Forwarding::Nat)]);
    same_buckets(&mut world, one, false);
    let none = both_families(&[(A, Forwarding::Nat), (B, Forwarding::Nat)]);
    same_buckets(&mut world, none, false);
}

/// Entries that were made before an address had an application's buckets are no entries of theirs.
#[test]
fn entries_are_looked_for_where_buckets_are_new() {
    let direct = [(A, Forwarding::DsrL2), (B, Forwarding::DsrL2)];
    let mut world = World::settled(both_families(&direct));
    let listens = |addresses: &[&str]| {
        let mut config = both_families(&direct);
        config.applications[0].addresses = addresses.iter().map(|address| ip(address)).collect();
        config
    };
    let mut written_before = 0;
    let mut unsettled = |config: Config| {
        let applied = world.applied.len();
        world.configure(config);
        let steps: Vec<&TableOp> = world.applied[applied..].iter().flatten().collect();
        let place = |wanted: fn(&TableOp) -> bool| steps.iter().rposition(|op| wanted(op));
        let unsettled = place(|op| matches!(op, TableOp::Unsettle { .. }));
        if unsettled.is_some() {
            // A sweep that begins afterwards finds what the next generation says, unless it finds the same already.
            let written = place(|op| matches!(op, TableOp::Application { .. }));
            assert!(written < unsettled);
            written_before += usize::from(written.is_some());
            assert!(unsettled < place(|op| matches!(op, TableOp::Settings(_))));
        }
        let run = application(&world, VIP).buckets;
        let expected = TableOp::Unsettle {
            base: run.base(),
            count: run.rows(),
        };
        assert!(unsettled.is_none_or(|place| *steps[place] == expected));
        unsettled.is_some()
    };
    let further = "203.0.113.77";
    assert!(!unsettled(listens(&[VIP])), "one address less");
    assert!(unsettled(listens(&[VIP, further])), "one more");
    assert!(!unsettled(listens(&[VIP, further])), "nothing changes");
    assert!(!unsettled(listens(&[VIP])));
    assert!(unsettled(listens(&[VIP, further])), "it was there before");
    let mut renamed = listens(&[VIP, further]);
    renamed.applications[0].name = "other".into();
    assert!(!unsettled(renamed), "the buckets stay where they are");
    assert!(written_before > 0);
}
