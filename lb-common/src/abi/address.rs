//! Addresses and ports as they stand on the wire.
//!
//! Values hold the wire's bytes as loaded (network order), because one's-complement sums and comparisons do not
//! care about byte order; only `host()` and `from` swap.

use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, in network order as loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ip4(pub u32);

/// An IPv6 address, in network order as loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ip6(pub [u32; 4]);

/// An address of either family: IPv4 stands v4-mapped (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ip(pub [u32; 4]);

/// A TCP or UDP port, in network order as loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Port(pub u16);

/// An Ethernet address as three loaded half-words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Mac(pub [u16; 3]);

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Protocol(pub u8);

const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl From<Ipv4Addr> for Ip4 {
    #[inline(always)]
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ip4> for Ipv4Addr {
    fn from(address: Ip4) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for Ip6 {
    fn from(address: Ipv6Addr) -> Self {
        Self(bytemuck::cast(address.octets()))
    }
}

impl From<Ip6> for Ipv6Addr {
    fn from(address: Ip6) -> Self {
        Self::from(bytemuck::cast::<[u32; 4], [u8; 16]>(address.0))
    }
}

impl From<Ip4> for Ip {
    #[inline(always)]
    fn from(address: Ip4) -> Self {
        Self([0, 0, MAPPED, address.0])
    }
}

impl From<Ip6> for Ip {
    #[inline(always)]
    fn from(address: Ip6) -> Self {
        Self(address.0)
    }
}

impl Ip {
    /// The address as IPv4, when it is v4-mapped.
    #[inline(always)]
    pub fn v4(self) -> Option<Ip4> {
        let [a, b, c, d] = self.0;
        (a == 0 && b == 0 && c == MAPPED).then_some(Ip4(d))
    }

    /// The address as IPv6, when it is not v4-mapped.
    #[inline(always)]
    pub fn v6(self) -> Option<Ip6> {
        match self.v4() {
            Some(_) => None,
            None => Some(Ip6(self.0)),
        }
    }
}

impl From<IpAddr> for Ip {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Ip4::from(v4).into(),
            IpAddr::V6(v6) => Ip6::from(v6).into(),
        }
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        match ip.v4() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(Ip6(ip.0).into()),
        }
    }
}

impl Port {
    /// The port from a number in the machine's order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// The port as a number in the machine's order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytemuck::cast(bytes))
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        bytemuck::cast(mac.0)
    }
}

impl Protocol {
    pub const ICMP: Self = Self(1);
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);
    pub const ICMPV6: Self = Self(58);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1", "255.255.255.255", "2001:db8::1", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Ip::from(address)), address);
        }
    }

    #[test]
    fn a_v4_address_stands_in_wire_order() {
        assert_eq!(
            Ip4::from(Ipv4Addr::new(192, 0, 2, 1)).0.to_ne_bytes(),
            [192, 0, 2, 1]
        );
        assert_eq!(Port::new(80).0.to_ne_bytes(), [0, 80]);
    }
}
