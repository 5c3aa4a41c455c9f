//! Origins whose connections are ended, and those that do not answer.

use super::*;
use lb_common::abi::{OriginFlags, TcpState};
use lb_common::datapath::{DropReason, Reply};
use lb_common::testing::build::{CLIENT_MAC, NODE_MAC};
use lb_common::testing::check;

const CLIENT: &str = "198.51.100.7:40000";
const ORIGIN: &str = "10.0.0.11:8080";

/// A connection to [`ORIGIN`], whose time is over by now: what became of its SYN.
fn ended(node: &mut Node) -> Outcome {
    let syn = node.connect(CLIENT, WEB);
    assert_eq!(syn.origin(), at(ORIGIN));
    node.set_state(ORIGIN, OriginState::ENDED);
    syn
}

fn reset_ended(exit: Exit) -> Verdict {
    Verdict::Reply(Reply::ResetEnded, exit)
}

#[test]
fn the_first_packet_tells_its_receiver_and_then_its_sender_is_told() {
    let mut node = Node::plain();
    let syn = ended(&mut node);
    let data = PacketBuilder::tcp(at(CLIENT), at(WEB), ACK | 8)
        .numbers(1000, 2000)
        .options(&[1; 8])
        .tcp_options(&[1; 12])
        .tags(&[7])
        .payload(b"a request")
        .padding(9);
    let first = node.send(&data);
    assert_eq!(first.moved, "reply reset_ended 1");
    let left = see(&first.frame);
    assert_eq!(
        (left.source, left.destination),
        (see(&syn.frame).source, at(ORIGIN))
    );
    assert_eq!(
        (left.flags, left.sequence, left.acknowledgment),
        (RST | ACK, 1000, 2000)
    );
    assert_eq!((left.payload.len(), left.padding), (0, 0));
    assert_eq!((left.tags.len(), left.link_destination), (0, ORIGIN_MAC));
    assert_eq!(node.remembered(), (0, 2));
    assert_eq!(node.established(ORIGIN), 0);
    for (_, flow) in [FlowSide::CLIENT, FlowSide::ORIGIN].map(|side| node.entries(side)[0]) {
        assert!(flow.core.tcp.has(TcpState::ENDED));
    }

    // Both send on, because what was on its way does not know yet.
    let again = node.send(&data);
    assert_eq!(again.verdict, reset_ended(Exit::Transmit));
    check::check(
        &again.frame,
        &[
            check::from(at(WEB)),
            check::to(at(CLIENT)),
            check::flags(RST),
            check::numbers(2000, 0),
            check::link(NODE_MAC, CLIENT_MAC),
        ],
    );
    let answer = node.answer(&syn, ACK);
    assert_eq!(answer.verdict, reset_ended(Exit::Transmit));
    assert_eq!(see(&answer.frame).destination, at(ORIGIN));
    // Nobody answers a reset.
    assert_eq!(
        node.tcp(CLIENT, WEB, RST).verdict,
        Verdict::Drop(DropReason::UnknownFlow)
    );
    let next = node.tcp(CLIENT, WEB, SYN);
    assert_ne!(next.origin(), at(ORIGIN));
}

#[test]
fn the_origins_packet_may_come_first() {
    let mut node = Node::plain();
    let syn = ended(&mut node);
    let seen = see(&syn.frame);
    let data = PacketBuilder::tcp(seen.destination, seen.source, ACK)
        .numbers(77, 88)
        .payload(b"news")
        .link(ORIGIN_MAC, ORIGIN_NODE_MAC);
    let first = node.receive(ORIGIN_SIDE, &data.frame());
    assert_eq!(
        first.verdict,
        reset_ended(Exit::Redirect { ifindex: CLIENT_SIDE })
    );
    check::check(
        &first.frame,
        &[
            check::from(at(WEB)),
            check::to(at(CLIENT)),
            check::flags(RST | ACK),
            check::numbers(77, 88),
            check::payload(b""),
            check::link(NODE_MAC, CLIENT_MAC),
        ],
    );
    let more = node.receive(ORIGIN_SIDE, &data.frame());
    assert_eq!(more.verdict, reset_ended(Exit::Transmit));
    assert_eq!(see(&more.frame).sequence, 88);
    assert_eq!(node.tcp(CLIENT, WEB, ACK).verdict, reset_ended(Exit::Transmit));
}

