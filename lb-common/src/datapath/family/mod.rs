//! What differs between IPv4 and IPv6: the one place where the pipeline branches on it.

mod v4;
mod v6;

use super::parse::Network;
use super::scratch::{Draft, Scratch};
use super::tables::{InsertError, Memory, Tables};
pub use super::tuple::Tuple;
use super::verdict::Pass;
use crate::abi::{FilterBit, FlowCore, HashKey, Ip, Port, Protocol, TunnelSource};
use crate::packet::Packet;
use bytemuck::Pod;
pub use v4::V4;
pub use v6::V6;

/// An address family: its types and its headers.
pub trait Family: Sized {
    type Address: Copy + PartialEq + Into<Ip>;
    type Key: Copy;
    type Flow: Copy;
    /// A header without options or extensions, as it is written.
    type Header: Pod;

    const HEADER_LEN: usize;
    /// The protocol of its control messages.
    const ICMP: Protocol;
    const ETHER_TYPE: u16;
    /// Its packets as payload of another IP packet.
    const IN_IP: Protocol;
    /// The shortest packet that every path carries: shorter ones are not asked for.
    const MIN_MTU: u32;

    /// Reads the network header at `at`.
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Network<Self::Address>, Pass>;
    /// Reads the header at `at` of a packet of which an ICMP error quotes `length` bytes.
    fn quoted<P: Packet>(packet: &P, at: usize, length: usize) -> Option<Network<Self::Address>>;
    /// Where the packet at `at` carries its datagram's identification, when it is a fragment.
    fn identification<P: Packet>(packet: &P, at: usize) -> Option<Identification>;
    /// Writes the identification of the fragment at `at`, whose offset is `field`.
    fn renumber<P: Packet>(packet: &mut P, at: usize, field: usize, new: u32) -> Option<()>;
    /// The sum of an address's words.
    fn sum(address: Self::Address) -> u32;
    /// The address, when it is of this family.
    fn address(ip: Ip) -> Option<Self::Address>;
    /// Writes both addresses into the header at `at` and counts the hop.
    fn rewrite<P: Packet>(
        packet: &mut P,
        at: usize,
        ttl: u8,
        leaving: &Tuple<Self::Address>,
        header_delta: u16,
    ) -> Option<()>;
    /// Sends the packet at `at` back: swaps its addresses, and gives it a new life.
    fn turn_around<P: Packet>(packet: &mut P, at: usize, network: &Network<Self::Address>) -> Option<()>;
    /// Writes the addresses of the quoted packet at `at`, and returns what this changes in the sum of the message that
    /// quotes it.
    fn restore<P: Packet>(
        packet: &mut P,
        at: usize,
        quote: &Network<Self::Address>,
        sent: &Tuple<Self::Address>,
    ) -> Option<u32>;
    /// Writes a whole new header at `at`, without options, for `payload` bytes from this node.
    fn write_header<P: Packet>(
        packet: &mut P,
        at: usize,
        source: Self::Address,
        destination: Self::Address,
        protocol: Protocol,
        payload: u16,
    ) -> Option<()>;

    /// The type of service or traffic class (RFC 2474, RFC 3168) of the header at `at`.
    fn class<P: Packet>(packet: &P, at: usize) -> Option<u8>;
    /// The outer source address of a flow with this hash, where such addresses are configured.
    fn tunnel_source(source: &TunnelSource, hash: u32) -> Option<Self::Address>;
    /// The outer header of a tunnel.
    fn outer(outer: &Outer<Self::Address>) -> Self::Header;

    fn key(tuple: &Tuple<Self::Address>) -> Self::Key;
    /// One direction's entry: what all families share, and the addresses that its packets leave with.
    fn flow(core: FlowCore, leaving: &Tuple<Self::Address>) -> Self::Flow;
    fn core(flow: &Self::Flow) -> &FlowCore;
    fn core_mut(flow: &mut Self::Flow) -> &mut FlowCore;
    /// Makes an entry's packets leave with another source address.
    fn set_source(flow: &mut Self::Flow, source: Self::Address);
    /// The tuple that a flow's packets leave with.
    fn leaving(flow: &Self::Flow, protocol: Protocol) -> Tuple<Self::Address>;
    fn draft(scratch: &mut Scratch) -> &mut Draft<Self::Address, Self::Key, Self::Flow>;

    fn visit<T: Tables, R>(
        tables: &T,
        memory: Memory,
        key: &Self::Key,
        visit: impl FnOnce(&mut Self::Flow) -> R,
    ) -> Option<R>;
    fn make<T: Tables>(tables: &T, flow: Self::Flow);
    fn visit_made<T: Tables, R>(
        tables: &T,
        made: bool,
        key: &Self::Key,
        visit: impl FnOnce(&mut Self::Flow) -> R,
    ) -> Option<R>;
    fn insert<T: Tables>(
        tables: &T,
        memory: Memory,
        key: &Self::Key,
        flow: &Self::Flow,
    ) -> Result<(), InsertError>;
    /// Removes an entry; false when there was none.
    fn remove<T: Tables>(tables: &T, memory: Memory, key: &Self::Key) -> bool;

    fn flow_hash(key: HashKey, tuple: &Tuple<Self::Address>) -> u64;
    fn client_hash(key: HashKey, client: Self::Address) -> u64;
    fn filter_bit(address: Self::Address) -> FilterBit;
    fn key_hash(key: HashKey, flow: &Self::Key) -> u32;
    fn bucket_hash(key: HashKey, client: Self::Address, port: Port) -> u32;
}

/// Which datagram a fragment belongs to, as far as its sender says.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Identification {
    /// Offset of the field.
    pub at: usize,
    /// As loaded; IPv4: in the low 16 bits.
    pub value: u32,
    /// Numbers of IPv4 count for each protocol (RFC 791), those of IPv6 for all (RFC 8200): then it is 0.
    pub protocol: Protocol,
}

/// The outer header of a tunnel.
#[derive(Clone, Copy)]
pub struct Outer<A> {
    pub source: A,
    pub destination: A,
    pub protocol: Protocol,
    /// Length of what follows the header.
    pub payload: u16,
    pub class: u8,
    /// IPv6: the flow label.
    pub label: u32,
    /// IPv4: the identification of a packet that may be fragmented on its way; 0: it may not.
    pub identification: u16,
}

/// TTL or hop limit of packets that this node makes (RFC 1700's recommended default).
const OWN_TTL: u8 = 64;
