//! What lb is configured with.

use crate::frame::{
    Address, FLOWS_PER_CLIENT, NODE_MAC, Numbered, ORIGIN, ORIGIN_MAC, ORIGIN_PORT, SNAT, Version,
};
use crate::layout::{DENYING, Door, LISTED, PREFIXES, Shape};
use crate::modes::Mode;
use lb_common::abi::{
    AccessList, AccessRule, AddressRole, Application, ApplicationFlags, ApplicationKey, BucketRun, HashKey,
    Hop, HopId, Ip, Origin, OriginState, Parity, Pool, PoolFlags, PoolId, PoolList, Port, PortRange,
    Protocol, Rate, Settings, SettingsFlags, Steering, Table, Timeouts, Vip, VipKey,
};
use lb_common::datapath::family::{V4, V6};
use lb_core::image::{AccessRules, Capacity, TableOp};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Source addresses of each family.
const SNAT_ADDRESSES: u32 = 256;
/// Source ports for new flows; those of known ones lie below.
const SNAT_PORTS: PortRange = PortRange {
    first: 20_000,
    count: 40_000,
};
/// A timeout whose eighth never passes: what is measured are packets that renew nothing.
const NEVER: u32 = u32::MAX / 4;
/// One flow in months.
const SELDOM: Rate = Rate(1 << 62);
const GENERATION: u32 = 1;
const MTU: u16 = 1500;
const VERSIONS: [Version; 2] = [Version::V4, Version::V6];

/// How large lb's maps must be.
pub fn capacity(shape: Shape) -> Capacity {
    let applications = shape.applications(Mode::Nat) + Mode::ALL.len() as u32 + Door::CLOSABLE.len() as u32;
    Capacity {
        // Two protocols, two families, two generations; and room.
        applications: (16 * applications).max(4096),
        pools: 2 * Mode::ALL.len() as u32,
        origins: shape.origin_rows(),
        hops: 1 + hops(shape),
        snat_addresses: 2 * SNAT_ADDRESSES,
        slots: Mode::ALL
            .iter()
            .fold(Mode::ALL.len() as u32, |sum, &mode| sum + 2 * shape.slots(mode)),
        application_rows: shape.application_rows(),
        access_prefixes: PREFIXES + 8,
        vips: 64,
        buckets: shape.bucket_rows(),
        ..Capacity::default()
    }
}

/// Origins are neighbours, each its own.
fn hops(shape: Shape) -> u32 {
    shape.origins(Mode::Nat)
}

/// The next hops, out of an interface.
pub fn next_hops(shape: Shape, ifindex: u32) -> Vec<TableOp> {
    let hop = |number| TableOp::Hop {
        id: HopId(1 + number),
        record: Hop {
            neighbour: ORIGIN_MAC.into(),
            mtu: MTU,
            interface: NODE_MAC.into(),
            resolved: 1,
            ifindex,
            ..Hop::default()
        },
    };
    (0..hops(shape)).map(hop).collect()
}

/// Everything else: for each mode a pool with its origins, and an application for each protocol and family.
pub fn configuration(shape: Shape, hz: u32) -> Vec<TableOp> {
    let parity = Parity::of(GENERATION);
    let mut steps = Vec::new();
    let mut base = Mode::ALL.len() as u32;
    for mode in Mode::ALL {
        let pool = PoolId(mode.index());
        let size = shape.slots(mode);
        // The application's list of pools.
        steps.push(TableOp::Slots {
            base: pool.0,
            owners: vec![pool.0],
        });
        let tables = VERSIONS.map(|version| {
            let table = Table {
                base: base + version as u32 * size,
                size,
            };
            let owner = |slot| shape.origin(mode, version, slot % shape.origins(mode)).0;
            steps.push(TableOp::Slots {
                base: table.base,
                owners: (0..size).map(owner).collect(),
            });
            table
        });
        base += 2 * size;
        let [table4, table6] = tables;
        steps.push(TableOp::Pool {
            row: pool.row(parity),
            record: Pool {
                tables: [table4, table6, Table::default(), Table::default()],
                flags: PoolFlags::default(),
                reserved: 0,
            },
        });
        for version in VERSIONS {
            let origins = 0..shape.origins(mode);
            steps.extend(origins.map(|number| origin(shape, mode, version, number)));
        }
    }
    steps.push(TableOp::Buckets {
        base: 0,
        count: shape.bucket_rows(),
    });
    for (list, rules) in [(LISTED, strangers()), (DENYING, everybody())] {
        steps.push(TableOp::AccessList {
            list,
            rules: Arc::new(rules),
        });
    }
    of_family::<V4>(shape, &mut steps);
    of_family::<V6>(shape, &mut steps);
    steps.extend(
        (1..shape.application_rows()).map(|application| TableOp::Timeouts {
            application,
            record: Timeouts {
                tcp: NEVER,
                tcp_handshake: NEVER,
                tcp_closing: NEVER,
                udp: NEVER,
            },
        }),
    );
    steps.push(TableOp::Settings(Settings {
        hash_key: HashKey { k0: 1, k1: 2 },
        second: hz,
        smallest_mtu: MTU.into(),
        snat_ports: SNAT_PORTS,
        // As behind a network card.
        flags: SettingsFlags::default(),
        generation: GENERATION,
        ..Settings::default()
    }));
    steps
}

