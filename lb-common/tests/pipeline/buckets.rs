//! TCP flows without entries, against a model: whatever happens to the configuration, a connection stays with its origin. Also
//! when some connections need entries, because origins that translate have come to the application.

use lb_common::abi::{
    AccessKey, AccessList, AccessRule, Application, ApplicationFlags, ApplicationKey, Bucket, BucketRun,
    Filter, FlowKey4, Forwarding, HashKey, Ip, Origin, OriginFlags, OriginId, OriginState, PoolId, Port,
    Protocol, Slot, Table, TableKind,
};
use lb_common::datapath::{DropReason, Exit, Pass, Reply, Verdict};
use lb_common::hash::bucket4;
use lb_common::testing::check::see;
use lb_common::testing::scenario::{CLIENT_SIDE, Host, ORIGIN_SIDE, TIMEOUTS, TWO_ARMED, at};
use lb_common::testing::{PacketBuilder, Scenario};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const VIP: &str = "203.0.113.10:80";
const APPLICATION: u32 = 1;
/// Few buckets, so that flows meet in them.
const RUN: BucketRun = BucketRun::new(8, 2);
const ORIGINS: usize = 4;
/// The one that translates, among all.
const NAT: usize = ORIGINS;
const SYN: u8 = 2;
const SYN_ACK: u8 = SYN | ACK;
const ACK: u8 = 16;

/// One connection, and the origin that it began at.
#[derive(Clone, Copy, Debug)]
struct Connection {
    client: u32,
    origin: OriginId,
    heard: u32,
}

struct World {
    host: Host,
    origins: Vec<OriginId>,
    connections: Vec<Connection>,
    clients: u32,
    untracked: bool,
    /// Whether the origin that translates serves as well.
    mixed: bool,
    /// Whether all are the fallback pool, too.
    fallback: bool,
    /// Whether the pool has failed, be its origins up.
    failed: bool,
    /// Segments that were sent without an entry.
    without: u32,
}

#[derive(Clone, Debug)]
enum Event {
    Open,
    /// A segment of a connection that goes on.
    Go(usize),
    Forget(usize),
    /// One write to an origin's record.
    State(usize, OriginState),
    /// New tables for the states there are, and a new generation.
    Generation,
    /// Whether new flows need entries, from the next generation on.
    Untracked(bool),
    /// Whether the origin that translates serves as well, from the next generation on.
    Mixed(bool),
    /// Looks for entries, and notes the buckets without.
    Sweep,
    Wait(u32),
}

fn client(number: u32) -> SocketAddr {
    let port = 1024 + (number % 60_000) as u16;
    SocketAddr::from(([198, 51, 100, (number / 60_000) as u8], port))
}

impl World {
    fn new() -> Self {
        Self::at(Host::new(Scenario::new()).now)
    }

    /// A world that begins at jiffy `now`.
    fn at(now: u32) -> Self {
        let mut scenario = Scenario::new();
        let origins = (0..=ORIGINS)
            .map(|number| {
                let id = scenario.origin(at(&format!("10.0.0.{}:80", number + 1)), TWO_ARMED);
                let record = scenario.tables.origins.get_mut(&id).unwrap();
                if number != NAT {
                    record.forwarding = Forwarding::DSR_L2;
                }
                id
            })
            .collect();
        let mut host = Host::new(scenario);
        host.now = now;
        let mut this = Self {
            host,
            origins,
            connections: Vec::new(),
            clients: 0,
            untracked: true,
            mixed: false,
            fallback: false,
            failed: false,
            without: 0,
        };
        this.generation();
        this
    }

    /// A world in which every bucket has an owner, and is known to have no entries.
    fn settled() -> Self {
        let mut this = Self::new();
        for _ in 0..200 {
            this.open();
        }
        this.connections.clear();
        this.host.now += 1;
        this.sweep();
        this.host.now += 1;
        this.without = 0;
        this.host.scenario.tables.origin_traffic.borrow_mut().clear();
        this
    }

    fn record(&mut self, origin: OriginId) -> &mut Origin {
        self.host.scenario.tables.origins.get_mut(&origin).unwrap()
    }

