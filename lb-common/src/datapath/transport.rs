//! TCP and UDP headers: reading what the pipeline needs, and rewriting ports and checksum.

use super::checksum;
use super::family::{Family, Tuple};
use super::parse::{Fragment, Network, Ports, TCP_LEN, UDP_LEN};
use super::track::TcpFlags;
use crate::abi::{FlowCore, Protocol, Settings, SettingsFlags};
use crate::packet::Packet;
use core::mem::offset_of;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

/// Offset of the flags byte in a TCP header.
const TCP_FLAGS: usize = 13;
/// Offset of the byte that holds the length of a TCP header.
const TCP_DATA_OFFSET: usize = 12;

/// What the pipeline needs of a transport header.
#[derive(Clone, Copy, Default)]
pub struct Segment {
    pub protocol: Protocol,
    pub ports: Ports,
    /// No flags for UDP.
    pub flags: TcpFlags,
    /// Length of the header in bytes.
    pub header_len: usize,
    /// Length of what follows it.
    pub payload: usize,
}

/// Reads a TCP or UDP header; `None` when it is cut short or contradicts itself.
#[inline(always)]
pub fn read<P: Packet, A>(packet: &P, network: &Network<A>, ports: Ports) -> Option<Segment> {
    if network.protocol == Protocol::UDP {
        let whole = network.transport_len >= UDP_LEN;
        return whole.then_some(Segment {
            protocol: network.protocol,
            ports,
            flags: TcpFlags(0),
            header_len: UDP_LEN,
            payload: network.transport_len.wrapping_sub(UDP_LEN),
        });
    }
    let header_len = ((packet.read::<u8>(network.transport + TCP_DATA_OFFSET)? >> 4) as usize) << 2;
    if header_len < TCP_LEN || network.transport_len < header_len {
        return None;
    }
    let flags = TcpFlags(packet.read(network.transport + TCP_FLAGS)?);
    Some(Segment {
        protocol: network.protocol,
        ports,
        flags,
        header_len,
        payload: network.transport_len.wrapping_sub(header_len),
    })
}

/// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
pub fn pseudo_header<F: Family>(
    source: F::Address,
    destination: F::Address,
    protocol: Protocol,
    length: usize,
) -> u32 {
    F::sum(source)
        + F::sum(destination)
        + u32::from(u16::from_ne_bytes([0, protocol.0]))
        + u32::from((length as u16).to_be())
}

/// Offset of the checksum.
#[inline(always)]
fn field_of<A>(network: &Network<A>) -> usize {
    network.transport + checksum_offset(network.protocol)
}

/// Whether a checksum is the sum of the pseudo-header alone, because the sender left the rest to a device.
#[inline(always)]
pub fn is_partial<F: Family>(settings: &Settings, network: &Network<F::Address>, field: u16) -> bool {
    // Nobody leaves the checksum of a fragmented datagram to a device, which sees only parts of it.
    settings.flags.has(SettingsFlags::PARTIAL_CHECKSUMS)
        && network.fragment == Fragment::Whole
        && field
            == checksum::fold(pseudo_header::<F>(
                network.source,
                network.destination,
                network.protocol,
                network.transport_len,
            ))
}

/// The checksum of the whole segment as one between `source` and `destination`; its field, at `at`, becomes 0.
#[inline(always)]
fn whole_sum<F: Family, P: Packet>(
    packet: &mut P,
    network: &Network<F::Address>,
    at: usize,
    source: F::Address,
    destination: F::Address,
) -> Option<u16> {
    packet.write(at, 0u16)?;
    let sum = packet.sum(network.transport, network.transport_len)?;
    let pseudo = pseudo_header::<F>(source, destination, network.protocol, network.transport_len);
    Some(!checksum::fold(u32::from(sum) + pseudo))
}

/// Completes the checksum of a packet that leaves as it came, when its sender left that to a device.
#[inline(always)]
pub fn complete<F: Family, P: Packet>(
    packet: &mut P,
    settings: &Settings,
    network: &Network<F::Address>,
) -> Option<()> {
    let udp = network.protocol == Protocol::UDP;
    let summed = udp || network.protocol == Protocol::TCP;
    if !settings.flags.has(SettingsFlags::PARTIAL_CHECKSUMS) || !summed || network.fragment != Fragment::Whole
    {
        return Some(());
    }
    let at = field_of(network);
    let field: u16 = packet.read(at)?;
    if (udp && field == 0) || !is_partial::<F>(settings, network, field) {
        return Some(());
    }
    let field = whole_sum::<F, P>(packet, network, at, network.source, network.destination)?;
    packet.write(at, shown(udp, field))
}

/// Writes the ports and brings the checksum up to date.
#[inline(always)]
pub fn rewrite<F: Family, P: Packet>(
    packet: &mut P,
    settings: &Settings,
    network: &Network<F::Address>,
    core: &FlowCore,
    leaving: &Tuple<F::Address>,
) -> Option<()> {
    let udp = network.protocol == Protocol::UDP;
    // ICMP errors are rewritten already, and only a first fragment has a transport header.
    if !(udp || network.protocol == Protocol::TCP) || network.fragment == Fragment::Later {
        return Some(());
    }
    let at = field_of(network);
    let field: u16 = packet.read(at)?;
    let ports = Ports {
        source: core.source_port,
        destination: core.destination_port,
    };
    packet.write(network.transport, ports)?;
    // No checksum (RFC 768): none is made up.
    if udp && field == 0 {
        return Some(());
    }
    let field = if is_partial::<F>(settings, network, field) {
        whole_sum::<F, P>(packet, network, at, leaving.source, leaving.destination)?
    } else {
        checksum::adjust(field, core.payload_delta)
    };
    packet.write(at, shown(udp, field))
}

/// Where the checksum stands in a transport header.
#[inline(always)]
pub fn checksum_offset(protocol: Protocol) -> usize {
    if protocol == Protocol::UDP {
        offset_of!(UdpHdr, check)
    } else {
        offset_of!(TcpHdr, check)
    }
}

/// The checksum field after what it covers has changed by `delta`.
#[inline(always)]
pub fn adjusted(udp: bool, field: u16, delta: u16) -> u16 {
    shown(udp, checksum::adjust(field, delta))
}

/// In UDP a 0 would mean "no checksum"; 0xffff is the same number.
#[inline(always)]
fn shown(udp: bool, field: u16) -> u16 {
    if udp && field == 0 { 0xffff } else { field }
}
