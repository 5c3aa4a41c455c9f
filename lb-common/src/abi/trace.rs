//! Tracing: which packets are reported to userspace, and what is told of each. In no map that is pinned.

use super::{Ip, OriginId, Port};
use bytemuck::{Pod, Zeroable};

/// What is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Tracing {
    /// Only packets from or to an address of each of these, before or after their translation.
    pub prefixes: [Prefix; 2],
    /// Only packets of the application with this number; [`Self::ANY`]: of all, and of none.
    pub application: u32,
    /// Only packets whose verdict has this row; [`Self::ANY`]: all.
    pub row: u32,
    /// Only packets from or to this port, before or after their translation; 0: any.
    pub port: Port,
    pub reserved: u16,
    pub kinds: TraceKinds,
    /// Bytes of each frame that are reported, from its start.
    pub snap: u32,
    /// Reports a second at most, on each CPU.
    pub limit: u32,
}

impl Tracing {
    pub const ANY: u32 = u32::MAX;
}

/// Addresses that have the same bits under a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Prefix {
    pub address: Ip,
    pub mask: Ip,
}

impl Prefix {
    /// Whether an address is one of them.
    #[inline(always)]
    pub const fn holds(&self, address: Ip) -> bool {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (address.0, self.mask.0, self.address.0);
        a & e == i && b & f == j && c & g == k && d & h == l
    }
}

/// Source and destination of a packet: zeros where it has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Ends {
    pub addresses: [Ip; 2],
    pub ports: [Port; 2],
}

/// Which verdicts are reported, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct TraceKinds(pub u32);

impl TraceKinds {
    /// Packets of applications that go on.
    pub const FORWARDED: u32 = 1;
    /// Packets of applications that do not: dropped, or answered by the node.
    pub const REFUSED: u32 = 2;
    /// Packets that are left to the kernel.
    pub const PASSED: u32 = 4;

    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// The kind of a verdict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct ReportKind(pub u32);

impl ReportKind {
    pub const PASS: Self = Self(0);
    pub const FORWARD: Self = Self(1);
    pub const REPLY: Self = Self(2);
    pub const HOLD: Self = Self(3);
    pub const DROP: Self = Self(4);
}

/// One packet; [`Self::captured`] bytes of the frame, as it came, follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Report {
    /// When it came, by the monotonic clock, in nanoseconds.
    pub time: u64,
    /// Length of the frame in bytes.
    pub length: u32,
    pub captured: u32,
    /// Interface by which it came.
    pub ifindex: u32,
    /// Interface by which it, or its answer, leaves; 0: none.
    pub leaves_by: u32,
    pub kind: ReportKind,
    /// The verdict's row, which is its reason; [`Self::NO_REASON`] of a packet that is forwarded.
    pub row: u32,
    /// Its application's number; [`Tracing::ANY`]: not known.
    pub application: u32,
    /// [`OriginId::NONE`]: not known.
    pub origin: OriginId,
    /// Reports that were left out on this CPU because there were too many.
    pub omitted: u32,
    /// Bytes of `leaving` that count.
    pub left: u32,
    /// As it came, and as it, or its answer, leaves.
    pub ends: [Ends; 2],
    /// The head of the frame that leaves.
    pub leaving: [u8; 128],
}

impl Report {
    pub const NO_REASON: u32 = u32::MAX;
}

/// Most bytes of a frame that are reported.
pub const MAX_SNAP: usize = 8191;

/// A CPU's working memory for the packet that it traces. The report and the frame stand side by side, as they are sent.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Tap {
    pub report: Report,
    pub frame: [[u8; 4096]; 2],
    /// [`super::Settings::trace_until`] when the packet came; 0: the packet is not traced.
    pub armed: u32,
    /// The second, in jiffies, that `count` reports were made in.
    pub second: u32,
    pub count: u32,
    pub omitted: u32,
}

const _: () = assert!(MAX_SNAP < 2 * 4096 && size_of::<Report>() == 248 && size_of::<Tracing>() == 88);
