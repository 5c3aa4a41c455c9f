//! The agent's programs in the kernel are held to the same rows as the code in memory.

use aya::programs::{TestRun, TestRunOptions};
use lb_common::testing::Frame;
use lb_common::testing::build::PacketBuilder;
use lb_common::testing::check::hex;
use lb_common::testing::tunnels::{self, GUE_PORT, MemoryLocals, ip};
use lb_common::tunnel::maps::{CLAMP, DECAPSULATE};
use lb_tests::needs_root;
use lb_tests::netns::Netns;
use lb_tests::prog::Action;
use lb_userspace::agent::kernel::{Egress, Folder, OBJECT, Programs, Settings};
use object::{Object, ObjectSymbol};
use std::collections::BTreeMap;

/// Tunnels come from the networks of the rows' nodes.
fn settings() -> Settings {
    Settings {
        gue_port: GUE_PORT.host(),
        path_mtu: 1500,
        addresses: 64,
        nodes: ["10.0.2.0/24", "fd00:2::/64"]
            .map(|prefix| prefix.parse().unwrap())
            .to_vec(),
    }
}

/// Instructions that the verifier may walk.
const BUDGET: [(&str, u32); 2] = [(DECAPSULATE, 60_000), (CLAMP, 60_000)];

/// The programs, their maps pinned where they can be read; goes with its value.
struct Agent {
    programs: Programs,
    folder: Folder,
    output: Vec<u8>,
}

impl Agent {
    /// With the addresses of the rows.
    fn new() -> Self {
        let folder = Folder::of(u32::MAX).unwrap();
        folder.make().unwrap();
        let programs = Programs::load(&settings(), Some(&folder)).unwrap_or_else(|error| {
            let _ = folder.remove(None);
            panic!("{error:#}")
        });
        let mut agent = Self {
            programs,
            folder,
            output: vec![0; 4096],
        };
        agent.forget();
        agent
    }

    /// Makes the programs forget what they have learnt.
    fn forget(&mut self) {
        let standard = MemoryLocals::standard();
        let roles = standard
            .addresses
            .borrow()
            .iter()
            .map(|(ip, local)| ((*ip).into(), local.roles))
            .collect();
        self.programs.set_locals(&BTreeMap::new()).unwrap();
        self.programs.set_locals(&roles).unwrap();
    }

    fn decapsulate(&mut self, frame: &Frame) -> (Action, Frame) {
        let options = TestRunOptions {
            data_in: Some(&frame.0),
            data_out: Some(&mut self.output),
            ..TestRunOptions::new()
        };
        let result = self.programs.decapsulating().unwrap().test_run(options).unwrap();
        let left = self.output[..result.data_size_out as usize].to_vec();
        (Action(result.return_value), Frame(left))
    }

    fn clamp(&mut self, frame: &Frame) -> Frame {
        let options = TestRunOptions {
            data_in: Some(&frame.0),
            data_out: Some(&mut self.output),
            ..TestRunOptions::new()
        };
        let result = self.programs.clamping().unwrap().test_run(options).unwrap();
        // TC_ACT_UNSPEC: others go on.
        assert_eq!(result.return_value as i32, -1);
        Frame(self.output[..result.data_size_out as usize].to_vec())
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.folder
            .counts()
            .unwrap()
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.folder.remove(None);
    }
}

#[test]
fn each_tunnelled_packet_meets_its_fate_in_the_kernel() {
    needs_root!();
    Netns::new("tunnel").enter(|| {
        let mut agent = Agent::new();
        let mut counted = BTreeMap::new();
        for row in tunnels::all() {
            agent.forget();
            let (action, left) = agent.decapsulate(&row.frame);
            let wanted = if row.outcome.passes() {
                Action::PASS
            } else {
                Action::DROP
            };
            assert_eq!(action, wanted, "{}", row.name);
            if let Some(wanted) = &row.left {
                assert_eq!(hex(&left.0), hex(&wanted.0), "{}", row.name);
            }
            let locals = agent.folder.locals().unwrap();
            let learnt = locals.iter().filter(|(_, local)| local.overhead != 0);
            let learnt: Vec<_> = learnt
                .map(|(address, local)| (*address, local.overhead))
                .collect();
            assert_eq!(
                learnt,
                row.overhead.into_iter().collect::<Vec<_>>(),
                "{}",
                row.name
            );
            *counted.entry(row.outcome.name()).or_default() += 1;
            assert_eq!(agent.counts(), counted, "{}", row.name);
        }
    });
}

