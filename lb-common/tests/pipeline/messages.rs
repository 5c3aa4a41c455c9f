//! ICMP errors about packets of flows, in every forwarding mode: they reach who sent the packet, and speak of what was sent.

use super::*;
use lb_common::abi::Forwarding;
use lb_common::datapath::{DropReason, Pass};
use lb_common::testing::Random;
use lb_common::testing::check::Seen;
use lb_common::testing::messages::{kind, message, quote};
use lb_common::testing::modes::port as port_of;
use lb_common::testing::scenario::{VIPS, app};
use std::net::IpAddr;

/// A flow of some client to [`app::MIXED`], whose origin is reached in any mode.
struct Talk {
    tcp: bool,
    /// The client's packet, and what its origin got of it.
    asked: Frame,
    got: Frame,
    /// The origin's packet, and what the client got of it.
    answered: Frame,
    received: Frame,
    forwarding: Forwarding,
}

/// What a quote says, when it quotes all of a packet.
fn quoted(seen: &Seen) -> Seen {
    see(&framed(&seen.payload[4..]))
}

impl Node {
    fn talk(&mut self, number: usize, v6: bool, tcp: bool) -> Talk {
        let host = number as u16;
        let client: SocketAddr = if v6 {
            ([0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, host], 30_000 + host).into()
        } else {
            ([198, 18, 7, host as u8], 30_000 + host).into()
        };
        let vip: SocketAddr = (
            VIPS[usize::from(v6)].parse::<IpAddr>().unwrap(),
            port_of(app::MIXED),
        )
            .into();
        let packet = |from, to, flags, payload: &[u8]| {
            let packet = if tcp {
                PacketBuilder::tcp(from, to, flags)
            } else {
                PacketBuilder::udp(from, to)
            };
            packet.payload(payload)
        };
        let asked = packet(client, vip, SYN, b"a question").frame();
        let first = self.receive(CLIENT_SIDE, &asked);
        let tunnelled = tunnel(&first.frame);
        let got = match &tunnelled {
            Some(outer) => framed(&outer.inner),
            None => first.frame.clone(),
        };
        let seen = see(&got);
        let direct = seen.destination == vip;
        let answer = packet(seen.destination, seen.source, SYN | ACK, b"an answer").frame();
        let received = if direct {
            answer.clone()
        } else {
            self.receive(ORIGIN_SIDE, &answer).frame
        };
        let forwarding = match (tunnelled, direct) {
            (Some(outer), _) if outer.udp.is_some() => Forwarding::DSR_GUE,
            (Some(_), _) => Forwarding::DSR_IPIP,
            (None, true) => Forwarding::DSR_L2,
            (None, false) if seen.source == client => Forwarding::DNAT,
            (None, false) => Forwarding::NAT,
        };
        Talk {
            tcp,
            asked,
            got,
            answered: answer,
            received,
            forwarding,
        }
    }
}

fn router(v6: bool) -> IpAddr {
    if v6 {
        [0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1].into()
    } else {
        [100, 64, 0, 1].into()
    }
}

/// An error about a packet, sent to where that came from.
fn error(about: &Frame, what: (u8, u8), length: usize) -> PacketBuilder {
    let sender = see(about).source.ip();
    message(
        router(sender.is_ipv6()),
        sender,
        what,
        [0, 0, 5, 20],
        quote(about, length),
    )
}

/// All modes, families and protocols, several times.
fn talks() -> (Node, Vec<Talk>) {
    let mut node = Node::new();
    let mut talks = Vec::new();
    for number in 0..40 {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            talks.push(node.talk(number, v6, tcp));
        }
    }
    for forwarding in 0..5 {
        let of = talks
            .iter()
            .filter(|talk| talk.forwarding == Forwarding(forwarding));
        assert!(of.count() > 10, "too few flows of mode {forwarding}");
    }
    (node, talks)
}

/// The same ends, in both directions of looking.
fn ends(seen: &Seen) -> (SocketAddr, SocketAddr) {
    (seen.source, seen.destination)
}

