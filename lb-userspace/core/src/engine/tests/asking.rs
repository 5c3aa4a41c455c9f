//! What monitors ask of origins, and by which way.

use super::world::*;
use crate::engine::{Event, Exit, ProbeRequest};
use crate::model::*;
use core::net::IpAddr;

const A: &str = "10.0.0.1";
const SIX: &str = "2001:db8:9::1";
const VIP6: &str = "2001:db8:1::10";
const DIRECT: [Forwarding; 3] = [
    Forwarding::DsrL2,
    Forwarding::DsrIpip,
    Forwarding::DsrGue { port: 7000 },
];

/// `web` at these addresses, leading to one monitored origin.
fn served(origin: &str, forwarding: Forwarding, addresses: &[&str]) -> Config {
    let mut config = web(vec![pool("first", &[origin])], None);
    config.pools[0].origins[0].forwarding = forwarding;
    config.applications[0].addresses = addresses.iter().map(|address| ip(address)).collect();
    config
}

/// The first question to the only origin.
fn question(config: Config) -> ProbeRequest {
    let mut world = World::new(environment());
    world.silent = true;
    world.configure(config);
    world.run(6);
    world.probes.remove(0)
}

fn vip(request: &ProbeRequest) -> Option<IpAddr> {
    request.via.as_ref().map(|via| via.vip)
}

#[test]
fn an_origin_that_answers_directly_is_asked_at_the_vip() {
    for forwarding in DIRECT {
        let request = question(served(A, forwarding, &[VIP6, VIP]));
        assert_eq!(request.address, ip(A));
        assert_eq!(vip(&request), Some(ip(VIP)), "the one of its own family");
        assert_eq!(request.via.as_ref().map(|via| via.forwarding), Some(forwarding));
        assert_eq!(request.via.and_then(|via| via.exit), None, "its address says how");
        assert_eq!(request.port, 80, "the application's port, not the origin's");
    }
    for forwarding in [Forwarding::Nat, Forwarding::Dnat] {
        let request = question(served(A, forwarding, &[VIP]));
        assert_eq!((request.via, request.port), (None, 8080));
    }
}

#[test]
fn another_family_is_asked_by_the_way_to_the_origin() {
    for (origin, only, source) in [(A, VIP6, "192.0.2.1"), (SIX, VIP, "2001:db8::1")] {
        let request = question(served(origin, Forwarding::DsrIpip, &[only]));
        assert_eq!(vip(&request), Some(ip(only)));
        let exit = Exit {
            ifindex: 2,
            source: ip(source),
        };
        assert_eq!(request.via.and_then(|via| via.exit), Some(exit));
        // Without a tunnel there is no way to it.
        assert_eq!(question(served(origin, Forwarding::DsrL2, &[only])).via, None);
    }
    let mut world = World::new(environment());
    (world.silent, world.routed) = (true, false);
    world.configure(served(A, Forwarding::DsrIpip, &[VIP6]));
    world.run(6);
    let request = world.probes.remove(0);
    assert_eq!(vip(&request), Some(ip(VIP6)));
    assert_eq!(request.via.and_then(|via| via.exit), None, "nobody knows yet");
}

#[test]
fn the_monitors_own_port_goes_first() {
    let mut config = served(A, Forwarding::DsrIpip, &[VIP]);
    config.monitors[0].port = Some(9000);
    let request = question(config);
    assert_eq!((request.port, vip(&request)), (9000, Some(ip(VIP))));
    let mut config = served(A, Forwarding::DsrGue { port: 6080 }, &[VIP]);
    config.monitors[0].kind = MonitorKind::IcmpPing;
    let request = question(config);
    assert_eq!((request.port, vip(&request)), (0, Some(ip(VIP))));
}

#[test]
fn the_application_is_the_first_that_can_be_asked() {
    let mut config = served(A, Forwarding::DsrIpip, &[VIP6]);
    let mut off = application("off", "203.0.113.98", "web");
    (off.enabled, off.ports) = (false, Ports::single(98));
    let mut second = application("second", "203.0.113.99", "web");
    second.ports = Ports::single(99);
    config.applications.extend([off, second]);
    let request = question(config.clone());
    assert_eq!((request.port, vip(&request)), (99, Some(ip("203.0.113.99"))));
    // Nobody serves the pool: its address is all that there is to ask.
    config.applications.clear();
    let request = question(config);
    assert_eq!((request.port, request.via), (8080, None));
}

#[test]
fn another_vip_is_another_question() {
    let mut world = World::settled(served(A, Forwarding::DsrIpip, &[VIP]));
    assert_eq!(world.serving(VIP), [A]);
    let former = question_of(&mut world);
    world.configure(served(A, Forwarding::DsrIpip, &["203.0.113.11"]));
    let next = question_of(&mut world);
    assert_ne!(former.target, next.target);
    assert_eq!(vip(&next), Some(ip("203.0.113.11")));
    world.configure(served(A, Forwarding::DsrIpip, &["203.0.113.11", VIP6]));
    assert_eq!(question_of(&mut world).target, next.target);
}

/// The next question of a world that runs.
fn question_of(world: &mut World) -> ProbeRequest {
    world.silent = true;
    world.run(6);
    world.silent = false;
    let request = world.probes[0].clone();
    world.run(1);
    request
}

#[test]
fn a_probe_that_goes_astray_is_shown_and_its_answer_counts() {
    let mut world = World::settled(served(A, Forwarding::DsrIpip, &[VIP]));
    let target = question_of(&mut world).target;
    let why = Some("no way".to_owned());
    world.handle(Event::Astray {
        target,
        why: why.clone(),
    });
    world.run(2);
    assert_eq!(world.origin(A).path_problem, why);
    assert_eq!(world.serving(VIP), [A]);
    // The same question goes on after a change of something else.
    let mut config = served(A, Forwarding::DsrIpip, &[VIP]);
    config.monitors[0].interval *= 2;
    world.configure(config);
    assert_eq!(world.origin(A).path_problem, why);
    world.handle(Event::Astray { target, why: None });
    world.run(2);
    assert_eq!(world.origin(A).path_problem, None);
}
