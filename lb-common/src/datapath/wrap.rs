//! Heads of frames that change: outer headers, VLAN tags.

use super::scratch::Scratch;
use super::tables::Tables;
use super::verdict::DropReason;
use super::{Step, drop};
use crate::packet::Packet;

/// Changes the head of a frame.
#[inline(always)]
pub fn wrap<P: Packet, T: Tables>(_packet: &mut P, _tables: &T, _scratch: &mut Scratch) -> Step {
    drop(DropReason::Internal)
}
