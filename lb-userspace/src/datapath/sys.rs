//! BPF system calls that aya does not offer: maps in batches, links detached for good, frames that arrive once more.
#![expect(unsafe_code, reason = "raw bpf(2)")]

use bytemuck::Pod;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Entries written or removed by one system call.
const ENTRIES_PER_CALL: usize = 16_384;

/// `struct { ... } batch` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a prefix of `union bpf_attr` whose pointers outlive the call; the kernel takes the rest
    // as zeros.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Writes `values` to the array's rows from `first` on, in one system call.
///
/// # Errors
/// The kernel's error; rows before the refused one are written.
pub fn update_rows<V: Pod>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    update(map, &keys, values)
}

/// The `count` rows of an array from `first` on, in one system call.
///
/// # Errors
/// The kernel's error; also when there are fewer.
pub fn rows<V: Pod>(map: BorrowedFd<'_>, first: u32, count: u32) -> io::Result<Vec<V>> {
    let mut keys = vec![0u32; count as usize];
    let mut values = vec![V::zeroed(); count as usize];
    let (before, mut last) = (first.wrapping_sub(1), 0u32);
    let mut batch = Batch {
        // The row before; none: the first of all.
        in_batch: if first == 0 { 0 } else { &raw const before as u64 },
        out_batch: &raw mut last as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => {}
        // The end of the array.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if batch.count == count && keys.first().is_none_or(|key| *key == first) {
        Ok(values)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Writes entries in one system call: the shorter of the two slices counts.
///
/// # Errors
/// The kernel's error; entries before the refused one are written.
pub fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    if batch.count == 0 {
        Ok(())
    } else {
        bpf(BPF_MAP_UPDATE_BATCH, &mut batch).map(|_| ())
    }
}

/// Writes any number of entries.
///
/// # Errors
/// The kernel's error; entries before the refused one are written.
pub fn update_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut chunks = keys.chunks(ENTRIES_PER_CALL).zip(values.chunks(ENTRIES_PER_CALL));
    chunks.try_for_each(|(keys, values)| update(map, keys, values))
}

/// Removes any number of entries; what is not there is no error.
///
/// # Errors
/// The kernel's error; entries before the refused one are removed.
pub fn remove_all<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut left = keys;
    while !left.is_empty() {
        let mut batch = Batch {
            keys: left.as_ptr() as u64,
            count: left.len().min(ENTRIES_PER_CALL) as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let asked = batch.count as usize;
        let done = match bpf(BPF_MAP_DELETE_BATCH, &mut batch) {
            Ok(_) => asked,
            // The kernel says how many it has removed before the one that is missing.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => batch.count as usize + 1,
            Err(error) => return Err(error),
        };
        left = left.get(done..).unwrap_or_default();
    }
    Ok(())
}

/// The value of a key, which in a trie is that of the longest prefix.
///
/// # Errors
/// The kernel's error.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    /// `struct { ... }` of the element commands in `union bpf_attr`.
    #[repr(C)]
    struct Element {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut value = V::zeroed();
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: &raw const *key as u64,
        value: &raw mut value as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut element) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes entries in one system call.
///
/// # Errors
/// The kernel's error, also when one is not there; those before it are removed.
pub fn remove<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    if keys.is_empty() {
        Ok(())
    } else {
        bpf(BPF_MAP_DELETE_BATCH, &mut batch).map(|_| ())
    }
}

/// Calls `visit` with every entry of a hash map or trie; entries that come or go meanwhile may be missed or seen twice.
///
/// # Errors
/// The kernel's error.
pub fn for_each<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
    /// Entries a call asks for; a bucket of the kernel's table is returned whole or not at all.
    const CHUNK: usize = 4096;
    let mut keys = vec![K::zeroed(); CHUNK];
    let mut values = vec![V::zeroed(); CHUNK];
    // A bucket's number in a hash map, a key in a trie.
    const { assert!(size_of::<K>() >= size_of::<u32>()) };
    let (mut position, mut next) = (K::zeroed(), K::zeroed());
    let mut started = false;
    loop {
        let mut batch = Batch {
            in_batch: if started { &raw const position as u64 } else { 0 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut batch);
        let ended = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket with more entries than fit: ask for more at a time.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                let more = keys.len().saturating_mul(2);
                keys.resize(more, K::zeroed());
                values.resize(more, V::zeroed());
                continue;
            }
            Err(error) => return Err(error),
        };
        for (key, value) in keys.iter().zip(&values).take(batch.count as usize) {
            visit(key, value);
        }
        if ended {
            return Ok(());
        }
        position = next;
        started = true;
    }
}

/// Opens what is pinned at `path`.
fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    /// `struct { ... }` of BPF_OBJ_GET in `union bpf_attr`.
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut get)?;
    // SAFETY: the kernel has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches the link that is pinned at `path`, whoever else holds it.
///
/// # Errors
/// The kernel's error; a link whose interface has gone is detached already.
pub fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let link = open_pin(path)?;
    let mut attribute = [link.as_raw_fd() as u32];
    bpf(BPF_LINK_DETACH, &mut attribute).map(|_| ())
}

/// An XDP link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The interface that it is attached to; 0 when that has gone.
    pub ifindex: u32,
    /// The kernel's number of its program.
    pub program: u32,
}

/// The XDP link that is pinned at `path`.
///
/// # Errors
/// The kernel's error, also when nothing is pinned there.
pub fn pinned_link(path: &Path) -> io::Result<Link> {
    /// `struct bpf_link_info`, as far as XDP links fill it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        ifindex: u32,
        padding2: u32,
    }
    /// `struct { ... } info` of `union bpf_attr`.
    #[repr(C)]
    struct Query {
        fd: u32,
        length: u32,
        info: u64,
    }
    let link = open_pin(path)?;
    let mut info = Info::default();
    let mut query = Query {
        fd: link.as_raw_fd() as u32,
        length: size_of::<Info>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query)?;
    Ok(Link {
        ifindex: info.ifindex,
        program: info.program,
    })
}

/// Runs an XDP program on a frame as if it had just arrived by an interface of this network namespace, and does what the
/// program says: the frame leaves, goes up the stack, or is dropped.
///
/// # Errors
/// The kernel's error: the interface has gone, or the frame does not fit into a page.
pub fn run_live(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
    /// `struct { ... } test` of `union bpf_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Test {
        program: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        reserved: u32,
    }
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut test = Test {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        context_size_in: size_of_val(&context) as u32,
        context_in: context.as_ptr() as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: 1,
        ..Test::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut test).map(|_| ())
}

/// Waits until every packet that is being handled now is done (an RCU grace period).
pub fn wait_for_packets() {
    /// Far longer than a driver handles packets without a pause.
    const LONG_ENOUGH: Duration = Duration::from_millis(100);
    // MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and XDP programs run inside RCU read sections.
    // SAFETY: three numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
    if result < 0 {
        // Kernels with nohz_full refuse it.
        std::thread::sleep(LONG_ENOUGH);
    }
}