/// First row of a family's source addresses.
fn snat_base(version: Version) -> u32 {
    version as u32 * SNAT_ADDRESSES
}

fn origin(shape: Shape, mode: Mode, version: Version, number: u32) -> TableOp {
    let outer = mode.outer(version);
    let address = match outer {
        Version::V4 => V4::numbered(ORIGIN).into(),
        Version::V6 => V6::numbered(ORIGIN).into(),
    };
    TableOp::Origin {
        id: shape.origin(mode, version, number),
        record: Origin {
            address,
            identity: 1,
            snat_base: snat_base(outer),
            snat_count: SNAT_ADDRESSES,
            hop: HopId(1 + number),
            port: Port::default(),
            state: OriginState::UP,
            forwarding: mode.forwarding(),
            gue_port: Port::new(6080),
            ..Origin::default()
        },
    }
}

/// One family's applications, and source addresses.
fn of_family<F: Numbered>(shape: Shape, steps: &mut Vec<TableOp>) {
    let snat_base = snat_base(F::VERSION);
    steps.extend((0..SNAT_ADDRESSES).map(|number| TableOp::SnatAddress {
        index: snat_base + number,
        address: F::numbered(Address(SNAT.0 + number)).into(),
    }));
    // With `dnat` a packet for any address may be an answer, and lb looks at all of them. Here only those for that mode's
    // clients are, so that one that is not ours costs what it does without.
    let clients = Mode::Dnat
        .flows(Protocol::TCP, shape.flows)
        .div_ceil(FLOWS_PER_CLIENT);
    steps.extend((0..clients).map(|number| TableOp::Vip {
        key: VipKey {
            address: F::numbered(Address(Mode::Dnat.clients().0 + number)).into(),
            parity: Parity::of(GENERATION),
            reserved: [0; 3],
        },
        record: Vip {
            role: AddressRole::ORIGIN,
            ..Vip::default()
        },
    }));
    for mode in Mode::ALL {
        for number in 0..shape.applications(mode) {
            application::<F>(shape, mode, number, Door::Open, steps);
        }
    }
    for door in Door::CLOSABLE {
        application::<F>(shape, Mode::Nat, 0, door, steps);
    }
}

fn application<F: Numbered>(shape: Shape, mode: Mode, number: u32, door: Door, steps: &mut Vec<TableOp>) {
    let (access, rate) = match door {
        Door::Open => (AccessList::NONE, Rate::NONE),
        Door::Listed => (LISTED, Rate::NONE),
        Door::Limited => (AccessList::NONE, SELDOM),
        Door::Denied => (DENYING, Rate::NONE),
    };
    let id = match door {
        Door::Open => shape.application(mode, number),
        Door::Listed | Door::Limited | Door::Denied => door.application(),
    };
    let direct = if mode.forwarding().is_direct() {
        ApplicationFlags::DIRECT
    } else {
        0
    };
    steps.extend([Protocol::TCP, Protocol::UDP].map(|protocol| {
        let (buckets, untracked) = if mode.tracks(protocol) {
            (BucketRun::NONE, 0)
        } else {
            (shape.buckets(mode), ApplicationFlags::UNTRACKED)
        };
        TableOp::Application {
            key: ApplicationKey {
                address: F::numbered(Address(shape.vip(mode).0 + number)).into(),
                port: Port::new(door.port()),
                protocol,
                parity: Parity::of(GENERATION),
            },
            record: Application {
                id,
                pools: PoolList {
                    base: mode.index(),
                    extent: 1,
                    steering: Steering::ORDERED,
                },
                fallback: PoolId::NONE,
                origin_port: Port::new(ORIGIN_PORT),
                access,
                flags: ApplicationFlags(direct | untracked),
                rate,
                buckets,
                ..Application::default()
            },
        }
    }));
}

/// Many prefixes, none of which holds a client: half of IPv4, half of IPv6, and as close to the clients' addresses as random
/// ones come.
fn strangers() -> AccessRules {
    const HALF: usize = PREFIXES as usize / 2;
    /// Bits of an IPv4 address before the IPv4 address itself.
    const MAPPED: u32 = 96;
    const BITS4: u32 = 24;
    const BITS6: u32 = 64;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as u32
    };
    let mut prefixes = BTreeSet::new();
    while prefixes.len() < HALF {
        let address = next() & 0xffff_ff00;
        // The clients have 10.0.0.0/8.
        if address >> 24 != 10 {
            let address: Ip = V4::numbered(Address(address)).into();
            prefixes.insert((MAPPED + BITS4, address, AccessRule::DENY));
        }
    }
    let Ip([first, ..]) = V6::numbered(Address(0)).into();
    while prefixes.len() < 2 * HALF {
        // The clients have nothing but zeros there.
        let (high, low) = (next() & 0xffff, next());
        if low != 0 {
            let address = Ip([(u32::from_be(first) | high).to_be(), low.to_be(), 0, 0]);
            prefixes.insert((BITS6, address, AccessRule::DENY));
        }
    }
    AccessRules {
        prefixes: prefixes.into_iter().collect(),
        countries: Vec::new(),
    }
}

/// All clients of either family.
fn everybody() -> AccessRules {
    AccessRules {
        prefixes: vec![(0, Ip::default(), AccessRule::DENY)],
        countries: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_list_is_as_long_as_it_says() {
        assert_eq!(strangers().prefixes.len(), PREFIXES as usize);
    }
}
