//! Who may open flows, and how fast.

use super::Ip;
use bytemuck::{Pod, Zeroable};

/// Number of an access list; 0: none. A list never changes under its number: a changed list gets another one, so a packet
/// never meets half of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct AccessList(pub u32);

impl AccessList {
    pub const NONE: Self = Self(0);
}

/// A prefix of an access list: the list's number, then the address. The length of the prefix counts both: 32 bits more
/// than that of the (v4-mapped) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AccessKey {
    /// In network order, because longest-prefix matching goes by bytes.
    pub list: u32,
    pub address: Ip,
}

/// What an access list says to a prefix or a country; the longest match counts, and prefixes before countries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct AccessRule(pub u32);

impl AccessRule {
    /// Says nothing: the country decides, and without one the flow is allowed.
    pub const NEUTRAL: Self = Self(0);
    pub const ALLOW: Self = Self(1);
    pub const DENY: Self = Self(2);
}

/// A country of GeoIP: its two ASCII letters; 0: not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Country(pub u32);

impl Country {
    pub const UNKNOWN: Self = Self(0);

    /// The country with these letters (ISO 3166-1 alpha-2).
    #[must_use]
    pub const fn new([first, second]: [u8; 2]) -> Self {
        Self((first as u32) << 8 | second as u32)
    }

    /// The country with these two capital letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.as_bytes() {
            &[first, second] if first.is_ascii_uppercase() && second.is_ascii_uppercase() => {
                Some(Self::new([first, second]))
            }
            _ => None,
        }
    }

    /// Its letters; `None` when it is not known.
    #[must_use]
    pub const fn letters(self) -> Option<[char; 2]> {
        match self {
            Self::UNKNOWN => None,
            Self(word) => Some([(word >> 8) as u8 as char, word as u8 as char]),
        }
    }
}

impl core::fmt::Display for Country {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.letters() {
            Some([first, second]) => write!(f, "{first}{second}"),
            None => f.write_str("unknown"),
        }
    }
}

/// A country of an access list. [`Country`] 0 holds the rule for every country that is not listed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CountryKey {
    pub list: AccessList,
    pub country: Country,
}

/// A limit of new flows per second, as a generic cell rate (ITU-T I.371): the time that one flow takes up, in 2⁻³²
/// jiffies; 0: no limit. A second's worth may come at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Rate(pub u64);

impl Rate {
    /// No limit.
    pub const NONE: Self = Self(0);
}

/// A client of an application with a limit for each source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    pub application: u32,
    pub address: Ip,
}

const _: () = assert!(size_of::<AccessKey>() == 20);
