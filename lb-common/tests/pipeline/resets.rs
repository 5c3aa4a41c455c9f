//! Resets, closes and SYNs that may be a stranger's, who guesses addresses and ports: the ends know, the node does not.

use super::*;
use lb_common::datapath::{DropReason, Pass};

const CLIENT: &str = "198.51.100.7:40000";
/// Of a connection to [`WEB`] in [`Node::plain`].
const ORIGIN: &str = "10.0.0.11:1";
/// An application whose origins answer clients directly.
const DIRECT: &str = "203.0.113.10:91";

fn closing(node: &Node) -> bool {
    node.entries(FlowSide::CLIENT)
        .iter()
        .all(|(_, flow)| flow.core.tcp.closing())
}

/// All that may be evicted is: a flood has come.
fn flood(node: &Node) {
    node.memory(Memory::Tentative).borrow_mut().clear();
}

/// As long as a client waits before it repeats a SYN.
fn wait(node: &mut Node) {
    node.pass_time(node.0.scenario.tables.settings.second / 2 + 1);
}

#[test]
fn a_connection_that_goes_on_after_a_reset_is_not_over() {
    for from_client in [false, true] {
        let mut node = Node::plain();
        let syn = node.connect(CLIENT, WEB);
        let reset = if from_client {
            node.tcp(CLIENT, WEB, RST)
        } else {
            node.answer(&syn, RST)
        };
        assert!(
            matches!(reset.verdict, Verdict::Forward(_)),
            "for the ends to judge"
        );
        assert!(closing(&node));
        flood(&node);
        assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
        assert!(closing(&node), "one side has been heard");
        assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
        // The other side's entry knows as well.
        assert!(!closing(&node));
        let ((_, flow), (_, back)) = node.only();
        assert_eq!(flow.core.tcp, back.core.tcp);
        assert_eq!((node.remembered(), node.established(ORIGIN)), ((2, 0), 1));
        // It may be idle for as long as any other.
        node.pass_time(TIMEOUTS.tcp);
        assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
        // And closes like any other.
        node.tcp(CLIENT, WEB, FIN | ACK);
        node.answer(&syn, FIN | ACK);
        assert_eq!((node.remembered(), node.established(ORIGIN)), ((0, 2), 0));
    }
}

#[test]
fn one_side_alone_keeps_a_reset_connection_no_longer_than_it_talks() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, RST);
    // What was on its way, or is repeated.
    for _ in 0..5 {
        node.pass_time(TIMEOUTS.tcp_closing / 2);
        assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
        assert!(closing(&node));
    }
    node.pass_time(TIMEOUTS.tcp_closing + 1);
    assert_eq!(node.answer(&syn, ACK).verdict, Verdict::Pass(Pass::NotOurs));
    assert_eq!((node.remembered(), node.established(ORIGIN)), ((0, 0), 0));
}

#[test]
fn resets_without_end_do_not_end_a_connection_that_talks() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    for round in 0..20 {
        node.tcp(CLIENT, WEB, RST);
        flood(&node);
        node.pass_time(TIMEOUTS.tcp_closing / 2);
        if round % 2 == 0 {
            assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
        } else {
            assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
        }
    }
}

#[test]
fn of_ipv6_alike() {
    let (client, web) = ("[2001:db8:c::7]:40000", "[2001:db8::10]:80");
    let mut node = Node::plain();
    let syn = node.connect(client, web);
    node.tcp(client, web, RST);
    assert_eq!(node.tcp(client, web, SYN).frame, syn.frame);
    node.answer(&syn, ACK);
    node.tcp(client, web, ACK);
    let flows = node.0.scenario.tables.flows6.borrow();
    assert_eq!(flows.len(), 2);
    assert!(flows.values().all(|flow| !flow.core.tcp.closing()));
}

/// A stranger resets a connection, and opens one in its place: the origin knows better, and says so (RFC 5961).
#[test]
fn a_syn_after_a_reset_does_not_take_a_living_connections_place() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let before = node.only();
    for state in [OriginState::UP, OriginState::DRAINING, OriginState::DOWN] {
        node.set_state(&syn.origin().to_string(), state);
        node.tcp(CLIENT, WEB, RST);
        // However long the stranger goes on, and even while the origin says nothing for a while, as it may.
        for _ in 0..2 {
            assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, syn.frame, "{state:?}");
        }
        wait(&mut node);
        assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, syn.frame);
        assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
        for _ in 0..2 {
            wait(&mut node);
            assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, syn.frame);
        }
        // After another reset it has its time anew.
        for _ in 0..2 {
            node.tcp(CLIENT, WEB, RST);
            wait(&mut node);
            assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, syn.frame);
        }
        assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
        assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
        assert!(!closing(&node));
    }
    let after = node.only();
    assert_eq!((before.0.0, before.1.0), (after.0.0, after.1.0));
    assert_eq!(after.0.1.core.asked, 0);
}

