//! What differs between IPv4 and IPv6: the one place where the pipeline branches on it.

use super::checksum;
use super::parse::{self, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Network};
use super::scratch::{Draft, Scratch};
use super::tables::{InsertError, Memory, Tables};
pub use super::tuple::Tuple;
use super::verdict::Pass;
use crate::abi::{
    FilterBit, Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, HashKey, Ip, Ip4, Ip6, Port, Protocol,
    TunnelSource,
};
use crate::hash;
use crate::packet::Packet;
use bytemuck::Pod;
use core::mem::offset_of;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

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

/// IPv4.
pub struct V4;

impl Family for V4 {
    type Address = Ip4;
    type Key = FlowKey4;
    type Flow = Flow4;
    type Header = Ipv4;

    const HEADER_LEN: usize = IPV4_LEN;
    const ICMP: Protocol = Protocol::ICMP;
    const ETHER_TYPE: u16 = parse::ETHERTYPE_IPV4;
    const IN_IP: Protocol = parse::IPV4_IN_IP;
    /// What every host takes (RFC 791); Linux believes in nothing less than 552.
    const MIN_MTU: u32 = 576;
    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Network<Ip4>, Pass> {
        parse::ipv4(packet, at)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: usize, length: usize) -> Option<Network<Ip4>> {
        parse::quoted_ipv4(packet, at, length)
    }

    #[inline(always)]
    fn identification<P: Packet>(packet: &P, at: usize) -> Option<Identification> {
        let field = at + offset_of!(Ipv4Hdr, id);
        Some(Identification {
            at: field,
            value: packet.read::<u16>(field)?.into(),
            protocol: Protocol(packet.read(at + offset_of!(Ipv4Hdr, proto))?),
        })
    }

    #[inline(always)]
    fn renumber<P: Packet>(packet: &mut P, at: usize, field: usize, new: u32) -> Option<()> {
        let at = at + offset_of!(Ipv4Hdr, check);
        let (sum, old): (u16, u16) = (packet.read(at)?, packet.read(field)?);
        let new = new as u16;
        let delta = checksum::difference(old.into(), new.into());
        packet.write(at, checksum::adjust(sum, delta))?;
        packet.write(field, new)
    }

    #[inline(always)]
    fn sum(address: Ip4) -> u32 {
        checksum::sum4(address)
    }

    #[inline(always)]
    fn address(ip: Ip) -> Option<Ip4> {
        ip.v4()
    }

    #[inline(always)]
    fn rewrite<P: Packet>(
        packet: &mut P,
        at: usize,
        ttl: u8,
        leaving: &Tuple<Ip4>,
        header_delta: u16,
    ) -> Option<()> {
        let field: u16 = packet.read(at + offset_of!(Ipv4Hdr, check))?;
        let delta = checksum::fold(u32::from(header_delta) + u32::from(checksum::TTL_DELTA));
        packet.write(at + offset_of!(Ipv4Hdr, ttl), ttl.wrapping_sub(1))?;
        packet.write(at + offset_of!(Ipv4Hdr, check), checksum::adjust(field, delta))?;
        packet.write(at + offset_of!(Ipv4Hdr, src_addr), leaving.source.0)?;
        packet.write(at + offset_of!(Ipv4Hdr, dst_addr), leaving.destination.0)
    }

    #[inline(always)]
    fn turn_around<P: Packet>(packet: &mut P, at: usize, network: &Network<Ip4>) -> Option<()> {
        let field: u16 = packet.read(at + offset_of!(Ipv4Hdr, check))?;
        // The TTL is the first byte of its word.
        let word = |ttl| u32::from(u16::from_ne_bytes([ttl, 0]));
        let delta = checksum::difference(word(network.ttl), word(OWN_TTL));
        packet.write(at + offset_of!(Ipv4Hdr, ttl), OWN_TTL)?;
        packet.write(at + offset_of!(Ipv4Hdr, check), checksum::adjust(field, delta))?;
        packet.write(at + offset_of!(Ipv4Hdr, src_addr), network.destination.0)?;
        packet.write(at + offset_of!(Ipv4Hdr, dst_addr), network.source.0)
    }

