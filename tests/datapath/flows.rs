//! The flow tables as userspace reads and sweeps them: what it shows, counts and puts right.

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::abi::{
    Flow4, FlowCore, FlowKey4, FlowSide, Forwarding, Ip, Ip4, Load, Origin, OriginId, PathMtu, Port,
    Protocol, TcpState, Timeouts, Traffic, maps,
};
use lb_common::testing::scenario::{CLIENT_SIDE, at};
use lb_common::testing::{PacketBuilder, Scenario};
use lb_core::image::TableOp;
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::flows::{Flow, FlowCounts, FlowTables};
use lb_userspace::datapath::writer::Writer;
use std::net::{IpAddr, SocketAddr};

const VIP: &str = "203.0.113.10:80";
/// More sweeps than agree before a count is put right.
const MANY: usize = 12;

struct Bed {
    kernel: Kernel,
    tables: FlowTables,
}

fn ip4(text: &str) -> Ip4 {
    Ip::from(text.parse::<IpAddr>().unwrap()).v4().unwrap()
}

/// Source and destination of packets.
type Ends<'a> = (&'a str, &'a str);

fn ends((source, destination): Ends<'_>) -> [SocketAddr; 2] {
    [source.parse().unwrap(), destination.parse().unwrap()]
}

impl Bed {
    fn new() -> Self {
        let kernel = Kernel::new(&small()).unwrap();
        let mut timeouts: Array<_, Timeouts> = kernel.map(maps::TIMEOUTS).unwrap().try_into().unwrap();
        let hz = kernel.clock.hz;
        let times = Timeouts {
            tcp: 3600 * hz,
            tcp_handshake: 3600 * hz,
            tcp_closing: 3600 * hz,
            udp: 3600 * hz,
        };
        timeouts.set(1, times, 0).unwrap();
        Self {
            tables: FlowTables::new(|name| kernel.map(name)).unwrap(),
            kernel,
        }
    }

    fn table(&self, name: &str) -> HashMap<MapData, FlowKey4, Flow4> {
        self.kernel.map(name).unwrap().try_into().unwrap()
    }

    fn array<V: aya::Pod>(&self, name: &str) -> Array<MapData, V> {
        self.kernel.map(name).unwrap().try_into().unwrap()
    }

    /// Writes one direction of a flow of application 1.
    fn enter(&self, table: &str, protocol: Protocol, arriving: Ends<'_>, leaving: Ends<'_>, core: FlowCore) {
        let ([source, destination], leaving) = (ends(arriving), ends(leaving));
        let key = FlowKey4 {
            source: ip4(&source.ip().to_string()),
            destination: ip4(&destination.ip().to_string()),
            source_port: Port::new(source.port()),
            destination_port: Port::new(destination.port()),
            protocol,
            ..FlowKey4::default()
        };
        let flow = Flow4 {
            core: FlowCore {
                application: 1,
                seen: self.kernel.clock.now().wrapping_sub(core.seen),
                source_port: Port::new(leaving[0].port()),
                destination_port: Port::new(leaving[1].port()),
                ..core
            },
            source: ip4(&leaving[0].ip().to_string()),
            destination: ip4(&leaving[1].ip().to_string()),
        };
        self.table(table).insert(key, flow, 0).unwrap();
    }

    /// Both directions of established flows of an origin, from that port on.
    fn open(&self, origin: u32, ports: std::ops::Range<u16>, idle: u32) {
        for port in ports {
            let (client, snat) = (format!("198.51.100.1:{port}"), format!("192.0.2.1:{port}"));
            let core = |side| FlowCore {
                origin: OriginId(origin),
                seen: idle,
                side,
                forwarding: Forwarding::NAT,
                tcp: TcpState(TcpState::ANSWERED | TcpState::ESTABLISHED),
                ..FlowCore::default()
            };
            let (there, back) = ((client.as_str(), VIP), (snat.as_str(), "10.0.0.1:8080"));
            self.enter(maps::FLOWS4, Protocol::TCP, there, back, core(FlowSide::CLIENT));
            let (there, back) = (("10.0.0.1:8080", snat.as_str()), (VIP, client.as_str()));
            self.enter(maps::FLOWS4, Protocol::TCP, there, back, core(FlowSide::ORIGIN));
        }
    }

    fn set_load(&self, origin: u32, established: u32) {
        let load = Load {
            established,
            reserved: 0,
        };
        self.array(maps::LOADS).set(origin, load, 0).unwrap();
    }