    fn generation(&mut self) {
        let scenario = &mut self.host.scenario;
        scenario.tables.settings.generation += 1;
        let count = if self.mixed { ORIGINS + 1 } else { ORIGINS };
        let members = &self.origins[..count];
        let weights: Vec<(OriginId, usize)> = members.iter().map(|&id| (id, 1)).collect();
        let pool = scenario.pool(&weights);
        // As in a consistent-hash table, a slot changes only when its owner does.
        for kind in [TableKind::Steered4, TableKind::LastResort4] {
            let last_resort = kind == TableKind::LastResort4;
            let table = scenario.pool_mut(pool).table(kind);
            for slot in 0..table.size {
                let first = (slot.wrapping_mul(0x9e37_79b9) >> 16) as usize % count;
                let serving = |id: &&OriginId| match scenario.tables.origins[*id].state {
                    OriginState::UP => true,
                    OriginState::DOWN => last_resort,
                    _ => false,
                };
                let mut turns = members.iter().cycle().skip(first).take(count);
                if let Some(owner) = turns.find(serving) {
                    let slot_of = Slot {
                        owner: owner.0,
                        alternate: owner.0,
                    };
                    scenario.tables.slots.insert(table.base + slot, slot_of);
                }
            }
        }
        if self.failed {
            scenario.pool_mut(pool).tables[0] = Table::default();
        }
        let fallback = if self.fallback { pool } else { PoolId::NONE };
        scenario.application(APPLICATION, Protocol::TCP, at(VIP), &[pool], fallback);
        let key = ApplicationKey {
            address: Ip::from(at(VIP).ip()),
            port: Port::new(80),
            protocol: Protocol::TCP,
            parity: scenario.parity(),
        };
        let flag = if self.untracked && !self.mixed {
            ApplicationFlags::UNTRACKED
        } else {
            0
        };
        let application: &mut Application = scenario.tables.applications.get_mut(&key).unwrap();
        application.buckets = RUN;
        application.flags = ApplicationFlags(ApplicationFlags::DIRECT | flag);
        scenario.announce();
    }

    /// Sends a client's segment, and says which origin got it. One that translates answers a SYN.
    fn send(&mut self, number: u32, flags: u8) -> Result<OriginId, Verdict> {
        let counts = |host: &Host| host.scenario.tables.origin_traffic.borrow().clone();
        let before = counts(&self.host);
        let frame = PacketBuilder::tcp(client(number), at(VIP), flags).frame();
        let (verdict, sent) = self.host.receive(CLIENT_SIDE, &frame);
        if !matches!(verdict, Verdict::Forward(_)) {
            return Err(verdict);
        }
        let moved = counts(&self.host).into_iter().find(|(row, traffic)| {
            let packets = before.get(row).map_or(0, |before| before.packets_in);
            traffic.packets_in > packets
        });
        let origin = OriginId(moved.unwrap().0);
        self.without += u32::from(!self.has_entry(number));
        if origin == self.origins[NAT] && flags == SYN {
            let seen = see(&sent);
            let answer = PacketBuilder::tcp(seen.destination, seen.source, SYN_ACK);
            let (verdict, _) = self.host.receive(ORIGIN_SIDE, &answer.frame());
            assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
        }
        Ok(origin)
    }

    fn has_entry(&self, number: u32) -> bool {
        let tables = &self.host.scenario.tables;
        let ours = |key: &FlowKey4| {
            SocketAddr::from((std::net::Ipv4Addr::from(key.source), key.source_port.host())) == client(number)
        };
        tables.flows4.borrow().keys().any(ours) || tables.tentative4.borrow().keys().any(ours)
    }

    fn sweep(&mut self) {
        let began = self.host.now;
        let tables = &mut self.host.scenario.tables;
        tables.begin_filter();
        tables.end_filter();
        let key: HashKey = tables.settings.hash_key;
        let row = |flow: &FlowKey4| RUN.row(RUN.number(bucket4(key, flow.source, flow.source_port)), false);
        let mut named: BTreeSet<u32> = tables.flows4.borrow().keys().map(row).collect();
        named.extend(tables.tentative4.borrow().keys().map(row));
        let buckets = tables.buckets.borrow();
        for row in RUN.base()..RUN.base() + RUN.rows() {
            let bucket = buckets.get(&row).copied().unwrap_or_default();
            if !named.contains(&row) {
                let settled = tables.settled.entry(row).or_default();
                *settled = bucket.settle(*settled, began);
            }
        }
    }

