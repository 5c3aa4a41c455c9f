//! A small world to send packets through: a few origins, pools and applications, of both families.

use super::{Frame, MemoryTables};
use crate::abi::{
    AddressRole, Application, ApplicationKey, Forwarding, Held, Hop, HopId, Interface, Ip, Origin, OriginId,
    OriginState, Parity, Pool, PoolFlags, PoolId, PoolList, Port, PortRange, Protocol, Settings,
    SettingsFlags, Slot, Steering, Table, Tag, Timeouts, Vip, VipKey,
};
use crate::datapath::{Arrival, Scratch, Verdict, process};
use std::net::SocketAddr;

/// Idle times of every application, in jiffies.
pub const TIMEOUTS: Timeouts = Timeouts {
    tcp: 900_000,
    tcp_handshake: 150_000,
    tcp_closing: 160_000,
    udp: 200_000,
};
/// Interface on which the clients' router is.
pub const CLIENT_SIDE: u32 = 10;
/// Interface on which most origins are.
pub const ORIGIN_SIDE: u32 = 11;
/// Link address of the origins' switch, and of our interface towards it.
pub const ORIGIN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];
pub const ORIGIN_NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x02];

/// Behind [`ORIGIN_SIDE`].
pub const TWO_ARMED: HopId = HopId(1);
/// Behind [`CLIENT_SIDE`]: packets leave as they came.
pub const ONE_ARMED: HopId = HopId(2);
/// A hop whose neighbour does not answer.
pub const SILENT: HopId = HopId(3);
/// Behind [`ORIGIN_SIDE`], in a VLAN of a VLAN; and these.
pub const TAGGED: HopId = HopId(4);
pub const TAGS: [u16; 2] = [0x0123, 0x2456];
/// Behind [`ORIGIN_SIDE`], in a VLAN whose packets are short.
pub const NARROW: HopId = HopId(5);
const NARROW_MTU: u16 = 1300;

/// Rows of every array.
pub const ARRAY_ROWS: u32 = 4096;
/// Slots of one pool's table.
const TABLE: u32 = 32;

/// Applications by their numbers in [`Scenario::standard`].
pub mod app {
    pub const WEB: u32 = 1;
    pub const DNS: u32 = 2;
    /// TCP and UDP without any pool.
    pub const LONELY_TCP: u32 = 3;
    pub const LONELY_UDP: u32 = 4;
    /// Pools 3:1 by weight.
    pub const WEIGHTED: u32 = 5;
    /// UDP by the client's address alone.
    pub const STICKY: u32 = 6;
    /// An origin that no neighbour leads to.
    pub const UNREACHABLE: u32 = 7;
    /// An origin without a source address of ours.
    pub const UNSOURCED: u32 = 8;
    pub const ALL: u32 = 8;
    /// Origins that are reached in other ways, TCP and UDP alike; see [`crate::testing::modes`].
    pub const DNAT: u32 = 10;
    pub const DSR_L2: u32 = 11;
    pub const DSR_IPIP: u32 = 12;
    pub const DSR_GUE: u32 = 13;
    /// One of each.
    pub const MIXED: u32 = 14;
    /// One of each, in VLANs and behind narrow paths.
    pub const NARROW: u32 = 15;
    /// Ranges of ports: tcp/6000-6099 and udp/6000-6001 to origin ports from 7000 on, tcp/6200-6200.
    pub const RANGE: u32 = 20;
    pub const OTHER_RANGE: u32 = 21;
    pub const UDP_RANGE: u32 = 22;
    /// With the access lists of these names in [`crate::testing::rules`].
    pub const FEW: u32 = 23;
    pub const ABROAD: u32 = 24;
    /// One flow, of anybody or of each source.
    pub const ONE_FLOW: u32 = 25;
    pub const ONE_FLOW_EACH: u32 = 26;
    /// Clients stay with their origins.
    pub const AFFINE: u32 = 27;
    /// Origins that are full: some, or all.
    pub const SOME_FULL: u32 = 28;
    pub const ALL_FULL: u32 = 29;
    /// Clients of some countries go elsewhere; see [`crate::testing::routes`].
    pub const ROUTED: u32 = 30;
}

/// Addresses of the applications, by family.
pub const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

/// Builds tables.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub tables: MemoryTables,
    slots: u32,
}

impl Default for Scenario {
    fn default() -> Self {
        Self::new()
    }
}

/// Parses an address and port.
///
/// # Panics
/// It is none.
#[must_use]
pub fn at(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address and port"))
}

