//! TCP segments that belong to no known flow and open none.

use super::*;
use lb_common::abi::{ApplicationFlags, Forwarding, Load, Mac, SettingsFlags};
use lb_common::datapath::{DropReason, Reply};
use lb_common::testing::scenario::{SILENT, app};

const CLIENT: &str = "198.51.100.7:40000";
const UNKNOWN: Verdict = Verdict::Reply(Reply::ResetUnknownFlow, Exit::Transmit);

/// The web's first origins answer their clients directly; the others are translated to.
fn direct() -> Node {
    let mut node = Node::new();
    node.0.scenario.edit(app::WEB, |application| {
        application.flags = ApplicationFlags(ApplicationFlags::DIRECT);
    });
    for origin in ["10.0.0.11:1", "10.0.0.12:1"] {
        node.record(origin).forwarding = Forwarding::DSR_L2;
    }
    node
}

#[test]
fn they_are_reset() {
    for flags in [ACK, ACK | FIN, SYN | ACK, 0] {
        assert_eq!(Node::new().tcp(CLIENT, WEB, flags).verdict, UNKNOWN, "{flags}");
    }
}

#[test]
fn while_flows_are_taken_over_nothing_is_reset() {
    let mut node = Node::new();
    let flags = &mut node.0.scenario.tables.settings.flags;
    *flags = SettingsFlags(flags.0 | SettingsFlags::MIGRATING);
    for segment in [ACK, RST, FIN | ACK] {
        let outcome = node.tcp(CLIENT, WEB, segment);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Migrating));
        assert_eq!(outcome.moved, "drop migrating 1");
    }
    node.connect(CLIENT, WEB);
    assert!(matches!(node.udp(CLIENT, DNS).verdict, Verdict::Forward(_)));
}

#[test]
fn neither_is_one_that_might_be_of_a_direct_flow() {
    let mut node = direct();
    let flags = &mut node.0.scenario.tables.settings.flags;
    *flags = SettingsFlags(flags.0 | SettingsFlags::MIGRATING);
    let outcome = node.tcp(CLIENT, WEB, ACK);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Migrating));
}

#[test]
fn a_direct_flow_is_found_again_without_memory() {
    for number in 0..50 {
        let mut node = direct();
        let syn = node.tcp(&client(number), WEB, SYN);
        let origin = node.only_origin();
        assert_eq!(syn.verdict, redirect(ORIGIN_SIDE));
        for flags in [ACK, ACK | 8, FIN | ACK, RST] {
            node.0.scenario.tables.tentative4.borrow_mut().clear();
            node.0.scenario.tables.flows4.borrow_mut().clear();
            let segment = node.tcp(&client(number), WEB, flags);
            assert_eq!(segment.verdict, redirect(ORIGIN_SIDE), "{flags}");
            let wanted = format!("origin {origin} in 1");
            assert!(
                segment.moved.contains(&wanted),
                "{} without {wanted}",
                segment.moved
            );
            assert_eq!(see(&segment.frame).destination, at(WEB));
        }
    }
}

impl Node {
    /// The origin of the only flow.
    fn only_origin(&self) -> u32 {
        let entries = self.entries(FlowSide::CLIENT);
        assert_eq!(entries.len(), 1);
        entries[0].1.core.origin.0
    }
}

/// What an origin may have counts for those who come, not for those who are there.
#[test]
fn a_full_origin_keeps_its_direct_flows() {
    let mut node = direct();
    for origin in ["10.0.0.11:1", "10.0.0.12:1"] {
        node.record(origin).max_flows = 1;
        let id = node.0.scenario.origin_at(origin);
        let load = Load {
            established: 1,
            reserved: 0,
        };
        node.0.scenario.tables.loads.borrow_mut().insert(id.0, load);
    }
    assert_eq!(see(&node.tcp(CLIENT, WEB, ACK).frame).destination, at(WEB));
    let new = node.tcp("198.51.100.8:1", WEB, SYN);
    assert_eq!(new.origin(), at("10.0.1.11:80"), "the next pool's");
}

#[test]
fn where_a_translated_origin_would_get_it_there_is_no_flow() {
    let mut node = direct();
    node.set_state("10.0.0.11:1", OriginState::DOWN);
    node.set_state("10.0.0.12:1", OriginState::DOWN);
    assert_eq!(node.tcp(CLIENT, WEB, ACK).verdict, UNKNOWN);
    assert_eq!(node.tcp(CLIENT, WEB, SYN).origin(), at("10.0.1.11:80"));
}

#[test]
fn nobody_serves_it() {
    let mut node = direct();
    for origin in ["10.0.0.11:1", "10.0.0.12:1", "10.0.1.11:1", "10.0.9.1:1"] {
        node.set_state(origin, OriginState::DRAINING);
    }
    assert_eq!(node.tcp(CLIENT, WEB, ACK).verdict, UNKNOWN);
    node.set_state("10.0.0.11:1", OriginState::UP);
    node.set_state("10.0.0.12:1", OriginState::UP);
    node.record("10.0.0.11:1").hop = SILENT;
    node.record("10.0.0.12:1").hop = SILENT;
    let waiting = node.tcp(CLIENT, WEB, ACK);
    assert_eq!(waiting.verdict, Verdict::Drop(DropReason::NoNextHop));
}

#[test]
fn it_binds_nobody() {
    let mut node = direct();
    node.0
        .scenario
        .edit(app::WEB, |application| application.affinity_ttl = 1000);
    node.tcp(CLIENT, WEB, ACK);
    assert!(node.0.scenario.tables.affinity.borrow().is_empty());
    node.tcp("198.51.100.8:1", WEB, SYN);
    assert_eq!(node.0.scenario.tables.affinity.borrow().len(), 1);
}

/// The origin's own switch counts no hop, so an expiring packet gets there.
#[test]
fn what_leaves_as_it_came_may_expire_at_the_origin() {
    let mut node = direct();
    let syn = node.send(&PacketBuilder::tcp(at(CLIENT), at(WEB), SYN).ttl(1));
    assert_eq!(syn.verdict, redirect(ORIGIN_SIDE));
    let seen = see(&syn.frame);
    assert_eq!((seen.ttl, seen.destination), (1, at(WEB)));
    assert_eq!(Mac::from(seen.link_destination), Mac::from(ORIGIN_MAC));
}
