//! Prefixes of addresses.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// Such as `10.0.0.0/8`; bits beyond the length are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no [`Prefix`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixError {
    /// It is not ADDRESS/LENGTH.
    Malformed,
    /// The length is greater than the address' number of bits.
    TooLong { bits: u8 },
    /// The address has bits beyond the length: this is the prefix without them.
    HostBits(Prefix),
    /// An IPv4-mapped IPv6 address: IPv4 addresses are written as such.
    Mapped,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("is not a prefix such as 10.0.0.0/8 or 2001:db8::/32"),
            Self::TooLong { bits } => write!(f, "has a length greater than {bits}"),
            Self::HostBits(prefix) => write!(f, "has bits beyond its length: {prefix} has not"),
            Self::Mapped => f.write_str("is an IPv4-mapped prefix: write the IPv4 prefix itself"),
        }
    }
}

impl Prefix {
    /// All IPv4 addresses.
    pub const IPV4: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        length: 0,
    };
    /// All IPv6 addresses.
    pub const IPV6: Self = Self {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        length: 0,
    };

    /// The first `length` bits of an address; `None` when it has not that many.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, length })
    }

    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The prefix that this one and `other`, which follows it, make up; `None` when they are not its halves.
    #[must_use]
    pub fn joined(self, other: Self) -> Option<Self> {
        let length = self.length.checked_sub(1)?;
        let both = Self::new(self.address, length)?;
        let halves = self.length == other.length
            && self != other
            && both.address == self.address
            && Self::new(other.address, length) == Some(both);
        halves.then_some(both)
    }

    /// Whether it is an IPv6 prefix among whose addresses the IPv4 ones stand, v4-mapped, though it does not mean them:
    /// whoever keeps both families in one table says beside it what holds for [`Self::IPV4`].
    #[must_use]
    pub fn engulfs_ipv4(self) -> bool {
        let mapped = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
        self.length < 96 && Self::new(mapped, self.length) == Some(self)
    }

    /// Bits of an address of the family.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self.address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An address alone is a prefix of all its bits.
impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or(PrefixError::TooLong { bits })?,
            Some(_) => return Err(PrefixError::Malformed),
        };
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(PrefixError::Mapped);
        }
        let prefix = Self::new(address, length).ok_or(PrefixError::TooLong { bits })?;
        if prefix.address != address {
            return Err(PrefixError::HostBits(prefix));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.0.2.1/32",
            "2001:db8::/32",
            "::/0",
            "2001:db8::1/128",
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn what_is_no_prefix_is_told_apart() {
        let inner: Prefix = "10.0.0.0/8".parse().unwrap();
        for (text, error) in [
            ("10.1.0.0/8", PrefixError::HostBits(inner)),
            ("10.0.0.0/33", PrefixError::TooLong { bits: 32 }),
            ("2001:db8::/129", PrefixError::TooLong { bits: 128 }),
            ("10.0.0.0/999", PrefixError::TooLong { bits: 32 }),
            ("10.0.0.0/", PrefixError::Malformed),
            ("10.0.0.0/+8", PrefixError::Malformed),
            ("10.0.0/8", PrefixError::Malformed),
            ("", PrefixError::Malformed),
            ("::ffff:10.0.0.0/104", PrefixError::Mapped),
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(error), "{text}");
        }
    }

    #[test]
    fn some_prefixes_hold_ipv4_without_meaning_it() {
        for (text, engulfs) in [
            ("::/0", true),
            ("::/8", true),
            ("::/80", true),
            ("::8000:0:0/81", true),
            ("::/81", false),
            ("::/96", false),
            ("2000::/3", false),
            ("0.0.0.0/0", false),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.engulfs_ipv4(), engulfs, "{text}");
        }
    }
}
