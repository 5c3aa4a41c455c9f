//! IPv4.

use super::{Family, Identification, OWN_TTL, Outer, Tuple};
use crate::abi::{FilterBit, Flow4, FlowCore, FlowKey4, HashKey, Ip, Ip4, Port, Protocol, TunnelSource};
use crate::datapath::checksum;
use crate::datapath::parse::{self, IPV4_LEN, Ipv4, Network};
use crate::datapath::scratch::{Draft, Scratch};
use crate::datapath::tables::{InsertError, Memory, Tables};
use crate::datapath::verdict::Pass;
use crate::hash;
use crate::packet::Packet;
use core::mem::offset_of;
use network_types::ip::Ipv4Hdr;

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
    fn key_hash(key: HashKey, flow: &FlowKey4) -> u32 {
        hash::key4(key, flow)
    }

    #[inline(always)]
    fn bucket_hash(key: HashKey, client: Ip4, port: Port) -> u32 {
        hash::bucket4(key, client, port)
    }
}
