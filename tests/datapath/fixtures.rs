//! The kernel program is held to the same rows as the pipeline in memory.

use lb_common::testing::check::hex;
use lb_common::testing::fixtures;
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};

#[test]
fn each_packet_meets_its_fate_in_the_kernel() {
    needs_root!();
    namespace().enter(|| {
        let mut kernel = Kernel::new(&small()).unwrap();
        let fixtures = fixtures::all();
        assert!(fixtures.len() > 25);
        for fixture in fixtures {
            kernel.write(&fixture.scenario.tables).unwrap();
            let mut before = kernel.snapshot().unwrap().counters();
            for (number, step) in fixture.steps.iter().enumerate() {
                let name = format!("{}, step {number}", fixture.name);
                let (action, left) = kernel.receive(step.ifindex, &step.frame).unwrap();
                assert_eq!(action, Action::of(step.verdict), "{name}");
                // Room for more.
                kernel.held();
                if let Some(wanted) = &step.left {
                    assert_eq!(hex(&left.0), hex(&wanted.0), "{name}");
                }
                let after = kernel.snapshot().unwrap().counters();
                assert_eq!(after.since(&before), step.moved, "{name}");
                before = after;
            }
        }
    });
}
