//! Source ports of new flows.

use super::*;
use lb_common::abi::PortRange;
use lb_common::datapath::DropReason;
use std::collections::BTreeSet;

/// A node with so many source ports on one address.
fn with_ports(count: u16) -> Node {
    let mut scenario = Scenario::plain();
    scenario.tables.settings.snat_ports = PortRange { first: 20_000, count };
    Node(Host::new(scenario))
}

#[test]
fn flows_to_one_origin_get_different_ports_of_the_range() {
    let mut node = with_ports(500);
    let mut ports = BTreeSet::new();
    for index in 0..300 {
        let syn = node.tcp(&client(index), WEB, SYN);
        let source = see(&syn.frame).source;
        assert!((20_000..20_500).contains(&source.port()), "{source}");
        assert!(ports.insert(source), "{source} is given twice");
    }
    assert_eq!(node.entries(FlowSide::ORIGIN).len(), 300);
}

#[test]
fn a_range_may_end_at_the_last_port() {
    let mut node = with_ports(16);
    node.0.scenario.tables.settings.snat_ports.first = 65_520;
    for index in 0..8 {
        let source = see(&node.tcp(&client(index), WEB, SYN).frame).source;
        assert!(source.port() >= 65_520, "{source}");
    }
}

#[test]
fn when_all_ports_are_taken_a_flow_is_refused_and_nothing_is_left_of_it() {
    let mut node = with_ports(4);
    let mut refused = 0;
    for index in 0..100 {
        let syn = node.tcp(&client(index), WEB, SYN);
        if syn.verdict == Verdict::Drop(DropReason::PortsExhausted) {
            assert_eq!(syn.moved, "drop ports_exhausted 1");
            refused += 1;
        }
    }
    assert_eq!(refused, 96);
    assert_eq!(node.0.scenario.tables.tentative4.borrow().len(), 8);
}

#[test]
fn other_origins_have_ports_of_their_own() {
    let mut node = with_ports(1);
    assert_eq!(see(&node.tcp(&client(1), WEB, SYN).frame).source.port(), 20_000);
    assert_eq!(see(&node.udp(&client(1), DNS).frame).source.port(), 20_000);
}

#[test]
fn an_expired_flow_gives_its_port_back() {
    let mut node = with_ports(1);
    node.tcp(&client(1), WEB, SYN);
    node.pass_time(TIMEOUTS.tcp_handshake + 1);
    let syn = node.tcp(&client(2), WEB, SYN);
    assert_eq!(syn.verdict, redirect(ORIGIN_SIDE));
    let ((key, _), _) = node.only();
    assert_eq!(key.source_port.host(), at(&client(2)).port());
}

#[test]
fn an_idle_flow_keeps_its_port_until_it_expires() {
    let mut node = with_ports(1);
    node.tcp(&client(1), WEB, SYN);
    node.pass_time(TIMEOUTS.tcp_handshake);
    let syn = node.tcp(&client(2), WEB, SYN);
    assert_eq!(syn.verdict, Verdict::Drop(DropReason::PortsExhausted));
    assert_eq!(node.tcp(&client(1), WEB, SYN).verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn a_closed_connection_gives_its_port_up_when_no_other_is_left() {
    let mut node = with_ports(1);
    let closing = TIMEOUTS.tcp_closing;
    node.tcp(&client(1), WEB, SYN);
    node.tcp(&client(1), WEB, RST);
    node.pass_time(closing >> 4);
    assert_eq!(
        node.tcp(&client(2), WEB, SYN).verdict,
        Verdict::Drop(DropReason::PortsExhausted)
    );
    node.pass_time(1);
    assert_eq!(node.tcp(&client(2), WEB, SYN).verdict, redirect(ORIGIN_SIDE));
    let ((key, _), _) = node.only();
    assert_eq!(key.source_port.host(), at(&client(2)).port());
}

#[test]
fn a_client_keeps_to_one_source_address_and_clients_share_them() {
    let mut node = Node::new();
    let mut addresses = BTreeSet::new();
    for host in 0..20 {
        let source = |node: &mut Node, port| {
            let syn = node.tcp(&format!("198.18.0.{host}:{port}"), WEB, SYN);
            see(&syn.frame).source.ip()
        };
        let address = source(&mut node, 1000);
        assert_eq!(source(&mut node, 2000), address);
        addresses.insert(address);
    }
    assert_eq!(addresses.len(), 2);
}

#[test]
fn a_node_without_source_ports_opens_nothing() {
    let mut node = with_ports(0);
    let syn = node.tcp(&client(1), WEB, SYN);
    assert_eq!(syn.verdict, Verdict::Drop(DropReason::PortsExhausted));
}
