//! The filter of established flows: what it spares, and that nobody goes unfound because of it.

use super::*;
use lb_common::datapath::DropReason;

const CLIENT: &str = "198.51.100.7:40000";
const OTHER: &str = "198.51.100.8:40000";

impl Node {
    /// As a sweep does, with a packet of nobody in between.
    fn sweep(&mut self) {
        self.0.scenario.tables.begin_filter();
        self.tcp("198.51.100.99:1", "203.0.113.10:1", SYN);
        self.0.scenario.tables.end_filter();
    }

    fn hidden(&self) -> usize {
        let tables = &self.0.scenario.tables;
        tables.hidden(tables.settings.hash_key)
    }
}

#[test]
fn what_a_syn_does_to_an_established_flow_does_not_depend_on_sweeps() {
    let outcomes = [0, 1, 2, 3].map(|sweeps| {
        let mut node = Node::plain();
        let syn = node.connect(CLIENT, WEB);
        (0..sweeps).for_each(|_| node.sweep());
        // Only its origin knows whether a connection is over that seems to be reset.
        node.tcp(CLIENT, WEB, RST);
        (0..sweeps).for_each(|_| node.sweep());
        let asked = node.tcp(CLIENT, WEB, SYN);
        assert_eq!(see(&asked.frame).source, see(&syn.frame).source);
        assert_eq!((node.remembered(), node.hidden()), ((2, 0), 0));
        let answer = node.answer(&asked, ACK);
        (asked.verdict, asked.moved, answer.verdict)
    });
    assert!(
        outcomes.iter().all(|outcome| *outcome == outcomes[0]),
        "{outcomes:?}"
    );
}

#[test]
fn a_port_of_an_established_flow_is_not_given_away() {
    let mut node = Node::plain();
    let exhausted = Verdict::Drop(DropReason::PortsExhausted);
    let syn = node.connect(CLIENT, WEB);
    for _ in 0..4 {
        assert_eq!(node.tcp(OTHER, WEB, SYN).verdict, exhausted);
        node.sweep();
    }
    node.close(&syn, CLIENT, WEB);
    node.pass_time(TIMEOUTS.tcp_closing + 1);
    assert!(matches!(node.tcp(OTHER, WEB, SYN).verdict, Verdict::Forward(_)));
}

#[test]
fn flows_that_began_while_a_sweep_went_on_are_found() {
    let mut node = Node::new();
    for round in 0..4 {
        let clients = [round * 3, round * 3 + 1, round * 3 + 2].map(client);
        node.connect(&clients[0], WEB);
        node.0.scenario.tables.begin_filter();
        node.connect(&clients[1], WEB);
        node.0.scenario.tables.end_filter();
        node.connect(&clients[2], WEB);
        assert_eq!(node.hidden(), 0, "{round}");
    }
}

/// It is asked, in place of the flow tables: otherwise the other tests would tell nothing.
#[test]
fn what_nobody_announced_is_not_found_by_a_syn() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, RST);
    let flows = node.memory(Memory::Established).take();
    node.sweep();
    node.sweep();
    *node.memory(Memory::Established).borrow_mut() = flows;
    assert_eq!(node.hidden(), 2);
    // It gets a flow of its own, with the port of the other.
    let second = node.tcp(CLIENT, WEB, SYN);
    assert_eq!(see(&second.frame).source, see(&syn.frame).source);
    assert_eq!(node.remembered(), (2, 2));
    // Other packets do not ask.
    assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
}

#[test]
#[should_panic(expected = "an entry that was not announced")]
fn an_entry_that_is_not_announced_is_noticed() {
    let node = Node::plain();
    let key = FlowKey4::default();
    let _ = node
        .0
        .scenario
        .tables
        .insert4(Memory::Established, &key, &Flow4::default());
}
