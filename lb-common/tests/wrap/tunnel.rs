//! Outer headers: every tunnel, families inside and outside, tags, and whatever a client may send.

use super::*;
use lb_common::abi::{PathMtu, SettingsFlags, TunnelSource};
use lb_common::datapath::{DropReason, Exit, Reply, Verdict};
use lb_common::testing::build::extension;
use lb_common::testing::check::is_valid;
use lb_common::testing::outer::{Outer, outer};
use lb_common::testing::tunnels::MemoryLocals;
use lb_common::testing::{Checksum, Random};
use lb_common::tunnel::{Local, Outcome, Roles, Work, process};
use proptest::prelude::*;
use std::collections::BTreeSet;

const TUNNELS: [Forwarding; 2] = [Forwarding::DSR_IPIP, Forwarding::DSR_GUE];

/// A frame's bytes from the IP header to the packet's end.
fn packet_of(builder: &PacketBuilder) -> Vec<u8> {
    let builder = builder.clone().padding(0);
    builder.frame().0[builder.network()..].to_vec()
}

impl Stage {
    /// Has it put a packet into the tunnel, and takes the result apart.
    #[track_caller]
    fn carry(&mut self, packet: &PacketBuilder, tags: &[u16]) -> (Outer, Frame) {
        let (step, frame) = self.wrap(&packet.frame(), WrapKind::Tunnel, as_loaded(tags));
        let exit = Exit::Redirect { ifindex: ORIGIN_SIDE };
        assert_eq!(step, Step::Done(Verdict::Forward(exit)));
        let outer = outer(&frame).unwrap_or_else(|| panic!("no tunnel's: {frame:?}"));
        (outer, frame)
    }
}

/// What an origin makes of a frame.
fn at_the_origin(frame: &Frame) -> Frame {
    let locals = MemoryLocals::default();
    for (addresses, roles) in [(ORIGINS, Roles::TUNNEL), (VIPS, Roles::VIP)] {
        for address in addresses {
            let local = Local { roles, overhead: 0 };
            locals.addresses.borrow_mut().insert(ip(address).into(), local);
        }
    }
    let mut frame = frame.clone();
    let outcome = process(&mut frame, &locals, &mut Work::default(), Port::new(GUE_PORT));
    assert!(matches!(outcome, Outcome::Ipip | Outcome::Gue), "{outcome:?}");
    frame
}

/// All that must hold of a packet in a tunnel.
fn promises(stage: &mut Stage, packet: &PacketBuilder, v6: bool, tags: &[u16]) {
    let before = stage.tables.counters();
    let (outer, frame) = stage.carry(packet, tags);
    let origin = *stage.origin();
    let outer_v6 = origin.address.v4().is_none();
    let gue = origin.forwarding == Forwarding::DSR_GUE;
    let inner = packet_of(packet);
    assert_eq!(outer.inner, inner, "it is carried as it came");
    assert_eq!(outer.padding, 0, "Ethernet's padding stays behind");
    assert_eq!(outer.link, (ORIGIN_NODE_MAC, ORIGIN_MAC));
    let wanted: Vec<[u8; 4]> = as_loaded(tags)
        .iter()
        .filter(|tag| **tag != Tag::NONE)
        .map(|tag| tag.0.to_ne_bytes())
        .collect();
    assert_eq!(outer.tags, wanted);
    assert_eq!(IpAddr::from(origin.address), outer.destination);
    assert!(sources(outer_v6).contains(&outer.source), "{}", outer.source);
    assert_eq!(outer.ttl, 64);
    let class = if v6 {
        inner[0] << 4 | inner[1] >> 4
    } else {
        inner[1]
    };
    assert_eq!(outer.class, class, "RFC 6040 section 4.1, normal mode");
    if !outer_v6 {
        assert_eq!(outer.fragment, (0, 0x4000), "without identification, DF set");
    }
    match outer.udp {
        None => assert_eq!((gue, outer.protocol), (false, in_ip(v6))),
        Some(udp) => {
            assert!(gue);
            assert_eq!(udp.destination, GUE_PORT);
            assert!(udp.source >= 49_152);
            assert_eq!(udp.checksum == 0, !outer_v6);
            // A packet that is corrupt inside is corrupt outside.
            let right = is_valid(&packet.frame()) || !matches!(inner_protocol(packet), 6 | 17);
            if outer_v6 && right {
                assert!(udp.valid, "{outer:?}");
            }
        }
    }
    let taken = packet.clone().padding(0).tags(tags);
    let taken = taken.link(ORIGIN_NODE_MAC, ORIGIN_MAC);
    let mut taken = taken.frame();
    if let [_, _] = tags {
        assert_eq!(taken.0[12..14], [0x88, 0xa8]);
    }
    assert_eq!(
        at_the_origin(&frame),
        std::mem::take(&mut taken),
        "the origin gets what came"
    );
    let bytes = packet.clone().padding(0).frame().0.len();
    let moved = stage.tables.counters().since(&before);
    assert_eq!(
        moved,
        format!(
            "application 7 bytes in {bytes}, application 7 in 1, origin 1 bytes in {bytes}, origin 1 in 1"
        )
    );
}

