//! Flows that end.

use super::scratch::Scratch;
use super::tables::Tables;
use super::verdict::DropReason;
use super::{Step, drop};
use crate::packet::Packet;

/// Takes a flow that ends out of the memory of established ones.
#[inline(always)]
pub fn retire<P: Packet, T: Tables>(_packet: &mut P, _tables: &T, _scratch: &mut Scratch) -> Step {
    drop(DropReason::Internal)
}
