//! The arena of slots, for writing: tables of millions of rows, all of which a change of one origin may make anew.
#![expect(unsafe_code, reason = "rows are written where they stand, through mmap(2)")]

use super::writer::update_rows;
use anyhow::Result;
use aya::maps::MapData;
use lb_common::abi::Slot;
use lb_core::image::{fill_slots, slots};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, fence};

/// BPF_F_MMAPABLE (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;
/// Rows for which a mapping costs less than system calls: each call copies some, and each of its rows costs a third of a
/// microsecond; a mapping is made, filled and undone in some microseconds.
const WORTH_MAPPING: usize = 64;

/// The map.
pub struct Slots {
    map: MapData,
    rows: u32,
    mappable: bool,
}

impl Slots {
    /// Maps of earlier versions, which are pinned, cannot be mapped: these are written by system calls.
    ///
    /// # Errors
    /// When the kernel says nothing about the map.
    pub fn new(map: MapData) -> Result<Self> {
        let info = map.info()?;
        Ok(Self {
            rows: info.max_entries(),
            mappable: info.map_flags() & MMAPABLE != 0,
            map,
        })
    }

    /// Writes a table's slots to rows that no packet reads. The next system call that makes them visible comes after them.
    ///
    /// # Errors
    /// The kernel's, also when the map has no such rows; some may be written.
    pub fn write(&self, base: u32, owners: &[u32]) -> io::Result<()> {
        let end = base as usize + owners.len();
        if self.mappable && owners.len() >= WORTH_MAPPING && end <= self.rows as usize {
            // Where mapping is forbidden, or address space has run out, system calls still do.
            if let Ok(mut mapped) = Mapped::new(self.map.fd().as_fd(), base, owners.len()) {
                fill_slots(owners, mapped.rows());
                return Ok(());
            }
        }
        update_rows(&self.map, base, &slots(owners))
    }
}

/// Rows of the map in this process' own memory, as long as this value lives.
struct Mapped {
    pages: NonNull<libc::c_void>,
    /// Bytes of the pages.
    length: usize,
    /// Bytes of the pages before the first row.
    before: usize,
    rows: usize,
}

impl Mapped {
    fn new(map: BorrowedFd<'_>, first: u32, rows: usize) -> io::Result<Self> {
        // The kernel rounds rows up to 8 bytes.
        const { assert!(size_of::<Slot>().is_multiple_of(8)) };
        let start = first as usize * size_of::<Slot>();
        let before = start % rustix::param::page_size();
        let length = before + rows * size_of::<Slot>();
        // SAFETY: a new mapping at an address that the kernel chooses; it checks that the map has such pages.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                (start - before) as libc::off_t,
            )
        };
        match NonNull::new(pages).filter(|_| pages != libc::MAP_FAILED) {
            Some(pages) => Ok(Self {
                pages,
                length,
                before,
                rows,
            }),
            None => Err(io::Error::last_os_error()),
        }
    }

    fn rows(&mut self) -> &mut [Slot] {
        // SAFETY: the rows lie within the mapping, which lives as long as the borrow, at a multiple of their size; nobody
        // else in this process has them, any bytes are slots, and no packet reads them.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_ptr().byte_add(self.before).cast(), self.rows) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // What is written here comes before the write that tells packets of it; those follow its contents.
        fence(Ordering::Release);
        // SAFETY: the mapping is ours, and no borrow of it is left.
        unsafe { libc::munmap(self.pages.as_ptr(), self.length) };
    }
}
