//! The frame that a program was given.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// Start and end of the frame, read anew each time: volatile, because they move.
#[inline(always)]
fn bounds(context: &XdpContext) -> (usize, usize) {
    let context: *mut xdp_md = context.ctx;
    // SAFETY: the kernel passed a valid context.
    unsafe {
        (
            (&raw const (*context).data).read_volatile() as usize,
            (&raw const (*context).data_end).read_volatile() as usize,
        )
    }
}

/// Length of the frame.
#[inline(always)]
pub fn length(context: &XdpContext) -> usize {
    let (start, end) = bounds(context);
    let mut length = end - start;
    // SAFETY: a move of a register to itself, which hides the subtraction from LLVM: it would turn a comparison of the
    // difference into arithmetic on the end pointer, and the verifier refuses that.
    unsafe { asm!("{0} = {0}", inout(reg) length, options(pure, nomem, nostack)) };
    length
}

/// The frame's first bytes as a `T`, when it has as many.
#[inline(always)]
pub fn at<T>(context: &XdpContext) -> Option<*mut T> {
    let (start, end) = bounds(context);
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

/// A field of headers, in as few loads as the machine needs: it does not mind where words stand.
///
/// # Safety
/// The field lies in the headers.
#[inline(always)]
pub unsafe fn field<T, H>(headers: *const H, offset: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { headers.cast::<u8>().add(offset).cast::<T>().read_volatile() }
}
