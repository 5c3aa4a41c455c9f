//! The XDP program: it lends pointers, maps and helpers to [`lb_common::datapath::process`] and turns its verdict into
//! an XDP action. Nothing is decided here.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the BPF backend has no other atomics")]

mod maps;
mod packet;
mod trace;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::abi::maps::REPORT;
use lb_common::datapath::{self, Arrival, DropReason, Exit, Scratch, Step, Verdict};
use lb_common::packet::Packet;
use lb_common::trace::decided;
use maps::BpfTables;
use packet::XdpPacket;

/// The first stage, attached to interfaces.
#[xdp(frags)]
pub fn lb(context: XdpContext) -> u32 {
    let (Some(scratch), tables) = (maps::scratch(), BpfTables::new()) else {
        return xdp_action::XDP_ABORTED;
    };
    let step = datapath::known(&mut XdpPacket::new(&context), &tables, scratch, arrival(&context));
    // Packets that are traced end elsewhere.
    act(conclude(&context, &tables, step))
}

/// The first stage for packets that are traced.
#[xdp(frags)]
pub fn lb_traced(context: XdpContext) -> u32 {
    let (Some(scratch), tables) = (maps::scratch(), BpfTables::new()) else {
        return xdp_action::XDP_ABORTED;
    };
    let step = datapath::traced(&mut XdpPacket::new(&context), &tables, scratch, arrival(&context));
    go_on(&context, &tables, scratch, step)
}

#[inline(always)]
fn arrival(context: &XdpContext) -> Arrival {
    Arrival {
        ifindex: context.ingress_ifindex() as u32,
        // SAFETY: the helper has no arguments; the verifier inlines it to a load.
        now: unsafe { bpf_jiffies64() } as u32,
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $program:ident = $stage:ident;)*) => { $(
        $(#[$doc])*
        #[xdp(frags)]
        pub fn $program(context: XdpContext) -> u32 {
            let (Some(scratch), tables) = (maps::scratch(), BpfTables::new()) else {
                return xdp_action::XDP_ABORTED;
            };
            let step = datapath::$stage(&mut XdpPacket::new(&context), &tables, scratch);
            go_on(&context, &tables, scratch, step)
        }
    )* };
}

stages! {
    lb_young = young;
    lb_admit = admit;
    lb_select = select;
    lb_connect = connect;
    lb_send = send;
    lb_retire = retire;
    lb_wrap = wrap;
    lb_icmp = icmp;
    lb_fragment = fragment;
    lb_reply = reply;
}

/// Tells userspace what the time is in jiffies.
#[xdp]
pub fn lb_clock(context: XdpContext) -> u32 {
    // SAFETY: helpers without arguments.
    let (jiffies, nanoseconds) = unsafe { (bpf_jiffies64(), bpf_ktime_get_ns()) };
    match XdpPacket::new(&context).write(0, [jiffies, nanoseconds]) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Goes on with the next stage, or ends; what was decided is reported of packets that are traced.
///
/// What is reported is noted where the verdict is acted upon: used in two places, the parts that a variant leaves out get
/// registers of their own, and the verifier refuses to see those spilled.
#[inline(always)]
fn go_on(context: &XdpContext, tables: &BpfTables, scratch: &mut Scratch, step: Step) -> u32 {
    let verdict = conclude(context, tables, step);
    scratch.outcome = decided(verdict);
    let action = match verdict {
        Verdict::Forward(Exit::Redirect { ifindex }) | Verdict::Reply(_, Exit::Redirect { ifindex }) => {
            scratch.outcome.leaves_by = ifindex;
            act(verdict)
        }
        _ => act(verdict),
    };
    if scratch.traced != 0 {
        scratch.outcome.action = action;
        maps::tail_call(context, REPORT.0);
    }
    action
}

/// Goes on with the next stage; comes back with the verdict, counted, when there is none.
#[inline(always)]
fn conclude(context: &XdpContext, tables: &BpfTables, step: Step) -> Verdict {
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Go(stage) => {
            maps::tail_call(context, stage.index());
            // The stage is not loaded.
            Verdict::Drop(DropReason::Internal)
        }
    };
    let verdict = match verdict {
        Verdict::Hold(_) => hold(context, verdict),
        _ => verdict,
    };
    datapath::count(tables, verdict);
    verdict
}

#[inline(always)]
fn act(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Forward(exit) | Verdict::Reply(_, exit) => leave(exit),
        Verdict::Hold(_) | Verdict::Drop(_) => xdp_action::XDP_DROP,
    }
}

/// Hands the frame to userspace, and drops it where nobody takes it.
#[inline(always)]
fn hold(context: &XdpContext, verdict: Verdict) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return Verdict::Drop(DropReason::Internal);
    };
    scratch.held.length = XdpPacket::new(context).whole() as u32;
    if maps::hand_over(context, &scratch.held) {
        verdict
    } else {
        Verdict::Drop(DropReason::NotHeld)
    }
}

#[inline(always)]
fn leave(exit: Exit) -> u32 {
    match exit {
        Exit::Transmit => xdp_action::XDP_TX,
        // SAFETY: the helper takes two numbers and checks them.
        Exit::Redirect { ifindex } => unsafe { bpf_redirect(ifindex, 0) as u32 },
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
