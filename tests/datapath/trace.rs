//! Tracing: what is reported of packets, and what it changes: nothing.

use lb_common::abi::{
    Ends, Ip, Port, Prefix, Report, ReportKind, Settings, SettingsFlags, TraceKinds, Tracing,
};
use lb_common::datapath::{Pass, Reply, Verdict};
use lb_common::testing::scenario::{CLIENT_SIDE, Host, ORIGIN_SIDE, Scenario, app};
use lb_common::testing::{Frame, PacketBuilder, fixtures};
use lb_common::trace;
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::trace::{Listener, Source, Traced};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::net::SocketAddr;

const SYN: u8 = 2;
const ACK: u8 = 16;
const ALL: u32 = TraceKinds::FORWARDED | TraceKinds::REFUSED | TraceKinds::PASSED;

const ANYWHERE: Prefix = Prefix {
    address: Ip([0; 4]),
    mask: Ip([0; 4]),
};

const EVERYTHING: Tracing = Tracing {
    prefixes: [ANYWHERE; 2],
    application: Tracing::ANY,
    row: Tracing::ANY,
    port: Port(0),
    reserved: 0,
    kinds: TraceKinds(ALL),
    snap: 8191,
    limit: u32::MAX,
};

/// A kernel program that is listened to.
struct Bench {
    kernel: Kernel,
    source: Source,
    listener: Listener,
}

impl Bench {
    fn new(tracing: &Tracing) -> Self {
        let mut kernel = Kernel::new(&small()).unwrap();
        let mut source = Source::take(kernel.ebpf_mut()).unwrap();
        source.set(tracing).unwrap();
        let listener = source.listen().unwrap();
        Self {
            kernel,
            source,
            listener,
        }
    }

    /// Settings that trace for some jiffies from now.
    fn traced(&self, settings: Settings, jiffies: u32) -> Settings {
        Settings {
            flags: SettingsFlags(settings.flags.0 | SettingsFlags::TRACE),
            trace_until: self.kernel.clock.now().wrapping_add(jiffies) | 1,
            ..settings
        }
    }

    /// Writes a scenario, and traces for some jiffies from now on.
    fn write(&mut self, scenario: &Scenario, jiffies: u32) {
        let mut tables = scenario.tables.clone();
        tables.settings = self.traced(tables.settings, jiffies);
        self.kernel.write(&tables).unwrap();
    }

    fn reports(&mut self) -> Vec<Traced> {
        let (packets, lost) = self.listener.read();
        assert_eq!(lost, 0);
        packets
    }
}

