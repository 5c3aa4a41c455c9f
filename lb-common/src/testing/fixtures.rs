//! What must become of certain packets, to the byte and to the counter: rows that the pipeline in memory and the
//! kernel program are both held to.

mod fragments;
mod heads;
mod messages;
mod modes;
mod paths;
mod rules;

use super::Frame;
use super::build::{CLIENT_MAC, Checksum, NODE_MAC, PacketBuilder, extension};
use super::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, Scenario, VIPS, app, at};
use crate::abi::{OriginState, SettingsFlags};
use crate::datapath::{DropReason, Exit, Hold, Pass, Reply, Verdict};
use std::net::{IpAddr, SocketAddr};

/// Packets that are sent one after the other to one scenario.
pub struct Fixture {
    pub name: String,
    pub scenario: Scenario,
    pub steps: Vec<Step>,
}

/// One packet, and all that must come of it.
#[derive(Clone)]
pub struct Step {
    pub ifindex: u32,
    pub frame: Frame,
    pub verdict: Verdict,
    /// The frame afterwards; `None` when it is dropped and its bytes do not matter.
    pub left: Option<Frame>,
    /// The counters that move, all of them; see [`super::Counters::since`].
    pub moved: String,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Everybody who takes part, in one family.
struct World {
    v6: bool,
    client: SocketAddr,
    node: SocketAddr,
    vip: IpAddr,
    scenario: Scenario,
    fixtures: Vec<Fixture>,
}

/// Number of an IPv4 origin of [`Scenario::standard`]; the IPv6 one follows.
mod origin {
    pub const A: u32 = 1;
    pub const US: u32 = 5;
    pub const SORRY: u32 = 7;
    pub const DNS: u32 = 9;
}

/// All fixtures.
#[must_use]
pub fn all() -> Vec<Fixture> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let mut world = World::new(v6);
        world.connections();
        world.datagrams();
        world.carried_along();
        world.answers();
        world.refusals();
        world.migration();
        world.passes();
        world.checksums();
        world.rules();
        world.modes();
        world.heads();
        world.pings();
        world.errors();
        world.strange_errors();
        world.paths();
        world.fragments();
        world.strange_fragments();
        all.append(&mut world.fixtures);
    }
    all
}

impl World {
    fn new(v6: bool) -> Self {
        let pick = |v4: &str, six: &str| at(if v6 { six } else { v4 });
        Self {
            v6,
            client: pick("198.51.100.7:40000", "[2001:db8:c::7]:40000"),
            node: pick("192.0.2.10:20000", "[2001:db8:2::10]:20000"),
            vip: VIPS[usize::from(v6)].parse().expect("an address"),
            scenario: Scenario::plain(),
            fixtures: Vec::new(),
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.vip, port).into()
    }

    fn origin(&self, number: u32) -> SocketAddr {
        let v4 = match number {
            origin::A => "10.0.0.11:8080",
            origin::US => "10.0.1.11:80",
            origin::SORRY => "10.0.9.1:80",
            _ => "10.0.0.53:53",
        };
        let v6 = match number {
            origin::A => "[2001:db8:a::11]:8080",
            origin::US => "[2001:db8:b::11]:80",
            origin::SORRY => "[2001:db8:9::1]:80",
            _ => "[2001:db8:a::53]:53",
        };
        at(if self.v6 { v6 } else { v4 })
    }

    fn add(&mut self, name: &str, steps: Vec<Step>) {
        let scenario = self.scenario.clone();
        self.add_with(name, scenario, steps);
    }

    fn add_with(&mut self, name: &str, scenario: Scenario, steps: Vec<Step>) {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        self.fixtures.push(Fixture {
            name: format!("{name} ({family})"),
            scenario,
            steps,
        });
    }

    fn tcp(&self, port: u16, flags: u8) -> PacketBuilder {
        PacketBuilder::tcp(self.client, self.at(port), flags)
    }

    fn udp(&self, port: u16) -> PacketBuilder {
        PacketBuilder::udp(self.client, self.at(port))
    }

    /// A client's packet goes to an origin behind [`ORIGIN_SIDE`], where there are no VLANs.
    fn forward(&self, app: u32, number: u32, packet: &PacketBuilder, new: bool) -> Step {
        let left = packet
            .clone()
            .ends(self.node, self.origin(number))
            .link(ORIGIN_NODE_MAC, ORIGIN_MAC)
            .tags(&[])
            .ttl(63);
        let number = number + u32::from(self.v6);
        Step {
            ifindex: CLIENT_SIDE,
            frame: packet.frame(),
            verdict: redirect(ORIGIN_SIDE),
            left: Some(left.frame()),
            moved: moved(app, number, "in", packet, new),
        }
    }

