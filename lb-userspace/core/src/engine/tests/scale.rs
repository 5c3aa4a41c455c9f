//! Numbers that large installations have.

use super::world::*;
use crate::engine::{Engine, Environment, Report, SessionMoves};
use crate::image::TableOp;
use crate::model::*;
use core::net::{IpAddr, Ipv4Addr};
use lb_common::abi::{OriginId, OriginState, SettingsFlags};
use std::collections::BTreeSet;

/// Origins of one pool: as many as Cloudflare's largest accounts have endpoints, and more than any number of 16 bits.
const MANY: u32 = 65_535;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn many(first: u32) -> Config {
    let mut pool = unmonitored("first", &[]);
    pool.origins = (first..first + MANY)
        .map(|number| Origin {
            name: format!("origin-{number}"),
            address: address(number).into(),
            port: Some(80),
            weight: Weight::ONE,
            enabled: true,
            forwarding: Forwarding::Nat,
            host: None,
            identity: None,
            drain_timeout: None,
        })
        .collect();
    web(vec![pool], None)
}

#[test]
fn a_pool_of_65_535_origins_gives_each_its_share_and_may_be_replaced_as_a_whole() {
    let config = many(1);
    let environment = Environment {
        capacity: Engine::required_capacity(&config),
        flags: SettingsFlags(0),
        ..environment()
    };
    // The checks of `World` after each write would take hours.
    let mut engine = Engine::new(environment, Default::default());
    let mut configure = |config: Config| {
        let mut owners = Vec::new();
        let mut records = 0;
        let event = crate::engine::Event::Configure(std::sync::Arc::new(config));
        for command in engine.handle(event, Default::default()) {
            match command {
                crate::engine::Command::Apply(ops) => {
                    for op in ops {
                        match op {
                            TableOp::Slots { owners: table, .. } if table.len() > 1 => owners = table,
                            TableOp::Origin { record, .. } => {
                                records += usize::from(record.state == OriginState::UP);
                            }
                            _ => {}
                        }
                    }
                }
                crate::engine::Command::Report(Report::Refused(why)) => panic!("{why}"),
                _ => {}
            }
        }
        (owners, records)
    };
    let (table, records) = configure(config);
    assert_eq!(records, MANY as usize);
    assert_eq!(table.len(), 1 << 22);
    let mut shares = vec![0u32; 2 * MANY as usize + 2];
    for owner in &table {
        shares[*owner as usize] += 1;
    }
    let own: BTreeSet<u32> = shares.iter().copied().filter(|share| *share > 0).collect();
    assert!(own.iter().all(|share| (63..=65).contains(share)), "{own:?}");
    let (next, records) = configure(many(1 + MANY));
    assert_eq!((next.len(), records), (table.len(), MANY as usize));
    let before: BTreeSet<u32> = table.into_iter().collect();
    assert!(
        !next.iter().any(|owner| before.contains(owner)),
        "what is gone drains"
    );
}

/// So many UDP applications, each with a load balancer of its own: two pools of two origins, random, the second one also
/// its fallback pool.
fn applications(count: u32, shedding: LoadShedding) -> Config {
    let mut all = config();
    for number in 0..count {
        let name = |what: &str| format!("{what}-{number}");
        for (index, half) in ["a", "b"].into_iter().enumerate() {
            let first = number * 4 + index as u32 * 2;
            let [one, two] = [first, first + 1].map(|number| address(number).to_string());
            let mut pool = unmonitored(&name(half), &[&one, &two]);
            pool.load_shedding = shedding;
            all.pools.push(pool);
        }
        let (a, b) = (name("a"), name("b"));
        all.load_balancers.push(LoadBalancer {
            steering_policy: SteeringPolicy::Random,
            ..balancer(&name("web"), &[&a, &b], Some(&b))
        });
        all.applications.push(Application {
            transport: Transport::Udp,
            ..application(
                &name("web"),
                &address(0xc612_0000 - 0x0a00_0000 + number).to_string(),
                &name("web"),
            )
        });
    }
    all
}

#[test]
fn shedding_sessions_costs_each_application_its_own_pools() {
    let shedding = LoadShedding {
        session_percent: 10.0,
        ..LoadShedding::default()
    };
    // Where each one looked at the pools of all, it was the better part of an hour.
    let count = 400;
    let mut config = applications(count, shedding);
    let environment = Environment {
        capacity: Engine::required_capacity(&config),
        flags: SettingsFlags(0),
        ..environment()
    };
    let mut engine = Engine::new(environment, Default::default());
    let mut configure = |config: &Config| {
        let event = crate::engine::Event::Configure(std::sync::Arc::new(config.clone()));
        let mut moves = None;
        for command in engine.handle(event, Default::default()) {
            match command {
                crate::engine::Command::Shed(found) => moves = Some(found),
                crate::engine::Command::Report(Report::Refused(why)) => panic!("{why}"),
                _ => {}
            }
        }
        moves.expect("other sessions are shed than before")
    };
    // Of whose origins some clients leave, in the order of the numbers: applications and origins.
    let leaving = |moves: &SessionMoves, application: u32| -> Vec<u32> {
        let leaves = |origin: &u32| {
            let mut clients = (1..500).map(address);
            clients.any(|client| moves.leaves(application, OriginId(*origin), client))
        };
        (1..=4 * count).filter(leaves).collect()
    };
    let moves = configure(&config);
    let four = leaving(&moves, 0);
    assert_eq!(four.len(), 4, "two pools of two: {four:?}");
    let others = leaving(&moves, count - 1);
    assert_eq!(others.len(), 4);
    assert!(others.iter().all(|origin| !four.contains(origin)));
    // In one of the load balancers nobody is left who could take those of the other pool.
    config.pools[0].enabled = false;
    let moves = configure(&config);
    assert_eq!(
        leaving(&moves, 0),
        four[..2],
        "the other pool is alone, and its own fallback pool"
    );
    assert_eq!(leaving(&moves, count - 1), others);
}