fn inner_protocol(packet: &PacketBuilder) -> u8 {
    lb_common::testing::check::dissect(&packet.frame()).map_or(0, |(seen, _)| seen.protocol)
}

/// One packet of each kind.
fn kinds(v6: bool) -> Vec<PacketBuilder> {
    let syn = tcp(v6, SYN).tcp_options(&[2, 4, 2, 0, 1, 3, 3, 7]);
    let mut kinds = vec![
        syn.clone(),
        tcp(v6, ACK),
        tcp(v6, ACK).padding(6),
        tcp(v6, ACK).payload(b"odd").class(0xb9),
        tcp(v6, ACK).payload(&[7; 1300]).class(0x03).ttl(1),
        tcp(v6, ACK).checksum(Checksum::Wrong),
        udp(v6).payload(b"question"),
        udp(v6).padding(18),
        udp(v6).payload(b"a question").fragment(0, true),
        udp(v6).payload(b"the rest of it").fragment(100, false),
        PacketBuilder::raw(ip(CLIENTS[usize::from(v6)]), ip(VIPS[usize::from(v6)]), 132).payload(&[1; 20]),
    ];
    if v6 {
        kinds.push(
            syn.clone()
                .padding_extension(extension::HOP_BY_HOP)
                .padding_extension(extension::DESTINATION_OPTIONS),
        );
        kinds.push(syn.fragment(0, false));
    } else {
        kinds.push(syn.options(&[1; 40]));
        kinds.push(udp(v6).payload(b"silent").checksum(Checksum::None));
        kinds.push(tcp(v6, ACK).dont_fragment());
    }
    kinds
}