    /// An origin's packet goes back to the client, as from the application and with the tags of `packet`.
    fn back(&self, app: u32, number: u32, port: u16, packet: PacketBuilder) -> Step {
        let packet = packet
            .ends(self.origin(number), self.node)
            .link(ORIGIN_MAC, ORIGIN_NODE_MAC);
        let left = packet
            .clone()
            .ends(self.at(port), self.client)
            .link(NODE_MAC, CLIENT_MAC)
            .ttl(63);
        let packet = packet.tags(&[]);
        Step {
            ifindex: ORIGIN_SIDE,
            frame: packet.frame(),
            verdict: redirect(CLIENT_SIDE),
            left: Some(left.frame()),
            moved: moved(app, number + u32::from(self.v6), "out", &packet, false),
        }
    }

    fn connections(&mut self) {
        let web = |this: &Self, flags, new| {
            let packet = this.tcp(80, flags).numbers(7, 9).payload(b"odd");
            this.forward(app::WEB, origin::A, &packet, new)
        };
        let answer = |this: &Self, flags| {
            let packet = this.tcp(80, flags).numbers(900, 8).payload(b"data");
            this.back(app::WEB, origin::A, 80, packet)
        };
        let open = |this: &Self| {
            vec![
                web(this, SYN, true),
                answer(this, SYN | ACK),
                web(this, ACK, false),
            ]
        };
        let steps = open(self);
        self.add("a handshake", steps);

        let mut steps = open(self);
        steps.extend([
            web(self, ACK | 8, false),
            answer(self, ACK),
            answer(self, ACK | 8),
        ]);
        self.add("data both ways", steps);

        let mut steps = open(self);
        steps.extend([
            web(self, FIN | ACK, false),
            answer(self, FIN | ACK),
            web(self, ACK, false),
        ]);
        // The ports are used again at once.
        steps.push(web(self, SYN, true));
        self.add("a close, and a new connection from the same port", steps);

        let mut steps = open(self);
        steps.extend([answer(self, RST), web(self, SYN, true)]);
        steps.extend([
            web(self, SYN, false),
            answer(self, SYN | ACK),
            web(self, ACK, false),
            web(self, SYN, false),
        ]);
        self.add("a reset, and a new connection from the same port", steps);

        let mut steps = open(self);
        steps.extend([
            web(self, RST, false),
            web(self, SYN, true),
            web(self, SYN, false),
            answer(self, ACK),
            web(self, ACK, false),
            web(self, SYN, false),
            answer(self, RST),
            answer(self, ACK),
            web(self, ACK, false),
            web(self, SYN, false),
        ]);
        self.add("resets that nobody believes", steps);

        let mut scenario = self.scenario.clone();
        for number in [origin::A, origin::US] {
            let address = self.origin(number).to_string();
            scenario.set_state(&address, OriginState::DOWN);
        }
        let packet = self.tcp(80, SYN);
        let step = self.forward(app::WEB, origin::SORRY, &packet, true);
        self.add_with("the fallback pool", scenario.clone(), vec![step]);

        // One-armed: out of the interface it came by.
        let address = self.origin(origin::US).to_string();
        scenario.set_state(&address, OriginState::UP);
        let mut step = self.forward(app::WEB, origin::US, &packet, true);
        let turned = packet
            .clone()
            .ends(self.node, self.origin(origin::US))
            .link(NODE_MAC, [2, 0, 0, 0, 0, 0xb2])
            .ttl(63);
        step.left = Some(turned.frame());
        step.verdict = Verdict::Forward(Exit::Transmit);
        self.add_with("the next pool, one-armed", scenario.clone(), vec![step]);

        scenario.tables.settings.flags = SettingsFlags(SettingsFlags::NO_XDP_TX);
        let mut step = self.forward(app::WEB, origin::US, &packet, true);
        step.left = Some(turned.frame());
        step.verdict = redirect(CLIENT_SIDE);
        self.add_with("one-armed by redirect", scenario, vec![step]);
    }

