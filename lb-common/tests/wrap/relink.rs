//! Link headers of any shape.

use super::*;
use lb_common::datapath::{DropReason, Exit, Verdict};

#[test]
fn any_tags_become_any_tags() {
    for v6 in [false, true] {
        for came in TAGS {
            for leaves in TAGS {
                let packet = tcp(v6, ACK).payload(b"some data").tags(came).padding(3);
                let mut stage = Stage::new(Forwarding::NAT, v6);
                let (step, frame) = stage.wrap(&packet.frame(), WrapKind::Relink, as_loaded(leaves));
                let exit = Exit::Redirect { ifindex: ORIGIN_SIDE };
                assert_eq!(step, Step::Done(Verdict::Forward(exit)));
                let wanted = packet.tags(leaves).link(ORIGIN_NODE_MAC, ORIGIN_MAC);
                assert_eq!(frame, wanted.frame(), "{came:?} to {leaves:?}");
                assert_eq!(stage.tables.counters(), MemoryTables::default().counters());
            }
        }
    }
}

#[test]
fn a_tag_keeps_its_type() {
    let mut stage = Stage::new(Forwarding::NAT, false);
    let packet = tcp(false, ACK);
    for tags in [[tag(0x88a8, 5), Tag::NONE], [tag(0x8100, 6), tag(0x8100, 7)]] {
        let (_, frame) = stage.wrap(&packet.frame(), WrapKind::Relink, tags);
        let link = parse::link(&frame).unwrap();
        assert_eq!(link.tags, tags);
    }
}

#[test]
fn it_goes_back_where_it_came_from() {
    let mut stage = Stage::new(Forwarding::NAT, false);
    let frame = tcp(false, ACK).frame();
    let (step, _) = stage.wrap(&frame, WrapKind::Relink, as_loaded(&[9]));
    assert!(matches!(
        step,
        Step::Done(Verdict::Forward(Exit::Redirect { .. }))
    ));
    stage.scratch.wrap.ifindex = CLIENT_SIDE;
    let (step, _) = stage.run(&frame);
    assert_eq!(step, Step::Done(Verdict::Forward(Exit::Transmit)));
}

#[test]
fn what_is_no_ip_packet_is_a_defect() {
    let mut stage = Stage::new(Forwarding::NAT, false);
    let frame = tcp(false, ACK).frame();
    stage.prepare(&frame, FlowSide::CLIENT);
    stage.scratch.opening.link.ether_type = 0x0608;
    for kind in [WrapKind::Fit, WrapKind::Tunnel] {
        stage.scratch.wrap.kind = kind;
        let (step, left) = stage.run(&frame);
        assert_eq!(step, Step::Done(Verdict::Drop(DropReason::Internal)));
        assert_eq!(left, frame);
    }
}