#[test]
fn of_ipv6_alike() {
    let (client, web) = ("[2001:db8:c::7]:40000", "[2001:db8::10]:80");
    let mut node = Node::plain();
    let syn = node.connect(client, web);
    node.set_state("[2001:db8:a::11]:1", OriginState::ENDED);
    let data = PacketBuilder::tcp(at(client), at(web), ACK)
        .numbers(5, 6)
        .padding_extension(60)
        .payload(b"data");
    let first = node.send(&data);
    assert_eq!(
        first.verdict,
        reset_ended(Exit::Redirect { ifindex: ORIGIN_SIDE })
    );
    let left = see(&first.frame);
    assert_eq!((left.destination, left.sequence), (syn.origin(), 5));
    assert_eq!((left.flags, left.payload.len()), (RST | ACK, 0));
    assert_eq!(node.tcp(client, web, ACK).verdict, reset_ended(Exit::Transmit));
}

#[test]
fn a_connection_that_closes_by_itself_is_let_be() {
    let mut node = Node::plain();
    let syn = node.connect(CLIENT, WEB);
    node.tcp(CLIENT, WEB, FIN | ACK);
    node.answer(&syn, FIN | ACK);
    node.set_state(ORIGIN, OriginState::ENDED);
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), at(ORIGIN));
    // As is one that either side resets.
    let mut node = Node::plain();
    ended(&mut node);
    let reset = node.tcp(CLIENT, WEB, RST);
    assert_eq!(reset.origin(), at(ORIGIN));
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), at(ORIGIN));
}

#[test]
fn a_client_whose_handshake_is_not_complete_is_refused() {
    let mut node = Node::plain();
    let syn = node.tcp(CLIENT, WEB, SYN);
    node.set_state(ORIGIN, OriginState::ENDED);
    let answer = node.answer(&syn, SYN | ACK);
    assert_eq!(
        answer.verdict,
        reset_ended(Exit::Redirect { ifindex: CLIENT_SIDE })
    );
    // Whoever waits for the answer to a SYN takes no reset without its acknowledgement.
    check::check(
        &answer.frame,
        &[
            check::flags(RST | ACK),
            check::numbers(see(&answer.frame).sequence, 0xf1f2_f3f4),
        ],
    );
}

#[test]
fn an_origin_that_is_down_keeps_its_connections_unless_its_pool_says_otherwise() {
    for flags in [0, OriginFlags::RESET_WHEN_DOWN] {
        let mut node = Node::plain();
        node.record(ORIGIN).flags = OriginFlags(flags);
        node.connect(CLIENT, WEB);
        for state in [OriginState::DRAINING, OriginState::ABSENT] {
            node.set_state(ORIGIN, state);
            assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), at(ORIGIN));
        }
        node.set_state(ORIGIN, OriginState::DOWN);
        let data = node.tcp(CLIENT, WEB, ACK);
        if flags == 0 {
            assert_eq!(data.origin(), at(ORIGIN));
            assert_eq!(node.established(ORIGIN), 1);
        } else {
            assert_eq!(data.verdict, reset_ended(Exit::Redirect { ifindex: ORIGIN_SIDE }));
            assert_eq!(node.established(ORIGIN), 0);
        }
    }
}

#[test]
fn the_pool_of_last_resort_has_no_health_to_go_by() {
    let mut node = Node::plain();
    for origin in ["10.0.0.11:1", "10.0.1.11:1", "10.0.9.1:1"] {
        node.record(origin).flags = OriginFlags(OriginFlags::RESET_WHEN_DOWN);
        node.set_state(origin, OriginState::DOWN);
    }
    let syn = node.connect(CLIENT, WEB);
    assert_eq!(syn.origin(), at("10.0.9.1:80"));
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
    node.set_state("10.0.9.1:1", OriginState::ENDED);
    assert!(matches!(
        node.tcp(CLIENT, WEB, ACK).verdict,
        Verdict::Reply(Reply::ResetEnded, _)
    ));
}