    /// As the packet path knows it.
    fn established(&self, origin: u32) -> i32 {
        let row = |name| self.array::<Load>(name).get(&origin, 0).unwrap().established;
        row(maps::LOADS).wrapping_sub(row(maps::SWEPT)) as i32
    }

    fn sweep(&mut self) -> FlowCounts {
        self.tables.sweep(&self.kernel.clock).unwrap()
    }

    fn flush(&mut self, origin: OriginId) -> u64 {
        let clock = self.kernel.clock;
        (self.tables.flush(&clock, |core| core.origin == origin)).unwrap()
    }

    fn list(&self) -> Vec<Flow> {
        self.tables.list(&self.kernel.clock, |_| true).unwrap()
    }
}

#[test]
fn counts_that_a_dead_daemon_left_wrong_are_put_right() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        bed.open(2, 1000..1005, 0);
        bed.open(3, 2000..2007, 0);
        bed.set_load(2, 105);
        bed.set_load(3, 7);
        // One that was killed between the two, and one that another took off twice.
        bed.set_load(4, 40);
        bed.set_load(5, 3_u32.wrapping_neg());
        let wrong = |bed: &Bed| [2, 3, 4, 5].map(|origin| bed.established(origin));
        for _ in 0..MANY {
            let counts = bed.sweep();
            assert_eq!((counts.total, counts.origins[&2], counts.origins[&3]), (12, 5, 7));
        }
        assert_eq!(wrong(&bed), [5, 7, 0, 0]);
        // All direct origins have a row together.
        let direct = FlowCore {
            origin: OriginId(6),
            forwarding: Forwarding::DSR_IPIP,
            tcp: TcpState(TcpState::ANSWERED | TcpState::ESTABLISHED),
            ..FlowCore::default()
        };
        let ends = ("198.51.100.9:9", VIP);
        bed.enter(maps::FLOWS4, Protocol::TCP, ends, ends, direct);
        bed.set_load(6, 4);
        for _ in 0..MANY {
            bed.sweep();
        }
        assert_eq!([OriginId::DIRECT.0, 6].map(|row| bed.established(row)), [1, 1]);
        // What is right stays so.
        for _ in 0..MANY {
            bed.sweep();
        }
        assert_eq!(wrong(&bed), [5, 7, 0, 0]);
    });
}

/// Without sweeps flows that have timed out count for ever.
#[test]
fn origins_are_full_only_as_long_as_somebody_sweeps() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        let mut scenario = Scenario::standard();
        scenario.tables.swept_at = 0;
        bed.kernel.write(&scenario.tables).unwrap();
        let query = |bed: &mut Bed, client: &str| {
            let packet = PacketBuilder::udp(at(client), at("203.0.113.10:87")).payload(b"a query");
            bed.kernel.receive(CLIENT_SIDE, &packet.frame()).unwrap().0
        };
        assert_eq!(query(&mut bed, "198.51.100.1:1000"), Action::REDIRECT);
        bed.sweep();
        assert_eq!(query(&mut bed, "198.51.100.2:1000"), Action::DROP);
        // As if the daemon had gone a minute ago.
        let minute = scenario.tables.settings.second * 60;
        let long_ago = bed.kernel.clock.now().wrapping_sub(minute + 1);
        bed.array(maps::SWEPT_AT).set(0, long_ago, 0).unwrap();
        assert_eq!(query(&mut bed, "198.51.100.2:1000"), Action::REDIRECT);
    });
}

#[test]
fn what_is_removed_is_taken_off_and_what_closes_still_names_its_origin() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        let hour = 3601 * bed.kernel.clock.hz;
        bed.open(2, 1000..1004, hour);
        bed.open(2, 2000..2003, 0);
        bed.set_load(2, 7);
        let closing = FlowCore {
            origin: OriginId(6),
            tcp: TcpState(TcpState::CLIENT_FIN | TcpState::ORIGIN_FIN),
            ..FlowCore::default()
        };
        let ends = (("198.51.100.1:9", VIP), ("192.0.2.1:9", "10.0.0.6:8080"));
        bed.enter(maps::TENTATIVE4, Protocol::TCP, ends.0, ends.1, closing);
        let counts = bed.sweep();
        assert_eq!((counts.expired, counts.total), (8, 3));
        assert_eq!(bed.established(2), 3);
        assert_eq!(counts.named, [OriginId(2), OriginId(6)].into());
        assert_eq!(counts.origins, [(2, 3)].into());
        assert_eq!(bed.flush(OriginId(2)), 3);
        assert_eq!(bed.established(2), 0);
        assert_eq!(bed.table(maps::FLOWS4).keys().count(), 0);
        assert_eq!(bed.sweep().named, [OriginId(6)].into());
    });
}

