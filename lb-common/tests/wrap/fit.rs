//! What fits without an outer header, and the MSS of connections that pass through.

use super::*;
use lb_common::abi::SettingsFlags;
use lb_common::datapath::{DropReason, Exit, Reply, Stage as Next, Verdict};
use lb_common::testing::Checksum;
use lb_common::testing::check::is_valid;

/// The MSS option of a segment whose options begin with it.
fn mss(packet: &PacketBuilder, frame: &Frame) -> u16 {
    let at = packet.transport() + 20;
    assert_eq!(frame.0[at..at + 2], [2, 4]);
    u16::from_be_bytes([frame.0[at + 2], frame.0[at + 3]])
}

fn option(mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    vec![2, 4, high, low, 1, 1, 4, 2]
}

impl Stage {
    fn fit(&mut self, frame: &Frame, side: FlowSide) -> (Step, Frame) {
        self.prepare(frame, side);
        self.scratch.wrap = Wrapping::default();
        self.run(frame)
    }
}

#[test]
fn what_fits_goes_on_untouched() {
    for v6 in [false, true] {
        let headers = if v6 { 60 } else { 40 };
        for (hop, client) in [(1500, 9000), (9000, 1500), (1400, 1300)] {
            let mut stage = Stage::new(Forwarding::NAT, v6);
            stage.set_mtu(TWO_ARMED, hop);
            stage.tables.interfaces.get_mut(&CLIENT_SIDE).unwrap().mtu = client;
            for (side, mtu) in [(FlowSide::CLIENT, u32::from(hop)), (FlowSide::ORIGIN, client)] {
                let payload = vec![1; mtu as usize - headers];
                let packet = tcp(v6, ACK).payload(&payload).padding(9).tags(&[3]);
                let (step, frame) = stage.fit(&packet.frame(), side);
                assert_eq!(step, Step::Go(Next::Send));
                assert_eq!(stage.scratch.wrap.fits, 1);
                assert_eq!(frame, packet.frame());
                let longer = packet.payload(&[&payload[..], &[0]].concat()).frame();
                let (step, frame) = stage.fit(&longer, side);
                assert_eq!(step, Step::Go(Next::Reply));
                assert_eq!((stage.scratch.reply, stage.scratch.mtu), (Reply::TooBig, mtu));
                assert_eq!((frame, stage.scratch.wrap.fits), (longer, 0));
            }
        }
    }
}

#[test]
fn paths_that_were_learned_are_the_tunnels_alone() {
    let mut stage = Stage::new(Forwarding::DSR_L2, false);
    let path = lb_common::abi::PathMtu { mtu: 1000, seen: NOW };
    stage.tables.path_mtus.borrow_mut().insert(ID.0, path);
    let frame = tcp(false, ACK).payload(&[0; 1400]).frame();
    assert_eq!(stage.fit(&frame, FlowSide::CLIENT).0, Step::Go(Next::Send));
}

#[test]
fn an_interface_that_is_not_known_is_no_limit() {
    let mut stage = Stage::new(Forwarding::NAT, false);
    stage.tables.interfaces.clear();
    let frame = tcp(false, ACK).payload(&[0; 20_000]).frame();
    assert_eq!(stage.fit(&frame, FlowSide::ORIGIN).0, Step::Go(Next::Send));
    stage.set_mtu(TWO_ARMED, 0);
    assert_eq!(stage.fit(&frame, FlowSide::CLIENT).0, Step::Go(Next::Send));
}

#[test]
fn ipv6_is_never_asked_for_less_than_1280() {
    let mut stage = Stage::new(Forwarding::NAT, true);
    stage.set_mtu(TWO_ARMED, 1000);
    let of = |length: usize| tcp(true, ACK).payload(&vec![0; length - 60]).frame();
    assert_eq!(stage.fit(&of(1000), FlowSide::CLIENT).0, Step::Go(Next::Send));
    for length in [1001, 1280] {
        let (step, _) = stage.fit(&of(length), FlowSide::CLIENT);
        assert_eq!(step, Step::Done(Verdict::Drop(DropReason::TooBig)));
    }
    assert_eq!(stage.fit(&of(1281), FlowSide::CLIENT).0, Step::Go(Next::Reply));
    assert_eq!(stage.scratch.mtu, 1280);
    // IPv4 goes down to what the interface carries.
    let mut stage = Stage::new(Forwarding::NAT, false);
    stage.set_mtu(TWO_ARMED, 400);
    let frame = tcp(false, ACK).payload(&[0; 400]).frame();
    assert_eq!(stage.fit(&frame, FlowSide::CLIENT).0, Step::Go(Next::Reply));
    assert_eq!(stage.scratch.mtu, 400);
}