    fn datagrams(&mut self) {
        let query = self.udp(53).payload(b"question");
        let answer = self.udp(53).payload(b"an answer");
        let there = |this: &Self, new| this.forward(app::DNS, origin::DNS, &query, new);
        let steps = vec![
            there(self, true),
            self.back(app::DNS, origin::DNS, 53, answer),
            there(self, false),
        ];
        self.add("datagrams both ways", steps);
        let silent = self.udp(53).payload(b"q").checksum(Checksum::None);
        let steps = vec![
            self.forward(app::DNS, origin::DNS, &silent, true),
            self.back(app::DNS, origin::DNS, 53, silent.clone()),
        ];
        self.add("no checksum stays none", steps);
        let empty = self.udp(53);
        let step = self.forward(app::DNS, origin::DNS, &empty, true);
        self.add("an empty datagram", vec![step]);
    }

    fn carried_along(&mut self) {
        // What an interface of 1500 bytes carries.
        let mss = if self.v6 { 0xa0 } else { 0xb4 };
        let syn = self.tcp(80, SYN).tcp_options(&[2, 4, 5, mss, 1, 1, 4, 2]);
        let mut kinds = vec![
            ("one VLAN tag", syn.clone().tags(&[0x2064])),
            ("two VLAN tags", syn.clone().tags(&[100, 200])),
            ("padding", syn.clone().padding(6)),
        ];
        if self.v6 {
            kinds.push((
                "extension headers",
                syn.clone()
                    .padding_extension(extension::HOP_BY_HOP)
                    .padding_extension(extension::DESTINATION_OPTIONS)
                    .extension(extension::AUTHENTICATION, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]),
            ));
            kinds.push(("an atomic fragment", syn.clone().fragment(0, false)));
        } else {
            kinds.push(("options", syn.clone().options(&[1; 40])));
        }
        for (name, packet) in kinds {
            let steps = vec![
                self.forward(app::WEB, origin::A, &packet, true),
                self.back(app::WEB, origin::A, 80, packet.clone()),
            ];
            self.add(name, steps);
        }
    }

    /// The reset that answers `packet`.
    fn reset(&self, packet: &PacketBuilder, reason: Reply, left: PacketBuilder) -> Step {
        let left = left.link(NODE_MAC, CLIENT_MAC).own();
        Step {
            ifindex: CLIENT_SIDE,
            frame: packet.frame(),
            verdict: Verdict::Reply(reason, Exit::Transmit),
            left: Some(left.frame()),
            moved: format!("reply {} 1", reason.name()),
        }
    }

    fn answers(&mut self) {
        let rst = |this: &Self, port, flags| PacketBuilder::tcp(this.at(port), this.client, flags);
        let none = Reply::ResetNoOrigin;
        let unknown = Reply::ResetUnknownFlow;
        // RFC 9293 section 3.5.2: from the acknowledgement, or else up to the end of what came.
        let syn = self.tcp(81, SYN).numbers(u32::MAX, 5).tcp_options(&[1; 8]);
        let step = self.reset(&syn, none, rst(self, 81, RST | ACK).numbers(0, 0));
        self.add("nobody serves a connection", vec![step]);
        let tagged = syn.tags(&[7, 9]).padding(20).payload(b"fast open");
        let left = rst(self, 81, RST | ACK).numbers(0, 9).tags(&[7, 9]);
        let step = self.reset(&tagged, none, left);
        self.add(
            "nobody serves a connection with tags, data and padding",
            vec![step],
        );
        let ack = self.tcp(80, ACK).numbers(5, 0x8000_0001).payload(b"data");
        let step = self.reset(&ack, unknown, rst(self, 80, RST).numbers(0x8000_0001, 0));
        self.add("a segment of no connection", vec![step]);
        let fin = self.tcp(80, FIN).numbers(50, 0).payload(b"data");
        let step = self.reset(&fin, unknown, rst(self, 80, RST | ACK).numbers(0, 55));
        self.add("a FIN of no connection", vec![step]);
        // The client tries again, and the neighbour may answer meanwhile: a reset would be final.
        self.add(
            "no origin has a next hop",
            vec![drop(&self.tcp(82, SYN), DropReason::NoNextHop)],
        );

        for (name, tags, length) in [
            ("nobody serves a datagram", &[][..], 3),
            ("nobody serves a datagram with a tag", &[100], 4),
            ("nobody serves a datagram with two tags", &[100, 200], 0),
            ("nobody serves a long datagram", &[], 1200),
        ] {
            let datagram = self.udp(81).tags(tags).payload(&vec![0x5a; length]);
            let step = self.answered(&datagram, Reply::UnreachableNoOrigin, tags);
            self.add(name, vec![step]);
        }
    }

    fn refusals(&mut self) {
        let syn = self.tcp(80, SYN);
        self.add(
            "an expiring SYN",
            vec![self.answered(&syn.clone().ttl(1), Reply::TimeExceeded, &[])],
        );
        let steps = vec![
            self.forward(app::WEB, origin::A, &syn, true),
            self.answered(&self.tcp(80, ACK).ttl(1), Reply::TimeExceeded, &[]),
            self.answered(&self.tcp(80, ACK).ttl(0), Reply::TimeExceeded, &[]),
        ];
        self.add("expiring segments of a connection", steps);
        let rst = self.tcp(80, RST | ACK);
        self.add(
            "a reset of no connection",
            vec![drop(&rst, DropReason::UnknownFlow)],
        );
        let cut = self.udp(53);
        let mut frame = cut.frame();
        let at = cut.transport();
        frame.0.truncate(at + 7);
        let length = if self.v6 { 7_u16 } else { 27 };
        let field = if self.v6 { 18 } else { 16 };
        frame.0[field..field + 2].copy_from_slice(&length.to_be_bytes());
        self.add("a cut UDP header", vec![dropped(frame, DropReason::Malformed)]);
        let mut frame = syn.frame();
        frame.0[syn.transport() + 12] = 0x40;
        self.add(
            "a data offset that is too small",
            vec![dropped(frame, DropReason::Malformed)],
        );
        let mut frame = syn.frame();
        frame.0[syn.transport() + 12] = 0x60;
        self.add(
            "a data offset past the end",
            vec![dropped(frame, DropReason::Malformed)],
        );
        let unsourced = self.tcp(83, SYN);
        let step = drop(&unsourced, DropReason::NoSourceAddress);
        self.add("no source address of ours", vec![step]);
        let mut other = self.client;
        other.set_port(40_001);
        let steps = vec![
            self.forward(app::WEB, origin::A, &syn, true),
            drop(&syn.clone().ends(other, self.at(80)), DropReason::PortsExhausted),
        ];
        self.add("the only source port is taken", steps);
        let nobody: [IpAddr; 3] = if self.v6 {
            [
                [0xff02, 0, 0, 0, 0, 0, 0, 1].into(),
                [0; 8].into(),
                [0, 0, 0, 0, 0, 0, 0, 1].into(),
            ]
        } else {
            [[224, 0, 0, 1].into(), [0; 4].into(), [127, 0, 0, 1].into()]
        };
        for address in nobody {
            let steps = [self.udp(81), self.tcp(81, SYN), self.tcp(80, ACK)].map(|packet| {
                let to = packet.destination();
                drop(&packet.ends((address, 9).into(), to), DropReason::UnknownFlow)
            });
            self.add(&format!("{address} is not answered"), steps.into());
        }
    }

    /// While flows of another layout are being taken over, nobody is told that a flow does not exist.
    fn migration(&mut self) {
        let mut scenario = self.scenario.clone();
        scenario.tables.settings.flags = SettingsFlags(SettingsFlags::MIGRATING);
        let answer = |flags| {
            PacketBuilder::tcp(self.origin(origin::A), self.node, flags).link(ORIGIN_MAC, ORIGIN_NODE_MAC)
        };
        let own = PacketBuilder::tcp(self.client, (self.node.ip(), 50_000).into(), ACK);
        let steps = vec![
            drop(&self.tcp(80, ACK), DropReason::Migrating),
            drop(&answer(ACK), DropReason::Migrating),
            passed(answer(SYN).frame(), Pass::NotOurs),
            passed(own.frame(), Pass::NotOurs),
            passed(self.tcp(22, ACK).frame(), Pass::NotOurs),
            self.forward(app::WEB, origin::A, &self.tcp(80, SYN), true),
        ];
        self.add_with("segments of no flow during a migration", scenario, steps);
    }

    fn passes(&mut self) {
        let pass = |packet: &PacketBuilder, reason| passed(packet.frame(), reason);
        let syn = self.tcp(80, SYN);
        self.add(
            "no application there",
            vec![pass(&self.tcp(22, SYN), Pass::NotOurs)],
        );
        let step = pass(&self.udp(80), Pass::NotOurs);
        self.add("an application of the other protocol", vec![step]);
        let sctp = PacketBuilder::raw(self.client.ip(), self.vip, 132).payload(&[0; 12]);
        self.add("SCTP", vec![pass(&sctp, Pass::OtherProtocol)]);
        let group = syn.clone().link(CLIENT_MAC, [0x33, 0x33, 0, 0, 0, 1]);
        self.add("a multicast frame", vec![pass(&group, Pass::NotIp)]);
        let mut frame = syn.frame();
        frame.0[12..14].copy_from_slice(&[0x08, 0x06]);
        self.add("ARP", vec![passed(frame, Pass::NotIp)]);
        let tags = syn.clone().tags(&[1, 2, 3]);
        self.add("three VLAN tags", vec![pass(&tags, Pass::NotIp)]);
        let mut frame = syn.frame();
        frame.0.pop();
        self.add("an IP packet cut short", vec![passed(frame, Pass::MalformedIp)]);
        let mut frame = syn.frame();
        frame.0[14] = 0x44;
        self.add("a contradicting version", vec![passed(frame, Pass::MalformedIp)]);
        if self.v6 {
            let mapped = |address: &str| at(&format!("[::ffff:{address}"));
            for (name, source, destination) in [
                ("an IPv4 source in IPv6", mapped("198.51.100.7]:9"), self.at(80)),
                (
                    "an IPv4 destination in IPv6",
                    self.client,
                    mapped("203.0.113.10]:80"),
                ),
            ] {
                let packet = syn.clone().ends(source, destination);
                self.add(name, vec![pass(&packet, Pass::MalformedIp)]);
            }
        }
        let mut scenario = self.scenario.clone();
        scenario.tables.settings.generation = 0;
        let step = pass(&syn, Pass::Unconfigured);
        self.add_with("no configuration", scenario, vec![step]);
        let mut scenario = self.scenario.clone();
        scenario.tables.settings.generation += 1;
        let step = pass(&syn, Pass::NotOurs);
        self.add_with("the generation's copy is empty", scenario, vec![step]);
    }

    fn checksums(&mut self) {
        let mut scenario = self.scenario.clone();
        scenario.tables.settings.flags = SettingsFlags(SettingsFlags::PARTIAL_CHECKSUMS);
        for length in [0, 1, 2, 3, 511, 512, 513, 1401] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let tcp = self.tcp(80, SYN).payload(&payload);
            let udp = self.udp(53).payload(&payload);
            let complete = |whole: Step, partial: &PacketBuilder| Step {
                frame: partial.clone().checksum(Checksum::Partial).frame(),
                ..whole
            };
            let steps = vec![
                complete(self.forward(app::WEB, origin::A, &tcp, true), &tcp),
                complete(self.forward(app::DNS, origin::DNS, &udp, true), &udp),
            ];
            let name = format!("partial checksums, {length} bytes");
            self.add_with(&name, scenario.clone(), steps);
        }
    }
}

