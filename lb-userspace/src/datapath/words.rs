//! The words of a map that programs write at the same time: mapped into this process, because only so both can do it atomically.
#![expect(unsafe_code, reason = "memory that is mapped")]

use anyhow::{Context, Result};
use aya::maps::MapData;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// An array of `u64`.
#[derive(Debug)]
pub struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: nothing belongs to a thread, and atomics may be shared.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps all of an array that may be mapped.
    ///
    /// # Errors
    /// The kernel refuses it, or the array is of something else.
    pub fn map(array: &MapData) -> Result<Self> {
        let info = array.info()?;
        anyhow::ensure!(
            info.value_size() as usize == size_of::<u64>(),
            "no array of words"
        );
        let count = info.max_entries() as usize;
        // SAFETY: a new mapping, of a file that is open.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        let first = (address != libc::MAP_FAILED)
            .then(|| NonNull::new(address))
            .flatten();
        let first = first
            .ok_or_else(io::Error::last_os_error)
            .context("map an array")?;
        Ok(Self {
            first: first.cast(),
            count,
        })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is as long, aligned to a page, and there as long as `self`; zeros are atomics.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: what was mapped, which nobody can refer to any more. A failure leaves it where it is.
        let _ = unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}
