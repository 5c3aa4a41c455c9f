//! The frame in the driver's memory: the only packet pointers of the project.

use crate::maps;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use bytemuck::{Pod, Zeroable};
use core::arch::asm;
use lb_common::packet::{MAX_OFFSET, Packet, SUM_CHUNK, SUM_CHUNKS};

/// Frames of several buffers have more than this in the first one, or else their headers alone, and then more follows than
/// the padding that [`Packet::trim`] is after.
const SINGLE_BUFFER: usize = 2048;

/// One frame, whose first part lies in linear memory; headers always do.
pub struct XdpPacket {
    context: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx }
    }

    /// Start of the frame. Read anew each time: helpers that resize the frame move it.
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel passed a valid context. Volatile keeps LLVM from passing the value between functions as a
        // number, which the verifier would not know for a packet pointer.
        unsafe { (&raw const (*self.context).data).read_volatile() as usize }
    }

    /// End of the frame's linear part.
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as for `start`.
        unsafe { (&raw const (*self.context).data_end).read_volatile() as usize }
    }

    /// A pointer to a `T` at offset `at`, when it lies in linear memory.
    #[inline(always)]
    fn at<T: Pod>(&self, at: usize) -> Option<*mut T> {
        within(at, || self.start(), || self.end())
    }

    /// Length of the linear part in bytes.
    #[inline(always)]
    fn linear(&self) -> usize {
        let mut length = self.end() - self.start();
        // SAFETY: a move of a register to itself. It hides the subtraction from LLVM, which would turn a comparison of
        // the difference into arithmetic on the end pointer, and the verifier refuses that.
        unsafe { asm!("{0} = {0}", inout(reg) length, options(pure, nomem, nostack)) };
        length
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    pub fn whole(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }
}

/// A pointer to a `T` at offset `at` of what lies between start and end, when all of it does.
#[inline(always)]
pub fn within<T: Pod>(
    mut at: usize,
    start: impl FnOnce() -> usize,
    end: impl FnOnce() -> usize,
) -> Option<*mut T> {
    if at > MAX_OFFSET {
        return None;
    }
    // SAFETY: an AND of a register. LLVM derives one access's offset from another's, with a negative difference if
    // that is shorter; the verifier must see a bound on each.
    unsafe { asm!("{0} &= 511", inout(reg) at, options(pure, nomem, nostack)) };
    const { assert!(MAX_OFFSET == 511) };
    let start = start() + at;
    if start + size_of::<T>() > end() {
        return None;
    }
    Some(start as *mut T)
}

const _: () = assert!(size_of::<maps::SumBuffer>() > SUM_CHUNK);

/// Two values without a gap.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Both<A, B>(A, B);

// SAFETY: zeros are valid for both.
unsafe impl<A: Pod, B: Pod> Zeroable for Both<A, B> {}
// SAFETY: any bytes are valid for both, and packed leaves no padding.
unsafe impl<A: Pod, B: Pod> Pod for Both<A, B> {}

impl Packet for XdpPacket {
    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // Only frames of several buffers need the helper.
        self.linear() >= length || self.whole() >= length
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        let pointer = self.at::<T>(at)?;
        // SAFETY: `at` proved that the bytes lie in the frame, and Pod types are valid for any bytes. The machines that
        // BPF runs on load misaligned words, and the verifier knows where they do not.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        let pointer = self.at::<T>(at)?;
        // SAFETY: as for `read`; XDP owns the frame.
        unsafe { *pointer = value };
        Some(())
    }

    #[inline(always)]
    fn write_both<A: Pod, B: Pod>(&mut self, at: usize, first: A, second: B) -> Option<()> {
        let pointer = self.at::<Both<A, B>>(at)?.cast::<u8>();
        // SAFETY: `at` proved that both lie in the frame, one behind the other.
        unsafe {
            *pointer.cast::<A>() = first;
            *pointer.add(size_of::<A>()).cast::<B>() = second;
        }
        Some(())
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        let mut value = value;
        // SAFETY: the kernel passed a valid context. Registers: there and back, by a number that the verifier does not know.
        // What it forgets on the way there it does not learn again.
        unsafe {
            let unknown = (&raw const (*self.context).ingress_ifindex).read() as usize;
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) value, in(reg) unknown, options(pure, nomem, nostack));
        }
        value
    }

    #[inline(always)]
    fn move_head(&mut self, by: isize) -> Option<()> {
        // SAFETY: the context is valid; pointers are read anew afterwards. The helper refuses to take too much.
        let error = unsafe { bpf_xdp_adjust_head(self.context, (by as i32).wrapping_neg()) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Option<()> {
        let by = self.whole().wrapping_sub(length);
        if by == 0 {
            return Some(());
        }
        // SAFETY: the context is valid; pointers are read anew afterwards. The helper refuses to grow past the buffer.
        let error = unsafe { bpf_xdp_adjust_tail(self.context, -(by as i32)) };
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn trim(&mut self, length: usize) -> Option<()> {
        // Of a larger frame, buffers may follow the linear part.
        if length < SINGLE_BUFFER && self.linear() == length {
            return Some(());
        }
        self.truncate(length)
    }

    #[inline(always)]
    fn sum(&self, at: usize, length: usize) -> Option<u16> {
        let buffer = maps::sum_buffer()?;
        let mut sum = 0;
        let mut done = 0;
        let mut chunk = 0;
        while chunk < SUM_CHUNKS && length.wrapping_sub(done) >= SUM_CHUNK {
            sum = self.add_chunk(at + done, buffer, SUM_CHUNK, sum)?;
            done += SUM_CHUNK;
            chunk += 1;
        }
        let mut left = length.wrapping_sub(done);
        if left >= SUM_CHUNK {
            return None;
        }
        // SAFETY: an AND of a register. LLVM would drop a mask that it can prove useless; the verifier needs it.
        unsafe { asm!("{0} &= 511", inout(reg) left, options(pure, nomem, nostack)) };
        if left > 0 {
            // The sum is over whole words: what is missing of the last one counts as 0.
            *buffer.get_mut(left >> 2)? = 0;
            sum = self.add_chunk(at + done, buffer, left, sum)?;
        }
        Some(lb_common::datapath::checksum::fold(sum))
    }
}

impl XdpPacket {
    /// Adds `length` (at most [`SUM_CHUNK`]) bytes from `at` to a sum, by way of `buffer`.
    #[inline(always)]
    fn add_chunk(&self, at: usize, buffer: &mut maps::SumBuffer, length: usize, sum: u32) -> Option<u32> {
        // SAFETY: at most SUM_CHUNK bytes are written to a buffer that holds them; the helper checks the offset.
        let error =
            unsafe { bpf_xdp_load_bytes(self.context, at as u32, buffer.as_mut_ptr().cast(), length as u32) };
        if error != 0 {
            return None;
        }
        let whole = ((length + 3) & !3) as u32;
        // SAFETY: `whole` is at most SUM_CHUNK.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, buffer.as_mut_ptr(), whole, sum) };
        Some(sum as u32)
    }
}
