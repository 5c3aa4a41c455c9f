//! ICMP and ICMPv6.

use super::scratch::Scratch;
use super::tables::Tables;
use super::verdict::DropReason;
use super::{Step, drop};
use crate::packet::Packet;

/// Answers echo requests, and translates errors.
#[inline(always)]
pub fn icmp<P: Packet, T: Tables>(_packet: &mut P, _tables: &T, _scratch: &mut Scratch) -> Step {
    drop(DropReason::Internal)
}
