//! Which addresses packets may be for: a Bloom filter (Bloom, 1970) with one hash, so that what is for nobody here is
//! let go without a look into any hash table.

use super::{Ip, Ip4, Ip6};

/// Which filter of the map is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Addresses that packets may be for.
    Ours = 0,
    /// Those of them where TCP flows may have no entry.
    Untracked = 1,
}

impl Filter {
    /// Words of all of them.
    pub const WORDS: u32 = 2 << WORD_BITS;

    /// The index of a bit's word.
    #[inline(always)]
    pub const fn word(self, bit: FilterBit) -> u32 {
        (self as u32) << WORD_BITS | bit.word
    }
}

const WORD_BITS: u32 = 10;
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

/// The place of an address. Several may share one: then a packet is looked at more closely, no more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FilterBit {
    /// Index of the word in each filter.
    pub word: u32,
    /// The bit, as a mask.
    pub mask: u64,
}

impl FilterBit {
    #[inline(always)]
    const fn at(hash: u64) -> Self {
        let top = (hash >> (64 - WORD_BITS - 6)) as u32;
        Self {
            word: top >> 6,
            mask: 1 << (top & 63),
        }
    }

    #[inline(always)]
    pub const fn of4(address: Ip4) -> Self {
        Self::at((address.0 as u64).wrapping_mul(FACTORS[0]))
    }

    #[inline(always)]
    pub const fn of6(address: Ip6) -> Self {
        let [a, b, c, d] = address.0;
        let high = (a as u64 | (b as u64) << 32).wrapping_mul(FACTORS[0]);
        let low = (c as u64 | (d as u64) << 32).wrapping_mul(FACTORS[1]);
        // The upper halves of the products depend on all bits, the lower ones on few.
        Self::at((high >> 32 ^ low).wrapping_mul(FACTORS[0]))
    }

    /// The place of an address of either family.
    #[must_use]
    pub fn of(address: Ip) -> Self {
        match address.v4() {
            Some(v4) => Self::of4(v4),
            None => Self::of6(Ip6(address.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Of 256 neighbours each should have a bit of its own, nearly: 0.5 of them share one when the hash is as good as chance.
    #[test]
    fn neighbours_do_not_share_bits() {
        let distinct = |bits: Vec<FilterBit>| {
            assert!(
                bits.iter()
                    .all(|bit| bit.word < Filter::WORDS / 2 && bit.mask.count_ones() == 1)
            );
            bits.into_iter().collect::<BTreeSet<_>>().len()
        };
        let v4 = |bits: fn(u8) -> [u8; 4]| {
            distinct(
                (0..=255)
                    .map(|byte| FilterBit::of4(Ipv4Addr::from(bits(byte)).into()))
                    .collect(),
            )
        };
        assert!(v4(|byte| [10, 0, 0, byte]) >= 250);
        assert!(v4(|byte| [10, 0, byte, 1]) >= 250);
        assert!(v4(|byte| [byte, 0, 0, 1]) >= 250);
        let v6 = |bits: fn(u16) -> [u16; 8]| {
            distinct(
                (0..256)
                    .map(|word| FilterBit::of6(Ipv6Addr::from(bits(word)).into()))
                    .collect(),
            )
        };
        assert!(v6(|word| [0x2001, 0xdb8, 0, 0, 0, 0, 0, word]) >= 250);
        assert!(v6(|word| [0x2001, 0xdb8, 0, word, 0, 0, 0, 1]) >= 250);
        assert!(v6(|word| [0x2001, 0xdb8, word << 8, 0, 0, 0, 0, 1]) >= 250);
    }
}
