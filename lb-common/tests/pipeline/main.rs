//! The whole pipeline in memory: packets in; verdicts, packets, flows and counters out.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod affinity;
mod attempts;
mod buckets;
mod caps;
mod corpus;
mod endings;
mod filter;
mod fixtures;
mod flows;
mod fragments;
mod heads;
mod memory;
mod messages;
mod modes;
mod ports;
mod properties;
mod ranges;
mod rates;
mod reasons;
mod resets;
mod select;
mod strangers;

use lb_common::abi::{Flow4, FlowKey4, FlowSide, Origin, OriginState};
use lb_common::datapath::{Exit, Memory, Tables, Verdict};
use lb_common::testing::check::see;
use lb_common::testing::modes::GUE_PORT;
use lb_common::testing::outer::{Outer, outer};
use lb_common::testing::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, TIMEOUTS, at};
use lb_common::testing::{Frame, Host, PacketBuilder, Scenario};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const WEB: &str = "203.0.113.10:80";
const WEIGHTED: &str = "203.0.113.10:443";
const DNS: &str = "203.0.113.10:53";

/// The node under test.
struct Node(Host);

/// What became of a packet.
struct Outcome {
    verdict: Verdict,
    frame: Frame,
    moved: String,
}

impl Outcome {
    /// Where a forwarded packet went.
    #[track_caller]
    fn origin(&self) -> SocketAddr {
        assert!(matches!(self.verdict, Verdict::Forward(_)), "{:?}", self.verdict);
        see(&self.frame).destination
    }
}

impl Node {
    fn new() -> Self {
        Self(Host::new(Scenario::standard()))
    }

    /// Where nothing is left to the hash; see [`Scenario::plain`].
    fn plain() -> Self {
        Self(Host::new(Scenario::plain()))
    }

    fn receive(&mut self, ifindex: u32, frame: &Frame) -> Outcome {
        let before = self.0.scenario.tables.counters();
        let (verdict, frame) = self.0.receive(ifindex, frame);
        let moved = self.0.scenario.tables.counters().since(&before);
        Outcome {
            verdict,
            frame,
            moved,
        }
    }

    fn send(&mut self, packet: &PacketBuilder) -> Outcome {
        self.receive(CLIENT_SIDE, &packet.frame())
    }

    /// Sends a TCP segment from a client to an address.
    fn tcp(&mut self, client: &str, to: &str, flags: u8) -> Outcome {
        self.send(&PacketBuilder::tcp(at(client), at(to), flags))
    }

    fn udp(&mut self, client: &str, to: &str) -> Outcome {
        self.send(&PacketBuilder::udp(at(client), at(to)).payload(b"datagram"))
    }

    /// Answers a forwarded packet from its origin.
    fn answer(&mut self, to: &Outcome, flags: u8) -> Outcome {
        let seen = see(&to.frame);
        let packet = if seen.protocol == 6 {
            PacketBuilder::tcp(seen.destination, seen.source, flags)
        } else {
            PacketBuilder::udp(seen.destination, seen.source).payload(b"answer")
        };
        let packet = packet.link(ORIGIN_MAC, ORIGIN_NODE_MAC);
        self.receive(ORIGIN_SIDE, &packet.frame())
    }

    /// A connection whose handshake is complete: what became of its SYN.
    fn connect(&mut self, client: &str, to: &str) -> Outcome {
        let syn = self.tcp(client, to, SYN);
        assert!(matches!(
            self.answer(&syn, SYN | ACK).verdict,
            Verdict::Forward(_)
        ));
        assert!(matches!(self.tcp(client, to, ACK).verdict, Verdict::Forward(_)));
        syn
    }

    /// Both sides close a connection to which `syn` belongs.
    fn close(&mut self, syn: &Outcome, client: &str, to: &str) {
        self.tcp(client, to, FIN | ACK);
        self.answer(syn, FIN | ACK);
    }

    fn pass_time(&mut self, jiffies: u32) {
        self.0.now = self.0.now.wrapping_add(jiffies);
    }

    fn set_state(&mut self, origin: &str, state: OriginState) {
        self.0.scenario.set_state(origin, state);
    }

    fn record(&mut self, origin: &str) -> &mut Origin {
        let id = self.0.scenario.origin_at(origin);
        self.0.scenario.tables.origins.get_mut(&id).unwrap()
    }

    /// The IPv4 flows of one memory.
    fn memory(&self, memory: Memory) -> &RefCell<BTreeMap<FlowKey4, Flow4>> {
        match memory {
            Memory::Established => &self.0.scenario.tables.flows4,
            Memory::Tentative => &self.0.scenario.tables.tentative4,
        }
    }

    /// How many IPv4 entries there are: established ones, and others.
    fn remembered(&self) -> (usize, usize) {
        let count = |memory| self.memory(memory).borrow().len();
        (count(Memory::Established), count(Memory::Tentative))
    }

    /// All IPv4 entries of one side.
    #[track_caller]
    fn entries(&self, side: FlowSide) -> Vec<(FlowKey4, Flow4)> {
        let mut all = self.memory(Memory::Tentative).borrow().clone();
        for (key, flow) in self.memory(Memory::Established).borrow().iter() {
            assert_eq!(all.insert(*key, *flow), None, "{key:?} is in both memories");
        }
        all.into_iter()
            .filter(|(_, flow)| flow.core.side == side)
            .collect()
    }

    /// Established flows of an origin.
    fn established(&self, origin: &str) -> u32 {
        let id = self.0.scenario.origin_at(origin);
        self.0.scenario.tables.established(id)
    }

    /// The two entries of the only IPv4 flow: the client's, the origin's.
    #[track_caller]
    fn only(&self) -> ((FlowKey4, Flow4), (FlowKey4, Flow4)) {
        let (client, origin) = (self.entries(FlowSide::CLIENT), self.entries(FlowSide::ORIGIN));
        assert_eq!((client.len(), origin.len()), (1, 1), "{client:?} {origin:?}");
        (client[0], origin[0])
    }

    fn edit_flows(&self, edit: impl Fn(&FlowKey4, &mut Flow4)) {
        for memory in [Memory::Established, Memory::Tentative] {
            for (key, flow) in self.memory(memory).borrow_mut().iter_mut() {
                edit(key, flow);
            }
        }
    }

    fn forget(&self, key: &FlowKey4) {
        let remove = |memory| self.memory(memory).borrow_mut().remove(key);
        remove(Memory::Established)
            .or_else(|| remove(Memory::Tentative))
            .unwrap();
    }
}

/// The outer header of a frame that left in a tunnel of ours.
fn tunnel(frame: &Frame) -> Option<Outer> {
    // Any datagram may look like one.
    outer(frame).filter(|outer| outer.udp.is_none_or(|udp| udp.destination == GUE_PORT))
}

/// An IP packet as a frame.
fn framed(ip: &[u8]) -> Frame {
    let kind = if ip[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    };
    Frame([&[0; 12], &kind[..], ip].concat())
}

fn redirect(ifindex: u32) -> Verdict {
    Verdict::Forward(Exit::Redirect { ifindex })
}

/// The frame that a tunnel carries, as from a link of its own; `None` when there is no tunnel.
fn inner(frame: &Frame) -> Option<Frame> {
    tunnel(frame).map(|outer| framed(&outer.inner))
}

/// Client number `index`: all different.
fn client(index: usize) -> String {
    format!(
        "198.18.{}.{}:{}",
        index / 250 % 250,
        index % 250,
        30_000 + index % 20_000
    )
}
