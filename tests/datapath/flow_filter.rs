//! The filter of established flows, as sweeps of the kernel's tables keep it.

use aya::maps::{Array, HashMap, MapData};
use lb_common::abi::{Bucket, Flow4, FlowFilter, FlowKey4, Half, Settings, SettingsFlags, maps};
use lb_common::testing::check::see;
use lb_common::testing::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, at};
use lb_common::testing::{Frame, PacketBuilder, Scenario, modes};
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::flows::FlowTables;
use lb_userspace::datapath::object::MapSizes;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const WEB: &str = "203.0.113.10:80";
const CLIENT: &str = "198.51.100.7:40000";
const OTHER: &str = "198.51.100.8:40000";

struct Bed {
    kernel: Kernel,
    tables: FlowTables,
}

impl Bed {
    fn new() -> Self {
        Self::of(&small())
    }

    /// One port for all flows to an origin.
    fn of(sizes: &MapSizes) -> Self {
        let mut kernel = Kernel::new(sizes).unwrap();
        let mut scenario = Scenario::plain();
        modes::without_entries(&mut scenario);
        scenario.tables.flow_filter.take();
        kernel.write(&scenario.tables).unwrap();
        Self {
            tables: FlowTables::new(|name| kernel.map(name)).unwrap(),
            kernel,
        }
    }

    fn array<V: aya::Pod>(&self, name: &str) -> Array<MapData, V> {
        self.kernel.map(name).unwrap().try_into().unwrap()
    }

    fn flows(&self, name: &str) -> HashMap<MapData, FlowKey4, Flow4> {
        self.kernel.map(name).unwrap().try_into().unwrap()
    }

    /// Entries of established flows, and of others.
    fn remembered(&self) -> [usize; 2] {
        [maps::FLOWS4, maps::TENTATIVE4].map(|name| self.flows(name).keys().count())
    }

    fn send(&mut self, client: &str, flags: u8) -> (Action, Frame) {
        let packet = PacketBuilder::tcp(at(client), at(WEB), flags);
        self.kernel.receive(CLIENT_SIDE, &packet.frame()).unwrap()
    }

    fn answer(&mut self, to: &Frame, flags: u8) -> Action {
        let seen = see(to);
        let packet = PacketBuilder::tcp(seen.destination, seen.source, flags);
        let packet = packet.link(ORIGIN_MAC, ORIGIN_NODE_MAC);
        self.kernel.receive(ORIGIN_SIDE, &packet.frame()).unwrap().0
    }

    /// The SYN, as it left.
    fn connect(&mut self, client: &str) -> Frame {
        let (action, syn) = self.send(client, SYN);
        assert_eq!(action, Action::REDIRECT);
        assert_eq!(self.answer(&syn, SYN | ACK), Action::REDIRECT);
        assert_eq!(self.send(client, ACK).0, Action::REDIRECT);
        syn
    }

    fn sweep(&mut self) {
        self.tables.sweep(&self.kernel.clock).unwrap();
    }

    fn head(&self) -> FlowFilter {
        FlowFilter(self.array(maps::FLOW_FILTER).get(&FlowFilter::HEAD, 0).unwrap())
    }

    /// Bits that are set in a half.
    fn bits(&self, half: Half) -> u32 {
        let words = self.array::<u64>(maps::FLOW_FILTER);
        let indexes = self.head().words_of(half);
        indexes
            .map(|index| words.get(&index, 0).unwrap().count_ones())
            .sum()
    }
}

#[test]
fn flows_are_found_after_any_number_of_sweeps() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        assert_eq!(bed.head().in_use(), None);
        let syn = bed.connect(CLIENT);
        for sweep in 0..5 {
            bed.sweep();
            let half = bed.head().in_use().unwrap();
            assert_eq!(half, Half::BOTH[sweep % 2]);
            assert_eq!(bed.bits(half), 2, "one for each direction");
            // Its port is not given away.
            assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
            assert_eq!(bed.send(CLIENT, ACK).0, Action::REDIRECT);
            assert_eq!(bed.remembered(), [2, 0]);
        }
        // Whether it is over is for its origin to say.
        assert_eq!(bed.send(CLIENT, RST).0, Action::REDIRECT);
        bed.sweep();
        let (action, asked) = bed.send(CLIENT, SYN);
        assert_eq!((action, bed.remembered()), (Action::REDIRECT, [2, 0]));
        assert_eq!(see(&asked).source, see(&syn).source);
    });
}

