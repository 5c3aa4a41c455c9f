//! Every reason that the pipeline knows is one that a packet meets.

use lb_common::datapath::{DropReason, Hold, Verdict};
use lb_common::testing::check::hex;
use lb_common::testing::reasons::{Circumstance, Reason, case};

#[test]
fn every_reason_is_triggered() {
    let now = 1_000_000;
    for reason in Reason::all() {
        for v6 in [false, true] {
            let case = case(reason, v6, now);
            let (verdict, left, count) = case.play(reason, now);
            let name = format!("{reason:?}, IPv6 {v6}: {verdict:?}");
            if case.circumstance == Circumstance::NobodyHolds {
                // That nobody takes the frame is found out by the program around the pipeline.
                assert_eq!(reason, Reason::Drop(DropReason::NotHeld));
                assert_eq!(verdict, Verdict::Hold(Hold::Fragment), "{name}");
                continue;
            }
            assert_eq!(count, 1, "{name}");
            match reason {
                Reason::Notice(_) => assert!(matches!(verdict, Verdict::Forward(_)), "{name}"),
                _ => assert_eq!(verdict.row(), Some(reason.row()), "{name}"),
            }
            if let Verdict::Pass(_) | Verdict::Hold(_) = verdict {
                assert_eq!(hex(&left.0), hex(&case.frame.0), "{name}");
            }
        }
    }
}