    #[inline(always)]
    fn restore<P: Packet>(packet: &mut P, at: usize, quote: &Network<Ip4>, sent: &Tuple<Ip4>) -> Option<u32> {
        let old: u16 = packet.read(at + offset_of!(Ipv4Hdr, check))?;
        let delta = checksum::difference(
            checksum::sum4(quote.source) + checksum::sum4(quote.destination),
            checksum::sum4(sent.source) + checksum::sum4(sent.destination),
        );
        let new = checksum::adjust(old, delta);
        packet.write(at + offset_of!(Ipv4Hdr, check), new)?;
        packet.write(at + offset_of!(Ipv4Hdr, src_addr), sent.source.0)?;
        packet.write(at + offset_of!(Ipv4Hdr, dst_addr), sent.destination.0)?;
        Some(u32::from(delta) + u32::from(checksum::difference(old.into(), new.into())))
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        at: usize,
        source: Ip4,
        destination: Ip4,
        protocol: Protocol,
        payload: u16,
    ) -> Option<()> {
        let total = payload.wrapping_add(IPV4_LEN as u16);
        let mut header = Ipv4::new(source, destination, protocol, OWN_TTL, total);
        header.checksum = !checksum::fold(header.sum());
        packet.write(at, header)
    }

    #[inline(always)]
    fn class<P: Packet>(packet: &P, at: usize) -> Option<u8> {
        packet.read(at + 1)
    }

    #[inline(always)]
    fn tunnel_source(source: &TunnelSource, hash: u32) -> Option<Ip4> {
        let TunnelSource { prefix4, mask4, .. } = *source;
        (mask4 != 0).then_some(Ip4(prefix4 & !mask4 | hash & mask4))
    }

    #[inline(always)]
    fn outer(outer: &Outer<Ip4>) -> Ipv4 {
        let total = outer.payload.wrapping_add(IPV4_LEN as u16);
        let mut header =
            Ipv4::new(outer.source, outer.destination, outer.protocol, OWN_TTL, total).with_tos(outer.class);
        if outer.identification != 0 {
            header = header.fragmentable(outer.identification);
        }
        header.checksum = !checksum::fold(header.sum());
        header
    }

    #[inline(always)]
    fn key(tuple: &Tuple<Ip4>) -> FlowKey4 {
        FlowKey4 {
            source: tuple.source,
            destination: tuple.destination,
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
            reserved: [0; 3],
        }
    }

    #[inline(always)]
    fn flow(core: FlowCore, leaving: &Tuple<Ip4>) -> Flow4 {
        Flow4 {
            core,
            source: leaving.source,
            destination: leaving.destination,
        }
    }

    #[inline(always)]
    fn core(flow: &Flow4) -> &FlowCore {
        &flow.core
    }

    #[inline(always)]
    fn core_mut(flow: &mut Flow4) -> &mut FlowCore {
        &mut flow.core
    }

    #[inline(always)]
    fn set_source(flow: &mut Flow4, source: Ip4) {
        flow.source = source;
    }

    #[inline(always)]
    fn leaving(flow: &Flow4, protocol: Protocol) -> Tuple<Ip4> {
        Tuple {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.core.source_port,
            destination_port: flow.core.destination_port,
            protocol,
        }
    }

    #[inline(always)]
    fn draft(scratch: &mut Scratch) -> &mut Draft<Ip4, FlowKey4, Flow4> {
        &mut scratch.v4
    }

    #[inline(always)]
    fn visit<T: Tables, R>(
        tables: &T,
        memory: Memory,
        key: &FlowKey4,
        visit: impl FnOnce(&mut Flow4) -> R,
    ) -> Option<R> {
        tables.flow4(memory, key, visit)
    }

    #[inline(always)]
    fn make<T: Tables>(tables: &T, flow: Flow4) {
        tables.make4(flow);
    }

    #[inline(always)]
    fn visit_made<T: Tables, R>(
        tables: &T,
        made: bool,
        key: &FlowKey4,
        visit: impl FnOnce(&mut Flow4) -> R,
    ) -> Option<R> {
        tables.made4(made, key, visit)
    }

