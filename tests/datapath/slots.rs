//! The arena of slots holds what was written to it, through memory as well as by system calls.

use aya::maps::{Map, MapData};
use lb_common::abi::{Slot, maps};
use lb_core::image::{Capacity, slots};
use lb_core::maglev::mix;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::slots::Slots;
use lb_userspace::datapath::sys;
use std::os::fd::AsFd;

/// Not a whole number of pages.
const ROWS: u32 = 5_000;

fn array(kernel: &Kernel, name: &str) -> MapData {
    match kernel.map(name).unwrap() {
        Map::Array(data) => data,
        other => panic!("{name} is {other:?}"),
    }
}

/// Writes tables of all sizes to all places, and reads the whole map after each.
fn write_many(kernel: &Kernel, name: &str) {
    let (map, written) = (array(kernel, name), Slots::new(array(kernel, name)).unwrap());
    let rows = map.info().unwrap().max_entries();
    let mut expected: Vec<Slot> = sys::rows(map.fd().as_fd(), 0, rows).unwrap();
    for round in 0..300u64 {
        let random = |what: u64, below: u32| (mix(round * 8 + what) % u64::from(below)) as u32;
        // Often few rows, and from time to time all of them.
        let most = [2, 70, 600, rows + 1][random(0, 4) as usize];
        let length = match round {
            0 => rows,
            _ => random(1, most.min(rows + 1)),
        };
        let base = random(2, rows - length + 1);
        let owners: Vec<u32> = (0..u64::from(length))
            .map(|index| (mix(round << 32 | index) % 7) as u32)
            .collect();
        written.write(base, &owners).unwrap();
        expected[base as usize..][..length as usize].copy_from_slice(&slots(&owners));
        let found: Vec<Slot> = sys::rows(map.fd().as_fd(), 0, rows).unwrap();
        assert!(
            found == expected,
            "{name}, round {round}: {length} rows from {base}"
        );
    }
    // What is not there is not written, not even where a page goes on after the last row.
    for (base, length) in [(rows, 1), (rows - 1, 2), (rows - 100, 101), (rows, 100)] {
        assert!(written.write(base, &vec![1; length]).is_err());
    }
}

#[test]
fn slots_are_what_was_written_whichever_way() {
    needs_root!();
    namespace().enter(|| {
        let sizes = small();
        let capacity = Capacity {
            slots: ROWS,
            ..sizes.capacity
        };
        let kernel = Kernel::new(&MapSizes { capacity, ..sizes }).unwrap();
        write_many(&kernel, maps::SLOTS);
        // Rows of the same size, in a map like that of earlier versions, which cannot be mapped.
        write_many(&kernel, maps::ADDRESSES);
    });
}
