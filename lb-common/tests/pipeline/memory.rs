//! Which memory a flow is in: established flows, which nothing evicts, and all others.

use super::*;
use lb_common::datapath::{DropReason, Pass};

const CLIENT: &str = "198.51.100.7:40000";

/// Where flows are, and how many of its origin are counted, after a packet.
#[track_caller]
fn stands(node: &Node, origin: &str, established: usize, tentative: usize, counted: u32) {
    assert_eq!(node.remembered(), (established, tentative));
    assert_eq!(node.established(origin), counted);
}

#[test]
fn a_connection_is_established_from_the_end_of_its_handshake_to_its_close() {
    let origin = "10.0.0.11:1";
    let mut node = Node::plain();
    let syn = node.tcp(CLIENT, WEB, SYN);
    stands(&node, origin, 0, 2, 0);
    // An acknowledgement that nobody asked for proves nothing.
    node.tcp(CLIENT, WEB, ACK);
    stands(&node, origin, 0, 2, 0);
    node.answer(&syn, SYN | ACK);
    stands(&node, origin, 0, 2, 0);
    node.tcp(CLIENT, WEB, ACK);
    stands(&node, origin, 2, 0, 1);
    node.tcp(CLIENT, WEB, FIN | ACK);
    stands(&node, origin, 2, 0, 1);
    node.answer(&syn, FIN | ACK);
    stands(&node, origin, 0, 2, 0);
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
    stands(&node, origin, 0, 2, 0);
}

#[test]
fn after_a_reset_it_stays_until_its_time_has_passed() {
    for from_client in [false, true] {
        let mut node = Node::plain();
        let syn = node.connect(CLIENT, WEB);
        let last = if from_client {
            node.tcp(CLIENT, WEB, RST)
        } else {
            node.answer(&syn, RST | ACK)
        };
        assert!(matches!(last.verdict, Verdict::Forward(_)));
        stands(&node, "10.0.0.11:1", 2, 0, 1);
        node.answer(&syn, RST);
        node.tcp(CLIENT, WEB, RST);
        stands(&node, "10.0.0.11:1", 2, 0, 1);
        node.pass_time(TIMEOUTS.tcp_closing + 1);
        let late = node.tcp(CLIENT, WEB, ACK);
        assert!(matches!(late.verdict, Verdict::Reply(..)), "{:?}", late.verdict);
        stands(&node, "10.0.0.11:1", 0, 0, 0);
    }
}

#[test]
fn both_sides_may_close_at_once() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    // The two cross each other, and each is acknowledged afterwards.
    node.answer(&syn, FIN | ACK);
    node.tcp(CLIENT, WEB, FIN | ACK);
    stands(&node, "10.0.0.11:1", 0, 2, 0);
    assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
    assert!(matches!(node.tcp(CLIENT, WEB, ACK).verdict, Verdict::Forward(_)));
}

#[test]
fn datagrams_are_established_by_an_answer() {
    let mut node = Node::plain();
    let first = node.udp(CLIENT, DNS);
    node.udp(CLIENT, DNS);
    stands(&node, "10.0.0.53:1", 0, 2, 0);
    assert!(matches!(node.answer(&first, 0).verdict, Verdict::Forward(_)));
    stands(&node, "10.0.0.53:1", 2, 0, 1);
    assert_eq!(node.udp(CLIENT, DNS).frame, first.frame);
}

#[test]
fn of_ipv6_alike() {
    let (client, web) = ("[2001:db8:c::7]:40000", "[2001:db8::10]:80");
    let mut node = Node::plain();
    let syn = node.connect(client, web);
    let tables = &node.0.scenario.tables;
    assert_eq!(
        (tables.flows6.borrow().len(), tables.tentative6.borrow().len()),
        (2, 0)
    );
    assert_eq!(node.established("[2001:db8:a::11]:1"), 1);
    node.close(&syn, client, web);
    let tables = &node.0.scenario.tables;
    assert_eq!(
        (tables.flows6.borrow().len(), tables.tentative6.borrow().len()),
        (0, 2)
    );
    assert_eq!(node.established("[2001:db8:a::11]:1"), 0);
}

