//! ICMP and ICMPv6: pings of our addresses, and errors about packets that went through here.
//!
//! An error quotes the packet that it is about. Reversed, the quoted packet's tuple is that of the answers, and so finds the
//! flow's entry for the direction that the error itself travels: about a packet to the client it goes to the origin, about
//! one to the origin it goes to the client. It leaves as a packet of that direction would, and quotes what its receiver sent.

use super::bucket;
use super::checksum;
use super::family::{Family, Tuple, V4, V6};
use super::flow;
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, IPV4_LEN, IPV6_LEN, Network, Ports, UDP_LEN};
use super::rate;
use super::reply;
use super::room::PATH_MTU_SECONDS;
use super::scratch::{Draft, Opening, Scratch};
use super::span;
use super::tables::Tables;
use super::transport;
use super::verdict::{DropReason, Pass, Reply, Verdict};
use super::{Stage, Step, drop, exit, pass};
use crate::abi::{
    ApplicationKey, FlowSide, Forwarding, Ip, OriginId, Parity, PathMtu, Protocol, Settings, SettingsFlags,
    Vip, VipKey,
};
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};
use core::mem::offset_of;

/// The header of a message (RFC 792, RFC 4443), as loaded.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    /// What it means depends on the kind. "Too big": the MTU; IPv4 has it in the second half.
    pub rest: [u16; 2],
}

pub(super) const HEADER_LEN: usize = size_of::<Header>();

/// Bytes of the transport header that an error must quote: the ports, and all of a UDP header.
const MIN_QUOTE: usize = 8;

/// Numbers of the two protocols' messages.
trait Messages: Family {
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    /// Kind and code of "too big".
    const TOO_BIG: [u8; 2];

    fn is_error(kind: u8) -> bool;
    fn mtu(header: &Header) -> u32;
    /// Length of the packet at `at`, by its header.
    fn length<P: Packet>(packet: &P, at: usize) -> Option<u32>;
}

impl Messages for V4 {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const TOO_BIG: [u8; 2] = [3, 4];

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind == 3 || kind == 11 || kind == 12
    }

    #[inline(always)]
    fn mtu(header: &Header) -> u32 {
        u16::from_be(header.rest[1]).into()
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P, at: usize) -> Option<u32> {
        let total: u16 = packet.read(at + 2)?;
        Some(u16::from_be(total).into())
    }
}

impl Messages for V6 {
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const TOO_BIG: [u8; 2] = [2, 0];

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        (1..=4).contains(&kind)
    }

    #[inline(always)]
    fn mtu(header: &Header) -> u32 {
        let [high, low] = header.rest;
        u32::from(u16::from_be(high)) << 16 | u32::from(u16::from_be(low))
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P, at: usize) -> Option<u32> {
        let payload: u16 = packet.read(at + 4)?;
        Some(IPV6_LEN as u32 + u32::from(u16::from_be(payload)))
    }
}

/// Answers echo requests, and translates errors.
#[inline(always)]
pub fn icmp<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => handle::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => handle::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn handle<F: Messages, P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let network = F::draft(scratch).subject.network;
    let header = if network.transport_len < HEADER_LEN {
        None
    } else {
        packet.read::<Header>(network.transport)
    };
    let Some(header) = header else {
        return pass(Pass::OtherProtocol);
    };
    if header.kind == F::ECHO_REQUEST && header.code == 0 {
        return echo::<F, P, T>(packet, tables, settings, &scratch.opening, &network, &header);
    }
    if !F::is_error(header.kind) {
        return pass(Pass::OtherProtocol);
    }
    let at = network.transport + HEADER_LEN;
    let Some(quote) = F::quoted(packet, at, network.transport_len - HEADER_LEN) else {
        return pass(Pass::OtherProtocol);
    };
    // An error goes to who sent the packet, and the ports are in the first fragment.
    if quote.source != network.destination
        || quote.fragment == Fragment::Later
        || quote.transport_len < MIN_QUOTE
    {
        return pass(Pass::OtherProtocol);
    }
    F::draft(scratch).quote = quote;
    match error::<F, P, T>(packet, tables, settings, scratch, at, &header) {
        Some(step) => step,
        None if is_application::<F, P, T>(packet, tables, settings, scratch) => {
            drop(DropReason::IcmpUnknownFlow)
        }
        // About a packet of the node's own: it may use an application's address for itself.
        None => pass(Pass::OtherProtocol),
    }
}

/// Whether the quoted packet came from an application: one listens at its source, on that very port or on a range.
#[inline(always)]
fn is_application<F: Messages, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
) -> bool {
    let parity = scratch.opening.parity;
    let quote = &F::draft(scratch).quote;
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    let with_ports = quote.protocol == Protocol::TCP || quote.protocol == Protocol::UDP;
    if !with_ports || F::address(quote.source.into()).is_none() {
        return false;
    }
    let Some(ports) = packet.read::<Ports>(quote.transport) else {
        return false;
    };
    let key = ApplicationKey {
        address: quote.source.into(),
        port: ports.source,
        protocol: quote.protocol,
        parity,
    };
    tables.application(&key).is_some()
        || (settings.flags.has(SettingsFlags::RANGES) && span::find(packet, tables, &key).is_some())
}

