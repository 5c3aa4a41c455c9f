//! What happens to a packet, and the row that counts it.

/// What the shell has to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// The kernel handles it, untouched.
    Pass(Pass),
    /// It was rewritten and goes on. Counted in the traffic rows of its application and origin, not in the verdict
    /// rows.
    Forward(Exit),
    /// It was turned into an answer and goes back.
    Reply(Reply, Exit),
    /// It is kept by userspace, until it can be handled.
    Hold(Hold),
    /// It ends here.
    Drop(DropReason),
}

/// How a frame leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Out of the interface it came in by (XDP_TX).
    Transmit,
    /// Out of interface `ifindex` (XDP_REDIRECT).
    Redirect { ifindex: u32 },
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident from $first:literal {
        $(#[$zdoc:meta])* $zero:ident = $zword:literal,
        $($(#[$vdoc:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
        #[repr(u32)]
        pub enum $name { #[default] $(#[$zdoc])* $zero, $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their rows.
            pub const ALL: &[Self] = &[Self::$zero, $(Self::$variant,)*];

            /// The word used in output and metrics.
            pub const fn name(self) -> &'static str {
                match self { Self::$zero => $zword, $(Self::$variant => $word,)* }
            }

            /// The row of the verdict counters.
            pub const fn row(self) -> u32 {
                $first + self as u32
            }
        }
    };
}

reasons! {
    /// Why a packet is none of our business.
    Pass from 0 {
        /// No configuration was written yet.
        Unconfigured = "unconfigured",
        /// Neither IPv4 nor IPv6 (ARP, LLDP, …), or sent to a group of stations.
        NotIp = "not_ip",
        /// An IP header that is cut short or contradicts itself: the kernel counts and drops it.
        MalformedIp = "malformed_ip",
        /// Neither TCP nor UDP, nor an ICMP message that concerns a flow.
        OtherProtocol = "other_protocol",
        /// A fragment for none of our addresses, or of a datagram that is not ours.
        Fragment = "fragment",
        /// No application listens there and no flow is known.
        NotOurs = "not_ours",
    }
}

reasons! {
    /// Which answer was sent instead of forwarding.
    Reply from 32 {
        /// TCP RST: no flow is known for a segment that does not open one.
        ResetUnknownFlow = "reset_unknown_flow",
        /// TCP RST: nobody can serve a new connection.
        ResetNoOrigin = "reset_no_origin",
        /// ICMP port unreachable: nobody can serve a datagram.
        UnreachableNoOrigin = "unreachable_no_origin",
        /// ICMP "fragmentation needed" or "packet too big": it is longer than its path carries.
        TooBig = "packet_too_big",
        /// ICMP "time exceeded": its TTL or hop limit ended here.
        TimeExceeded = "time_exceeded",
        /// TCP RST: the connection's origin has drained long enough, or is down and keeps no connections. The first one goes
        /// on to the packet's receiver, the others answer their packets.
        ResetEnded = "reset_ended",
        /// ICMP echo reply: the address answers pings.
        Echo = "echo",
    }
}

reasons! {
    /// Why a packet is kept by userspace.
    Hold from 24 {
        /// A later fragment, whose first one has not come yet.
        Fragment = "fragment_held",
    }
}

reasons! {
    /// Why a packet of an application was dropped.
    DropReason from 64 {
        /// Its transport header is cut short or contradicts itself.
        Malformed = "malformed",
        /// A TCP RST for which no flow is known.
        UnknownFlow = "unknown_flow",
        /// A later fragment of a datagram that went, or would have gone, to an origin, but whose flow is not known (any more).
        Fragment = "fragment",
        /// The application's access list denies its source.
        Denied = "denied",
        /// The access list of all applications denies its source.
        DeniedGlobally = "denied_globally",
        /// An access list denies its source's country.
        DeniedCountry = "denied_country",
        /// The application opens no more flows this second.
        RateLimited = "rate_limited",
        /// Its source opens no more flows of the application this second.
        RateLimitedSource = "rate_limited_source",
        /// Origins could serve, but each has as many flows as it may have.
        OriginsFull = "origins_full",
        /// A TCP segment of no known flow, while flows are being taken over.
        Migrating = "migrating",
        /// Its TTL or hop limit ended here, and it may not be answered.
        TtlExpired = "ttl_expired",
        /// The origin's neighbour is not resolved.
        NoNextHop = "no_next_hop",
        /// The origin's record has gone although a flow names it.
        NoOriginRecord = "no_origin_record",
        /// No source port was free for a new flow.
        PortsExhausted = "ports_exhausted",
        /// The node has no source address for the origin.
        NoSourceAddress = "no_source_address",
        /// The origin cannot tell a new flow from another that goes on: `dnat` keeps the client's address and port, and the
        /// client talks to the same port of the origin by another of our addresses.
        TupleTaken = "tuple_taken",
        /// The memory of flows refused a new flow.
        NotRemembered = "not_remembered",
        /// The frame could not be resized for an answer.
        Resize = "resize",
        /// The checksum of a frame that arrived with only its pseudo-header summed could not be completed.
        PartialChecksum = "partial_checksum",
        /// It is longer than its path carries, and may not be answered, or no shorter one may be asked for.
        TooBig = "too_big",
        /// A later fragment, whose first one has not come yet, while nobody holds such frames: the daemon does not run, or has
        /// its hands full.
        NotHeld = "fragment_not_held",
        /// An ICMP error about a packet of an application, of no known flow.
        IcmpUnknownFlow = "icmp_unknown_flow",
        /// An ICMP "too big" about a packet in a tunnel of ours: the origin's path MTU is noted.
        PathMtuLearned = "path_mtu_learned",
        /// The node has given as many answers of its own as it may.
        ReplyLimited = "reply_limited",
        /// The program's own working memory or settings are missing: a defect of lb.
        Internal = "internal",
    }
}

reasons! {
    /// What is counted of a packet beside its verdict.
    Notice from 120 {
        /// A flow has proven itself, but the table of established flows is full, or holds as many direct ones as it may: it
        /// may be evicted.
        FlowTableFull = "flow_table_full",
    }
}

impl Verdict {
    /// The row of the verdict counters; `None` for forwarded packets.
    #[inline(always)]
    pub const fn row(self) -> Option<u32> {
        match self {
            Self::Pass(reason) => Some(reason.row()),
            Self::Forward(_) => None,
            Self::Reply(reason, _) => Some(reason.row()),
            Self::Hold(reason) => Some(reason.row()),
            Self::Drop(reason) => Some(reason.row()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::maps::VERDICT_ROWS;

    #[test]
    fn every_reason_has_a_row_of_its_own() {
        let rows = (Pass::ALL.iter().map(|reason| reason.row()))
            .chain(Reply::ALL.iter().map(|reason| reason.row()))
            .chain(Hold::ALL.iter().map(|reason| reason.row()))
            .chain(DropReason::ALL.iter().map(|reason| reason.row()))
            .chain(Notice::ALL.iter().map(|notice| notice.row()));
        let mut rows: Vec<u32> = rows.collect();
        let count = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), count);
        assert!(rows.iter().all(|&row| row < VERDICT_ROWS));
    }
}
