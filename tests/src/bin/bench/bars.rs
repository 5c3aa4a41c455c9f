//! How cheap lb means to be: the one place that says so. All in CPU time net of the harness, which is what sending the packet
//! back at once takes; as medians of what was measured in the same round.

use crate::cases::{Build, Case, Floor, Program};
use crate::control::Figure;
use crate::forwarding::{Load, Way};
use crate::frame::{Traffic, Version};
use crate::layout::{Door, Shape, Width};
use crate::modes::Mode;
use crate::paths::{self, Measure};
use lb_common::abi::Protocol;

/// Of established flows of `nat`, to one lookup and one counter: of one flow, and of so many that they do not fit into caches.
const NAT: f64 = 2.0;
const NAT_MANY: f64 = 1.3;
/// From so many flows on.
const MANY: u32 = 1 << 16;
/// Of established TCP flows that are forwarded directly, and have no entries, to the ring; and at a million flows, to one.
const DIRECT: f64 = 1.3;
const DIRECT_MILLION: f64 = 1.3;
const MILLION: u32 = 1_000_000;
/// Of new flows of `nat`, to two insertions and an established flow's packet.
const NEW: f64 = 1.2;
/// Of new flows that are forwarded directly, whose buckets have owners already, to an established flow's packet.
const NEW_DIRECT: f64 = 1.5;
/// Of a packet that is not ours, to one lookup that finds nothing.
const NOT_OURS: f64 = 1.3;
/// Of a packet that is refused, to one that is not ours.
const REFUSED: f64 = 2.0;
/// Of new flows that 100,000 prefixes let in, to those that need no permission and one lookup of a prefix.
const LISTED: f64 = 1.1;
/// Of 1,000 applications and of 10,000 origins, to one and two: what noise makes of no difference.
const WIDE: f64 = 1.1;
/// Of IPv6, to IPv4.
const V6: f64 = 1.3;
/// Of each packet while both CPUs send, to when one does.
const BOTH_CPUS: f64 = 1.2;

/// Of a packet of 1,000 open flows on its whole way, to kernel routing: forwarded directly, and translated.
const WAY_DIRECT: f64 = 0.3;
const WAY_NAT: f64 = 0.4;
/// The same translated, to the kernel's translation; and of new flows.
const WAY_NAT_NFTABLES: f64 = 0.2;
const WAY_NEW_NFTABLES: f64 = 0.35;

/// What a way through a node may cost at most, in multiples of another one.
pub fn forwarding(way: Way, load: Load) -> Vec<(f64, Way)> {
    match (way, load) {
        (Way::DsrL2 | Way::DsrIpip, Load::Established(1_024)) => vec![(WAY_DIRECT, Way::Routing)],
        (Way::Nat, Load::Established(1_024)) => {
            vec![(WAY_NAT, Way::Routing), (WAY_NAT_NFTABLES, Way::Masquerade)]
        }
        (Way::Nat, Load::New) => vec![(WAY_NEW_NFTABLES, Way::Masquerade)],
        _ => Vec::new(),
    }
}

/// Of bulk TCP, to routing packet by packet; of answers and of connections, to the kernel's translation and to proxies; of
/// datagrams, to a proxy. At least.
const PATH_BULK: f64 = 0.9;
const PATH_RATE_NFTABLES: f64 = 1.0;
const PATH_RATE_PROXY: f64 = 1.5;

/// What lb's path is to achieve at least, in multiples of another one's.
pub fn path(measure: Measure) -> Vec<(f64, &'static str)> {
    match measure {
        Measure::Up | Measure::Down => vec![(PATH_BULK, paths::SINGLE_ROUTING)],
        Measure::Requests | Measure::Connections => vec![
            (PATH_RATE_NFTABLES, paths::NFTABLES),
            (PATH_RATE_PROXY, paths::HAPROXY),
            (PATH_RATE_PROXY, paths::NGINX),
        ],
        Measure::Datagrams => vec![(PATH_RATE_PROXY, paths::NGINX)],
        Measure::Median | Measure::Slowest | Measure::ConnectMedian | Measure::ConnectSlowest => Vec::new(),
    }
}

