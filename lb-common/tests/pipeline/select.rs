//! Which origin a new flow gets.

use super::*;
use lb_common::abi::{HopId, Steering};
use lb_common::datapath::{DropReason, Reply};
use std::collections::BTreeMap;

/// How many of `flows` clients each origin gets.
fn shares(node: &mut Node, to: &str, flows: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for index in 0..flows {
        let origin = node.tcp(&client(index), to, SYN).origin();
        *shares.entry(origin.ip().to_string()).or_default() += 1;
    }
    shares
}

#[track_caller]
fn about(count: usize, of: usize, parts: usize, total: usize) {
    let wanted = of * parts / total;
    assert!(
        count.abs_diff(wanted) < of / 20,
        "{count} of {of}, not about {wanted}"
    );
}

#[test]
fn origins_share_by_weight() {
    let mut node = Node::new();
    let shares = shares(&mut node, WEB, 4000);
    assert_eq!(shares.len(), 2, "{shares:?}");
    about(shares["10.0.0.11"], 4000, 2, 3);
}

#[test]
fn pools_share_by_weight() {
    let mut node = Node::new();
    let shares = shares(&mut node, WEIGHTED, 4000);
    assert_eq!(shares.len(), 3, "{shares:?}");
    about(shares["10.0.1.11"], 4000, 1, 4);
    about(shares["10.0.0.11"], 4000, 2, 4);
}

#[test]
fn the_choice_of_a_pool_is_not_the_choice_of_its_origin() {
    let mut node = Node::new();
    let members = ["10.0.0.11:1", "10.0.0.12:1"].map(|origin| (node.0.scenario.origin_at(origin), 1));
    let even = node.0.scenario.pool(&members);
    let other = node
        .0
        .scenario
        .pool(&[(node.0.scenario.origin_at("10.0.1.11:1"), 1)]);
    let none = lb_common::abi::PoolId::NONE;
    let tcp = lb_common::abi::Protocol::TCP;
    node.0
        .scenario
        .application(9, tcp, at(WEIGHTED), &[even, other], none);
    for application in node.0.scenario.tables.applications.values_mut() {
        if application.id == 9 {
            (application.pools.steering, application.pools.extent) = (Steering::WEIGHTED, 1);
        }
    }
    let shares = shares(&mut node, WEIGHTED, 1000);
    about(shares["10.0.1.11"], 1000, 2, 4);
    about(shares["10.0.0.11"], 1000, 1, 4);
    about(shares["10.0.0.12"], 1000, 1, 4);
}

#[test]
fn the_same_client_gets_the_same_origin_from_any_port() {
    let mut node = Node::new();
    let mut origins = BTreeMap::new();
    for index in 0..200 {
        let host = format!("198.18.0.{}", index % 20);
        let origin = node
            .udp(&format!("{host}:{}", 1000 + index), "203.0.113.10:443")
            .origin();
        assert_eq!(*origins.entry(host).or_insert(origin), origin);
    }
    let distinct: std::collections::BTreeSet<_> = origins.values().collect();
    assert_eq!(distinct.len(), 3, "clients differ");
}

#[test]
fn the_share_of_an_origin_that_went_down_goes_to_its_pool() {
    let mut node = Node::new();
    node.set_state("10.0.0.11:1", OriginState::DOWN);
    let shares = shares(&mut node, WEB, 500);
    // A table of two origins, one of them down: a few clients try it eight times and go to the next pool.
    assert!(shares["10.0.0.12"] > 450, "{shares:?}");
    assert!(!shares.contains_key("10.0.0.11"), "{shares:?}");
}

#[test]
fn then_the_next_pool_then_the_fallback_pool() {
    let mut node = Node::new();
    for origin in ["10.0.0.11:1", "10.0.0.12:1"] {
        node.set_state(origin, OriginState::DOWN);
    }
    assert_eq!(node.tcp(&client(1), WEB, SYN).origin(), at("10.0.1.11:80"));
    node.set_state("10.0.1.11:1", OriginState::DRAINING);
    assert_eq!(node.tcp(&client(2), WEB, SYN).origin(), at("10.0.9.1:80"));
}

