//! What must become of packets at an origin's end of a tunnel, to the byte: rows that the code in memory and the kernel
//! program are both held to.

use super::Frame;
use super::build::{Checksum, PacketBuilder, extension, sum};
use crate::abi::{Ip, Port};
use crate::tunnel::{Local, Locals, Outcome, Roles};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The GUE port of all rows.
pub const GUE_PORT: Port = Port::new(6080);

/// The addresses at which tunnels end, IPv4 and IPv6.
pub const ENDS: [&str; 2] = ["10.0.2.11", "fd00:2::11"];
/// The nodes' addresses, from which tunnels come.
pub const NODES: [&str; 2] = ["10.0.2.1", "fd00:2::1"];
/// The VIPs.
pub const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];
const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:c::7"];
const STRANGERS: [&str; 2] = ["192.0.2.99", "2001:db8:99::99"];

/// One packet and what becomes of it.
pub struct Row {
    pub name: String,
    pub frame: Frame,
    pub outcome: Outcome,
    /// The frame afterwards; `None` when it is dropped.
    pub left: Option<Frame>,
    /// What is known of the inner destination's overhead afterwards.
    pub overhead: Option<(IpAddr, u32)>,
}

/// Addresses in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryLocals {
    pub addresses: RefCell<BTreeMap<Ip, Local>>,
    pub outcomes: RefCell<BTreeMap<Outcome, u64>>,
    /// Where tunnels do not come from.
    pub strangers: RefCell<BTreeSet<Ip>>,
}

impl MemoryLocals {
    /// The world of the rows.
    #[must_use]
    pub fn standard() -> Self {
        let locals = Self::default();
        for (addresses, roles) in [(ENDS, Roles::TUNNEL), (VIPS, Roles::VIP)] {
            for address in addresses {
                let local = Local { roles, overhead: 0 };
                locals.addresses.borrow_mut().insert(ip(address).into(), local);
            }
        }
        let strangers: [Ip; 2] = STRANGERS.map(|address| ip(address).into());
        locals.strangers.borrow_mut().extend(strangers);
        locals
    }

    /// Makes it known that a tunnel to an address takes that many bytes.
    pub fn learn(&self, address: IpAddr, overhead: u32) {
        if let Some(local) = self.addresses.borrow_mut().get_mut(&address.into()) {
            local.overhead = overhead;
        }
    }
}

impl Locals for MemoryLocals {
    fn visit<R>(&self, address: &Ip, visit: impl FnOnce(&mut Local) -> R) -> Option<R> {
        self.addresses.borrow_mut().get_mut(address).map(visit)
    }

    fn is_node(&self, source: &Ip) -> bool {
        !self.strangers.borrow().contains(source)
    }

    fn count(&self, outcome: Outcome) {
        *self.outcomes.borrow_mut().entry(outcome).or_default() += 1;
    }
}

/// An address, which must be one.
///
/// # Panics
/// It is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// How a packet is carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tunnel {
    Ipip,
    /// Variant 1: no header but UDP's.
    Gue,
    /// Variant 0: four bytes of its own.
    GueWithHeader,
}

impl Tunnel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ipip, Self::Gue, Self::GueWithHeader];

    /// What becomes of its packets.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Ipip => Outcome::Ipip,
            Self::Gue | Self::GueWithHeader => Outcome::Gue,
        }
    }

    /// Bytes of its headers.
    #[must_use]
    pub fn overhead(self, v6: bool) -> u32 {
        let outer = if v6 { 40 } else { 20 };
        outer
            + match self {
                Self::Ipip => 0,
                Self::Gue => 8,
                Self::GueWithHeader => 12,
            }
    }

    /// The builder of a packet that carries the IP packet `inner` from one address to another.
    #[must_use]
    pub fn carry(self, from: IpAddr, to: IpAddr, inner: &[u8]) -> PacketBuilder {
        let number = if inner.first().is_some_and(|first| first >> 4 == 6) {
            41
        } else {
            4
        };
        let gue = || PacketBuilder::udp((from, 50_000).into(), (to, GUE_PORT.host()).into());
        match self {
            Self::Ipip => PacketBuilder::raw(from, to, number).payload(inner),
            // As nodes send it: nothing is summed where that is allowed.
            Self::Gue if from.is_ipv4() => gue().checksum(Checksum::None).payload(inner),
            Self::Gue => gue().payload(inner),
            Self::GueWithHeader => gue().payload(&[&[0, number, 0, 0], inner].concat()),
        }
    }
}

