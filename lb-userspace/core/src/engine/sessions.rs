//! Load shedding of those who have come before: clients that are bound to a pool's origins, and open UDP flows.
//!
//! What remembers them is removed, and where they come back the packet path chooses anew, by lists that do not give them
//! to the pool any more. So only those are moved whom no list gives back: a client that comes back to where it was has
//! lost its flow for nothing.

use super::State;
use super::ids::pool_identity;
use super::layout::Layout;
use super::plan::Route as Destination;
use super::routing::{Traffic, balancer_routes};
use super::{Command, Setup};
use crate::model::Config;
use crate::steering::{CLASSES, Classes, Family, Route, class_of};
use core::net::IpAddr;
use lb_common::abi::{HashKey, Ip, Ip6, OriginId, PoolId};
use lb_common::hash;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which clients are to leave which origins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionMoves {
    hash_key: HashKey,
    /// By application, origin and the clients' family.
    leaving: BTreeMap<(u32, OriginId, Family), Arc<Classes>>,
}

impl SessionMoves {
    /// Whether nobody is to leave.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Whether a client of an application is to leave an origin.
    #[must_use]
    pub fn leaves(&self, application: u32, origin: OriginId, client: IpAddr) -> bool {
        let client = Ip::from(client);
        let (family, hash) = match client.v4() {
            Some(v4) => (Family::V4, hash::client4(self.hash_key, v4)),
            None => (Family::V6, hash::client6(self.hash_key, Ip6(client.0))),
        };
        let leaving = self.leaving.get(&(application, origin, family));
        leaving.is_some_and(|classes| classes.contains(class_of(hash)))
    }
}

impl State {
    /// Says which sessions are to move, if that has changed.
    pub(super) fn follow_sessions(&mut self, setup: &Setup, config: &Config, commands: &mut Vec<Command>) {
        let moves = SessionMoves {
            hash_key: setup.hash_key,
            leaving: self.leaving(config),
        };
        if moves.leaving != self.moves.leaving {
            self.moves = Arc::new(moves);
            commands.push(Command::Shed(Arc::clone(&self.moves)));
        }
    }

    fn leaving(&self, config: &Config) -> BTreeMap<(u32, OriginId, Family), Arc<Classes>> {
        let mut leaving = BTreeMap::new();
        let pools = self.plan.pools.iter().enumerate();
        let shedding: Vec<(usize, u32)> = pools
            .map(|(index, pool)| (index, Classes::of_percent(pool.load_shedding.session_percent)))
            .filter(|(_, classes)| *classes > 0)
            .collect();
        if shedding.is_empty() {
            return leaving;
        }
        for (application, planned) in config.applications.iter().zip(&self.plan.applications) {
            let Destination::Balancer(index) = planned.route else {
                continue;
            };
            let balancer = &config.load_balancers[index];
            let served = application.enabled && balancer.enabled;
            if !served || Traffic::of(application) == Traffic::Connections {
                continue;
            }
            let routes = balancer_routes(config, balancer);
            for family in Family::ALL {
                let mut addresses = application.addresses.iter();
                if !addresses.any(|address| Family::of(*address) == family) {
                    continue;
                }
                for &(pool, count) in &shedding {
                    let mut classes = Classes::given_up(pool_identity(&self.plan.pools[pool].name), count);
                    for route in routes.all() {
                        self.keep_returning(route, family, self.plan.pools[pool].id, &mut classes);
                    }
                    if classes.is_empty() {
                        continue;
                    }
                    let classes = Arc::new(classes);
                    for origin in &self.plan.pools[pool].origins {
                        leaving.insert((planned.id, origin.id, family), Arc::clone(&classes));
                    }
                }
            }
        }
        leaving
    }

    /// Leaves out the classes that a route gives to the pool all the same.
    fn keep_returning(&self, route: &Route<'_>, family: Family, pool: PoolId, classes: &mut Classes) {
        let list = self.pool_list(route, family, Traffic::Sessions);
        let owns = |owner: u32| owner == pool.0 || owner == PoolId::NONE.0 && list.fallback == pool;
        match list.layout.as_deref() {
            Some(Layout::Shedding(table)) => {
                for (slot, owner) in (0..).zip(table.build()) {
                    if owns(owner) {
                        classes.remove(slot % CLASSES);
                    }
                }
            }
            // Nobody sheds there, so nobody is to move; or there is only the fallback pool.
            Some(layout) if layout.build().into_iter().any(owns) => *classes = Classes::NONE,
            Some(_) => {}
            None if list.fallback == pool => *classes = Classes::NONE,
            None => {}
        }
    }
}
