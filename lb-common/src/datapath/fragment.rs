//! Fragments of datagrams.

use super::scratch::Scratch;
use super::tables::Tables;
use super::verdict::DropReason;
use super::{Step, drop};
use crate::packet::Packet;

/// Handles a fragment.
#[inline(always)]
pub fn fragment<P: Packet, T: Tables>(_packet: &mut P, _tables: &T, _scratch: &mut Scratch) -> Step {
    drop(DropReason::Internal)
}
