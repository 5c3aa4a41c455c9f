//! Slots: the entries of consistent-hash tables and pool lists, all in one arena.

use bytemuck::{Pod, Zeroable};

/// One entry. 8 bytes, because the kernel pads array values to 8 anyway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Slot {
    /// Number of the [`super::OriginId`] or [`super::PoolId`] that owns the slot.
    pub owner: u32,
    /// Another one of the table's owners, for when the first has just gone down; the same where there is no other.
    pub alternate: u32,
}