impl Scenario {
    /// No origins and no applications; hops and source addresses are there.
    #[must_use]
    pub fn new() -> Self {
        let mut tables = MemoryTables {
            array_rows: ARRAY_ROWS,
            swept_at: START,
            flow_filter: MemoryTables::filter_in_use(),
            ..MemoryTables::default()
        };
        tables.settings = Settings {
            hash_key: crate::abi::HashKey {
                k0: 0x0706_0504_0302_0100,
                k1: 0x0f0e_0d0c_0b0a_0908,
            },
            snat_ports: PortRange {
                first: 20_000,
                count: 4_096,
            },
            flags: SettingsFlags(0),
            // Odd, so that a mistake with the parity shows.
            generation: 3,
            // Far from what a test takes, so that no clock's tick matters.
            second: 120_000,
            smallest_mtu: NARROW_MTU.into(),
            ..Settings::default()
        };
        for ifindex in [CLIENT_SIDE, ORIGIN_SIDE] {
            let interface = Interface {
                mtu: 1500,
                reserved: 0,
            };
            tables.interfaces.insert(ifindex, interface);
        }
        let hop = |neighbour, interface, ifindex, resolved| Hop {
            neighbour: <[u8; 6]>::into(neighbour),
            mtu: 1500,
            interface: <[u8; 6]>::into(interface),
            resolved,
            ifindex,
            ..Hop::default()
        };
        tables
            .hops
            .insert(TWO_ARMED, hop(ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, 1));
        tables.hops.insert(
            ONE_ARMED,
            hop([2, 0, 0, 0, 0, 0xb2], [2, 0, 0, 0, 0, 0x01], CLIENT_SIDE, 1),
        );
        tables
            .hops
            .insert(SILENT, hop(ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, 0));
        let tag = |[a, b]: [u8; 2], number: u16| {
            let [c, d] = number.to_be_bytes();
            Tag(u32::from_ne_bytes([a, b, c, d]))
        };
        let tagged = Hop {
            tags: [tag([0x88, 0xa8], TAGS[0]), tag([0x81, 0x00], TAGS[1])],
            ..hop(ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, 1)
        };
        tables.hops.insert(TAGGED, tagged);
        let narrow = Hop {
            tags: [tag([0x81, 0x00], TAGS[0]), Tag::NONE],
            mtu: NARROW_MTU,
            ..tagged
        };
        tables.hops.insert(NARROW, narrow);
        let addresses = ["192.0.2.10", "192.0.2.11", "2001:db8:2::10", "2001:db8:2::11"];
        for (index, address) in addresses.into_iter().enumerate() {
            let address: std::net::IpAddr = address.parse().expect("an address");
            tables.snat_addresses.insert(index as u32, Ip::from(address));
        }
        Self { tables, slots: 1 }
    }