/// Of one table for 10,000 origins, in milliseconds.
const TABLE: f64 = 50.0;
/// From an observation until the origin gets no new flow, in milliseconds.
const AVOIDED: f64 = 1.0;
/// Of 1,000 applications, from text to maps, in milliseconds.
const CONFIGURED: f64 = 1_000.0;
/// Of memory for a direction of an IPv4 flow, in bytes.
const FLOW_MEMORY: f64 = 160.0;

/// What a figure of the control plane may be at most, in its unit.
pub fn control(figure: Figure) -> Option<f64> {
    match figure {
        Figure::Table(10_000) => Some(TABLE),
        Figure::Avoided(_) => Some(AVOIDED),
        Figure::Configured => Some(CONFIGURED),
        Figure::FlowMemory(Version::V4) => Some(FLOW_MEMORY),
        _ => None,
    }
}

/// A row may cost `limit` times what the references cost together.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    pub subject: Case,
    pub limit: f64,
    /// How often each.
    pub references: Vec<(f64, Case)>,
}

impl Bar {
    fn to(subject: &Case, limit: f64, reference: Case) -> Self {
        Self {
            subject: *subject,
            limit,
            references: vec![(1.0, reference)],
        }
    }

    /// What it is compared with, in words.
    pub fn words(&self) -> String {
        let words = self.references.iter().map(|(factor, case)| {
            let same = case.shape.flows == self.subject.shape.flows || case.shape.flows == 0;
            let flows = if same {
                String::new()
            } else {
                format!(" at {}", counted(case.shape.flows))
            };
            let name = format!("{}{flows}", case.name());
            if *factor == 1.0 {
                name
            } else {
                format!("{factor} x {name}")
            }
        });
        words.collect::<Vec<_>>().join(" + ")
    }
}

fn counted(flows: u32) -> String {
    if flows == 1 {
        "1 flow".into()
    } else {
        format!("{flows} flows")
    }
}

/// The floor that a row is set beside.
pub fn floor(case: &Case) -> Option<Case> {
    let (floor, shape) = match (case.program, case.traffic) {
        (Program::Floor(_), _) => return None,
        (_, Traffic::NotOurs | Traffic::Refused(_)) => (Floor::Miss, case.shape),
        (_, Traffic::New(_)) if !case.mode.forwarding().is_direct() => (Floor::Insert, case.shape),
        (_, Traffic::In | Traffic::Out | Traffic::New(_)) => match case.mode {
            Mode::Nat | Mode::Dnat => (Floor::Lookup, case.shape),
            Mode::L2 => (Floor::Ring, case.shape),
            Mode::Ipip(_) | Mode::Gue(_) => (Floor::RingTunnel, case.shape),
        },
    };
    let shape = Shape::usual(shape.flows);
    Some(Case {
        shape,
        cpus: case.cpus,
        ..Case::floor(floor, case.version)
    })
}

