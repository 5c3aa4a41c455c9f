//! The packets of the benchmark and the flows they belong to.

use crate::abi::{FRAME_LEN, Series, Varied, WORDS, ends, spread};
use crate::cases::{Build, Case, Effect};
use crate::layout::{Door, Shape};
use crate::modes::Mode;
use crate::network::{Headers4, Headers6};
use lb_common::abi::{FlowCore, FlowSide, Ip4, Ip6, Port, Protocol, TcpState};
use lb_common::datapath::checksum;
use lb_common::datapath::family::{Family, Tuple, V4, V6};
use lb_common::datapath::track::TcpFlags;
use std::mem::offset_of;
use std::net::Ipv4Addr;

/// An IPv4 address; in IPv6 it stands in the last 32 bits.
#[derive(Clone, Copy)]
pub struct Address(pub u32);

pub const fn address(a: u8, b: u8, c: u8, d: u8) -> Address {
    Address(Ipv4Addr::new(a, b, c, d).to_bits())
}

pub const ORIGIN: Address = address(10, 0, 2, 11);
/// The node itself, where somebody else listens.
const NODE: Address = address(10, 0, 1, 1);
/// The first of those whose flows are opened.
const NEW_CLIENTS: Address = address(10, 128, 0, 0);
/// The first of the node's source addresses.
pub const SNAT: Address = address(198, 18, 0, 0);

pub const ORIGIN_PORT: u16 = 8443;
const SSH_PORT: u16 = 22;
const FIRST_PORT: u16 = 1024;
/// 16,384 flows have the same client, and the same source address of the node.
const PORT_BITS: u32 = 14;
/// So many known flows have the same client.
pub const FLOWS_PER_CLIENT: u32 = 1 << PORT_BITS;
/// New flows: 64 of each client, so that the node's source addresses share them.
const NEW_PORT_BITS: u32 = 6;

const IPV6_PREFIX: u32 = 0xfd00_0000;
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];
pub const ORIGIN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa1];

const TTL: u8 = 64;
/// Where the transport header of either family stands.
const TRANSPORT: [usize; 2] = [
    offset_of!(Headers4, source_port),
    offset_of!(Headers6, source_port),
];
const LINK_LEN: usize = 14;

/// A family as the cases name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V4,
    V6,
}

/// A family whose addresses can be made from numbers.
pub trait Numbered: Family {
    const VERSION: Version;

    fn numbered(address: Address) -> Self::Address;
}

impl Numbered for V4 {
    const VERSION: Version = Version::V4;

    fn numbered(Address(bits): Address) -> Ip4 {
        Ip4(bits.to_be())
    }
}

impl Numbered for V6 {
    const VERSION: Version = Version::V6;

    fn numbered(Address(bits): Address) -> Ip6 {
        Ip6([IPV6_PREFIX.to_be(), 0, 0, bits.to_be()])
    }
}

/// Which packets are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Of known flows, from clients.
    In,
    /// Of known flows, from the origin.
    Out,
    /// Each the first of its flow, which the application behind that door takes.
    New(Door),
    /// Each the first of its flow, which is refused behind that door.
    Refused(Door),
    /// For somebody else on this machine.
    NotOurs,
}

impl Traffic {
    /// What clients knock at.
    fn door(self) -> Door {
        match self {
            Self::New(door) | Self::Refused(door) => door,
            Self::In | Self::Out | Self::NotOurs => Door::Open,
        }
    }
}

/// How flows of a case are numbered and how many there are.
#[derive(Clone, Copy)]
struct Numbering {
    flows: u32,
    port_bits: u32,
    clients: Address,
}

impl Numbering {
    fn of(case: &Case) -> Self {
        match case.fresh_flows() {
            Some(flows) => Self {
                flows,
                port_bits: NEW_PORT_BITS,
                clients: NEW_CLIENTS,
            },
            None => Self {
                flows: case.shape.flows.max(1),
                port_bits: PORT_BITS,
                clients: case.mode.clients(),
            },
        }
    }
}

/// The packets of a case that are sent from CPU number `number` of the case's: each has its own share of the flows.
pub fn series(case: &Case, effect: Effect, number: u32) -> Series {
    let flags = match case.traffic {
        Traffic::New(_) | Traffic::Refused(_) => TcpFlags::SYN,
        Traffic::In | Traffic::Out | Traffic::NotOurs => TcpFlags::ACK,
    };
    with_flags(case, effect, number, flags)
}

