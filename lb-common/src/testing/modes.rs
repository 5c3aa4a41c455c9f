//! Applications of a [`Scenario`] whose origins are reached in other ways than by `nat`, and some that mix them all.

use super::scenario::{NARROW, ONE_ARMED, Scenario, TAGGED, TWO_ARMED, VIPS, app, at};
use crate::abi::{
    ApplicationFlags, BucketRun, Forwarding, HopId, OriginId, PoolId, Port, Protocol, SettingsFlags,
};
use std::net::IpAddr;

/// UDP port of GUE.
pub const GUE_PORT: u16 = 6080;

/// The port of an application, TCP and UDP alike.
#[must_use]
pub fn port(application: u32) -> u16 {
    80 + application as u16
}

/// Adds the applications from [`app::DNAT`] to [`app::NARROW`].
pub(super) fn add(scenario: &mut Scenario) {
    let mut origins = |forwarding, hop, addresses: [&str; 2]| {
        addresses.map(|address| (origin(scenario, address, forwarding, hop), 1))
    };
    let dnat = origins(
        Forwarding::DNAT,
        TWO_ARMED,
        ["10.0.2.11:8080", "[2001:db8:d::11]:8080"],
    );
    let l2 = origins(
        Forwarding::DSR_L2,
        ONE_ARMED,
        ["10.0.3.11:0", "[2001:db8:e::11]:0"],
    );
    let ipip = origins(
        Forwarding::DSR_IPIP,
        TWO_ARMED,
        ["10.0.4.11:0", "[2001:db8:f::11]:0"],
    );
    let gue = origins(
        Forwarding::DSR_GUE,
        TWO_ARMED,
        ["10.0.5.11:0", "[2001:db8:f::12]:0"],
    );
    let nat = origins(
        Forwarding::NAT,
        TWO_ARMED,
        ["10.0.6.11:8080", "[2001:db8:a::61]:8080"],
    );
    let all = [dnat, l2, ipip, gue, nat].concat();
    let narrow = [
        (
            Forwarding::NAT,
            NARROW,
            ["10.0.6.12:8080", "[2001:db8:a::62]:8080"],
        ),
        (
            Forwarding::DNAT,
            TAGGED,
            ["10.0.2.12:8080", "[2001:db8:d::12]:8080"],
        ),
        (Forwarding::DSR_L2, NARROW, ["10.0.3.12:0", "[2001:db8:e::12]:0"]),
        (
            Forwarding::DSR_IPIP,
            NARROW,
            ["10.0.4.12:0", "[2001:db8:f::13]:0"],
        ),
        (Forwarding::DSR_GUE, TAGGED, ["10.0.5.12:0", "[2001:db8:f::14]:0"]),
    ]
    .map(|(forwarding, hop, addresses)| origins(forwarding, hop, addresses))
    .concat();
    for (id, members) in [
        (app::DNAT, &dnat[..]),
        (app::DSR_L2, &l2[..]),
        (app::DSR_IPIP, &ipip[..]),
        (app::DSR_GUE, &gue[..]),
        (app::MIXED, &all[..]),
        (app::NARROW, &narrow[..]),
    ] {
        let pool = scenario.pool(members);
        for vip in VIPS {
            let vip: IpAddr = vip.parse().expect("an address");
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let address = (vip, port(id)).into();
                scenario.application(id, protocol, address, &[pool], PoolId::NONE);
            }
        }
    }
    for application in scenario.tables.applications.values_mut() {
        if (app::DSR_L2..=app::NARROW).contains(&application.id) {
            application.flags = ApplicationFlags(ApplicationFlags::DIRECT);
        }
    }
    scenario.tables.settings.flags.0 |= SettingsFlags::DNAT;
}

fn origin(scenario: &mut Scenario, address: &str, forwarding: Forwarding, hop: HopId) -> OriginId {
    let id = scenario.origin(at(address), hop);
    let origin = scenario.tables.origins.get_mut(&id).expect("just made");
    origin.forwarding = forwarding;
    origin.gue_port = Port::new(GUE_PORT);
    id
}

/// Rows of all buckets that [`without_entries`] gives.
pub const BUCKET_ROWS: u32 = 4 * 8;

/// Lets TCP flows of the applications all of whose origins answer clients directly be without entries, in few buckets.
pub fn without_entries(scenario: &mut Scenario) {
    for application in scenario.tables.applications.values_mut() {
        if (app::DSR_L2..=app::DSR_GUE).contains(&application.id) {
            let base = 8 * (1 + application.id - app::DSR_L2);
            application.buckets = BucketRun::new(base, 2);
            application.flags.0 |= ApplicationFlags::UNTRACKED;
        }
    }
}