#[test]
fn segments_are_clamped_in_the_kernel() {
    needs_root!();
    Netns::new("clamp").enter(|| {
        let mut agent = Agent::new();
        for (v6, client, headers) in [(false, "198.51.100.7", 40), (true, "2001:db8:c::7", 60)] {
            let vip = ip(tunnels::VIPS[usize::from(v6)]);
            let answer = |options: &[u8]| {
                PacketBuilder::tcp((vip, 80).into(), (ip(client), 40_000).into(), 0x12).tcp_options(options)
            };
            let mss = |value: u16| [2, 4, (value >> 8) as u8, value as u8];
            let odd = |value: u16| [1, 2, 4, (value >> 8) as u8, value as u8, 1, 1, 1];
            let large = answer(&mss(1460)).frame();
            agent.forget();
            assert_eq!(agent.clamp(&large), large, "no tunnel was seen");
            let inner = tunnels::packet(&tunnels::inner(v6).frame());
            let outer = tunnels::Tunnel::Gue.carry(ip(tunnels::NODES[1]), ip(tunnels::ENDS[1]), &inner);
            assert_eq!(agent.decapsulate(&outer.frame()).0, Action::PASS);
            let wanted = 1500 - 48 - headers;
            assert_eq!(agent.clamp(&large), answer(&mss(wanted)).frame());
            assert_eq!(
                agent.clamp(&answer(&odd(1460)).frame()),
                answer(&odd(wanted)).frame()
            );
            for same in [
                answer(&mss(536)),
                answer(&[]),
                answer(&[3, 0, 1, 1]),
                answer(&[2, 4, 5, 180]).fragment(0, true),
            ] {
                assert_eq!(agent.clamp(&same.frame()), same.frame());
            }
        }
        assert_eq!(agent.counts(), [("clamped", 4), ("gue", 2)].into());
    });
}

#[test]
fn nothing_in_the_agents_object_panics() {
    let file = object::File::parse(OBJECT).unwrap();
    let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    for (name, _) in BUDGET {
        assert!(names.contains(&name), "no symbol {name} in {names:?}");
    }
    let reachable: Vec<_> = names.iter().filter(|name| name.contains("panicking")).collect();
    assert!(reachable.is_empty(), "reachable panics: {reachable:?}");
}

#[test]
fn the_verifier_takes_the_agents_programs_with_room_to_spare() {
    needs_root!();
    let programs = Programs::load(&settings(), None).unwrap();
    for (name, budget) in BUDGET {
        let info = programs.ebpf().program(name).unwrap().info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{name}: {verified} instructions verified, {} bytes of machine code",
            info.size_jitted()
        );
        assert!(
            verified <= budget,
            "{name}: {verified} instructions verified, more than {budget}"
        );
    }
}

/// Kernels before 6.6 have no links for this: the program is a filter there.
#[test]
fn the_clamp_is_attached_as_a_filter_where_there_are_no_links_for_it() {
    needs_root!();
    let namespace = Netns::new("filter");
    namespace.ip("link add eth0 type veth peer name peer0");
    namespace.enter(|| {
        let interface = lb_userspace::net::interface::by_name("eth0").unwrap();
        let folder = Folder::of(interface.index).unwrap();
        folder.make().unwrap();
        let filters = || namespace.run("tc", &["filter", "show", "dev", "eth0", "egress"]);
        // The second takes the place of the first, whose process has died.
        for _ in 0..2 {
            let mut programs = Programs::load(&settings(), Some(&folder)).unwrap();
            programs
                .attach_clamping(&folder, &interface, Egress::Filter)
                .unwrap();
            drop(programs);
            assert_eq!(filters().matches("direct-action").count(), 1, "{}", filters());
        }
        folder.remove(Some("eth0")).unwrap();
        assert_eq!(filters(), "");
    });
}
