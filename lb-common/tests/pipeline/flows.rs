//! Flows: remembered, followed, renewed and forgotten.

use super::*;
use lb_common::abi::{Mac, SettingsFlags, TcpState};
use lb_common::datapath::{DropReason, Pass, Reply};
use lb_common::testing::build::{CLIENT_MAC, NODE_MAC};
use lb_common::testing::check;

const CLIENT: &str = "198.51.100.7:40000";

#[test]
fn a_syn_opens_a_flow_in_both_directions() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    assert_eq!(syn.verdict, redirect(ORIGIN_SIDE));
    let seen = see(&syn.frame);
    let ((key, flow), (back_key, back)) = node.only();
    assert_eq!(
        (key.source, key.source_port.host()),
        ([198, 51, 100, 7].into_ip4(), 40_000)
    );
    assert_eq!(flow.core.source_port.host(), seen.source.port());
    assert_eq!(flow.core.destination_port.host(), seen.destination.port());
    assert_eq!(
        (back_key.source, back_key.destination),
        (flow.destination, flow.source)
    );
    assert_eq!((back.source, back.destination), (key.destination, key.source));
    assert_eq!(back.core.header_delta, !flow.core.header_delta);
    assert_eq!(back.core.payload_delta, !flow.core.payload_delta);
    for core in [flow.core, back.core] {
        assert_eq!(core.tcp, TcpState::NEW);
        assert_eq!(core.seen, node.0.now);
        assert_eq!(core.client_ifindex, CLIENT_SIDE);
        assert_eq!(
            (core.client_mac, core.node_mac),
            (Mac::from(CLIENT_MAC), Mac::from(NODE_MAC))
        );
        assert_eq!(core.last_resort, 0);
    }
}

trait IntoIp4 {
    fn into_ip4(self) -> lb_common::abi::Ip4;
}

impl IntoIp4 for [u8; 4] {
    fn into_ip4(self) -> lb_common::abi::Ip4 {
        std::net::Ipv4Addr::from(self).into()
    }
}

#[test]
fn the_answer_comes_from_the_vip() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    let answer = node.answer(&syn, SYN | ACK);
    assert_eq!(answer.verdict, redirect(CLIENT_SIDE));
    check::check(
        &answer.frame,
        &[
            check::from(at(WEB)),
            check::to(at(CLIENT)),
            check::flags(SYN | ACK),
            check::ttl(63),
            check::link(NODE_MAC, CLIENT_MAC),
        ],
    );
}

#[test]
fn both_entries_learn_how_far_a_connection_has_come() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    let mut bits = 0;
    let steps: [(bool, u8, u8); 6] = [
        (false, SYN | ACK, TcpState::ANSWERED),
        (true, ACK, TcpState::ESTABLISHED),
        (false, ACK, 0),
        (true, FIN | ACK, TcpState::CLIENT_FIN),
        (false, FIN | ACK, TcpState::ORIGIN_FIN),
        (false, RST, TcpState::RESET),
    ];
    for (from_client, flags, gained) in steps {
        bits |= gained;
        let outcome = if from_client {
            node.tcp(CLIENT, WEB, flags)
        } else {
            node.answer(&syn, flags)
        };
        assert!(matches!(outcome.verdict, Verdict::Forward(_)));
        let ((_, flow), (_, back)) = node.only();
        assert_eq!(
            (flow.core.tcp.0, back.core.tcp.0),
            (bits, bits),
            "after {flags:#x}"
        );
    }
}

#[test]
fn a_syn_on_a_closed_flow_starts_afresh() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    node.close(&syn, CLIENT, WEB);
    node.pass_time(10);
    let again = node.tcp(CLIENT, WEB, SYN);
    assert!(again.moved.contains("application 1 new 1"), "{}", again.moved);
    let ((_, flow), (_, back)) = node.only();
    assert_eq!((flow.core.tcp, back.core.tcp), (TcpState::NEW, TcpState::NEW));
    assert_eq!((flow.core.seen, back.core.seen), (node.0.now, node.0.now));
}

