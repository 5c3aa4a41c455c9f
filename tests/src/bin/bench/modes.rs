//! The ways in which flows are forwarded.

use crate::frame::{Address, Version, address};
use lb_common::abi::{Forwarding, Protocol};

/// Flows in the tables of a mode, at most, beside NAT and those of [`Mode::is_wide`]: how the number of flows tells, those show.
const MOST_FLOWS: u32 = 1 << 16;
/// The first of the clients of NAT, and of the other modes.
const CLIENTS: Address = address(10, 64, 0, 0);
const OTHER_CLIENTS: Address = address(10, 192, 0, 0);

/// How a flow is forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Nat,
    Dnat,
    L2,
    /// Over this family.
    Ipip(Version),
    Gue(Version),
}

impl Mode {
    pub const ALL: [Self; 7] = [
        Self::Nat,
        Self::Dnat,
        Self::L2,
        Self::Ipip(Version::V4),
        Self::Ipip(Version::V6),
        Self::Gue(Version::V4),
        Self::Gue(Version::V6),
    ];
    /// Kinds of origins: of each mode, for each family.
    pub const ORIGINS: usize = 2 * Self::ALL.len();

    pub fn forwarding(self) -> Forwarding {
        match self {
            Self::Nat => Forwarding::NAT,
            Self::Dnat => Forwarding::DNAT,
            Self::L2 => Forwarding::DSR_L2,
            Self::Ipip(_) => Forwarding::DSR_IPIP,
            Self::Gue(_) => Forwarding::DSR_GUE,
        }
    }

    /// What a row's name says of it.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nat => "",
            Self::Dnat => ", dnat",
            Self::L2 => ", dsr_l2",
            Self::Ipip(Version::V4) => ", dsr_ipip over v4",
            Self::Ipip(Version::V6) => ", dsr_ipip over v6",
            Self::Gue(Version::V4) => ", dsr_gue over v4",
            Self::Gue(Version::V6) => ", dsr_gue over v6",
        }
    }

    /// Bytes that a packet grows by.
    pub fn growth(self) -> u32 {
        match self {
            Self::Nat | Self::Dnat | Self::L2 => 0,
            Self::Ipip(Version::V4) => 20,
            Self::Ipip(Version::V6) => 40,
            Self::Gue(Version::V4) => 28,
            Self::Gue(Version::V6) => 48,
        }
    }

    /// Its flows of a protocol in the tables, for each family, when there are `flows` of NAT.
    pub fn flows(self, protocol: Protocol, flows: u32) -> u32 {
        if self == Self::Nat || protocol == Protocol::TCP && self.is_wide() {
            flows
        } else {
            flows.min(MOST_FLOWS)
        }
    }

    /// Whether flows of a protocol have entries. Those whose origins answer clients directly need none, once every bucket has
    /// an owner: that is the state in which they are measured.
    pub fn tracks(self, protocol: Protocol) -> bool {
        protocol != Protocol::TCP || !self.forwarding().is_direct()
    }

    /// Whether any number of TCP flows is measured: one mode without a tunnel, and one with.
    fn is_wide(self) -> bool {
        matches!(self, Self::L2 | Self::Ipip(Version::V4))
    }

    /// Place in [`Self::ALL`].
    pub fn index(self) -> u32 {
        match self {
            Self::Nat => 0,
            Self::Dnat => 1,
            Self::L2 => 2,
            Self::Ipip(version) => 3 + version as u32,
            Self::Gue(version) => 5 + version as u32,
        }
    }

    /// Place of its origins for a family among [`Self::ORIGINS`].
    pub fn row(self, version: Version) -> usize {
        2 * self.index() as usize + version as usize
    }

    /// Family of its origin's address, whose packets are of `version`.
    pub fn outer(self, version: Version) -> Version {
        match self {
            Self::Nat | Self::Dnat | Self::L2 => version,
            Self::Ipip(outer) | Self::Gue(outer) => outer,
        }
    }

    /// The first of its clients.
    pub fn clients(self) -> Address {
        if self == Self::Nat {
            CLIENTS
        } else {
            Address(OTHER_CLIENTS.0 + (self.index() << 8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_stay_bounded() {
        let flows = |mode: Mode, protocol| mode.flows(protocol, 1_000_000);
        assert_eq!(flows(Mode::Nat, Protocol::UDP), 1_000_000);
        assert_eq!(flows(Mode::L2, Protocol::TCP), 1_000_000);
        assert_eq!(flows(Mode::L2, Protocol::UDP), MOST_FLOWS);
        assert_eq!(flows(Mode::Gue(Version::V4), Protocol::TCP), MOST_FLOWS);
        assert_eq!(Mode::Dnat.flows(Protocol::TCP, 1), 1);
    }

    #[test]
    fn each_mode_has_its_own_place() {
        for (index, mode) in Mode::ALL.into_iter().enumerate() {
            assert_eq!(mode.row(Version::V4), 2 * index);
            assert_eq!(mode.row(Version::V6), 2 * index + 1);
        }
    }
}
