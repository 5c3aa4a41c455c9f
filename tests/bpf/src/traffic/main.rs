//! Traffic for tests: floods from random sources, and packets that are numbered, so that each one lost, doubled or
//! misdirected shows.
//!
//! `generate` is run with live frames (BPF_PROG_TEST_RUN): it makes each frame anew and sends it out of an interface.
//! `sink` runs where they arrive; it counts and drops them and lets everything else pass.
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
mod network;

use abi::{
    APPLICATION_AT, FIRST_ORIGIN, FIRST_ORIGIN_PORT, FIRST_PORT, FIRST_SOURCE, GENERATION_AT, Generations,
    LAP, NUMBER_AT, Order, SEEN_WORDS, SOURCES, TTL, Tally, WORDS, place,
};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::intrinsics::{AtomicOrdering, atomic_or, atomic_xadd};
use core::mem::offset_of;
use frame::{at, field};
use making::{add, make};
use network::Headers4;

#[btf_map]
static ORDER: Array<Order, 1> = Array::new();
#[btf_map]
static GENERATIONS: Array<Generations, 1> = Array::new();
#[btf_map]
static TALLY: Array<Tally, 1> = Array::new();
#[btf_map]
static SEEN: Array<u64, { SEEN_WORDS as usize }> = Array::new();

/// Where TCP's flags stand in a frame.
const TCP_FLAGS_AT: usize = 47;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Makes the next packet and sends it.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let (Some(order), Some(tally), Some(frame)) = (
        ORDER.get_ptr_mut(0),
        TALLY.get_ptr(0),
        at::<[u64; WORDS]>(&context),
    ) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map's only value; one run at a time writes the fields that are written here, and userspace the others,
    // each in one store.
    let order = unsafe { &mut *order };
    let number = order.next;
    // SAFETY: a field of the map's only value, which other CPUs change in one store.
    let arrived = unsafe { (&raw const (*tally).arrived).read_volatile() };
    if order.window != 0 && number.wrapping_sub(arrived) >= u64::from(order.window) {
        return xdp_action::XDP_DROP;
    }
    order.next = number.wrapping_add(1);
    let acknowledges = order.handshakes != 0 && number & 1 != 0;
    let random = if order.applications != 0 {
        number
    } else if order.handshakes != 0 {
        mix(number >> 1)
    } else {
        mix(number)
    };
    let source = (FIRST_SOURCE + (random as u32 & (SOURCES - 1))).to_be();
    let port = (1_024 + (random >> 32) as u16 % 60_000).to_be();
    let base = frame.cast::<u8>();
    // SAFETY: `at` proved that all words of the frame are there, and the offsets lie in them. The machine does not mind
    // where words stand.
    unsafe {
        let address = make(frame, &order.template, source, port);
        if order.checksum_at != 0 {
            // Of TCP or of UDP.
            let offset = if order.checksum_at == 50 { 50 } else { 40 };
            add(base.add(offset), address + u32::from(port));
        }
        if acknowledges {
            // The flags stand in the second byte of their word.
            let word = |flags| u16::from_ne_bytes([0, flags]);
            base.add(TCP_FLAGS_AT).write_volatile(ACK);
            add(base.add(50), u32::from(!word(SYN)) + u32::from(word(ACK)));
        }
        if order.applications != 0 {
            let application = (number % u64::from(order.applications)) as u32;
            let port = FIRST_PORT.wrapping_add(application as u16).to_be();
            base.add(offset_of!(Headers4, destination_port))
                .cast::<u16>()
                .write_volatile(port);
            base.add(NUMBER_AT).cast::<u64>().write_volatile(number);
            if let Some(generations) = GENERATIONS.get_ptr(0) {
                let in_force = (&raw const (*generations).in_force).read_volatile();
                base.add(GENERATION_AT).cast::<u32>().write_volatile(in_force);
            }
            base.add(APPLICATION_AT).cast::<u32>().write_volatile(application);
        }
        bpf_redirect(order.ifindex, 0) as u32
    }
}