#[test]
fn a_syn_on_an_open_flow_is_for_the_origin_to_judge() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let again = node.tcp(CLIENT, WEB, SYN);
    assert_eq!(again.frame, syn.frame);
    assert!(!again.moved.contains("new"), "{}", again.moved);
}

#[test]
fn flows_expire_by_their_state() {
    let cases: [(u32, &[(bool, u8)]); 3] = [
        (TIMEOUTS.tcp_handshake, &[]),
        (TIMEOUTS.tcp, &[(false, SYN | ACK), (true, ACK)]),
        (
            TIMEOUTS.tcp_closing,
            &[(false, SYN | ACK), (true, ACK), (true, RST)],
        ),
    ];
    for (timeout, segments) in cases {
        for late in [false, true] {
            let mut node = Node::new();
            let syn = node.tcp(CLIENT, WEB, SYN);
            for &(from_client, flags) in segments {
                if from_client {
                    node.tcp(CLIENT, WEB, flags);
                } else {
                    node.answer(&syn, flags);
                }
            }
            node.pass_time(timeout + u32::from(late));
            let outcome = node.tcp(CLIENT, WEB, ACK);
            if late {
                assert_eq!(
                    outcome.verdict,
                    Verdict::Reply(Reply::ResetUnknownFlow, Exit::Transmit)
                );
                assert!(node.entries(FlowSide::CLIENT).is_empty());
                assert!(node.entries(FlowSide::ORIGIN).is_empty());
            } else {
                assert_eq!(outcome.verdict, redirect(ORIGIN_SIDE));
            }
        }
    }
}

#[test]
fn an_answer_to_an_expired_flow_is_not_ours() {
    let mut node = Node::new();
    let first = node.udp(CLIENT, DNS);
    node.pass_time(TIMEOUTS.udp + 1);
    let answer = node.answer(&first, 0);
    assert_eq!(answer.verdict, Verdict::Pass(Pass::NotOurs));
    assert!(node.entries(FlowSide::CLIENT).is_empty());
}

#[test]
fn traffic_of_one_direction_keeps_both_alive() {
    let mut node = Node::new();
    let first = node.udp(CLIENT, DNS);
    let timeout = TIMEOUTS.udp;
    for _ in 0..20 {
        node.pass_time(timeout / 2);
        assert!(matches!(node.answer(&first, 0).verdict, Verdict::Forward(_)));
    }
    let again = node.udp(CLIENT, DNS);
    assert_eq!(again.frame, first.frame);
}

#[test]
fn a_packet_of_a_fresh_flow_writes_nothing() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let before = node.only();
    node.pass_time(TIMEOUTS.tcp / 8);
    node.tcp(CLIENT, WEB, ACK);
    node.answer(&syn, ACK);
    assert_eq!(node.only(), before);
    node.pass_time(1);
    node.tcp(CLIENT, WEB, ACK);
    let ((_, flow), (_, back)) = node.only();
    assert_eq!((flow.core.seen, back.core.seen), (node.0.now, node.0.now));
}

#[test]
fn an_evicted_twin_is_made_anew() {
    for client_side in [false, true] {
        let mut node = Node::new();
        let syn = node.connect(CLIENT, WEB);
        let ((key, flow), (back_key, back)) = node.only();
        node.forget(if client_side { &key } else { &back_key });
        node.pass_time(TIMEOUTS.tcp / 8 + 1);
        let outcome = if client_side {
            node.answer(&syn, ACK)
        } else {
            node.tcp(CLIENT, WEB, ACK)
        };
        assert!(matches!(outcome.verdict, Verdict::Forward(_)));
        let (mut wanted, mut twin) = (flow, back);
        (wanted.core.seen, twin.core.seen) = (node.0.now, node.0.now);
        assert_eq!(node.only(), ((key, wanted), (back_key, twin)));
    }
}

