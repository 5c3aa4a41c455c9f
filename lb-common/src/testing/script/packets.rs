//! Packets of a script.

use super::{Bytes, MEMORY, Player, Talk};
use crate::datapath::Verdict;
use crate::testing::Frame;
use crate::testing::build::{Checksum, PacketBuilder, extension, pseudo_header, sum};
use crate::testing::check::dissect;
use crate::testing::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE};
use std::net::{IpAddr, SocketAddr};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A SYN's maximum segment size of 1460 bytes, and the usual rest.
const MSS: [u8; 8] = [2, 4, 5, 0xb4, 1, 1, 4, 2];

impl Player {
    /// Sends a packet, sees that every promise was kept, and remembers what was forwarded.
    fn send(&mut self, ifindex: u32, mut frame: Frame) {
        // The kernel takes no less.
        if frame.0.len() < 14 {
            frame.0.resize(14, 0);
        }
        let (verdict, left) = self.host.receive(ifindex, &frame);
        self.packets += 1;
        self.check(&frame, verdict, &left);
        match verdict {
            Verdict::Forward(_) => self.remember(&frame, &left),
            Verdict::Hold(_) if self.held.len() < MEMORY => self.held.push((ifindex, frame.clone())),
            _ => {}
        }
        self.last = (ifindex, frame);
    }

    fn remember(&mut self, arrived: &Frame, left: &Frame) {
        let inner = self.inner(left).unwrap_or_else(|| left.clone());
        let (Some((before, _)), Some((after, _))) = (dissect(arrived), dissect(&inner)) else {
            return;
        };
        if self.talks.len() == MEMORY {
            self.talks.remove(0);
        }
        self.talks.push(Talk {
            arrived: arrived.clone(),
            left: left.clone(),
            inner,
            ends: [
                (before.source, before.destination),
                (after.source, after.destination),
            ],
            protocol: after.protocol,
        });
    }

    /// A packet that may open a flow.
    pub(super) fn open(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (to, protocol) = self.target(bytes)?;
        let from = client(bytes, to.ip())?;
        let builder = match protocol {
            6 => {
                let flags = bytes.pick(&[SYN, SYN, SYN, ACK, SYN | ACK, RST, FIN | ACK, 0])?;
                let builder = PacketBuilder::tcp(from, to, flags);
                if flags == SYN && bytes.byte()? & 1 == 0 {
                    builder.tcp_options(&MSS)
                } else {
                    builder
                }
            }
            17 => PacketBuilder::udp(from, to),
            _ => PacketBuilder::raw(from.ip(), to.ip(), protocol),
        };
        let frame = dress(builder, bytes, to.is_ipv6())?;
        self.send(CLIENT_SIDE, frame);
        Some(())
    }

    /// An address where somebody listens, or almost.
    fn target(&mut self, bytes: &mut Bytes) -> Option<(SocketAddr, u8)> {
        let tables = &self.host.scenario.tables;
        let index = usize::from(bytes.byte()?) % tables.applications.len().max(1);
        let (key, _) = tables.applications.iter().nth(index)?;
        let (mut port, mut protocol) = (key.port.host(), key.protocol.0);
        match bytes.byte()? {
            // Ranges go on; other ports are nobody's.
            offset @ 0..32 => port = port.wrapping_add(u16::from(offset)),
            32 => port = tables.settings.snat_ports.first,
            33 => protocol = 23 - protocol,
            34 => protocol = bytes.byte()?,
            _ => {}
        }
        Some(((IpAddr::from(key.address), port).into(), protocol))
    }

    fn talk(&self, bytes: &mut Bytes) -> Option<Option<Talk>> {
        let index = usize::from(bytes.byte()?);
        Some(self.talks.get(index % MEMORY).or(self.talks.last()).cloned())
    }

    /// The next packet the same way.
    pub(super) fn follow(&mut self, bytes: &mut Bytes) -> Option<()> {
        let Some(talk) = self.talk(bytes)? else {
            return self.open(bytes);
        };
        let flags = bytes.pick(&[ACK, ACK, ACK | 8, FIN | ACK, SYN, RST, RST | ACK, SYN | ACK])?;
        self.next(bytes, talk.ends[0], talk.protocol, flags)
    }

    /// An answer to where it went.
    pub(super) fn answer(&mut self, bytes: &mut Bytes) -> Option<()> {
        let Some(talk) = self.talk(bytes)? else {
            return self.open(bytes);
        };
        let flags = bytes.pick(&[SYN | ACK, ACK, ACK, FIN | ACK, RST, SYN | ACK, RST | ACK, SYN])?;
        let (from, to) = talk.ends[1];
        self.next(bytes, (to, from), talk.protocol, flags)
    }

