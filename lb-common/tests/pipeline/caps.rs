//! Origins that have as many flows as they may have.

use super::*;
use lb_common::abi::Load;
use lb_common::datapath::DropReason;
use lb_common::testing::rules::{FULL, MAX_FLOWS, ROOMY};
use lb_common::testing::scenario::{SILENT, app};

const SOME: &str = "203.0.113.10:87";
const ALL: &str = "203.0.113.10:87";

fn load(node: &Node, origin: &str, established: u32) {
    let id = node.0.scenario.origin_at(origin);
    let load = Load {
        established,
        reserved: 0,
    };
    node.0.scenario.tables.loads.borrow_mut().insert(id.0, load);
}

#[test]
fn a_full_origin_is_passed_over() {
    let mut node = Node::new();
    for number in 0..100 {
        let syn = node.tcp(&client(number), SOME, SYN);
        assert_eq!(syn.origin(), at(ROOMY[0]));
    }
    let six = node.tcp("[2001:db8:c::1]:5", "[2001:db8::10]:87", SYN);
    assert_eq!(six.origin(), at(ROOMY[1]));
}

#[test]
fn when_all_are_full_the_client_tries_again() {
    let mut node = Node::new();
    load(&node, ROOMY[0], MAX_FLOWS);
    for outcome in [node.tcp(&client(1), SOME, SYN), node.udp(&client(1), ALL)] {
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::OriginsFull));
        assert_eq!(outcome.moved, "drop origins_full 1");
    }
    // One flow less, and the next attempt is served.
    load(&node, FULL[0], MAX_FLOWS - 1);
    assert_eq!(node.tcp(&client(1), SOME, SYN).origin(), at(FULL[0]));
    assert_eq!(node.udp(&client(1), ALL).origin(), at(FULL[0]));
}

#[test]
fn the_pool_of_last_resort_comes_before_a_refusal() {
    let mut node = Node::new();
    let sorry = lb_common::abi::PoolId(3);
    node.0
        .scenario
        .edit(app::ALL_FULL, |application| application.fallback = sorry);
    assert_eq!(node.udp(&client(1), ALL).origin(), at("10.0.9.1:80"));
    node.record("10.0.9.1:1").max_flows = 1;
    load(&node, "10.0.9.1:1", 1);
    let refused = node.udp(&client(2), ALL);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::OriginsFull));
}

#[test]
fn flows_that_are_open_do_not_care() {
    let mut node = Node::new();
    let syn = node.connect(&client(1), SOME);
    load(&node, ROOMY[0], 100);
    assert_eq!(node.tcp(&client(1), SOME, ACK).origin(), syn.origin());
}

/// A neighbour that is missing is an operator's problem, and is told first.
#[test]
fn a_missing_neighbour_is_the_reason_that_is_given() {
    let mut node = Node::new();
    node.record(ROOMY[0]).hop = SILENT;
    let refused = node.tcp(&client(1), SOME, SYN);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::NoNextHop));
}

/// What nobody takes off would count for ever.
#[test]
fn without_the_daemon_there_are_no_caps() {
    let minute = 60 * 120_000;
    let mut node = Node::new();
    load(&node, ROOMY[0], MAX_FLOWS);
    node.pass_time(minute);
    let refused = node.udp(&client(1), ALL);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::OriginsFull));
    node.pass_time(1);
    assert_eq!(node.udp(&client(1), ALL).origin(), at(FULL[0]));
    assert!(matches!(
        node.tcp(&client(1), SOME, SYN).verdict,
        Verdict::Forward(_)
    ));
    // It is back, or its clock is a little ahead.
    for ahead in [0, 1] {
        node.0.scenario.tables.swept_at = node.0.now + ahead;
        let refused = node.udp(&client(2), ALL);
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::OriginsFull));
    }
    // It has never been there.
    node.0.scenario.tables.swept_at = 0;
    assert_eq!(node.udp(&client(2), ALL).origin(), at(FULL[0]));
}

#[test]
fn zero_is_no_cap() {
    let mut node = Node::new();
    node.record(FULL[0]).max_flows = 0;
    load(&node, FULL[0], u32::MAX);
    assert_eq!(node.udp(&client(1), ALL).origin(), at(FULL[0]));
}