#[test]
fn the_mss_fits_both_ways() {
    for v6 in [false, true] {
        let headers = if v6 { 60 } else { 40 };
        for (hop, client) in [(1500, 9000), (9000, 1500), (1400, 1300), (9000, 9000)] {
            for side in [FlowSide::CLIENT, FlowSide::ORIGIN] {
                for (offered, flags) in [(8960, SYN), (1460, SYN | ACK), (536, SYN), (65_535, SYN)] {
                    let mut stage = Stage::new(Forwarding::NAT, v6);
                    stage.set_mtu(TWO_ARMED, hop);
                    stage.tables.interfaces.get_mut(&CLIENT_SIDE).unwrap().mtu = client;
                    let packet = tcp(v6, flags).tcp_options(&option(offered)).tags(&[1, 2]);
                    let (step, frame) = stage.fit(&packet.frame(), side);
                    assert_eq!(step, Step::Go(Next::Send));
                    let limit = (u32::from(hop).min(client) - headers) as u16;
                    assert_eq!(mss(&packet, &frame), offered.min(limit));
                    let wanted = packet.tcp_options(&option(offered.min(limit)));
                    assert_eq!(frame, wanted.frame());
                }
            }
        }
    }
}

#[test]
fn only_segments_that_open_connections_say_it() {
    let mut stage = Stage::new(Forwarding::NAT, false);
    for packet in [
        tcp(false, ACK).tcp_options(&option(9000)),
        tcp(false, SYN).tcp_options(&option(9000)).fragment(0, true),
        tcp(false, SYN).tcp_options(&option(1460)),
        tcp(false, SYN),
        udp(false).payload(&option(9000)),
    ] {
        let (step, frame) = stage.fit(&packet.frame(), FlowSide::CLIENT);
        assert_eq!((step, frame), (Step::Go(Next::Send), packet.frame()));
    }
    // As it came, without a tunnel.
    *stage.origin() = Origin {
        forwarding: Forwarding::DSR_L2,
        ..*stage.origin()
    };
    let packet = tcp(false, SYN).tcp_options(&option(9000));
    let (step, frame) = stage.fit(&packet.frame(), FlowSide::CLIENT);
    assert_eq!((step, frame), (Step::Go(Next::Send), packet.frame()));
}

#[test]
fn the_mss_makes_room_for_the_outer_header() {
    for (forwarding, outer_v6, overhead) in [
        (Forwarding::DSR_IPIP, false, 20),
        (Forwarding::DSR_IPIP, true, 40),
        (Forwarding::DSR_GUE, false, 28),
        (Forwarding::DSR_GUE, true, 48),
    ] {
        for v6 in [false, true] {
            for checksum in [Checksum::Right, Checksum::Partial, Checksum::Wrong] {
                let mut stage = Stage::new(forwarding, outer_v6);
                stage.tables.settings.flags = SettingsFlags(SettingsFlags::PARTIAL_CHECKSUMS);
                let packet = tcp(v6, SYN).tcp_options(&option(1460)).checksum(checksum);
                let (step, frame) = stage.wrap(&packet.frame(), WrapKind::Tunnel, [Tag::NONE; 2]);
                let exit = Exit::Redirect { ifindex: ORIGIN_SIDE };
                assert_eq!(step, Step::Done(Verdict::Forward(exit)));
                let inner = lb_common::testing::outer::outer(&frame).unwrap().inner;
                let link = &packet.frame().0[..14];
                let inner = Frame([link, &inner].concat());
                let headers = if v6 { 60 } else { 40 };
                assert_eq!(mss(&packet, &inner), 1500 - overhead - headers);
                assert_eq!(is_valid(&inner), checksum != Checksum::Wrong);
            }
        }
    }
}

#[test]
fn nobody_is_made_to_send_crumbs() {
    let mut stage = Stage::new(Forwarding::DSR_IPIP, false);
    let path = lb_common::abi::PathMtu { mtu: 68, seen: NOW };
    stage.tables.path_mtus.borrow_mut().insert(ID.0, path);
    let packet = tcp(false, SYN).tcp_options(&option(1460));
    let (_, frame) = stage.wrap(&packet.frame(), WrapKind::Tunnel, [Tag::NONE; 2]);
    let inner = lb_common::testing::outer::outer(&frame).unwrap().inner;
    assert_eq!(inner[40..44], [2, 4, 2, 24]);
}