    fn next(
        &mut self,
        bytes: &mut Bytes,
        (from, to): (SocketAddr, SocketAddr),
        protocol: u8,
        flags: u8,
    ) -> Option<()> {
        let builder = match protocol {
            6 if flags & SYN != 0 => PacketBuilder::tcp(from, to, flags).tcp_options(&MSS),
            6 => PacketBuilder::tcp(from, to, flags),
            17 => PacketBuilder::udp(from, to),
            _ => return Some(()),
        };
        let (side, builder) = self.side(builder, from.ip());
        let frame = dress(builder, bytes, to.is_ipv6())?;
        self.send(side, frame);
        Some(())
    }

    /// What comes from an origin comes by the origins' side.
    fn side(&self, builder: PacketBuilder, from: IpAddr) -> (u32, PacketBuilder) {
        let origins = self.host.scenario.tables.origins.values();
        if origins
            .into_iter()
            .any(|origin| IpAddr::from(origin.address) == from)
        {
            (ORIGIN_SIDE, builder.link(ORIGIN_MAC, ORIGIN_NODE_MAC))
        } else {
            (CLIENT_SIDE, builder)
        }
    }

    /// The last packet once more, with some bytes changed, or cut short.
    pub(super) fn repeat_spoiled(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (side, mut frame) = self.last.clone();
        for _ in 0..bytes.byte()? % 4 {
            let (at, value) = (usize::from(bytes.byte()?), bytes.byte()?);
            if let Some(byte) = frame.0.get_mut(at) {
                *byte = value;
            }
        }
        if bytes.byte()? < 64 {
            let length = usize::from(bytes.word()?) % (frame.0.len() + 1);
            frame.0.truncate(length);
        }
        self.send(side, frame);
        Some(())
    }

    /// Fragments of a datagram, in any order.
    pub(super) fn fragments(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (from, to) = match self.talk(bytes)? {
            Some(talk) if bytes.byte()? & 1 == 0 => talk.ends[0],
            Some(talk) => (talk.ends[1].1, talk.ends[1].0),
            None => {
                let (to, _) = self.target(bytes)?;
                (client(bytes, to.ip())?, to)
            }
        };
        let pieces = 2 + usize::from(bytes.byte()? % 3);
        let whole = PacketBuilder::udp(from, to).payload(&vec![0x5a; pieces * 64 - 8]);
        let segment = whole.frame().0.split_off(whole.transport());
        let identification = bytes.word()?;
        for _ in 0..pieces {
            let piece = usize::from(bytes.byte()?) % pieces;
            let builder = PacketBuilder::raw(from.ip(), to.ip(), 17)
                .fragment(8 * piece as u16, piece + 1 < pieces)
                .identification(identification)
                .payload(&segment[piece * 64..piece * 64 + 64]);
            let (side, builder) = self.side(builder, from.ip());
            let frame = builder.frame();
            self.send(side, frame);
        }
        Some(())
    }

    /// Userspace sends again what it has kept: all of it, or one fragment more.
    pub(super) fn release(&mut self, bytes: &mut Bytes) -> Option<()> {
        if bytes.byte()? & 1 == 0 {
            return self.fragments(bytes);
        }
        for (ifindex, frame) in std::mem::take(&mut self.held) {
            self.send(ifindex, frame);
        }
        Some(())
    }

    /// An ICMP error about a packet that was forwarded, from where it went or from where it came.
    pub(super) fn quote(&mut self, bytes: &mut Bytes) -> Option<()> {
        let Some(talk) = self.talk(bytes)? else {
            return self.open(bytes);
        };
        // Routers on the way of what left quote that, with a tunnel's headers or without; others quote what arrived.
        let (quoted, ends) = match bytes.byte()? % 4 {
            0 => (&talk.arrived, talk.ends[0]),
            1 => (&talk.inner, talk.ends[1]),
            _ => {
                let (outer, _) = dissect(&talk.left)?;
                (&talk.left, (outer.source, outer.destination))
            }
        };
        let at = network(quoted)?;
        let length = bytes.pick(&[28, 48, 64, 128, 548, 8])?;
        let v6 = ends.0.is_ipv6();
        let (kind, code) = if v6 {
            bytes.pick(&[(2, 0), (1, 4), (3, 0), (1, 1), (4, 1)])?
        } else {
            bytes.pick(&[(3, 4), (3, 3), (11, 0), (3, 1), (12, 0), (5, 1)])?
        };
        let mtu = bytes.pick(&[1280u32, 1400, 576, 68, 0, 1499, 65_535])?;
        let mut body = vec![kind, code, 0, 0];
        body.extend(mtu.to_be_bytes());
        body.extend(quoted.0[at..].iter().take(length));
        let router = match (bytes.byte()? & 1 == 0, v6) {
            (true, _) => ends.1.ip(),
            (false, false) => [192, 0, 2, 254].into(),
            (false, true) => [0x2001, 0xdb8, 0xfe, 0, 0, 0, 0, 1].into(),
        };
        let frame = icmp(router, ends.0.ip(), body);
        let (side, _) = self.side(PacketBuilder::raw(router, ends.0.ip(), 1), ends.1.ip());
        self.send(side, frame);
        Some(())
    }

