//! Host and kernel give every packet the same verdict and bytes, and remember and count the same.

use lb_common::abi::{
    ApplicationFlags, ApplicationKey, Bucket, BucketRun, FlowCore, FragmentFlow, Held, OriginFlags, OriginId,
    OriginState, Parity, PathMtu, RouteKey, SettingsFlags, TunnelSource, VipKey,
};
use lb_common::datapath::Verdict;
use lb_common::testing::check::hex;
use lb_common::testing::generate::Generator;
use lb_common::testing::modes;
use lb_common::testing::rules::{FULL, MAX_FLOWS, ONE_FLOW};
use lb_common::testing::scenario::{Host, NARROW, ONE_ARMED, Scenario, TAGGED, TWO_ARMED};
use lb_common::testing::{Frame, MemoryTables, Random, script};
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
    fn reset(&mut self, mut scenario: Scenario) {
        modes::without_entries(&mut scenario);
        scenario.tables.swept_at = self.kernel.clock.now().max(1);
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
        let held = self.kernel.held();
        if let Verdict::Hold(_) = verdict {
            let wanted = Held {
                length: frame.0.len() as u32,
                ..self.host.held()
            };
            assert_eq!(held, [(wanted, frame.clone())], "{}", context());
        } else {
            assert_eq!(held, [], "{}", context());
        }
        (verdict, host)
    }

    /// Changes something in both, as userspace or time would.
    fn disturb(&mut self, random: &mut Random) {
        let kernel = self.kernel.snapshot().unwrap();
        let now = self.host.now;
        let full = FULL.map(|origin| self.host.scenario.origin_at(origin));
        let host = &mut self.host.scenario.tables;
        // The two stamp entries a tick apart; from here on they agree.
        host.adopt(&kernel);
        match random.below(16) {
            0 | 1 => {
                let (flows4, flows6) = (host.flows4.borrow(), host.flows6.borrow());
                let cores = flows4.values().map(|flow| flow.core);
                let cores = cores.chain(flows6.values().map(|flow| flow.core));
                // One that connections stand to, or any.
                let mut ids: Vec<OriginId> = cores.map(|core| core.origin).collect();
                if ids.is_empty() || random.once_in(2) {
                    ids = host.origins.keys().copied().collect();
                }
                let origin = host.origins.get_mut(&random.pick(&ids)).unwrap();
                origin.state = OriginState(random.pick(&[0, 1, 1, 1, 2, 3, 4]));
                origin.flags = OriginFlags(random.pick(&[0, OriginFlags::RESET_WHEN_DOWN]));
            }
            2 => {
                let hop = random.pick(&[ONE_ARMED, TWO_ARMED]);
                let resolved = &mut host.hops.get_mut(&hop).unwrap().resolved;
                *resolved = 1 - *resolved;
            }
            3 | 4 => {
                // Hours pass, for some. No sum of these comes to a timeout, or an eighth of one: the clocks differ.
                let by = random.pick(&[26_001, 113_007, 151_013, 170_003, 901_001]);
                for flows in [&host.flows4, &host.tentative4] {
                    for flow in flows.borrow_mut().values_mut() {
                        age(&mut flow.core, by, random);
                    }
                }
                for flows in [&host.flows6, &host.tentative6] {
                    for flow in flows.borrow_mut().values_mut() {
                        age(&mut flow.core, by, random);
                    }
                }
                for bound in host.affinity.borrow_mut().values_mut() {
                    if random.once_in(2) {
                        bound.seen = bound.seen.wrapping_sub(by);
                    }
                }
                for first in host.fragments.borrow_mut().values_mut() {
                    if random.once_in(2) {
                        first.seen = first.seen.wrapping_sub(random.pick(&[1_000_003, 4_000_037]));
                    }
                }
                // A path's MTU is forgotten.
                for path in host.path_mtus.borrow_mut().values_mut() {
                    *path = PathMtu::default();
                }
            }
            5 => {
                // As eviction and sweeping do.
                for flows in [&host.flows4, &host.tentative4] {
                    flows.borrow_mut().retain(|_, _| !random.once_in(4));
                }
                for flows in [&host.flows6, &host.tentative6] {
                    flows.borrow_mut().retain(|_, _| !random.once_in(4));
                }
                host.fragments.borrow_mut().retain(|_, _| !random.once_in(4));
            }
            6 => {
                // Ports run out, and come back.
                host.settings.snat_ports.count = random.pick(&[2, 8, 4096]);
            }
            7 => {
                // Some may open flows again: one more, or as many as ever.
                let mut rates = host.rates.borrow_mut();
                let mut sources = host.source_rates.borrow_mut();
                for due in rates.values_mut().chain(sources.values_mut()) {
                    if random.once_in(2) {
                        let by = random.pick(&[ONE_FLOW.0, u64::from(29_003_u32) << 32]);
                        *due = due.wrapping_sub(by);
                    }
                }
            }
            8 => {
                // Origins become full, and have room again.
                for id in full {
                    host.loads.borrow_mut().entry(id.0).or_default().established =
                        random.pick(&[0, MAX_FLOWS]);
                }
            }
            9 => {
                // Flows are being taken over, or have been; clients lose what bound them.
                host.settings.flags.0 ^= SettingsFlags::MIGRATING;
                for application in host.applications.values_mut() {
                    application.affinity_epoch += u32::from(random.once_in(4));
                }
            }
            10 => {
                // Ways become narrower or wider, and tunnels come from other addresses.
                for hop in [ONE_ARMED, TWO_ARMED, TAGGED, NARROW] {
                    host.hops.get_mut(&hop).unwrap().mtu = random.pick(&[1000, 1300, 1500, JUMBO]);
                }
                for interface in host.interfaces.values_mut() {
                    interface.mtu = random.pick(&[1200, 1500, JUMBO.into()]);
                }
                host.settings.smallest_mtu = 1000;
                for (id, origin) in &host.origins {
                    if origin.forwarding.is_tunnel() {
                        let mtu = random.pick(&[0, 68, 1290, 1400, 9000]);
                        let path = match mtu {
                            0 => PathMtu::default(),
                            mtu => PathMtu { mtu, seen: now },
                        };
                        host.path_mtus.borrow_mut().insert(id.0, path);
                    }
                }
                let mask = random.pick(&[0, u32::MAX, 0xffff_0000]);
                host.settings.tunnel_source = TunnelSource {
                    prefix4: u32::from_ne_bytes([172, 16, 0, 0]),
                    mask4: mask,
                    mask6: random.pick(&[0, mask]),
                    ..TunnelSource::default()
                };
            }
            11 => {
                // A sweep finds entries, or none; new flows need some, or not; nobody owns some buckets.
                let mut buckets = host.buckets.borrow_mut();
                for row in 0..modes::BUCKET_ROWS {
                    // Later than any entry that is made until the next time, or long ago: the clocks differ.
                    let when = now.wrapping_add(random.pick(&[40_000_000, u32::MAX - 40_000_000]));
                    host.settled.insert(row, when);
                    let bucket = buckets.entry(row).or_default();
                    bucket.seen = bucket.seen.wrapping_sub(random.pick(&[0, 170_003, 901_001]));
                    if random.once_in(4) {
                        *bucket = Bucket::default();
                    }
                }
                for application in host.applications.values_mut() {
                    if application.buckets != BucketRun::NONE && random.once_in(4) {
                        application.flags.0 ^= ApplicationFlags::UNTRACKED;
                    }
                }
            }
            12 => host.begin_filter(),
            13 => host.end_filter(),
            14 => script::vary(&mut self.host.scenario, random),
            _ => {
                // The tables of the live generation come to stand in the other copy.
                let before = Parity::of(host.settings.generation);
                host.settings.generation += 1;
                let after = before.other();
                host.applications = std::mem::take(&mut host.applications)
                    .into_iter()
                    .map(|(key, row)| (ApplicationKey { parity: after, ..key }, row))
                    .collect();
                host.routes = std::mem::take(&mut host.routes)
                    .into_iter()
                    .map(|(key, row)| (RouteKey { parity: after, ..key }, row))
                    .collect();
                host.vips = std::mem::take(&mut host.vips)
                    .into_iter()
                    .map(|(key, row)| (VipKey { parity: after, ..key }, row))
                    .collect();
                host.pools = std::mem::take(&mut host.pools)
                    .into_iter()
                    .map(|(row, pool)| (row ^ 1, pool))
                    .collect();
            }
        }
        let tables = &self.host.scenario.tables;
        self.kernel.write_configuration(tables).unwrap();
        self.kernel.write_flows(tables).unwrap();
    }

    /// Compares all flows and counters.
    fn compare(&mut self, context: &dyn Fn() -> String) {
        let kernel = self.kernel.snapshot().unwrap();
        let host = &self.host.scenario.tables;
        assert_eq!(host.counters(), kernel.counters(), "{}", context());
        let established = |tables: &MemoryTables| -> BTreeMap<u32, u32> {
            let loads = tables.loads.borrow();
            let counts = loads.iter().map(|(origin, load)| (*origin, load.established));
            counts.filter(|(_, count)| *count != 0).collect()
        };
        assert_eq!(established(host), established(&kernel), "{}", context());
        self.compare_rules(&kernel, context);
        self.compare_paths(&kernel, context);
        self.compare_buckets(&kernel, context);
        let written = |tables: &MemoryTables| -> BTreeMap<u32, u64> {
            let words = tables.flow_filter.borrow();
            words
                .iter()
                .map(|(index, word)| (*index, *word))
                .filter(|(_, word)| *word != 0)
                .collect()
        };
        assert_eq!(written(host), written(&kernel), "{}", context());
        assert_eq!(kernel.hidden(host.settings.hash_key), 0, "{}", context());
        for (host, kernel) in [
            (&host.flows4, &kernel.flows4),
            (&host.tentative4, &kernel.tentative4),
        ] {
            self.agree(&host.borrow(), &kernel.borrow(), |flow| &mut flow.core, context);
        }
        for (host, kernel) in [
            (&host.flows6, &kernel.flows6),
            (&host.tentative6, &kernel.tentative6),
        ] {
            self.agree(&host.borrow(), &kernel.borrow(), |flow| &mut flow.core, context);
        }
    }

    /// Compares what is remembered of clients and of rates.
    fn compare_rules(&self, kernel: &MemoryTables, context: &dyn Fn() -> String) {
        let host = &self.host.scenario.tables;
        let apart = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) <= self.slack;
        let (mine, theirs) = (host.affinity.borrow(), kernel.affinity.borrow());
        assert!(
            mine.keys().eq(theirs.keys())
                && mine
                    .values()
                    .zip(theirs.values())
                    .all(|(a, b)| { (a.origin, a.epoch) == (b.origin, b.epoch) && apart(a.seen, b.seen) }),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
        // Words that differ by no more than the clocks do; a row that was never written holds zero.
        let near = |a: u64, b: u64| a == b || apart((a >> 32) as u32, (b >> 32) as u32);
        let (mine, theirs) = (host.source_rates.borrow(), kernel.source_rates.borrow());
        assert!(
            mine.keys().eq(theirs.keys()) && mine.values().zip(theirs.values()).all(|(a, b)| near(*a, *b)),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
        let (mine, theirs) = (host.rates.borrow(), kernel.rates.borrow());
        let written = mine.iter().filter(|(_, due)| **due != 0);
        assert!(
            written.clone().map(|(row, _)| row).eq(theirs.keys())
                && written.zip(theirs.values()).all(|((_, a), b)| near(*a, *b)),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
    }

    /// Compares what is remembered of datagrams in fragments, and of paths.
    fn compare_paths(&self, kernel: &MemoryTables, context: &dyn Fn() -> String) {
        let host = &self.host.scenario.tables;
        let apart = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) <= self.slack;
        assert_eq!(host.fragment_count, kernel.fragment_count, "{}", context());
        let (mine, theirs) = (host.fragments.borrow(), kernel.fragments.borrow());
        let same = |(a, b): (&FragmentFlow, &FragmentFlow)| {
            FragmentFlow { seen: 0, ..*a } == FragmentFlow { seen: 0, ..*b } && apart(a.seen, b.seen)
        };
        assert!(
            mine.keys().eq(theirs.keys()) && mine.values().zip(theirs.values()).all(same),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
        let (mine, theirs) = (host.path_mtus.borrow(), kernel.path_mtus.borrow());
        let written: BTreeMap<_, _> = mine.iter().filter(|(_, path)| path.mtu != 0).collect();
        let same = |(a, b): (&&PathMtu, &PathMtu)| a.mtu == b.mtu && apart(a.seen, b.seen);
        assert!(
            written.keys().copied().eq(theirs.keys()) && written.values().zip(theirs.values()).all(same),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
    }

    /// Compares what is remembered of flows without entries.
    fn compare_buckets(&self, kernel: &MemoryTables, context: &dyn Fn() -> String) {
        let host = &self.host.scenario.tables;
        let apart = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) <= self.slack;
        let (mine, theirs) = (host.buckets.borrow(), kernel.buckets.borrow());
        let written: BTreeMap<_, _> = mine
            .iter()
            .filter(|(_, row)| **row != Bucket::default())
            .collect();
        let timeless = |bucket: &Bucket| Bucket {
            seen: 0,
            tracked: 0,
            ..*bucket
        };
        let same = |(a, b): (&&Bucket, &Bucket)| {
            timeless(a) == timeless(b) && apart(a.seen, b.seen) && apart(a.tracked, b.tracked)
        };
        assert!(
            written.keys().copied().eq(theirs.keys()) && written.values().zip(theirs.values()).all(same),
            "{}\nhost   {mine:?}\nkernel {theirs:?}",
            context()
        );
    }

    fn agree<K: Ord + std::fmt::Debug, V: PartialEq + Copy + std::fmt::Debug>(
        &self,
        host: &BTreeMap<K, V>,
        kernel: &BTreeMap<K, V>,
        core: impl Fn(&mut V) -> &mut FlowCore,
        context: &dyn Fn() -> String,
    ) {
        // The two stamp entries by clocks that differ.
        let times = |flow: &mut V| {
            let core = core(flow);
            [std::mem::take(&mut core.seen), std::mem::take(&mut core.opened)]
        };
        for (key, flow) in host {
            let mut other = *kernel
                .get(key)
                .unwrap_or_else(|| panic!("{}\nthe kernel lacks {key:?}: {flow:?}", context()));
            let mut own = *flow;
            let (a, b) = (times(&mut own), times(&mut other));
            let apart = |(a, b): (u32, u32)| a.wrapping_sub(b).min(b.wrapping_sub(a));
            assert!(
                own == other && a.into_iter().zip(b).map(apart).all(|apart| apart <= self.slack),
                "{}\n{key:?}\nhost   {own:?} {a:?}\nkernel {other:?} {b:?}",
                context()
            );
        }
        for key in kernel.keys() {
            assert!(host.contains_key(key), "{}\nthe host lacks {key:?}", context());
        }
    }
}

fn age(core: &mut FlowCore, by: u32, random: &mut Random) {
    if random.once_in(2) {
        core.seen = core.seen.wrapping_sub(by);
        core.opened = core.opened.wrapping_sub(by);
    }
}

/// MTU of interfaces for frames of several buffers.
const JUMBO: u16 = 13_000;

/// One way of running the test.
#[derive(Clone, Copy)]
struct Course {
    packets: usize,
    max_payload: usize,
    /// Flags that are set, and that are not.
    flags: u32,
    without: u32,
    /// Once in how many packets something changes underneath: a state, a hop, the clock, an entry.
    disturb: usize,
    /// Whether each round has a world of its own: ways of forwarding, paths, tags, ranges.
    worlds: bool,
}

fn run(course: Course) {
    let first = gate::number("LB_TEST_SEED", 20_261_122) as u64;
    namespace().enter(|| {
        let mut pair = Pair::new();
        let mut tally: BTreeMap<String, usize> = BTreeMap::new();
        for round in 0..course.packets.div_ceil(ROUND) as u64 {
            let seed = first.wrapping_add(round);
            let mut scenario = Scenario::standard();
            let flags = &mut scenario.tables.settings.flags.0;
            *flags = (*flags | course.flags) & !course.without;
            if course.worlds {
                script::vary(&mut scenario, &mut Random(seed));
            }
            if course.max_payload > 1_500 {
                scenario.set_mtu(JUMBO);
            }
            pair.reset(scenario);
            let mut generator = Generator::new(seed);
            generator.max_payload = course.max_payload;
            for number in 0..ROUND {
                if course.disturb > 0 && generator.random.once_in(course.disturb) {
                    pair.disturb(&mut generator.random);
                }
                let (ifindex, frame) = generator.packet();
                let context = || format!("LB_TEST_SEED={seed} flags {}, packet {number}", course.flags);
                let (verdict, left) = pair.send(ifindex, &frame, &context);
                *tally.entry(format!("{verdict:?}")).or_default() += 1;
                match verdict {
                    Verdict::Forward(_) => generator.forwarded(&frame, &left),
                    Verdict::Pass(_) => assert_eq!(left, frame, "{}", context()),
                    Verdict::Hold(_) => generator.held(ifindex, &frame),
                    Verdict::Reply(..) | Verdict::Drop(_) => {}
                }
            }
            pair.compare(&|| format!("LB_TEST_SEED={seed} flags {}, after the round", course.flags));
        }
        println!("{tally:#?}");
    });
}

#[test]
fn host_and_kernel_agree_on_any_packet() {
    needs_root!();
    run(Course {
        packets: gate::number("LB_TEST_PACKETS", 100_000),
        max_payload: 64,
        flags: 0,
        without: 0,
        disturb: 0,
        worlds: false,
    });
}

#[test]
fn they_agree_when_no_application_has_a_range() {
    needs_root!();
    run(Course {
        packets: gate::number("LB_TEST_PACKETS", 100_000) / 5,
        max_payload: 64,
        flags: 0,
        without: SettingsFlags::RANGES | SettingsFlags::COUNTRIES | SettingsFlags::DNAT,
        disturb: 100,
        worlds: false,
    });
}

#[test]
fn they_agree_when_tables_change_underneath() {
    needs_root!();
    run(Course {
        packets: gate::number("LB_TEST_PACKETS", 100_000),
        max_payload: 64,
        flags: 0,
        without: 0,
        disturb: 50,
        worlds: false,
    });
}

#[test]
fn they_agree_in_any_world() {
    needs_root!();
    run(Course {
        packets: gate::number("LB_TEST_PACKETS", 100_000),
        max_payload: 600,
        flags: 0,
        without: 0,
        disturb: 100,
        worlds: true,
    });
}

#[test]
fn they_agree_when_checksums_are_partial_and_frames_never_turn_around() {
    needs_root!();
    for (flags, max_payload) in [
        (SettingsFlags::PARTIAL_CHECKSUMS, 1400),
        (SettingsFlags::NO_XDP_TX, 64),
        (SettingsFlags::PARTIAL_CHECKSUMS | SettingsFlags::NO_XDP_TX, 600),
    ] {
        run(Course {
            packets: gate::number("LB_TEST_PACKETS", 100_000) / 5,
            max_payload,
            flags,
            without: 0,
            disturb: 100,
            worlds: false,
        });
    }
}

#[test]
fn they_agree_on_frames_of_several_buffers() {
    needs_root!();
    for flags in [0, SettingsFlags::PARTIAL_CHECKSUMS] {
        run(Course {
            packets: gate::number("LB_TEST_PACKETS", 100_000) / 10,
            max_payload: 14_000,
            flags,
            without: 0,
            disturb: 100,
            worlds: false,
        });
    }
}
