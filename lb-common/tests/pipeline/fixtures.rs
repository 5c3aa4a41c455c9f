//! The rows that the kernel program is held to as well.

use lb_common::testing::check::hex;
use lb_common::testing::{Host, fixtures};

#[test]
fn each_packet_meets_its_fate() {
    for fixture in fixtures::all() {
        let mut host = Host::new(fixture.scenario);
        for (number, step) in fixture.steps.iter().enumerate() {
            let name = format!("{}, step {number}", fixture.name);
            let before = host.scenario.tables.counters();
            let (verdict, left) = host.receive(step.ifindex, &step.frame);
            assert_eq!(verdict, step.verdict, "{name}");
            if let Some(wanted) = &step.left {
                assert_eq!(hex(&left.0), hex(&wanted.0), "{name}");
            }
            assert_eq!(
                host.scenario.tables.counters().since(&before),
                step.moved,
                "{name}"
            );
        }
    }
}
