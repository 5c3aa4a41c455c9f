//! Addresses of applications, and those that origins answer to: what holds for all ports of one.

use super::{Ip, Parity};
use bytemuck::{Pod, Zeroable};

/// An address in one configuration generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct VipKey {
    pub address: Ip,
    pub parity: Parity,
    pub reserved: [u8; 3],
}

/// What the packet path needs to know of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Vip {
    /// Ranges of ports.
    pub tcp: Spans,
    pub udp: Spans,
    /// 1: echo requests are answered; else they pass.
    pub echo: u32,
    pub role: AddressRole,
}

/// What an address is to the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct AddressRole(pub u32);

impl AddressRole {
    /// Applications listen there.
    pub const APPLICATION: Self = Self(0);
    /// `nat` translates to it, and no application listens there: origins answer to it.
    pub const SOURCE: Self = Self(1);
    /// An origin that is forwarded to with `dnat`: its packets may be answers.
    pub const ORIGIN: Self = Self(2);
}

/// A run of [`PortSpan`]s, in ascending order and disjoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Spans {
    /// Index of the first.
    pub base: u32,
    pub count: u32,
}

/// A range of ports, in the machine's order; the application's record stands under its first port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PortSpan {
    pub first: u16,
    pub last: u16,
    pub reserved: u32,
}

const _: () = assert!(size_of::<VipKey>() == 20 && size_of::<Vip>() == 24);
