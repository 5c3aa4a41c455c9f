//! Answers that the node itself gives: TCP resets, and ICMP errors. Each comes from where its packet was sent to: the VIP, or
//! the source address that the origin answered.

use super::checksum;
use super::family::{Family, V4, V6};
use super::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Fragment, IPV6_LEN, Link, MAX_TAGS, Network,
    TCP_LEN, VLAN_LEN,
};
use super::rate;
use super::scratch::{Opening, Scratch, Subject};
use super::tables::Tables;
use super::track::TcpFlags;
use super::transport;
use super::verdict::{DropReason, Reply, Verdict};
use super::{Step, drop, exit};
use crate::abi::{Ip, Protocol};
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
    let Opening {
        link, ifindex, now, ..
    } = scratch.opening;
    let (reply, mtu) = (scratch.reply, scratch.mtu);
    let subject = &F::draft(scratch).subject;
    if !may_answer(reply, &subject.network, subject.segment.flags) {
        return drop(match reply {
            Reply::TooBig => DropReason::TooBig,
            Reply::TimeExceeded => DropReason::TtlExpired,
            _ => DropReason::UnknownFlow,
        });
    }
    let admitted = tables.reply_rate(|due| rate::admit(due, settings.reply_rate, settings.second, now));
    if admitted == Some(false) {
        return drop(DropReason::ReplyLimited);
    }
    let written = match Error::of::<F>(reply, mtu) {
        Some(error) => error.answer::<F, P>(packet, &link, &subject.network),
        None => reset::<F, P>(packet, &link, subject),
    };
    match written {
        Some(()) => Step::Done(Verdict::Reply(reply, exit(settings, ifindex, ifindex))),
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
    /// An MTU, in network order; of an IPv4 packet, in the second half.
    mtu: u32,
}

const ICMP_LEN: usize = size_of::<Icmp>();

/// Bytes of the offending packet that an error quotes: enough for both families' headers with extensions, and within
/// 576 bytes in all (RFC 1812 section 4.3.2.3).
const MAX_QUOTE: usize = 512;

/// An ICMP or ICMPv6 error.
#[derive(Clone, Copy)]
struct Error {
    kind: u8,
    code: u8,
    mtu: u32,
}

impl Error {
    /// The error that a reply is, if it is one (RFC 792, RFC 1191; RFC 4443).
    #[inline(always)]
    fn of<F: Family>(reply: Reply, mtu: u32) -> Option<Self> {
        let v6 = F::HEADER_LEN == IPV6_LEN;
        let (kind, code, mtu) = match (reply, v6) {
            (Reply::UnreachableNoOrigin, false) => (3, 3, 0),
            (Reply::UnreachableNoOrigin, true) => (1, 4, 0),
            (Reply::TooBig, false) => (3, 4, mtu),
            (Reply::TooBig, true) => (2, 0, mtu),
            (Reply::TimeExceeded, false) => (11, 0, 0),
            (Reply::TimeExceeded, true) => (3, 0, 0),
            (Reply::ResetUnknownFlow | Reply::ResetNoOrigin | Reply::ResetEnded, _) => return None,
            // Another stage's: no ICMP is answered here.
            (Reply::Echo, _) => return None,
        };
        Some(Self { kind, code, mtu })
    }

    /// Turns a packet into the error that answers it: from where it was sent to, quoting its first bytes.
    #[inline(always)]
    fn answer<F: Family, P: Packet>(
        self,
        packet: &mut P,
        link: &Link,
        network: &Network<F::Address>,
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
        let v6 = F::HEADER_LEN == IPV6_LEN;
        let protocol = if v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
        F::write_header(
            packet,
            link.network,
            network.destination,
            network.source,
            protocol,
            length,
        )?;
        packet.write(
            icmp,
            Icmp {
                kind: self.kind,
                code: self.code,
                checksum: 0,
                mtu: self.mtu.to_be(),
            },
        )?;
        let mut sum = u32::from(packet.sum(icmp, ICMP_LEN + quoted)?);
        if v6 {
            sum += transport::pseudo_header::<F>(
                network.destination,
                network.source,
                protocol,
                ICMP_LEN + quoted,
            );
        }
        packet.write(icmp + 2, !checksum::fold(sum))
    }
}

/// Whether a packet may be answered so: never a later fragment, what is neither TCP nor UDP (it may be an error itself), what
/// comes from a group or from nowhere (RFC 1122 section 3.2.2, RFC 4443 section 2.4), and no reset by a reset.
#[inline(always)]
fn may_answer<A: Copy + Into<Ip>>(reply: Reply, network: &Network<A>, flags: TcpFlags) -> bool {
    let reset = matches!(
        reply,
        Reply::ResetUnknownFlow | Reply::ResetNoOrigin | Reply::ResetEnded
    );
    let answerable = match network.protocol {
        Protocol::TCP => !(reset && flags.has(TcpFlags::RST)),
        Protocol::UDP => !reset,
        _ => false,
    };
    answerable && network.fragment != Fragment::Later && is_host(network.source.into())
}

/// Whether an address can be a host's on a network: no group, unspecified or loopback address.
#[inline(always)]
pub(super) fn is_host(address: Ip) -> bool {
    match address.v4() {
        Some(v4) => {
            let first = u32::from_be(v4.0) >> 24;
            first != 0 && first != 127 && first < 224
        }
        None => {
            let [a, b, c, d] = address.0;
            let unspecified_or_loopback = a | b | c == 0 && u32::from_be(d) <= 1;
            u32::from_be(a) >> 24 != 0xff && !unspecified_or_loopback
        }
    }
}
