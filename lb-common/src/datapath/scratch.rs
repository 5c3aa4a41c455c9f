//! Working memory of one packet, too large for the kernel's 512-byte stack: a per-CPU map value in XDP.

use super::family::{Identification, Tuple};
use super::parse::{Link, Network};
use super::select::{Choice, Hashes};
use super::transport::Segment;
use super::verdict::Reply;
use crate::abi::{
    Affinity, Application, Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, Ip, Ip4, Ip6, Mac, OriginId, Parity,
    Protocol, ReportKind, Tag,
};

/// The working memory.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Scratch {
    pub v4: Draft<Ip4, FlowKey4, Flow4>,
    pub v6: Draft<Ip6, FlowKey6, Flow6>,
    pub opening: Opening,
    pub hashes: Hashes,
    pub search: Search,
    /// The origin of a new flow.
    pub choice: Choice,
    /// The row of its bucket, or [`Scratch::NO_BUCKET`].
    pub bucket: u32,
    /// The origin that shall not be chosen again, because it did not answer; [`OriginId::NONE`]: any may be.
    pub avoid: OriginId,
    /// How often the client has repeated its SYN to origins that did not answer.
    pub retries: u32,
    /// How many source ports have been tried for a new flow; the first counts twice when somebody has it, see [`super::connect`].
    pub attempts: u32,
    /// What [`super::retire`] or [`super::admit`] shall do.
    pub errand: Errand,
    /// What [`super::wrap`] shall do.
    pub wrap: Wrapping,
    /// What [`super::reply`] shall answer.
    pub reply: Reply,
    /// The longest packet that [`Reply::TooBig`] asks for.
    pub mtu: u32,
    /// Of a fragment.
    pub datagram: Datagram,
    /// What is told to userspace of a frame that it shall hold.
    pub held: crate::abi::Held,
    pub note: Note,
    /// Not 0: the packet is traced. Set and taken back by the kernel's programs for that.
    pub traced: u32,
    /// What was decided, of a packet that is traced.
    pub outcome: Outcome,
}

impl Scratch {
    pub const NO_BUCKET: u32 = u32::MAX;
}

/// The datagram that a fragment is part of.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Datagram {
    /// Its identification, as it came.
    pub arrived: Identification,
    /// The one that it leaves with, where it leaves with another source address.
    pub leaving: u32,
}

/// What is told of a packet beside its verdict.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Note {
    /// [`Self::NO_APPLICATION`]: not known.
    pub application: u32,
    pub origin: OriginId,
}

impl Default for Note {
    #[inline(always)]
    fn default() -> Self {
        Self {
            application: Self::NO_APPLICATION,
            origin: OriginId::NONE,
        }
    }
}

/// A [`super::Verdict`] in plain words: the kernel's verifier refuses an enum that is copied with what its variant leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Outcome {
    pub kind: ReportKind,
    /// [`Report::NO_REASON`] of a packet that is forwarded.
    pub row: u32,
    /// Interface by which the packet, or its answer, leaves; [`Self::BACK`]: by the one that it came by; 0: none.
    pub leaves_by: u32,
    /// What XDP is told.
    pub action: u32,
}

impl Outcome {
    pub const BACK: u32 = u32::MAX;
}

impl Note {
    pub const NO_APPLICATION: u32 = u32::MAX;

    /// The flow's.
    #[inline(always)]
    pub fn of(core: &FlowCore) -> Self {
        Self {
            application: core.application,
            origin: core.origin,
        }
    }
}

/// Who holds the tuple that a new flow's answers would have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Holder {
    #[default]
    Nobody,
    /// A flow that is over, among established ones.
    OldEstablished,
    /// The same, among the others.
    OldTentative,
    /// A flow that goes on.
    Flow,
    /// Nobody has looked but among established flows, where it is nobody: the insertion will tell.
    Unsought,
}

