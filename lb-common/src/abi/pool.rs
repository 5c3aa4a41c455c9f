//! Pools: where their consistent-hash tables stand.

use super::Parity;
use bytemuck::{Pod, Zeroable};

/// Stable number of a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct PoolId(pub u32);

impl PoolId {
    pub const NONE: Self = Self(u32::MAX);

    /// Where the pool's record of one generation stands.
    #[inline(always)]
    pub const fn row(self, parity: Parity) -> PoolRow {
        PoolRow(self.0.wrapping_mul(2).wrapping_add(parity.0 as u32))
    }
}

/// Index into the pool records, which hold two generations side by side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolRow(pub u32);

/// What the packet path needs to know of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Pool {
    /// The tables, by [`TableKind`].
    pub tables: [Table; 4],
    pub flags: PoolFlags,
    pub reserved: u32,
}

impl Pool {
    /// One of the tables.
    #[inline(always)]
    pub const fn table(&self, kind: TableKind) -> Table {
        let [steered4, steered6, last4, last6] = self.tables;
        match kind {
            TableKind::Steered4 => steered4,
            TableKind::Steered6 => steered6,
            TableKind::LastResort4 => last4,
            TableKind::LastResort6 => last6,
        }
    }
}

/// A run of slots that name origins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Table {
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots: a power of two, or 0 when there is no origin to give.
    pub size: u32,
}

/// Which origins a table holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// IPv4 origins that are up.
    Steered4 = 0,
    /// IPv6 origins that are up.
    Steered6 = 1,
    /// Enabled IPv4 origins whatever their health: the pool as fallback pool.
    LastResort4 = 2,
    /// Enabled IPv6 origins whatever their health.
    LastResort6 = 3,
}

/// Properties of a pool, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct PoolFlags(pub u32);

impl PoolFlags {
    /// Origin steering `hash`: the client's address alone picks the slot.
    pub const BY_CLIENT: u32 = 1;

    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

const _: () = assert!(size_of::<Pool>() == 40);
