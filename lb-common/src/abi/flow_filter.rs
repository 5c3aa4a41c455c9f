//! Which flows may be established: a Bloom filter (Bloom, 1970) with one hash, so that what opens a flow is not looked for in
//! large tables in vain.
//!
//! The map is an array of `u64`: its head, which is a [`FlowFilter`], a word without use, and then the words of two halves in
//! turn, so that those of one key are neighbours. Packets set bits in both halves and never take one back. Userspace makes
//! one half anew while the other is in use; see [`FlowFilter::begun`].

use bytemuck::{Pod, Zeroable};

/// The head: how large each half is, which one is in use, and how often userspace has begun to make one anew.
///
/// A half need not be as large as there is room for: where few flows are established, a small one stays in a CPU's caches.
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

/// The place of a flow in a half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowBit {
    /// The index of the word in the map.
    pub index: u32,
    /// The bit, as a mask.
    pub mask: u64,
}

impl FlowFilter {
    /// Index of the head.
    pub const HEAD: u32 = 0;
    /// Words before the halves.
    const HEADS: u32 = 2;
    /// The least and the largest room for a half, in bits as powers of two.
    const MIN_BITS: u32 = 16;
    const MAX_BITS: u32 = 32;
    /// Bits of a half for each flow that a table holds: with both families' tables full of flows of two entries each, a sixteenth
    /// of the keys that are not there are looked for.
    const BITS_PER_FLOW: u64 = 64;
    const SIZE_SHIFT: u32 = 56;
    /// By how many powers of two each half is smaller than there is room for.
    const SMALLER_SHIFT: u32 = 46;
    const SMALLER_WIDTH: u32 = 5;
    const SMALLER_MASK: u64 = (1 << Self::SMALLER_WIDTH) - 1;
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

    /// The bits that each half has room for, as a power of two; 0: there is none yet.
    #[inline(always)]
    pub const fn room(self) -> u32 {
        (self.0 >> Self::SIZE_SHIFT) as u32
    }

    #[inline(always)]
    const fn shift(half: Half) -> u32 {
        Self::SMALLER_SHIFT + half.0 * Self::SMALLER_WIDTH
    }

    /// The size of a half in bits, as a power of two.
    #[inline(always)]
    pub const fn bits(self, half: Half) -> u32 {
        let smaller = (self.0 >> Self::shift(half)) & Self::SMALLER_MASK;
        self.room().wrapping_sub(smaller as u32)
    }

    /// The same filter with a half of `2^bits` bits: at most those that there is room for, and not many fewer than a word's.
    #[must_use]
    pub const fn sized(self, half: Half, bits: u32) -> Self {
        let smaller = self.room().saturating_sub(bits) as u64;
        let smaller = if smaller > Self::SMALLER_MASK {
            Self::SMALLER_MASK
        } else {
            smaller
        };
        let shift = Self::shift(half);
        Self(self.0 & !(Self::SMALLER_MASK << shift) | smaller << shift)
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

    /// The place of a hash in a half, which must be there.
    #[inline(always)]
    pub const fn place(self, half: Half, hash: u32) -> FlowBit {
        let bit = hash.wrapping_shr(Self::MAX_BITS.wrapping_sub(self.bits(half)));
        FlowBit {
            index: Self::HEADS.wrapping_add((bit >> 6) << 1).wrapping_add(half.0),
            mask: 1 << (bit & 63),
        }
    }

    /// Indexes of a half's words in the map.
    pub fn words_of(self, half: Half) -> impl Iterator<Item = u32> {
        let words = 1_u32 << self.bits(half).saturating_sub(6);
        (0..words).map(move |word| Self::HEADS + 2 * word + half.0)
    }

    /// The head with which userspace begins to make the spare half anew: another one that has begun before finds that its
    /// own is not there any more, and lets go.
    #[must_use]
    pub const fn begun(self) -> Self {
        let round = (self.0 >> Self::ROUND_SHIFT).wrapping_add(1) << Self::ROUND_SHIFT;
        let below_sizes = (1 << Self::SMALLER_SHIFT) - 1;
        Self(self.0 & !below_sizes | round & below_sizes | self.0 & Self::HALF_MASK)
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
        for (flows, bits) in [(1, 16), (1024, 16), (1025, 17), (1 << 20, 26), (u32::MAX, 31)] {
            let entries = FlowFilter::entries(flows);
            let filter = FlowFilter::fitting(entries).unwrap();
            assert_eq!(
                (entries, filter.room()),
                (FlowFilter::words(bits), bits),
                "{flows}"
            );
            let FlowBit { index, mask } = filter.place(Half::SECOND, u32::MAX);
            assert_eq!((index, mask), (entries - 1, 1 << 63));
            assert_eq!(filter.place(Half::FIRST, 0).index, 2);
            assert_eq!(filter.words_of(Half::SECOND).last(), Some(entries - 1));
        }
        assert_eq!(FlowFilter::fitting(2), None);
        assert_eq!(FlowFilter::default().room(), 0);
    }

    #[test]
    fn halves_have_sizes_of_their_own() {
        let whole = FlowFilter::new(24);
        let filter = whole.sized(Half::SECOND, 16).begun().using(Some(Half::SECOND));
        assert_eq!(
            Half::BOTH.map(|half| (filter.bits(half), filter.words_of(half).count())),
            [(24, 1 << 18), (16, 1 << 10)]
        );
        // The last word is inside, and every hash has its place there.
        for hash in [0, 1, 0x1234_5678, u32::MAX] {
            let FlowBit { index, mask } = filter.place(Half::SECOND, hash);
            assert!(filter.words_of(Half::SECOND).any(|word| word == index));
            assert_eq!(mask, 1 << (hash >> 16 & 63));
        }
        assert_eq!(filter.room(), 24);
        assert_eq!(filter.sized(Half::SECOND, 99).bits(Half::SECOND), 24);
        assert_eq!(filter.sized(Half::FIRST, 20).bits(Half::SECOND), 16);
        assert_eq!(FlowFilter::new(32).sized(Half::FIRST, 0).bits(Half::FIRST), 1);
        // A head of a time when both were as large as possible means just that.
        assert_eq!(FlowFilter(24 << 56 | 12345 << 2 | 1).bits(Half::FIRST), 24);
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
            assert_eq!((head.in_use(), head.room()), (Some(spare), 23));
            assert_ne!(head.spare(), spare);
        }
        assert_eq!(FlowFilter(u64::MAX).begun().room(), 255, "rounds begin anew");
        assert_eq!(head.using(None).in_use(), None);
    }
}
