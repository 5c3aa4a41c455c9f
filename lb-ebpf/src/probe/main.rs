//! What monitors' packets go through on a node: they leave as clients' packets do, and answers find back to them. Nothing
//! is decided here: see [`lb_common::tunnel::probe`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
// Of it, only what skb.rs shares with it.
#[expect(dead_code)]
#[path = "../packet.rs"]
mod packet;
#[path = "../skb.rs"]
mod skb;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_jiffies64, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect_neigh,
    bpf_skb_adjust_room, bpf_skb_store_bytes,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::tunnel::probe::{self, Answer, OuterKind, Outgoing, Rewrite};
use skb::SkbPacket;

/// Attached to where probes leave.
#[classifier]
pub fn lb_probe(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    // SAFETY: the kernel passed a valid context.
    let (mark, segments) = unsafe { ((*skb).mark, (*skb).gso_segs) };
    let Some(probe) = maps::way(mark).and_then(maps::probe) else {
        return TC_ACT_UNSPEC;
    };
    let Some(found) = maps::found() else {
        return TC_ACT_SHOT;
    };
    if probe::outgoing(&SkbPacket::new(&context), probe, segments <= 1, found).is_none() {
        return TC_ACT_UNSPEC;
    }
    let answer = Answer {
        target: probe.target,
        seen: now(),
    };
    maps::expect(&found.key, &answer);
    if rewrite(skb, &mut found.rewrite)
        .and_then(|()| wrap(skb, found))
        .is_none()
    {
        return TC_ACT_SHOT;
    }
    // Handled: an interface beneath this one has nothing to do any more.
    // SAFETY: the mark is a field that programs may write.
    unsafe { (*skb).mark = 0 };
    if probe.ifindex == 0 {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel looks the neighbour of the outer header's destination up.
    unsafe { bpf_redirect_neigh(probe.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Attached to where answers arrive.
#[classifier]
pub fn lb_answer(context: TcContext) -> i32 {
    let packet = SkbPacket::new(&context);
    let Some(answer) = probe::answer_key(&packet).and_then(|key| maps::expected(&key)) else {
        return TC_ACT_UNSPEC;
    };
    let Some(mut what) = probe::incoming(&packet, &answer, now(), maps::patience()) else {
        return TC_ACT_UNSPEC;
    };
    match rewrite(context.skb.skb, &mut what) {
        Some(()) => TC_ACT_UNSPEC,
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper has no arguments; the verifier inlines it to a load.
    unsafe { bpf_jiffies64() as u32 }
}

#[inline(always)]
fn done(error: i64) -> Option<()> {
    (error == 0).then_some(())
}

/// Writes an address, and what it changes in checksums: the kernel knows which of them are finished, which are left to
/// the device, and what the device has said of them.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, what: &mut Rewrite) -> Option<()> {
    if what.at == 0 {
        return Some(());
    }
    let zero_is_none = if what.udp != 0 {
        u64::from(BPF_F_MARK_MANGLED_0)
    } else {
        0
    };
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | zero_is_none;
    let ([_, _, _, from4], [_, _, _, to4]) = (what.from.0, what.to.0);
    if what.header_checksum != 0 {
        let (from, to) = (u64::from(from4), u64::from(to4));
        // SAFETY: four bytes are read from where they are; the helpers check the offsets.
        unsafe {
            if what.checksum != 0 {
                done(bpf_l4_csum_replace(skb, what.checksum, from, to, pseudo | 4))?;
            }
            done(bpf_l3_csum_replace(skb, what.header_checksum, from, to, 4))?;
            if what.quoted != 0 {
                // What they change of the error's own checksum cancels out.
                done(bpf_l3_csum_replace(skb, what.quoted_checksum, from, to, 4))?;
                done(bpf_skb_store_bytes(
                    skb,
                    what.quoted,
                    (&raw const to4).cast(),
                    4,
                    0,
                ))?;
            }
            return done(bpf_skb_store_bytes(skb, what.at, (&raw const to4).cast(), 4, 0));
        }
    }
    let (from, to) = (what.from.0.as_mut_ptr(), what.to.0.as_mut_ptr());
    // SAFETY: 16 bytes are read from where they are; the helpers check the offsets. A device's sum over the whole packet
    // does not change: the address and the checksum over it cancel out, and so do the two corrections of it.
    unsafe {
        if what.checksum != 0 {
            let difference = bpf_csum_diff(from, 16, to, 16, 0);
            done(bpf_l4_csum_replace(
                skb,
                what.checksum,
                0,
                difference as u64,
                pseudo,
            ))?;
            if what.quoted != 0 {
                done(bpf_l4_csum_replace(skb, what.checksum, 0, difference as u64, 0))?;
                done(bpf_skb_store_bytes(skb, what.quoted, to.cast(), 16, 0))?;
            }
        }
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        done(bpf_skb_store_bytes(skb, what.at, to.cast(), 16, flags))
    }
}

/// Puts an outer header before the IP header, which follows the link header at once.
#[inline(always)]
fn wrap(skb: *mut __sk_buff, found: &Outgoing) -> Option<()> {
    const LINK_LEN: u32 = 14;
    const ETHER_TYPE: u32 = 12;
    /// `BPF_ADJ_ROOM_MAC`
    const BEHIND_LINK: u32 = 1;
    let Some(ether_type) = found.kind.ether_type() else {
        return Some(());
    };
    let (ip4, ip6) = (
        u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4),
        u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV6),
    );
    let udp = u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_UDP);
    // Lengths that the verifier knows.
    let (length, flags) = match found.kind {
        OuterKind::IP4 => (20, ip4),
        OuterKind::IP4_UDP => (28, ip4 | udp),
        OuterKind::IP6 => (40, ip6),
        OuterKind::IP6_UDP => (48, ip6 | udp),
        _ => return None,
    };
    const { assert!(probe::MAX_OUTER >= 48) };
    // SAFETY: `length` is at most the size of the bytes; the helpers check the offsets.
    unsafe {
        done(bpf_skb_adjust_room(skb, length, BEHIND_LINK, flags))?;
        let bytes = found.outer.as_ptr().cast();
        done(bpf_skb_store_bytes(skb, LINK_LEN, bytes, length as u32, 0))?;
        let ether_type = (&raw const ether_type).cast();
        done(bpf_skb_store_bytes(skb, ETHER_TYPE, ether_type, 2, 0))
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