#[test]
fn what_packets_add_later_is_in_both_halves_and_what_has_gone_in_none() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        bed.sweep();
        assert_eq!(Half::BOTH.map(|half| bed.bits(half)), [0, 0]);
        bed.connect(CLIENT);
        assert_eq!(Half::BOTH.map(|half| bed.bits(half)), [2, 2]);
        bed.sweep();
        assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
        let clock = bed.kernel.clock;
        assert_eq!(bed.tables.flush(&clock, |_| true).unwrap(), 1);
        bed.sweep();
        assert_eq!(bed.bits(bed.head().in_use().unwrap()), 0);
        bed.sweep();
        assert_eq!(Half::BOTH.map(|half| bed.bits(half)), [0, 0]);
        bed.connect(OTHER);
        assert_eq!(Half::BOTH.map(|half| bed.bits(half)), [2, 2]);
    });
}

/// The program asks it: otherwise the other tests would tell nothing.
#[test]
fn an_entry_that_nobody_announced_is_not_found_by_a_syn() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        bed.sweep();
        bed.connect(CLIENT);
        let mut flows = bed.flows(maps::FLOWS4);
        let entries: Vec<(FlowKey4, Flow4)> = flows.iter().map(Result::unwrap).collect();
        entries.iter().for_each(|(key, _)| flows.remove(key).unwrap());
        bed.sweep();
        for (key, flow) in entries {
            flows.insert(key, flow, 0).unwrap();
        }
        assert_eq!(bed.send(OTHER, SYN).0, Action::REDIRECT);
        assert_eq!(bed.remembered(), [2, 2]);
    });
}

#[test]
fn nobody_relies_on_it_after_a_takeover_or_while_flows_are_migrated() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        bed.connect(CLIENT);
        bed.sweep();
        let mut buckets = bed.array::<Bucket>(maps::BUCKETS);
        let bucket = Bucket {
            tracked: 7,
            ..Bucket::default()
        };
        let row = modes::BUCKET_ROWS - 1;
        buckets.set(row, bucket, 0).unwrap();
        bed.array::<u32>(maps::SETTLED).set(row, 7, 0).unwrap();
        let clock = bed.kernel.clock;
        bed.tables.distrust(&clock).unwrap();
        assert_eq!(bed.head().in_use(), None);
        let settled = bed.array::<u32>(maps::SETTLED).get(&row, 0).unwrap();
        assert!(bucket.may_be_tracked(settled));
        // What a program of another version has added is found, as long as the table is looked at.
        assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
        let set_flags = |bed: &Bed, flags| {
            let mut all = bed.array::<Settings>(maps::SETTINGS);
            let settings = all.get(&0, 0).unwrap();
            let flags = SettingsFlags(flags);
            all.set(0, Settings { flags, ..settings }, 0).unwrap();
            settings.flags.0
        };
        let before = set_flags(&bed, SettingsFlags::MIGRATING);
        bed.sweep();
        assert_eq!(bed.head().in_use(), None);
        set_flags(&bed, before);
        bed.sweep();
        assert!(bed.head().in_use().is_some());
        assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
    });
}

/// A half that was made while few flows were there still tells of all that came later, and the next one is larger: also by
/// those that have gone again.
#[test]
fn a_half_is_as_large_as_what_came_since_the_last_sweep_demands() {
    needs_root!();
    namespace().enter(|| {
        let sizes = MapSizes {
            max_flows: 1 << 13,
            ..small()
        };
        let mut bed = Bed::of(&sizes);
        let size = |bed: &Bed| {
            let head = bed.head();
            head.bits(head.in_use().unwrap())
        };
        let room = FlowFilter::fitting(FlowFilter::entries(1 << 13)).unwrap().room();
        bed.sweep();
        assert_eq!(size(&bed), room, "nothing is known yet");
        bed.sweep();
        let least = size(&bed);
        assert!(least < room, "{least} of {room}");
        bed.connect(CLIENT);
        assert_eq!(Half::BOTH.map(|half| bed.bits(half)), [2, 2]);
        assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
        bed.sweep();
        assert_eq!((size(&bed), bed.send(OTHER, SYN).0), (least, Action::DROP));
        // As if an eighth as many flows had come, and gone, as there are bits.
        let head = bed.head();
        let mut words = bed.array::<u64>(maps::FLOW_FILTER);
        for index in head.words_of(head.in_use().unwrap()) {
            let word = words.get(&index, 0).unwrap();
            words.set(index, word | 0x0101_0101_0101_0101, 0).unwrap();
        }
        bed.sweep();
        assert_eq!(size(&bed), room);
        assert_eq!(bed.send(OTHER, SYN).0, Action::DROP);
        assert_eq!(bed.send(CLIENT, ACK).0, Action::REDIRECT);
        bed.sweep();
        assert_eq!((size(&bed), bed.send(OTHER, SYN).0), (least, Action::DROP));
    });
}
