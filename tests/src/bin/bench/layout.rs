//! What lb is configured with: the numbers of applications and origins, and which is which.

use crate::frame::{Address, Version, address};
use crate::modes::Mode;
use lb_common::abi::{AccessList, BucketRun, OriginId, Protocol};

/// The first address of each mode's application, and of many applications.
const VIPS: Address = address(203, 0, 113, 10);
const MANY_VIPS: Address = address(203, 0, 64, 0);
/// Rows of the counters of single applications, and the first of many.
const MANY_APPLICATIONS: u32 = 16;
/// Applications and origins, where there are many.
const MANY: (u32, u32) = (1_000, 10_000);
/// Origins of `nat` for each family, where there are few.
const FEW_ORIGINS: u32 = 2;

/// Prefixes of [`LISTED`], of both families together.
pub const PREFIXES: u32 = 100_000;
/// The long access list, which denies others than the clients. The floors look in it.
pub const LISTED: AccessList = AccessList(1);
/// A short one, which denies all clients.
pub const DENYING: AccessList = AccessList(2);

/// What lb's tables hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Known flows, of each protocol and family; 0: the case does not mind.
    pub flows: u32,
    pub width: Width,
}

/// Of what there is much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// One application for each mode, two origins of `nat`.
    Usual,
    /// 1,000 applications that `nat`'s flows are for.
    Applications,
    /// 10,000 origins of `nat`.
    Origins,
}

/// What stands between a client and an origin: applications of the same pool, on ports of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// Nothing.
    Open,
    /// The long access list.
    Listed,
    /// A limit of new flows, which has been reached.
    Limited,
    /// An access list that denies them.
    Denied,
}

impl Door {
    /// Those of `nat` beside the open one, which each mode has.
    pub const CLOSABLE: [Self; 3] = [Self::Listed, Self::Limited, Self::Denied];

    pub fn port(self) -> u16 {
        match self {
            Self::Open => 443,
            Self::Listed => 444,
            Self::Limited => 445,
            Self::Denied => 446,
        }
    }

    /// Row of the application's counters; of the open one, see [`Shape::application`].
    pub fn application(self) -> u32 {
        1 + Mode::ALL.len() as u32 + self as u32
    }
}

impl Shape {
    pub const fn usual(flows: u32) -> Self {
        Self {
            flows,
            width: Width::Usual,
        }
    }

    /// Applications that a mode's flows are spread over.
    pub fn applications(self, mode: Mode) -> u32 {
        match (self.width, mode) {
            (Width::Applications, Mode::Nat) => MANY.0,
            _ => 1,
        }
    }

    /// Origins of a mode, for each family.
    pub fn origins(self, mode: Mode) -> u32 {
        match (self.width, mode) {
            (Width::Origins, Mode::Nat) => MANY.1,
            (_, Mode::Nat) => FEW_ORIGINS,
            _ => 1,
        }
    }

    /// Address of the first of a mode's applications; the others follow.
    pub fn vip(self, mode: Mode) -> Address {
        match (self.width, mode) {
            (Width::Applications, Mode::Nat) => MANY_VIPS,
            _ => Address(VIPS.0 + mode.index()),
        }
    }

    /// Counter row of a mode's application number `number`.
    pub fn application(self, mode: Mode, number: u32) -> u32 {
        match (self.width, mode) {
            (Width::Applications, Mode::Nat) => MANY_APPLICATIONS + number,
            _ => 1 + mode.index(),
        }
    }

    /// Rows of the applications' counters.
    pub fn application_rows(self) -> u32 {
        MANY_APPLICATIONS + self.applications(Mode::Nat)
    }

    /// A mode's origin number `number` for a family.
    pub fn origin(self, mode: Mode, version: Version, number: u32) -> OriginId {
        let of_nat = self.origins(Mode::Nat);
        let row = mode.row(version) as u32;
        OriginId(match mode {
            Mode::Nat => 1 + row * of_nat + number,
            _ => 1 + 2 * of_nat + row - 2,
        })
    }

    /// Rows of the origins, of which the first is never used.
    pub fn origin_rows(self) -> u32 {
        1 + 2 * self.origins(Mode::Nat) + Mode::ORIGINS as u32 - 2
    }

    /// Slots of each of a mode's tables.
    pub fn slots(self, mode: Mode) -> u32 {
        (8 * self.origins(mode)).next_power_of_two().max(2048)
    }

    /// The buckets of a mode's applications whose TCP flows have no entries: as many as slots, as lb itself gives.
    pub fn buckets(self, mode: Mode) -> BucketRun {
        if mode.tracks(Protocol::TCP) {
            return BucketRun::NONE;
        }
        let before = Mode::ALL.iter().take(mode.index() as usize);
        let base = before.map(|&mode| self.buckets(mode).rows()).sum();
        BucketRun::new(base, self.slots(mode).ilog2())
    }

    /// Rows of all buckets.
    pub fn bucket_rows(self) -> u32 {
        Mode::ALL.iter().map(|&mode| self.buckets(mode).rows()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::RING_SIZE;
    use std::collections::BTreeSet;

    #[test]
    fn the_floor_has_as_many_slots_as_lb_has_buckets() {
        let direct = Mode::ALL.into_iter().filter(|mode| !mode.tracks(Protocol::TCP));
        for mode in direct {
            assert_eq!(1 << Shape::usual(1).buckets(mode).bits(), RING_SIZE);
        }
    }

    #[test]
    fn no_two_things_share_a_row() {
        for width in [Width::Usual, Width::Applications, Width::Origins] {
            let shape = Shape { flows: 1, width };
            let (mut applications, mut origins) = (BTreeSet::new(), BTreeSet::new());
            for mode in Mode::ALL {
                for number in 0..shape.applications(mode) {
                    assert!(applications.insert(shape.application(mode, number)));
                }
                for version in [Version::V4, Version::V6] {
                    for number in 0..shape.origins(mode) {
                        assert!(origins.insert(shape.origin(mode, version, number).0));
                    }
                }
            }
            for door in Door::CLOSABLE {
                assert!(applications.insert(door.application()));
            }
            assert!(
                applications
                    .last()
                    .is_some_and(|&last| last < shape.application_rows())
            );
            let mut rows = 0;
            for run in Mode::ALL.map(|mode| shape.buckets(mode)) {
                assert!(run == BucketRun::NONE || run.base() == rows);
                rows += run.rows();
            }
            assert_eq!(rows, shape.bucket_rows());
            assert!(!origins.contains(&0));
            assert_eq!(origins.last(), Some(&(shape.origin_rows() - 1)));
        }
    }
}
