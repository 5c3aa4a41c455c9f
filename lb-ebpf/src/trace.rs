//! Tracing: a packet is kept as it came, and what became of it is reported, by programs of their own: packets that are not
//! traced pay for no more than one look at the settings, which they have at hand.

use crate::maps::{self, BpfTables};
use crate::packet::XdpPacket;
use aya_ebpf::bindings::{BPF_F_CURRENT_CPU, xdp_action};
use aya_ebpf::btf_maps::{Array, PerCpuArray, PerfEventArray};
use aya_ebpf::helpers::bpf_perf_event_output;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use lb_common::abi::{MAX_SNAP, Report, Tap, Tracing};
use lb_common::datapath::{Note, Stage, Tables};
use lb_common::trace;

#[btf_map]
static TRACING: Array<Tracing, 1> = Array::new();
#[btf_map]
static TAP: PerCpuArray<Tap, 1> = PerCpuArray::new();
#[btf_map]
static REPORTS: PerfEventArray = PerfEventArray::new();

#[inline(always)]
fn tap() -> Option<&'static mut Tap> {
    // SAFETY: the program is not preempted by another packet on this CPU, so the value has one user.
    TAP.get_ptr_mut(0).map(|tap| unsafe { &mut *tap })
}

/// Keeps the packet as it came.
#[xdp(frags)]
pub fn lb_tap(context: XdpContext) -> u32 {
    // SAFETY: helpers without arguments.
    let (now, time) = unsafe { (bpf_jiffies64() as u32, bpf_ktime_get_ns()) };
    let packet = XdpPacket::new(&context);
    if let (Some(tap), Some(tracing), Some(settings), Some(scratch)) = (
        tap(),
        TRACING.get(0),
        BpfTables::new().settings(),
        maps::scratch(),
    ) {
        let length = packet.whole();
        let wanted = if length < tracing.snap as usize {
            length
        } else {
            tracing.snap as usize
        };
        tap.report.time = time;
        tap.report.length = length as u32;
        tap.report.ifindex = context.ingress_ifindex() as u32;
        tap.report.captured = copy(&context, tap.frame.as_mut_ptr().cast(), wanted);
        trace::find(&packet, &mut tap.report.ends[0]);
        tap.armed = trace::until(settings, now);
        scratch.note = Note::default();
        scratch.traced = 1;
    }
    maps::tail_call(&context, Stage::Traced.index());
    xdp_action::XDP_ABORTED
}

/// Reports what became of the packet, if it was kept, and lets it go.
#[xdp(frags)]
pub fn lb_report(context: XdpContext) -> u32 {
    let Some(scratch) = maps::scratch() else {
        return xdp_action::XDP_ABORTED;
    };
    let outcome = scratch.outcome;
    scratch.traced = 0;
    if let (Some(tap), Some(tracing), Some(settings)) = (tap(), TRACING.get(0), BpfTables::new().settings()) {
        let packet = XdpPacket::new(&context);
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_jiffies64() } as u32;
        // What was kept while something else was traced is not of this packet.
        let kept = tap.armed != 0 && tap.armed == settings.trace_until;
        tap.armed = 0;
        trace::note(&mut tap.report, outcome, scratch.note);
        trace::find(&packet, &mut tap.report.ends[1]);
        if kept && trace::wants(tracing, &tap.report) && trace::admit(tracing, tap, now, settings.second) {
            tap.report.omitted = tap.omitted;
            tap.report.left = head(&context, packet.whole(), tap);
            send(&context, tap);
        }
    }
    outcome.action
}

/// Copies the head of the frame that leaves; returns how many bytes.
#[inline(always)]
fn head(context: &XdpContext, length: usize, tap: &mut Tap) -> u32 {
    let room = tap.report.leaving.len();
    let length = if length < room { length } else { room };
    // The buffer has room for one more than the mask lets through.
    let mut length = length.wrapping_sub(1);
    // SAFETY: an AND of a register: the verifier sees the bound.
    unsafe { asm!("{0} &= 127", inout(reg) length, options(pure, nomem, nostack)) };
    if load(context, tap.report.leaving.as_mut_ptr(), length + 1) {
        (length + 1) as u32
    } else {
        0
    }
}

/// Copies the first bytes of the frame to a buffer of more than [`MAX_SNAP`]; returns how many.
#[inline(always)]
fn copy(context: &XdpContext, to: *mut u8, length: usize) -> u32 {
    let mut length = if length < MAX_SNAP { length } else { MAX_SNAP };
    const { assert!(MAX_SNAP == 8191) };
    // SAFETY: as in `head`.
    unsafe { asm!("{0} &= 8191", inout(reg) length, options(pure, nomem, nostack)) };
    if length > 0 && load(context, to, length) {
        length as u32
    } else {
        0
    }
}

/// Copies the first `length` bytes of the frame to a buffer that has room for them; whether it has so many. The verifier must
/// know that `length` is not 0, and that the buffer is large enough.
#[inline(always)]
fn load(context: &XdpContext, to: *mut u8, length: usize) -> bool {
    // SAFETY: the callers' buffers hold `length` bytes; the helper checks the frame.
    unsafe { bpf_xdp_load_bytes(context.ctx, 0, to.cast(), length as u32) == 0 }
}

/// Sends the report and the start of the frame, which stand side by side.
#[inline(always)]
fn send(context: &XdpContext, tap: &Tap) {
    let mut captured = u64::from(tap.report.captured);
    // SAFETY: as in `head`.
    unsafe { asm!("{0} &= 8191", inout(reg) captured, options(pure, nomem, nostack)) };
    // SAFETY: the context is valid, and report and frame are as long as that. Nobody listening is no error here.
    let _unheard = unsafe {
        bpf_perf_event_output(
            context.ctx.cast(),
            (&raw const REPORTS).cast_mut().cast(),
            u64::from(BPF_F_CURRENT_CPU),
            (&raw const *tap).cast_mut().cast(),
            size_of::<Report>() as u64 + captured,
        )
    };
}
