//! The object itself: nothing in it can panic, the verifier takes it with room to spare, and its maps fit into memory.

use aya::maps::Map;
use lb_common::abi::maps::{self, REPORT};
use lb_common::abi::{HashKey, PortRange, SettingsFlags};
use lb_common::datapath::Stage;
use lb_core::engine::{Command, Engine, Environment, Event, Kept, Report};
use lb_core::model::Config;
use lb_core::time::Timestamp;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::config::{HostDefaults, parse};
use lb_userspace::daemon::sizes;
use lb_userspace::datapath::object::OBJECT;
use lb_userspace::datapath::writer::Writer;
use object::{Object, ObjectSymbol};
use std::sync::Arc;
use std::time::Instant;

const MAX_MEMORY: u64 = 2 << 30;

/// Instructions that the verifier may walk, of the million that it allows.
const BUDGET: u32 = 200_000;
/// The same for the program that every packet runs.
const KNOWN_BUDGET: u32 = 90_000;
/// Errors are followed in both directions, by entries and by buckets, and quotes are rewritten inside of them.
const ICMP_BUDGET: u32 = 320_000;

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
                Stage::Icmp => ICMP_BUDGET,
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

/// A configuration of 1,000 applications on an address of either family, each with a pool of ten origins, and with all that
/// takes memory: 10,000 origins, 1,048,576 flows of each family, ranges, an access list of 100,000 prefixes, affinity.
fn large() -> Config {
    use std::fmt::Write;
    let mut text = String::from("[datapath]\naccess = { deny = [");
    for number in 0..100_000u32 {
        write!(text, "'{}',", std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)).unwrap();
    }
    text.push_str("] }\n");
    for application in 0..1000 {
        for origin in 0..10 {
            let address = format!("10.1{origin}.{}.{}", application / 250, application % 250 + 1);
            writeln!(
                text,
                "[pools.p{application}.origins.o{origin}]\naddress = '{address}'"
            )
            .unwrap();
        }
        let (high, low) = (application / 250, application % 250);
        writeln!(
            text,
            "[load_balancers.b{application}]\ndefault_pools = ['p{application}']\nfallback_pool = 'p{application}'\n\
             [applications.a{application}]\nprotocol = 'tcp/1000-1999'\nload_balancer = 'b{application}'\n\
             addresses = ['203.0.{high}.{low}', '2001:db8::{high}:{low}']\naffinity = {{ ttl = 600 }}\n\
             limits = {{ new_flows_per_second_per_source = 10 }}"
        )
        .unwrap();
    }
    let defaults = HostDefaults {
        node_name: "large".to_owned(),
    };
    parse(&text, "large.toml", &defaults).unwrap().config
}

#[test]
fn maps_for_1_000_applications_10_000_origins_and_a_million_flows_fit_into_memory() {
    needs_root!();
    let config = large();
    assert_eq!(config.applications.len(), 1000);
    assert_eq!(
        config.pools.iter().map(|pool| pool.origins.len()).sum::<usize>(),
        10_000
    );
    let sizes = sizes(&config);
    assert_eq!(sizes.max_flows, 1_048_576);
    namespace().enter(|| {
        let kernel = Kernel::new(&sizes).unwrap();
        let mut writer = Writer::new(|name| kernel.map(name)).unwrap();
        let environment = Environment {
            hz: 250,
            hash_key: HashKey::default(),
            snat_ports: PortRange::default(),
            flags: SettingsFlags(0),
            capacity: sizes.capacity,
            max_flows: sizes.max_flows,
            adopted: None,
            kept: Kept::default(),
            assume_healthy: true,
            seed: 0,
        };
        let mut engine = Engine::new(environment, Timestamp::default());
        let started = Instant::now();
        let mut written = 0;
        for command in engine.handle(Event::Configure(Arc::new(config)), Timestamp::default()) {
            match command {
                Command::Apply(steps) => {
                    writer.apply(&steps).unwrap();
                    written += steps.len();
                }
                Command::Report(Report::Refused(why)) => panic!("{why}"),
                _ => {}
            }
        }
        let taken = started.elapsed();
        assert!(written > 10_000 + 2 * 1_000, "{written}");
        let memory = kernel.memory().unwrap();
        let total: u64 = memory.values().sum();
        println!("{memory:#?}\n{} MiB, written in {taken:?}", total >> 20);
        assert!(total < MAX_MEMORY, "{total} bytes in maps: {memory:#?}");
    });
}
