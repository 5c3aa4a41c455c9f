//! IPv6.

use super::{Family, Identification, OWN_TTL, Outer, Tuple};
use crate::abi::{FilterBit, Flow6, FlowCore, FlowKey6, HashKey, Ip, Ip6, Port, Protocol, TunnelSource};
use crate::datapath::checksum;
use crate::datapath::parse::{self, IPV6_LEN, Ipv6, Network};
use crate::datapath::scratch::{Draft, Scratch};
use crate::datapath::tables::{InsertError, Memory, Tables};
use crate::datapath::verdict::Pass;
use crate::hash;
use crate::packet::Packet;
use core::mem::offset_of;
use network_types::ip::Ipv6Hdr;

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
    fn key_hash(key: HashKey, flow: &FlowKey6) -> u32 {
        hash::key6(key, flow)
    }

    #[inline(always)]
    fn bucket_hash(key: HashKey, client: Ip6, port: Port) -> u32 {
        hash::bucket6(key, client, port)
    }
}
