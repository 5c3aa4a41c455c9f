//! Where an origin is: an address, or a name that has addresses.

use core::fmt;
use core::net::IpAddr;

/// `address` of an origin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    Address(IpAddr),
    /// A host name, in lower case. Each of its addresses is an origin.
    Name(String),
}

/// `origin_dns.type`: which addresses of a name count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum RecordType {
    /// Of both families.
    #[default]
    Any,
    A,
    Aaaa,
}

impl RecordType {
    /// Whether such an address counts.
    #[must_use]
    pub const fn takes(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::A => address.is_ipv4(),
            Self::Aaaa => address.is_ipv6(),
        }
    }
}

impl Host {
    /// The address, unless it is a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Why packets cannot go to or come from an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressFlaw {
    Unspecified,
    Multicast,
    Loopback,
    Broadcast,
    /// An IPv4 address in IPv6's clothes.
    Mapped,
    LinkLocal,
}

impl AddressFlaw {
    /// What is wrong with `address`, if anything is.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        if address.is_unspecified() {
            return Some(Self::Unspecified);
        }
        if address.is_multicast() {
            return Some(Self::Multicast);
        }
        if address.is_loopback() {
            return Some(Self::Loopback);
        }
        match address {
            IpAddr::V4(v4) if v4.is_broadcast() => Some(Self::Broadcast),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some(Self::Mapped),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Self::LinkLocal),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

impl fmt::Display for AddressFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Multicast => "a multicast address",
            Self::Loopback => "a loopback address",
            Self::Broadcast => "the broadcast address",
            Self::Mapped => "an IPv4-mapped address",
            Self::LinkLocal => "a link-local address",
        })
    }
}
