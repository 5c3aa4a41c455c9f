//! Probes through tunnels: what leaves is what clients' packets look like, and answers find back.

use lb_common::abi::{Forwarding, Ip, Port};
use lb_common::testing::build::PacketBuilder;
use lb_common::testing::check::{hex, see};
use lb_common::testing::probes::{DIRECT, LOCAL, echo, found, leave, question, rewrite, unreachable, way};
use lb_common::testing::tunnels::{ENDS, GUE_PORT, MemoryLocals, NODES, ip, set_class};
use lb_common::tunnel::probe::{Answer, Probe, answer_key, incoming};
use lb_common::tunnel::{Outcome, Work, process};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

#[test]
fn an_origin_gets_the_vips_packet_by_every_way() {
    let mut seen = 0;
    for forwarding in DIRECT {
        for origin_v6 in [false, true] {
            for vip_v6 in [false, true] {
                if forwarding == Forwarding::DSR_L2 && origin_v6 != vip_v6 {
                    continue;
                }
                for kind in 0..3 {
                    let probe = way(forwarding, origin_v6, vip_v6);
                    let frame = question(probe.target, kind, 80, b"odd");
                    let found = found(&frame, &probe, true).unwrap();
                    let mut left = leave(&frame, &found);
                    if forwarding.is_tunnel() {
                        let outer = see(&left);
                        assert_eq!(
                            (outer.source.ip(), outer.destination.ip()),
                            (ip(NODES[usize::from(origin_v6)]), probe.origin.into())
                        );
                        if forwarding == Forwarding::DSR_GUE {
                            assert_eq!(outer.destination.port(), GUE_PORT.host());
                            assert!(outer.source.port() >= 49_152);
                            assert_eq!(outer.checksum != 0, origin_v6, "summed where it has to be");
                        }
                        let outcome = process(
                            &mut left,
                            &MemoryLocals::standard(),
                            &mut Work::default(),
                            GUE_PORT,
                        );
                        let wanted = if forwarding == Forwarding::DSR_GUE {
                            Outcome::Gue
                        } else {
                            Outcome::Ipip
                        };
                        assert_eq!(outcome, wanted);
                    }
                    let expected = question(probe.vip, kind, 80, b"odd");
                    assert_eq!(
                        hex(&left.0),
                        hex(&expected.0),
                        "{forwarding:?} {origin_v6} {vip_v6} {kind}"
                    );
                    assert_eq!(found.key.vip, probe.vip);
                    assert_eq!(found.key.local, Port::new(LOCAL));
                    assert_eq!(found.key.port, Port::new(if kind == 2 { 0 } else { 80 }));
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 3 * (2 + 4 + 4));
}

#[test]
fn an_answer_comes_from_what_the_socket_is_connected_to() {
    for v6 in [false, true] {
        for kind in 0..3 {
            let probe = way(Forwarding::DSR_IPIP, v6, v6);
            let question = question(probe.target, kind, 80, b"?");
            let key = found(&question, &probe, true).unwrap().key;
            let node = ip(NODES[usize::from(v6)]);
            let answer_from = |ip: Ip| {
                let ends: (SocketAddr, SocketAddr) = ((IpAddr::from(ip), 80).into(), (node, LOCAL).into());
                match kind {
                    0 => PacketBuilder::tcp(ends.0, ends.1, 0x12).payload(b"!").frame(),
                    1 => PacketBuilder::udp(ends.0, ends.1).payload(b"!").frame(),
                    _ => echo(ip.into(), node, false, b"!"),
                }
            };
            let mut frame = answer_from(probe.vip);
            assert_eq!(answer_key(&frame), Some(key));
            let answer = Answer {
                target: probe.target,
                seen: u32::MAX - 5,
            };
            assert_eq!(incoming(&frame, &answer, 100, 50), None, "nobody waits any more");
            let what = incoming(&frame, &answer, 40, 50).unwrap();
            rewrite(&mut frame, &what);
            assert_eq!(hex(&frame.0), hex(&answer_from(probe.target).0), "{v6} {kind}");
        }
    }
}

#[test]
fn an_error_about_the_vip_becomes_one_about_the_origin() {
    for v6 in [false, true] {
        for kind in 0..3 {
            let probe = way(Forwarding::DSR_GUE, v6, v6);
            let key = found(&question(probe.target, kind, 80, b"odd"), &probe, true)
                .unwrap()
                .key;
            let own = question(probe.vip, kind, 80, b"odd");
            let node = ip(NODES[usize::from(v6)]);
            let mut frame = unreachable(probe.vip.into(), node, &own);
            assert_eq!(answer_key(&frame), Some(key));
            let answer = Answer {
                target: probe.target,
                seen: 0,
            };
            let what = incoming(&frame, &answer, 1, 50).unwrap();
            rewrite(&mut frame, &what);
            // What a quoted transport checksum is nobody looks at: it stays the VIP's.
            let mut wanted = question(probe.target, kind, 80, b"odd");
            let transport = if v6 { 14 + 40 } else { 14 + 20 };
            wanted.0.splice(transport.., own.0[transport..].iter().copied());
            let wanted = unreachable(probe.origin.into(), node, &wanted);
            assert_eq!(hex(&frame.0), hex(&wanted.0), "{v6} {kind}");
        }
    }
    // Somebody else's word is not what it seems.
    let probe = way(Forwarding::DSR_GUE, false, false);
    let stranger = ip("192.0.2.99");
    let frame = unreachable(stranger, ip(NODES[0]), &question(probe.vip, 1, 80, b""));
    assert_eq!(answer_key(&frame), None);
}

#[test]
fn what_is_not_the_ways_leaves_as_it_is() {
    let probe = way(Forwarding::DSR_IPIP, false, false);
    let stranger = question(ip("192.0.2.99").into(), 0, 80, b"");
    assert_eq!(found(&stranger, &probe, true), None);
    let other_family = question(ip(ENDS[1]).into(), 0, 80, b"");
    assert_eq!(found(&other_family, &probe, true), None);
    let ends: (SocketAddr, SocketAddr) = ((ip(NODES[0]), 1).into(), (ip(ENDS[0]), 2).into());
    for builder in [
        PacketBuilder::udp(ends.0, ends.1).fragment(0, true),
        PacketBuilder::raw(ends.0.ip(), ends.1.ip(), 47).payload(&[0; 20]),
        PacketBuilder::raw(ends.0.ip(), ends.1.ip(), 1).payload(&[3, 1, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(found(&builder.frame(), &probe, true), None);
    }
    // A VIP of the other family cannot be written over the origin's address.
    let mixed = Probe {
        target: probe.origin,
        ..way(Forwarding::DSR_IPIP, false, true)
    };
    assert_eq!(found(&question(probe.origin, 0, 80, b""), &mixed, true), None);
}

#[test]
fn a_super_packet_is_not_summed() {
    let probe = way(Forwarding::DSR_GUE, true, true);
    let frame = question(probe.target, 0, 80, &[7; 3000]);
    let found = found(&frame, &probe, false).unwrap();
    let left = leave(&frame, &found);
    assert_eq!(left.0[14 + 40 + 6..][..2], [0, 0]);
}

/// A TCP segment whose packet ends, by its own header, before the checksum does.
#[test]
fn a_header_that_is_cut_short_is_no_question() {
    let probe = way(Forwarding::DSR_GUE, true, true);
    let mut frame = question(probe.target, 0, 80, b"");
    for length in 0..20u8 {
        frame.0.truncate(14 + 40 + usize::from(length));
        frame.0.resize(14 + 40 + usize::from(length), 0);
        frame.0[14 + 5] = length;
        assert_eq!(found(&frame, &probe, true), None, "{length}");
    }
}

proptest! {
    /// The outer checksum is right without a look at the payload.
    #[test]
    fn the_outer_checksum_is_right(vip_v6: bool, kind in 0u8..3, payload: Vec<u8>, port: u16, class: u8) {
        let probe = way(Forwarding::DSR_GUE, true, vip_v6);
        let mut frame = question(probe.target, kind, port, &payload);
        set_class(&mut frame, 14, class);
        let found = found(&frame, &probe, true).unwrap();
        // Verifies it.
        let outer = see(&leave(&frame, &found));
        prop_assert_eq!(outer.destination.port(), GUE_PORT.host());
    }

    #[test]
    fn packets_that_lie_do_no_harm(v6: bool, kind in 0u8..3, lies: Vec<(prop::sample::Index, u8)>, length: prop::sample::Index) {
        let probe = way(Forwarding::DSR_GUE, v6, v6);
        let mut frame = question(probe.target, kind, 80, b"payload");
        for (at, byte) in lies.iter().take(4) {
            let at = at.index(frame.0.len());
            frame.0[at] = *byte;
        }
        let whole = frame.0.len();
        frame.0.truncate(1 + length.index(whole));
        if let Some(found) = found(&frame, &probe, true) {
            prop_assert_eq!(leave(&frame, &found).0.len(), frame.0.len() + found.kind.length());
        }
        let _ = answer_key(&frame);
    }
}
