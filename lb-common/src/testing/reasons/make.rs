//! How each case comes about.

use super::{Case, Circumstance};
use crate::abi::{Flow4, Flow6, OriginId, OriginState, Rate, SettingsFlags};
use crate::datapath::{Stage, Verdict};
use crate::testing::build::{Checksum, PacketBuilder};
use crate::testing::check::see;
use crate::testing::messages::{kind, message, quote};
use crate::testing::modes::port;
use crate::testing::pieces::cut;
use crate::testing::scenario::{
    ARRAY_ROWS, CLIENT_SIDE, Host, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, Scenario, TWO_ARMED, VIPS, app,
    at,
};
use crate::testing::{Frame, MemoryTables};
use std::net::{IpAddr, SocketAddr};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Room for no tunnel's header.
const NO_ROOM: usize = 8;

/// A world in the making: everything has happened but for the last packet.
pub(super) struct Maker {
    host: Host,
    v6: bool,
}

impl Maker {
    pub(super) fn new(v6: bool, now: u32) -> Self {
        let mut host = Host::new(Scenario::plain());
        host.now = now;
        host.scenario.tables.swept_at = now;
        Self { host, v6 }
    }

    fn pick(&self, v4: &str, v6: &str) -> SocketAddr {
        at(if self.v6 { v6 } else { v4 })
    }

    fn vip(&self, port: u16) -> SocketAddr {
        let vip: IpAddr = VIPS[usize::from(self.v6)].parse().expect("an address");
        (vip, port).into()
    }

    /// A client with this last byte of its address, and this port.
    fn client(&self, host: u8, port: u16) -> SocketAddr {
        if self.v6 {
            ([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, u16::from(host)], port).into()
        } else {
            ([198, 51, 100, host], port).into()
        }
    }

    /// A group, which nobody answers.
    fn group(&self) -> SocketAddr {
        self.pick("224.0.0.1:9", "[ff02::1]:9")
    }

    /// A router on the way.
    fn router(&self) -> IpAddr {
        self.pick("100.64.0.1:0", "[2001:db8:ff::1]:0").ip()
    }

    fn tcp(&self, port: u16, flags: u8) -> PacketBuilder {
        PacketBuilder::tcp(self.client(7, 40_000), self.vip(port), flags)
    }

    fn udp(&self, port: u16) -> PacketBuilder {
        PacketBuilder::udp(self.client(7, 40_000), self.vip(port)).payload(b"datagram")
    }

    fn ping(&self) -> PacketBuilder {
        let kind = (kind::ECHO_REQUEST[usize::from(self.v6)], 0);
        message(self.client(7, 0).ip(), self.vip(0).ip(), kind, [1, 2, 3, 4], b"")
    }

    fn tables(&mut self) -> &mut MemoryTables {
        &mut self.host.scenario.tables
    }

    fn set_flag(&mut self, flag: u32) {
        self.tables().settings.flags.0 |= flag;
    }

    /// Sends a packet that is forwarded, and returns what left.
    fn sent(&mut self, ifindex: u32, packet: &PacketBuilder) -> Frame {
        let (verdict, left) = self.host.receive(ifindex, &packet.frame());
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
        left
    }

    /// Does all of a handshake but its end: of the origin that the SYN went to.
    fn half_open(&mut self, from: SocketAddr) -> SocketAddr {
        let syn = self.tcp(80, SYN).ends(from, self.vip(80));
        let left = see(&self.sent(CLIENT_SIDE, &syn));
        let answer = PacketBuilder::tcp(left.destination, left.source, SYN | ACK);
        self.sent(ORIGIN_SIDE, &answer.link(ORIGIN_MAC, ORIGIN_NODE_MAC));
        left.destination
    }

    /// Opens a connection of the client to an application, and returns its origin.
    fn connected(&mut self) -> SocketAddr {
        let origin = self.half_open(self.client(7, 40_000));
        self.sent(CLIENT_SIDE, &self.tcp(80, ACK));
        origin
    }

    fn frame(self, frame: Frame) -> Case {
        Case {
            scenario: self.host.scenario,
            ifindex: CLIENT_SIDE,
            frame,
            circumstance: Circumstance::Usual,
        }
    }

    fn packet(self, packet: &PacketBuilder) -> Case {
        self.frame(packet.frame())
    }

    pub(super) fn unconfigured(mut self) -> Case {
        self.tables().settings.generation = 0;
        let syn = self.tcp(80, SYN);
        self.packet(&syn)
    }

    pub(super) fn not_ip(self) -> Case {
        let mut arp = self.tcp(80, SYN).frame();
        arp.0[12..14].copy_from_slice(&[0x08, 0x06]);
        self.frame(arp)
    }

    pub(super) fn malformed_ip(self) -> Case {
        let mut frame = self.tcp(80, SYN).frame();
        frame.0.pop();
        self.frame(frame)
    }