fn redirect(ifindex: u32) -> Verdict {
    Verdict::Forward(Exit::Redirect { ifindex })
}

fn drop(packet: &PacketBuilder, reason: DropReason) -> Step {
    dropped(packet.frame(), reason)
}

fn dropped(frame: Frame, reason: DropReason) -> Step {
    Step {
        ifindex: CLIENT_SIDE,
        frame,
        verdict: Verdict::Drop(reason),
        left: None,
        moved: format!("drop {} 1", reason.name()),
    }
}

fn passed(frame: Frame, reason: Pass) -> Step {
    Step {
        ifindex: CLIENT_SIDE,
        left: Some(frame.clone()),
        frame,
        verdict: Verdict::Pass(reason),
        moved: format!("pass {} 1", reason.name()),
    }
}

/// The counters that a forwarded packet moves.
fn moved(app: u32, origin: u32, side: &str, packet: &PacketBuilder, new: bool) -> String {
    let bytes = packet.clone().padding(0).frame().0.len();
    let row = |kind, id| {
        let new = if new {
            format!(", {kind} {id} new 1")
        } else {
            String::new()
        };
        if side == "in" {
            format!("{kind} {id} bytes in {bytes}, {kind} {id} in 1{new}")
        } else {
            format!("{kind} {id} bytes out {bytes}, {kind} {id} out 1{new}")
        }
    };
    format!("{}, {}", row("application", app), row("origin", origin))
}
