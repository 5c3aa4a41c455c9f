//! Forwarding modes: what is remembered, and how packets leave.

use super::*;
use lb_common::abi::{Forwarding, OriginId, TcpState};
use lb_common::datapath::{DropReason, Reply};
use lb_common::testing::build::{CLIENT_MAC, NODE_MAC};
use lb_common::testing::check;
use lb_common::testing::modes::port as port_of;
use lb_common::testing::scenario::{VIPS, app};

const CLIENTS: [&str; 2] = ["198.51.100.7:40000", "[2001:db8:c::7]:40000"];
const ONE_ARMED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb2];

/// The client and the address of an application, by family.
pub(super) fn ends(application: u32) -> [(&'static str, String); 2] {
    let address = |vip: &str| {
        let port = port_of(application);
        match vip.parse().unwrap() {
            std::net::IpAddr::V4(v4) => format!("{v4}:{port}"),
            std::net::IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        }
    };
    [(CLIENTS[0], address(VIPS[0])), (CLIENTS[1], address(VIPS[1]))]
}

#[test]
fn dnat_keeps_the_client() {
    for ((client, vip), origin) in ends(app::DNAT)
        .into_iter()
        .zip(["10.0.2.11:8080", "[2001:db8:d::11]:8080"])
    {
        let mut node = Node::new();
        let syn = node.tcp(client, &vip, SYN);
        assert_eq!(syn.verdict, redirect(ORIGIN_SIDE));
        let leaving = [
            check::from(at(client)),
            check::to(at(origin)),
            check::ttl(63),
            check::link(ORIGIN_NODE_MAC, ORIGIN_MAC),
        ];
        check::check(&syn.frame, &leaving);
        let answer = node.answer(&syn, SYN | ACK);
        assert_eq!(answer.verdict, redirect(CLIENT_SIDE));
        let back = [
            check::from(at(&vip)),
            check::to(at(client)),
            check::link(NODE_MAC, CLIENT_MAC),
        ];
        check::check(&answer.frame, &back);
        node.tcp(client, &vip, ACK);
        assert_eq!(node.established(origin), 1);
        check::check(&node.tcp(client, &vip, ACK).frame, &leaving);
        check::check(&node.answer(&syn, ACK).frame, &back);
        node.close(&syn, client, &vip);
        assert_eq!(node.established(origin), 0);
    }
}

#[test]
fn dnat_of_datagrams() {
    for (client, vip) in ends(app::DNAT) {
        let mut node = Node::new();
        let first = node.udp(client, &vip);
        check::check(&first.frame, &[check::from(at(client))]);
        let answer = node.answer(&first, 0);
        check::check(&answer.frame, &[check::from(at(&vip)), check::to(at(client))]);
        assert_eq!(node.udp(client, &vip).frame, first.frame);
    }
}

/// A second address of the application with `dnat`.
const OTHER: &str = "203.0.113.11:90";

fn with_other_address() -> Node {
    let mut node = Node::new();
    let tables = &mut node.0.scenario.tables;
    let more: Vec<_> = tables
        .applications
        .iter()
        .filter(|(key, row)| row.id == app::DNAT && key.address.v4().is_some())
        .map(|(key, row)| {
            let address = at(OTHER).ip().into();
            (lb_common::abi::ApplicationKey { address, ..*key }, *row)
        })
        .collect();
    tables.applications.extend(more);
    node
}

#[test]
fn dnat_cannot_tell_two_flows_of_one_client_port_apart() {
    let (client, vip) = &ends(app::DNAT)[0];
    let mut node = with_other_address();
    let first = node.connect(client, vip);
    let second = node.tcp(client, OTHER, SYN);
    assert_eq!(second.verdict, Verdict::Drop(DropReason::TupleTaken));
    assert_eq!(second.moved, "drop tuple_taken 1");
    assert_eq!(node.remembered(), (2, 0));
    // Whether a reset was the client's own is not known.
    node.tcp(client, vip, RST);
    node.pass_time((TIMEOUTS.tcp_closing >> 4) + 1);
    assert_eq!(
        node.tcp(client, OTHER, SYN).verdict,
        Verdict::Drop(DropReason::TupleTaken)
    );
    // It has closed, for a while.
    node.close(&first, client, vip);
    assert_eq!(
        node.tcp(client, OTHER, SYN).verdict,
        Verdict::Drop(DropReason::TupleTaken)
    );
    node.pass_time((TIMEOUTS.tcp_closing >> 4) + 1);
    assert_eq!(node.tcp(client, OTHER, SYN).verdict, redirect(ORIGIN_SIDE));
    assert_eq!(
        node.only().0.0.destination,
        lb_common::abi::Ip::from(at(OTHER).ip()).v4().unwrap()
    );
}

#[test]
fn what_is_left_of_a_flow_is_not_in_its_own_way() {
    let (client, vip) = &ends(app::DNAT)[0];
    let mut node = Node::new();
    let first = node.udp(client, vip);
    let ((key, _), _) = node.only();
    node.forget(&key);
    assert_eq!(node.udp(client, vip).frame, first.frame);
    assert_eq!(node.remembered(), (0, 2));
}

#[test]
fn dsr_l2_changes_nothing_but_the_link() {
    for (client, vip) in ends(app::DSR_L2) {
        let mut node = Node::new();
        let syn = PacketBuilder::tcp(at(client), at(&vip), SYN).ttl(1).padding(6);
        // Nobody between the node and the origin counts hops.
        let wanted = PacketBuilder::tcp(at(client), at(&vip), SYN)
            .ttl(1)
            .padding(6)
            .link(NODE_MAC, ONE_ARMED_MAC);
        node.tcp(client, &vip, SYN);
        let left = node.send(&syn);
        assert_eq!(left.verdict, Verdict::Forward(Exit::Transmit));
        assert_eq!(left.frame, wanted.frame());
    }
}

/// The modes without answers, and an IPv4 origin of each.
const DIRECT: [(u32, &str); 3] = [
    (app::DSR_L2, "10.0.3.11:1"),
    (app::DSR_IPIP, "10.0.4.11:1"),
    (app::DSR_GUE, "10.0.5.11:1"),
];

/// A node whose application has the IPv4 origin only.
fn with_one_origin(origin: &str) -> Node {
    let mut node = Node::new();
    let id = node.0.scenario.origin_at(origin);
    let this = node.0.scenario.tables.origins[&id].forwarding;
    for (other, record) in &mut node.0.scenario.tables.origins {
        if *other != id && record.forwarding == this {
            record.state = OriginState::ABSENT;
        }
    }
    node
}

#[test]
fn of_direct_flows_the_client_is_remembered() {
    for (application, origin) in DIRECT {
        let (client, vip) = &ends(application)[0];
        let mut node = with_one_origin(origin);
        assert!(matches!(node.tcp(client, vip, SYN).verdict, Verdict::Forward(_)));
        assert_eq!(node.remembered(), (0, 1), "{application}");
        let (key, flow) = node.entries(FlowSide::CLIENT)[0];
        assert_eq!(flow.core.tcp, TcpState::NEW);
        assert!(flow.core.forwarding.is_direct());
        assert_eq!(
            (flow.source, flow.destination, flow.core.source_port),
            (key.source, key.destination, key.source_port)
        );
        node.tcp(client, vip, ACK);
        assert_eq!(node.remembered(), (1, 0), "{application}");
        assert_eq!(node.established(origin), 1);
        let data = node.tcp(client, vip, ACK);
        assert!(matches!(data.verdict, Verdict::Forward(_)));
        assert!(!data.moved.contains("new"), "{}", data.moved);
        // The origin's FIN is not seen.
        node.tcp(client, vip, FIN | ACK);
        assert_eq!(node.remembered(), (0, 1));
        assert_eq!(node.established(origin), 0);
        assert!(matches!(node.tcp(client, vip, ACK).verdict, Verdict::Forward(_)));
        let again = node.tcp(client, vip, SYN);
        assert!(
            again.moved.contains(&format!("application {application} new 1")),
            "{}",
            again.moved
        );
        assert_eq!(node.remembered(), (0, 1));
    }
}

/// Two forged segments make such a flow.
#[test]
fn direct_connections_fill_no_more_than_their_share() {
    for (application, origin) in DIRECT {
        let (_, vip) = &ends(application)[0];
        let mut node = with_one_origin(origin);
        node.0.scenario.tables.settings.max_direct = 2;
        let direct = |node: &Node| node.0.scenario.tables.established(OriginId::DIRECT);
        for number in 0..5 {
            node.tcp(&client(number), vip, SYN);
            let ack = node.tcp(&client(number), vip, ACK);
            assert!(matches!(ack.verdict, Verdict::Forward(_)));
            let told = ack.moved.contains("notice flow_table_full 1");
            assert_eq!(told, number >= 2, "{}", ack.moved);
        }
        assert_eq!(node.remembered(), (2, 3));
        assert_eq!((direct(&node), node.established(origin)), (2, 2));
        // The others go on where they are, and where they are not.
        let before = node.tcp(&client(4), vip, ACK);
        node.memory(Memory::Tentative).borrow_mut().clear();
        let again = node.tcp(&client(4), vip, ACK);
        assert_eq!(again.frame, before.frame);
        // Translated ones have room, and count for themselves.
        node.connect("198.51.100.9:9", WEB);
        assert_eq!((node.remembered().0, direct(&node)), (4, 2));
        // When one closes, there is room again.
        node.tcp(&client(0), vip, FIN | ACK);
        assert_eq!((direct(&node), node.established(origin)), (1, 1));
        node.pass_time(TIMEOUTS.tcp / 8 + 1);
        node.tcp(&client(4), vip, ACK);
        assert_eq!((direct(&node), node.established(origin)), (2, 2));
        // As when one times out.
        node.pass_time(TIMEOUTS.tcp);
        node.tcp(&client(1), vip, SYN);
        assert_eq!(direct(&node), 1);
    }
}

#[test]
fn direct_datagrams_prove_nothing() {
    for (application, origin) in DIRECT {
        let (client, vip) = &ends(application)[0];
        let mut node = with_one_origin(origin);
        for _ in 0..3 {
            assert!(matches!(node.udp(client, vip).verdict, Verdict::Forward(_)));
            node.pass_time(TIMEOUTS.udp / 2);
        }
        assert_eq!(node.remembered(), (0, 1));
        assert_eq!(node.established(origin), 0);
        node.pass_time(TIMEOUTS.udp);
        assert!(node.udp(client, vip).moved.contains("new 1"));
    }
}

#[test]
fn a_direct_connection_goes_on_at_a_node_that_does_not_know_it() {
    for (application, origin) in DIRECT {
        let (client, vip) = &ends(application)[0];
        let mut node = with_one_origin(origin);
        let data = node.tcp(client, vip, ACK);
        assert!(matches!(data.verdict, Verdict::Forward(_)), "{:?}", data.verdict);
        assert_eq!(node.remembered(), (0, 1));
        // One packet may be anybody's: the flow is established only when it goes on.
        node.tcp(client, vip, ACK);
        assert_eq!(node.remembered(), (0, 1));
        node.pass_time(TIMEOUTS.tcp / 8 + 1);
        node.tcp(client, vip, ACK);
        assert_eq!(node.remembered(), (1, 0));

        let other = "198.51.100.8:1";
        for flags in [RST, RST | ACK, FIN | ACK] {
            let last = node.tcp(other, vip, flags);
            assert!(matches!(last.verdict, Verdict::Forward(_)));
            assert_eq!(node.remembered(), (1, 0), "nothing will follow");
        }
    }
    // Translated, it has lost what says how.
    let (client, vip) = &ends(app::DNAT)[0];
    assert_eq!(
        Node::new().tcp(client, vip, ACK).verdict,
        Verdict::Reply(Reply::ResetUnknownFlow, Exit::Transmit)
    );
}

#[test]
fn tunnels_carry_both_families_to_origins_of_either() {
    for application in [app::DSR_IPIP, app::DSR_GUE] {
        for (client, vip) in ends(application) {
            let mut families = [0, 0];
            let mut node = Node::new();
            for port in 1000..1040 {
                let mut client = at(client);
                client.set_port(port);
                let packet = PacketBuilder::tcp(client, at(&vip), SYN).payload(b"fast open");
                let left = node.send(&packet);
                assert_eq!(left.verdict, redirect(ORIGIN_SIDE));
                let v6 = left.frame.0[12..14] == [0x86, 0xdd];
                families[usize::from(v6)] += 1;
                let carried = inner(&left.frame).unwrap();
                assert_eq!(carried.0[14..], packet.frame().0[14..]);
            }
            assert!(families.into_iter().all(|count| count > 5), "{families:?}");
        }
    }
}

#[test]
fn one_pool_mixes_them_all() {
    let mut node = Node::new();
    let (client, vip) = &ends(app::MIXED)[0];
    for port in 1000..1200 {
        let mut client = at(client);
        client.set_port(port);
        let left = node.send(&PacketBuilder::udp(client, at(vip)).payload(b"datagram"));
        assert!(matches!(left.verdict, Verdict::Forward(_)), "{:?}", left.verdict);
    }
    let mut modes: BTreeMap<Forwarding, usize> = BTreeMap::new();
    for (_, flow) in node.entries(FlowSide::CLIENT) {
        *modes.entry(flow.core.forwarding).or_default() += 1;
    }
    assert_eq!(modes.len(), 5, "{modes:?}");
}

#[test]
fn datagrams_that_go_directly_leave_a_dead_origin() {
    for (application, _) in DIRECT {
        let (client, vip) = &ends(application)[0];
        let mut node = Node::new();
        node.udp(client, vip);
        let id = node.entries(FlowSide::CLIENT)[0].1.core.origin;
        node.0.scenario.tables.origins.get_mut(&id).unwrap().state = OriginState::DOWN;
        assert!(node.udp(client, vip).moved.contains("new 1"));
        assert_ne!(node.entries(FlowSide::CLIENT)[0].1.core.origin, id);
    }
}