#[test]
fn flows_are_shown_as_their_origin_sees_them() {
    needs_root!();
    namespace().enter(|| {
        let bed = Bed::new();
        let mut origins = bed.array::<Origin>(maps::ORIGINS);
        let record = Origin {
            address: "10.0.0.9".parse::<IpAddr>().unwrap().into(),
            identity: 9,
            forwarding: Forwarding::DSR_IPIP,
            ..Origin::default()
        };
        origins.set(9, record, 0).unwrap();
        let established = TcpState(TcpState::ANSWERED | TcpState::ESTABLISHED);
        let core = |origin, forwarding| FlowCore {
            origin: OriginId(origin),
            forwarding,
            tcp: established,
            ..FlowCore::default()
        };
        let client = "198.51.100.1:7";
        let arriving = (client, VIP);
        bed.enter(
            maps::FLOWS4,
            Protocol::TCP,
            arriving,
            ("192.0.2.1:61000", "10.0.0.7:8080"),
            core(7, Forwarding::NAT),
        );
        bed.enter(
            maps::FLOWS4,
            Protocol::UDP,
            arriving,
            (client, "10.0.0.8:8080"),
            core(8, Forwarding::DNAT),
        );
        let other = ("198.51.100.2:7", VIP);
        bed.enter(
            maps::TENTATIVE4,
            Protocol::TCP,
            other,
            other,
            core(9, Forwarding::DSR_IPIP),
        );
        let mut shown: Vec<_> = bed
            .list()
            .into_iter()
            .map(|flow| {
                let snat = flow.snat.map(|snat| snat.to_string());
                let origin = flow.origin_address.to_string();
                (flow.origin.0, flow.client.to_string(), snat, origin, flow.state)
            })
            .collect();
        shown.sort();
        let row = |origin, client: &str, snat: Option<&str>, to: &str, state| {
            (
                origin,
                client.to_owned(),
                snat.map(str::to_owned),
                to.to_owned(),
                state,
            )
        };
        assert_eq!(
            shown,
            [
                row(7, client, Some("192.0.2.1:61000"), "10.0.0.7:8080", "established"),
                row(8, client, None, "10.0.0.8:8080", "-"),
                row(9, "198.51.100.2:7", None, "10.0.0.9:80", "established"),
            ]
        );
    });
}

#[test]
fn a_number_that_is_given_anew_inherits_nothing() {
    needs_root!();
    namespace().enter(|| {
        let bed = Bed::new();
        let mut writer = Writer::new(|name| bed.kernel.map(name)).unwrap();
        let path = PathMtu {
            mtu: 1400,
            ..PathMtu::default()
        };
        let traffic = Traffic {
            packets_in: 5,
            ..Traffic::default()
        };
        let mut counters: PerCpuArray<_, Traffic> =
            bed.kernel.map(maps::ORIGIN_TRAFFIC).unwrap().try_into().unwrap();
        for origin in [2, 3] {
            bed.set_load(origin, 40);
            bed.array(maps::PATH_MTUS).set(origin, path, 0).unwrap();
            let values = PerCpuValues::try_from(vec![traffic; nr_cpus().unwrap()]).unwrap();
            counters.set(origin, values, 0).unwrap();
            let record = Origin {
                identity: 7,
                ..Origin::default()
            };
            let id = OriginId(origin);
            writer.apply(&[TableOp::Origin { id, record }]).unwrap();
        }
        writer
            .apply(&[TableOp::ForgetOrigin { id: OriginId(2) }])
            .unwrap();
        let left = |origin: u32| {
            let packets = counters.get(&origin, 0).unwrap();
            (
                bed.array::<Origin>(maps::ORIGINS)
                    .get(&origin, 0)
                    .unwrap()
                    .identity,
                bed.established(origin),
                bed.array::<PathMtu>(maps::PATH_MTUS).get(&origin, 0).unwrap().mtu,
                packets.iter().map(|traffic| traffic.packets_in).max(),
            )
        };
        assert_eq!(left(2), (0, 0, 0, Some(0)));
        assert_eq!(left(3), (7, 40, 1400, Some(5)));
    });
}
