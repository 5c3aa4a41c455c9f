//! Flow memory: one entry per direction, each holding all that a packet of that direction needs.

use super::{Forwarding, Ip4, Ip6, Mac, OriginId, Port, Protocol, Tag};
use bytemuck::{Pod, Zeroable};

/// The 5-tuple of an IPv4 packet as it arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey4 {
    pub source: Ip4,
    pub destination: Ip4,
    pub source_port: Port,
    pub destination_port: Port,
    pub protocol: Protocol,
    pub reserved: [u8; 3],
}

/// The 5-tuple of an IPv6 packet as it arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey6 {
    pub source: Ip6,
    pub destination: Ip6,
    pub source_port: Port,
    pub destination_port: Port,
    pub protocol: Protocol,
    pub reserved: [u8; 3],
}

/// What both families' entries share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowCore {
    pub origin: OriginId,
    /// The application's id; its counter row.
    pub application: u32,
    /// When the flow was last known to be alive, in jiffies (low 32 bits). Written only when it has aged by an eighth
    /// of its timeout, so that a packet usually writes nothing.
    pub seen: u32,
    /// Interface through which the client is reached.
    pub client_ifindex: u32,
    /// Link addresses of the client's side: learned from its packets, so the return path follows a change of router.
    pub client_mac: Mac,
    pub node_mac: Mac,
    /// The ports this direction's packets leave with.
    pub source_port: Port,
    pub destination_port: Port,
    /// One's-complement difference to add to the IPv4 header's sum (addresses only).
    pub header_delta: u16,
    /// One's-complement difference to add to the TCP or UDP sum (addresses and ports).
    pub payload_delta: u16,
    pub tcp: TcpState,
    pub side: FlowSide,
    /// 1: the flow was given by the fallback pool, whose health is ignored.
    pub last_resort: u8,
    /// How often the client has repeated its SYN to an origin that did not answer.
    pub retries: u8,
    /// VLAN tags of the client's side, learned from its packets.
    pub client_tags: [Tag; 2],
    /// When the flow was opened, in jiffies (low 32 bits).
    pub opened: u32,
    /// How the origin is reached. Flows that are forwarded directly have the client's entry only, and leave as they came.
    pub forwarding: Forwarding,
    /// Of a connection that was reset or closed, as far as is seen: how often the client has opened another one since, from
    /// the same port. Such a SYN goes to the same origin, which knows better. In the client's entry, counted no further than
    /// to 2; `opened` is when it was last counted.
    pub asked: u8,
    pub reserved: [u8; 2],
}

/// One direction of an IPv4 flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Flow4 {
    pub core: FlowCore,
    /// The addresses this direction's packets leave with.
    pub source: Ip4,
    pub destination: Ip4,
}

/// One direction of an IPv6 flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Flow6 {
    pub core: FlowCore,
    /// The addresses this direction's packets leave with.
    pub source: Ip6,
    pub destination: Ip6,
}

/// Which way the packets of an entry travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct FlowSide(pub u8);

impl FlowSide {
    /// From the client to the origin.
    pub const CLIENT: Self = Self(0);
    /// From the origin to the client.
    pub const ORIGIN: Self = Self(1);
}

/// How far a TCP connection has come, as bits. Of UDP flows it is only known whether the origin has answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct TcpState(pub u8);

impl TcpState {
    /// The client's SYN was seen, nothing else.
    pub const NEW: Self = Self(0);
    /// The origin answered the SYN, or a datagram.
    pub const ANSWERED: u8 = 1;
    /// The client acknowledged: the handshake is complete.
    pub const ESTABLISHED: u8 = 2;
    /// The client closed its half.
    pub const CLIENT_FIN: u8 = 4;
    /// The origin closed its half.
    pub const ORIGIN_FIN: u8 = 8;
    /// Either side reset the connection, or the node.
    pub const RESET: u8 = 16;
    /// The node has reset the connection: each side is told so when it sends.
    pub const ENDED: u8 = 32;
    /// Since the reset the client has sent something that resets and opens nothing.
    pub const CLIENT_GOES_ON: u8 = 64;
    /// As has the origin.
    pub const ORIGIN_GOES_ON: u8 = 128;
    /// Both: nobody believed the reset.
    pub const BOTH_GO_ON: u8 = Self::CLIENT_GOES_ON | Self::ORIGIN_GOES_ON;

    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Whether both halves are closed or the connection was reset: only stragglers follow, unless the reset was a lie.
    #[inline(always)]
    pub const fn closing(self) -> bool {
        self.has(Self::CLIENT_FIN | Self::ORIGIN_FIN) || self.has(Self::RESET)
    }

    /// Whether the connection is over for all that is known. Resets of established ones can be forged by whoever guesses the
    /// addresses and ports: the ends see that the sequence number is wrong (RFC 5961 section 3.2), the node does not.
    #[inline(always)]
    pub const fn over(self) -> bool {
        let closed = self.has(Self::CLIENT_FIN | Self::ORIGIN_FIN) || self.has(Self::ENDED);
        closed || self.has(Self::RESET) && !self.has(Self::ESTABLISHED)
    }
}

const _: () = assert!(size_of::<FlowKey4>() == 16 && size_of::<FlowKey6>() == 40);
const _: () = assert!(size_of::<FlowCore>() == 56 && size_of::<Flow4>() == 64 && size_of::<Flow6>() == 88);
