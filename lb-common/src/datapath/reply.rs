//! Answers that the node itself gives: TCP resets and ICMP port unreachable.

use super::checksum;
use super::family::{Family, V4, V6};
use super::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Link, MAX_TAGS, TCP_LEN, VLAN_LEN,
};
use super::scratch::{Scratch, Subject};
use super::tables::Tables;
use super::track::TcpFlags;
use super::transport;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Step, drop, exit};
use crate::abi::Protocol;
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};

/// Turns the scratch's packet into the answer that the scratch names.
#[inline(always)]
pub fn reply<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => answer::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => answer::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn answer<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let opening = scratch.opening;
    let reply = scratch.reply;
    let subject = &F::draft(scratch).subject;
    // A reset is never answered, nor is a source that cannot be one.
    if subject.segment.flags.has(TcpFlags::RST) || !may_answer(subject.arriving.source) {
        return drop(DropReason::UnknownFlow);
    }
    let written = match reply {
        Reply::ResetUnknownFlow | Reply::ResetNoOrigin => reset::<F, P>(packet, &opening.link, subject),
        Reply::UnreachableNoOrigin => unreachable::<F, P>(packet, &opening.link, subject),
        // Made by another stage.
        Reply::Echo => return drop(DropReason::Internal),
    };
    match written {
        Some(()) => Step::Done(Verdict::Reply(
            reply,
            exit(settings, opening.ifindex, opening.ifindex),
        )),
        None => drop(DropReason::Resize),
    }
}

/// A TCP header without options.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tcp {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgment: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// Turns a TCP segment into the reset that answers it (RFC 9293 section 3.5.2).
#[inline(always)]
pub fn reset<F: Family, P: Packet>(
    packet: &mut P,
    link: &Link,
    Subject { network, segment, .. }: &Subject<F::Address>,
) -> Option<()> {
    let sequence: u32 = packet.read(network.transport + 4)?;
    let acknowledgment: u32 = packet.read(network.transport + 8)?;
    let occupied = network.transport_len.wrapping_sub(segment.header_len) as u32
        + u32::from(segment.flags.has(TcpFlags::SYN))
        + u32::from(segment.flags.has(TcpFlags::FIN));
    let (sequence, acknowledgment, flags) = if segment.flags.has(TcpFlags::ACK) {
        (acknowledgment, 0, TcpFlags::RST)
    } else {
        let end = u32::from_be(sequence).wrapping_add(occupied).to_be();
        (0, end, TcpFlags::RST | TcpFlags::ACK)
    };
    let header = Tcp {
        source_port: segment.ports.destination.0,
        destination_port: segment.ports.source.0,
        sequence,
        acknowledgment,
        data_offset: ((TCP_LEN >> 2) << 4) as u8,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let sum = u32::from(header.source_port)
        + u32::from(header.destination_port)
        + checksum::words(sequence)
        + checksum::words(acknowledgment)
        + u32::from(u16::from_ne_bytes([header.data_offset, flags]))
        + transport::pseudo_header::<F>(network.destination, network.source, Protocol::TCP, TCP_LEN);
    let at = link.network + F::HEADER_LEN;
    packet.truncate(at + TCP_LEN)?;
    turn_around(packet, link)?;
    F::write_header(
        packet,
        link.network,
        network.destination,
        network.source,
        Protocol::TCP,
        TCP_LEN as u16,
    )?;
    packet.write(
        at,
        Tcp {
            checksum: !checksum::fold(sum),
            ..header
        },
    )
}

#[inline(always)]
fn turn_around<P: Packet>(packet: &mut P, link: &Link) -> Option<()> {
    let ethernet: Ethernet = packet.read(0)?;
    packet.write(
        0,
        Ethernet {
            destination: link.source,
            source: link.destination,
            ..ethernet
        },
    )
}

/// An ICMP or ICMPv6 error header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    unused: u32,
}

const ICMP_LEN: usize = size_of::<Icmp>();

/// Bytes of the offending packet that an error quotes: enough for both families' headers with extensions, and within
/// 576 bytes in all (RFC 1812 section 4.3.2.3).
const MAX_QUOTE: usize = 512;

/// Turns a UDP datagram into the port unreachable that answers it (RFC 792; RFC 4443 section 3.1).
#[inline(always)]
pub fn unreachable<F: Family, P: Packet>(
    packet: &mut P,
    link: &Link,
    Subject { network, .. }: &Subject<F::Address>,
) -> Option<()> {
    let quoted = network
        .transport
        .wrapping_sub(link.network)
        .wrapping_add(network.transport_len);
    let quoted = if quoted > MAX_QUOTE { MAX_QUOTE } else { quoted };
    let grown = F::HEADER_LEN + ICMP_LEN;
    packet.truncate(link.network + quoted)?;
    packet.grow_head(grown)?;
    let ethernet: Ethernet = packet.read(grown)?;
    packet.write(
        0,
        Ethernet {
            destination: link.source,
            source: link.destination,
            ..ethernet
        },
    )?;
    let mut tag = 0;
    while tag < MAX_TAGS {
        let at = ETHERNET_LEN + tag * VLAN_LEN;
        if at < link.network {
            let tag: u32 = packet.read(grown + at)?;
            packet.write(at, tag)?;
        }
        tag += 1;
    }
    let length = (ICMP_LEN + quoted) as u16;
    let icmp = link.network + F::HEADER_LEN;
    let v6 = F::HEADER_LEN == super::parse::IPV6_LEN;
    let protocol = if v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
    F::write_header(
        packet,
        link.network,
        network.destination,
        network.source,
        protocol,
        length,
    )?;
    let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
    packet.write(
        icmp,
        Icmp {
            kind,
            code,
            checksum: 0,
            unused: 0,
        },
    )?;
    let mut sum = u32::from(packet.sum(icmp, ICMP_LEN + quoted)?);
    if v6 {
        sum +=
            transport::pseudo_header::<F>(network.destination, network.source, protocol, ICMP_LEN + quoted);
    }
    packet.write(icmp + 2, !checksum::fold(sum))
}

/// Whether `source` may be answered at all: never a group, unspecified or loopback address (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn may_answer<A: Into<crate::abi::Ip>>(source: A) -> bool {
    let source: crate::abi::Ip = source.into();
    match source.v4() {
        Some(v4) => {
            let first = u32::from_be(v4.0) >> 24;
            first != 0 && first != 127 && first < 224
        }
        None => {
            let [a, b, c, d] = source.0;
            let unspecified_or_loopback = a | b | c == 0 && u32::from_be(d) <= 1;
            u32::from_be(a) >> 24 != 0xff && !unspecified_or_loopback
        }
    }
}