/// A frame's bytes from the IP header on, which stands where it does without tags.
#[must_use]
pub fn packet(frame: &Frame) -> Vec<u8> {
    frame.0[14..].to_vec()
}

/// Sets the TOS or traffic class of the IP header at an offset, its checksum too.
pub fn set_class(frame: &mut Frame, at: usize, class: u8) {
    let bytes = &mut frame.0[at..];
    if bytes[0] >> 4 == 4 {
        bytes[1] = class;
        bytes[10..12].fill(0);
        let length = usize::from(bytes[0] & 15) * 4;
        let checksum = !sum(&[&bytes[..length]]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        bytes[0] = 0x60 | class >> 4;
        bytes[1] = bytes[1] & 15 | class << 4;
    }
}

/// A datagram of a client to a VIP, by family.
#[must_use]
pub fn inner(v6: bool) -> PacketBuilder {
    let end = |address: &str, port| SocketAddr::new(ip(address), port);
    let (client, vip) = (CLIENTS[usize::from(v6)], VIPS[usize::from(v6)]);
    PacketBuilder::udp(end(client, 40_000), end(vip, 53)).payload(b"hello, origin")
}

/// All rows.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for outer_v6 in [false, true] {
        for inner_v6 in [false, true] {
            for tunnel in Tunnel::ALL {
                let mut world = World {
                    outer_v6,
                    inner_v6,
                    tunnel,
                    rows: Vec::new(),
                };
                world.carried();
                world.congestion();
                world.refused();
                rows.append(&mut world.rows);
            }
        }
        strangers(outer_v6, &mut rows);
    }
    rows
}

struct World {
    outer_v6: bool,
    inner_v6: bool,
    tunnel: Tunnel,
    rows: Vec<Row>,
}

impl World {
    fn carry(&self, inner: &[u8]) -> PacketBuilder {
        let outer = usize::from(self.outer_v6);
        self.tunnel.carry(ip(NODES[outer]), ip(ENDS[outer]), inner)
    }

    fn row(
        &mut self,
        name: &str,
        frame: Frame,
        outcome: Outcome,
        left: Option<Frame>,
        overhead: Option<u32>,
    ) {
        let family = |v6| if v6 { 6 } else { 4 };
        let (inner, outer) = (family(self.inner_v6), family(self.outer_v6));
        let vip = ip(VIPS[usize::from(self.inner_v6)]);
        self.rows.push(Row {
            name: format!("{name}: IPv{inner} in IPv{outer} by {:?}", self.tunnel),
            frame,
            outcome,
            left,
            overhead: overhead.map(|overhead| (vip, overhead)),
        });
    }

    /// Decapsulated, and what is left.
    fn taken(&mut self, name: &str, frame: Frame, left: Frame, more: u32) {
        let overhead = self.tunnel.overhead(self.outer_v6) + more;
        self.row(name, frame, self.tunnel.outcome(), Some(left), Some(overhead));
    }

    /// Left as it is.
    fn passed(&mut self, name: &str, frame: Frame, outcome: Outcome) {
        self.row(name, frame.clone(), outcome, Some(frame), None);
    }