/// The first packet of each of a case's flows, whoever sends them later; of those that are refused afterwards, the first packets
/// of others, who are let in.
pub fn openings(case: &Case, effect: Effect) -> Series {
    let mut series = with_flags(&Case { cpus: 1, ..*case }, effect, 0, TcpFlags::SYN);
    if matches!(case.traffic, Traffic::Refused(_)) {
        series.first_address = NEW_CLIENTS.0;
    }
    series
}

fn with_flags(case: &Case, effect: Effect, number: u32, flags: u8) -> Series {
    let Case {
        mode,
        version,
        protocol,
        traffic,
        shape,
        ..
    } = *case;
    let numbering = Numbering::of(case);
    let door = traffic.door();
    let vip = (shape.vip(mode), door.port());
    let answered = if mode == Mode::Dnat { mode.clients() } else { SNAT };
    let (source, destination) = match traffic {
        Traffic::In | Traffic::New(_) | Traffic::Refused(_) => ((numbering.clients, FIRST_PORT), vip),
        Traffic::Out => ((ORIGIN, ORIGIN_PORT), (answered, FIRST_PORT)),
        Traffic::NotOurs => ((numbering.clients, FIRST_PORT), (NODE, SSH_PORT)),
    };
    let (varied, first) = match (version, traffic) {
        (Version::V4, Traffic::Out) => (Varied::DESTINATION4, destination),
        (Version::V6, Traffic::Out) => (Varied::DESTINATION6, destination),
        (Version::V4, _) => (Varied::SOURCE4, source),
        (Version::V6, _) => (Varied::SOURCE6, source),
    };
    let flows = (numbering.flows / case.cpus).max(1);
    let (Address(first_address), first_port) = first;
    let (first_address, first_port) = ends(
        first_address,
        first_port.into(),
        numbering.port_bits,
        number * flows,
    );
    let destinations = match traffic {
        Traffic::In | Traffic::New(_) => shape.applications(mode),
        Traffic::Out | Traffic::Refused(_) | Traffic::NotOurs => 1,
    };
    Series {
        template: template(version, protocol, flags, source, destination),
        turn: 0,
        mask: flows.next_power_of_two() - 1,
        flows,
        varied,
        first_address,
        first_port: first_port.into(),
        target: case.target(),
        ttl_after: u32::from(TTL - u8::from(effect.counts_hop)),
        bad: 0,
        port_bits: numbering.port_bits,
        growth: effect.growth,
        destinations,
    }
}

/// The headers, whose checksums nobody looks at: lb only adjusts them.
fn template(
    version: Version,
    protocol: Protocol,
    flags: u8,
    (source, source_port): (Address, u16),
    (destination, destination_port): (Address, u16),
) -> [u64; WORDS] {
    let mut link = [0; 12];
    link[..6].copy_from_slice(&NODE_MAC);
    link[6..].copy_from_slice(&if source.0 == ORIGIN.0 {
        ORIGIN_MAC
    } else {
        CLIENT_MAC
    });
    let mut words = [0; WORDS];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let transport = TRANSPORT[version as usize];
    match version {
        Version::V4 => put(
            bytes,
            0,
            &Headers4 {
                link,
                ether_type: 0x0800_u16.to_be(),
                version_ihl: 0x45,
                total_length: ((FRAME_LEN - LINK_LEN) as u16).to_be(),
                ttl: TTL,
                protocol: protocol.0,
                source: V4::numbered(source).0,
                destination: V4::numbered(destination).0,
                source_port: source_port.to_be(),
                destination_port: destination_port.to_be(),
                ..Headers4::default()
            },
        ),
        Version::V6 => put(
            bytes,
            0,
            &Headers6 {
                link,
                ether_type: 0x86dd_u16.to_be(),
                version: 0x6000_0000_u32.to_be(),
                payload_length: ((FRAME_LEN - transport) as u16).to_be(),
                next_header: protocol.0,
                hop_limit: TTL,
                source: V6::numbered(source).0,
                destination: V6::numbered(destination).0,
                source_port: source_port.to_be(),
                destination_port: destination_port.to_be(),
            },
        ),
    }
    if protocol == Protocol::TCP {
        // Length of the header, flags, window.
        put(bytes, transport + 12, &[0x50, flags, 0x20, 0]);
        put(bytes, transport + 16, &[0x12, 0x34]);
    } else {
        put(bytes, transport + 4, &((FRAME_LEN - transport) as u16).to_be());
        put(bytes, transport + 6, &[0x12, 0x34]);
    }
    words
}

