//! Datagrams in fragments, in every forwarding mode: put together, what comes out is what would have come out in one piece.

use super::*;
use lb_common::datapath::{DropReason, Hold, Pass};
use lb_common::testing::Random;
use lb_common::testing::check::Seen;
use lb_common::testing::modes::port as port_of;
use lb_common::testing::pieces::{cut, join, place};
use lb_common::testing::scenario::{VIPS, app};
use proptest::prelude::*;
use std::net::IpAddr;

/// A frame without its tunnel.
fn unwrapped(frame: &Frame) -> Frame {
    tunnel(frame).map_or_else(|| frame.clone(), |outer| framed(&outer.inner))
}

/// What matters of a packet: all but its identification.
fn essence(frame: &Frame) -> (SocketAddr, SocketAddr, u8, u8, u16, Vec<u8>) {
    let Seen {
        source,
        destination,
        ttl,
        protocol,
        checksum,
        payload,
        ..
    } = see(frame);
    (source, destination, ttl, protocol, checksum, payload)
}

/// Sends pieces in this order, held ones again when the first has gone through, and joins what comes out.
fn through(node: &mut Node, side: u32, pieces: &[Frame]) -> Frame {
    let mut held: Vec<&Frame> = Vec::new();
    let mut left = Vec::new();
    for piece in pieces {
        let outcome = node.receive(side, piece);
        match outcome.verdict {
            Verdict::Hold(Hold::Fragment) => {
                assert_eq!(outcome.frame, *piece, "untouched");
                held.push(piece);
            }
            Verdict::Forward(_) => left.push(unwrapped(&outcome.frame)),
            other => panic!("{other:?}"),
        }
    }
    for piece in held {
        let outcome = node.receive(side, piece);
        assert!(
            matches!(outcome.verdict, Verdict::Forward(_)),
            "{:?}",
            outcome.verdict
        );
        left.push(unwrapped(&outcome.frame));
    }
    join(&left)
}

fn shuffled(mut pieces: Vec<Frame>, random: &mut Random) -> Vec<Frame> {
    for index in (1..pieces.len()).rev() {
        pieces.swap(index, random.below(index + 1));
    }
    pieces
}

fn vip(v6: bool, port: u16) -> SocketAddr {
    (VIPS[usize::from(v6)].parse::<IpAddr>().unwrap(), port).into()
}

