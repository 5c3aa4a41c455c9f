//! The object itself: nothing in it can panic, the verifier takes it with room to spare, and its maps fit into memory.

use aya::maps::Map;
use lb_common::abi::maps::{self, REPORT};
use lb_common::datapath::Stage;
use lb_core::image::Capacity;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::object::{MapSizes, OBJECT};
use object::{Object, ObjectSymbol};

/// What the default limits of the configuration ask for: 1,000 applications, 10,000 origins, 1,048,576 flows.
const DEFAULT: MapSizes = MapSizes {
    capacity: Capacity {
        // Two generations, each application on an address of either family.
        applications: 2 * 2 * 1_000,
        vips: 2 * 2 * 1_000 + 2 * 256,
        pools: 2 * 1_000,
        origins: 10_001,
        hops: 10_001,
        snat_addresses: 256,
        // Four tables a pool, each a hundred slots an origin.
        slots: 4 * 1_048_576,
        application_rows: 1_001,
        spans: 2 * 1_000,
        access_prefixes: 1,
        country_rules: 1,
        country_prefixes: 1,
        clients: 65_536,
    },
    max_flows: 1_048_576,
};

const MAX_MEMORY: u64 = 2 << 30;

/// Instructions that the verifier may walk, of the million that it allows.
const BUDGET: u32 = 200_000;
/// The same for the program that every packet runs.
const KNOWN_BUDGET: u32 = 60_000;

#[test]
fn nothing_in_the_object_panics() {
    let file = object::File::parse(OBJECT).unwrap();
    let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    for name in Stage::ALL.iter().map(|stage| stage.program()) {
        assert!(names.contains(&name), "no symbol {name} in {names:?}");
    }
    let reachable: Vec<_> = names.iter().filter(|name| name.contains("panicking")).collect();
    assert!(reachable.is_empty(), "reachable panics: {reachable:?}");
}

#[test]
fn the_verifier_has_room_to_spare() {
    needs_root!();
    namespace().enter(|| {
        let kernel = Kernel::new(&small()).unwrap();
        let stages = Stage::ALL.iter().map(|stage| {
            let budget = match stage {
                Stage::Known | Stage::Traced => KNOWN_BUDGET,
                _ => BUDGET,
            };
            (stage.program(), budget)
        });
        for (name, budget) in stages.chain([(REPORT.1, BUDGET)]) {
            let info = kernel.ebpf().program(name).unwrap().info().unwrap();
            let verified = info.verified_instruction_count().unwrap();
            let size = info.size_translated().unwrap();
            println!(
                "{name}: {verified} instructions verified, {size} bytes, {} bytes of machine code",
                info.size_jitted()
            );
            assert!(
                verified <= budget,
                "{name}: {verified} instructions verified, more than {budget}"
            );
        }
    });
}

/// All that tracing costs a packet that nobody traces is one look at the settings, which it needs anyway.
#[test]
fn the_program_of_every_packet_has_nothing_to_do_with_tracing() {
    needs_root!();
    namespace().enter(|| {
        let kernel = Kernel::new(&small()).unwrap();
        let maps_of = |program: &str| {
            let info = kernel.ebpf().program(program).unwrap().info().unwrap();
            info.map_ids().unwrap().unwrap()
        };
        let number = |name| match kernel.ebpf().map(name) {
            Some(Map::Array(data) | Map::PerfEventArray(data)) => data.info().unwrap().id(),
            other => panic!("{name} is {other:?}"),
        };
        for name in [maps::TRACING, maps::REPORTS] {
            assert!(maps_of(REPORT.1).contains(&number(name)), "{name}");
            assert!(!maps_of(Stage::Known.program()).contains(&number(name)), "{name}");
        }
        let size = |stage: Stage| {
            let info = kernel.ebpf().program(stage.program()).unwrap().info().unwrap();
            info.size_translated().unwrap()
        };
        assert!(size(Stage::Known) < size(Stage::Traced));
    });
}

#[test]
fn maps_of_the_default_size_fit_into_memory() {
    needs_root!();
    namespace().enter(|| {
        let memory = Kernel::new(&DEFAULT).unwrap().memory().unwrap();
        let total: u64 = memory.values().sum();
        println!("{memory:#?}\n{} MiB", total >> 20);
        assert!(total < MAX_MEMORY, "{total} bytes in maps: {memory:#?}");
    });
}