#[test]
fn every_packet_in_every_tunnel_with_any_tags() {
    for forwarding in TUNNELS {
        for outer_v6 in [false, true] {
            for v6 in [false, true] {
                let mut stage = Stage::new(forwarding, outer_v6);
                for packet in kinds(v6) {
                    for came in TAGS {
                        for leaves in TAGS {
                            promises(&mut stage, &packet.clone().tags(came), v6, leaves);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn partial_checksums_are_completed() {
    for forwarding in TUNNELS {
        for outer_v6 in [false, true] {
            for v6 in [false, true] {
                let mut stage = Stage::new(forwarding, outer_v6);
                stage.tables.settings.flags = SettingsFlags(SettingsFlags::PARTIAL_CHECKSUMS);
                for packet in [
                    tcp(v6, SYN).tcp_options(&[2, 4, 5, 0xb4]),
                    tcp(v6, ACK).payload(&[3; 1001]),
                    udp(v6).payload(b"question"),
                ] {
                    let (outer, frame) = stage.carry(&packet.clone().checksum(Checksum::Partial), &[]);
                    assert!(outer.udp.is_none_or(|udp| udp.valid), "{outer:?}");
                    assert!(is_valid(&at_the_origin(&frame)));
                    promises(&mut stage, &tcp(v6, ACK).payload(b"whole"), v6, &[]);
                }
                if !v6 {
                    let silent = udp(v6).payload(b"silent").checksum(Checksum::None);
                    promises(&mut stage, &silent, v6, &[]);
                }
            }
        }
    }
}

#[test]
fn a_sum_that_cannot_be_had_is_left_out() {
    // Longer than what can be summed, and no checksum inside to go by.
    let mut stage = Stage::new(Forwarding::DSR_GUE, true);
    stage.set_mtu(TWO_ARMED, 60_000);
    let packet = udp(false).payload(&[9; 13_000]);
    let (outer, _) = stage.carry(&packet.clone().checksum(Checksum::None), &[]);
    let udp = outer.udp.unwrap();
    assert_eq!(udp.checksum, 0, "RFC 6935");
    let (outer, _) = stage.carry(&packet, &[]);
    let udp = outer.udp.unwrap();
    assert!(udp.checksum != 0 && udp.valid);
}

#[test]
fn bytes_behind_a_datagram_are_carried() {
    for v6 in [false, true] {
        let mut stage = Stage::new(Forwarding::DSR_GUE, true);
        let packet = udp(v6).payload(b"datagram").padding(4);
        let mut frame = packet.frame();
        // The IP header counts the padding in; the datagram does not (RFC 9868).
        let field = packet.network() + if v6 { 4 } else { 2 };
        frame.0[field + 1] += 4;
        if !v6 {
            let at = packet.network();
            frame.0[at + 10..at + 12].fill(0);
            let sum = !lb_common::testing::build::sum(&[&frame.0[at..at + 20]]);
            frame.0[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let (step, left) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
        assert!(matches!(step, Step::Done(Verdict::Forward(_))));
        let outer = outer(&left).unwrap();
        assert_eq!(outer.inner, frame.0[packet.network()..]);
        let udp = outer.udp.unwrap();
        assert!(udp.valid && udp.checksum != 0);
    }
}

#[test]
fn flows_spread_and_each_keeps_to_its_way() {
    for (forwarding, outer_v6) in [
        (Forwarding::DSR_GUE, false),
        (Forwarding::DSR_GUE, true),
        (Forwarding::DSR_IPIP, true),
    ] {
        for v6 in [false, true] {
            let mut stage = Stage::new(forwarding, outer_v6);
            let (mut ports, mut labels, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for port in 1000..1500 {
                let [client, vip] = ends(v6, 80);
                let packet = PacketBuilder::tcp((client.ip(), port).into(), vip, ACK);
                let (first, _) = stage.carry(&packet, &[]);
                let (second, _) = stage.carry(&packet.payload(b"more"), &[]);
                let way = |outer: &Outer| (outer.source, outer.label, outer.udp.map(|udp| udp.source));
                assert_eq!(way(&first), way(&second));
                ports.extend(first.udp.map(|udp| udp.source));
                labels.insert(first.label);
                addresses.insert(first.source);
            }
            assert_eq!(addresses, sources(outer_v6).into(), "both are used");
            if forwarding == Forwarding::DSR_GUE {
                assert!(ports.len() > 470, "{} ports", ports.len());
            }
            assert!(!outer_v6 || labels.len() > 490, "{} labels", labels.len());
        }
    }
}

#[test]
fn sources_may_come_from_a_prefix() {
    let source = TunnelSource {
        prefix4: u32::from_ne_bytes([172, 16, 0, 0]),
        mask4: u32::from_ne_bytes([0, 0, 255, 255]),
        prefix6: "100::".parse::<std::net::Ipv6Addr>().unwrap().into(),
        mask6: u32::MAX,
        reserved: 0,
    };
    for outer_v6 in [false, true] {
        let mut stage = Stage::new(Forwarding::DSR_IPIP, outer_v6);
        stage.tables.settings.tunnel_source = source;
        stage.origin().snat_count = 0;
        let mut seen = BTreeSet::new();
        for port in 1000..1200 {
            let [client, vip] = ends(false, 80);
            let packet = PacketBuilder::tcp((client.ip(), port).into(), vip, ACK);
            let (outer, _) = stage.carry(&packet, &[]);
            match outer.source {
                IpAddr::V4(v4) => assert_eq!(v4.octets()[..2], [172, 16]),
                IpAddr::V6(v6) => assert_eq!(v6.segments()[..6], [0x100, 0, 0, 0, 0, 0]),
            }
            seen.insert(outer.source);
        }
        assert!(seen.len() > 190, "{}", seen.len());
    }
}

#[test]
fn a_node_without_an_address_of_the_outer_family_carries_nothing() {
    for outer_v6 in [false, true] {
        for other in [false, true] {
            let mut stage = Stage::new(Forwarding::DSR_IPIP, outer_v6);
            if other {
                stage.origin().snat_base = if outer_v6 { 0 } else { 2 };
            } else {
                stage.origin().snat_count = 0;
            }
            let frame = tcp(false, ACK).frame();
            let (step, left) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
            assert_eq!(step, Step::Done(Verdict::Drop(DropReason::NoSourceAddress)));
            assert_eq!(left, frame);
        }
    }
}

#[test]
fn a_tunnel_needs_a_next_hop() {
    let mut stage = Stage::new(Forwarding::DSR_GUE, false);
    stage.tables.hops.get_mut(&TWO_ARMED).unwrap().resolved = 0;
    let frame = tcp(false, ACK).frame();
    for hop in [TWO_ARMED, HopId::UNRESOLVED] {
        stage.origin().hop = hop;
        let (step, left) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
        assert_eq!(step, Step::Done(Verdict::Drop(DropReason::NoNextHop)));
        assert_eq!(left, frame);
    }
}

#[test]
fn a_packet_that_is_too_long_is_answered_and_untouched() {
    for (forwarding, outer_v6, overhead) in [
        (Forwarding::DSR_IPIP, false, 20),
        (Forwarding::DSR_IPIP, true, 40),
        (Forwarding::DSR_GUE, false, 28),
        (Forwarding::DSR_GUE, true, 48),
    ] {
        for v6 in [false, true] {
            let headers = if v6 { 60 } else { 40 };
            let mut stage = Stage::new(forwarding, outer_v6);
            for (mtu, learned) in [(1500, 0), (1500, 1400), (1400, 1500), (9000, 0)] {
                stage.set_mtu(TWO_ARMED, mtu);
                let path = PathMtu {
                    mtu: learned,
                    seen: NOW.wrapping_sub(600 * stage.tables.settings.second),
                };
                stage.tables.path_mtus.borrow_mut().insert(ID.0, path);
                let known = if learned == 0 { u32::from(mtu) } else { learned };
                let room = known.min(mtu.into()) - overhead;
                let fits = |more: usize| tcp(v6, ACK).payload(&vec![5; room as usize - headers + more]);
                promises(&mut stage, &fits(0), v6, &[5]);
                for packet in [fits(1), fits(300), fits(1).dont_fragment()] {
                    let frame = packet.frame();
                    let (step, left) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
                    assert_eq!(step, Step::Go(lb_common::datapath::Stage::Reply));
                    assert_eq!((stage.scratch.reply, stage.scratch.mtu), (Reply::TooBig, room));
                    assert_eq!(left, frame);
                }
                // What was learned does not hold for ever.
                let path = PathMtu {
                    mtu: learned,
                    seen: path.seen.wrapping_sub(1),
                };
                stage.tables.path_mtus.borrow_mut().insert(ID.0, path);
                let room = u32::from(mtu) - overhead;
                let packet = tcp(v6, ACK).payload(&vec![5; room as usize - headers]);
                promises(&mut stage, &packet, v6, &[]);
            }
        }
    }
}

#[test]
fn what_every_path_must_carry_is_carried() {
    let path = |stage: &mut Stage, mtu| {
        let path = PathMtu { mtu, seen: NOW };
        stage.tables.path_mtus.borrow_mut().insert(ID.0, path);
    };
    // RFC 4213 section 3.2.2: IPv6 packets of 1280 bytes are not asked to be shorter; the outer packet is fragmented.
    let mut stage = Stage::new(Forwarding::DSR_IPIP, false);
    path(&mut stage, 1280);
    let mut identifications = BTreeSet::new();
    for _ in 0..10 {
        let (outer, _) = stage.carry(&tcp(true, ACK).payload(&[0; 1220]), &[]);
        assert_eq!(outer.fragment.1, 0, "DF is not set");
        identifications.insert(outer.fragment.0);
    }
    assert!(identifications.len() >= 5 && !identifications.contains(&0));
    let (outer, _) = stage.carry(&tcp(true, ACK).payload(&[0; 1200]), &[]);
    assert_eq!(outer.fragment, (0, 0x4000), "it fits");
    let frame = tcp(true, ACK).payload(&[0; 1221]).frame();
    let (step, _) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
    assert_eq!(step, Step::Go(lb_common::datapath::Stage::Reply));
    assert_eq!(stage.scratch.mtu, 1280);

    // So are IPv4 packets of 576 bytes, whatever an error has claimed.
    path(&mut stage, 100);
    let (outer, _) = stage.carry(&tcp(false, ACK).payload(&[0; 536]), &[]);
    assert_eq!(outer.fragment.1, 0);
    let frame = tcp(false, ACK).payload(&[0; 537]).frame();
    let (step, _) = stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]);
    assert_eq!(step, Step::Go(lb_common::datapath::Stage::Reply));
    assert_eq!(stage.scratch.mtu, 576);

    // An interface that carries less than IPv6 needs.
    let mut stage = Stage::new(Forwarding::DSR_IPIP, true);
    stage.set_mtu(TWO_ARMED, 1280);
    let wrapped = |stage: &mut Stage, length: usize| {
        let frame = tcp(true, ACK).payload(&vec![0; length - 60]).frame();
        stage.wrap(&frame, WrapKind::Tunnel, [Tag::NONE; 2]).0
    };
    assert!(matches!(
        wrapped(&mut stage, 1240),
        Step::Done(Verdict::Forward(_))
    ));
    assert_eq!(
        wrapped(&mut stage, 1241),
        Step::Done(Verdict::Drop(DropReason::TooBig))
    );
    assert_eq!(
        wrapped(&mut stage, 1280),
        Step::Done(Verdict::Drop(DropReason::TooBig))
    );
    assert_eq!(
        wrapped(&mut stage, 1281),
        Step::Go(lb_common::datapath::Stage::Reply)
    );
    assert_eq!(stage.scratch.mtu, 1280);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Whatever a client sends, the origin gets it.
    #[test]
    fn what_goes_in_comes_out(
        seed: u64,
        gue: bool,
        outer_v6: bool,
        v6: bool,
        came in 0usize..3,
        leaves in 0usize..3,
    ) {
        let mut random = Random(seed);
        let mut stage = Stage::new(TUNNELS[usize::from(gue)], outer_v6);
        let [mut client, vip] = ends(v6, random.word() as u16);
        client.set_port(random.word() as u16);
        if let SocketAddr::V4(v4) = &mut client {
            v4.set_ip((random.word() as u32 | 1).into());
        }
        let length = random.below(1300);
        let payload = random.bytes(length);
        let mut packet = if random.once_in(2) {
            let words = random.below(11);
            // A kind that is not the MSS, so that nothing changes.
            PacketBuilder::tcp(client, vip, random.word() as u8).tcp_options(&vec![1; words * 4])
        } else {
            PacketBuilder::udp(client, vip)
        };
        packet = packet.payload(&payload).tags(TAGS[came]).class(random.word() as u8).ttl(random.word() as u8);
        packet = packet.padding(random.below(50));
        if random.once_in(4) {
            packet = packet.checksum(random.pick(&[Checksum::Wrong, Checksum::Partial, Checksum::None]));
        }
        if random.once_in(8) {
            packet = packet.fragment(random.pick(&[0, 1, 100]), true);
        }
        if v6 && random.once_in(3) {
            packet = packet.padding_extension(extension::HOP_BY_HOP);
        } else if !v6 && random.once_in(3) {
            packet = packet.options(&[1; 12]);
        }
        promises(&mut stage, &packet, v6, TAGS[leaves]);
    }
}
