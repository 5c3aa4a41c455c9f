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
    /// The origin that a generation gives new flows, and that generation: [`Bucket::choose`]. One word, so that no packet of
    /// another generation writes half of it.
    pub choice: u64,
    /// The origin of flows without an entry; [`OriginId::NONE`]: there are none.
    pub owner: OriginId,
    /// When a packet last went to the owner, in jiffies (low 32 bits), to the second.
    pub seen: u32,
    /// When an entry was last made for a flow of the bucket, in jiffies (low 32 bits); 0: never.
    pub tracked: u32,
    /// 1: the owner was given by the fallback pool, whose health is ignored.
    pub last_resort: u32,
}

/// Jiffies that a CPU's or userspace's clock may be ahead of another's: so much is taken for no time at all, because what is
/// kept of a bucket may be as old as jiffies can tell.
const AHEAD: u32 = 1 << 20;

/// Jiffies from `then` to `now`.
#[inline(always)]
const fn elapsed(now: u32, then: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX - AHEAD { 0 } else { elapsed }
}

#[inline(always)]
const fn choice(generation: u32, id: OriginId) -> u64 {
    (generation as u64) << 32 | id.0 as u64
}

impl Bucket {
    /// Jiffies that a sweep may take: after longer, what came when it had begun looks as if it had come before.
    pub const LONGEST_SWEEP: u32 = AHEAD / 2;

    /// Remembers whom the pools of a generation give new flows: nobody need ask them again.
    #[inline(always)]
    pub const fn choose(&mut self, generation: u32, id: OriginId) {
        self.choice = choice(generation, id);
    }

    /// Whether the pools of a generation give new flows to the owner, as far as is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(&self, generation: u32) -> bool {
        self.choice == choice(generation, self.owner)
    }

    /// Notes that a flow of the bucket gets an entry at jiffy `now`. It comes before that is made, so that whoever finds the
    /// bucket without any has not missed one.
    #[inline(always)]
    pub const fn note(&mut self, now: u32) {
        self.tracked = if now == 0 { 1 } else { now };
    }

    /// Whether a flow of the bucket may have an entry. `settled`: what [`Bucket::tracked`] was when a sweep last found none; a
    /// bucket that nobody has owned yet has none by either's 0, and is not relied on.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_tracked(&self, settled: u32) -> bool {
        self.tracked != settled
    }

    /// What the next packets are told for `settled`, when a sweep has found no entry that began at jiffy `began` and knows
    /// of all entries that were made before; it took less than [`Bucket::LONGEST_SWEEP`].
    #[must_use]
    pub const fn settle(&self, settled: u32, began: u32) -> u32 {
        if elapsed(began, self.tracked) > 0 {
            self.tracked
        } else {
            settled
        }
    }

    /// Something that [`Bucket::may_be_tracked`] cannot take for the bucket's, nor soon for that of a later entry.
    #[must_use]
    pub const fn unsettled(&self) -> u32 {
        self.tracked.wrapping_add(1 << 31)
    }

    /// Jiffies since a packet last went to the owner.
    #[inline(always)]
    #[must_use]
    pub const fn idle(&self, now: u32) -> u32 {
        elapsed(now, self.seen)
    }
}

/// The buckets of an application: those of IPv4 flows, and as many of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
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

    /// Also where jiffies begin anew, and when it was long ago.
    #[test]
    fn a_bucket_is_settled_by_a_sweep_that_began_later() {
        for now in [0, 1, 5, 0xfffb_6c20, u32::MAX, 1 << 31, (1 << 31) - 1, 7 << 28] {
            let mut bucket = Bucket::default();
            bucket.note(now);
            let now = now.max(1);
            assert!(bucket.may_be_tracked(0), "{now}: of no sweep");
            for early in [0, 1, 2, 100, Bucket::LONGEST_SWEEP] {
                let settled = bucket.settle(0, now.wrapping_sub(early));
                assert!(bucket.may_be_tracked(settled), "{now}: a sweep {early} before");
            }
            for late in [1, 2, 100, 1 << 30, 1 << 31, 3 << 30] {
                let settled = bucket.settle(0, now.wrapping_add(late));
                assert!(!bucket.may_be_tracked(settled), "{now}: a sweep {late} later");
                // For good, until there is another entry.
                let again = bucket.settle(settled, now.wrapping_sub(1));
                assert!(!bucket.may_be_tracked(again));
                let mut next = bucket;
                next.note(now.wrapping_add(late).wrapping_add(1));
                assert!(next.may_be_tracked(settled), "{now}: an entry after {late}");
            }
            assert!(bucket.may_be_tracked(bucket.unsettled()));
        }
        assert!(Bucket::default().may_be_tracked(Bucket::default().unsettled()));
    }

    #[test]
    fn idle_time_knows_clocks_that_are_ahead() {
        let bucket = Bucket {
            seen: 100,
            ..Bucket::default()
        };
        for (now, idle) in [
            (100, 0),
            (99, 0),
            (0, 0),
            (101, 1),
            (1 << 31, (1 << 31) - 100),
            (3 << 30, (3 << 30) - 100),
        ] {
            assert_eq!(bucket.idle(now), idle, "{now}");
        }
    }

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