    fn open(&mut self) {
        self.open_at(OriginState::UP);
    }

    /// Opens a connection, which only an origin of that state may get.
    fn open_at(&mut self, state: OriginState) {
        let number = self.clients;
        self.clients += 1;
        // Nobody may be up.
        let Ok(origin) = self.send(number, SYN) else {
            return;
        };
        assert_eq!(
            self.record(origin).state,
            state,
            "a new flow at one that is not up"
        );
        let connection = Connection {
            client: number,
            origin,
            heard: self.host.now,
        };
        self.connections.push(connection);
        // Before anything changes: a handshake is no connection yet.
        self.go(self.connections.len() - 1);
    }

    fn go(&mut self, index: usize) {
        let Connection { client, origin, .. } = self.connections[index];
        let buckets = self.host.scenario.tables.buckets.borrow().clone();
        assert_eq!(
            self.send(client, ACK),
            Ok(origin),
            "{:?} {buckets:#?}",
            self.connections[index]
        );
        self.connections[index].heard = self.host.now;
    }

    fn handle(&mut self, event: &Event) {
        match *event {
            Event::Open => self.open(),
            Event::Go(which) if !self.connections.is_empty() => self.go(which % self.connections.len()),
            Event::Forget(which) if !self.connections.is_empty() => {
                self.connections.swap_remove(which % self.connections.len());
            }
            Event::Go(_) | Event::Forget(_) => {}
            Event::State(which, state) => self.record(self.origins[which]).state = state,
            Event::Generation => self.generation(),
            Event::Untracked(untracked) => self.untracked = untracked,
            Event::Mixed(mixed) => self.mixed = mixed,
            Event::Sweep => self.sweep(),
            Event::Wait(jiffies) => {
                self.host.now = self.host.now.wrapping_add(jiffies);
                let now = self.host.now;
                // An entry's time is written when an eighth has passed.
                let certain = TIMEOUTS.tcp - TIMEOUTS.tcp / 8;
                self.connections
                    .retain(|connection| now.wrapping_sub(connection.heard) < certain);
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        3 => Just(OriginState::UP),
        1 => Just(OriginState::DOWN),
        1 => Just(OriginState::DRAINING),
        1 => Just(OriginState::ABSENT),
    ];
    prop_oneof![
        6 => Just(Event::Open),
        8 => (0usize..64).prop_map(Event::Go),
        1 => (0usize..64).prop_map(Event::Forget),
        2 => (0..=NAT, state).prop_map(|(which, state)| Event::State(which, state)),
        3 => Just(Event::Generation),
        1 => any::<bool>().prop_map(Event::Untracked),
        1 => any::<bool>().prop_map(Event::Mixed),
        2 => Just(Event::Sweep),
        3 => (0u32..3).prop_map(Event::Wait),
        2 => (0u32..400_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_connection_changes_its_origin(
        start in prop_oneof![
            Just(1_000_000_u32),
            // Five minutes before jiffies begin anew, as after boot, and where their sign changes.
            Just(75_000_u32.wrapping_neg()),
            Just((1 << 31) - 75_000),
        ],
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = World::at(start);
        for event in &events {
            world.handle(event);
        }
        for index in 0..world.connections.len() {
            world.go(index);
        }
    }
}

/// After the first sweep nothing is remembered of flows, as long as nothing changes.
#[test]
fn in_steady_state_no_flow_has_an_entry() {
    let mut world = World::settled();
    for _ in 0..200 {
        world.open();
    }
    for index in 0..200 {
        world.go(index);
    }
    let tables = &world.host.scenario.tables;
    assert_eq!(tables.flows4.borrow().len() + tables.tentative4.borrow().len(), 0);
    assert_eq!(world.without, 600);
    let flows: u64 = tables
        .origin_traffic
        .borrow()
        .values()
        .map(|traffic| traffic.new_flows)
        .sum();
    assert_eq!(flows, 200);
    let owners: BTreeSet<u32> = tables
        .buckets
        .borrow()
        .values()
        .map(|bucket: &Bucket| bucket.owner.0)
        .collect();
    assert!(owners.len() > 1, "{owners:?}");
}

/// A change of one origin makes entries for new flows of its buckets only, and they go again.
#[test]
fn a_change_costs_the_buckets_that_it_moves() {
    let mut world = World::settled();
    for _ in 0..64 {
        world.open();
    }
    let first = world.origins[0];
    world.handle(&Event::State(0, OriginState::DRAINING));
    world.handle(&Event::Generation);
    let (before, old) = (world.without, world.connections.len());
    for _ in 0..64 {
        world.open();
    }
    let entries = world.host.scenario.tables.flows4.borrow().len();
    assert!((1..64).contains(&entries), "{entries}");
    assert_eq!(world.without - before, 2 * (64 - entries as u32));
    for index in 0..world.connections.len() {
        world.go(index);
    }
    assert!(
        world.connections[old..]
            .iter()
            .all(|connection| connection.origin != first)
    );
    // The owner's flows are over: the bucket goes to the next one that opens a flow.
    world.handle(&Event::Wait(TIMEOUTS.tcp + 200_000));
    world.host.scenario.tables.flows4.borrow_mut().clear();
    world.sweep();
    world.host.now += 1;
    for _ in 0..64 {
        world.open();
    }
    assert_eq!(world.host.scenario.tables.flows4.borrow().len(), 0);
}

/// Who was drained for long enough is told so, be new flows of the bucket elsewhere by now; they take it over afterwards.
#[test]
fn flows_of_an_origin_that_has_ended_are_reset() {
    let mut world = World::settled();
    for _ in 0..16 {
        world.open();
    }
    let ended = world.connections[0].origin;
    let which = world.origins.iter().position(|&id| id == ended).unwrap();
    world.handle(&Event::State(which, OriginState::ENDED));
    world.handle(&Event::Generation);
    world.handle(&Event::Wait(200_000));
    let old = world.connections.clone();
    for _ in 0..64 {
        world.open();
    }
    for connection in old.iter().filter(|connection| connection.origin == ended) {
        // This one tells the origin, the next the client.
        let told = [(); 2].map(|()| match world.send(connection.client, ACK) {
            Err(Verdict::Reply(Reply::ResetEnded, way)) => way,
            other => panic!("{other:?}"),
        });
        assert_eq!(told, [Exit::Redirect { ifindex: ORIGIN_SIDE }, Exit::Transmit]);
    }
    world.handle(&Event::Wait(TIMEOUTS.tcp_closing + 200_000));
    world.host.scenario.tables.flows4.borrow_mut().clear();
    world.host.scenario.tables.tentative4.borrow_mut().clear();
    world.sweep();
    world.host.now += 1;
    for _ in 0..64 {
        world.open();
    }
    assert_eq!(world.host.scenario.tables.flows4.borrow().len(), 0);
}

/// Where connections of failed origins are reset, those that the fallback pool gives the same origins are not; and who comes
/// when the origins are up again needs no entry.
#[test]
fn the_fallback_pool_may_have_the_same_origins() {
    let mut world = World::settled();
    world.fallback = true;
    for which in 0..ORIGINS {
        let id = world.origins[which];
        world.record(id).flags = OriginFlags(OriginFlags::RESET_WHEN_DOWN);
    }
    for _ in 0..16 {
        world.open();
    }
    let all = |world: &mut World, state| {
        (0..ORIGINS).for_each(|which| world.handle(&Event::State(which, state)));
        world.handle(&Event::Generation);
    };
    all(&mut world, OriginState::DOWN);
    let steered = std::mem::take(&mut world.connections);
    for _ in 0..64 {
        let number = world.clients;
        world.open_at(OriginState::DOWN);
        assert_eq!(world.connections.last().unwrap().client, number);
    }
    for connection in steered {
        let _first = world.send(connection.client, ACK);
        assert!(matches!(
            world.send(connection.client, ACK),
            Err(Verdict::Reply(Reply::ResetEnded, _))
        ));
    }
    (0..64).for_each(|index| world.go(index));
    // As soon as nobody is there any more whom to reset, the buckets are the last resort's.
    world.handle(&Event::Wait(TIMEOUTS.tcp_closing + 200_000));
    world.host.scenario.tables.flows4.borrow_mut().clear();
    world.sweep();
    world.connections.clear();
    world.host.now += 1;
    for _ in 0..64 {
        world.open_at(OriginState::DOWN);
    }
    assert_eq!(world.host.scenario.tables.flows4.borrow().len(), 0);
    all(&mut world, OriginState::UP);
    for _ in 0..200 {
        world.open();
    }
    assert_eq!(world.host.scenario.tables.flows4.borrow().len(), 0);
    let roles: BTreeSet<u32> = (world.host.scenario.tables.buckets.borrow().values())
        .map(|bucket| bucket.last_resort)
        .collect();
    assert_eq!(roles, BTreeSet::from([0]));
    (0..world.connections.len()).for_each(|index| world.go(index));
}

/// As when a pool has fewer healthy origins than it must: what the fallback pool gives is not what steering gave.
#[test]
fn flows_of_the_last_resort_need_entries_where_steered_ones_have_none() {
    let mut world = World::settled();
    world.fallback = true;
    world.failed = true;
    for which in 0..ORIGINS {
        let id = world.origins[which];
        world.record(id).flags = OriginFlags(OriginFlags::RESET_WHEN_DOWN);
    }
    world.generation();
    // Every bucket is asked for, and its entries are gone again.
    (0..200).for_each(|_| world.open());
    world.connections.clear();
    let tables = &world.host.scenario.tables;
    tables.flows4.borrow_mut().clear();
    tables.tentative4.borrow_mut().clear();
    world.host.now += 1;
    world.sweep();
    world.host.now += 1;
    for _ in 0..200 {
        world.open();
        let newest = world.connections.last().unwrap().client;
        assert!(world.has_entry(newest), "flow {newest}");
    }
    (0..ORIGINS).for_each(|which| world.handle(&Event::State(which, OriginState::DOWN)));
    (0..200).for_each(|index| world.go(index));
}

/// Lists that come later hold for flows that began without an entry as well: theirs is not to be found in them.
#[test]
fn a_list_that_comes_later_is_asked() {
    let mut world = World::settled();
    for _ in 0..16 {
        world.open();
    }
    world.untracked = false;
    world.generation();
    let tables = &mut world.host.scenario.tables;
    tables.settings.access = AccessList(3);
    let denied = AccessKey {
        list: 3_u32.to_be(),
        address: Ip::from(client(world.connections[0].client).ip()),
    };
    let before = tables.clone();
    tables.access.insert((160, denied), AccessRule::DENY);
    for index in 0..16 {
        let number = world.connections[index].client;
        assert_eq!(
            world.send(number, ACK),
            Err(Verdict::Drop(DropReason::DeniedGlobally))
        );
    }
    world.host.scenario.tables = before;
    for index in 0..16 {
        world.go(index);
    }
}

/// An IPv6 packet between mapped addresses is not one of an IPv4 application's flows.
#[test]
fn mapped_addresses_are_nobodys() {
    let mut world = World::settled();
    world.open();
    // As where packets for any address are looked at.
    let words = world.host.scenario.tables.addresses.get_mut();
    words.extend((0..Filter::WORDS).map(|word| (word, u64::MAX)));
    // And as where the application has an IPv6 address, too.
    let buckets = world.host.scenario.tables.buckets.get_mut();
    for number in 0..RUN.rows() / 2 {
        let bucket = buckets[&RUN.row(number, false)];
        buckets.insert(RUN.row(number, true), bucket);
        let settled = &mut world.host.scenario.tables.settled;
        settled.insert(RUN.row(number, true), bucket.tracked);
    }
    let mapped = |address: SocketAddr| {
        let std::net::IpAddr::V4(v4) = address.ip() else {
            unreachable!()
        };
        SocketAddr::from((v4.to_ipv6_mapped(), address.port()))
    };
    for flags in [SYN, ACK] {
        let number = world.connections[0].client;
        for (source, destination) in [
            (mapped(client(number)), mapped(at(VIP))),
            (at("[2001:db8::7]:4000"), mapped(at(VIP))),
        ] {
            let frame = PacketBuilder::tcp(source, destination, flags).frame();
            let (verdict, _) = world.host.receive(CLIENT_SIDE, &frame);
            assert_eq!(verdict, Verdict::Pass(Pass::MalformedIp));
        }
    }
}
