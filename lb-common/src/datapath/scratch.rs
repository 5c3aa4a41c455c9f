//! Working memory of one packet, too large for the kernel's 512-byte stack: a per-CPU map value in XDP.

use crate::abi::{Flow4, Flow6, FlowKey4, FlowKey6};

/// The working memory.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Scratch {
    pub v4: Draft<FlowKey4, Flow4>,
    pub v6: Draft<FlowKey6, Flow6>,
}

/// A new flow's two entries while they are made.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Draft<K, F> {
    pub client_key: K,
    pub client: F,
    pub origin_key: K,
    pub origin: F,
}
