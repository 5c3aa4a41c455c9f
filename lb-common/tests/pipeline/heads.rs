//! Heads of frames, with all stages: the first one's short cut and the others agree, and answers keep to their rate.

use super::*;
use lb_common::abi::{Rate, SettingsFlags};
use lb_common::datapath::{DropReason, Reply};
use lb_common::testing::modes::port as port_of;
use lb_common::testing::scenario::{VIPS, app};
use lb_common::testing::{Checksum, Random};
use std::net::IpAddr;

/// An address of an application, by family.
fn vip(v6: bool, application: u32) -> SocketAddr {
    let vip: IpAddr = VIPS[usize::from(v6)].parse().unwrap();
    (vip, port_of(application)).into()
}

fn client_of(v6: bool) -> SocketAddr {
    at(if v6 {
        "[2001:db8:c::7]:40000"
    } else {
        "198.51.100.7:40000"
    })
}

/// An established connection to an origin behind a tunnel.
fn tunnelled(v6: bool, application: u32, outer_v6: bool) -> Node {
    let mut node = Node::new();
    let origins = &mut node.0.scenario.tables.origins;
    for origin in origins.values_mut() {
        // The other family's origin takes nothing.
        if origin.forwarding.is_tunnel() && origin.address.v4().is_none() != outer_v6 {
            origin.state = OriginState::DRAINING;
        }
    }
    let (client, vip) = (client_of(v6), vip(v6, application));
    for flags in [SYN, ACK] {
        let outcome = node.send(&PacketBuilder::tcp(client, vip, flags));
        assert_eq!(outcome.verdict, redirect(ORIGIN_SIDE));
        assert_eq!(outer(&outcome.frame).unwrap().destination.is_ipv6(), outer_v6);
    }
    node
}

#[test]
fn the_short_cut_leads_to_the_same_place() {
    let mut random = Random(7);
    for application in [app::DSR_IPIP, app::DSR_GUE] {
        for (outer_v6, v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut node = tunnelled(v6, application, outer_v6);
            for _ in 0..200 {
                let length = random.below(1500);
                let payload = random.bytes(length);
                let packet = PacketBuilder::tcp(client_of(v6), vip(v6, application), ACK)
                    .payload(&payload)
                    .class(random.word() as u8)
                    .ttl(random.word() as u8)
                    .padding(random.below(20))
                    .tags([&[][..], &[5], &[6, 7]][random.below(3)])
                    .checksum(random.pick(&[Checksum::Right, Checksum::Wrong]));
                // Where checksums may be partial, another stage completes them.
                let flags = node.0.scenario.tables.settings.flags;
                let short = node.send(&packet);
                node.0.scenario.tables.settings.flags.0 |= SettingsFlags::PARTIAL_CHECKSUMS;
                let long = node.send(&packet);
                node.0.scenario.tables.settings.flags = flags;
                assert_eq!(short.verdict, long.verdict);
                assert_eq!(short.frame, long.frame);
                assert_eq!(short.moved, long.moved);
            }
        }
    }
}

#[test]
fn a_connections_head_and_its_later_packets_take_the_same_way() {
    for application in [app::DSR_IPIP, app::DSR_GUE] {
        let mut node = Node::new();
        let packet = |flags| PacketBuilder::tcp(client_of(false), vip(false, application), flags);
        let seen = [SYN, ACK, ACK].map(|flags| outer(&node.send(&packet(flags)).frame).unwrap());
        let way = |outer: &lb_common::testing::outer::Outer| {
            (outer.source, outer.destination, outer.udp.map(|udp| udp.source))
        };
        assert_eq!(way(&seen[0]), way(&seen[1]));
        assert_eq!(way(&seen[1]), way(&seen[2]));
    }
}

#[test]
fn answers_keep_to_their_rate() {
    let mut node = Node::new();
    let second = node.0.scenario.tables.settings.second;
    // Five a second.
    node.0.scenario.tables.settings.reply_rate = Rate((u64::from(second) << 32) / 5);
    let ask = |node: &mut Node| {
        let lonely = at("203.0.113.10:81");
        let outcome = node.send(&PacketBuilder::udp(client_of(false), lonely));
        match outcome.verdict {
            Verdict::Reply(Reply::UnreachableNoOrigin, _) => true,
            Verdict::Drop(DropReason::ReplyLimited) => {
                assert_eq!(outcome.moved, "drop reply_limited 1");
                false
            }
            other => panic!("{other:?}"),
        }
    };
    for _ in 0..3 {
        let answered = (0..20).filter(|_| ask(&mut node)).count();
        assert_eq!(answered, 5);
        node.pass_time(second);
    }
    node.0.scenario.tables.settings.reply_rate = Rate::NONE;
    assert!((0..100).all(|_| ask(&mut node)));
}

#[test]
fn packets_that_leave_as_they_came_need_not_fit_a_tunnel() {
    let mut node = Node::new();
    let (client, vip) = (client_of(false), vip(false, app::DSR_L2));
    node.send(&PacketBuilder::tcp(client, vip, SYN));
    let longest = PacketBuilder::tcp(client, vip, ACK).payload(&[1; 1460]);
    let outcome = node.send(&longest);
    assert!(
        matches!(outcome.verdict, Verdict::Forward(_)),
        "{:?}",
        outcome.verdict
    );
    let longer = PacketBuilder::tcp(client, vip, ACK).payload(&[1; 1461]);
    let outcome = node.send(&longer);
    assert!(matches!(outcome.verdict, Verdict::Reply(Reply::TooBig, _)));
}