    /// All that [`app`] names.
    #[must_use]
    pub fn standard() -> Self {
        let mut this = Self::new();
        let mut origins = |addresses: [&str; 2], hop| addresses.map(|address| this.origin(at(address), hop));
        let a = origins(["10.0.0.11:8080", "[2001:db8:a::11]:8080"], TWO_ARMED);
        let b = origins(["10.0.0.12:8080", "[2001:db8:a::12]:8080"], TWO_ARMED);
        let us = origins(["10.0.1.11:0", "[2001:db8:b::11]:0"], ONE_ARMED);
        let sorry = origins(["10.0.9.1:80", "[2001:db8:9::1]:80"], TWO_ARMED);
        let dns = origins(["10.0.0.53:53", "[2001:db8:a::53]:53"], TWO_ARMED);
        let dns_b = origins(["10.0.0.54:5353", "[2001:db8:a::54]:5353"], ONE_ARMED);
        let silent = origins(["10.0.0.99:80", "[2001:db8:a::99]:80"], SILENT);
        let unsourced = origins(["10.0.0.98:80", "[2001:db8:a::98]:80"], TWO_ARMED);
        for id in unsourced {
            this.tables.origins.get_mut(&id).expect("just made").snat_count = 0;
        }
        let weigh = |origins: [OriginId; 2], weight: usize| origins.map(|id| (id, weight));
        let eu = this.pool(&[weigh(a, 2), weigh(b, 1)].concat());
        let us = this.pool(&weigh(us, 1));
        let sorry = this.pool(&weigh(sorry, 1));
        let dns_pool = this.pool(&[weigh(dns, 1), weigh(dns_b, 1)].concat());
        let sticky = this.pool(&[weigh(dns, 1), weigh(dns_b, 1)].concat());
        this.pool_mut(sticky).flags = PoolFlags(PoolFlags::BY_CLIENT);
        let silent = this.pool(&weigh(silent, 1));
        let unsourced = this.pool(&weigh(unsourced, 1));

        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        for vip in VIPS {
            let vip: std::net::IpAddr = vip.parse().expect("an address");
            let mut open = |id, protocol, port, pools: &[PoolId], fallback| {
                this.application(id, protocol, (vip, port).into(), pools, fallback);
            };
            open(app::WEB, tcp, 80, &[eu, us], sorry);
            open(app::DNS, udp, 53, &[dns_pool], PoolId::NONE);
            open(app::LONELY_TCP, tcp, 81, &[], PoolId::NONE);
            open(app::LONELY_UDP, udp, 81, &[], PoolId::NONE);
            open(app::WEIGHTED, tcp, 443, &[eu, eu, eu, us], sorry);
            open(app::STICKY, udp, 443, &[sticky, us], PoolId::NONE);
            open(app::UNREACHABLE, tcp, 82, &[silent], PoolId::NONE);
            open(app::UNSOURCED, tcp, 83, &[unsourced], PoolId::NONE);
        }
        for application in this.tables.applications.values_mut() {
            let list = &mut application.pools;
            match application.id {
                app::WEIGHTED => (list.steering, list.extent) = (Steering::WEIGHTED, 3),
                app::STICKY => (list.steering, list.extent) = (Steering::WEIGHTED_BY_CLIENT, 1),
                _ => {}
            }
        }
        super::modes::add(&mut this);
        super::rules::add(&mut this, &[eu, us], sorry);
        super::routes::add(&mut this, &[eu, us], sorry);
        this.announce();
        this
    }

    /// Writes down which addresses packets may come to: those of the applications, which answer pings, and those that
    /// `nat` translates to.
    pub fn announce(&mut self) {
        let key = |address, parity| VipKey {
            address,
            parity,
            reserved: [0; 3],
        };
        let parity = self.parity();
        let vips = &mut self.tables.vips;
        for address in self.tables.snat_addresses.values() {
            let source = Vip {
                role: AddressRole::SOURCE,
                ..Vip::default()
            };
            vips.entry(key(*address, parity)).or_insert(source);
        }
        for origin in self.tables.origins.values() {
            if origin.forwarding == Forwarding::DNAT {
                let answers = Vip {
                    role: AddressRole::ORIGIN,
                    ..Vip::default()
                };
                vips.entry(key(origin.address, parity)).or_insert(answers);
            }
        }
        for application in self.tables.applications.keys() {
            let vip = vips.entry(key(application.address, parity)).or_default();
            (vip.echo, vip.role) = (1, AddressRole::APPLICATION);
        }
    }

    /// As [`Self::standard`], but nothing is left to the hash: each pool gives its first origin only, and each origin has
    /// one source address with one port. So each packet's fate can be written down.
    ///
    /// # Panics
    /// A pool has no slots.
    #[must_use]
    pub fn plain() -> Self {
        let mut this = Self::standard();
        let tables: Vec<Table> = this.tables.pools.values().flat_map(|pool| pool.tables).collect();
        for table in tables {
            let first = this.tables.slots[&table.base];
            for slot in table.base..table.base + table.size {
                this.tables.slots.insert(slot, first);
            }
        }
        for origin in this.tables.origins.values_mut() {
            origin.snat_count = origin.snat_count.min(1);
        }
        this.tables.settings.snat_ports.count = 1;
        this
    }

