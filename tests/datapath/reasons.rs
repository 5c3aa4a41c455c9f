//! The kernel program counts every reason that the pipeline knows, and does what the pipeline in memory does. The one that
//! the daemon counts itself, `fragment_expired`, is met end to end: `what_waits_in_vain_is_counted`.

use lb_common::datapath::{DropReason, Verdict};
use lb_common::testing::check::hex;
use lb_common::testing::reasons::{Circumstance, Reason, case};
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::object::MapSizes;

/// Bytes that the kernel leaves in front of a frame for its own use and the program's.
const HEADROOM: usize = 256 - 40;

#[test]
fn every_reason_is_triggered_in_the_kernel() {
    needs_root!();
    namespace().enter(|| {
        let mut usual = Kernel::new(&small()).unwrap();
        for reason in Reason::all() {
            for v6 in [false, true] {
                let now = usual.clock.now();
                let case = case(reason, v6, now);
                let tables = &case.scenario.tables;
                let name = format!("{reason:?}, IPv6 {v6}");
                let mut other = None;
                if tables.max_established != 0 {
                    let max_flows = tables.max_established as u32 / 2;
                    other = Some(Kernel::new(&MapSizes { max_flows, ..small() }).unwrap());
                }
                let mut metadata = 0;
                match case.circumstance {
                    Circumstance::Usual => {}
                    Circumstance::Cramped(room) => metadata = HEADROOM - room,
                    Circumstance::NobodyHolds => {
                        other.insert(Kernel::new(&small()).unwrap()).stop_listening();
                    }
                    Circumstance::Without(stage) => {
                        other
                            .insert(Kernel::new(&small()).unwrap())
                            .without(stage)
                            .unwrap();
                    }
                }
                let kernel = other.as_mut().unwrap_or(&mut usual);
                kernel.write(tables).unwrap();
                let (action, left) = kernel
                    .receive_behind(metadata, case.ifindex, &case.frame)
                    .unwrap();
                kernel.held();
                let verdicts = kernel.snapshot().unwrap().verdicts;
                let count = verdicts.borrow()[&reason.row()];
                if reason == Reason::Drop(DropReason::NotRemembered) {
                    // The kernel's memory of flows that have not proven themselves forgets another one instead.
                    assert_eq!((action, count), (Action::REDIRECT, 0), "{name}");
                    continue;
                }
                assert_eq!(count, 1, "{name}");
                let others = verdicts.borrow().iter().filter(|(_, count)| **count != 0).count();
                assert_eq!(others, 1, "{name}: {verdicts:?}");
                let (verdict, host, _) = case.play(reason, now);
                assert_eq!(action, Action::of(verdict), "{name}");
                if !matches!(verdict, Verdict::Drop(_)) {
                    assert_eq!(hex(&left.0), hex(&host.0), "{name}");
                }
            }
        }
    });
}
