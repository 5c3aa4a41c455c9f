//! Which flows may be established: a Bloom filter (Bloom, 1970) with one hash, so that what opens a flow is not looked for in
//! large tables in vain.
//!
//! The map is an array of `u64`: its head, which is a [`FlowFilter`], a word without use, and then the words of two halves in
//! turn, so that those of one key are neighbours. Packets set bits in both halves and never take one back. Userspace makes
//! one half anew while the other is in use; see [`FlowFilter::begun`].

use bytemuck::{Pod, Zeroable};

/// The head: how large each half is, which one is in use, and how often userspace has begun to make one anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct FlowFilter(pub u64);

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Half(u32);

impl Half {
    pub const FIRST: Self = Self(0);
    pub const SECOND: Self = Self(1);
    pub const BOTH: [Self; 2] = [Self::FIRST, Self::SECOND];

    /// 0 or 1: its words have such indexes, modulo two.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// The place of a flow in each half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowBit {
    /// Number of the word in its half.
    pub word: u32,
    /// The bit, as a mask.
    pub mask: u64,
}

impl FlowBit {
    /// The index of the word in the map.
    #[inline(always)]
    pub const fn index(self, half: Half) -> u32 {
        FlowFilter::HEADS
            .wrapping_add(self.word << 1)
            .wrapping_add(half.0)
    }
}

impl FlowFilter {
    /// Index of the head.
    pub const HEAD: u32 = 0;
    /// Words before the halves.
    const HEADS: u32 = 2;
    /// The least and the largest size of a half, in bits as powers of two.
    const MIN_BITS: u32 = 16;
    const MAX_BITS: u32 = 32;
    /// Bits of a half for each flow that a table holds: with both families' tables full of flows of two entries each, a fifth
    /// of the keys that are not there are looked for.
    const BITS_PER_FLOW: u64 = 16;
    const SIZE_SHIFT: u32 = 56;
    const ROUND_SHIFT: u32 = 2;
    const HALF_MASK: u64 = 3;

    /// A filter of which no half is in use, with halves of `2^bits` bits; `bits` is at most 32.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self((bits as u64) << Self::SIZE_SHIFT)
    }

    /// Entries of the map for so many flows of each family.
    #[must_use]
    pub fn entries(max_flows: u32) -> u32 {
        let wanted = u64::from(max_flows).saturating_mul(Self::BITS_PER_FLOW);
        let bits = wanted.next_power_of_two().ilog2();
        Self::words(bits.clamp(Self::MIN_BITS, Self::MAX_BITS - 1))
    }

    /// Words of a filter with halves of `2^bits` bits, from 6 to 32.
    #[must_use]
    pub const fn words(bits: u32) -> u32 {
        Self::HEADS + (2 << (bits - 6))
    }

    /// A filter that fits into a map of so many entries.
    #[must_use]
    pub fn fitting(entries: u32) -> Option<Self> {
        let words = entries.saturating_sub(Self::HEADS) / 2;
        let bits = words.checked_ilog2()? + 6;
        Some(Self::new(bits))
    }

    /// The size of each half in bits, as a power of two; 0: there is none yet.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        (self.0 >> Self::SIZE_SHIFT) as u32
    }

    /// The half that knows all established flows; `None`: any may be.
    #[inline(always)]
    pub const fn in_use(self) -> Option<Half> {
        let number = (self.0 & Self::HALF_MASK) as u32;
        if number == 0 {
            None
        } else {
            Some(Half(number.wrapping_sub(1) & 1))
        }
    }

    /// The half that may be made anew.
    #[must_use]
    pub const fn spare(self) -> Half {
        match self.in_use() {
            Some(Half::FIRST) => Half::SECOND,
            _ => Half::FIRST,
        }
    }

    /// The place of a hash. There must be halves.
    #[inline(always)]
    pub const fn place(self, hash: u32) -> FlowBit {
        let bit = hash.wrapping_shr(Self::MAX_BITS.wrapping_sub(self.bits()));
        FlowBit {
            word: bit >> 6,
            mask: 1 << (bit & 63),
        }
    }

    /// The head with which userspace begins to make the spare half anew: another one that has begun before finds that its
    /// own is not there any more, and lets go.
    #[must_use]
    pub const fn begun(self) -> Self {
        let round = (self.0 >> Self::ROUND_SHIFT).wrapping_add(1) << Self::ROUND_SHIFT;
        let below_size = (1 << Self::SIZE_SHIFT) - 1;
        Self(self.0 & !below_size | round & below_size | self.0 & Self::HALF_MASK)
    }

    /// The same, with another half in use, or none.
    #[must_use]
    pub const fn using(self, half: Option<Half>) -> Self {
        let number = match half {
            None => 0,
            Some(half) => half.0 as u64 + 1,
        };
        Self(self.0 & !Self::HALF_MASK | number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_the_number_of_flows() {
        for (flows, bits) in [(1, 16), (4096, 16), (4097, 17), (1 << 20, 24), (u32::MAX, 31)] {
            let entries = FlowFilter::entries(flows);
            let filter = FlowFilter::fitting(entries).unwrap();
            assert_eq!(
                (entries, filter.bits()),
                (FlowFilter::words(bits), bits),
                "{flows}"
            );
            let last = filter.place(u32::MAX).index(Half::SECOND);
            assert_eq!((last, filter.place(u32::MAX).mask), (entries - 1, 1 << 63));
            assert_eq!(filter.place(0).index(Half::FIRST), 2);
        }
        assert_eq!(FlowFilter::fitting(2), None);
        assert_eq!(FlowFilter::default().bits(), 0);
    }

    #[test]
    fn a_head_holds_its_parts() {
        let mut head = FlowFilter::new(23);
        assert_eq!((head.in_use(), head.spare()), (None, Half::FIRST));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let spare = head.spare();
            head = head.begun();
            assert!(seen.insert(head.0) && head.spare() == spare);
            head = head.using(Some(spare));
            assert_eq!((head.in_use(), head.bits()), (Some(spare), 23));
            assert_ne!(head.spare(), spare);
        }
        assert_eq!(FlowFilter(u64::MAX).begun().bits(), 255, "rounds begin anew");
        assert_eq!(head.using(None).in_use(), None);
    }
}
