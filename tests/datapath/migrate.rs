//! Flows of an old layout are taken over: the program goes on with them as if it had opened them itself.

use aya::maps::{Array, HashMap, MapData};
use lb_common::abi::{
    Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, Load, OriginId, OriginState, TcpState, maps,
};
use lb_common::datapath::Verdict;
use lb_common::datapath::track::TcpFlags;
use lb_common::testing::scenario::{CLIENT_SIDE, Host, ORIGIN_SIDE, Scenario, TWO_ARMED, VIPS};
use lb_common::testing::{Frame, PacketBuilder};
use lb_tests::layout1::{self, Layout1};
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::flows::FlowTables;
use lb_userspace::datapath::migrate::Former;
use lb_userspace::datapath::pins::Pins;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN;

/// A node's folders, which go with this value.
struct Folders {
    old: PathBuf,
    pins: Pins,
    /// `lb detach` of another test takes maps without links for abandoned, unless somebody holds their folder.
    _lock: File,
}

impl Folders {
    fn new(name: &str) -> Self {
        let pins = Pins::open(&format!("m{}-{name}", std::process::id())).unwrap();
        let lock = File::open(pins.folder()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let old = pins.folder().parent().unwrap().join("v1");
        std::fs::create_dir(&old).unwrap();
        Self {
            old,
            pins,
            _lock: lock,
        }
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in self.pins.all_layouts() {
            let _ = folder.remove();
        }
    }
}

/// A flow that a client has opened, and the packets that go on with it.
struct Opened {
    from_client: Frame,
    from_origin: Frame,
}

/// Both ends of a forwarded frame.
fn ends(frame: &Frame, network: usize, v4: bool) -> (SocketAddr, SocketAddr) {
    let bytes = &frame.0;
    let (source, destination, transport) = if v4 {
        let at = |from: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[from..from + 4]).unwrap());
        (at(network + 12), at(network + 16), network + 20)
    } else {
        let at = |from: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[from..from + 16]).unwrap());
        (at(network + 8), at(network + 24), network + 40)
    };
    let port = |from: usize| u16::from_be_bytes([bytes[from], bytes[from + 1]]);
    (
        (source, port(transport)).into(),
        (destination, port(transport + 2)).into(),
    )
}

fn must_forward(host: &mut Host, ifindex: u32, frame: &Frame) -> Frame {
    let (verdict, left) = host.receive(ifindex, frame);
    assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
    left
}

/// Opens a flow in memory, and goes so far with it: 1, the client's first packet; 2, the answer; 3, the handshake's end;
/// 4, closed by both.
fn open(host: &mut Host, client: SocketAddr, vip: SocketAddr, tcp: bool, steps: usize) -> Opened {
    let packet = |source, destination, flags| {
        if tcp {
            PacketBuilder::tcp(source, destination, flags)
        } else {
            PacketBuilder::udp(source, destination)
        }
    };
    let first = packet(client, vip, SYN);
    let left = must_forward(host, CLIENT_SIDE, &first.frame());
    let (snat, origin) = ends(&left, 14, client.is_ipv4());
    let back = |flags| {
        packet(origin, snat, flags).link(
            lb_common::testing::scenario::ORIGIN_MAC,
            lb_common::testing::scenario::ORIGIN_NODE_MAC,
        )
    };
    let mut rest: Vec<(u32, Frame)> = vec![
        (ORIGIN_SIDE, back(SYN | ACK).frame()),
        (CLIENT_SIDE, packet(client, vip, ACK).frame()),
        (CLIENT_SIDE, packet(client, vip, FIN | ACK).frame()),
        (ORIGIN_SIDE, back(FIN | ACK).frame()),
    ];
    rest.truncate([0, 0, 1, 2, 4][steps]);
    for (ifindex, frame) in rest {
        let _left = must_forward(host, ifindex, &frame);
    }
    Opened {
        from_client: packet(client, vip, ACK).payload(b"ask").frame(),
        from_origin: back(ACK).payload(b"tell").frame(),
    }
}

/// A node in memory with flows of every kind.
fn busy(now: u32) -> (Host, Vec<Opened>) {
    let mut host = Host::new(Scenario::standard());
    host.now = now;
    // What leaves by the other interface comes back by it.
    for origin in host.scenario.tables.origins.values_mut() {
        origin.hop = TWO_ARMED;
    }
    let mut opened = Vec::new();
    for vip in VIPS {
        let vip: IpAddr = vip.parse().unwrap();
        let client: IpAddr = if vip.is_ipv4() {
            "198.51.100.7"
        } else {
            "2001:db8:c::7"
        }
        .parse()
        .unwrap();
        for number in 0..40 {
            let client = (client, 30_000 + number).into();
            let steps = usize::from(number % 4) + 1;
            opened.push(open(&mut host, client, (vip, 80).into(), true, steps));
            opened.push(open(&mut host, client, (vip, 53).into(), false, 2));
        }
    }
    (host, opened)
}