    #[inline(always)]
    fn insert<T: Tables>(
        tables: &T,
        memory: Memory,
        key: &FlowKey4,
        flow: &Flow4,
    ) -> Result<(), InsertError> {
        tables.insert4(memory, key, flow)
    }

    #[inline(always)]
    fn remove<T: Tables>(tables: &T, memory: Memory, key: &FlowKey4) -> bool {
        tables.remove4(memory, key)
    }

    #[inline(always)]
    fn flow_hash(key: HashKey, tuple: &Tuple<Ip4>) -> u64 {
        let Tuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        } = *tuple;
        hash::flow4(key, source, destination, source_port, destination_port, protocol)
    }

    #[inline(always)]
    fn client_hash(key: HashKey, client: Ip4) -> u64 {
        hash::client4(key, client)
    }

    #[inline(always)]
    fn filter_bit(address: Ip4) -> FilterBit {
        FilterBit::of4(address)
    }

    #[inline(always)]
    fn bucket_hash(key: HashKey, client: Ip4, port: Port) -> u32 {
        hash::bucket4(key, client, port)
    }
}

/// IPv6.
pub struct V6;

impl Family for V6 {
    type Address = Ip6;
    type Key = FlowKey6;
    type Flow = Flow6;
    type Header = Ipv6;

    const HEADER_LEN: usize = IPV6_LEN;
    const ICMP: Protocol = Protocol::ICMPV6;
    const ETHER_TYPE: u16 = parse::ETHERTYPE_IPV6;
    const IN_IP: Protocol = parse::IPV6_IN_IP;
    const MIN_MTU: u32 = 1280;
    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Network<Ip6>, Pass> {
        parse::ipv6(packet, at)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: usize, length: usize) -> Option<Network<Ip6>> {
        parse::quoted_ipv6(packet, at, length)
    }

    #[inline(always)]
    fn identification<P: Packet>(packet: &P, at: usize) -> Option<Identification> {
        // The last word of the fragment header (RFC 8200 section 4.5).
        let field = parse::fragment_header(packet, at)? + 4;
        Some(Identification {
            at: field,
            value: packet.read(field)?,
            protocol: Protocol(0),
        })
    }

    #[inline(always)]
    fn renumber<P: Packet>(packet: &mut P, _at: usize, field: usize, new: u32) -> Option<()> {
        packet.write(field, new)
    }

    #[inline(always)]
    fn sum(address: Ip6) -> u32 {
        checksum::sum6(address)
    }

    #[inline(always)]
    fn address(ip: Ip) -> Option<Ip6> {
        ip.v6()
    }

    #[inline(always)]
    fn rewrite<P: Packet>(
        packet: &mut P,
        at: usize,
        ttl: u8,
        leaving: &Tuple<Ip6>,
        _header_delta: u16,
    ) -> Option<()> {
        packet.write(at + offset_of!(Ipv6Hdr, hop_limit), ttl.wrapping_sub(1))?;
        packet.write(at + offset_of!(Ipv6Hdr, src_addr), leaving.source.0)?;
        packet.write(at + offset_of!(Ipv6Hdr, dst_addr), leaving.destination.0)
    }

    #[inline(always)]
    fn turn_around<P: Packet>(packet: &mut P, at: usize, network: &Network<Ip6>) -> Option<()> {
        packet.write(at + offset_of!(Ipv6Hdr, hop_limit), OWN_TTL)?;
        packet.write(at + offset_of!(Ipv6Hdr, src_addr), network.destination.0)?;
        packet.write(at + offset_of!(Ipv6Hdr, dst_addr), network.source.0)
    }

    #[inline(always)]
    fn restore<P: Packet>(packet: &mut P, at: usize, quote: &Network<Ip6>, sent: &Tuple<Ip6>) -> Option<u32> {
        packet.write(at + offset_of!(Ipv6Hdr, src_addr), sent.source.0)?;
        packet.write(at + offset_of!(Ipv6Hdr, dst_addr), sent.destination.0)?;
        let delta = checksum::difference(
            checksum::sum6(quote.source) + checksum::sum6(quote.destination),
            checksum::sum6(sent.source) + checksum::sum6(sent.destination),
        );
        Some(delta.into())
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        at: usize,
        source: Ip6,
        destination: Ip6,
        protocol: Protocol,
        payload: u16,
    ) -> Option<()> {
        packet.write(at, Ipv6::new(source, destination, protocol, OWN_TTL, payload))
    }