#[test]
fn errors_about_answers_reach_the_origin() {
    let (mut node, talks) = talks();
    let mut random = Random(1);
    for talk in talks {
        let (sent, received) = (see(&talk.answered), see(&talk.received));
        let v6 = sent.source.is_ipv6();
        for what in kind::ERRORS[usize::from(v6)] {
            let whole = error(&talk.received, what, 2000);
            let outcome = node.receive(CLIENT_SIDE, &whole.frame());
            assert!(
                matches!(outcome.verdict, Verdict::Forward(_)),
                "{:?}",
                outcome.verdict
            );
            if talk.forwarding.is_direct() {
                let left = match tunnel(&outcome.frame) {
                    Some(outer) => outer.inner,
                    None => quote(&outcome.frame, 2000).to_vec(),
                };
                // As it came, to the byte.
                assert_eq!(left, quote(&whole.frame(), 2000), "{:?}", talk.forwarding);
                continue;
            }
            let seen = see(&outcome.frame);
            let about = quoted(&seen);
            assert_eq!(seen.destination.ip(), sent.source.ip());
            let from = if talk.forwarding == Forwarding::DNAT {
                router(v6)
            } else {
                sent.destination.ip()
            };
            assert_eq!(seen.source.ip(), from);
            assert_eq!(ends(&about), ends(&sent), "it speaks of what the origin sent");
            assert_eq!(
                (about.payload, about.protocol),
                (received.payload.clone(), received.protocol)
            );
            // However little is quoted, it is the same little.
            let header = if v6 { 40 } else { 20 };
            // Half a checksum is none.
            let length = header + 8 + 2 * random.below(15);
            let part = node.receive(CLIENT_SIDE, &error(&talk.received, what, length).frame());
            assert!(matches!(part.verdict, Verdict::Forward(_)));
            let of_part = see(&part.frame).payload;
            assert_eq!(of_part, seen.payload[..of_part.len()]);
        }
    }
}

#[test]
fn errors_about_questions_reach_the_client() {
    let (mut node, talks) = talks();
    for talk in talks.iter().filter(|talk| !talk.forwarding.is_direct()) {
        let (asked, got) = (see(&talk.asked), see(&talk.got));
        let v6 = asked.source.is_ipv6();
        for what in kind::ERRORS[usize::from(v6)] {
            let outcome = node.receive(ORIGIN_SIDE, &error(&talk.got, what, 2000).frame());
            assert_eq!(outcome.verdict, redirect(CLIENT_SIDE));
            let seen = see(&outcome.frame);
            let about = quoted(&seen);
            // Who inside has something to say is nobody's business.
            assert_eq!(seen.source.ip(), asked.destination.ip());
            assert_eq!(seen.destination.ip(), asked.source.ip());
            assert_eq!(seen.payload[..4], [0, 0, 5, 20], "an MTU stays");
            assert_eq!(ends(&about), ends(&asked));
            assert_eq!(
                (about.payload, about.protocol),
                (got.payload.clone(), got.protocol)
            );
        }
    }
}

/// When each entry was last known to be alive, and how its connection stands.
fn signs_of_life(node: &Node) -> Vec<(u32, u8)> {
    let tables = &node.0.scenario.tables;
    let of4 = |flows: &RefCell<BTreeMap<FlowKey4, Flow4>>| {
        let flows = flows.borrow();
        flows
            .values()
            .map(|flow| (flow.core.seen, flow.core.tcp.0))
            .collect::<Vec<_>>()
    };
    [of4(&tables.flows4), of4(&tables.tentative4)].concat()
}

#[test]
fn an_error_is_no_sign_of_life_and_ends_nothing() {
    let mut node = Node::new();
    let talk = node.talk(1, false, false);
    assert!(!talk.tcp);
    let before = signs_of_life(&node);
    assert!(!before.is_empty());
    node.pass_time(TIMEOUTS.udp - 100);
    let unreachable = error(&talk.received, (3, 3), 2000).frame();
    let outcome = node.receive(CLIENT_SIDE, &unreachable);
    assert!(
        matches!(outcome.verdict, Verdict::Forward(_)),
        "{:?}",
        outcome.verdict
    );
    assert_eq!(signs_of_life(&node), before);
    node.pass_time(200);
    let outcome = node.receive(CLIENT_SIDE, &unreachable);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::IcmpUnknownFlow));
}

#[test]
fn an_error_from_elsewhere_is_about_nothing() {
    let (mut node, talks) = talks();
    for talk in talks {
        let sender = see(&talk.received).source.ip();
        let v6 = sender.is_ipv6();
        let (vip, other): (IpAddr, IpAddr) = if v6 {
            (sender, [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77].into())
        } else {
            (sender, [203, 0, 113, 77].into())
        };
        let what = kind::ERRORS[usize::from(v6)][1];
        // It came to another address than the packet had come from.
        let stray = message(router(v6), other, what, [0; 4], quote(&talk.received, 2000));
        let outcome = node.receive(CLIENT_SIDE, &stray.frame());
        assert_eq!(
            outcome.verdict,
            Verdict::Pass(Pass::OtherProtocol),
            "{vip} and {other}"
        );
    }
}

#[test]
fn the_interface_that_an_error_comes_by_does_not_matter() {
    let mut node = Node::new();
    for (v6, tcp) in [(false, true), (true, false)] {
        let talk = node.talk(9, v6, tcp);
        let whole = error(&talk.received, kind::ERRORS[usize::from(v6)][0], 2000).frame();
        let [by_client, by_origin] = [CLIENT_SIDE, ORIGIN_SIDE].map(|side| node.receive(side, &whole).frame);
        assert_eq!(by_client, by_origin);
    }
}
