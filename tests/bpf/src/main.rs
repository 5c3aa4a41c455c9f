//! Programs of the benchmark.
//!
//! The kernel's own repetition (BPF_PROG_TEST_RUN) gives a program the same frame again as the former run left it:
//! rewritten already. [`drive`] makes a fresh packet of another flow each time and calls the program that is measured,
//! which needs no change for it. The [`floors`] are called in the same way.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[expect(dead_code, reason = "the rest is for userspace")]
mod abi;
mod floors;
mod frame;
mod network;
mod ring;

use abi::{FLOORS, FRAME_LEN, Series, TEMPLATE_LEN, Varied, WORDS};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::mem::offset_of;
use frame::{at, length};
use network::{Headers4, Headers6};

#[btf_map]
static SERIES: PerCpuArray<Series, 1> = PerCpuArray::new();
#[btf_map]
static TARGETS: ProgramArray<{ FLOORS.len() + 1 }> = ProgramArray::new();

/// Looks at what the last packet has become, makes the next one, and calls the program that is measured.
#[xdp(frags)]
pub fn drive(context: XdpContext) -> u32 {
    let Some(series) = SERIES.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this CPU's only value, and one run at a time uses it.
    let series = unsafe { &mut *series };
    let drift = length(&context) as i32 - FRAME_LEN as i32;
    if drift != series.growth as i32 {
        series.bad += 1;
    }
    if drift != 0 {
        // SAFETY: the context is valid; packet pointers are read anew afterwards.
        if unsafe { bpf_xdp_adjust_head(context.ctx, drift) } != 0 {
            return xdp_action::XDP_ABORTED;
        }
    }
    let Some(frame) = at::<[u64; WORDS]>(&context) else {
        return xdp_action::XDP_ABORTED;
    };
    let flow = abi::flow(series.turn, series.mask, series.flows);
    let (address, port) = abi::ends(series.first_address, series.first_port, series.port_bits, flow);
    let (address, port) = (address.to_be(), port.to_be());
    series.turn = series.turn.wrapping_add(1);
    let base = frame.cast::<u8>();
    let v4 = series.varied == Varied::SOURCE4 || series.varied == Varied::DESTINATION4;
    // SAFETY: `at` proved that the template's length lies in the frame, and all offsets lie in the template. The frame
    // is at an address that is a multiple of 8 only as far as nobody moved it: the machine does not mind.
    unsafe {
        let ttl = if v4 {
            base.add(offset_of!(Headers4, ttl))
        } else {
            base.add(offset_of!(Headers6, hop_limit))
        };
        if u32::from(ttl.read_volatile()) != series.ttl_after {
            series.bad += 1;
        }
        let words = frame.cast::<u64>();
        let mut word = 0;
        while word < WORDS {
            words.add(word).write_volatile(series.template[word]);
            word += 1;
        }
        let (address_at, port_at) = match series.varied {
            Varied::SOURCE4 => (offset_of!(Headers4, source), offset_of!(Headers4, source_port)),
            Varied::DESTINATION4 => (
                offset_of!(Headers4, destination),
                offset_of!(Headers4, destination_port),
            ),
            Varied::SOURCE6 => (
                offset_of!(Headers6, source) + 12,
                offset_of!(Headers6, source_port),
            ),
            _ => (
                offset_of!(Headers6, destination) + 12,
                offset_of!(Headers6, destination_port),
            ),
        };
        base.add(address_at).cast::<u32>().write_volatile(address);
        if series.destinations > 1 {
            let destination = if v4 {
                offset_of!(Headers4, destination)
            } else {
                offset_of!(Headers6, destination) + 12
            };
            let destination = base.add(destination).cast::<u32>();
            let first = u32::from_be(destination.read_volatile());
            let chosen = first.wrapping_add(abi::spread(flow, series.destinations));
            destination.write_volatile(chosen.to_be());
        }
        base.add(port_at).cast::<u16>().write_volatile(port);
        // Comes back only when the target is not there.
        TARGETS.tail_call(&context, series.target);
    }
    xdp_action::XDP_ABORTED
}

const _: () = assert!(size_of::<Headers6>() <= TEMPLATE_LEN && TEMPLATE_LEN <= FRAME_LEN);

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