    pub(super) fn other_protocol(self) -> Case {
        let sctp = PacketBuilder::raw(self.client(7, 0).ip(), self.vip(0).ip(), 132).payload(&[0; 12]);
        self.packet(&sctp)
    }

    /// The pieces of a datagram for a port of an address, from a client.
    fn pieces(&self, from: SocketAddr, to: SocketAddr) -> [Frame; 2] {
        let datagram = PacketBuilder::udp(from, to).payload(&[7; 40]);
        let pieces = cut(&datagram, [1, 2, 3, 4], &[32]);
        pieces.try_into().expect("cut once")
    }

    pub(super) fn fragment_of_others(self) -> Case {
        let elsewhere = self.pick("203.0.113.99:53", "[2001:db8::99]:53");
        let [_, later] = self.pieces(self.client(7, 9), elsewhere);
        self.frame(later)
    }

    pub(super) fn early_fragment(self, circumstance: Circumstance) -> Case {
        let [_, later] = self.pieces(self.client(7, 9), self.vip(53));
        Case {
            circumstance,
            ..self.frame(later)
        }
    }

    pub(super) fn fragment_of_refused(mut self) -> Case {
        let [first, later] = self.pieces(self.client(11, 9), self.vip(53));
        let (verdict, _) = self.host.receive(CLIENT_SIDE, &first);
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        self.frame(later)
    }

    pub(super) fn not_ours(self) -> Case {
        let syn = self.tcp(22, SYN);
        self.packet(&syn)
    }

    pub(super) fn segment_of_no_flow(self) -> Case {
        let ack = self.tcp(80, ACK);
        self.packet(&ack)
    }

    pub(super) fn reset_of_no_flow(self) -> Case {
        let reset = self.tcp(80, RST);
        self.packet(&reset)
    }

    pub(super) fn connection_for_nobody(self) -> Case {
        let syn = self.tcp(81, SYN);
        self.packet(&syn)
    }

    pub(super) fn datagram_for_nobody(self) -> Case {
        let datagram = self.udp(81);
        self.packet(&datagram)
    }

    pub(super) fn too_long(mut self) -> Case {
        self.connected();
        let hop = self.tables().hops.get_mut(&TWO_ARMED).expect("a hop");
        hop.mtu = 1400;
        let long = self.tcp(80, ACK).payload(&[3; 1400]).dont_fragment();
        self.packet(&long)
    }

    pub(super) fn too_long_unanswered(self) -> Case {
        let vip = self.vip(port(app::DSR_IPIP));
        let long = PacketBuilder::tcp(self.group(), vip, SYN).payload(&[3; 1450]);
        self.packet(&long.dont_fragment())
    }

    pub(super) fn expiring(self) -> Case {
        let syn = self.tcp(80, SYN).ttl(1);
        self.packet(&syn)
    }

    pub(super) fn expiring_unanswered(self) -> Case {
        let syn = self.tcp(80, SYN).ends(self.group(), self.vip(80)).ttl(1);
        self.packet(&syn)
    }

    pub(super) fn ended(mut self) -> Case {
        let origin = self.connected().to_string();
        self.host.scenario.set_state(&origin, OriginState::ENDED);
        let data = self.tcp(80, ACK).payload(b"data");
        self.packet(&data)
    }

    pub(super) fn pinged(self) -> Case {
        let ping = self.ping();
        self.packet(&ping)
    }

    pub(super) fn pinged_too_often(mut self) -> Case {
        // One answer in a time that no test takes.
        self.tables().settings.reply_rate = Rate((600 * 250) << 32);
        let ping = self.ping();
        let (verdict, _) = self.host.receive(CLIENT_SIDE, &ping.frame());
        assert!(matches!(verdict, Verdict::Reply(..)), "{verdict:?}");
        self.packet(&ping)
    }

    pub(super) fn malformed(self) -> Case {
        let syn = self.tcp(80, SYN);
        let mut frame = syn.frame();
        // A header of 16 bytes.
        frame.0[syn.transport() + 12] = 0x40;
        self.frame(frame)
    }

    pub(super) fn denied(self) -> Case {
        let syn = self.tcp(84, SYN).ends(self.client(6, 9), self.vip(84));
        self.packet(&syn)
    }

    pub(super) fn denied_globally(self) -> Case {
        let syn = self.tcp(80, SYN).ends(self.client(11, 9), self.vip(80));
        self.packet(&syn)
    }

    pub(super) fn denied_country(self) -> Case {
        let datagram = self.udp(84).ends(self.client(1, 9), self.vip(84));
        self.packet(&datagram)
    }

    pub(super) fn one_flow_too_many(mut self) -> Case {
        let syn = self.tcp(85, SYN);
        self.sent(CLIENT_SIDE, &syn);
        let other = syn.ends(self.client(8, 9), self.vip(85));
        self.packet(&other)
    }