#[test]
fn a_client_that_has_reset_its_connection_opens_another_from_the_same_port() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, RST);
    node.pass_time(10);
    let again = node.tcp(CLIENT, WEB, SYN);
    assert_eq!(again.frame, syn.frame);
    assert!(again.moved.contains("application 1 new 1"), "{}", again.moved);
    assert!(
        !node.tcp(CLIENT, WEB, SYN).moved.contains("new"),
        "it is repeated"
    );
    // Its handshake is not complete, and so it is not protected any more.
    assert!(matches!(
        node.answer(&syn, SYN | ACK).verdict,
        Verdict::Forward(_)
    ));
    assert_eq!((node.remembered(), node.established(ORIGIN)), ((0, 2), 0));
    node.tcp(CLIENT, WEB, ACK);
    assert_eq!((node.remembered(), node.established(ORIGIN)), ((2, 0), 1));
    let ((_, flow), (_, back)) = node.only();
    assert_eq!(flow.core.tcp, back.core.tcp);
    assert!(!flow.core.tcp.closing());
    node.pass_time(TIMEOUTS.tcp_closing + 1);
    assert!(matches!(node.answer(&syn, ACK).verdict, Verdict::Forward(_)));
}

#[test]
fn an_origin_that_does_not_answer_has_lost_the_connection() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, RST);
    // As Linux repeats it: after one second, and after three.
    for _ in 0..2 {
        assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
        wait(&mut node);
    }
    let third = node.tcp(CLIENT, WEB, SYN);
    assert_ne!(third.origin(), syn.origin());
    assert!(third.moved.contains("application 1 new 1"), "{}", third.moved);
    assert_eq!(node.remembered(), (0, 2));
    assert_eq!(node.established(&syn.origin().to_string()), 0);
}

#[test]
fn an_origin_that_drains_gets_no_connection_by_this_way() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let origin = syn.origin().to_string();
    node.tcp(CLIENT, WEB, RST);
    node.set_state(&origin, OriginState::DRAINING);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
    // It has lost the old one: its answer is the kernel's to refuse.
    assert_eq!(node.answer(&syn, SYN | ACK).verdict, Verdict::Pass(Pass::NotOurs));
    assert_eq!((node.remembered(), node.established(&origin)), ((0, 0), 0));
    assert_ne!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
    // Nothing is asked of one whose time is over.
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, RST);
    node.set_state(&syn.origin().to_string(), OriginState::ENDED);
    assert_ne!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
}

#[test]
fn such_a_syn_is_admitted_like_any_other() {
    let mut node = Node::new();
    let to = "203.0.113.10:85";
    let syn = node.connect(CLIENT, to);
    node.tcp(CLIENT, to, RST);
    for _ in 0..2 {
        let limited = node.tcp(CLIENT, to, SYN);
        assert_eq!(limited.verdict, Verdict::Drop(DropReason::RateLimited));
        wait(&mut node);
    }
    // And the origin has not been asked.
    assert_eq!(node.only().0.1.core.asked, 0);
    assert_eq!(node.tcp(CLIENT, to, ACK).origin(), syn.origin());
    // On a range of ports alike, and where nobody listens any more it is for nobody.
    let to = "203.0.113.10:6050";
    let syn = node.connect(CLIENT, to);
    node.tcp(CLIENT, to, RST);
    assert_eq!(node.tcp(CLIENT, to, SYN).frame, syn.frame);
    node.0.scenario.tables.applications.clear();
    assert_eq!(node.tcp(CLIENT, to, SYN).verdict, Verdict::Pass(Pass::NotOurs));
}

#[test]
fn a_reset_gives_no_source_port_to_others() {
    // There is a single one.
    let mut node = Node::plain();
    let syn = node.connect(&client(1), WEB);
    node.tcp(&client(1), WEB, RST);
    node.pass_time(TIMEOUTS.tcp_closing);
    let refused = node.tcp(&client(2), WEB, SYN);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::PortsExhausted));
    assert_eq!(node.tcp(&client(1), WEB, ACK).origin(), syn.origin());
    node.pass_time(TIMEOUTS.tcp_closing + 1);
    assert_eq!(node.tcp(&client(2), WEB, SYN).verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn without_room_a_connection_outlives_a_reset_where_it_is() {
    let mut node = Node::plain();
    node.0.scenario.tables.max_established = 1;
    let syn = node.connect(CLIENT, WEB);
    assert_eq!(node.remembered(), (0, 2));
    node.tcp(CLIENT, WEB, RST);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, syn.frame);
    node.0.scenario.tables.max_established = 0;
    node.answer(&syn, ACK);
    node.tcp(CLIENT, WEB, ACK);
    assert_eq!((node.remembered(), node.established(ORIGIN)), ((2, 0), 1));
}

