//! The floor of forwarding without memory of flows: is it one of ours, which slot of the ring, which real, count, send.

use crate::abi::{REAL_ROWS, RING_SIZE, Real, RingVip};
use crate::floors;
use crate::frame::{at, field, length};
use crate::network::{Headers4, Headers6};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::mem::offset_of;

#[btf_map]
static RING_VIPS: HashMap<RingVip, u32, 16> = HashMap::new();
#[btf_map]
static RING_SLOTS: Array<u32, { RING_SIZE as usize }> = Array::new();
#[btf_map]
static REALS: Array<Real, REAL_ROWS> = Array::new();
/// Packets and bytes of each real.
#[btf_map]
static REAL_TRAFFIC: PerCpuArray<[u64; 2], REAL_ROWS> = PerCpuArray::new();

const LINK_LEN: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

/// Ethernet and an outer IPv4 header.
#[repr(C, packed(2))]
struct Outer4 {
    link: Link,
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// Ethernet and an outer IPv6 header.
#[repr(C, packed(2))]
struct Outer6 {
    link: Link,
    version: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[repr(C, packed(2))]
struct Link {
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: u16,
}

/// The end of it for neighbours: another link address.
#[xdp(frags)]
pub fn floor_ring4(context: XdpContext) -> u32 {
    match real4(&context) {
        Some(real) => readdress(&context, real),
        None => xdp_action::XDP_ABORTED,
    }
}

/// As [`floor_ring4`], for IPv6.
#[xdp(frags)]
pub fn floor_ring6(context: XdpContext) -> u32 {
    match real6(&context) {
        Some(real) => readdress(&context, real),
        None => xdp_action::XDP_ABORTED,
    }
}

/// The end of it for tunnels: IP in IP.
#[xdp(frags)]
pub fn floor_ring_tunnel4(context: XdpContext) -> u32 {
    const GROWTH: usize = size_of::<Outer4>() - LINK_LEN;
    let Some(real) = real4(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    let inner = length(&context) - LINK_LEN;
    let Some(headers) = grow::<Outer4>(&context, GROWTH) else {
        return xdp_action::XDP_ABORTED;
    };
    let (source, destination) = (real.source[3], real.address[3]);
    let total_length = ((inner + GROWTH) as u16).to_be();
    // Version and length of the header, TTL, protocol, and what is not constant; a sum of words is the same in any order of
    // bytes (RFC 1071).
    let words = |word: u32| (word & 0xffff) + (word >> 16);
    let constant = u32::from(0x4500_u16.to_be()) + u32::from((0x4000 | u16::from(IPV4_IN_IP)).to_be());
    let sum = words(words(
        constant + u32::from(total_length) + words(source) + words(destination),
    ));
    let outer = Outer4 {
        link: link(real, ETHERTYPE_IPV4),
        version_ihl: 0x45,
        tos: 0,
        total_length,
        identification: 0,
        fragment: 0,
        ttl: 64,
        protocol: IPV4_IN_IP,
        checksum: !(sum as u16),
        source,
        destination,
    };
    // SAFETY: `grow` proved that the headers lie in the frame.
    unsafe { headers.write_unaligned(outer) };
    floors::count(1, xdp_action::XDP_TX)
}

/// As [`floor_ring_tunnel4`], for IPv6.
#[xdp(frags)]
pub fn floor_ring_tunnel6(context: XdpContext) -> u32 {
    const GROWTH: usize = size_of::<Outer6>() - LINK_LEN;
    let Some(real) = real6(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    let inner = length(&context) - LINK_LEN;
    let Some(headers) = grow::<Outer6>(&context, GROWTH) else {
        return xdp_action::XDP_ABORTED;
    };
    let outer = Outer6 {
        link: link(real, ETHERTYPE_IPV6),
        version: 0x6000_0000_u32.to_be(),
        payload_length: (inner as u16).to_be(),
        next_header: IPV6_IN_IP,
        hop_limit: 64,
        source: real.source,
        destination: real.address,
    };
    // SAFETY: `grow` proved that the headers lie in the frame.
    unsafe { headers.write_unaligned(outer) };
    floors::count(1, xdp_action::XDP_TX)
}

#[inline(always)]
fn real4(context: &XdpContext) -> Option<&'static Real> {
    let bytes = length(context);
    let headers = at::<Headers4>(context)?;
    // SAFETY: `at` proved that the headers lie in the frame.
    let (source, destination, ports, protocol): (u32, u32, u32, u8) = unsafe {
        (
            field(headers, offset_of!(Headers4, source)),
            field(headers, offset_of!(Headers4, destination)),
            field(headers, offset_of!(Headers4, source_port)),
            field(headers, offset_of!(Headers4, protocol)),
        )
    };
    let hash = mix(pair(source, destination) ^ u64::from(ports).rotate_left(16));
    choose([0, 0, 0, destination], ports, protocol, hash, bytes)
}

#[inline(always)]
fn real6(context: &XdpContext) -> Option<&'static Real> {
    let bytes = length(context);
    let headers = at::<Headers6>(context)?;
    // SAFETY: `at` proved that the headers lie in the frame.
    let (source, destination, ports, protocol): ([u32; 4], [u32; 4], u32, u8) = unsafe {
        (
            field(headers, offset_of!(Headers6, source)),
            field(headers, offset_of!(Headers6, destination)),
            field(headers, offset_of!(Headers6, source_port)),
            field(headers, offset_of!(Headers6, next_header)),
        )
    };
    let [a, b, c, d] = source;
    let hash = mix(mix(pair(a, b) ^ u64::from(ports).rotate_left(16)) ^ pair(c, d));
    choose(destination, ports, protocol, hash, bytes)
}

/// The real of a packet to `address`, which is counted.
#[inline(always)]
fn choose(address: [u32; 4], ports: u32, protocol: u8, hash: u64, bytes: usize) -> Option<&'static Real> {
    let vip = RingVip {
        address,
        // Loaded as it stands: the second of the two.
        port: (ports >> 16) as u16,
        protocol,
        reserved: 0,
    };
    // SAFETY: nobody writes the table while the floor is measured.
    unsafe { RING_VIPS.get(&vip) }?;
    let slot = (hash >> 32) as u32 & (RING_SIZE - 1);
    let row = *RING_SLOTS.get(slot)?;
    let traffic = REAL_TRAFFIC.get_ptr_mut(row)?;
    // SAFETY: the row is this CPU's own.
    unsafe {
        (*traffic)[0] += 1;
        (*traffic)[1] += bytes as u64;
    }
    REALS.get(row)
}

#[inline(always)]
fn readdress(context: &XdpContext, real: &Real) -> u32 {
    let Some(frame) = at::<[[u8; 6]; 2]>(context) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: `at` proved that both addresses lie in the frame.
    unsafe { frame.write_unaligned([real.mac, real.node_mac]) };
    floors::count(1, xdp_action::XDP_TX)
}

/// Makes room at the frame's head, and returns its first bytes.
#[inline(always)]
fn grow<T>(context: &XdpContext, growth: usize) -> Option<*mut T> {
    // SAFETY: the context is valid; packet pointers are read anew afterwards.
    if unsafe { bpf_xdp_adjust_head(context.ctx, -(growth as i32)) } != 0 {
        return None;
    }
    at(context)
}

#[inline(always)]
fn link(real: &Real, ether_type: u16) -> Link {
    Link {
        destination: real.mac,
        source: real.node_mac,
        ether_type: ether_type.to_be(),
    }
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Spreads all bits over the upper half.
#[inline(always)]
fn mix(value: u64) -> u64 {
    let product = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}