    pub(super) fn one_flow_of_a_source_too_many(mut self) -> Case {
        let datagram = self.udp(85);
        self.sent(CLIENT_SIDE, &datagram);
        let again = datagram.ends(self.client(7, 9), self.vip(85));
        self.packet(&again)
    }

    pub(super) fn full_origins(self) -> Case {
        let datagram = self.udp(87);
        self.packet(&datagram)
    }

    pub(super) fn migrating(mut self) -> Case {
        self.set_flag(SettingsFlags::MIGRATING);
        self.segment_of_no_flow()
    }

    pub(super) fn silent_neighbour(self) -> Case {
        let syn = self.tcp(82, SYN);
        self.packet(&syn)
    }

    pub(super) fn no_source_address(self) -> Case {
        let syn = self.tcp(83, SYN);
        self.packet(&syn)
    }

    pub(super) fn lost_origin(mut self) -> Case {
        self.connected();
        let lost = OriginId(ARRAY_ROWS + 1);
        let tables = self.tables();
        let lose4 = |flow: &mut Flow4| flow.core.origin = lost;
        tables.flows4.borrow_mut().values_mut().for_each(lose4);
        let lose6 = |flow: &mut Flow6| flow.core.origin = lost;
        tables.flows6.borrow_mut().values_mut().for_each(lose6);
        let ack = self.tcp(80, ACK);
        self.packet(&ack)
    }

    pub(super) fn ports_exhausted(mut self) -> Case {
        // There is one.
        let syn = self.tcp(80, SYN);
        self.sent(CLIENT_SIDE, &syn);
        let other = syn.ends(self.client(7, 40_001), self.vip(80));
        self.packet(&other)
    }

    pub(super) fn tuple_taken(mut self) -> Case {
        let rows = self.tables().applications.values();
        let pools = rows.filter(|row| row.id == app::DNAT).map(|row| row.pools).next();
        let pools = pools.expect("an application by dnat");
        self.host.scenario.edit(app::DNS, |row| row.pools = pools);
        let by_dnat = self.udp(port(app::DNAT));
        self.sent(CLIENT_SIDE, &by_dnat);
        let datagram = self.udp(53);
        self.packet(&datagram)
    }

    pub(super) fn not_remembered(mut self) -> Case {
        self.tables().max_tentative = 1;
        let syn = self.tcp(80, SYN);
        self.packet(&syn)
    }

    pub(super) fn no_room_for_established(mut self) -> Case {
        self.tables().max_established = 2;
        self.tables().settings.snat_ports.count = 2;
        self.connected();
        let other = self.client(8, 9);
        self.half_open(other);
        let ack = self.tcp(80, ACK).ends(other, self.vip(80));
        self.packet(&ack)
    }

    pub(super) fn cramped(self) -> Case {
        let syn = self.tcp(port(app::DSR_IPIP), SYN);
        Case {
            circumstance: Circumstance::Cramped(NO_ROOM),
            ..self.packet(&syn)
        }
    }

    /// Longer than what is ever summed.
    pub(super) fn endless_checksum(mut self) -> Case {
        self.set_flag(SettingsFlags::PARTIAL_CHECKSUMS);
        let hop = self.tables().hops.get_mut(&TWO_ARMED).expect("a hop");
        hop.mtu = 16_000;
        let long = self.tcp(80, SYN).payload(&[3; 14_000]);
        self.packet(&long.checksum(Checksum::Partial))
    }

    pub(super) fn strange_error(self) -> Case {
        let answer = PacketBuilder::tcp(self.vip(80), self.client(7, 9), ACK).frame();
        let what = kind::ERRORS[usize::from(self.v6)][1];
        let error = message(
            self.router(),
            self.vip(0).ip(),
            what,
            [0; 4],
            quote(&answer, 1000),
        );
        self.packet(&error)
    }

    pub(super) fn narrow_path(mut self) -> Case {
        let long = self.tcp(port(app::DSR_IPIP), SYN).payload(&[3; 1400]);
        let left = self.sent(CLIENT_SIDE, &long);
        // Tunnels are of the origin's family.
        let (router, node) = (at("100.64.0.1:0"), at("192.0.2.10:0"));
        let data = 1400u32.to_be_bytes();
        let error = message(
            router.ip(),
            node.ip(),
            kind::ERRORS[0][0],
            data,
            quote(&left, 576),
        );
        Case {
            ifindex: ORIGIN_SIDE,
            ..self.packet(&error.link(ORIGIN_MAC, ORIGIN_NODE_MAC))
        }
    }

    pub(super) fn without_a_stage(self) -> Case {
        let syn = self.tcp(80, SYN);
        Case {
            circumstance: Circumstance::Without(Stage::Admit),
            ..self.packet(&syn)
        }
    }
}
