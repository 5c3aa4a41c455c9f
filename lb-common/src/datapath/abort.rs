//! Segments that become the reset of their connection, for their receiver.

use super::checksum;
use super::family::{Family, Tuple};
use super::parse::{Link, Network, TCP_LEN};
use super::track::TcpFlags;
use super::transport;
use crate::abi::Protocol;
use crate::packet::Packet;
use bytemuck::{Pod, Zeroable};

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

const TCP_FLAGS: usize = 13;

/// Turns a segment into a reset that leaves with `leaving`, and returns where its TCP header stands. The receiver expects
/// the segment's sequence number next and so takes the reset (RFC 9293 section 3.5.3, RFC 5961 section 3.2); should it not,
/// it asks by an acknowledgement, which the node answers.
#[inline(always)]
pub fn abort<F: Family, P: Packet>(
    packet: &mut P,
    link: &Link,
    network: &Network<F::Address>,
    leaving: &Tuple<F::Address>,
) -> Option<usize> {
    let sequence: u32 = packet.read(network.transport + 4)?;
    let acknowledgment: u32 = packet.read(network.transport + 8)?;
    let arrived = TcpFlags(packet.read(network.transport + TCP_FLAGS)?);
    // Whoever waits for the answer to a SYN takes a reset only with its acknowledgement.
    let (acknowledgment, flags) = if arrived.has(TcpFlags::ACK) {
        (acknowledgment, TcpFlags::RST | TcpFlags::ACK)
    } else {
        (0, TcpFlags::RST)
    };
    let header = Tcp {
        source_port: leaving.source_port.0,
        destination_port: leaving.destination_port.0,
        sequence,
        acknowledgment,
        data_offset: ((TCP_LEN >> 2) << 4) as u8,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let sum = checksum::ports(leaving.source_port, leaving.destination_port)
        + checksum::words(sequence)
        + checksum::words(acknowledgment)
        + u32::from(u16::from_ne_bytes([header.data_offset, flags]))
        + transport::pseudo_header::<F>(leaving.source, leaving.destination, Protocol::TCP, TCP_LEN);
    let at = link.network + F::HEADER_LEN;
    packet.truncate(at + TCP_LEN)?;
    F::write_header(
        packet,
        link.network,
        leaving.source,
        leaving.destination,
        Protocol::TCP,
        TCP_LEN as u16,
    )?;
    let checksum = !checksum::fold(sum);
    packet.write(at, Tcp { checksum, ..header })?;
    Some(at)
}
