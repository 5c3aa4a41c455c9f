//! TCP flows without entries, against a model: whatever happens to the configuration, a connection stays with its origin.

use lb_common::abi::{
    Application, ApplicationFlags, ApplicationKey, Bucket, BucketRun, FlowKey4, Forwarding, HashKey, Ip,
    Origin, OriginId, OriginState, PoolId, Port, Protocol, Slot, TableKind,
};
use lb_common::datapath::{Reply, Verdict};
use lb_common::hash::bucket4;
use lb_common::testing::scenario::{CLIENT_SIDE, Host, TIMEOUTS, TWO_ARMED, at};
use lb_common::testing::{PacketBuilder, Scenario};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const VIP: &str = "203.0.113.10:80";
const APPLICATION: u32 = 1;
/// Few buckets, so that flows meet in them.
const RUN: BucketRun = BucketRun::new(8, 2);
const ORIGINS: usize = 4;
const SYN: u8 = 2;
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
        let mut scenario = Scenario::new();
        let origins = (1..=ORIGINS)
            .map(|number| {
                let id = scenario.origin(at(&format!("10.0.0.{number}:80")), TWO_ARMED);
                let record = scenario.tables.origins.get_mut(&id).unwrap();
                record.forwarding = Forwarding::DSR_L2;
                id
            })
            .collect();
        let mut this = Self {
            host: Host::new(scenario),
            origins,
            connections: Vec::new(),
            clients: 0,
            untracked: true,
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
        let weights: Vec<(OriginId, usize)> = self.origins.iter().map(|&id| (id, 1)).collect();
        let pool = scenario.pool(&weights);
        // As in a consistent-hash table, a slot changes only when its owner does.
        let table = scenario.pool_mut(pool).table(TableKind::Steered4);
        for slot in 0..table.size {
            let first = (slot.wrapping_mul(0x9e37_79b9) >> 30) as usize;
            let serving = |id: &&OriginId| scenario.tables.origins[*id].state == OriginState::UP;
            let mut turns = self.origins.iter().cycle().skip(first).take(ORIGINS);
            if let Some(owner) = turns.find(serving) {
                let slot_of = Slot {
                    owner: owner.0,
                    alternate: owner.0,
                };
                scenario.tables.slots.insert(table.base + slot, slot_of);
            }
        }
        scenario.application(APPLICATION, Protocol::TCP, at(VIP), &[pool], PoolId::NONE);
        let key = ApplicationKey {
            address: Ip::from(at(VIP).ip()),
            port: Port::new(80),
            protocol: Protocol::TCP,
            parity: scenario.parity(),
        };
        let flag = if self.untracked {
            ApplicationFlags::UNTRACKED
        } else {
            0
        };
        let application: &mut Application = scenario.tables.applications.get_mut(&key).unwrap();
        application.buckets = RUN;
        application.flags = ApplicationFlags(ApplicationFlags::DIRECT | flag);
        scenario.announce();
    }

    /// Sends a client's segment, and says which origin got it.
    fn send(&mut self, number: u32, flags: u8) -> Result<OriginId, Verdict> {
        let counts = |host: &Host| host.scenario.tables.origin_traffic.borrow().clone();
        let before = counts(&self.host);
        let frame = PacketBuilder::tcp(client(number), at(VIP), flags).frame();
        let (verdict, _) = self.host.receive(CLIENT_SIDE, &frame);
        if !matches!(verdict, Verdict::Forward(_)) {
            return Err(verdict);
        }
        let moved = counts(&self.host).into_iter().find(|(row, traffic)| {
            let packets = before.get(row).map_or(0, |before| before.packets_in);
            traffic.packets_in > packets
        });
        self.without += u32::from(!self.has_entry(number));
        Ok(OriginId(moved.unwrap().0))
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
        for row in RUN.base()..RUN.base() + RUN.rows() {
            if !named.contains(&row) {
                tables.settled.insert(row, began);
            }
        }
    }

    fn open(&mut self) {
        let number = self.clients;
        self.clients += 1;
        // Nobody may be up.
        let Ok(origin) = self.send(number, SYN) else {
            return;
        };
        assert_eq!(
            self.record(origin).state,
            OriginState::UP,
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
            Event::Sweep => self.sweep(),
            Event::Wait(jiffies) => {
                self.host.now += jiffies;
                let now = self.host.now;
                // An entry's time is written when an eighth has passed.
                let certain = TIMEOUTS.tcp - TIMEOUTS.tcp / 8;
                self.connections
                    .retain(|connection| now - connection.heard < certain);
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
        2 => (0..ORIGINS, state).prop_map(|(which, state)| Event::State(which, state)),
        3 => Just(Event::Generation),
        1 => any::<bool>().prop_map(Event::Untracked),
        2 => Just(Event::Sweep),
        3 => (0u32..3).prop_map(Event::Wait),
        2 => (0u32..400_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_connection_changes_its_origin(events in proptest::collection::vec(event(), 1..120)) {
        let mut world = World::new();
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

/// Who was drained for long enough is told so, and new flows take the bucket over.
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
    let client = world.connections[0].client;
    assert!(matches!(
        world.send(client, ACK),
        Err(Verdict::Reply(Reply::ResetEnded, _))
    ));
    for _ in 0..64 {
        world.open();
    }
    assert_eq!(world.host.scenario.tables.flows4.borrow().len(), 0);
}
