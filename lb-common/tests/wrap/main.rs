//! The stage that changes heads of frames, by itself: tunnels, tags, what fits, and the MSS.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fit;
mod relink;
mod tunnel;

use lb_common::abi::{Flow4, Flow6, FlowCore, FlowSide, Forwarding, HopId, Mac, Origin, OriginId, Port, Tag};
use lb_common::datapath::parse;
use lb_common::datapath::{Scratch, Step, WrapKind, Wrapping, wrap};
use lb_common::testing::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, TWO_ARMED};
use lb_common::testing::{Frame, MemoryTables, PacketBuilder, Scenario};
use std::net::{IpAddr, SocketAddr};

const SYN: u8 = 2;
const ACK: u8 = 16;

const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:c::7"];
const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];
const ORIGINS: [&str; 2] = ["10.0.0.11", "2001:db8:a::11"];
const GUE_PORT: u16 = 6080;
const NOW: u32 = 1_000_000;
const ID: OriginId = OriginId(1);

/// VLAN tags that frames come with, and leave with.
const TAGS: [&[u16]; 3] = [&[], &[0x2064], &[100, 0x3065]];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A tag as loaded: its type and number.
fn tag(kind: u16, number: u16) -> Tag {
    let bytes = [kind.to_be_bytes(), number.to_be_bytes()].concat();
    Tag(u32::from_ne_bytes(bytes.try_into().unwrap()))
}

/// These tags as a frame's builder writes them.
fn as_loaded(numbers: &[u16]) -> [Tag; 2] {
    match *numbers {
        [] => [Tag::NONE; 2],
        [only] => [tag(0x8100, only), Tag::NONE],
        [outer, inner] => [tag(0x88a8, outer), tag(0x8100, inner)],
        _ => panic!("{numbers:?} are too many"),
    }
}

/// The stage with one origin, and a packet to it on the way.
struct Stage {
    tables: MemoryTables,
    scratch: Box<Scratch>,
}

/// A segment of the client to the VIP, of one family.
fn tcp(v6: bool, flags: u8) -> PacketBuilder {
    let [client, vip] = ends(v6, 80);
    PacketBuilder::tcp(client, vip, flags)
}

fn udp(v6: bool) -> PacketBuilder {
    let [client, vip] = ends(v6, 53);
    PacketBuilder::udp(client, vip)
}

fn ends(v6: bool, port: u16) -> [SocketAddr; 2] {
    let index = usize::from(v6);
    [
        (ip(CLIENTS[index]), 40_000).into(),
        (ip(VIPS[index]), port).into(),
    ]
}

impl Stage {
    fn new(forwarding: Forwarding, outer_v6: bool) -> Self {
        let mut tables = Scenario::new().tables;
        let origin = Origin {
            address: ip(ORIGINS[usize::from(outer_v6)]).into(),
            forwarding,
            snat_base: if outer_v6 { 2 } else { 0 },
            snat_count: 2,
            hop: TWO_ARMED,
            gue_port: Port::new(GUE_PORT),
            ..Origin::default()
        };
        tables.origins.insert(ID, origin);
        tables.settings.second = 250;
        Self {
            tables,
            scratch: Box::default(),
        }
    }

    fn origin(&mut self) -> &mut Origin {
        self.tables.origins.get_mut(&ID).unwrap()
    }

    fn set_mtu(&mut self, hop: HopId, mtu: u16) {
        self.tables.hops.get_mut(&hop).unwrap().mtu = mtu;
    }

    /// Gives the stage a frame as the stages before it would have.
    fn prepare(&mut self, frame: &Frame, side: FlowSide) {
        let link = parse::link(frame).unwrap();
        let opening = &mut self.scratch.opening;
        (opening.link, opening.ifindex, opening.now) = (link, CLIENT_SIDE, NOW);
        let core = FlowCore {
            origin: ID,
            application: 7,
            client_ifindex: CLIENT_SIDE,
            side,
            ..FlowCore::default()
        };
        let ports = |at| {
            let bytes: Option<&[u8; 4]> = frame.0.get(at..).and_then(|bytes| bytes.first_chunk());
            let [a, b, c, d] = *bytes.unwrap_or(&[0; 4]);
            (Port(u16::from_ne_bytes([a, b])), Port(u16::from_ne_bytes([c, d])))
        };
        if let Ok(network) = parse::ipv4(frame, link.network) {
            let (source_port, destination_port) = ports(network.transport);
            self.scratch.v4.subject.network = network;
            self.scratch.v4.client = Flow4 {
                core: FlowCore {
                    source_port,
                    destination_port,
                    ..core
                },
                source: network.source,
                destination: network.destination,
            };
        } else {
            let network = parse::ipv6(frame, link.network).unwrap();
            let (source_port, destination_port) = ports(network.transport);
            self.scratch.v6.subject.network = network;
            self.scratch.v6.client = Flow6 {
                core: FlowCore {
                    source_port,
                    destination_port,
                    ..core
                },
                source: network.source,
                destination: network.destination,
            };
        }
    }

    /// Has it wrap a frame that leaves with these tags.
    fn wrap(&mut self, frame: &Frame, kind: WrapKind, tags: [Tag; 2]) -> (Step, Frame) {
        self.prepare(frame, FlowSide::CLIENT);
        self.tables.hops.get_mut(&TWO_ARMED).unwrap().tags = tags;
        self.scratch.wrap = Wrapping {
            destination: Mac::from(ORIGIN_MAC),
            source: Mac::from(ORIGIN_NODE_MAC),
            tags,
            ifindex: ORIGIN_SIDE,
            kind,
            ..Wrapping::default()
        };
        self.run(frame)
    }

    fn run(&mut self, frame: &Frame) -> (Step, Frame) {
        let mut frame = frame.clone();
        let step = wrap(&mut frame, &self.tables, &mut self.scratch);
        (step, frame)
    }
}

/// The outer addresses of the node, by family.
fn sources(v6: bool) -> [IpAddr; 2] {
    if v6 {
        [ip("2001:db8:2::10"), ip("2001:db8:2::11")]
    } else {
        [ip("192.0.2.10"), ip("192.0.2.11")]
    }
}

/// The protocol number of an IP packet as payload.
fn in_ip(v6: bool) -> u8 {
    if v6 { 41 } else { 4 }
}
