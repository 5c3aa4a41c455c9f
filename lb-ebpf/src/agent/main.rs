//! What runs on an origin: a program that takes tunnels' headers off arriving frames, and one that makes room for them
//! in the connections that leave. Nothing is decided here: see [`lb_common::tunnel`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
#[path = "../packet.rs"]
mod packet;
#[path = "../skb.rs"]
mod skb;

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::abi::Port;
use lb_common::tunnel::{self, Clamp};
use maps::BpfLocals;
use packet::XdpPacket;
use skb::SkbPacket;

/// Attached to the interface by which tunnels' packets arrive.
#[xdp(frags)]
pub fn lb_decap(context: XdpContext) -> u32 {
    let Some(work) = maps::work() else {
        return xdp_action::XDP_PASS;
    };
    let gue_port = Port::new(maps::gue_port());
    let outcome = tunnel::process(&mut XdpPacket::new(&context), &BpfLocals, work, gue_port);
    if outcome.passes() {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

/// Attached to where answers leave.
#[classifier]
pub fn lb_clamp(context: TcContext) -> i32 {
    let path_mtu = maps::path_mtu();
    if path_mtu != 0
        && let Some(found) = tunnel::clamp(&SkbPacket::new(&context), &BpfLocals, path_mtu)
        && write(&context, &found)
    {
        maps::count(tunnel::maps::CLAMPED_ROW);
    }
    // What other programs, and the queueing discipline, do is their business.
    TC_ACT_UNSPEC
}

#[inline(always)]
fn write(context: &TcContext, clamp: &Clamp) -> bool {
    let skb = context.skb.skb;
    let value = clamp.value.to_ne_bytes();
    // SAFETY: two bytes are read from where they are; the helpers check the offsets. The kernel knows whether the
    // checksum of this frame is finished or left to the device: the helper adjusts it only in the first case.
    unsafe {
        bpf_skb_store_bytes(skb, clamp.at as u32, value.as_ptr().cast(), 2, 0) == 0
            && bpf_l4_csum_replace(
                skb,
                clamp.checksum as u32,
                u64::from(clamp.from),
                u64::from(clamp.to),
                2,
            ) == 0
    }
}

/// Unreachable: the verifier refuses a program that could get here, and a test looks for panics in the object.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel lends GPL-only helpers to programs whose licence says so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