/// The number of each origin's established flows is what the memory holds.
fn assert_counted(pins: &Pins) {
    let mut held: BTreeMap<u32, u32> = BTreeMap::new();
    let flows4: HashMap<_, FlowKey4, Flow4> = layout1::open(pins.folder(), maps::FLOWS4).try_into().unwrap();
    let flows6: HashMap<_, FlowKey6, Flow6> = layout1::open(pins.folder(), maps::FLOWS6).try_into().unwrap();
    let cores = flows4.iter().map(|entry| entry.unwrap().1.core);
    for core in cores.chain(flows6.iter().map(|entry| entry.unwrap().1.core)) {
        if core.side == FlowSide::CLIENT {
            *held.entry(core.origin.0).or_default() += 1;
        }
    }
    assert!(held.len() > 2, "{held:?}");
    let added: Array<_, Load> = layout1::open(pins.folder(), maps::LOADS).try_into().unwrap();
    let removed: Array<_, Load> = layout1::open(pins.folder(), maps::SWEPT).try_into().unwrap();
    let established = |origin: u32| {
        let of = |map: &Array<MapData, Load>| map.get(&origin, 0).unwrap().established;
        of(&added).wrapping_sub(of(&removed))
    };
    for (origin, flows) in held {
        assert_eq!(established(origin), flows, "origin {origin}");
    }
}

#[test]
fn the_program_goes_on_with_every_flow_of_layout_1() {
    needs_root!();
    namespace().enter(|| {
        let folders = Folders::new("flows");
        let mut kernel = Kernel::pinned(&small(), folders.pins.folder()).unwrap();
        let (mut host, opened) = busy(kernel.clock.now());
        let mut old = Layout1::make(&folders.old);
        old.fill(&host.scenario.tables);
        kernel.write(&Scenario::standard().tables).unwrap();
        kernel.write_configuration(&host.scenario.tables).unwrap();

        let mut former = Former::find(&folders.pins).unwrap().unwrap();
        assert_eq!(former.version(), 1);
        former.check_room(&kernel.clock, 1000).unwrap();
        let refusal = former.check_room(&kernel.clock, 20).unwrap_err().to_string();
        assert!(refusal.contains("max_flows"), "{refusal}");
        let copied = former.copy(&folders.pins, &kernel.clock, true).unwrap();
        assert_eq!(copied.entries, 2 * opened.len() as u64);
        assert_eq!(
            copied.established,
            2 * (2 * 40 + 2 * 10),
            "all of UDP, a quarter of TCP"
        );
        for flow in &opened {
            for (ifindex, frame) in [(CLIENT_SIDE, &flow.from_client), (ORIGIN_SIDE, &flow.from_origin)] {
                host.now = kernel.clock.now();
                let (action, left) = kernel.receive(ifindex, frame).unwrap();
                let (verdict, expected) = host.receive(ifindex, frame);
                assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
                assert_eq!(action, Action::of(verdict));
                assert_eq!(left, expected);
            }
        }
        assert_counted(&folders.pins);
    });
}

