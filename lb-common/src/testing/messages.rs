//! Builds ICMP and ICMPv6 messages.

use super::Frame;
use super::build::{PacketBuilder, pseudo_header, sum};
use std::net::IpAddr;

/// The kinds of messages, by family.
pub mod kind {
    pub const ECHO_REQUEST: [u8; 2] = [8, 128];
    pub const ECHO_REPLY: [u8; 2] = [0, 129];
    /// With their codes: "too big", port unreachable, time exceeded, parameter problem.
    pub const ERRORS: [[(u8, u8); 4]; 2] = [
        [(3, 4), (3, 3), (11, 0), (12, 0)],
        [(2, 0), (1, 4), (3, 0), (4, 1)],
    ];
}

/// A message with a right checksum: kind and code, the four bytes whose meaning depends on the kind, and the rest.
#[must_use]
pub fn message(
    from: IpAddr,
    to: IpAddr,
    (kind, code): (u8, u8),
    data: [u8; 4],
    rest: &[u8],
) -> PacketBuilder {
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let mut bytes = [&[kind, code, 0, 0], &data[..], rest].concat();
    let pseudo = pseudo_header(from, to, protocol, bytes.len());
    let pseudo = if from.is_ipv4() { &[] } else { &pseudo[..] };
    let checksum = !sum(&[pseudo, &bytes]);
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    PacketBuilder::raw(from, to, protocol).payload(&bytes)
}

/// What an error about a frame quotes: its IP packet, as long as it is said.
#[must_use]
pub fn quote(Frame(bytes): &Frame, length: usize) -> &[u8] {
    let mut network = 14;
    while matches!(bytes[network - 2..network], [0x81, 0x00] | [0x88, 0xa8]) {
        network += 4;
    }
    &bytes[network..bytes.len().min(network + length)]
}
