//! A socket buffer that TC programs look at.

use crate::maps;
use crate::packet::within;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use lb_common::packet::Packet;

/// One frame, of which only the linear part can be read: headers that this machine made lie there. It cannot be
/// changed this way, because the kernel keeps notes on the checksums in it.
pub struct SkbPacket {
    context: *mut __sk_buff,
}

impl SkbPacket {
    pub fn new(context: &TcContext) -> Self {
        Self {
            context: context.skb.skb,
        }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel passed a valid context. Volatile keeps LLVM from passing the value between functions as a
        // number, which the verifier would not know for a packet pointer.
        unsafe { (&raw const (*self.context).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as for `start`.
        unsafe { (&raw const (*self.context).data_end).read_volatile() as usize }
    }
}

impl Packet for SkbPacket {
    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // SAFETY: the context is valid.
        let whole = unsafe { (*self.context).len };
        whole as usize >= length
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        let pointer = within::<T>(at, || self.start(), || self.end())?;
        // SAFETY: `within` proved that the bytes lie in the frame, and Pod types are valid for any bytes.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        maps::opaque(value)
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, _: usize, _: T) -> Option<()> {
        None
    }

    #[inline(always)]
    fn move_head(&mut self, _: isize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn truncate(&mut self, _: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn sum(&self, _: usize, _: usize) -> Option<u16> {
        None
    }
}
