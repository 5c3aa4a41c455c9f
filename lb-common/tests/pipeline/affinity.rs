//! Clients that stay with their origins.

use super::*;
use lb_common::abi::{Affinity, HopId, Load};
use lb_common::testing::scenario::app;
use std::collections::BTreeSet;

const AFFINE: &str = "203.0.113.10:86";
const TTL: u32 = TIMEOUTS.tcp;

fn from(port: u16) -> String {
    format!("198.51.100.7:{port}")
}

impl Node {
    /// Opens a flow from another port of the same client, and says which origin it got.
    fn open(&mut self, port: u16) -> SocketAddr {
        self.tcp(&from(port), AFFINE, SYN).origin()
    }

    /// The application's clients get another pool.
    fn steer_elsewhere(&mut self) {
        let base = self.0.scenario.tables.slots.len() as u32 + 500;
        let slot = lb_common::abi::Slot {
            owner: 2,
            alternate: 2,
        };
        self.0.scenario.tables.slots.insert(base, slot);
        self.0.scenario.edit(app::AFFINE, |application| {
            (application.pools.base, application.pools.extent) = (base, 1);
        });
    }

    fn binding(&self) -> Option<Affinity> {
        let bindings = self.0.scenario.tables.affinity.borrow();
        assert!(bindings.len() <= 1, "{bindings:?}");
        bindings.values().next().copied()
    }
}

/// Where [`Node::steer_elsewhere`] leads.
fn elsewhere() -> SocketAddr {
    at("10.0.1.11:86")
}

#[test]
fn a_client_stays_where_it_was() {
    let mut node = Node::new();
    let origin = node.open(1000);
    for port in 1001..1050 {
        assert_eq!(node.open(port), origin);
    }
    node.steer_elsewhere();
    assert_eq!(node.open(2000), origin);
    let other = node.tcp("198.51.100.8:1000", AFFINE, SYN);
    assert_eq!(other.origin(), elsewhere());
}

#[test]
fn clients_are_spread_over_origins() {
    let mut node = Node::new();
    let origins: BTreeSet<_> = (0..40)
        .map(|number| node.tcp(&client(number), AFFINE, SYN).origin())
        .collect();
    assert_eq!(origins.len(), 2);
}

/// An eviction does not scatter a client's flows: its address picks the origin, too.
#[test]
fn a_client_that_was_forgotten_is_likely_to_find_back() {
    let mut node = Node::new();
    let origin = node.open(1000);
    for port in 1001..1050 {
        node.0.scenario.tables.affinity.borrow_mut().clear();
        assert_eq!(node.open(port), origin);
    }
}

#[test]
fn the_time_runs_from_the_last_flow() {
    let mut node = Node::new();
    let origin = node.open(1000);
    node.steer_elsewhere();
    for port in 1001..1005 {
        node.pass_time(TTL);
        assert_eq!(node.open(port), origin);
    }
    node.pass_time(TTL + 1);
    assert_eq!(node.open(2000), elsewhere());
    assert_eq!(node.open(2001), elsewhere());
}

#[test]
fn it_is_written_once_in_an_eighth_of_the_time() {
    let mut node = Node::new();
    node.open(1000);
    let bound = node.binding().unwrap();
    assert_eq!(bound.seen, node.0.now);
    node.pass_time(TTL / 8);
    node.open(1001);
    assert_eq!(node.binding(), Some(bound));
    node.pass_time(1);
    node.open(1002);
    let seen = node.0.now;
    assert_eq!(node.binding(), Some(Affinity { seen, ..bound }));
    // Another CPU may be a jiffy ahead.
    node.0.now -= 1;
    node.open(1003);
    assert_eq!(node.binding(), Some(Affinity { seen, ..bound }));
}

#[test]
fn an_origin_that_does_not_serve_lets_its_clients_go() {
    for state in [
        OriginState::DOWN,
        OriginState::DRAINING,
        OriginState::ABSENT,
        OriginState::ENDED,
    ] {
        let mut node = Node::new();
        let origin = node.open(1000);
        node.set_state(&origin.to_string(), state);
        let other = node.open(1001);
        assert_ne!(other, origin, "{state:?}");
        // They do not come back with it.
        node.set_state(&origin.to_string(), OriginState::UP);
        assert_eq!(node.open(1002), other, "{state:?}");
    }
}

#[test]
fn so_does_one_that_is_full_or_out_of_reach() {
    let mut node = Node::new();
    let origin = node.open(1000).to_string();
    node.record(&origin).max_flows = 3;
    let id = node.0.scenario.origin_at(&origin);
    let load = |established| Load {
        established,
        reserved: 0,
    };
    node.0.scenario.tables.loads.borrow_mut().insert(id.0, load(2));
    assert_eq!(node.open(1001).to_string(), origin);
    node.0.scenario.tables.loads.borrow_mut().insert(id.0, load(3));
    let other = node.open(1002);
    assert_ne!(other.to_string(), origin);
    node.record(&other.to_string()).hop = HopId::UNRESOLVED;
    node.record(&origin).max_flows = 0;
    assert_eq!(node.open(1003).to_string(), origin);
}

#[test]
fn a_new_epoch_lets_all_clients_go() {
    let mut node = Node::new();
    let origin = node.open(1000);
    node.steer_elsewhere();
    node.0
        .scenario
        .edit(app::AFFINE, |application| application.affinity_epoch += 1);
    assert_ne!(node.open(1001), origin);
    assert_eq!(node.binding().map(|bound| bound.epoch), Some(2));
}

/// Its number is given to another origin, perhaps of a pool that is none of the application's.
#[test]
fn so_does_a_number_that_becomes_another_origins() {
    let mut node = Node::new();
    let origin = node.open(1000).to_string();
    node.steer_elsewhere();
    node.record(&origin).identity ^= 1;
    assert_eq!(node.open(1001), elsewhere());
    // Who is bound to the new one stays there.
    let mut node = Node::new();
    let origin = node.open(1000).to_string();
    node.record(&origin).identity ^= 1;
    assert_eq!(node.open(1001).to_string(), origin);
    node.steer_elsewhere();
    assert_eq!(node.open(1002).to_string(), origin);
}

#[test]
fn an_origin_of_the_other_family_is_none() {
    let mut node = Node::new();
    node.open(1000);
    let v6 = node.0.scenario.origin_at("[2001:db8:a::11]:1");
    for bound in node.0.scenario.tables.affinity.borrow_mut().values_mut() {
        bound.origin = v6;
        bound.mark = Affinity::mark(&node.0.scenario.tables.origins[&v6]);
    }
    assert!(node.open(1001).is_ipv4());
}

#[test]
fn the_pool_of_last_resort_binds_nobody() {
    let mut node = Node::new();
    for origin in ["10.0.0.11:1", "10.0.0.12:1", "10.0.1.11:1"] {
        node.set_state(origin, OriginState::DOWN);
    }
    assert_eq!(node.open(1000), at("10.0.9.1:80"));
    assert_eq!(node.binding(), None);
    node.set_state("10.0.1.11:1", OriginState::UP);
    assert_eq!(node.open(1001), elsewhere());
}

#[test]
fn without_a_time_nobody_is_bound() {
    let mut node = Node::new();
    node.tcp(&from(1000), WEB, SYN);
    assert_eq!(node.binding(), None);
}