/// What is to be done to a flow that changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Errand {
    /// The packet is of an established flow, and changes it.
    #[default]
    Follow,
    /// The flow is marked as reset by the node, and the packet shall tell its receiver.
    Reset,
    /// The packet is a SYN that is not looked for among flows before the access lists let it in.
    Screen,
    /// The packet is a SYN that nobody has looked for among flows which are not established: that there is one is found out
    /// when it is to be added.
    Open,
    /// The packet is the SYN that asks a flow's origin whether the connection is over; see [`super::ask`].
    Ask,
}

/// How a frame leaves whose head is changed. The packet is the draft's subject, its flow's entry the draft's `client`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Wrapping {
    /// Link addresses that the frame leaves with.
    pub destination: Mac,
    pub source: Mac,
    /// Tags that it leaves with; those that it came with are in the opening's link.
    pub tags: [Tag; 2],
    /// Interface by which it leaves.
    pub ifindex: u32,
    pub kind: WrapKind,
    /// 1: the packet is known to fit, so [`WrapKind::Fit`] is not asked again.
    pub fits: u32,
}

/// What is to be done to a frame's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum WrapKind {
    /// The packet, which gets no outer header, is longer than the smallest MTU, or opens a connection. Nothing was changed or
    /// counted. When it fits after all, `fits` is set and [`super::Stage::Send`] goes on; otherwise it is answered. The MSS of a
    /// segment that opens a connection is made to fit.
    #[default]
    Fit,
    /// The IP packet is rewritten and counted: it gets its link addresses and tags, and leaves.
    Relink,
    /// The IP packet is as it came and not counted. When it fits, it gets its outer header, link addresses and tags, by the
    /// records of the entry's origin and its hop, and leaves; otherwise it is answered. Nothing else is told here.
    Tunnel,
}

/// The search for an origin: what is wanted, and what comes up on the way. Not in locals, because the verifier would walk
/// all paths for each of their values.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Search {
    /// Hash that picks pools and origins.
    pub flow: u64,
    /// The same where the client's address alone shall pick.
    pub client: u64,
    /// The client.
    pub source: Ip,
    /// 1: the packet is IPv6.
    pub v6: u32,
    /// 1: the packet is TCP.
    pub tcp: u32,
    /// 1: the packet may open a flow; else it may belong to one that is not remembered.
    pub opens: u32,
    /// Jiffies.
    pub now: u32,
    pub parity: Parity,
    /// The origin to be taken only when its pool has no other.
    pub avoid: OriginId,
    /// 1: an origin could have served, but its neighbour is not resolved.
    pub unresolved: u32,
    /// 1: an origin could have served, but has as many flows as it may have.
    pub full: u32,
    /// 1: an origin that could have served was passed over: the same search may end elsewhere before anything is configured.
    pub detour: u32,
    /// 1: the flow, which has no entry, is to be reset.
    pub resets: u32,
    /// The origin of a pool that could serve, but shall be avoided.
    pub spare: OriginId,
    /// What binds the client to an origin.
    pub bound: Affinity,
}

/// A packet, and its flow's two entries while they are made.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Draft<A, K, F> {
    pub subject: Subject<A>,
    pub leaving: Tuple<A>,
    pub client_key: K,
    pub client: F,
    pub origin_key: K,
    pub origin: F,
    /// Who holds the origin's key.
    pub holder: Holder,
    /// The packet that an ICMP error quotes.
    pub quote: Network<A>,
}

/// What the first stage has read of a packet that may open a flow.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Subject<A> {
    pub arriving: Tuple<A>,
    pub network: Network<A>,
    pub segment: Segment,
}

impl<A> Subject<A> {
    /// Whether the packet may open a flow: any datagram, and of TCP a SYN.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.segment.protocol != Protocol::TCP || self.segment.flags.opens()
    }
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
    /// The generation that the packet is handled by.
    pub generation: u32,
    /// 1: the access lists have let it in.
    pub let_in: u32,
}
