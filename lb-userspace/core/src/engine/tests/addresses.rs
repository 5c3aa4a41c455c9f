//! What follows from the node's own addresses and interfaces, and what applications say of echoes and idle times.

use super::world::*;
use crate::engine::{Event, Kept};
use crate::image::TableOp;
use crate::model::*;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{AddressRole, Ip, Ip4, Ip6, Rate, VipKey};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const VIP6: &str = "2001:db8:1::10";

fn echo(world: &World, vip: &str) -> bool {
    let parity = world.maps.settings.parity();
    let key = VipKey {
        address: Ip::from(ip(vip)),
        parity,
        reserved: [0; 3],
    };
    world.maps.vips[&key].echo != 0
}

fn own(world: &mut World, addresses: &[&str]) {
    world.handle(Event::Addresses(
        addresses.iter().map(|address| ip(address)).collect(),
    ));
    world.run(1);
}

#[test]
fn an_address_answers_echoes_while_somebody_serves_there() {
    let mut config = web(
        vec![pool("first", &[A]), unmonitored("sorry", &["2001:db8::1"])],
        Some("sorry"),
    );
    config.applications[0].addresses.push(ip(VIP6));
    let mut world = World::settled(config.clone());
    assert!(!echo(&world, VIP), "whose the address is is not known yet");
    own(&mut world, &["192.0.2.1"]);
    assert!(echo(&world, VIP) && echo(&world, VIP6));
    world.kill(A);
    assert!(!echo(&world, VIP), "the fallback pool has nobody of the family");
    assert!(echo(&world, VIP6));
    world.revive(A);
    assert!(echo(&world, VIP));
    config.applications[0].echo = Echo::Off;
    world.configure(config.clone());
    assert!(!echo(&world, VIP));
    // One application that wants an answer is enough.
    let other = Application {
        echo: Echo::Always,
        ports: Ports::single(81),
        ..application("other", VIP, "web")
    };
    config.applications.push(other);
    world.configure(config);
    world.kill(A);
    assert!(echo(&world, VIP) && !echo(&world, VIP6));
}

#[test]
fn the_kernel_answers_for_addresses_of_its_own() {
    let mut world = World::settled(web(vec![unmonitored("first", &[A])], None));
    own(&mut world, &[VIP]);
    assert!(!echo(&world, VIP));
    let generation = world.maps.settings.generation;
    own(&mut world, &[VIP, "192.0.2.7"]);
    assert_eq!(
        world.maps.settings.generation, generation,
        "that is nobody's business"
    );
    own(&mut world, &[]);
    assert!(echo(&world, VIP));
}

#[test]
fn packets_may_come_by_the_addresses_that_nat_translates_to_and_from_dnat_origins() {
    let mut config = web(vec![unmonitored("first", &[A, B])], None);
    config.pools[0].origins[1].forwarding = Forwarding::Dnat;
    let mut world = World::settled(config.clone());
    let roles = |world: &World| -> Vec<(IpAddr, AddressRole)> {
        let parity = world.maps.settings.parity();
        let vips = world.maps.vips.iter().filter(|(key, _)| key.parity == parity);
        let vips = vips.map(|(key, vip)| (key.address.into(), vip.role));
        let mut roles: Vec<_> = vips
            .filter(|(_, role)| *role != AddressRole::APPLICATION)
            .collect();
        roles.sort_unstable();
        roles
    };
    let source = |address: &str| (ip(address), AddressRole::SOURCE);
    let origin = (ip(B), AddressRole::ORIGIN);
    assert_eq!(roles(&world), [origin, source("192.0.2.1")]);
    // An address of both kinds is an application's first of all.
    config.datapath.snat_addresses = vec![ip(VIP), ip("192.0.2.2")];
    world.configure(config.clone());
    assert_eq!(roles(&world), [origin, source("192.0.2.2")]);
    // A tunnel's outer source gets no answers.
    let old = [A, B].map(|address| world.origin(address).id);
    for origin in &mut config.pools[0].origins {
        origin.forwarding = Forwarding::DsrIpip;
    }
    world.configure(config.clone());
    assert_eq!(
        roles(&world),
        [origin, source("192.0.2.2")],
        "the old ways still have flows"
    );
    world.handle(Event::Drained(old.to_vec()));
    world.run(1);
    assert_eq!(roles(&world), []);
}