/// What is known of an address.
#[inline(always)]
pub(super) fn address<F: Family, T: Tables>(tables: &T, parity: Parity, address: F::Address) -> Option<Vip> {
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    F::address(address.into())?;
    tables.vip(&VipKey {
        address: address.into(),
        parity,
        reserved: [0; 3],
    })
}

/// Answers an echo request to an address that answers.
#[inline(always)]
fn echo<F: Messages, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    opening: &Opening,
    network: &Network<F::Address>,
    header: &Header,
) -> Step {
    match address::<F, T>(tables, opening.parity, network.destination) {
        Some(vip) if vip.echo != 0 => {}
        Some(_) | None => return pass(Pass::OtherProtocol),
    }
    if !reply::is_host(network.source.into()) {
        return drop(DropReason::UnknownFlow);
    }
    let admitted =
        tables.reply_rate(|due| rate::admit(due, settings.reply_rate, settings.second, opening.now));
    if admitted == Some(false) {
        return drop(DropReason::ReplyLimited);
    }
    let kinds = |kind| u32::from(u16::from_ne_bytes([kind, 0]));
    let delta = checksum::difference(kinds(F::ECHO_REQUEST), kinds(F::ECHO_REPLY));
    // The pseudo-header's sum stays: the addresses only change places.
    let answer = Header {
        kind: F::ECHO_REPLY,
        checksum: checksum::adjust(header.checksum, delta),
        ..*header
    };
    let written = (packet.write(network.transport, answer))
        .and_then(|()| F::turn_around(packet, opening.link.network, network))
        .and_then(|()| packet.write(0, [opening.link.source, opening.link.destination]));
    match written {
        Some(()) => Step::Done(Verdict::Reply(
            Reply::Echo,
            exit(settings, opening.ifindex, opening.ifindex),
        )),
        None => drop(DropReason::Internal),
    }
}

/// Handles an error that quotes the packet at `at`; `None` when that is of no flow.
#[inline(always)]
fn error<F: Messages, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    scratch: &mut Scratch,
    at: usize,
    header: &Header,
) -> Option<Step> {
    let quote = &F::draft(scratch).quote;
    if (quote.protocol == Protocol::TCP || quote.protocol == Protocol::UDP)
        && let Some(step) = about_flow::<F, P, T>(packet, tables, scratch, header)
    {
        return Some(step);
    }
    if [header.kind, header.code] != F::TOO_BIG {
        return None;
    }
    let path = PathMtu {
        mtu: F::mtu(header),
        seen: scratch.opening.now,
    };
    // An honest router speaks of a packet that is longer than the MTU.
    if path.mtu == 0 || F::length(packet, at)? <= path.mtu {
        return None;
    }
    let mtu = if path.mtu < F::MIN_MTU {
        F::MIN_MTU
    } else {
        path.mtu
    };
    let origin = tunnelled::<F, P, T>(packet, tables, scratch)?;
    learn(tables, settings, origin, PathMtu { mtu, ..path });
    Some(drop(DropReason::PathMtuLearned))
}

/// Translates an error about a packet of a known flow, and has it sent.
#[inline(always)]
fn about_flow<F: Messages, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    header: &Header,
) -> Option<Step> {
    let Opening { now, parity, .. } = scratch.opening;
    let Draft {
        subject,
        client,
        quote,
        ..
    } = F::draft(scratch);
    let ports: Ports = packet.read(quote.transport)?;
    subject.arriving = quote.tuple(ports).reversed();
    if !flow::peek::<F, T>(tables, now, &subject.arriving, client)
        && !bucket::peek::<F, T>(tables, parity, false, &subject.arriving, client)
    {
        return None;
    }
    let network = &subject.network;
    // An error is never answered with another.
    if network.ttl <= 1 {
        return Some(drop(DropReason::TtlExpired));
    }
    let mut leaving = F::leaving(client, quote.protocol);
    // Packets of `dsr` flows leave as they came, and so do errors about them.
    if leaving != subject.arriving {
        let sent = leaving.reversed();
        // Where the client's address is kept, so is the router's: otherwise the inside is nobody's business.
        if leaving.source == quote.destination {
            leaving.source = network.source;
        }
        let before = F::sum(network.source) + F::sum(network.destination);
        let after = F::sum(leaving.source) + F::sum(leaving.destination);
        let outer = checksum::difference(before, after);
        let delta = F::core(client).payload_delta;
        let at = network.transport + HEADER_LEN;
        let restored = restore::<F, P>(packet, at, quote, &ports, &sent, delta);
        F::core_mut(client).header_delta = outer;
        F::set_source(client, leaving.source);
        // The pseudo-header is in the sum of ICMPv6 only.
        let pseudo = if F::ICMP == Protocol::ICMPV6 { outer } else { 0 };
        let written = restored.and_then(|inner| {
            let field = checksum::adjust(header.checksum, checksum::fold(inner + u32::from(pseudo)));
            packet.write(network.transport + offset_of!(Header, checksum), field)
        });
        if written.is_none() {
            return Some(drop(DropReason::Internal));
        }
    }
    Some(Step::Go(Stage::Send))
}