#[test]
fn numbers_and_the_secret_are_kept() {
    needs_root!();
    let folders = Folders::new("numbers");
    let (host, _) = busy(1_000_000);
    let tables = &host.scenario.tables;
    Layout1::make(&folders.old).fill(tables);
    let former = Former::find(&folders.pins).unwrap().unwrap();
    assert_eq!(former.hash_key(), tables.settings.hash_key);
    let adopted = former.adopted().unwrap();
    assert_eq!(adopted.settings.generation, tables.settings.generation);
    assert_eq!(adopted.origins.len(), tables.origins.len());
    for (id, record) in &adopted.origins {
        let before = &tables.origins[id];
        assert_eq!(
            (record.address, record.identity, record.port, record.state),
            (
                before.address,
                1000 + u64::from(id.0),
                before.port,
                OriginState::UP
            )
        );
    }
    let mut ids: Vec<u32> = adopted.applications.iter().map(|(_, record)| record.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut all: Vec<u32> = tables.applications.values().map(|record| record.id).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(ids, all);
    let mut tiny = small();
    (tiny.capacity.origins, tiny.capacity.application_rows) = (2, 2);
    let fitted = former.fit(tiny).capacity;
    let last = adopted.origins.iter().map(|(id, _)| id.0).max();
    assert_eq!(last, Some(fitted.origins - 1));
    assert_eq!(all.last(), Some(&(fitted.application_rows - 1)));
}

#[test]
fn what_changed_between_the_two_copies_is_copied_and_what_the_new_program_did_is_kept() {
    needs_root!();
    namespace().enter(|| {
        let folders = Folders::new("twice");
        let mut kernel = Kernel::pinned(&small(), folders.pins.folder()).unwrap();
        let start = kernel.clock.now();
        let (mut host, opened) = busy(start);
        let mut old = Layout1::make(&folders.old);
        old.fill(&host.scenario.tables);
        kernel.write(&Scenario::standard().tables).unwrap();
        kernel.write_configuration(&host.scenario.tables).unwrap();
        let mut former = Former::find(&folders.pins).unwrap().unwrap();
        let first = former.copy(&folders.pins, &kernel.clock, true).unwrap();

        // The old program opens a flow, and completes a handshake.
        host.now = kernel.clock.now();
        let vip: SocketAddr = (VIPS[0].parse::<IpAddr>().unwrap(), 80).into();
        let late = open(&mut host, "198.51.100.9:40000".parse().unwrap(), vip, true, 3);
        let key = |flow: &Opened| {
            let (source, destination) = ends(&flow.from_client, 14, true);
            let mut found = None;
            for memory in [&host.scenario.tables.flows4, &host.scenario.tables.tentative4] {
                found = found.or(memory.borrow().iter().find_map(|(key, flow)| {
                    let ours = key.source_port.host() == source.port()
                        && key.destination_port.host() == destination.port()
                        && IpAddr::from(std::net::Ipv4Addr::from(key.source)) == source.ip();
                    ours.then_some((*key, *flow))
                }));
            }
            found.unwrap()
        };
        // It was answered, and not more, when it was copied.
        let (key4, mut flow4) = key(&opened[2]);
        assert!(!flow4.core.tcp.has(TcpState::ESTABLISHED), "{flow4:?}");
        flow4.core.tcp.0 |= TcpState::ANSWERED | TcpState::ESTABLISHED;
        flow4.core.seen = kernel.clock.now().wrapping_add(1);
        let (late_key, late_flow) = key(&late);
        old.flows(&host.scenario.tables);
        old.flow4(&key4, &flow4);
        // The new program has opened a flow of the same client to the same port by itself.
        let (taken_key, taken) = key(&opened[0]);
        let mut own = taken;
        own.core.seen = kernel.clock.now().wrapping_add(10);
        own.core.origin = OriginId(99);
        let open_map = |name: &str| layout1::open(folders.pins.folder(), name);
        let mut tentative: HashMap<_, FlowKey4, Flow4> = open_map(maps::TENTATIVE4).try_into().unwrap();
        tentative.insert(taken_key, own, 0).unwrap();

        let second = former.copy(&folders.pins, &kernel.clock, false).unwrap();
        assert!(second.entries >= 2, "{second:?}");
        assert!(second.entries < first.entries / 2, "{second:?} of {first:?}");
        let established: HashMap<_, FlowKey4, Flow4> = open_map(maps::FLOWS4).try_into().unwrap();
        assert_eq!(
            established.get(&late_key, 0).unwrap().destination,
            late_flow.destination
        );
        assert!(established.get(&key4, 0).is_ok() && tentative.get(&key4, 0).is_err());
        assert_eq!(tentative.get(&taken_key, 0).unwrap().core.origin, OriginId(99));
        for (ifindex, frame) in [(CLIENT_SIDE, &late.from_client), (ORIGIN_SIDE, &late.from_origin)] {
            let (action, left) = kernel.receive(ifindex, frame).unwrap();
            let (verdict, expected) = host.receive(ifindex, frame);
            assert_eq!((action, left), (Action::of(verdict), expected));
        }
        assert_counted(&folders.pins);
        let tables = FlowTables::new(|name| Ok(open_map(name))).unwrap();
        let flows = tables.list(&kernel.clock, |_| true).unwrap();
        assert_eq!(flows.len(), opened.len() + 1);
    });
}

#[test]
fn a_layout_that_nobody_knows_is_left_alone() {
    needs_root!();
    let folders = Folders::new("unknown");
    let _unknown = layout1::array::<8>(&folders.old, "SETTINGS", 1);
    let error = format!("{:#}", Former::find(&folders.pins).unwrap_err());
    assert!(
        error.contains("lb detach") && error.contains("8 bytes"),
        "{error}"
    );
    std::fs::rename(&folders.old, folders.old.with_file_name("v77")).unwrap();
    let error = format!("{:#}", Former::find(&folders.pins).unwrap_err());
    assert!(error.contains("lb detach") && error.contains("77"), "{error}");
}
