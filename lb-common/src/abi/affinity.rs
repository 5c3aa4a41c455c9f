//! Which origin a client was given last.

use super::{Ip, OriginId};
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
    pub reserved: u32,
}