    /// An echo request to an address where somebody listens.
    pub(super) fn echo(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (to, _) = self.target(bytes)?;
        let from = client(bytes, to.ip())?;
        let (request, reply) = if to.is_ipv6() { (128, 129) } else { (8, 0) };
        let kind = bytes.pick(&[request, request, request, reply])?;
        let mut body = vec![kind, 0, 0, 0, 0, 1, 0, 7];
        body.extend(vec![0x33; usize::from(bytes.word()? % 1400)]);
        self.send(CLIENT_SIDE, icmp(from.ip(), to.ip(), body));
        Some(())
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &mut Bytes) -> Option<()> {
        let side = bytes.pick(&[CLIENT_SIDE, ORIGIN_SIDE, 99])?;
        let length = usize::from(bytes.byte()?);
        let frame = Frame(bytes.some(length).to_vec());
        self.send(side, frame);
        Some(())
    }
}

/// One of a few clients, of the family of `like`.
fn client(bytes: &mut Bytes, like: IpAddr) -> Option<SocketAddr> {
    let choice = bytes.byte()?;
    let (host, port) = (choice & 3, 40_000 + u16::from(choice >> 2 & 7));
    let ip: IpAddr = match (like.is_ipv6(), choice) {
        (false, 0xf0) => [0, 0, 0, 0].into(),
        (false, 0xf1) => [127, 0, 0, 1].into(),
        (false, 0xf2) => [224, 0, 0, 1].into(),
        (true, 0xf0) => [0; 8].into(),
        (true, 0xf1) => [0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6401].into(),
        (true, 0xf2) => [0xff02, 0, 0, 0, 0, 0, 0, 1].into(),
        // From the VIP itself.
        (_, 0xf3) => like,
        (false, _) => [198, 51, 100, host].into(),
        (true, _) => [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, host.into()].into(),
    };
    Some((ip, port).into())
}

/// Adds what a packet may carry: one byte when there is nothing.
fn dress(mut builder: PacketBuilder, bytes: &mut Bytes, v6: bool) -> Option<Frame> {
    let more = bytes.byte()?;
    if more & 1 != 0 {
        let length = usize::from(bytes.word()? % 1600);
        builder = builder.payload(&vec![0xa5; length]);
    }
    if more & 2 != 0 {
        builder = builder.ttl(bytes.pick(&[1, 0, 2, 255])?);
    }
    if more & 4 != 0 {
        builder = builder.tags(bytes.pick(&[&[0x0064][..], &[0x0123], &[0x0064, 0x2123], &[1, 2, 3]])?);
    }
    if more & 8 != 0 {
        builder = builder.checksum(bytes.pick(&[Checksum::Wrong, Checksum::Partial, Checksum::None])?);
    }
    if more & 16 != 0 {
        builder = builder.padding(usize::from(bytes.byte()? % 48));
    }
    if more & 32 != 0 {
        let choice = bytes.byte()?;
        builder = match (v6, choice % 5) {
            (false, length) => builder.options(&[1; 40][..usize::from(length) * 8]),
            (true, 0) => builder.padding_extension(extension::HOP_BY_HOP),
            (true, 1) => builder.padding_extension(extension::DESTINATION_OPTIONS),
            (true, 2) => builder
                .padding_extension(extension::HOP_BY_HOP)
                .padding_extension(extension::ROUTING),
            (true, 3) => builder.extension(extension::AUTHENTICATION, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            (true, _) => (0..choice / 16).fold(builder, |builder, _| {
                builder.padding_extension(extension::DESTINATION_OPTIONS)
            }),
        };
    }
    if more & 64 != 0 {
        builder = builder.fragment(u16::from(bytes.byte()? & 3), bytes.byte()? & 1 == 0);
    }
    if more & 128 != 0 {
        let length = usize::from(bytes.byte()? % 11) * 4;
        builder = builder.tcp_options(bytes.some(length));
    }
    Some(builder.frame())
}

/// Where the IP header of a frame stands.
fn network(Frame(frame): &Frame) -> Option<usize> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    Some(at + 2)
}

/// An ICMP message with its checksum.
fn icmp(from: IpAddr, to: IpAddr, mut body: Vec<u8>) -> Frame {
    let checksum = if to.is_ipv6() {
        !sum(&[&pseudo_header(from, to, 58, body.len()), &body])
    } else {
        !sum(&[&body])
    };
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    let protocol = if to.is_ipv6() { 58 } else { 1 };
    PacketBuilder::raw(from, to, protocol).payload(&body).frame()
}