#[test]
fn flows_whose_answers_go_directly_get_half_of_the_memory() {
    let world = World::settled(web(vec![unmonitored("first", &[A])], None));
    assert_eq!(world.maps.settings.max_direct * 2, world.environment.max_flows);
}

#[test]
fn interfaces_are_known_by_their_mtu() {
    let mut world = World::settled(web(vec![unmonitored("first", &[A])], None));
    let smallest = |world: &World| world.maps.settings.smallest_mtu;
    assert_eq!(smallest(&world), 1500);
    world.handle(Event::Interfaces([(2, 9000), (3, 1280)].into()));
    assert_eq!(smallest(&world), 1280);
    assert_eq!(world.maps.interfaces[&2].mtu, 9000);
    let mut next = world.restart(Kept::default());
    next.configure(web(vec![unmonitored("first", &[A])], None));
    assert_eq!(smallest(&next), 1280);
    for world in [&mut world, &mut next] {
        world.handle(Event::Interfaces([(2, 9000)].into()));
        assert_eq!(smallest(world), 1500);
        assert_eq!(world.maps.interfaces.len(), 1);
        world.handle(Event::Paths([(ip(A), path(ip(A), 2))].into()));
        assert_eq!(smallest(world), 1400);
    }
}

#[test]
fn each_application_has_its_own_idle_times() {
    let mut config = web(vec![unmonitored("first", &[A])], None);
    config.datapath.flow_timeouts.udp = Duration::from_secs(10);
    config.applications[0].flow_timeouts.tcp = Some(Duration::from_secs(100));
    config
        .applications
        .push(application("other", "203.0.113.11", "web"));
    let mut world = World::settled(config.clone());
    let rows = |world: &World| -> Vec<(u32, u32)> {
        let ids = world.view().applications.iter().map(|application| application.id);
        ids.map(|id| (world.maps.timeouts[&id].tcp, world.maps.timeouts[&id].udp))
            .collect()
    };
    assert_eq!(rows(&world), [(25_000, 2_500), (900_000, 2_500)]);
    config.applications[1].flow_timeouts.udp = Some(Duration::from_secs(20));
    world.applied.clear();
    world.configure(config);
    assert_eq!(rows(&world), [(25_000, 2_500), (900_000, 5_000)]);
    let written = |op: &&TableOp| matches!(op, TableOp::Timeouts { .. });
    assert_eq!(world.applied.concat().iter().filter(written).count(), 1);
}

#[test]
fn tunnels_leave_with_addresses_of_the_prefix() {
    let mut config = web(vec![unmonitored("first", &[A, B])], None);
    config.pools[0].origins[0].forwarding = Forwarding::DsrIpip;
    config.datapath.max_replies_per_second = 125;
    config.datapath.tunnel_source = TunnelSource {
        v4: Some("10.200.0.0/16".parse().unwrap()),
        v6: Some("2001:db8:ffff::/48".parse().unwrap()),
    };
    let world = World::settled(config);
    let settings = world.maps.settings;
    assert_eq!(settings.reply_rate, Rate(2 << 32));
    let source = settings.tunnel_source;
    assert_eq!(Ip::from(Ip4(source.prefix4)), ip("10.200.0.0").into());
    assert_eq!(
        Ip4(source.mask4),
        "0.0.255.255".parse::<core::net::Ipv4Addr>().unwrap().into()
    );
    assert_eq!(Ip::from(Ip6(source.prefix6.0)), ip("2001:db8:ffff::").into());
    assert_eq!(source.mask6, u32::MAX);
    // It needs no address of the node, and `nat` does.
    let count = |address| world.maps.origins[&world.origin(address).id].snat_count;
    assert_eq!([count(A), count(B)], [0, 1]);
}
