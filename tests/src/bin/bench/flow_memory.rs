//! The kernel's memory for flows.
//!
//! What a map is made with, its `memlock` in `/proc/self/fdinfo` says. A hash map without preallocation takes more with each
//! entry, and `memlock` does not know what the allocator rounds that up to; so the kernel is asked how much it has allocated.

use crate::cases::Build;
use crate::control::{Figure, Samples};
use crate::frame::{Numbered, Version, entries};
use crate::layout::Shape;
use crate::modes::Mode;
use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Map, MapData};
use lb_common::abi::{Protocol, maps};
use lb_common::datapath::family::{V4, V6};
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::sys;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// Flows with two directions each, as many as there is room for.
const FLOWS: u32 = 1 << 19;

/// Fills the flow tables of both families.
///
/// # Errors
/// The kernel refuses something.
pub fn measure(samples: &mut Samples) -> Result<()> {
    let (v4, v6) =
        namespace().enter(|| -> Result<_> { Ok((fill::<V4>(maps::FLOWS4)?, fill::<V6>(maps::FLOWS6)?)) })?;
    samples.add(Figure::FlowMemory(Version::V4), v4);
    samples.add(Figure::FlowMemory(Version::V6), v6);
    Ok(())
}

/// Fills the flow table of one family, and returns the bytes for each entry: of the empty table, and of what came.
fn fill<F: Numbered>(name: &str) -> Result<f64>
where
    F::Key: Pod + bytemuck::Pod,
    F::Flow: Pod + bytemuck::Pod,
{
    let kernel = Kernel::new(&MapSizes {
        max_flows: FLOWS,
        ..small()
    })?;
    let (Map::HashMap(map) | Map::LruHashMap(map)) = kernel.map(name)? else {
        bail!("{name} is no hash")
    };
    let room = map.info()?.max_entries();
    let empty = memlock(&map)?;
    let shape = Shape::usual(FLOWS);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for flow in 0..FLOWS {
        let both = entries::<F>((Build::Present, shape), Mode::Nat, Protocol::TCP, flow, 0);
        for (key, value) in both.origin.into_iter().chain(both.client) {
            keys.push(key);
            values.push(value);
        }
    }
    ensure!(keys.len() <= room as usize, "{} entries in {room}", keys.len());
    let before = allocated()?;
    sys::update_all(map.fd().as_fd(), &keys, &values).context("fill a flow table")?;
    let taken = allocated()?.saturating_sub(before);
    let counted = memlock(&map)? - empty;
    let own = empty as f64 / f64::from(room);
    if counted == 0 {
        return Ok(own);
    }
    // What came is at least what the kernel itself counts.
    ensure!(
        taken > counted / 10 * 9,
        "{name}: {taken} bytes were allocated, but the map says {counted}"
    );
    Ok(own + taken as f64 / keys.len() as f64)
}

/// Bytes that a map takes, as the kernel accounts for them.
fn memlock(map: &MapData) -> Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("the kernel says what a map takes")?.trim().parse()?)
}

/// Bytes that the kernel has allocated for its own objects.
fn allocated() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let words = line.context("the kernel says what it has allocated")?;
    let kibibytes: u64 = words.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}
