//! Frames made of a template, each with another source.

use crate::network::Headers4;
use core::mem::offset_of;

/// Writes the template with another source, both in network order, and mends the IP header's checksum; the template's is that
/// without a source. Returns the sum of the address' halves, for the transport header's.
///
/// # Safety
/// All words of the frame are there.
#[inline(always)]
pub unsafe fn make<const WORDS: usize>(
    frame: *mut [u64; WORDS],
    template: &[u64; WORDS],
    source: u32,
    port: u16,
) -> u32 {
    const { assert!(8 * WORDS >= size_of::<Headers4>()) };
    let (words, base) = (frame.cast::<u64>(), frame.cast::<u8>());
    let address = (source >> 16) + (source & 0xffff);
    // SAFETY: the caller's promise, and the offsets lie in the words. The machine does not mind where words stand.
    unsafe {
        let mut word = 0;
        while word < WORDS {
            words.add(word).write_volatile(template[word]);
            word += 1;
        }
        base.add(offset_of!(Headers4, source))
            .cast::<u32>()
            .write_volatile(source);
        base.add(offset_of!(Headers4, source_port))
            .cast::<u16>()
            .write_volatile(port);
        add(base.add(offset_of!(Headers4, checksum)), address);
    }
    address
}

/// Adds to a checksum, as RFC 1624 has it.
///
/// # Safety
/// Two bytes of the frame stand there.
#[inline(always)]
pub unsafe fn add(checksum: *mut u8, sum: u32) {
    let checksum = checksum.cast::<u16>();
    // SAFETY: the caller's promise.
    unsafe {
        let sum = u32::from(!checksum.read_volatile()) + (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        checksum.write_volatile(!((sum >> 16) + (sum & 0xffff)) as u16);
    }
}
