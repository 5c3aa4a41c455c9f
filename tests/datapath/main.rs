//! The kernel program: packets in, packets out, compared with the same pipeline in memory. Needs root, no network.
//!
//! `LB_TEST_PACKETS` sets how many packets the differential test generates, `LB_TEST_SEED` with which seed it starts.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod buckets;
mod budget;
mod differential;
mod filter;
mod fixtures;
mod flow_filter;
mod flows;
mod migrate;
mod object;
mod probe;
mod reasons;
mod shortcuts;
mod slots;
mod steering;
mod trace;
mod tunnel;
