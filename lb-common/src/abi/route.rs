//! Routes: pools that flows from some countries may go to, instead of the application's own.

use super::{Country, Parity, PoolId, PoolList};
use bytemuck::{Pod, Zeroable};

/// The clients of a country, in one configuration generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RouteKey {
    /// Number of the application.
    pub application: u32,
    /// [`Country::UNKNOWN`]: of clients whose country is not known.
    pub country: Country,
    /// Which of the two generations this record belongs to.
    pub parity: Parity,
    /// 1: of IPv6 clients.
    pub v6: u8,
    pub reserved: [u8; 2],
}

/// What holds for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Route {
    /// Where the candidate pools stand.
    pub pools: PoolList,
    /// The pool of last resort, or [`PoolId::NONE`].
    pub fallback: PoolId,
}

const _: () = assert!(size_of::<RouteKey>() == 12 && size_of::<Route>() == 16);