#[test]
fn without_room_a_flow_goes_on_where_it_is() {
    for room in [2, 3] {
        let mut node = Node::new();
        node.0.scenario.tables.max_established = room;
        let first = node.connect(&client(1), WEB);
        assert_eq!(node.remembered(), (2, 0));
        let syn = node.tcp(&client(2), WEB, SYN);
        node.answer(&syn, SYN | ACK);
        let ack = node.tcp(&client(2), WEB, ACK);
        assert_eq!(ack.origin(), syn.origin());
        assert!(ack.moved.contains("notice flow_table_full 1"), "{}", ack.moved);
        assert_eq!(node.remembered(), (2, 2), "nothing is left of the attempt");
        let data = node.tcp(&client(2), WEB, ACK);
        assert!(!data.moved.contains("notice"), "{}", data.moved);
        // Once in a while it is tried again.
        node.close(&first, &client(1), WEB);
        node.pass_time(TIMEOUTS.tcp / 8 + 1);
        node.tcp(&client(2), WEB, ACK);
        assert_eq!(node.remembered(), (2, 2));
        assert_eq!(
            node.established(&syn.origin().to_string()),
            1,
            "the one that is open"
        );
    }
}

#[test]
fn what_evicts_others_leaves_established_flows_alone() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let first = node.udp(CLIENT, DNS);
    node.answer(&first, 0);
    for index in 0..50 {
        node.tcp(&client(index), WEB, SYN);
    }
    node.memory(Memory::Tentative).borrow_mut().clear();
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
    assert_eq!(node.udp(CLIENT, DNS).frame, first.frame);
    assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
}

#[test]
fn an_established_flow_that_has_expired_is_forgotten_by_its_next_packet() {
    for from_client in [false, true] {
        let mut node = Node::plain();
        let first = node.udp(CLIENT, DNS);
        node.answer(&first, 0);
        node.pass_time(TIMEOUTS.udp + 1);
        if from_client {
            assert!(node.udp(CLIENT, DNS).moved.contains("application 2 new 1"));
            stands(&node, "10.0.0.53:1", 0, 2, 0);
        } else {
            assert_eq!(node.answer(&first, 0).verdict, Verdict::Pass(Pass::NotOurs));
            stands(&node, "10.0.0.53:1", 0, 0, 0);
        }
    }
}

#[test]
fn a_source_port_is_taken_by_an_established_flow_as_well() {
    // There is a single one.
    let mut node = Node::plain();
    node.connect(&client(1), WEB);
    let refused = node.tcp(&client(2), WEB, SYN);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::PortsExhausted));
    stands(&node, "10.0.0.11:1", 2, 0, 1);
    node.pass_time(TIMEOUTS.tcp + 1);
    assert_eq!(node.tcp(&client(2), WEB, SYN).verdict, redirect(ORIGIN_SIDE));
    stands(&node, "10.0.0.11:1", 0, 2, 0);
    let ((key, _), _) = node.only();
    assert_eq!(key.source_port.host(), at(&client(2)).port());
}

#[test]
fn an_evicted_entry_does_not_come_back_when_its_port_went_to_an_established_flow() {
    let mut node = Node::plain();
    node.tcp(&client(1), WEB, SYN);
    let ((_, _), (back_key, _)) = node.only();
    node.forget(&back_key);
    node.connect(&client(2), WEB);
    node.pass_time(TIMEOUTS.tcp_handshake / 8 + 1);
    let late = node.tcp(&client(1), WEB, ACK);
    assert!(matches!(late.verdict, Verdict::Reply(..)), "{:?}", late.verdict);
    stands(&node, "10.0.0.11:1", 2, 0, 1);
}

#[test]
fn a_twin_that_was_swept_is_counted_again_when_it_comes_back() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    let ((key, flow), _) = node.only();
    // As the daemon does: it takes the entry, and then its count.
    node.forget(&key);
    node.0.scenario.tables.disestablish(flow.core.origin);
    node.pass_time(TIMEOUTS.tcp / 8 + 1);
    node.answer(&syn, ACK);
    stands(&node, "10.0.0.11:1", 2, 0, 1);
    node.close(&syn, CLIENT, WEB);
    stands(&node, "10.0.0.11:1", 0, 2, 0);
}

#[test]
fn a_flow_that_cannot_be_remembered_is_not_opened() {
    for to in [WEB, "203.0.113.10:90", "203.0.113.10:91"] {
        // Neither, or only one of its two entries.
        for room in [1, 2] {
            let mut node = Node::new();
            node.0.scenario.tables.max_tentative = room;
            node.tcp("198.51.100.1:1", "203.0.113.10:91", SYN);
            let before = node.remembered();
            let direct = to.ends_with("91");
            let syn = node.tcp(CLIENT, to, SYN);
            if direct && room == 2 {
                assert!(matches!(syn.verdict, Verdict::Forward(_)));
                continue;
            }
            assert_eq!(syn.verdict, Verdict::Drop(DropReason::NotRemembered));
            assert_eq!(syn.moved, "drop not_remembered 1");
            assert_eq!(node.remembered(), before);
        }
    }
}
