//! An application whose pools go by the client's country, for a [`Scenario`].

use super::rules::{DENIED, HOME};
use super::scenario::{Scenario, VIPS, app};
use crate::abi::{ApplicationFlags, Country, PoolId, PoolList, Protocol, Route, RouteKey, Steering};
use std::net::IpAddr;

/// A country whose clients every pool gives up, and its only client by family.
pub const SHED: Country = Country::new(*b"SH");
pub const SHED_CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8:c::9"];

/// Adds [`app::ROUTED`]: clients go to `pools`, but those of [`HOME`] go to `other`, those of [`DENIED`] have no pool but
/// `other` as fallback pool, and those of [`SHED`] meet a table that leads nowhere else.
pub(super) fn add(scenario: &mut Scenario, pools: &[PoolId], other: PoolId) {
    let parity = scenario.parity();
    for (vip, v6) in VIPS.into_iter().zip([0, 1]) {
        let vip: IpAddr = vip.parse().expect("an address");
        scenario.application(app::ROUTED, Protocol::TCP, (vip, 88).into(), pools, PoolId::NONE);
        let home = PoolList {
            base: scenario.slots(vec![other.0]),
            extent: 1,
            steering: Steering::ORDERED,
        };
        let shed = PoolList {
            base: scenario.slots(vec![PoolId::NONE.0; 2]),
            extent: 1,
            steering: Steering::WEIGHTED_BY_CLIENT,
        };
        for (country, pools, fallback) in [
            (HOME, home, PoolId::NONE),
            (DENIED, PoolList::default(), other),
            (SHED, shed, other),
        ] {
            let key = RouteKey {
                application: app::ROUTED,
                country,
                parity,
                v6,
                reserved: [0; 2],
            };
            scenario.tables.routes.insert(key, Route { pools, fallback });
        }
        let length = if v6 == 0 { 32 } else { 128 };
        scenario.country(SHED_CLIENT[usize::from(v6)], length, SHED);
    }
    scenario.edit(app::ROUTED, |application| {
        application.flags = ApplicationFlags(ApplicationFlags::ROUTES);
    });
}