fn client_at(v6: bool, number: u16) -> SocketAddr {
    if v6 {
        (
            [0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, number],
            30_000 + number % 30_000,
        )
            .into()
    } else {
        let [high, low] = number.to_be_bytes();
        ([198, 18, high, low], 30_000 + number % 30_000).into()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_fare_as_the_whole_would(seed: u64, v6: bool, length in 40usize..4_000, number: u16) {
        let mut random = Random(seed);
        let payload = random.bytes(length);
        let id = [1, 2, 3, 4].map(|byte: u8| byte ^ seed as u8);
        let mut cuts: Vec<usize> = (0..=random.below(5)).map(|_| 8 + random.below((length - 8) / 8) * 8).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let (from, to) = (client_at(v6, number), vip(v6, port_of(app::MIXED)));
        let packet = PacketBuilder::udp(from, to).payload(&payload);
        // Whatever a path carries does not matter here.
        let wide = || {
            let mut node = Node::new();
            let tables = &mut node.0.scenario.tables;
            tables.settings.smallest_mtu = 9_000;
            for hop in tables.hops.values_mut() {
                hop.mtu = 9_000;
            }
            for interface in tables.interfaces.values_mut() {
                interface.mtu = 9_000;
            }
            node
        };
        let (mut one, mut other) = (wide(), wide());
        let whole = one.send(&packet);
        prop_assert!(matches!(whole.verdict, Verdict::Forward(_)), "{:?}", whole.verdict);
        let pieces = shuffled(cut(&packet, id, &cuts), &mut random);
        let joined = through(&mut other, CLIENT_SIDE, &pieces);
        prop_assert_eq!(essence(&joined), essence(&unwrapped(&whole.frame)));
        let seen = see(&joined);
        if seen.destination == to {
            return Ok(());
        }
        let answer = PacketBuilder::udp(seen.destination, seen.source).payload(&payload);
        let answer = answer.link(ORIGIN_MAC, ORIGIN_NODE_MAC);
        let whole = one.receive(ORIGIN_SIDE, &answer.frame());
        let pieces = shuffled(cut(&answer, id, &cuts), &mut random);
        let joined = through(&mut other, ORIGIN_SIDE, &pieces);
        prop_assert_eq!(essence(&joined), essence(&whole.frame));
        prop_assert_eq!(see(&joined).source, to);
    }
}

#[test]
fn clients_with_the_same_identification_are_told_apart() {
    for v6 in [false, true] {
        let mut node = Node::new();
        let all: Vec<Vec<Frame>> = (0..50)
            .map(|number| {
                let packet =
                    PacketBuilder::udp(client_at(v6, number), vip(v6, 53)).payload(&[number as u8; 64]);
                cut(&packet, [7; 4], &[16, 40])
            })
            .collect();
        let mut left: Vec<Vec<Frame>> = vec![Vec::new(); all.len()];
        // Interleaved, and half of them the other way round.
        for turn in [[2, 0], [0, 1], [1, 2], [2, 2]] {
            for (number, pieces) in all.iter().enumerate() {
                let outcome = node.receive(CLIENT_SIDE, &pieces[turn[number % 2]]);
                if let Verdict::Forward(_) = outcome.verdict {
                    left[number].push(outcome.frame);
                }
            }
        }
        let mut given = BTreeMap::new();
        for (number, pieces) in left.iter_mut().enumerate() {
            // The last turn is a second copy of a piece that the others had before.
            pieces.truncate(3);
            let identification = place(&pieces[0]).unwrap().identification;
            let source = see(&join(pieces)).source.ip();
            assert_eq!(see(&join(pieces)).payload, [number as u8; 64]);
            assert_eq!(
                given.insert((source, identification), number),
                None,
                "given twice"
            );
        }
    }
}

#[test]
fn identifications_stay_where_sources_do() {
    for app in [app::DNAT, app::DSR_L2, app::DSR_IPIP, app::DSR_GUE] {
        for v6 in [false, true] {
            let mut node = Node::new();
            let packet = PacketBuilder::udp(client_at(v6, 1), vip(v6, port_of(app))).payload(&[5; 64]);
            let pieces = cut(&packet, [9, 8, 7, 6], &[32]);
            for piece in &pieces {
                let left = unwrapped(&node.receive(CLIENT_SIDE, piece).frame);
                let wanted = place(piece).unwrap().identification;
                assert_eq!(place(&left).unwrap().identification, wanted, "application {app}");
            }
        }
    }
}

#[test]
fn what_a_first_fragment_said_is_forgotten_in_time() {
    for v6 in [false, true] {
        let mut node = Node::new();
        let packet = PacketBuilder::udp(client_at(v6, 1), vip(v6, 53)).payload(&[5; 64]);
        let [first, last] = <[Frame; 2]>::try_from(cut(&packet, [9, 8, 7, 6], &[32])).unwrap();
        let second = 250;
        node.0.scenario.tables.settings.second = second;
        assert!(matches!(
            node.receive(CLIENT_SIDE, &first).verdict,
            Verdict::Forward(_)
        ));
        node.pass_time(30 * second);
        assert!(matches!(
            node.receive(CLIENT_SIDE, &last).verdict,
            Verdict::Forward(_)
        ));
        node.pass_time(1);
        assert_eq!(
            node.receive(CLIENT_SIDE, &last).verdict,
            Verdict::Hold(Hold::Fragment)
        );
        // The number is used again, and stands for another datagram by now.
        let again = node.receive(CLIENT_SIDE, &first);
        let last = node.receive(CLIENT_SIDE, &last);
        assert_eq!(see(&join(&[again.frame, last.frame])).payload, [5; 64]);
    }
}

#[test]
fn a_flow_that_is_forgotten_takes_its_fragments_along() {
    let mut node = Node::new();
    let packet = PacketBuilder::udp(client_at(false, 1), vip(false, 53)).payload(&[5; 64]);
    let pieces = cut(&packet, [9, 8, 7, 6], &[32]);
    node.receive(CLIENT_SIDE, &pieces[0]);
    node.0.scenario.tables.tentative4.borrow_mut().clear();
    let outcome = node.receive(CLIENT_SIDE, &pieces[1]);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Fragment));
}

#[test]
fn nobody_holds_what_cannot_be_ours() {
    let mut node = Node::new();
    node.0.scenario.tables.settings.flags.0 &= !lb_common::abi::SettingsFlags::DNAT;
    let datagrams = [
        // To an address of nobody, to a source address of ours, and to an application's.
        ("203.0.113.99:53", Verdict::Pass(Pass::Fragment)),
        ("192.0.2.11:9", Verdict::Hold(Hold::Fragment)),
        ("203.0.113.10:9", Verdict::Hold(Hold::Fragment)),
    ];
    for (to, verdict) in datagrams {
        let packet = PacketBuilder::udp(client_at(false, 1), at(to)).payload(&[5; 64]);
        let pieces = cut(&packet, [1; 4], &[32]);
        assert_eq!(node.receive(CLIENT_SIDE, &pieces[1]).verdict, verdict, "{to}");
        // The kernel gets all of a datagram for no application, whatever came first.
        for piece in &pieces {
            assert!(
                matches!(node.receive(CLIENT_SIDE, piece).verdict, Verdict::Pass(_)),
                "{to}"
            );
        }
    }
}