#[test]
fn datagrams_move_when_their_origins_time_is_over() {
    let mut node = Node::new();
    let first = node.udp(CLIENT, DNS);
    node.answer(&first, 0);
    let origin = first.origin().to_string();
    node.set_state(&origin, OriginState::ENDED);
    assert!(matches!(node.answer(&first, 0).verdict, Verdict::Forward(_)));
    assert_ne!(node.udp(CLIENT, DNS).origin(), first.origin());
    assert_eq!(node.established(&origin), 0);
}

#[test]
fn a_direct_connection_is_reset_too() {
    for (vip, origin) in [
        ("203.0.113.10:91", "10.0.3.11:1"),
        ("203.0.113.10:92", "10.0.4.11:1"),
        ("203.0.113.10:93", "10.0.5.11:1"),
    ] {
        let mut node = Node::new();
        let id = node.0.scenario.origin_at(origin);
        let forwarding = node.record(origin).forwarding;
        for (other, record) in &mut node.0.scenario.tables.origins {
            if *other != id && record.forwarding == forwarding {
                record.state = OriginState::DOWN;
            }
        }
        node.tcp(CLIENT, vip, SYN);
        node.tcp(CLIENT, vip, ACK);
        assert_eq!(node.established(origin), 1);
        node.set_state(origin, OriginState::ENDED);
        let packet = PacketBuilder::tcp(at(CLIENT), at(vip), ACK)
            .numbers(1, 2)
            .payload(b"data");
        let first = node.send(&packet);
        let frame = inner(&first.frame).unwrap_or(first.frame);
        let seen = see(&frame);
        assert_eq!((seen.source, seen.destination), (at(CLIENT), at(vip)));
        assert_eq!((seen.flags, seen.sequence), (RST | ACK, 1));
        assert_eq!(seen.payload, b"");
        assert!(first.moved.contains("reply reset_ended 1"), "{}", first.moved);
        assert_eq!(node.established(origin), 0);
        assert_eq!(node.remembered(), (0, 1));
        assert_eq!(node.send(&packet).verdict, reset_ended(Exit::Transmit));
    }
}

/// Half a second of the scenario's, and one jiffy more.
fn wait(node: &mut Node) {
    node.pass_time(node.0.scenario.tables.settings.second / 2 + 1);
}

#[test]
fn a_repeated_syn_goes_to_an_origin_that_may_answer() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    node.pass_time(node.0.scenario.tables.settings.second / 2);
    assert_eq!(
        node.tcp(CLIENT, WEB, SYN).frame,
        syn.frame,
        "so soon it is a copy"
    );
    node.pass_time(1);
    let second = node.tcp(CLIENT, WEB, SYN);
    assert_ne!(second.origin(), syn.origin());
    let ((_, flow), _) = node.only();
    assert_eq!((flow.core.retries, flow.core.opened), (1, node.0.now));
    assert_eq!(node.tcp(CLIENT, WEB, SYN).frame, second.frame);
    // What the first one says after all is nobody's.
    assert_eq!(
        node.answer(&syn, SYN | ACK).verdict,
        Verdict::Pass(lb_common::datapath::Pass::NotOurs)
    );
    wait(&mut node);
    assert_ne!(node.tcp(CLIENT, WEB, SYN).origin(), second.origin());
    assert_eq!(node.only().0.1.core.retries, 2);
}

#[test]
fn a_repeated_syn_that_was_answered_is_not_moved() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    node.answer(&syn, SYN | ACK);
    wait(&mut node);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
    // Whether an origin has answered its client directly is not known.
    let direct = "203.0.113.10:91";
    node.tcp("198.51.100.8:1", direct, SYN);
    wait(&mut node);
    let again = node.tcp("198.51.100.8:1", direct, SYN);
    assert!(!again.moved.contains("new"), "{}", again.moved);
}

#[test]
fn the_only_origin_is_tried_again() {
    let mut node = Node::new();
    node.set_state("10.0.0.11:1", OriginState::DOWN);
    let syn = node.tcp(CLIENT, WEB, SYN);
    wait(&mut node);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
    assert_eq!(node.only().0.1.core.retries, 1);
}