/// The handshake of a refused connection is no connection.
#[test]
fn a_connection_that_was_refused_is_opened_anew() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    node.answer(&syn, RST | ACK);
    let again = node.tcp(CLIENT, WEB, SYN);
    assert!(again.moved.contains("application 1 new 1"), "{}", again.moved);
    assert_eq!(node.only().0.1.core.asked, 0);
}

/// A direct connection to an origin that no new one would be given: what says so.
fn direct() -> (Node, u32) {
    let mut node = Node::new();
    node.tcp(CLIENT, DIRECT, SYN);
    let (_, flow) = node.entries(FlowSide::CLIENT)[0];
    node.0
        .scenario
        .tables
        .origins
        .get_mut(&flow.core.origin)
        .unwrap()
        .state = OriginState::DRAINING;
    node.tcp(CLIENT, DIRECT, ACK);
    // It is established with its second segment at the latest.
    node.tcp(CLIENT, DIRECT, ACK);
    assert_eq!(node.remembered(), (1, 0));
    (node, flow.core.origin.0)
}

fn data(node: &mut Node) -> Outcome {
    node.send(&PacketBuilder::tcp(at(CLIENT), at(DIRECT), ACK).payload(b"data"))
}

#[track_caller]
fn went_to(outcome: &Outcome, origin: u32) {
    assert!(
        outcome.moved.contains(&format!("origin {origin} in 1")),
        "{}",
        outcome.moved
    );
}

#[test]
fn a_direct_connection_whose_client_goes_on_is_not_over() {
    for last in [RST, FIN | ACK] {
        let (mut node, origin) = direct();
        went_to(&node.tcp(CLIENT, DIRECT, last), origin);
        assert!(closing(&node));
        if last == RST {
            // Whose word that was is not known; after a close it is found again by its hash, at worst.
            flood(&node);
        }
        went_to(&data(&mut node), origin);
        assert!(!closing(&node));
        assert_eq!(node.remembered(), (1, 0));
        node.pass_time(TIMEOUTS.tcp);
        went_to(&data(&mut node), origin);
        let id = lb_common::abi::OriginId(origin);
        assert_eq!(node.0.scenario.tables.established(id), 1);
    }
}

#[test]
fn a_direct_connection_that_is_closed_ends() {
    for last in [RST, FIN | ACK] {
        let (mut node, origin) = direct();
        node.tcp(CLIENT, DIRECT, last);
        if last != RST {
            // The acknowledgement of the origin's own close.
            went_to(&node.tcp(CLIENT, DIRECT, ACK), origin);
            assert_eq!(node.remembered(), (0, 1));
        }
        assert!(closing(&node));
        node.pass_time(TIMEOUTS.tcp_closing + 1);
        let syn = node.tcp(CLIENT, DIRECT, SYN);
        assert!(syn.moved.contains("new 1"), "{}", syn.moved);
        assert!(!syn.moved.contains(&format!("origin {origin} ")), "{}", syn.moved);
    }
}

#[test]
fn a_syn_does_not_take_a_direct_connections_place() {
    for last in [RST, FIN | ACK] {
        let (mut node, origin) = direct();
        node.tcp(CLIENT, DIRECT, last);
        let syn = node.tcp(CLIENT, DIRECT, SYN);
        went_to(&syn, origin);
        assert!(
            syn.moved.contains(&format!("origin {origin} new 1")),
            "{}",
            syn.moved
        );
        for _ in 0..2 {
            wait(&mut node);
            let again = node.tcp(CLIENT, DIRECT, SYN);
            went_to(&again, origin);
            assert!(!again.moved.contains("new"), "{}", again.moved);
        }
        // Either connection goes on by this.
        went_to(&node.tcp(CLIENT, DIRECT, ACK), origin);
        assert!(!closing(&node));
        assert_eq!(node.remembered(), (1, 0));
        // One that is not there opens nothing, and has nothing.
        node.tcp(CLIENT, DIRECT, last);
        for record in node.0.scenario.tables.origins.values_mut() {
            if record.state == OriginState::DRAINING {
                record.state = OriginState::DOWN;
            }
        }
        let syn = node.tcp(CLIENT, DIRECT, SYN);
        assert!(!syn.moved.contains(&format!("origin {origin} ")), "{}", syn.moved);
    }
}