#[test]
fn the_fallback_pools_health_is_ignored_but_not_its_draining() {
    let mut node = Node::new();
    for origin in ["10.0.0.11:1", "10.0.0.12:1", "10.0.1.11:1", "10.0.9.1:1"] {
        node.set_state(origin, OriginState::DOWN);
    }
    assert_eq!(node.tcp(&client(1), WEB, SYN).origin(), at("10.0.9.1:80"));
    for state in [OriginState::DRAINING, OriginState::ABSENT] {
        node.set_state("10.0.9.1:1", state);
        assert_eq!(
            node.tcp(&client(2), WEB, SYN).verdict,
            Verdict::Reply(Reply::ResetNoOrigin, Exit::Transmit)
        );
    }
}

#[test]
fn an_origin_without_a_next_hop_is_skipped() {
    let mut node = Node::new();
    node.record("10.0.0.11:1").hop = HopId::UNRESOLVED;
    node.record("10.0.1.11:1").hop = lb_common::testing::scenario::SILENT;
    let shares = shares(&mut node, WEIGHTED, 300);
    assert!(!shares.contains_key("10.0.0.11"), "{shares:?}");
    assert!(!shares.contains_key("10.0.1.11"), "{shares:?}");
}

#[test]
fn an_origin_without_a_port_gets_the_applications() {
    let mut node = Node::new();
    node.set_state("10.0.0.11:1", OriginState::DOWN);
    node.set_state("10.0.0.12:1", OriginState::DOWN);
    for application in node.0.scenario.tables.applications.values_mut() {
        application.origin_port = lb_common::abi::Port::new(1234);
    }
    assert_eq!(node.tcp(&client(1), WEB, SYN).origin(), at("10.0.1.11:1234"));
}

#[test]
fn a_family_gets_origins_of_its_own_family_only() {
    let mut node = Node::new();
    for origin in ["[2001:db8:a::11]:1", "[2001:db8:a::12]:1", "[2001:db8:b::11]:1"] {
        node.set_state(origin, OriginState::DOWN);
    }
    let syn = node.tcp("[2001:db8:c::1]:5", "[2001:db8::10]:80", SYN);
    assert_eq!(syn.origin(), at("[2001:db8:9::1]:80"));
}

#[test]
fn a_wrong_kind_of_source_address_is_none() {
    let mut node = Node::new();
    node.record("10.0.0.11:1").snat_base = 2;
    node.record("10.0.0.12:1").snat_base = 2;
    assert_eq!(
        node.tcp(&client(1), WEB, SYN).verdict,
        Verdict::Drop(DropReason::NoSourceAddress)
    );
}

/// Repeats a SYN that nobody has answered, after a second.
fn repeat(node: &mut Node, client: &str, to: &str) -> std::net::SocketAddr {
    node.pass_time(node.0.scenario.tables.settings.second);
    node.tcp(client, to, SYN).origin()
}

#[test]
fn an_origin_that_does_not_answer_is_avoided_within_its_pool() {
    let mut node = Node::new();
    for number in 0..50 {
        let first = node.tcp(&client(number), WEB, SYN).origin();
        let second = repeat(&mut node, &client(number), WEB);
        assert_ne!(second, first);
        assert_ne!(second, at("10.0.1.11:80"), "another pool's");
        assert_eq!(repeat(&mut node, &client(number), WEB), first);
    }
}

#[test]
fn the_only_origin_of_a_pool_is_tried_again() {
    let mut node = Node::new();
    node.set_state("10.0.0.12:1", OriginState::DOWN);
    let first = node.tcp(&client(1), WEB, SYN).origin();
    assert_eq!(repeat(&mut node, &client(1), WEB), first);
}

#[test]
fn a_client_that_is_bound_to_a_silent_origin_is_bound_anew() {
    let mut node = Node::new();
    let affine = "203.0.113.10:86";
    let first = node.tcp("198.51.100.7:1000", affine, SYN).origin();
    let second = repeat(&mut node, "198.51.100.7:1000", affine);
    assert_ne!(second, first);
    assert_eq!(node.tcp("198.51.100.7:2000", affine, SYN).origin(), second);
}

/// One flow, however often its client has to ask for it.
#[test]
fn an_avoided_origin_costs_no_second_flow_of_the_rate() {
    let mut node = Node::new();
    let to = "203.0.113.10:85";
    let first = node.tcp(&client(1), to, SYN).origin();
    assert_ne!(repeat(&mut node, &client(1), to), first);
    assert_eq!(
        node.tcp(&client(2), to, SYN).verdict,
        Verdict::Drop(DropReason::RateLimited)
    );
}
