//! Packets for a node, as if they came in by one of its interfaces, and their ends on both sides.
//!
//! `inject` is run with live frames (BPF_PROG_TEST_RUN) in the node's namespace: it makes each frame anew and hands it to what
//! is measured. `take` runs where packets to origins arrive, `returned` where those to clients do; both count and drop them and
//! let everything else pass. `through` does nothing: an interface that runs a program has what live frames need.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "the BPF backend knows no atomic operation of core's own"
)]

#[expect(dead_code, reason = "the rest is for userspace")]
mod abi;
#[path = "../frame.rs"]
#[expect(dead_code, reason = "the rest is the benchmark's")]
mod frame;
#[path = "../making.rs"]
mod making;
#[path = "../network.rs"]
#[expect(dead_code, reason = "the rest is the benchmark's")]
mod network;

use abi::{
    CALL, CLIENT_NUMBER, FIRST_PORT, HOPS, ORIGIN_NUMBER, Order, PORTS, REDIRECT, SAME_SOURCE_BITS,
    TCP_CHECKSUM_AT, TRANSMIT, TTL, Tally, UDP_CHECKSUM_AT, WORDS,
};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::offset_of;
use frame::{at, field};
use making::{add, make};
use network::Headers4;

#[btf_map]
static ORDER: Array<Order, 1> = Array::new();
#[btf_map]
static TALLY: Array<Tally, 1> = Array::new();
#[btf_map]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();

const IPV4: u16 = 0x0800_u16.to_be();
const IPIP: u8 = 4;
const TCP: u8 = 6;
/// Where TCP's header has its numbers and its flags.
const SEQUENCE_AT: usize = 38;
const ACKNOWLEDGMENT_AT: usize = 42;
const FLAGS_AT: usize = 47;
const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
/// Ethernet, IPv4, TCP.
const TCP_LEN: usize = 54;

/// Makes the next packet and hands it over. Takes fragments as lb does, which it could not call otherwise.
#[xdp(frags)]
pub fn inject(context: XdpContext) -> u32 {
    let (Some(order), Some(frame)) = (ORDER.get_ptr_mut(0), at::<[u64; WORDS]>(&context)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map's only value; one run at a time writes the only field that is written here, and userspace writes while
    // there is none.
    let order = unsafe { &mut *order };
    let number = order.next as u32;
    order.next += 1;
    let flow = order
        .first_flow
        .wrapping_add(number.wrapping_mul(order.step) & order.mask);
    let source = order.first_source.wrapping_add(flow >> SAME_SOURCE_BITS).to_be();
    let port = ((FIRST_PORT + flow % PORTS) as u16).to_be();
    let base = frame.cast::<u8>();
    // SAFETY: `at` proved that all words of the frame are there, and the offsets lie in them. The machine does not mind where
    // words stand.
    unsafe {
        let address = make(frame, &order.template, source, port);
        let ends = address + u32::from(port);
        if order.checksum_at == TCP_CHECKSUM_AT {
            add(base.add(TCP_CHECKSUM_AT as usize), ends);
        } else {
            add(base.add(UDP_CHECKSUM_AT as usize), ends);
        }
    }
    match order.action {
        TRANSMIT => xdp_action::XDP_TX,
        // SAFETY: the helper takes any number.
        REDIRECT => unsafe { bpf_redirect(order.ifindex, 0) as u32 },
        CALL => {
            // SAFETY: a program of this type, or none; it comes back only where there is none.
            unsafe { PROGRAMS.tail_call(&context, 0) };
            xdp_action::XDP_ABORTED
        }
        _ => xdp_action::XDP_PASS,
    }
}

/// Takes what the node sends to origins; those may answer.
#[xdp]
pub fn take(context: XdpContext) -> u32 {
    let (Some(order), Some(tally)) = (ORDER.get_ptr(0), TALLY.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(headers) = at::<Headers4>(&context) else {
        return xdp_action::XDP_PASS;
    };
    if !is_ours(headers) {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: fields of the maps' only values; the first is only added to.
    let answers = unsafe {
        count(&raw mut (*tally).arrived);
        (&raw const (*order).answers).read_volatile()
    };
    if answers != 0
        && let Some(frame) = at::<[u8; TCP_LEN]>(&context)
        // SAFETY: `at` proved that both are there.
        && unsafe { (*headers).protocol == TCP && *frame.cast::<u8>().add(FLAGS_AT) == SYN }
    {
        // SAFETY: as above.
        unsafe { answer(headers, frame.cast()) };
        return xdp_action::XDP_TX;
    }
    xdp_action::XDP_DROP
}

/// Takes what comes to clients.
#[xdp]
pub fn returned(context: XdpContext) -> u32 {
    let Some(tally) = TALLY.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    match at::<Headers4>(&context) {
        Some(headers) if is_ours(headers) => {
            // SAFETY: a field of the map's only value, which is only added to.
            unsafe { count(&raw mut (*tally).returned) };
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

#[xdp]
pub fn through(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Whether somebody here has made it, in a tunnel or not.
#[inline(always)]
fn is_ours(headers: *const Headers4) -> bool {
    // SAFETY: the caller found all of the headers in the frame.
    let (kind, ttl, protocol): (u16, u8, u8) = unsafe {
        (
            field(headers, offset_of!(Headers4, ether_type)),
            field(headers, offset_of!(Headers4, ttl)),
            field(headers, offset_of!(Headers4, protocol)),
        )
    };
    kind == IPV4 && (protocol == IPIP || ttl <= TTL && ttl >= TTL - HOPS)
}

/// Turns a SYN into its answer.
///
/// # Safety
/// Both point to the frame, which holds all of TCP's header.
#[inline(always)]
unsafe fn answer(headers: *mut Headers4, frame: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let Headers4 {
            link,
            source,
            destination,
            source_port,
            destination_port,
            ..
        } = headers.read();
        let [a, b, c, d, e, f, g, h, i, j, k, l] = link;
        (*headers).link = [g, h, i, j, k, l, a, b, c, d, e, f];
        (*headers).source = destination;
        (*headers).destination = source;
        (*headers).source_port = destination_port;
        (*headers).destination_port = source_port;
        let (sequence, acknowledgment) = (
            frame.add(SEQUENCE_AT).cast::<u32>(),
            frame.add(ACKNOWLEDGMENT_AT).cast::<u32>(),
        );
        let new = (ORIGIN_NUMBER.to_be(), (CLIENT_NUMBER + 1).to_be());
        let old = (sequence.read_unaligned(), acknowledgment.read_unaligned());
        sequence.write_unaligned(new.0);
        acknowledgment.write_unaligned(new.1);
        frame.add(FLAGS_AT).write_volatile(SYN_ACK);
        // The flags stand in the second byte of their word.
        let word = |flags| u16::from_ne_bytes([0, flags]);
        let halves = |number: u32| (number >> 16) + (number & 0xffff);
        let sum = halves(new.0)
            + halves(new.1)
            + halves(!old.0)
            + halves(!old.1)
            + u32::from(word(SYN_ACK))
            + u32::from(!word(SYN));
        add(frame.add(TCP_CHECKSUM_AT as usize), sum);
    }
}

/// Adds one.
///
/// # Safety
/// The pointer is valid.
#[inline(always)]
unsafe fn count(counter: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}

/// Unreachable, as in lb itself.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel lends GPL-only helpers to programs whose licence says so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
