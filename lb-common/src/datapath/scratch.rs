//! Working memory of one packet, too large for the kernel's 512-byte stack: a per-CPU map value in XDP.

use super::family::Tuple;
use super::parse::{Link, Network};
use super::select::{Choice, Hashes};
use super::transport::Segment;
use super::verdict::Reply;
use crate::abi::{Application, Flow4, Flow6, FlowKey4, FlowKey6, Ip4, Ip6, OriginId, Parity};

/// The working memory.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Scratch {
    pub v4: Draft<Ip4, FlowKey4, Flow4>,
    pub v6: Draft<Ip6, FlowKey6, Flow6>,
    pub opening: Opening,
    pub hashes: Hashes,
    /// The origin of a new flow.
    pub choice: Choice,
    /// What [`super::reply`] shall answer.
    pub reply: Reply,
    pub note: Note,
}

/// What is told of a packet beside its verdict; 0 where nothing is known.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Note {
    pub application: u32,
    pub origin: OriginId,
}

/// A packet, and its flow's two entries while they are made.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Draft<A, K, F> {
    pub subject: Subject<A>,
    /// 1: an origin could have served, but its neighbour is not resolved.
    pub unresolved: u32,
    pub leaving: Tuple<A>,
    pub client_key: K,
    pub client: F,
    pub origin_key: K,
    pub origin: F,
}

/// What the first stage has read of a packet that may open a flow.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Subject<A> {
    pub arriving: Tuple<A>,
    pub network: Network<A>,
    pub segment: Segment,
}

/// What a new flow is opened for.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Opening {
    pub application: Application,
    /// 1: there is an application.
    pub served: u32,
    pub link: Link,
    pub ifindex: u32,
    pub now: u32,
    pub parity: Parity,
}
