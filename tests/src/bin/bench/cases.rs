//! What is measured, and what must have been counted afterwards.

use crate::abi::{self, FRAME_LEN, TARGET_SUBJECT};
use crate::counters::{Counters, Group};
use crate::flows;
use crate::frame::{IFINDEX, Traffic, Version};
use crate::layout::{Door, Shape, Width};
use crate::modes::Mode;
use lb_common::abi::{Protocol, Traffic as Row};
use lb_common::datapath::{DropReason, Pass};

/// Flows that go round where each packet's must be a new one: many times what the full table holds.
const FLOOD: u32 = 1 << 23;
/// The same where nothing is remembered of them: a few for each bucket.
const FORGOTTEN: u32 = 1 << 13;
/// Flows that caches hold.
const CACHED: u32 = 1_000;
/// Flows of what is measured in wide shapes, and on both CPUs.
const MANY: u32 = 1 << 16;

pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;
/// By their numbers (`enum xdp_action`, include/uapi/linux/bpf.h).
pub const ACTIONS: [&str; 5] = ["ABORTED", "DROP", "PASS", "TX", "REDIRECT"];
/// What a program may put before a frame, for the driver to take off again.
pub const MOST_GROWTH: u32 = 128;

/// Whose program it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Build {
    /// That of this tree.
    Present,
    /// That which it is compared with.
    Earlier,
    /// The same, when it keeps an entry for every flow.
    Tracking,
    /// Another program's than lb's.
    Foreign,
}

impl Build {
    /// Whether flows of a protocol have entries; see [`Mode::tracks`].
    pub fn tracks(self, mode: Mode, protocol: Protocol) -> bool {
        self == Self::Tracking || mode.tracks(protocol)
    }
}

/// Which program is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// lb, and out by the interface the packet came in by.
    Lb,
    /// lb, and out by another interface.
    Redirecting,
    Floor(Floor),
}

/// What nothing can be below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Only sends the packet back.
    Transmit,
    /// One lookup in lb's flow table that finds the packet's flow, and one counter.
    Lookup,
    /// One lookup that finds nothing, and the packet passes.
    Miss,
    /// One insertion into a full table that evicts.
    Insert,
    /// One lookup in the long access list.
    Prefix,
    /// Address, ring, real, two counters, another link address.
    Ring,
    /// The same, and an outer IP header.
    RingTunnel,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub build: Build,
    pub program: Program,
    pub mode: Mode,
    pub traffic: Traffic,
    pub protocol: Protocol,
    pub version: Version,
    pub shape: Shape,
    /// CPUs that send at the same time, each its own flows.
    pub cpus: u32,
}

/// What becomes of each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    pub action: u32,
    /// Bytes that a frame grows by.
    pub growth: u32,
    /// Whether one is taken from the TTL.
    pub counts_hop: bool,
}

const VERSIONS: [Version; 2] = [Version::V4, Version::V6];
const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

/// All cases at these numbers of flows, in the order of the table; the floors stand first.
pub fn all(flows: &[u32], cpus: usize) -> Vec<Case> {
    let mut list = List {
        flows,
        cases: Vec::new(),
    };
    list.floors();
    list.translated();
    list.direct();
    list.opened();
    list.wide();
    if cpus > 1 {
        list.both_cpus();
    }
    list.cases
}

/// Names of the cases that another balancer can be measured with.
pub fn foreign() -> Vec<String> {
    let mut names = Vec::new();
    for case in all(&[MANY], 1) {
        if case.as_floor().is_none() {
            names.push(case.name());
        }
    }
    names
}

struct List<'a> {
    flows: &'a [u32],
    cases: Vec<Case>,
}