    #[inline(always)]
    fn class<P: Packet>(packet: &P, at: usize) -> Option<u8> {
        let word: u16 = packet.read(at)?;
        Some((u16::from_be(word) >> 4) as u8)
    }

    #[inline(always)]
    fn tunnel_source(source: &TunnelSource, hash: u32) -> Option<Ip6> {
        let TunnelSource { prefix6, mask6, .. } = *source;
        let [a, b, c, d] = prefix6.0;
        (mask6 != 0).then_some(Ip6([a, b, c, d & !mask6 | hash & mask6]))
    }

    #[inline(always)]
    fn outer(outer: &Outer<Ip6>) -> Ipv6 {
        let Outer {
            source,
            destination,
            protocol,
            payload,
            class,
            label,
            ..
        } = *outer;
        Ipv6::new(source, destination, protocol, OWN_TTL, payload).with_class(class, label)
    }

    #[inline(always)]
    fn key(tuple: &Tuple<Ip6>) -> FlowKey6 {
        FlowKey6 {
            source: tuple.source,
            destination: tuple.destination,
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
            reserved: [0; 3],
        }
    }

    #[inline(always)]
    fn flow(core: FlowCore, leaving: &Tuple<Ip6>) -> Flow6 {
        Flow6 {
            core,
            source: leaving.source,
            destination: leaving.destination,
        }
    }

    #[inline(always)]
    fn core(flow: &Flow6) -> &FlowCore {
        &flow.core
    }

    #[inline(always)]
    fn core_mut(flow: &mut Flow6) -> &mut FlowCore {
        &mut flow.core
    }

    #[inline(always)]
    fn set_source(flow: &mut Flow6, source: Ip6) {
        flow.source = source;
    }

    #[inline(always)]
    fn leaving(flow: &Flow6, protocol: Protocol) -> Tuple<Ip6> {
        Tuple {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.core.source_port,
            destination_port: flow.core.destination_port,
            protocol,
        }
    }

    #[inline(always)]
    fn draft(scratch: &mut Scratch) -> &mut Draft<Ip6, FlowKey6, Flow6> {
        &mut scratch.v6
    }

    #[inline(always)]
    fn visit<T: Tables, R>(
        tables: &T,
        memory: Memory,
        key: &FlowKey6,
        visit: impl FnOnce(&mut Flow6) -> R,
    ) -> Option<R> {
        tables.flow6(memory, key, visit)
    }

    #[inline(always)]
    fn make<T: Tables>(tables: &T, flow: Flow6) {
        tables.make6(flow);
    }

    #[inline(always)]
    fn visit_made<T: Tables, R>(
        tables: &T,
        made: bool,
        key: &FlowKey6,
        visit: impl FnOnce(&mut Flow6) -> R,
    ) -> Option<R> {
        tables.made6(made, key, visit)
    }

    #[inline(always)]
    fn insert<T: Tables>(
        tables: &T,
        memory: Memory,
        key: &FlowKey6,
        flow: &Flow6,
    ) -> Result<(), InsertError> {
        tables.insert6(memory, key, flow)
    }

    #[inline(always)]
    fn remove<T: Tables>(tables: &T, memory: Memory, key: &FlowKey6) -> bool {
        tables.remove6(memory, key)
    }

    #[inline(always)]
    fn flow_hash(key: HashKey, tuple: &Tuple<Ip6>) -> u64 {
        let Tuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        } = *tuple;
        hash::flow6(key, source, destination, source_port, destination_port, protocol)
    }

    #[inline(always)]
    fn client_hash(key: HashKey, client: Ip6) -> u64 {
        hash::client6(key, client)
    }

    #[inline(always)]
    fn filter_bit(address: Ip6) -> FilterBit {
        FilterBit::of6(address)
    }

    #[inline(always)]
    fn bucket_hash(key: HashKey, client: Ip6, port: Port) -> u32 {
        hash::bucket6(key, client, port)
    }
}
