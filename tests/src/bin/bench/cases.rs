//! What is measured, and what must have been counted afterwards.

use crate::abi::{FRAME_LEN, Series, TARGET_LB, TARGET_LOOKUP4, TARGET_LOOKUP6, TARGET_TRANSMIT};
use crate::frame::{IFINDEX, Traffic, Version, series};
use crate::modes::{MOST_FLOWS, Mode};
use crate::node::{Counters, Expected, NEW_FLOWS, PASS, REDIRECT, TX};
use lb_common::abi::{self, Protocol};

/// Which program is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// lb, and out by the interface the packet came in by.
    Lb,
    /// lb, and out by another interface.
    Redirecting,
    /// The floor that only sends the packet back.
    Transmit,
    /// The floor that looks it up in lb's flow table and counts it.
    Lookup,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub program: Program,
    pub mode: Mode,
    pub traffic: Traffic,
    pub protocol: Protocol,
    pub version: Version,
    /// In the tables: of each protocol, with two entries each.
    pub flows: u32,
}

/// All cases at these numbers of flows, in the order of the table; the floors stand first.
pub fn all(flows: &[u32]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |program, traffic, protocol, version, flows: &[u32]| {
        cases.extend(flows.iter().map(|&flows| Case {
            program,
            mode: Mode::Nat,
            traffic,
            protocol,
            version,
            flows,
        }));
    };
    let versions = [Version::V4, Version::V6];
    for version in versions {
        add(
            Program::Transmit,
            Traffic::In,
            Protocol::TCP,
            version,
            &flows[..1],
        );
    }
    for version in versions {
        add(Program::Lookup, Traffic::In, Protocol::TCP, version, flows);
    }
    for traffic in [Traffic::In, Traffic::Out, Traffic::New] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for version in versions {
                add(Program::Lb, traffic, protocol, version, flows);
            }
        }
    }
    add(
        Program::Redirecting,
        Traffic::In,
        Protocol::TCP,
        Version::V4,
        flows,
    );
    for version in versions {
        add(Program::Lb, Traffic::NotOurs, Protocol::TCP, version, flows);
    }
    let few = flows.iter().filter(|&&flows| flows <= MOST_FLOWS);
    for &mode in &Mode::ALL[1..] {
        for version in versions {
            cases.extend(few.clone().map(|&flows| Case {
                program: Program::Lb,
                mode,
                traffic: Traffic::In,
                protocol: Protocol::TCP,
                version,
                flows,
            }));
        }
    }
    cases
}

impl Case {
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
        match (self.program, self.traffic) {
            (Program::Transmit, _) => format!("floor: transmit {version}"),
            (Program::Lookup, _) => format!("floor: lookup {version}"),
            (Program::Redirecting, _) => format!("{protocol} {version} in, redirected"),
            (Program::Lb, Traffic::In) => format!("{protocol} {version} in{}", self.mode.suffix()),
            (Program::Lb, Traffic::Out) => format!("{protocol} {version} out"),
            (Program::Lb, Traffic::New) => format!("{protocol} {version} new flow"),
            (Program::Lb, Traffic::NotOurs) => format!("{protocol} {version} not ours"),
        }
    }

    /// Whether every other case is compared with this one.
    pub fn is_floor(&self) -> bool {
        matches!(self.program, Program::Transmit | Program::Lookup)
    }

    /// The interface that packets to origins leave by.
    pub fn exit(&self) -> u32 {
        match self.program {
            Program::Redirecting => IFINDEX + 1,
            Program::Lb | Program::Transmit | Program::Lookup => IFINDEX,
        }
    }

    /// Packets of one measurement when the others have `usual`: of new flows, each once.
    pub fn packets(&self, usual: u32) -> u32 {
        if self.traffic == Traffic::New {
            NEW_FLOWS
        } else {
            usual
        }
    }

    pub fn series(&self) -> Series {
        let (target, _) = match (self.program, self.version) {
            (Program::Lb | Program::Redirecting, _) => (TARGET_LB, ""),
            (Program::Transmit, _) => TARGET_TRANSMIT,
            (Program::Lookup, Version::V4) => TARGET_LOOKUP4,
            (Program::Lookup, Version::V6) => TARGET_LOOKUP6,
        };
        let flows = if self.traffic == Traffic::New {
            NEW_FLOWS
        } else {
            self.flows
        };
        let forwarded = !self.is_floor() && self.traffic != Traffic::NotOurs;
        let ttl_lost = u8::from(forwarded && !self.mode.forwarding().is_direct());
        let Self {
            mode,
            version,
            protocol,
            traffic,
            ..
        } = *self;
        series(mode, version, protocol, traffic, flows, target, ttl_lost)
    }

    /// What a run of that many packets must do.
    pub fn expected(&self, packets: u32) -> Expected {
        let packets = u64::from(packets);
        let bytes = packets * FRAME_LEN as u64;
        let mut counters = Counters::default();
        let mut traffic = abi::Traffic::default();
        let action = match (self.program, self.traffic) {
            (Program::Transmit, _) => TX,
            (Program::Lookup, _) => {
                counters.found = packets;
                TX
            }
            (_, Traffic::NotOurs) => {
                counters.not_ours = packets;
                PASS
            }
            (program, way) => {
                if way == Traffic::Out {
                    (traffic.packets_out, traffic.bytes_out) = (packets, bytes);
                } else {
                    (traffic.packets_in, traffic.bytes_in) = (packets, bytes);
                }
                if way == Traffic::New {
                    traffic.new_flows = packets;
                }
                if program == Program::Redirecting {
                    REDIRECT
                } else {
                    TX
                }
            }
        };
        counters.application = traffic;
        counters.origins[self.mode.row(self.version)] = traffic;
        Expected { action, counters }
    }
}