impl List<'_> {
    /// Adds a case at each number of flows that its mode's tables hold.
    fn add(&mut self, case: Case) {
        for &flows in self.flows {
            if case.mode.flows(case.protocol, flows) == flows {
                let shape = Shape::usual(flows);
                self.cases.push(Case { shape, ..case });
            }
        }
    }

    fn floors(&mut self) {
        let transmit = VERSIONS.map(|version| Case::floor(Floor::Transmit, version));
        self.cases.extend(transmit);
        for floor in [
            Floor::Insert,
            Floor::Lookup,
            Floor::Miss,
            Floor::Prefix,
            Floor::Ring,
            Floor::RingTunnel,
        ] {
            for version in VERSIONS {
                self.add(Case::floor(floor, version));
            }
        }
    }

    fn translated(&mut self) {
        for traffic in [Traffic::In, Traffic::Out] {
            for protocol in PROTOCOLS {
                for version in VERSIONS {
                    self.add(Case::lb(Mode::Nat, traffic, protocol, version));
                }
            }
        }
        self.add(Case {
            program: Program::Redirecting,
            ..Case::lb(Mode::Nat, Traffic::In, Protocol::TCP, Version::V4)
        });
        for traffic in [Traffic::In, Traffic::Out] {
            for version in VERSIONS {
                self.add(Case::lb(Mode::Dnat, traffic, Protocol::TCP, version));
            }
        }
        self.add(Case::lb(Mode::Dnat, Traffic::In, Protocol::UDP, Version::V4));
    }

    fn direct(&mut self) {
        for &mode in &Mode::ALL[2..] {
            for protocol in PROTOCOLS {
                for version in VERSIONS {
                    self.add(Case::lb(mode, Traffic::In, protocol, version));
                }
            }
        }
    }

    fn opened(&mut self) {
        for protocol in PROTOCOLS {
            for version in VERSIONS {
                self.add(Case::lb(Mode::Nat, Traffic::New(Door::Open), protocol, version));
            }
        }
        for mode in [Mode::L2, Mode::Ipip(Version::V4)] {
            for version in VERSIONS {
                self.add(Case::lb(mode, Traffic::New(Door::Open), Protocol::TCP, version));
            }
        }
        for traffic in [
            Traffic::New(Door::Listed),
            Traffic::Refused(Door::Limited),
            Traffic::Refused(Door::Denied),
            Traffic::NotOurs,
        ] {
            for version in VERSIONS {
                self.add(Case::lb(Mode::Nat, traffic, Protocol::TCP, version));
            }
        }
    }

    fn wide(&mut self) {
        if !self.flows.contains(&MANY) {
            return;
        }
        for width in [Width::Applications, Width::Origins] {
            for traffic in [Traffic::In, Traffic::New(Door::Open)] {
                self.cases.extend(VERSIONS.map(|version| Case {
                    shape: Shape { flows: MANY, width },
                    ..Case::lb(Mode::Nat, traffic, Protocol::TCP, version)
                }));
            }
        }
    }

    fn both_cpus(&mut self) {
        let measured = [
            Case::floor(Floor::Transmit, Version::V4),
            Case::floor(Floor::Lookup, Version::V4),
            Case::lb(Mode::Nat, Traffic::In, Protocol::TCP, Version::V4),
            Case::lb(Mode::L2, Traffic::In, Protocol::TCP, Version::V4),
        ];
        for case in measured {
            let anyhow = case.program == Program::Floor(Floor::Transmit);
            if anyhow || self.flows.contains(&MANY) {
                let shape = if anyhow { case.shape } else { Shape::usual(MANY) };
                self.cases.push(Case {
                    cpus: 2,
                    shape,
                    ..case
                });
            }
        }
    }
}

impl Case {
    fn lb(mode: Mode, traffic: Traffic, protocol: Protocol, version: Version) -> Self {
        Self {
            build: Build::Present,
            program: Program::Lb,
            mode,
            traffic,
            protocol,
            version,
            shape: Shape::usual(0),
            cpus: 1,
        }
    }

    pub fn floor(floor: Floor, version: Version) -> Self {
        let traffic = match floor {
            Floor::Miss => Traffic::NotOurs,
            Floor::Insert => Traffic::New(Door::Open),
            _ => Traffic::In,
        };
        Self {
            program: Program::Floor(floor),
            ..Self::lb(Mode::Nat, traffic, Protocol::TCP, version)
        }
    }

