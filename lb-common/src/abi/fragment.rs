//! Datagrams in fragments: what only the first one says, remembered for the others.

use super::{Ip, Port, Protocol};
use bytemuck::{Pod, Zeroable};

/// A datagram on its way (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    pub source: Ip,
    pub destination: Ip,
    /// As loaded; IPv4: in the low 16 bits.
    pub identification: u32,
    /// IPv6: 0, its identifications count for all protocols.
    pub protocol: Protocol,
    pub reserved: [u8; 3],
}

/// What the first fragment said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentFlow {
    pub source_port: Port,
    pub destination_port: Port,
    /// The identification that its fragments leave with, as loaded: unique among the clients that leave with the same
    /// source address.
    pub identification: u32,
    /// When the first fragment came, in jiffies (low 32 bits).
    pub seen: u32,
    pub protocol: Protocol,
    pub reserved: [u8; 3],
}

/// A fragment that came before the first one of its datagram, as it is handed to userspace with the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Held {
    pub key: FragmentKey,
    /// Interface by which it came.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentFlow>() == 16);