/// The finalizer of SplitMix64: numbers become random.
#[inline(always)]
fn mix(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Takes what [`generate`] has sent.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    let Some(headers) = at::<Headers4>(&context) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: `at` proved that the headers lie in the frame.
    let (kind, ttl, destination, port): (u16, u8, u32, u16) = unsafe {
        (
            field(headers, offset_of!(Headers4, ether_type)),
            field(headers, offset_of!(Headers4, ttl)),
            field(headers, offset_of!(Headers4, destination)),
            field(headers, offset_of!(Headers4, destination_port)),
        )
    };
    if kind != 0x0800_u16.to_be() || (ttl != TTL && ttl != TTL - 1) {
        return xdp_action::XDP_PASS;
    }
    let (Some(order), Some(tally)) = (ORDER.get_ptr_mut(0), TALLY.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map's only value, which nobody changes here.
    let order = unsafe { &*order };
    if order.applications != 0
        && let Some(frame) = at::<[u64; WORDS]>(&context)
    {
        judge(order, tally, frame, destination, u16::from_be(port));
    }
    // Last, so that who waits for it sees the rest.
    // SAFETY: the address of a field of a valid value.
    count(unsafe { &raw mut (*tally).arrived }, 1);
    xdp_action::XDP_DROP
}

/// Counts, on any CPU at once, and returns what was counted before.
#[inline(always)]
fn count(word: *mut u64, by: u64) -> u64 {
    // SAFETY: all callers' words are those of the tally.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, by) }
}

/// Was a numbered packet here before, and is it where it should be?
#[inline(always)]
fn judge(order: &Order, tally: *mut Tally, frame: *mut [u64; WORDS], destination: u32, port: u16) {
    // SAFETY: the whole frame is there, and the offsets lie in it.
    let (link, number, sent_in, application): (u64, u64, u32, u32) = unsafe {
        (
            field(frame, 0),
            field(frame, NUMBER_AT),
            field(frame, GENERATION_AT),
            field(frame, APPLICATION_AT),
        )
    };
    // SAFETY: addresses of fields of a valid value.
    let (twice, misdirected, newer, slow, first) = unsafe {
        (
            &raw mut (*tally).twice,
            &raw mut (*tally).misdirected,
            &raw mut (*tally).newer,
            &raw mut (*tally).slow,
            &raw mut (*tally).first,
        )
    };
    if let Some(word) = SEEN.get_ptr_mut((number >> 6) as u32) {
        let bit = 1 << (number & 63);
        // SAFETY: a valid word of the map.
        let before = unsafe { atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(word, bit) };
        if before & bit != 0 {
            count(twice, 1);
        }
    }
    let newest = match GENERATIONS.get_ptr(0) {
        // SAFETY: userspace writes it in one store.
        Some(generations) => unsafe { (&raw const (*generations).newest).read_volatile() },
        None => 0,
    };
    let [_, _, _, last] = destination.to_ne_bytes();
    let origin = u32::from(last).wrapping_sub(u32::from(FIRST_ORIGIN));
    let offset = u32::from(port).wrapping_sub(u32::from(FIRST_ORIGIN_PORT));
    let link = link << 16;
    let mut at_home = false;
    let mut index = 0;
    while index < LAP {
        // Volatile: each is read. LLVM would make an index of the origin, whose bound the verifier does not see.
        // SAFETY: it lies in the order.
        let home = unsafe { (&raw const order.origins[index as usize]).read_volatile() };
        at_home |= index == origin && home << 16 == link;
        index += 1;
    }
    // Any that was in force while the packet was on its way may have handled it.
    let (old, mut between, mut generation) = (place(application, sent_in), false, 0);
    while generation < LAP {
        let number = sent_in.wrapping_add(generation);
        between |= newest.wrapping_sub(number) <= newest.wrapping_sub(sent_in)
            && origin == place(application, number);
        generation += 1;
    }
    let right = at_home && offset >> 3 == application && offset & 7 == origin && between;
    if newest.wrapping_sub(sent_in) > 1 {
        count(slow, 1);
    }
    if !right {
        if count(misdirected, 1) == 0 {
            // SAFETY: whoever counts the first alone writes it.
            unsafe {
                *first = [
                    number,
                    u64::from(destination) << 32 | u64::from(port),
                    u64::from(sent_in) << 32 | u64::from(newest),
                ];
            }
        }
    } else if origin != old {
        count(newer, 1);
    }
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
