//! What nothing can be below that does the same: the least work of each kind, written for the purpose.

use crate::abi::FOUND_ROWS;
use crate::frame::{at, field};
use crate::network::{Headers4, Headers6};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::mem::offset_of;
use lb_common::abi::{AccessKey, AccessRule, Flow4, Flow6, FlowKey4, FlowKey6, Ip, Ip4, Ip6, Port, Protocol};

#[btf_map]
static FOUND: PerCpuArray<u64, FOUND_ROWS> = PerCpuArray::new();
/// lb's own tables.
#[btf_map]
static FLOWS4: HashMap<FlowKey4, Flow4, 1> = HashMap::new();
#[btf_map]
static FLOWS6: HashMap<FlowKey6, Flow6, 1> = HashMap::new();
#[btf_map]
static ACCESS: LpmTrie<AccessKey, AccessRule, 1> = LpmTrie::new();
/// What a flow that is remembered needs at least, as far as can be seen: its 5-tuple, and a cache line of state.
#[btf_map]
static FULL4: LruHashMap<[u32; 4], [u64; 8], 1> = LruHashMap::new();
#[btf_map]
static FULL6: LruHashMap<[u32; 10], [u64; 11], 1> = LruHashMap::new();

/// The access list that [`floor_prefix4`] and [`floor_prefix6`] look in.
const LIST: u32 = 1;

/// The floor of everything that sends a packet.
#[xdp(frags)]
pub fn floor_transmit(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

#[inline(always)]
fn key4(context: &XdpContext) -> Option<FlowKey4> {
    let headers = at::<Headers4>(context)?;
    // SAFETY: `at` proved that the headers lie in the frame.
    Some(unsafe {
        FlowKey4 {
            source: Ip4(field(headers, offset_of!(Headers4, source))),
            destination: Ip4(field(headers, offset_of!(Headers4, destination))),
            source_port: Port(field(headers, offset_of!(Headers4, source_port))),
            destination_port: Port(field(headers, offset_of!(Headers4, destination_port))),
            protocol: Protocol(field(headers, offset_of!(Headers4, protocol))),
            reserved: [0; 3],
        }
    })
}

#[inline(always)]
fn key6(context: &XdpContext) -> Option<FlowKey6> {
    let headers = at::<Headers6>(context)?;
    // SAFETY: `at` proved that the headers lie in the frame.
    Some(unsafe {
        FlowKey6 {
            source: Ip6(field(headers, offset_of!(Headers6, source))),
            destination: Ip6(field(headers, offset_of!(Headers6, destination))),
            source_port: Port(field(headers, offset_of!(Headers6, source_port))),
            destination_port: Port(field(headers, offset_of!(Headers6, destination_port))),
            protocol: Protocol(field(headers, offset_of!(Headers6, next_header))),
            reserved: [0; 3],
        }
    })
}

/// The floor of everything that remembers flows: one lookup in lb's table, and one counter of what it found.
#[xdp(frags)]
pub fn floor_lookup4(context: XdpContext) -> u32 {
    let Some(key) = key4(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: nobody writes the table while a lookup is measured.
    match unsafe { FLOWS4.get(&key) } {
        Some(flow) => count(flow.core.application, xdp_action::XDP_TX),
        None => xdp_action::XDP_DROP,
    }
}

/// As [`floor_lookup4`], for IPv6.
#[xdp(frags)]
pub fn floor_lookup6(context: XdpContext) -> u32 {
    let Some(key) = key6(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: nobody writes the table while a lookup is measured.
    match unsafe { FLOWS6.get(&key) } {
        Some(flow) => count(flow.core.application, xdp_action::XDP_TX),
        None => xdp_action::XDP_DROP,
    }
}

/// The floor of everything that finds out that a packet is none of its business: one lookup that finds nothing.
#[xdp(frags)]
pub fn floor_miss4(context: XdpContext) -> u32 {
    let Some(key) = key4(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: nobody writes the table while a lookup is measured.
    match unsafe { FLOWS4.get(&key) } {
        Some(_) => xdp_action::XDP_DROP,
        None => count(0, xdp_action::XDP_PASS),
    }
}

/// As [`floor_miss4`], for IPv6.
#[xdp(frags)]
pub fn floor_miss6(context: XdpContext) -> u32 {
    let Some(key) = key6(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: nobody writes the table while a lookup is measured.
    match unsafe { FLOWS6.get(&key) } {
        Some(_) => xdp_action::XDP_DROP,
        None => count(0, xdp_action::XDP_PASS),
    }
}

/// The floor of everything that remembers a new flow: an entry of a full table makes room for it.
#[xdp(frags)]
pub fn floor_insert4(context: XdpContext) -> u32 {
    let Some(key) = key4(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    let ports = u32::from(key.source_port.0) | u32::from(key.destination_port.0) << 16;
    let tuple = [key.source.0, key.destination.0, ports, u32::from(key.protocol.0)];
    match FULL4.insert(&tuple, &[1; 8], 0) {
        Ok(()) => count(0, xdp_action::XDP_TX),
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// As [`floor_insert4`], for IPv6.
#[xdp(frags)]
pub fn floor_insert6(context: XdpContext) -> u32 {
    let Some(key) = key6(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    let ports = u32::from(key.source_port.0) | u32::from(key.destination_port.0) << 16;
    let ([a, b, c, d], [e, f, g, h]) = (key.source.0, key.destination.0);
    let tuple = [a, b, c, d, e, f, g, h, ports, u32::from(key.protocol.0)];
    match FULL6.insert(&tuple, &[1; 11], 0) {
        Ok(()) => count(0, xdp_action::XDP_TX),
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// The floor of an access list: one lookup of the longest prefix in lb's table.
#[xdp(frags)]
pub fn floor_prefix4(context: XdpContext) -> u32 {
    match key4(&context) {
        Some(key) => prefix(Ip::from(key.source)),
        None => xdp_action::XDP_ABORTED,
    }
}

/// As [`floor_prefix4`], for IPv6.
#[xdp(frags)]
pub fn floor_prefix6(context: XdpContext) -> u32 {
    match key6(&context) {
        Some(key) => prefix(Ip::from(key.source)),
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn prefix(address: Ip) -> u32 {
    let key = AccessKey {
        list: LIST.to_be(),
        address,
    };
    match ACCESS.get(&Key::new(8 * size_of::<AccessKey>() as u32, key)) {
        Some(_) => xdp_action::XDP_DROP,
        None => count(0, xdp_action::XDP_PASS),
    }
}

/// Counts a packet, and returns its verdict.
#[inline(always)]
pub fn count(row: u32, verdict: u32) -> u32 {
    let Some(found) = FOUND.get_ptr_mut(row) else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: the row is this CPU's own.
    unsafe { *found += 1 };
    verdict
}