/// What holds of a row. Its references need not have been measured.
pub fn bars(case: &Case) -> Vec<Bar> {
    let mut bars = Vec::new();
    if case.build != Build::Present || case.program != Program::Lb {
        return bars;
    }
    let direct = case.mode.forwarding().is_direct();
    let (flows, usual) = (case.shape.flows, case.shape.width == Width::Usual);
    let v4 = case.version == Version::V4;
    let to = |limit, reference| Bar::to(case, limit, reference);
    let with = |traffic| Case { traffic, ..*case };
    let at = |floor| Case {
        shape: case.shape,
        ..Case::floor(floor, case.version)
    };
    if case.cpus > 1 {
        bars.push(to(BOTH_CPUS, Case { cpus: 1, ..*case }));
        return bars;
    }
    match case.traffic {
        _ if !usual => {
            let shape = Shape::usual(flows);
            bars.push(to(WIDE, Case { shape, ..*case }));
        }
        Traffic::In | Traffic::Out if v4 && case.mode == Mode::Nat => {
            let limit = match flows {
                1 => Some(NAT),
                MANY.. => Some(NAT_MANY),
                _ => None,
            };
            let bar = limit.zip(floor(case));
            bars.extend(bar.map(|(limit, floor)| to(limit, floor)));
        }
        Traffic::In if v4 && direct && case.protocol == Protocol::TCP => {
            bars.extend(floor(case).map(|floor| to(DIRECT, floor)));
            if flows >= MILLION {
                let shape = Shape::usual(1);
                bars.push(to(DIRECT_MILLION, Case { shape, ..*case }));
            }
        }
        Traffic::New(Door::Open) if direct => bars.push(to(NEW_DIRECT, with(Traffic::In))),
        Traffic::New(Door::Open) => bars.push(Bar {
            subject: *case,
            limit: NEW,
            references: vec![(2.0, at(Floor::Insert)), (1.0, with(Traffic::In))],
        }),
        Traffic::New(_) => bars.push(Bar {
            subject: *case,
            limit: LISTED,
            references: vec![(1.0, with(Traffic::New(Door::Open))), (1.0, at(Floor::Prefix))],
        }),
        Traffic::Refused(_) => bars.push(to(REFUSED, with(Traffic::NotOurs))),
        Traffic::NotOurs => bars.extend(floor(case).map(|floor| to(NOT_OURS, floor))),
        Traffic::In | Traffic::Out => {}
    }
    if !v4 {
        let version = Version::V4;
        bars.push(to(V6, Case { version, ..*case }));
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    const FLOWS: [u32; 4] = [1, 1_000, MANY, MILLION];

    fn bars_of(name: &str, flows: u32) -> Vec<(f64, String)> {
        let cases = cases::all(&FLOWS, 2);
        let named = |case: &&Case| case.name() == name && case.shape.flows == flows;
        let case = cases.iter().find(named).expect("such a case");
        let bars = bars(case);
        bars.iter().map(|bar| (bar.limit, bar.words())).collect()
    }

    #[test]
    fn bars_say_what_they_mean() {
        let one = |limit: f64, words: &str| vec![(limit, words.to_owned())];
        assert_eq!(bars_of("tcp v4 in", 1), one(2.0, "floor: lookup v4"));
        assert_eq!(bars_of("udp v4 out", MILLION), one(1.3, "floor: lookup v4"));
        assert_eq!(bars_of("tcp v4 in", 1_000), []);
        assert_eq!(bars_of("tcp v6 in", 1_000), one(1.3, "tcp v4 in"));
        assert_eq!(
            bars_of("tcp v4 in, dsr_l2", MILLION),
            [
                (1.3, "floor: ring v4".to_owned()),
                (1.3, "tcp v4 in, dsr_l2 at 1 flow".to_owned())
            ]
        );
        assert_eq!(
            bars_of("tcp v4 new", 1),
            one(1.2, "2 x floor: insert v4 + tcp v4 in")
        );
        assert_eq!(bars_of("tcp v4 new, denied", 1), one(2.0, "tcp v4 not ours"));
        assert_eq!(bars_of("tcp v4 in, both CPUs", MANY), one(1.2, "tcp v4 in"));
        assert_eq!(
            bars_of("tcp v4 new, 10,000 origins", MANY),
            one(1.1, "tcp v4 new")
        );
    }

    #[test]
    fn references_are_measured() {
        let cases = cases::all(&FLOWS, 2);
        for bar in cases.iter().flat_map(bars) {
            for (_, reference) in &bar.references {
                assert!(cases.contains(reference), "{bar:?}");
            }
        }
        for floor in cases.iter().filter_map(floor) {
            let single = Case { cpus: 1, ..floor };
            assert!(cases.contains(&single), "{floor:?}");
        }
    }
}
