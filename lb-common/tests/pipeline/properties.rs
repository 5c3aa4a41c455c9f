//! What holds for every packet.

use super::*;
use lb_common::datapath::Reply;
use lb_common::testing::check::{dissect, hex, is_valid};
use lb_common::testing::generate::Generator;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..160), ifindex in 0u32..20) {
        thread_local! {
            static NODE: std::cell::RefCell<Node> = std::cell::RefCell::new(Node::new());
        }
        NODE.with_borrow_mut(|node| {
            // Half of the bytes claim to be IP to us.
            for kind in [None, Some([0x08, 0x00, 0x45]), Some([0x86, 0xdd, 0x60])] {
                let mut frame = Frame(bytes.clone());
                if let (Some(kind), Some(target)) = (kind, frame.0.get_mut(12..15)) {
                    target.copy_from_slice(&kind);
                }
                let outcome = node.receive(ifindex, &frame);
                if matches!(outcome.verdict, Verdict::Pass(_)) {
                    assert_eq!(outcome.frame, frame);
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A passed packet is unchanged; a valid one is still valid when it leaves, and a corrupt one still corrupt; an
    /// answer to a forwarded one finds back to where that came from.
    #[test]
    fn conversations_keep_their_promises(seed: u64) {
        let mut node = Node::new();
        let mut generator = Generator::new(seed);
        for _ in 0..400 {
            match generator.random.below(40) {
                0 => node.0.scenario.tables.begin_filter(),
                1 => node.0.scenario.tables.end_filter(),
                _ => {}
            }
            let (ifindex, frame) = generator.packet();
            let outcome = node.receive(ifindex, &frame);
            match outcome.verdict {
                Verdict::Pass(_) => prop_assert_eq!(&outcome.frame, &frame),
                Verdict::Drop(_) => {}
                Verdict::Hold(_) => generator.held(ifindex, &frame),
                // The data of a ping comes back as it was, and so does what is wrong with it.
                Verdict::Reply(Reply::Echo, _) => {
                    prop_assert_eq!(is_valid(&frame), is_valid(&outcome.frame));
                }
                Verdict::Reply(..) => {
                    prop_assert!(is_valid(&outcome.frame), "{} from {}", hex(&outcome.frame.0), hex(&frame.0));
                }
                Verdict::Forward(_) => {
                    generator.forwarded(&frame, &outcome.frame);
                    let carried = inner(&outcome.frame);
                    if carried.is_none() {
                        prop_assert_eq!(untagged(&outcome.frame), untagged(&frame), "{} became {}", hex(&frame.0), hex(&outcome.frame.0));
                    }
                    prop_assert_eq!(
                        is_valid(&frame), is_valid(carried.as_ref().unwrap_or(&outcome.frame)),
                        "{} became {}", hex(&frame.0), hex(&outcome.frame.0)
                    );
                    returns(&mut node, &frame, &outcome.frame);
                }
            }
        }
    }
}

/// How long a frame is without its VLAN tags.
fn untagged(frame: &Frame) -> usize {
    let mut at = 12;
    while matches!(frame.0[at..at + 2], [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    frame.0.len() - (at - 12)
}

/// An answer to a forwarded packet goes back to its sender, from where that had sent it.
fn returns(node: &mut Node, arrived: &Frame, left: &Frame) {
    let (Some((arrived, _)), Some((left, _))) = (dissect(arrived), dissect(left)) else {
        return;
    };
    if !matches!(arrived.protocol, 6 | 17)
        || left.protocol != arrived.protocol
        || left.destination == arrived.destination
        || left.destination.port() == GUE_PORT
    {
        // The origin answers the client directly.
        return;
    }
    let answer = match left.protocol {
        6 => PacketBuilder::tcp(left.destination, left.source, ACK),
        _ => PacketBuilder::udp(left.destination, left.source),
    };
    let outcome = node.receive(ORIGIN_SIDE, &answer.frame());
    match outcome.verdict {
        Verdict::Forward(_) => {
            let seen = see(&outcome.frame);
            assert_eq!(
                (seen.source, seen.destination),
                (arrived.destination, arrived.source)
            );
        }
        // An answer to a client's packet that was itself an answer may find nobody to forward to.
        other => panic!("{other:?} to an answer of {arrived:#?}"),
    }
}