fn put<T: bytemuck::Pod>(bytes: &mut [u8], at: usize, value: &T) {
    bytes[at..at + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
}

/// Where the TTL or hop limit stands in a frame.
pub fn ttl(version: Version) -> usize {
    match version {
        Version::V4 => offset_of!(Headers4, ttl),
        Version::V6 => offset_of!(Headers6, hop_limit),
    }
}

/// The entries of a flow that the tables hold, as lb itself would have made them.
pub struct Entries<F: Family> {
    /// `None`: it needs none.
    pub client: Option<(F::Key, F::Flow)>,
    /// Where answers come this way as well.
    pub origin: Option<(F::Key, F::Flow)>,
}

/// The interface that BPF_PROG_TEST_RUN says frames come in by: the loopback's.
pub const IFINDEX: u32 = 1;

/// What is remembered of flow number `flow` of [`Traffic::In`] and [`Traffic::Out`]: the one place that says what state a
/// mode's known flows have.
pub fn entries<F: Numbered>(
    (build, shape): (Build, Shape),
    mode: Mode,
    protocol: Protocol,
    flow: u32,
    now: u32,
) -> Entries<F> {
    let side = |Address(first)| ends(first, FIRST_PORT.into(), PORT_BITS, flow);
    let application = spread(flow, shape.applications(mode));
    let vip = Address(shape.vip(mode).0 + application);
    let arriving = from_client::<F>(protocol, side(mode.clients()), vip, Door::Open);
    let (source, source_port) = side(SNAT);
    let translated = Tuple {
        destination: F::numbered(ORIGIN),
        destination_port: Port::new(ORIGIN_PORT),
        ..arriving
    };
    let leaving = match mode {
        Mode::Nat => Tuple {
            source: F::numbered(Address(source)),
            source_port: Port::new(source_port),
            ..translated
        },
        Mode::Dnat => translated,
        Mode::L2 | Mode::Ipip(_) | Mode::Gue(_) => arriving,
    };
    let sum = |tuple: &Tuple<F::Address>| F::sum(tuple.source) + F::sum(tuple.destination);
    let all =
        |tuple: &Tuple<F::Address>| sum(tuple) + checksum::ports(tuple.source_port, tuple.destination_port);
    let core = FlowCore {
        origin: shape.origin(mode, F::VERSION, spread(flow, shape.origins(mode))),
        forwarding: mode.forwarding(),
        application: shape.application(mode, application),
        seen: now,
        client_ifindex: IFINDEX,
        client_mac: CLIENT_MAC.into(),
        node_mac: NODE_MAC.into(),
        source_port: leaving.source_port,
        destination_port: leaving.destination_port,
        header_delta: checksum::difference(sum(&arriving), sum(&leaving)),
        payload_delta: checksum::difference(all(&arriving), all(&leaving)),
        tcp: if protocol == Protocol::TCP {
            TcpState(TcpState::ANSWERED | TcpState::ESTABLISHED)
        } else {
            TcpState::NEW
        },
        side: FlowSide::CLIENT,
        ..FlowCore::default()
    };
    let back = arriving.reversed();
    let mirrored = FlowCore {
        source_port: back.source_port,
        destination_port: back.destination_port,
        header_delta: !core.header_delta,
        payload_delta: !core.payload_delta,
        side: FlowSide::ORIGIN,
        ..core
    };
    let direct = mode.forwarding().is_direct();
    Entries {
        client: build
            .tracks(mode, protocol)
            .then(|| (F::key(&arriving), F::flow(core, &leaving))),
        origin: (!direct).then(|| (F::key(&leaving.reversed()), F::flow(mirrored, &back))),
    }
}

/// How the first packet of a case's flow number `flow` arrives.
pub fn opening<F: Numbered>(case: &Case, flow: u32) -> Tuple<F::Address> {
    let Numbering {
        port_bits, clients, ..
    } = Numbering::of(case);
    let Address(vip) = case.shape.vip(case.mode);
    let vip = Address(vip + spread(flow, case.shape.applications(case.mode)));
    let client = ends(clients.0, FIRST_PORT.into(), port_bits, flow);
    from_client::<F>(case.protocol, client, vip, case.traffic.door())
}

fn from_client<F: Numbered>(
    protocol: Protocol,
    (address, port): (u32, u16),
    vip: Address,
    door: Door,
) -> Tuple<F::Address> {
    Tuple {
        source: F::numbered(Address(address)),
        destination: F::numbered(vip),
        source_port: Port::new(port),
        destination_port: Port::new(door.port()),
        protocol,
    }
}
