//! Numbers that large installations have.

use super::world::*;
use crate::engine::{Engine, Environment, Report};
use crate::image::TableOp;
use crate::model::*;
use core::net::{IpAddr, Ipv4Addr};
use lb_common::abi::{OriginState, SettingsFlags};
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