#[test]
fn a_flow_whose_answers_belong_to_another_has_ended() {
    let mut node = Node::new();
    node.connect(CLIENT, WEB);
    let ((key, _), (back_key, back)) = node.only();
    // Another client owns the source port by now.
    node.edit_flows(|key, flow| {
        if *key == back_key {
            flow.destination = [198, 51, 100, 99].into_ip4();
        }
    });
    node.pass_time(TIMEOUTS.tcp / 8 + 1);
    let outcome = node.tcp(CLIENT, WEB, ACK);
    assert_eq!(
        outcome.verdict,
        Verdict::Reply(Reply::ResetUnknownFlow, Exit::Transmit)
    );
    let flows = node.memory(Memory::Established).borrow();
    assert!(!flows.contains_key(&key));
    assert_eq!(flows[&back_key].core, back.core, "the other's entry is untouched");
}

#[test]
fn a_client_that_moves_is_found_again() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let router = [2, 0, 0, 0, 0, 0xc9];
    let ours = [2, 0, 0, 0, 0, 0x77];
    let ack = PacketBuilder::tcp(at(CLIENT), at(WEB), ACK).link(router, ours);
    node.receive(33, &ack.frame());
    let answer = node.answer(&syn, ACK);
    assert_eq!(answer.verdict, redirect(33));
    check::check(&answer.frame, &[check::link(ours, router)]);
}

#[test]
fn an_origin_that_answers_from_elsewhere_teaches_nothing() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let before = node.only();
    let seen = see(&syn.frame);
    let odd = PacketBuilder::tcp(seen.destination, seen.source, ACK).link([2; 6], [4; 6]);
    assert_eq!(node.receive(99, &odd.frame()).verdict, redirect(CLIENT_SIDE));
    assert_eq!(node.only(), before);
}

#[test]
fn a_repeated_syn_that_nobody_answered_leaves_a_dead_origin() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), syn.origin());
    node.set_state(&syn.origin().to_string(), OriginState::DOWN);
    let again = node.tcp(CLIENT, WEB, SYN);
    assert_ne!(again.origin(), syn.origin());
    // An answered one has a connection to lose.
    node.answer(&again, SYN | ACK);
    node.set_state(&again.origin().to_string(), OriginState::DOWN);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), again.origin());
}

#[test]
fn datagrams_leave_a_dead_origin_and_segments_do_not() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    let first = node.udp(CLIENT, DNS);
    for state in [OriginState::DOWN, OriginState::DRAINING, OriginState::ABSENT] {
        let web = syn.origin().to_string();
        node.set_state(&web, state);
        assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin(), "{state:?}");

        let dns = node.udp(CLIENT, DNS).origin();
        node.set_state(&dns.to_string(), state);
        let moved = node.udp(CLIENT, DNS);
        assert_ne!(moved.origin(), dns, "{state:?}");
        assert!(moved.moved.contains("application 2 new 1"), "{}", moved.moved);
        node.set_state(&dns.to_string(), OriginState::UP);
    }
    assert_eq!(
        node.entries(FlowSide::ORIGIN).len(),
        2,
        "nothing is left of the moves"
    );
    let _ = first;
}

#[test]
fn datagrams_leave_an_origin_whose_record_is_gone() {
    let mut node = Node::new();
    let first = node.udp(CLIENT, DNS).origin();
    let id = node.0.scenario.origin_at(&first.to_string());
    node.0.scenario.tables.array_rows = 0;
    node.0.scenario.tables.origins.remove(&id);
    assert_ne!(node.udp(CLIENT, DNS).origin(), first);
}

/// A UDP checksum of 0 would mean that there is none, so it is sent as 0xffff (RFC 768); in TCP 0 is a number like any
/// other, arriving or leaving.
#[test]
fn checksums_that_come_to_zero() {
    let mut node = Node::new();
    let client = at(CLIENT);
    let udp = |word: u16| PacketBuilder::udp(client, at(DNS)).payload(&word.to_be_bytes());
    let tcp = |word: u16| PacketBuilder::tcp(client, at(WEB), SYN).payload(&word.to_be_bytes());
    // What must be added for a sum of 0xffff is the checksum itself.
    let leaving = see(&node.send(&udp(0)).frame).checksum;
    assert_eq!(see(&node.send(&udp(leaving)).frame).checksum, 0xffff);
    let leaving = see(&node.send(&tcp(0)).frame).checksum;
    assert_eq!(see(&node.send(&tcp(leaving)).frame).checksum, 0);
    let arriving = tcp(see(&tcp(0).frame()).checksum);
    assert_eq!(see(&arriving.frame()).checksum, 0);
    assert_ne!(see(&node.send(&arriving).frame).checksum, 0);
}