    /// What the table calls it, without the number of flows.
    pub fn name(&self) -> String {
        let version = match self.version {
            Version::V4 => "v4",
            Version::V6 => "v6",
        };
        let protocol = if self.protocol == Protocol::TCP {
            "tcp"
        } else {
            "udp"
        };
        let mode = self.mode.suffix();
        let name = match (self.program, self.traffic) {
            (Program::Floor(floor), _) => format!("floor: {} {version}", floor.name()),
            (Program::Redirecting, _) => format!("{protocol} {version} in, redirected"),
            (Program::Lb, Traffic::In) => format!("{protocol} {version} in{mode}"),
            (Program::Lb, Traffic::Out) => format!("{protocol} {version} out{mode}"),
            (Program::Lb, Traffic::New(Door::Listed)) => {
                format!("{protocol} {version} new, 100,000 prefixes")
            }
            (Program::Lb, Traffic::New(_)) => format!("{protocol} {version} new{mode}"),
            (Program::Lb, Traffic::Refused(Door::Denied)) => format!("{protocol} {version} new, denied"),
            (Program::Lb, Traffic::Refused(_)) => format!("{protocol} {version} new, over its limit"),
            (Program::Lb, Traffic::NotOurs) => format!("{protocol} {version} not ours"),
        };
        let width = match self.shape.width {
            Width::Usual => "",
            Width::Applications => ", 1,000 applications",
            Width::Origins => ", 10,000 origins",
        };
        let cpus = if self.cpus > 1 { ", both CPUs" } else { "" };
        format!("{name}{width}{cpus}")
    }

    /// The floor, when it is one.
    pub fn as_floor(&self) -> Option<Floor> {
        match self.program {
            Program::Floor(floor) => Some(floor),
            Program::Lb | Program::Redirecting => None,
        }
    }

    /// The interface that packets to origins leave by.
    pub fn exit(&self) -> u32 {
        match self.program {
            Program::Redirecting => IFINDEX + 1,
            Program::Lb | Program::Floor(_) => IFINDEX,
        }
    }

    /// Index of its program.
    pub fn target(&self) -> u32 {
        let of_family = |targets: [abi::Target; 2]| targets[self.version as usize];
        let (index, _) = match self.program {
            Program::Lb | Program::Redirecting => return TARGET_SUBJECT,
            Program::Floor(Floor::Transmit) => abi::TRANSMIT,
            Program::Floor(Floor::Lookup) => of_family(abi::LOOKUP),
            Program::Floor(Floor::Miss) => of_family(abi::MISS),
            Program::Floor(Floor::Insert) => of_family(abi::INSERT),
            Program::Floor(Floor::Prefix) => of_family(abi::PREFIX),
            Program::Floor(Floor::Ring) => of_family(abi::RING),
            Program::Floor(Floor::RingTunnel) => of_family(abi::RING_TUNNEL),
        };
        index
    }

    /// Whether its flows have entries.
    pub fn tracks(&self) -> bool {
        self.build.tracks(self.mode, self.protocol)
    }

    /// Of cases whose packets are of flows that are not known, and have clients of their own: how many flows.
    pub fn fresh_flows(&self) -> Option<u32> {
        match (self.program, self.traffic) {
            (Program::Floor(Floor::Insert), _) => Some(FLOOD),
            (_, Traffic::New(_)) if self.tracks() => Some(FLOOD),
            (_, Traffic::New(_)) => Some(FORGOTTEN),
            _ => None,
        }
    }

    /// Whether lb opens flows.
    pub fn opens(&self) -> bool {
        self.as_floor().is_none() && matches!(self.traffic, Traffic::New(_))
    }

    /// Packets of one measurement when most have `usual`: of what caches hold, twice as many, because a few nanoseconds more or
    /// less count there.
    pub fn packets(&self, usual: u32) -> u32 {
        if self.shape.flows <= CACHED && self.fresh_flows() != Some(FLOOD) {
            2 * usual
        } else {
            usual
        }
    }

