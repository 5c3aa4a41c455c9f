//! The headers of the benchmark's packets, from the first byte of the frame to the ports. The programs and the benchmark
//! include this file.

use bytemuck::{Pod, Zeroable};

/// Ethernet, IPv4 without options, and the ports. Words stand as loaded, in network order.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, packed(2))]
pub struct Headers4 {
    pub link: [u8; 12],
    pub ether_type: u16,
    pub version_ihl: u8,
    pub tos: u8,
    pub total_length: u16,
    pub identification: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
}

/// Ethernet, IPv6 without extension headers, and the ports.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, packed(2))]
pub struct Headers6 {
    pub link: [u8; 12],
    pub ether_type: u16,
    pub version: u32,
    pub payload_length: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
}

const _: () = assert!(size_of::<Headers4>() == 38 && size_of::<Headers6>() == 58);
