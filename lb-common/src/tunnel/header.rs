//! IP headers at the ends of a tunnel: only the fields that matter there.

use bytemuck::{Pod, Zeroable};
use core::mem::offset_of;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// An IPv4 header as loaded, in aligned words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ipv4 {
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
}

/// An IPv6 header as loaded, in aligned words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ipv6 {
    /// Version, traffic class and flow label.
    pub first: u32,
    pub payload_length: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

pub(super) const IPV4_LEN: usize = size_of::<Ipv4>();
pub(super) const IPV6_LEN: usize = size_of::<Ipv6>();

const _: () = assert!(
    IPV4_LEN == Ipv4Hdr::LEN
        && IPV6_LEN == Ipv6Hdr::LEN
        && offset_of!(Ipv4, checksum) == offset_of!(Ipv4Hdr, check)
        && offset_of!(Ipv4, destination) == offset_of!(Ipv4Hdr, dst_addr)
        && offset_of!(Ipv6, destination) == offset_of!(Ipv6Hdr, dst_addr)
);

impl Ipv6 {
    /// The traffic class: four bits behind the version.
    #[inline(always)]
    pub fn class(&self) -> u8 {
        (u32::from_be(self.first) >> 20) as u8
    }

    /// The first word with another traffic class.
    #[inline(always)]
    pub fn first_with_class(&self, class: u8) -> u32 {
        let kept = u32::from_be(self.first) & !(0xff << 20);
        (kept | (class as u32) << 20).to_be()
    }
}
