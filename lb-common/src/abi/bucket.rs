//! Buckets: what is known of TCP flows that need no entry each, because their origins answer clients directly.
//!
//! All flows of an application whose clients hash alike share a bucket. It has an owner: the origin of every flow of the bucket
//! that no flow table knows. As long as new flows go to the owner, none needs an entry. When the configuration gives the
//! bucket to another origin, new flows get entries, and those there are stay with the owner, through any number of changes.

use super::OriginId;
use bytemuck::{Pod, Zeroable};

/// One bucket; see the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Bucket {
    /// The origin that the generation gives new flows, and that generation: nobody need ask the pools again.
    pub current: OriginId,
    pub generation: u32,
    /// The origin of flows without an entry; [`OriginId::NONE`]: there are none.
    pub owner: OriginId,
    /// When a packet last went to the owner, in jiffies (low 32 bits), to the second.
    pub seen: u32,
    /// When an entry was last made for a flow of the bucket, in jiffies (low 32 bits). Entries may exist unless a later sweep
    /// found none.
    pub tracked: u32,
    /// 1: the owner was given by the fallback pool, whose health is ignored.
    pub last_resort: u32,
}

/// The buckets of an application: those of IPv4 flows, and as many of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct BucketRun(pub u32);

impl BucketRun {
    /// No flow of the application is without an entry.
    pub const NONE: Self = Self(0);
    const BASE_BITS: u32 = 27;
    /// Rows there may be.
    pub const MAX_ROWS: u32 = 1 << Self::BASE_BITS;

    /// A run from row `base` on, of `2^bits` buckets for each family; `bits` is from 1 to 31.
    #[must_use]
    pub const fn new(base: u32, bits: u32) -> Self {
        Self(base & (Self::MAX_ROWS - 1) | bits << Self::BASE_BITS)
    }

    /// The first row.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.0 & (Self::MAX_ROWS - 1)
    }

    /// The number of buckets of one family, as a power of two.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0 >> Self::BASE_BITS
    }

    /// Rows of both families together.
    #[must_use]
    pub const fn rows(self) -> u32 {
        if self.0 == 0 { 0 } else { 2 << self.bits() }
    }

    /// The bucket's number among those of its family, for a hash of 32 bits.
    #[inline(always)]
    pub const fn number(self, hash: u32) -> u32 {
        ((hash as u64) >> (32 - self.bits())) as u32
    }

    /// The row of a family's bucket.
    #[inline(always)]
    pub const fn row(self, number: u32, v6: bool) -> u32 {
        self.base()
            .wrapping_add((v6 as u32) << self.bits())
            .wrapping_add(number)
    }
}

const _: () = assert!(size_of::<Bucket>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_holds_its_buckets() {
        let run = BucketRun::new(96, 5);
        assert_eq!((run.base(), run.bits(), run.rows()), (96, 5, 64));
        assert_eq!(run.row(run.number(0), false), 96);
        assert_eq!(run.row(run.number(u32::MAX), false), 127);
        assert_eq!(run.row(run.number(u32::MAX), true), 159);
        assert_eq!(BucketRun::NONE.rows(), 0);
    }
}