fn ends(frame: &Frame) -> Ends {
    let mut ends = Ends::default();
    trace::find(frame, &mut ends);
    ends
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client_packet(port: u16, flags: u8) -> Frame {
    PacketBuilder::tcp(
        at("198.51.100.7:40000"),
        (at("203.0.113.10:1").ip(), port).into(),
        flags,
    )
    .payload(b"some payload")
    .frame()
}

/// Each packet of every fixture has the same fate, traced or not, and is reported as it came, with its reason.
#[test]
fn every_packet_is_reported_as_it_came_and_goes_as_it_would() {
    needs_root!();
    namespace().enter(|| {
        let mut bench = Bench::new(&EVERYTHING);
        let mut seen = 0;
        for fixture in fixtures::all() {
            bench.write(&fixture.scenario, 1_000_000);
            for (number, step) in fixture.steps.iter().enumerate() {
                let name = format!("{}, step {number}", fixture.name);
                let (action, left) = bench.kernel.receive(step.ifindex, &step.frame).unwrap();
                assert_eq!(action, Action::of(step.verdict), "{name}");
                if let Some(wanted) = &step.left {
                    assert_eq!(&left, wanted, "{name}");
                }
                let _held = bench.kernel.held();
                let [traced] = bench
                    .reports()
                    .try_into()
                    .unwrap_or_else(|all| panic!("{name}: {all:?}"));
                let Report {
                    length,
                    captured,
                    ifindex,
                    kind,
                    row,
                    left: head,
                    ..
                } = traced.report;
                assert_eq!(traced.frame, step.frame.0, "{name}");
                assert_eq!((length, captured), (traced.frame.len() as u32, length), "{name}");
                assert_eq!(ifindex, step.ifindex, "{name}");
                assert_eq!(
                    traced.report.leaving[..head as usize],
                    left.0[..head as usize],
                    "{name}"
                );
                let expected = match step.verdict {
                    Verdict::Pass(_) => ReportKind::PASS,
                    Verdict::Forward(_) => ReportKind::FORWARD,
                    Verdict::Reply(..) => ReportKind::REPLY,
                    Verdict::Hold(_) => ReportKind::HOLD,
                    Verdict::Drop(_) => ReportKind::DROP,
                };
                assert_eq!(kind, expected, "{name}");
                assert_eq!(row, step.verdict.row().unwrap_or(Report::NO_REASON), "{name}");
                // The host reads the same ends.
                assert_eq!(traced.report.ends, [&step.frame, &left].map(ends), "{name}");
                seen += 1;
            }
        }
        println!("{seen} packets");
        assert!(seen > 200);
    });
}

#[test]
fn reports_name_application_origin_and_the_way_out() {
    needs_root!();
    namespace().enter(|| {
        let mut bench = Bench::new(&EVERYTHING);
        let mut host = Host::new(Scenario::standard());
        bench.write(&Scenario::standard(), 1_000_000);
        // A new flow, a packet of it, and one that somebody refuses.
        for flags in [SYN, ACK] {
            let _left = bench
                .kernel
                .receive(CLIENT_SIDE, &client_packet(80, flags))
                .unwrap();
            let _left = host.receive(CLIENT_SIDE, &client_packet(80, flags));
        }
        let _left = bench
            .kernel
            .receive(CLIENT_SIDE, &client_packet(81, SYN))
            .unwrap();
        let reports = bench.reports();
        let flows = host.scenario.tables.tentative4.borrow();
        let origin = flows.values().next().unwrap().core.origin;
        let told: Vec<_> = reports
            .iter()
            .map(|traced| {
                let report = traced.report;
                (report.kind, report.application, report.origin, report.leaves_by)
            })
            .collect();
        let forwarded = (ReportKind::FORWARD, app::WEB, origin, ORIGIN_SIDE);
        assert_eq!(told[..2], [forwarded, forwarded]);
        let refused = reports[2].report;
        assert_eq!(
            (refused.kind, refused.row),
            (ReportKind::REPLY, Reply::ResetNoOrigin.row())
        );
        assert_eq!(
            (refused.application, refused.leaves_by),
            (app::LONELY_TCP, CLIENT_SIDE)
        );
        assert!(reports.is_sorted_by_key(|traced| traced.report.time));
        assert!(
            reports[0].leaving().len() > 14
                && reports[0].leaving() != &reports[0].frame[..reports[0].leaving().len()]
        );
    });
}

#[test]
fn only_what_is_asked_for_comes_and_no_more_than_that() {
    needs_root!();
    namespace().enter(|| {
        let mut bench = Bench::new(&EVERYTHING);
        bench.write(&Scenario::standard(), 1_000_000);
        let send = |bench: &mut Bench, tracing: Tracing| {
            bench.source.set(&tracing).unwrap();
            for frame in [
                client_packet(80, SYN),
                client_packet(80, ACK),
                client_packet(81, SYN),
                client_packet(22, SYN),
            ] {
                let _left = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
            }
            let kinds = bench.reports().into_iter().map(|traced| traced.report.kind);
            kinds.collect::<Vec<_>>()
        };
        let (forward, reply, pass) = (ReportKind::FORWARD, ReportKind::REPLY, ReportKind::PASS);
        let kinds = |kinds| Tracing {
            kinds: TraceKinds(kinds),
            ..EVERYTHING
        };
        assert_eq!(send(&mut bench, EVERYTHING), [forward, forward, reply, pass]);
        assert_eq!(send(&mut bench, kinds(TraceKinds::REFUSED)), [reply]);
        assert_eq!(send(&mut bench, kinds(TraceKinds::PASSED)), [pass]);
        let of_web = Tracing {
            application: app::WEB,
            ..EVERYTHING
        };
        assert_eq!(send(&mut bench, of_web), [forward, forward]);
        let prefix = |address: &str, mask: u32| Prefix {
            address: at(address).ip().into(),
            mask: Ip([u32::MAX, u32::MAX, u32::MAX, mask.to_be()]),
        };
        let from = |client, vip| Tracing {
            prefixes: [client, vip],
            ..EVERYTHING
        };
        let (near, vip) = (
            prefix("198.51.100.0:0", 0xffff_ff00),
            prefix("203.0.113.10:0", u32::MAX),
        );
        assert_eq!(send(&mut bench, from(near, ANYWHERE)).len(), 4);
        assert_eq!(send(&mut bench, from(near, vip)).len(), 4);
        let elsewhere = prefix("198.51.100.8:0", u32::MAX);
        assert_eq!(send(&mut bench, from(elsewhere, ANYWHERE)).len(), 0);
        assert_eq!(send(&mut bench, from(elsewhere, vip)).len(), 0);
        // Where a packet goes after its translation counts as well.
        let origins = prefix("10.0.0.0:0", 0xff00_0000);
        assert_eq!(send(&mut bench, from(origins, ANYWHERE)), [forward, forward]);
        let port = |port| Tracing {
            port: Port::new(port),
            ..EVERYTHING
        };
        assert_eq!(send(&mut bench, port(81)), [reply]);
        assert_eq!(send(&mut bench, port(22)), [pass]);
        assert_eq!(send(&mut bench, port(40000)), [forward, forward, reply, pass]);
        let reason = |row| Tracing { row, ..EVERYTHING };
        assert_eq!(send(&mut bench, reason(Reply::ResetNoOrigin.row())), [reply]);
        assert_eq!(send(&mut bench, reason(Pass::NotOurs.row())), [pass]);
        let short = Tracing {
            snap: 20,
            ..EVERYTHING
        };
        bench.source.set(&short).unwrap();
        let frame = client_packet(80, SYN);
        let _left = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
        let [traced] = bench.reports().try_into().unwrap();
        assert_eq!(
            (traced.frame.as_slice(), traced.report.length as usize),
            (&frame.0[..20], frame.0.len())
        );

        // In another second, or the count would go on.
        bench.write(&Scenario::standard(), 1_000_000);
        let few = Tracing {
            limit: 2,
            ..EVERYTHING
        };
        bench.source.set(&few).unwrap();
        let mut reported = 0;
        let mut lost = 0;
        for _ in 0..1000 {
            let _left = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
            let (packets, omitted) = bench.listener.read();
            reported += packets.len();
            lost += omitted;
        }
        assert!(reported < 100, "{reported} reported, {lost} left out");
    });
}

#[test]
fn nothing_is_reported_when_nobody_traces_or_the_time_is_over() {
    needs_root!();
    namespace().enter(|| {
        let mut bench = Bench::new(&EVERYTHING);
        let frame = client_packet(80, SYN);
        let send = |bench: &mut Bench| {
            let (action, _) = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
            assert_eq!(action, Action::REDIRECT);
            bench.reports().len()
        };
        bench.kernel.write(&Scenario::standard().tables).unwrap();
        assert_eq!(send(&mut bench), 0);
        bench.write(&Scenario::standard(), 1_000_000);
        assert_eq!(send(&mut bench), 1);
        // A daemon that was killed a second ago.
        bench.write(&Scenario::standard(), bench_back(&bench));
        assert_eq!(send(&mut bench), 0);
        bench.write(&Scenario::standard(), 1_000_000);
        assert_eq!(send(&mut bench), 1);
        // Nobody listens any more: packets go on.
        bench.listener = bench.source.listen().unwrap();
        let Bench { listener, .. } = &mut bench;
        assert_eq!(listener.read().0.len(), 0);
        assert_eq!(send(&mut bench), 1);
    });
}

#[test]
fn what_nobody_had_time_to_read_is_counted_exactly() {
    needs_root!();
    namespace().enter(|| {
        // Each CPU has a buffer, and says what did not fit when something fits again into that one.
        let mut first = CpuSet::new();
        first.set(0);
        sched_setaffinity(None, &first).unwrap();
        let mut bench = Bench::new(&EVERYTHING);
        bench.write(&Scenario::standard(), 1_000_000);
        let frame = client_packet(22, SYN);
        // More than the buffer between program and daemon holds.
        let sent = 10_000;
        for _ in 0..sent {
            let _left = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
        }
        let (packets, lost) = bench.listener.read();
        assert!(packets.len() > 1_000 && packets.len() < sent, "{}", packets.len());
        // The kernel says how many did not fit when one fits again.
        let _left = bench.kernel.receive(CLIENT_SIDE, &frame).unwrap();
        let (more, lost_since) = bench.listener.read();
        assert_eq!(more.len(), 1);
        assert_eq!(packets.len() as u64 + lost + lost_since, sent as u64);
    });
}

/// Jiffies that lead a second back.
fn bench_back(bench: &Bench) -> u32 {
    0u32.wrapping_sub(bench.kernel.clock.hz)
}
