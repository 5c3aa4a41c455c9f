//! How many flows may be opened.

use super::*;
use lb_common::abi::{Rate, SourceKey};
use lb_common::datapath::DropReason;
use lb_common::testing::rules::ONE_FLOW;
use lb_common::testing::scenario::app;

const ONE: &str = "203.0.113.10:85";
/// Jiffies in a second of scenarios.
const SECOND: u32 = 120_000;

fn limited(outcome: &Outcome) -> bool {
    if outcome.verdict == Verdict::Drop(DropReason::RateLimited) {
        assert_eq!(outcome.moved, "drop rate_limited 1");
        return true;
    }
    assert!(
        matches!(outcome.verdict, Verdict::Forward(_)),
        "{:?}",
        outcome.verdict
    );
    false
}

/// So many flows a second.
fn per_second(flows: u64) -> Rate {
    Rate((u64::from(SECOND) << 32) / flows)
}

#[test]
fn an_application_opens_no_more_flows_than_it_may() {
    let mut node = Node::new();
    let syn = node.connect(&client(1), ONE);
    assert!(limited(&node.tcp(&client(2), ONE, SYN)));
    // Who is in is in, and others have limits of their own.
    assert_eq!(node.tcp(&client(1), ONE, ACK).origin(), syn.origin());
    assert!(!limited(&node.tcp(&client(2), WEB, SYN)));
}

#[test]
fn a_repeated_syn_opens_nothing_new() {
    let mut node = Node::new();
    let syn = node.tcp(&client(1), ONE, SYN);
    assert_eq!(node.tcp(&client(1), ONE, SYN).frame, syn.frame);
}

#[test]
fn a_source_opens_no_more_flows_than_it_may() {
    let mut node = Node::new();
    let first = node.udp("198.51.100.1:1000", ONE);
    assert_eq!(first.verdict, redirect(ORIGIN_SIDE));
    let second = node.udp("198.51.100.1:2000", ONE);
    assert_eq!(second.verdict, Verdict::Drop(DropReason::RateLimitedSource));
    assert_eq!(second.moved, "drop rate_limited_source 1");
    // The flow that is open, and another source.
    assert_eq!(node.udp("198.51.100.1:1000", ONE).frame, first.frame);
    assert_eq!(node.udp("198.51.100.2:1000", ONE).verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn an_ipv6_source_is_a_whole_network() {
    let to = "[2001:db8::10]:85";
    let mut node = Node::new();
    assert_eq!(
        node.udp("[2001:db8:7:8::1]:1000", to).verdict,
        redirect(ORIGIN_SIDE)
    );
    let neighbour = node.udp("[2001:db8:7:8:ffff::2]:1000", to);
    assert_eq!(neighbour.verdict, Verdict::Drop(DropReason::RateLimitedSource));
    assert_eq!(
        node.udp("[2001:db8:7:9::1]:1000", to).verdict,
        redirect(ORIGIN_SIDE)
    );
}

#[test]
fn a_second_allows_a_seconds_worth() {
    let mut node = Node::new();
    node.0
        .scenario
        .edit(app::ONE_FLOW, |application| application.rate = per_second(10));
    let opened = |node: &mut Node, from: usize| {
        let clients = from..from + 25;
        clients
            .filter(|&number| !limited(&node.tcp(&client(number), ONE, SYN)))
            .count()
    };
    assert_eq!(opened(&mut node, 0), 10);
    node.pass_time(SECOND / 2);
    assert_eq!(opened(&mut node, 100), 5);
    node.pass_time(60 * SECOND);
    assert_eq!(opened(&mut node, 200), 10);
}

#[test]
fn who_is_refused_by_one_limit_is_not_charged_by_another() {
    let mut node = Node::new();
    node.0
        .scenario
        .edit(app::ONE_FLOW, |application| application.source_rate = ONE_FLOW);
    let due = |node: &Node| node.0.scenario.tables.rates.borrow().get(&app::ONE_FLOW).copied();
    let source = |node: &Node, host: [u8; 4]| {
        let key = SourceKey {
            application: app::ONE_FLOW,
            address: std::net::IpAddr::from(host).into(),
        };
        node.0.scenario.tables.source_rates.borrow()[&key]
    };
    let now = u64::from(node.0.now) << 32;

    assert!(!limited(&node.tcp("198.51.100.1:1000", ONE, SYN)));
    let charged = due(&node);
    assert_eq!(charged, Some(now + ONE_FLOW.0));
    // Refused by its source's limit: the application's is as it was.
    let again = node.tcp("198.51.100.1:2000", ONE, SYN);
    assert_eq!(again.verdict, Verdict::Drop(DropReason::RateLimitedSource));
    assert_eq!(due(&node), charged);
    // Refused by the application's: its source's is as if it had never come.
    assert!(limited(&node.tcp("198.51.100.2:1000", ONE, SYN)));
    assert_eq!(source(&node, [198, 51, 100, 2]), now);
    node.0.scenario.tables.rates.borrow_mut().clear();
    assert!(!limited(&node.tcp("198.51.100.2:1000", ONE, SYN)));
}

#[test]
fn what_opens_nothing_is_not_charged() {
    let mut node = Node::new();
    for packet in [
        PacketBuilder::tcp(at(&client(1)), at(ONE), ACK),
        PacketBuilder::tcp(at(&client(1)), at(ONE), SYN).ttl(1),
        PacketBuilder::tcp(at("198.51.100.11:1"), at(ONE), SYN),
    ] {
        let outcome = node.send(&packet);
        assert!(
            !matches!(outcome.verdict, Verdict::Forward(_)),
            "{:?}",
            outcome.verdict
        );
    }
    assert!(!limited(&node.tcp(&client(1), ONE, SYN)));
}
