//! Probes of monitors by ways of their own: packets, and what becomes of them in memory.

use super::Frame;
use super::build::{PacketBuilder, pseudo_header, sum};
use super::tunnels::{ENDS, GUE_PORT, NODES, VIPS, ip};
use crate::abi::{Forwarding, Ip, Ip6};
use crate::datapath::checksum;
use crate::packet::Packet;
use crate::tunnel::probe::{Outgoing, Probe, Rewrite, outgoing};
use std::net::{IpAddr, SocketAddr};

/// Local port, or identifier, of all questions.
pub const LOCAL: u16 = 40_123;
const LONG_ENOUGH: &str = "the frame is long enough";
/// The forwarding modes that need ways.
pub const DIRECT: [Forwarding; 3] = [Forwarding::DSR_L2, Forwarding::DSR_IPIP, Forwarding::DSR_GUE];

/// A way to the origin's and the VIP's address of these families.
#[must_use]
pub fn way(forwarding: Forwarding, origin_v6: bool, vip_v6: bool) -> Probe {
    let (vip, origin) = (ip(VIPS[usize::from(vip_v6)]), ip(ENDS[usize::from(origin_v6)]));
    Probe {
        vip: vip.into(),
        target: if origin_v6 == vip_v6 { origin } else { vip }.into(),
        origin: origin.into(),
        source: ip(NODES[usize::from(origin_v6)]).into(),
        ifindex: 0,
        gue_port: GUE_PORT,
        forwarding,
        live: 1,
    }
}

/// A packet of a socket that is connected to `to`, by kind: 0 TCP, 1 UDP, 2 an echo.
#[must_use]
pub fn question(to: Ip, kind: u8, port: u16, payload: &[u8]) -> Frame {
    let to: IpAddr = to.into();
    let from = ip(NODES[usize::from(to.is_ipv6())]);
    let ends: (SocketAddr, SocketAddr) = ((from, LOCAL).into(), (to, port).into());
    let builder = match kind {
        0 => PacketBuilder::tcp(ends.0, ends.1, 2).payload(payload),
        1 => PacketBuilder::udp(ends.0, ends.1).payload(payload),
        _ => return echo(from, to, true, payload),
    };
    builder.frame()
}

/// An ICMP echo or its answer; the identifier is [`LOCAL`].
#[must_use]
pub fn echo(from: IpAddr, to: IpAddr, asks: bool, payload: &[u8]) -> Frame {
    let (kind, protocol) = match (from.is_ipv6(), asks) {
        (false, true) => (8, 1),
        (false, false) => (0, 1),
        (true, true) => (128, 58),
        (true, false) => (129, 58),
    };
    let [high, low] = LOCAL.to_be_bytes();
    let mut message = [&[kind, 0, 0, 0, high, low, 0, 1], payload].concat();
    let pseudo = pseudo_header(from, to, protocol, message.len());
    let covered = if from.is_ipv6() { &pseudo[..] } else { &[] };
    let checksum = !sum(&[covered, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    PacketBuilder::raw(from, to, protocol).payload(&message).frame()
}

/// What has to be done with a packet.
#[must_use]
pub fn found(frame: &Frame, probe: &Probe, summed: bool) -> Option<Outgoing> {
    let mut found = Outgoing::default();
    outgoing(frame, probe, summed, &mut found).map(|()| found)
}

/// Rewrites as the kernel's helpers do.
///
/// # Panics
/// The address that is to be rewritten does not stand there.
pub fn rewrite(frame: &mut Frame, what: &Rewrite) {
    if what.at == 0 {
        return;
    }
    let delta = match (what.from.v4(), what.to.v4()) {
        (Some(from), Some(to)) => checksum::difference(checksum::sum4(from), checksum::sum4(to)),
        _ => {
            let [from, to] = [what.from, what.to].map(|ip| checksum::sum6(Ip6(ip.0)));
            checksum::difference(from, to)
        }
    };
    for at in [what.at, what.quoted].into_iter().filter(|at| *at != 0) {
        replace(frame, at as usize, what);
    }
    let mut sums = vec![what.header_checksum, what.quoted_checksum, what.checksum];
    if what.quoted_checksum == 0 && what.quoted != 0 {
        // The quoted address counts, and the one in the pseudo-header.
        sums.push(what.checksum);
    }
    for at in sums.into_iter().filter(|at| *at != 0) {
        let field = frame.read(at as usize).expect(LONG_ENOUGH);
        let adjusted = checksum::adjust(field, delta);
        frame.write(at as usize, adjusted).expect(LONG_ENOUGH);
    }
}

fn replace(frame: &mut Frame, at: usize, what: &Rewrite) {
    if let (Some(from), Some(to)) = (what.from.v4(), what.to.v4()) {
        assert_eq!(frame.read::<u32>(at), Some(from.0));
        frame.write(at, to.0).expect(LONG_ENOUGH);
    } else {
        assert_eq!(frame.read::<[u32; 4]>(at), Some(what.from.0));
        frame.write(at, what.to.0).expect(LONG_ENOUGH);
    }
}

/// An ICMP error that says that nobody listens, and quotes a packet.
#[must_use]
pub fn unreachable(from: IpAddr, to: IpAddr, of: &Frame) -> Frame {
    let (kind, code, protocol) = if from.is_ipv6() { (1, 4, 58) } else { (3, 3, 1) };
    // As much of it as fits into the smallest packet that everybody takes.
    let quoted = &of.0[14..of.0.len().min(14 + 500)];
    let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat();
    let pseudo = pseudo_header(from, to, protocol, message.len());
    let covered = if from.is_ipv6() { &pseudo[..] } else { &[] };
    let checksum = !sum(&[covered, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    PacketBuilder::raw(from, to, protocol).payload(&message).frame()
}

/// The frame as the kernel program lets it leave.
///
/// # Panics
/// The frame is too short.
#[must_use]
pub fn leave(frame: &Frame, found: &Outgoing) -> Frame {
    let mut frame = frame.clone();
    rewrite(&mut frame, &found.rewrite);
    let length = found.kind.length();
    let header: Vec<u8> = found.outer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    frame.0.splice(14..14, header[..length].iter().copied());
    if let Some(ether_type) = found.kind.ether_type() {
        frame.write(12, ether_type).expect(LONG_ENOUGH);
    }
    frame
}
