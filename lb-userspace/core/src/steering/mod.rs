//! Steering: who gets a new flow, as pure functions of the configuration and of what is known of its pools.
//!
//! 1. [`pool_standing`]: from the health of origins to whether a pool is usable.
//! 2. [`routes`]: which pools a flow from some place may go to. The first pool set that matches, else the load
//!    balancer's own fields; of `geo` the list of the place.
//! 3. [`candidates`]: the order or the shares of those pools by the policy, usable ones only.
//! 4. [`SheddingTable`]: which flows a pool gives up to the others, and at last to the fallback pool.

mod candidates;
mod route;
mod shedding;
mod standing;
#[cfg(test)]
mod tests;

pub use candidates::{Candidates, Entry, Order, PoolFigures, WeightedPool, balanced, candidates, parts};
pub use route::{Place, Route, Routes, Source, routes};
pub use shedding::{Base, CLASSES, Classes, Rest, Shed, SheddingTable, class_of};
pub use standing::{
    BalancerStanding, Family, OriginFacts, PoolFacts, PoolStanding, balancer_standing, pool_standing,
};