    fn carried(&mut self) {
        let inner = inner(self.inner_v6);
        let plain = inner.frame();
        self.taken("plain", self.carry(&packet(&plain)).frame(), plain.clone(), 0);
        for tags in [&[0x0123][..], &[0x0064, 0x2123]] {
            let name = format!("{} tags", tags.len());
            let frame = self.carry(&packet(&plain)).tags(tags).frame();
            self.taken(&name, frame, inner.clone().tags(tags).frame(), 0);
        }
        let padded = self.carry(&packet(&plain)).padding(7).frame();
        self.taken("padded", padded, inner.clone().padding(7).frame(), 0);
        let empty = inner.clone().payload(&[]).frame();
        self.taken("empty", self.carry(&packet(&empty)).frame(), empty, 0);
        let (longer, more) = if self.outer_v6 {
            let outer = self
                .carry(&packet(&plain))
                .padding_extension(extension::DESTINATION_OPTIONS);
            (outer, 8)
        } else {
            (self.carry(&packet(&plain)).options(&[1, 1, 1, 0]), 4)
        };
        self.taken("options outside", longer.frame(), plain, more);
        let optioned = if self.inner_v6 {
            inner.padding_extension(extension::HOP_BY_HOP)
        } else {
            inner.options(&[1, 1, 1, 0])
        };
        let optioned = optioned.frame();
        self.taken(
            "options inside",
            self.carry(&packet(&optioned)).frame(),
            optioned,
            0,
        );
    }

    fn congestion(&mut self) {
        for (outer, inside, wanted) in RFC6040 {
            let mut before = inner(self.inner_v6).frame();
            let mut after = before.clone();
            // The other six bits, the DSCP, are those inside.
            set_class(&mut before, 14, 0x28 | inside);
            let mut frame = self.carry(&packet(&before)).frame();
            set_class(&mut frame, 14, 0xb8 | outer);
            let name = format!("ECN {inside:02b} in {outer:02b}");
            match wanted {
                Some(wanted) => {
                    set_class(&mut after, 14, 0x28 | wanted);
                    self.taken(&name, frame, after, 0);
                }
                None => {
                    let overhead = self.tunnel.overhead(self.outer_v6);
                    self.row(&name, frame, Outcome::Congestion, None, Some(overhead));
                }
            }
        }
    }

    fn refused(&mut self) {
        let inner = inner(self.inner_v6);
        let plain = packet(&inner.frame());
        let (outer_index, inner_index) = (usize::from(self.outer_v6), usize::from(self.inner_v6));
        let elsewhere = self
            .tunnel
            .carry(ip(NODES[outer_index]), ip(STRANGERS[outer_index]), &plain);
        self.passed("no end of ours", elsewhere.frame(), Outcome::NotLocal);
        let from_elsewhere = self
            .tunnel
            .carry(ip(STRANGERS[outer_index]), ip(ENDS[outer_index]), &plain);
        self.passed("no node", from_elsewhere.frame(), Outcome::NotNode);
        let stranger = |to: &str| {
            let from = SocketAddr::new(ip(CLIENTS[inner_index]), 40_000);
            packet(&inner.clone().ends(from, (ip(to), 53).into()).frame())
        };
        let frame = self.carry(&stranger(STRANGERS[inner_index])).frame();
        self.passed("no VIP", frame, Outcome::NotVip);
        // An address that ends tunnels is not a VIP by that.
        let frame = self.carry(&stranger(ENDS[inner_index])).frame();
        self.passed("to the end itself", frame, Outcome::NotVip);
        let header = if self.inner_v6 { 40 } else { 20 };
        for (name, length) in [
            ("cut short in the payload", plain.len() - 1),
            ("cut short behind the header", header),
            ("cut short in the header", header - 1),
            ("one byte", 1),
        ] {
            let frame = self.carry(&plain[..length]).frame();
            self.passed(name, frame, Outcome::Malformed);
        }
        let mut wrong = plain.clone();
        wrong[0] = wrong[0] & 15 | 0x50;
        let mut frame = self.carry(&plain).frame();
        let at = frame.0.len() - wrong.len();
        frame.0.splice(at.., wrong);
        self.passed("version 5", frame, Outcome::Malformed);
        if !self.inner_v6 {
            let mut wrong = plain.clone();
            wrong[0] = 0x44;
            let frame = self.carry(&wrong).frame();
            self.passed("header of 16 bytes", frame, Outcome::Malformed);
        }
        let first = self.carry(&plain).fragment(0, true).frame();
        self.passed("first fragment", first, Outcome::Fragment);
        let later = self.carry(&plain).fragment(4, false).frame();
        let unknown = if self.tunnel == Tunnel::Ipip {
            Outcome::Fragment
        } else {
            Outcome::Other
        };
        self.passed("later fragment", later, unknown);
        let mut group = self.carry(&plain).frame();
        group.0[0] |= 1;
        self.passed("to a group of stations", group, Outcome::Other);
    }
}