/// Rewrites the quoted packet to what its sender sent, and returns what this changes in the message's sum.
#[inline(always)]
fn restore<F: Family, P: Packet>(
    packet: &mut P,
    at: usize,
    quote: &Network<F::Address>,
    ports: &Ports,
    sent: &Tuple<F::Address>,
    payload_delta: u16,
) -> Option<u32> {
    let mut change = F::restore(packet, at, quote, sent)?;
    let new = Ports {
        source: sent.source_port,
        destination: sent.destination_port,
    };
    packet.write(quote.transport, new)?;
    change += u32::from(checksum::difference(
        checksum::ports(ports.source, ports.destination),
        checksum::ports(new.source, new.destination),
    ));
    let udp = quote.protocol == Protocol::UDP;
    let offset = transport::checksum_offset(quote.protocol);
    // The usual eight bytes do not reach TCP's checksum.
    if quote.transport_len >= offset + 2 {
        let at = quote.transport + offset;
        let old: u16 = packet.read(at)?;
        if !udp || old != 0 {
            let new = transport::adjusted(udp, old, payload_delta);
            packet.write(at, new)?;
            change += u32::from(checksum::difference(old.into(), new.into()));
        }
    }
    Some(change)
}

/// The origin to which a quoted packet travelled in a tunnel of ours: the packet in it must be of a known flow.
#[inline(always)]
fn tunnelled<F: Messages, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Option<OriginId> {
    let quote = &F::draft(scratch).quote;
    let udp = quote.protocol == Protocol::UDP;
    let skipped = if udp { UDP_LEN } else { 0 };
    let at = packet.opaque(quote.transport + skipped);
    let length = packet.opaque(quote.transport_len - skipped);
    let carried = if udp {
        // A packet without any header before it (draft-ietf-intarea-gue, variant 1): the version tells its kind.
        match packet.read::<u8>(at)? >> 4 {
            4 => V4::IN_IP,
            6 => V6::IN_IP,
            _ => return None,
        }
    } else {
        quote.protocol
    };
    let id = if carried == V4::IN_IP && length > IPV4_LEN {
        client_flow::<V4, P, T>(packet, tables, scratch, at, length)?
    } else if carried == V6::IN_IP && length > IPV6_LEN {
        client_flow::<V6, P, T>(packet, tables, scratch, at, length)?
    } else {
        return None;
    };
    let origin = tables.origin(id)?;
    let quote = &F::draft(scratch).quote;
    let address: Ip = quote.destination.into();
    let ours = if udp {
        let ports: Ports = packet.read(quote.transport)?;
        origin.forwarding == Forwarding::DSR_GUE && ports.destination == origin.gue_port
    } else {
        origin.forwarding == Forwarding::DSR_IPIP
    };
    (ours && origin.address == address).then_some(id)
}

/// The origin of the flow that the packet quoted at `at` belongs to, on its way from the client.
#[inline(always)]
fn client_flow<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    at: usize,
    length: usize,
) -> Option<OriginId> {
    let inner = F::quoted(packet, at, length)?;
    if inner.fragment == Fragment::Later || inner.transport_len < size_of::<Ports>() {
        return None;
    }
    let ports: Ports = packet.read(inner.transport)?;
    let arriving = inner.tuple(ports);
    let Opening { now, parity, .. } = scratch.opening;
    let entry = &mut F::draft(scratch).client;
    if !flow::peek::<F, T>(tables, now, &arriving, entry)
        && !bucket::peek::<F, T>(tables, parity, false, &arriving, entry)
    {
        return None;
    }
    let core = F::core(entry);
    (core.side == FlowSide::CLIENT).then_some(core.origin)
}

/// Notes a path MTU. One that is believed already only shrinks.
#[inline(always)]
fn learn<T: Tables>(tables: &T, settings: &Settings, origin: OriginId, path: PathMtu) {
    let known = tables.path_mtu(origin).unwrap_or_default();
    let age = path.seen.wrapping_sub(known.seen);
    // Another CPU may be a jiffy ahead.
    let old = age < u32::MAX / 2 && age > settings.second.wrapping_mul(PATH_MTU_SECONDS);
    if known.mtu == 0 || old || path.mtu < known.mtu {
        tables.learn_path_mtu(origin, path);
    }
}