    /// First packets of its flows before the first measurement, which nobody looks at: they fill a table, reach a limit, or
    /// give buckets their owners.
    pub fn priming(&self) -> u32 {
        match (self.program, self.traffic) {
            (Program::Floor(Floor::Insert), _) => {
                let entries = flows::tentative(self.build, self.shape);
                entries + entries / 4
            }
            (Program::Floor(_), _) => 0,
            (_, Traffic::New(_)) if self.fresh_flows() == Some(FLOOD) => {
                let entries = flows::tentative(self.build, self.shape);
                // Two entries each, or one.
                let flows = if self.mode.forwarding().is_direct() {
                    entries
                } else {
                    entries / 2
                };
                flows + flows / 4
            }
            (_, Traffic::Refused(Door::Limited)) => 1,
            _ if !self.tracks() => self.fresh_flows().unwrap_or(self.shape.flows).next_power_of_two(),
            _ => 0,
        }
    }

    /// What lb, or a floor, does with each packet.
    pub fn effect(&self) -> Effect {
        let forwarded = matches!(self.traffic, Traffic::In | Traffic::Out | Traffic::New(_));
        Effect {
            action: match (self.program, self.traffic) {
                (Program::Floor(Floor::Miss | Floor::Prefix), _) => PASS,
                (Program::Floor(_), _) => TX,
                (_, Traffic::NotOurs) => PASS,
                (_, Traffic::Refused(_)) => DROP,
                (Program::Redirecting, _) => REDIRECT,
                (Program::Lb, _) => TX,
            },
            growth: match (self.program, self.version) {
                (Program::Floor(Floor::RingTunnel), version) => Mode::Ipip(version).growth(),
                (Program::Floor(_), _) => 0,
                (Program::Lb | Program::Redirecting, _) => self.mode.growth(),
            },
            counts_hop: forwarded && self.as_floor().is_none() && !self.mode.forwarding().is_direct(),
        }
    }

    /// What lb, or a floor, must have counted after that many packets.
    pub fn counted(&self, packets: u64) -> Counters {
        let mut counters = Counters::default();
        if let Some(floor) = self.as_floor() {
            if floor != Floor::Transmit {
                counters.found = packets;
            }
            return counters;
        }
        let bytes = packets * FRAME_LEN as u64;
        let inwards = Row {
            packets_in: packets,
            bytes_in: bytes,
            ..Row::default()
        };
        let (forwarded, door) = match self.traffic {
            Traffic::NotOurs => {
                counters.verdicts.insert(Pass::NotOurs.name(), packets);
                return counters;
            }
            Traffic::Refused(door) => {
                let reason = if door == Door::Limited {
                    DropReason::RateLimited
                } else {
                    DropReason::Denied
                };
                counters.verdicts.insert(reason.name(), packets);
                return counters;
            }
            Traffic::In => (inwards, Door::Open),
            Traffic::New(door) => {
                let new_flows = packets;
                (Row { new_flows, ..inwards }, door)
            }
            Traffic::Out => {
                let outwards = Row {
                    packets_out: packets,
                    bytes_out: bytes,
                    ..Row::default()
                };
                (outwards, Door::Open)
            }
        };
        counters.applications[Group::of(self.mode, door).0] = forwarded;
        counters.origins[self.mode.row(self.version)] = forwarded;
        counters
    }
}

impl Floor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Lookup => "lookup",
            Self::Miss => "miss",
            Self::Insert => "insert",
            Self::Prefix => "prefix",
            Self::Ring => "ring",
            Self::RingTunnel => "ring, tunnel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let cases = all(&[1, 1_000, MANY, 1_000_000], 2);
        let names: BTreeSet<_> = cases.iter().map(|case| (case.name(), case.shape.flows)).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn direct_modes_are_measured_at_all_numbers_of_flows() {
        let cases = all(&[1, 1_000, MANY, 1_000_000], 1);
        let flows = |name: &str| -> Vec<u32> {
            let named = cases.iter().filter(|case| case.name() == name);
            named.map(|case| case.shape.flows).collect()
        };
        assert_eq!(flows("tcp v4 in, dsr_l2"), [1, 1_000, MANY, 1_000_000]);
        assert_eq!(flows("tcp v6 in, dsr_ipip over v4"), [1, 1_000, MANY, 1_000_000]);
        assert_eq!(flows("tcp v4 in, dsr_gue over v6"), [1, 1_000, MANY]);
        assert_eq!(flows("floor: transmit v4"), [0]);
    }
}