/// Outer and inner congestion field, and what is left of the two (RFC 6040, figure 4).
const RFC6040: [(u8, u8, Option<u8>); 16] = [
    (0, 0, Some(0)),
    (0, 1, Some(1)),
    (0, 2, Some(2)),
    (0, 3, Some(3)),
    (1, 0, Some(0)),
    (1, 1, Some(1)),
    (1, 2, Some(1)),
    (1, 3, Some(3)),
    (2, 0, Some(0)),
    (2, 1, Some(1)),
    (2, 2, Some(2)),
    (2, 3, Some(3)),
    (3, 0, None),
    (3, 1, Some(3)),
    (3, 2, Some(3)),
    (3, 3, Some(3)),
];

/// What is no tunnel's.
fn strangers(v6: bool, rows: &mut Vec<Row>) {
    let index = usize::from(v6);
    let (node, end) = (ip(NODES[index]), ip(ENDS[index]));
    let gue = |payload: &[u8]| {
        PacketBuilder::udp((node, 50_000).into(), (end, GUE_PORT.host()).into()).payload(payload)
    };
    let cases = [
        ("a datagram to a VIP", inner(v6).frame(), Outcome::Other),
        (
            "a datagram to another port",
            PacketBuilder::udp((node, 6080).into(), (end, 53).into())
                .payload(&packet(&inner(v6).frame()))
                .frame(),
            Outcome::Other,
        ),
        (
            "a segment to the GUE port",
            PacketBuilder::tcp((node, 50_000).into(), (end, 6080).into(), 2).frame(),
            Outcome::Other,
        ),
        (
            "GRE",
            PacketBuilder::raw(node, end, 47).payload(&[0; 40]).frame(),
            Outcome::Other,
        ),
        ("empty GUE", gue(&[]).frame(), Outcome::Malformed),
        (
            "GUE of three bytes",
            gue(&[0x45, 0, 0]).frame(),
            Outcome::Malformed,
        ),
        (
            "GUE control message",
            gue(&[&[0x20, 1, 0, 0], &[0; 40][..]].concat()).frame(),
            Outcome::Malformed,
        ),
        (
            "GUE with options",
            gue(&[&[1, 4, 0x80, 0, 0, 0, 0, 0], &packet(&inner(v6).frame())[..]].concat()).frame(),
            Outcome::Malformed,
        ),
        (
            "GUE of another protocol",
            gue(&[&[0, 47, 0, 0], &[0; 40][..]].concat()).frame(),
            Outcome::Malformed,
        ),
        (
            "ARP",
            {
                let mut frame = inner(v6).frame();
                frame.0[12..14].copy_from_slice(&[0x08, 0x06]);
                frame
            },
            Outcome::Other,
        ),
    ];
    rows.extend(cases.into_iter().map(|(name, frame, outcome)| Row {
        name: format!("{name}, IPv{}", if v6 { 6 } else { 4 }),
        left: Some(frame.clone()),
        frame,
        outcome,
        overhead: None,
    }));
}