    /// Interfaces and hops that carry packets of that many bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        for hop in self.tables.hops.values_mut() {
            hop.mtu = mtu;
        }
        for interface in self.tables.interfaces.values_mut() {
            interface.mtu = mtu.into();
        }
        self.tables.settings.smallest_mtu = mtu.into();
    }

    /// The live copy's parity.
    #[must_use]
    pub fn parity(&self) -> Parity {
        Parity::of(self.tables.settings.generation)
    }

    /// Adds an origin that is up. Port 0: the application's.
    pub fn origin(&mut self, address: SocketAddr, hop: HopId) -> OriginId {
        let id = OriginId(self.tables.origins.len() as u32 + 1);
        let origin = Origin {
            address: address.ip().into(),
            identity: u64::from(id.0),
            snat_base: if address.is_ipv4() { 0 } else { 2 },
            snat_count: 2,
            hop,
            port: Port::new(address.port()),
            state: OriginState::UP,
            ..Origin::default()
        };
        self.tables.origins.insert(id, origin);
        id
    }

    /// The origin with this address.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn origin_at(&self, address: &str) -> OriginId {
        let ip = Ip::from(at(address).ip());
        let found = self
            .tables
            .origins
            .iter()
            .find(|(_, origin)| origin.address == ip);
        *found.unwrap_or_else(|| panic!("no origin at {address}")).0
    }

    /// Writes an origin's state, as one write from userspace does.
    ///
    /// # Panics
    /// There is no origin at `address`.
    pub fn set_state(&mut self, address: &str, state: OriginState) {
        let id = self.origin_at(address);
        self.tables.origins.get_mut(&id).expect("it was found").state = state;
    }

    /// Adds a pool, its tables filled by weight with the origins as they stand.
    ///
    /// # Panics
    /// An origin does not exist.
    pub fn pool(&mut self, members: &[(OriginId, usize)]) -> PoolId {
        let id = PoolId(self.tables.pools.len() as u32 + 1);
        let table = |this: &mut Self, v4: bool, last_resort: bool| {
            let owners: Vec<u32> = members
                .iter()
                .filter(|(id, _)| {
                    let origin = this.tables.origins.get(id).expect("a known origin");
                    let takes = match origin.state {
                        OriginState::UP => true,
                        OriginState::DOWN => last_resort,
                        _ => false,
                    };
                    // Packets that leave as they came may be of either family.
                    let family = origin.forwarding.is_direct() || origin.address.v4().is_some() == v4;
                    family && takes
                })
                .flat_map(|&(id, weight)| std::iter::repeat_n(id.0, weight))
                .collect();
            if owners.is_empty() {
                return Table::default();
            }
            let slots = (0..TABLE as usize).map(|slot| owners[slot % owners.len()]);
            let base = this.slots(slots.collect());
            Table { base, size: TABLE }
        };
        let tables = [
            table(self, true, false),
            table(self, false, false),
            table(self, true, true),
            table(self, false, true),
        ];
        let pool = Pool {
            tables,
            ..Pool::default()
        };
        self.tables.pools.insert(id.row(self.parity()).0, pool);
        id
    }

    /// The record of a pool.
    ///
    /// # Panics
    /// There is none.
    pub fn pool_mut(&mut self, id: PoolId) -> &mut Pool {
        let row = id.row(self.parity()).0;
        self.tables.pools.get_mut(&row).expect("a known pool")
    }

    /// Adds a run of slots and returns where it begins.
    pub(super) fn slots(&mut self, owners: Vec<u32>) -> u32 {
        let base = self.slots;
        for owner in owners {
            let slot = Slot {
                owner,
                alternate: owner,
            };
            self.tables.slots.insert(self.slots, slot);
            self.slots += 1;
        }
        base
    }

    /// Adds one address of an application, with its pools in order.
    pub fn application(
        &mut self,
        id: u32,
        protocol: Protocol,
        address: SocketAddr,
        pools: &[PoolId],
        fallback: PoolId,
    ) {
        let pools = PoolList {
            base: self.slots(pools.iter().map(|pool| pool.0).collect()),
            extent: pools.len() as u32,
            steering: Steering::ORDERED,
        };
        let key = ApplicationKey {
            address: address.ip().into(),
            port: Port::new(address.port()),
            protocol,
            parity: self.parity(),
        };
        let application = Application {
            id,
            pools,
            fallback,
            origin_port: Port::new(address.port()),
            ..Application::default()
        };
        self.tables.applications.insert(key, application);
        self.tables.timeouts.insert(id, TIMEOUTS);
    }
}

/// The jiffy in which nodes in memory begin.
pub const START: u32 = 1_000_000;

/// A node in memory: packets in, verdicts and packets out.
pub struct Host {
    pub scenario: Scenario,
    /// Jiffies.
    pub now: u32,
    scratch: Box<Scratch>,
}

impl Host {
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            now: START,
            scratch: Box::default(),
        }
    }

    /// What is told to userspace of the last frame that it shall hold.
    #[must_use]
    pub fn held(&self) -> Held {
        self.scratch.held
    }

    /// Handles a frame that arrives by an interface.
    pub fn receive(&mut self, ifindex: u32, frame: &Frame) -> (Verdict, Frame) {
        let mut frame = frame.clone();
        let arrival = Arrival {
            ifindex,
            now: self.now,
        };
        let verdict = process(&mut frame, &self.scenario.tables, &mut self.scratch, arrival);
        (verdict, frame)
    }
}
