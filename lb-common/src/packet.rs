//! A packet as the pipeline sees it: values at offsets, no pointers and no slices.
//!
//! A borrowed pointer into a frame dies when its head moves; values cannot. That is why the classic XDP bug, a stale
//! packet pointer, cannot be written here.

use bytemuck::Pod;

/// One Ethernet frame that may be read and rewritten.
pub trait Packet {
    /// Whether the frame has at least `length` bytes.
    fn holds(&self, length: usize) -> bool;

    /// The value at offset `at`, as loaded; `None` when the frame ends before it does.
    fn read<T: Pod>(&self, at: usize) -> Option<T>;

    /// Writes `value` at offset `at`; `None` and no change when the frame ends before it does.
    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()>;

    /// Writes one value at offset `at` and another one behind it; `None` and no change when the frame ends before they do.
    fn write_both<A: Pod, B: Pod>(&mut self, at: usize, first: A, second: B) -> Option<()> {
        let end = at + size_of::<A>() + size_of::<B>();
        if !self.holds(end) {
            return None;
        }
        self.write(at, first)?;
        self.write(at + size_of::<A>(), second)
    }

    /// The same number. In the kernel the verifier does not know that, so that it follows one path from here instead of one
    /// for each value that parsing may have found.
    fn opaque(&self, value: usize) -> usize {
        value
    }

    /// Moves the start of the frame: adds `by` bytes of undefined content in front, or takes as many off when it is
    /// negative; `None` when there is no room, or less than a link header would remain. All offsets move.
    fn move_head(&mut self, by: isize) -> Option<()>;

    /// Adds `by` bytes of undefined content in front. All offsets move.
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> Option<()> {
        self.move_head(by as isize)
    }

    /// Takes `by` bytes off the front; `None` when less than a link header would remain. All offsets move.
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> Option<()> {
        self.move_head((by as isize).wrapping_neg())
    }

    /// Cuts the frame to `length` bytes; `None` when it is shorter already.
    fn truncate(&mut self, length: usize) -> Option<()>;

    /// Cuts off what follows `length` bytes, if anything does: the padding of a small frame. Cheap where nothing does.
    fn trim(&mut self, length: usize) -> Option<()> {
        self.truncate(length)
    }

    /// One's-complement sum of the 16-bit words (as loaded) from `at`, `length` bytes long, folded to 16 bits; an odd
    /// last byte counts as followed by 0 (RFC 1071). `None` when the frame is shorter, or `length` exceeds [`MAX_SUM`].
    fn sum(&self, at: usize, length: usize) -> Option<u16>;
}

/// Largest offset that may be read or written: link, network and transport headers lie below it. The constant gives
/// the verifier a bound for every access.
pub const MAX_OFFSET: usize = 511;

/// Bytes that are summed at a time in the kernel, and how often: frames of up to 12 KiB, more than any driver's jumbo
/// frame.
pub const SUM_CHUNK: usize = 512;
/// As [`SUM_CHUNK`]; a last chunk may be shorter.
pub const SUM_CHUNKS: usize = 24;
/// Most bytes that [`Packet::sum`] takes.
pub const MAX_SUM: usize = SUM_CHUNKS * SUM_CHUNK + SUM_CHUNK - 1;
