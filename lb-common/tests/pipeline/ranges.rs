//! Applications on ranges of ports.

use super::*;
use lb_common::abi::{PoolId, Port, PortSpan, Protocol, SettingsFlags, Spans, Vip, VipKey};
use lb_common::datapath::{DropReason, Pass, Reply};
use lb_common::testing::scenario::app;
use proptest::prelude::*;

const CLIENT: &str = "198.51.100.7:40000";

fn vip(port: u16) -> String {
    format!("203.0.113.10:{port}")
}

#[test]
fn a_port_keeps_its_place_in_the_range() {
    for (port, at_origin) in [
        (6000, 7000),
        (6001, 7001),
        (6050, 7050),
        (6099, 7099),
        (6200, 6200),
    ] {
        let syn = Node::new().tcp(CLIENT, &vip(port), SYN);
        assert_eq!(syn.origin().port(), at_origin, "of {port}");
        let application = if port == 6200 {
            app::OTHER_RANGE
        } else {
            app::RANGE
        };
        let wanted = format!("application {application} new 1");
        assert!(syn.moved.contains(&wanted), "{} of {port}", syn.moved);
    }
}

#[test]
fn ports_beside_a_range_are_not_ours() {
    for port in [5999, 6100, 6199, 6201, 1, 65_535] {
        let syn = Node::new().tcp(CLIENT, &vip(port), SYN);
        assert_eq!(syn.verdict, Verdict::Pass(Pass::NotOurs), "{port}");
    }
}

#[test]
fn each_protocol_has_its_ranges() {
    let mut node = Node::new();
    assert_eq!(node.udp(CLIENT, &vip(6001)).origin().port(), 7001);
    assert_eq!(node.udp(CLIENT, &vip(6002)).verdict, Verdict::Pass(Pass::NotOurs));
}

#[test]
fn an_application_of_one_port_comes_before_a_range() {
    let mut node = Node::new();
    let none = PoolId::NONE;
    node.0
        .scenario
        .application(40, Protocol::TCP, at(&vip(6050)), &[PoolId(1)], none);
    // Its origins name their ports.
    assert_eq!(node.tcp(CLIENT, &vip(6050), SYN).origin().port(), 8080);
    assert_eq!(node.tcp(CLIENT, &vip(6051), SYN).origin().port(), 7051);
}

#[test]
fn answers_come_from_the_port_that_was_asked() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, &vip(6042), SYN);
    let answer = node.answer(&syn, SYN | ACK);
    assert_eq!(answer.verdict, redirect(CLIENT_SIDE));
    assert_eq!(see(&answer.frame).source, at(&vip(6042)));
}

#[test]
fn a_segment_to_a_range_that_belongs_to_no_flow_is_reset() {
    let ack = Node::new().tcp(CLIENT, &vip(6042), ACK);
    assert_eq!(
        ack.verdict,
        Verdict::Reply(Reply::ResetUnknownFlow, Exit::Transmit)
    );
}

#[test]
fn what_is_malformed_never_gets_past_an_application() {
    for (port, verdict) in [
        (6042, Verdict::Drop(DropReason::Malformed)),
        (80, Verdict::Drop(DropReason::Malformed)),
        (6100, Verdict::Pass(Pass::NotOurs)),
        (22, Verdict::Pass(Pass::NotOurs)),
    ] {
        let syn = PacketBuilder::tcp(at(CLIENT), at(&vip(port)), SYN);
        let mut frame = syn.frame();
        // A data offset that is too small.
        frame.0[syn.transport() + 12] = 0x40;
        assert_eq!(
            Node::new().receive(CLIENT_SIDE, &frame).verdict,
            verdict,
            "{port}"
        );
    }
}

/// The flag spares everybody else the search.
#[test]
fn without_the_flag_nobody_looks_for_ranges() {
    let mut node = Node::new();
    node.0.scenario.tables.settings.flags = SettingsFlags(0);
    assert_eq!(
        node.tcp(CLIENT, &vip(6042), SYN).verdict,
        Verdict::Pass(Pass::NotOurs)
    );
}

/// Disjoint ranges in ascending order: the gap before each, and its length.
fn some_ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let range = (0u16..60, 1u16..40);
    prop::collection::vec(range, 0..70).prop_map(|steps| {
        let mut next = 100;
        let spans = steps.into_iter().map(|(gap, length)| {
            let first = next + gap;
            next = first + length;
            (first, next - 1)
        });
        spans.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_search_finds_what_a_scan_finds(ranges in some_ranges(), ports in prop::collection::vec(90u16..4000, 20)) {
        let mut node = Node::new();
        let scenario = &mut node.0.scenario;
        scenario.tables.applications.clear();
        let key = VipKey {
            address: at(&vip(1)).ip().into(),
            parity: scenario.parity(),
            reserved: [0; 3],
        };
        let spans = Spans { base: 30, count: ranges.len() as u32 };
        scenario.tables.vips.insert(key, Vip { tcp: spans, ..Vip::default() });
        for (index, &(first, last)) in ranges.iter().enumerate() {
            let id = 100 + index as u32;
            scenario.tables.spans.insert(30 + index as u32, PortSpan { first, last, reserved: 0 });
            scenario.application(id, Protocol::TCP, at(&vip(first)), &[PoolId(1)], PoolId::NONE);
            scenario.edit(id, |application| application.first_port = Port::new(first));
        }
        for port in ports {
            let outcome = node.tcp(CLIENT, &vip(port), SYN);
            match ranges.iter().position(|&(first, last)| (first..=last).contains(&port)) {
                Some(index) => {
                    let wanted = format!("application {} in 1", 100 + index);
                    prop_assert!(outcome.moved.contains(&wanted), "{} of port {port}", outcome.moved);
                    prop_assert_eq!(outcome.origin().port(), port);
                }
                None => prop_assert_eq!(outcome.verdict, Verdict::Pass(Pass::NotOurs)),
            }
        }
    }
}
