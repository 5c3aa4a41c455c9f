//! SYNs that try to open a flow before anybody has looked whether there is one: what is found out late makes no difference.

use super::modes::ends;
use super::*;
use lb_common::abi::{Load, TcpState};
use lb_common::testing::rules::{FULL, MAX_FLOWS};
use lb_common::testing::scenario::app;

const FULL_TOO: &str = "203.0.113.10:87";
const CLIENT: &str = "198.51.100.7:40000";

#[test]
fn a_repeated_syn_stays_where_it_was_when_the_pools_would_give_another_origin() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, WEB, SYN);
    let others = node.0.scenario.tables.applications.values();
    let elsewhere = others
        .filter(|other| other.id == app::SOME_FULL)
        .map(|other| other.pools)
        .next()
        .unwrap();
    node.0
        .scenario
        .edit(app::WEB, |application| application.pools = elsewhere);
    // The pools do give another.
    let other = (0..50).map(|index| node.tcp(&client(index), WEB, SYN).origin());
    assert!(
        other
            .collect::<Vec<_>>()
            .iter()
            .all(|&origin| origin != syn.origin())
    );
    let entries = node.remembered();
    let again = node.tcp(CLIENT, WEB, SYN);
    assert_eq!((again.frame, again.verdict), (syn.frame.clone(), syn.verdict));
    assert_eq!(node.remembered(), entries, "nothing is left of the attempt");
    assert!(!again.moved.contains("new"), "{}", again.moved);
    assert_eq!(node.answer(&syn, SYN | ACK).verdict, redirect(CLIENT_SIDE));
}

#[test]
fn a_repeated_syn_is_not_refused_because_its_origin_has_become_full() {
    let mut node = Node::new();
    let syn = node.tcp(CLIENT, FULL_TOO, SYN);
    for origin in FULL
        .into_iter()
        .chain([see(&syn.frame).destination.to_string().as_str()])
    {
        let id = node.0.scenario.origin_at(origin);
        let established = MAX_FLOWS.max(node.record(origin).max_flows);
        let load = Load {
            established,
            reserved: 0,
        };
        node.record(origin).max_flows = established;
        node.0.scenario.tables.loads.borrow_mut().insert(id.0, load);
    }
    assert!(matches!(
        node.tcp(&client(1), FULL_TOO, SYN).verdict,
        Verdict::Drop(_)
    ));
    assert_eq!(node.tcp(CLIENT, FULL_TOO, SYN).frame, syn.frame);
}

#[test]
fn what_is_known_of_a_connection_outlives_a_repeated_syn() {
    let web = (CLIENT, WEB.to_owned());
    for (client, vip) in ends(app::DNAT).into_iter().chain([web]) {
        let mut node = Node::new();
        let syn = node.tcp(client, &vip, SYN);
        node.answer(&syn, SYN | ACK);
        let again = node.tcp(client, &vip, SYN);
        assert_eq!(again.frame, syn.frame);
        let state = |entry: &lb_common::abi::FlowCore| entry.tcp.has(TcpState::ANSWERED);
        if at(client).is_ipv6() {
            let flows = node.0.scenario.tables.tentative6.borrow();
            assert!(flows.len() == 2 && flows.values().all(|flow| state(&flow.core)));
        } else {
            let ((_, one), (_, other)) = node.only();
            assert!(state(&one.core) && state(&other.core));
        }
        assert!(matches!(node.tcp(client, &vip, ACK).verdict, Verdict::Forward(_)));
        assert_eq!(node.0.scenario.tables.tentative4.borrow().len(), 0, "proven");
    }
}

#[test]
fn a_flow_of_which_half_was_evicted_is_opened_again() {
    let mut node = Node::new();
    node.tcp(CLIENT, WEB, SYN);
    let ((client_key, _), _) = node.only();
    node.forget(&client_key);
    assert!(matches!(node.tcp(CLIENT, WEB, SYN).verdict, Verdict::Forward(_)));
    assert_eq!(node.entries(FlowSide::CLIENT).len(), 1);
}