#[test]
fn answers_of_a_dead_origin_still_go_back() {
    let mut node = Node::new();
    let first = node.udp(CLIENT, DNS);
    let dns = first.origin().to_string();
    node.set_state(&dns, OriginState::DOWN);
    assert_eq!(node.answer(&first, 0).verdict, redirect(CLIENT_SIDE));
}

#[test]
fn datagrams_of_the_fallback_pool_stay_whatever_its_health() {
    let mut node = Node::new();
    let dns_pool = lb_common::abi::PoolId(4);
    for application in node.0.scenario.tables.applications.values_mut() {
        application.fallback = dns_pool;
    }
    for origin in ["10.0.0.53:53", "10.0.0.54:53"] {
        node.set_state(origin, OriginState::DOWN);
    }
    let first = node.udp(CLIENT, DNS);
    assert_eq!(node.udp(CLIENT, DNS).frame, first.frame);
    assert_eq!(node.only().0.1.core.last_resort, 1);
    let dns = first.origin().to_string();
    node.set_state(&dns, OriginState::DRAINING);
    assert_ne!(node.udp(CLIENT, DNS).origin(), first.origin());
}

#[test]
fn a_segment_waits_for_its_origins_next_hop() {
    let mut node = Node::new();
    node.connect(CLIENT, WEB);
    let hop = node.record("10.0.0.11:1").hop;
    node.0.scenario.tables.hops.get_mut(&hop).unwrap().resolved = 0;
    let lost = node.tcp(CLIENT, WEB, ACK);
    assert_eq!(lost.verdict, Verdict::Drop(DropReason::NoNextHop));
    node.0.scenario.tables.hops.get_mut(&hop).unwrap().resolved = 1;
    assert_eq!(node.tcp(CLIENT, WEB, ACK).verdict, redirect(ORIGIN_SIDE));
}

#[test]
fn a_changed_next_hop_holds_for_the_next_packet() {
    let mut node = Node::new();
    node.connect(CLIENT, WEB);
    for hop in node.0.scenario.tables.hops.values_mut() {
        (hop.ifindex, hop.neighbour) = (77, Mac::from([8; 6]));
    }
    let ack = node.tcp(CLIENT, WEB, ACK);
    assert_eq!(ack.verdict, redirect(77));
    assert_eq!(see(&ack.frame).link_destination, [8; 6]);
}

#[test]
fn frames_never_turn_around_where_that_does_not_work() {
    let mut node = Node::new();
    node.0.scenario.tables.settings.flags = SettingsFlags(SettingsFlags::NO_XDP_TX);
    let refused = node.tcp(CLIENT, "203.0.113.10:81", SYN);
    assert_eq!(
        refused.verdict,
        Verdict::Reply(Reply::ResetNoOrigin, Exit::Redirect { ifindex: CLIENT_SIDE })
    );
}

#[test]
fn known_flows_go_on_when_their_application_goes() {
    let mut node = Node::new();
    let syn = node.connect(CLIENT, WEB);
    node.0.scenario.tables.applications.clear();
    assert_eq!(node.tcp(CLIENT, WEB, ACK).origin(), syn.origin());
    let other = node.tcp("198.51.100.8:1", WEB, SYN);
    assert_eq!(other.verdict, Verdict::Pass(Pass::NotOurs));
}

#[test]
fn a_packet_keeps_to_one_generation() {
    let mut node = Node::new();
    node.0.scenario.tables.settings.generation += 1;
    assert_eq!(
        node.tcp(CLIENT, WEB, SYN).verdict,
        Verdict::Pass(Pass::NotOurs),
        "the other copy is empty"
    );
    node.0.scenario.tables.settings.generation += 1;
    assert_eq!(node.tcp(CLIENT, WEB, SYN).verdict, redirect(ORIGIN_SIDE));
}
