//! Host and kernel give every packet the same verdict and bytes, and remember and count the same.

use lb_common::abi::SettingsFlags;
use lb_common::datapath::Verdict;
use lb_common::testing::Frame;
use lb_common::testing::check::hex;
use lb_common::testing::generate::Generator;
use lb_common::testing::scenario::{Host, Scenario};
use lb_tests::gate;
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use std::collections::BTreeMap;

/// Packets after which tables are compared and emptied.
const ROUND: usize = 2_500;

/// Both sides, given the same packets.
struct Pair {
    host: Host,
    kernel: Kernel,
    /// Jiffies by which the two may have stamped an entry differently.
    slack: u32,
}

impl Pair {
    fn new() -> Self {
        Self {
            host: Host::new(Scenario::standard()),
            kernel: Kernel::new(&small()).unwrap(),
            slack: 0,
        }
    }

    /// Gives both the same tables.
    fn reset(&mut self, scenario: Scenario) {
        self.kernel.write(&scenario.tables).unwrap();
        self.host = Host::new(scenario);
        self.slack = 2;
    }

    /// Sends both the same packet, and returns what both did.
    fn send(&mut self, ifindex: u32, frame: &Frame, context: &dyn Fn() -> String) -> (Verdict, Frame) {
        self.host.now = self.kernel.clock.now();
        let (action, kernel) = self.kernel.receive(ifindex, frame).unwrap();
        let took = self.kernel.clock.now().wrapping_sub(self.host.now);
        self.slack = self.slack.max(2 + took);
        let (verdict, host) = self.host.receive(ifindex, frame);
        assert!(
            Action::of(verdict) == action && host == kernel,
            "{}\nin     {} by {ifindex}\nhost   {verdict:?} {}\nkernel {action:?} {}",
            context(),
            hex(&frame.0),
            hex(&host.0),
            hex(&kernel.0),
        );
        (verdict, host)
    }

    /// Compares all flows and counters.
    fn compare(&mut self, context: &dyn Fn() -> String) {
        let kernel = self.kernel.snapshot().unwrap();
        let host = &self.host.scenario.tables;
        assert_eq!(host.counters(), kernel.counters(), "{}", context());
        self.agree(
            &host.flows4.borrow(),
            &kernel.flows4.borrow(),
            |flow| &mut flow.core.seen,
            context,
        );
        self.agree(
            &host.flows6.borrow(),
            &kernel.flows6.borrow(),
            |flow| &mut flow.core.seen,
            context,
        );
    }

    fn agree<K: Ord + std::fmt::Debug, V: PartialEq + Copy + std::fmt::Debug>(
        &self,
        host: &BTreeMap<K, V>,
        kernel: &BTreeMap<K, V>,
        seen: impl Fn(&mut V) -> &mut u32,
        context: &dyn Fn() -> String,
    ) {
        for (key, flow) in host {
            let mut other = *kernel
                .get(key)
                .unwrap_or_else(|| panic!("{}\nthe kernel lacks {key:?}: {flow:?}", context()));
            let mut own = *flow;
            let (a, b) = (*seen(&mut own), std::mem::take(seen(&mut other)));
            *seen(&mut own) = 0;
            let apart = a.wrapping_sub(b).min(b.wrapping_sub(a));
            assert!(
                own == other && apart <= self.slack,
                "{}\n{key:?}\nhost   {own:?} {a}\nkernel {other:?} {b}",
                context()
            );
        }
        for key in kernel.keys() {
            assert!(host.contains_key(key), "{}\nthe host lacks {key:?}", context());
        }
    }
}

fn seed() -> u64 {
    gate::number("LB_TEST_SEED", 20_261_122) as u64
}

fn run(packets: usize, max_payload: usize, flags: u32) {
    namespace().enter(|| {
        let mut pair = Pair::new();
        let mut tally: BTreeMap<String, usize> = BTreeMap::new();
        for round in 0..packets.div_ceil(ROUND) {
            let seed = seed().wrapping_add(round as u64);
            let mut scenario = Scenario::standard();
            scenario.tables.settings.flags = SettingsFlags(flags);
            pair.reset(scenario);
            let mut generator = Generator::new(seed);
            generator.max_payload = max_payload;
            for number in 0..ROUND {
                let (ifindex, frame) = generator.next();
                let context = || format!("LB_TEST_SEED={seed} flags {flags}, packet {number}");
                let (verdict, left) = pair.send(ifindex, &frame, &context);
                *tally.entry(format!("{verdict:?}")).or_default() += 1;
                if matches!(verdict, Verdict::Forward(_)) {
                    generator.forwarded(&frame, &left);
                }
                if matches!(verdict, Verdict::Pass(_)) {
                    assert_eq!(left, frame, "{}", context());
                }
            }
            pair.compare(&|| format!("LB_TEST_SEED={seed} flags {flags}, after the round"));
        }
        println!("{tally:#?}");
    });
}

#[test]
fn host_and_kernel_agree_on_any_packet() {
    needs_root!();
    run(gate::number("LB_TEST_PACKETS", 100_000), 64, 0);
}
