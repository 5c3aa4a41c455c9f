//! Which packets are reported to whoever traces.

use crate::abi::{
    Ends, Ip, Ip4, Ip6, Port, Prefix, Protocol, Report, ReportKind, Settings, SettingsFlags, Tap, TraceKinds,
    Tracing,
};
use crate::datapath::family::{Family, V4, V6};
use crate::datapath::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Ports};
use crate::datapath::{Note, Outcome, Verdict};
use crate::packet::Packet;

/// Offsets of the source address in IP headers; the destination follows it.
const SOURCE4: usize = 12;
const SOURCE6: usize = 8;

/// Until when packets are traced that come at jiffy `now`; 0: they are not. A daemon that has died traces no more soon.
#[inline(always)]
pub fn until(settings: &Settings, now: u32) -> u32 {
    let left = settings.trace_until.wrapping_sub(now);
    if settings.flags.has(SettingsFlags::TRACE) && left < u32::MAX / 2 {
        settings.trace_until
    } else {
        0
    }
}

/// Notes source and destination of the IP packet in a frame; zeros where there is none.
#[inline(always)]
pub fn find<P: Packet>(packet: &P, ends: &mut Ends) {
    *ends = Ends::default();
    let Ok(link) = parse::link(packet) else {
        return;
    };
    // Of a header that is malformed, the addresses are of interest still.
    match link.ether_type {
        ETHERTYPE_IPV4 => {
            if let Some([source, destination]) = packet.read::<[u32; 2]>(link.network + SOURCE4) {
                ends.addresses = [Ip::from(Ip4(source)), Ip::from(Ip4(destination))];
                find_ports::<V4, P>(packet, link.network, ends);
            }
        }
        ETHERTYPE_IPV6 => {
            if let Some([source, destination]) = packet.read::<[[u32; 4]; 2]>(link.network + SOURCE6) {
                ends.addresses = [Ip::from(Ip6(source)), Ip::from(Ip6(destination))];
                find_ports::<V6, P>(packet, link.network, ends);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn find_ports<F: Family, P: Packet>(packet: &P, at: usize, ends: &mut Ends) {
    let Ok(network) = F::parse(packet, at) else {
        return;
    };
    let has_ports = network.protocol == Protocol::TCP || network.protocol == Protocol::UDP;
    if has_ports
        && network.fragment != Fragment::Later
        && let Some(Ports { source, destination }) = packet.read(network.transport)
    {
        ends.ports = [source, destination];
    }
}

/// What was decided, in plain words; a redirect's interface is to be filled in.
#[inline(always)]
pub fn decided(verdict: Verdict) -> Outcome {
    let (kind, leaves_by) = match verdict {
        Verdict::Pass(_) => (ReportKind::PASS, 0),
        Verdict::Forward(_) => (ReportKind::FORWARD, Outcome::BACK),
        Verdict::Reply(..) => (ReportKind::REPLY, Outcome::BACK),
        Verdict::Hold(_) => (ReportKind::HOLD, 0),
        Verdict::Drop(_) => (ReportKind::DROP, 0),
    };
    Outcome {
        kind,
        row: verdict.row().unwrap_or(Report::NO_REASON),
        leaves_by,
        action: 0,
    }
}

/// Notes what became of the packet.
#[inline(always)]
pub fn note(report: &mut Report, outcome: Outcome, note: Note) {
    report.kind = outcome.kind;
    report.row = outcome.row;
    report.leaves_by = if outcome.leaves_by == Outcome::BACK {
        report.ifindex
    } else {
        outcome.leaves_by
    };
    report.application = note.application;
    report.origin = note.origin;
}

/// Whether a packet is reported.
#[inline(always)]
pub fn wants(tracing: &Tracing, report: &Report) -> bool {
    let kind = match report.kind {
        ReportKind::PASS => TraceKinds::PASSED,
        ReportKind::FORWARD | ReportKind::HOLD => TraceKinds::FORWARDED,
        _ => TraceKinds::REFUSED,
    };
    let [came, leaves] = report.ends;
    let [one, other] = tracing.prefixes;
    tracing.kinds.has(kind)
        && (tracing.application == Tracing::ANY || tracing.application == report.application)
        && (tracing.row == Tracing::ANY || tracing.row == report.row)
        && (tracing.port == Port(0) || has_port(tracing.port, came) || has_port(tracing.port, leaves))
        && (holds(one, came) || holds(one, leaves))
        && (holds(other, came) || holds(other, leaves))
}

#[inline(always)]
fn has_port(port: Port, Ends { ports: [a, b], .. }: Ends) -> bool {
    a == port || b == port
}

#[inline(always)]
fn holds(
    prefix: Prefix,
    Ends {
        addresses: [a, b], ..
    }: Ends,
) -> bool {
    prefix.holds(a) || prefix.holds(b)
}

/// Whether one more report may be made in the second, of `hz` jiffies, that `now` lies in; one that may not is counted.
#[inline(always)]
pub fn admit(tracing: &Tracing, tap: &mut Tap, now: u32, hz: u32) -> bool {
    if now.wrapping_sub(tap.second) >= hz {
        tap.second = now;
        tap.count = 0;
    }
    if tap.count >= tracing.limit {
        tap.omitted = tap.omitted.wrapping_add(1);
        return false;
    }
    tap.count += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::OriginId;
    use crate::datapath::{DropReason, Exit, Hold, Pass, Reply};
    use crate::testing::PacketBuilder;
    use core::net::{IpAddr, SocketAddr};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ip {
        Ip::from(text.parse::<IpAddr>().unwrap())
    }

    fn ends(frame: &crate::testing::Frame) -> Ends {
        let mut ends = Ends::default();
        find(frame, &mut ends);
        ends
    }

    fn between(source: &str, destination: &str) -> Ends {
        let ends = [source, destination].map(at);
        Ends {
            addresses: ends.map(|end| end.ip().into()),
            ports: ends.map(|end| Port::new(end.port())),
        }
    }

    fn tap(verdict: Verdict, application: u32) -> Tap {
        let mut tap: Tap = bytemuck::Zeroable::zeroed();
        tap.report.ifindex = 7;
        let origin = OriginId(4);
        let mut outcome = decided(verdict);
        if let Verdict::Forward(exit) | Verdict::Reply(_, exit) = verdict
            && let Exit::Redirect { ifindex } = exit
        {
            outcome.leaves_by = ifindex;
        }
        note(&mut tap.report, outcome, Note { application, origin });
        tap.report.ends = [
            between("198.51.100.7:40000", "203.0.113.10:80"),
            between("192.0.2.10:30000", "10.0.0.11:8080"),
        ];
        tap
    }

    const ALL: u32 = TraceKinds::FORWARDED | TraceKinds::REFUSED | TraceKinds::PASSED;

    const EVERYTHING: Tracing = Tracing {
        prefixes: [Prefix {
            address: Ip([0; 4]),
            mask: Ip([0; 4]),
        }; 2],
        application: Tracing::ANY,
        row: Tracing::ANY,
        port: Port(0),
        reserved: 0,
        kinds: TraceKinds(ALL),
        snap: 0,
        limit: 2,
    };

    fn prefix(address: &str, bits: u32) -> Prefix {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
        Prefix {
            address: ip(address),
            mask: Ip(bytemuck::cast(mask)),
        }
    }

    #[test]
    fn the_time_of_tracing_ends_by_itself() {
        let mut settings = Settings {
            flags: SettingsFlags(SettingsFlags::TRACE),
            trace_until: 5,
            ..Settings::default()
        };
        for (now, expected) in [(0, 5), (u32::MAX - 100, 5), (5, 5), (6, 0), (1 << 30, 0)] {
            assert_eq!(until(&settings, now), expected, "{now}");
        }
        settings.flags = SettingsFlags(0);
        assert_eq!(until(&settings, 0), 0);
    }

    #[test]
    fn ends_are_found_behind_vlan_tags_and_in_both_families() {
        for (source, destination) in [
            ("198.51.100.7:9", "203.0.113.10:80"),
            ("[2001:db8::7]:9", "[2001:db8::10]:80"),
        ] {
            let expected = between(source, destination);
            for tags in [&[][..], &[3], &[3, 4]] {
                let builder = PacketBuilder::udp(at(source), at(destination)).tags(tags);
                assert_eq!(ends(&builder.frame()), expected);
                // Later fragments have no ports.
                let unported = Ends {
                    ports: [Port(0); 2],
                    ..expected
                };
                assert_eq!(ends(&builder.fragment(64, true).frame()), unported);
            }
        }
        let malformed = PacketBuilder::tcp(at("198.51.100.7:9"), at("203.0.113.10:80"), 2).frame();
        let mut malformed = malformed.0;
        // A header of 4 bytes.
        malformed[14] = 0x41;
        let found = ends(&crate::testing::Frame(malformed));
        assert_eq!(
            found.addresses,
            between("198.51.100.7:9", "203.0.113.10:80").addresses
        );
        assert_eq!(found.ports, [Port(0); 2]);
        let cut = crate::testing::Frame(vec![0; 14]);
        assert_eq!(ends(&cut), Ends::default());
    }

    #[test]
    fn a_report_says_what_became_of_the_packet() {
        let exit = Exit::Redirect { ifindex: 9 };
        let rows: Vec<_> = [
            Verdict::Pass(Pass::NotOurs),
            Verdict::Forward(Exit::Transmit),
            Verdict::Forward(exit),
            Verdict::Reply(Reply::ResetNoOrigin, exit),
            Verdict::Hold(Hold::Fragment),
            Verdict::Drop(DropReason::NoNextHop),
        ]
        .into_iter()
        .map(|verdict| {
            let report = tap(verdict, 3).report;
            assert_eq!((report.application, report.origin), (3, OriginId(4)));
            (report.kind, report.leaves_by, report.row)
        })
        .collect();
        assert_eq!(
            rows,
            [
                (ReportKind::PASS, 0, Pass::NotOurs.row()),
                (ReportKind::FORWARD, 7, Report::NO_REASON),
                (ReportKind::FORWARD, 9, Report::NO_REASON),
                (ReportKind::REPLY, 9, Reply::ResetNoOrigin.row()),
                (ReportKind::HOLD, 0, Hold::Fragment.row()),
                (ReportKind::DROP, 0, DropReason::NoNextHop.row()),
            ]
        );
    }

    #[test]
    fn only_what_is_asked_for_is_reported() {
        let forwarded = tap(Verdict::Forward(Exit::Transmit), 3);
        let dropped = tap(Verdict::Drop(DropReason::NoNextHop), 3);
        let passed = tap(Verdict::Pass(Pass::NotOurs), 0);
        let of = |application, kinds| Tracing {
            application,
            kinds: TraceKinds(kinds),
            ..EVERYTHING
        };
        let at = |one, other| Tracing {
            prefixes: [one, other],
            ..EVERYTHING
        };
        let port = |port| Tracing {
            port: Port::new(port),
            ..EVERYTHING
        };
        let row = |row| Tracing { row, ..EVERYTHING };
        let (any, anywhere) = (Tracing::ANY, prefix("::", 0));
        for (tracing, expected) in [
            (EVERYTHING, [true, true, true]),
            (of(3, ALL), [true, true, false]),
            (of(4, ALL), [false, false, false]),
            (of(any, TraceKinds::REFUSED), [false, true, false]),
            (of(any, TraceKinds::PASSED), [false, false, true]),
            (row(DropReason::NoNextHop.row()), [false, true, false]),
            (row(Pass::NotOurs.row()), [false, false, true]),
            // The client, the application, the node and the origin.
            (at(prefix("198.51.100.0", 120), anywhere), [true, true, true]),
            (at(prefix("203.0.113.10", 128), anywhere), [true, true, true]),
            (at(anywhere, prefix("192.0.2.10", 128)), [true, true, true]),
            (at(anywhere, prefix("10.0.0.0", 104)), [true, true, true]),
            (at(prefix("198.51.100.8", 128), anywhere), [false, false, false]),
            (
                at(prefix("198.51.100.7", 128), prefix("203.0.113.10", 128)),
                [true, true, true],
            ),
            (
                at(prefix("198.51.100.7", 128), prefix("203.0.113.11", 128)),
                [false, false, false],
            ),
            (at(prefix("2001:db8::", 32), anywhere), [false, false, false]),
            (port(40000), [true, true, true]),
            (port(8080), [true, true, true]),
            (port(81), [false, false, false]),
        ] {
            let wanted = [&forwarded, &dropped, &passed].map(|tap| wants(&tracing, &tap.report));
            assert_eq!(wanted, expected, "{tracing:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut tap = tap(Verdict::Forward(Exit::Transmit), 3);
        let mut admit = |now| admit(&EVERYTHING, &mut tap, now, 100);
        let start = u32::MAX - 20;
        assert_eq!(
            [0, 1, 2, 99].map(|later| admit(start.wrapping_add(later))),
            [true, true, false, false]
        );
        assert_eq!(
            [100, 101, 102].map(|later| admit(start.wrapping_add(later))),
            [true, true, false]
        );
        assert_eq!(tap.omitted, 3);
    }
}
