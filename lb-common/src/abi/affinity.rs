//! Which origin a client was given last.

use super::{Ip, Origin, OriginId};
use bytemuck::{Pod, Zeroable};

/// A client of an application.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityKey {
    pub application: u32,
    pub client: Ip,
}

/// The origin that the client is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Affinity {
    pub origin: OriginId,
    /// [`super::Application::affinity_epoch`] when it was bound.
    pub epoch: u32,
    /// When a flow was last opened by it, in jiffies (low 32 bits).
    pub seen: u32,
    /// [`Affinity::mark`] of that origin: its number may have become another's.
    pub mark: u32,
}

impl Affinity {
    /// What tells an origin from another one that gets its number.
    #[inline(always)]
    pub const fn mark(origin: &Origin) -> u32 {
        origin.identity as u32
    }
}
