//! The addresses that matter to an origin's end of a tunnel.

use super::Outcome;
use crate::abi::Ip;
use bytemuck::{Pod, Zeroable};

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Roles(pub u32);

impl Roles {
    /// Tunnels may end there.
    pub const TUNNEL: Self = Self(1);
    /// It may be the destination of what a tunnel carries.
    pub const VIP: Self = Self(2);

    /// Whether it has all of these roles.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, roles: Self) -> bool {
        self.0 & roles.0 == roles.0
    }

    /// These roles too.
    #[must_use]
    pub const fn and(self, roles: Self) -> Self {
        Self(self.0 | roles.0)
    }
}

/// An address of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Local {
    /// Written by userspace.
    pub roles: Roles,
    /// Bytes that the largest outer header took of packets to this address; 0: none came by a tunnel. Written by the
    /// kernel program, and what [`super::clamp()`] goes by.
    pub overhead: u32,
}

/// Where addresses are looked up, and outcomes counted.
pub trait Locals {
    /// Calls `visit` with what is known of an address.
    fn visit<R>(&self, address: &Ip, visit: impl FnOnce(&mut Local) -> R) -> Option<R>;

    /// Whether tunnels may come from that address.
    fn is_node(&self, source: &Ip) -> bool;

    /// Counts one packet.
    fn count(&self, outcome: Outcome);
}
