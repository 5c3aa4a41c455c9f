//! Load shedding of those who have come before: clients that are bound to a pool's origins, and open UDP flows.
//!
//! What remembers them is removed, and where they come back the packet path chooses anew, by lists that do not give them
//! to the pool any more. So only those are moved whom no list gives back: a client that comes back to where it was has
//! lost its flow for nothing.

use super::State;
use super::ids::pool_identity;
use super::layout::Layout;
use super::plan::Route as Destination;
use super::routing::{PoolListDesign, Traffic, balancer_routes};
use super::{Command, Setup};
use crate::model::{Config, LoadBalancer};
use crate::steering::{CLASSES, Classes, Family, class_of};
use core::net::IpAddr;
use lb_common::abi::{HashKey, Ip, Ip6, OriginId, PoolId};
use lb_common::hash;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which clients are to leave which origins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionMoves {
    hash_key: HashKey,
    /// By application and the clients' family. Applications of one load balancer share them.
    leaving: BTreeMap<(u32, Family), Arc<Leaving>>,
}

/// By origin.
type Leaving = BTreeMap<OriginId, Arc<Classes>>;

/// By load balancer of the configuration and family: what was made from what. Most changes concern few of them, and it
/// takes time to make.
pub type KnownLeaving = BTreeMap<(usize, Family), (LeavingParts, Arc<Leaving>)>;

/// What it depends on who leaves the origins of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeavingParts {
    /// Of all its routes.
    lists: Vec<PoolListDesign>,
    pools: Vec<SheddingPool>,
}

/// A pool that gives up sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
struct SheddingPool {
    id: PoolId,
    identity: u64,
    /// How many classes of clients.
    classes: u32,
    origins: Vec<OriginId>,
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
        let leaving = self.leaving.get(&(application, family));
        let classes = leaving.and_then(|leaving| leaving.get(&origin));
        classes.is_some_and(|classes| classes.contains(class_of(hash)))
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

    fn leaving(&mut self, config: &Config) -> BTreeMap<(u32, Family), Arc<Leaving>> {
        let former = core::mem::take(&mut self.leaving);
        let mut leaving = BTreeMap::new();
        let mut pools = self.plan.pools.iter();
        if !pools.any(|pool| pool.load_shedding.session_percent > 0.0) {
            return leaving;
        }
        let mut known: KnownLeaving = BTreeMap::new();
        for (application, planned) in config.applications.iter().zip(&self.plan.applications) {
            let Destination::Balancer(index) = planned.route else {
                continue;
            };
            let balancer = &config.load_balancers[index];
            let served = application.enabled && balancer.enabled;
            if !served || Traffic::of(application) == Traffic::Connections {
                continue;
            }
            let families: BTreeSet<Family> = application.addresses.iter().copied().map(Family::of).collect();
            for family in families {
                let (_, found) = known.entry((index, family)).or_insert_with(|| {
                    let parts = self.leaving_parts(config, balancer, family);
                    let same = former.get(&(index, family)).filter(|(known, _)| *known == parts);
                    let found = match same {
                        Some((_, found)) => Arc::clone(found),
                        None => Arc::new(self.leaving_of(&parts)),
                    };
                    (parts, found)
                });
                if !found.is_empty() {
                    leaving.insert((planned.id, family), Arc::clone(found));
                }
            }
        }
        self.leaving = known;
        leaving
    }

    fn leaving_parts(&self, config: &Config, balancer: &LoadBalancer, family: Family) -> LeavingParts {
        let routes = balancer_routes(config, balancer);
        // Of a pool that no route names nobody can say where its sessions would go.
        let names: BTreeSet<&str> = routes
            .all()
            .flat_map(|route| route.pools.iter().map(String::as_str).chain(route.fallback))
            .collect();
        let shedding = |name: &str| {
            let pool = &self.plan.pools[self.plan.pool(name)?];
            let classes = Classes::of_percent(pool.load_shedding.session_percent);
            (classes > 0).then(|| SheddingPool {
                id: pool.id,
                identity: pool_identity(&pool.key),
                classes,
                origins: pool.origins.iter().map(|origin| origin.id).collect(),
            })
        };
        let pools: Vec<SheddingPool> = names.into_iter().filter_map(shedding).collect();
        let lists = match pools.is_empty() {
            true => Vec::new(),
            false => routes
                .all()
                .map(|route| self.pool_list(route, family, Traffic::Sessions))
                .collect(),
        };
        LeavingParts { lists, pools }
    }

    fn leaving_of(&self, parts: &LeavingParts) -> Leaving {
        let mut leaving = BTreeMap::new();
        if parts.pools.is_empty() {
            return leaving;
        }
        let rows = |list: &PoolListDesign| {
            let layout = list.layout.as_ref()?;
            Some((
                self.generations.rows(layout),
                matches!(**layout, Layout::Shedding(_)),
            ))
        };
        // Many countries have the same list.
        let mut lists: Vec<&PoolListDesign> = Vec::new();
        for list in &parts.lists {
            if !lists.contains(&list) {
                lists.push(list);
            }
        }
        let lists: Vec<_> = lists
            .into_iter()
            .map(|list| (rows(list), list.fallback))
            .collect();
        for pool in &parts.pools {
            let mut classes = Classes::given_up(pool.identity, pool.classes);
            // A route may give classes to the pool all the same.
            for (rows, fallback) in &lists {
                let owns =
                    |owner: &u32| *owner == pool.id.0 || *owner == PoolId::NONE.0 && *fallback == pool.id;
                match rows {
                    Some((owners, true)) => {
                        let slots = (0..).zip(owners.iter());
                        for (slot, _) in slots.filter(|(_, owner)| owns(owner)) {
                            classes.remove(slot % CLASSES);
                        }
                    }
                    // Nobody sheds there, so nobody is to move; or there is only the fallback pool.
                    Some((owners, false)) if owners.iter().any(owns) => classes = Classes::NONE,
                    Some(_) => {}
                    None if *fallback == pool.id => classes = Classes::NONE,
                    None => {}
                }
            }
            if classes.is_empty() {
                continue;
            }
            let classes = Arc::new(classes);
            let origins = pool.origins.iter();
            leaving.extend(origins.map(|origin| (*origin, Arc::clone(&classes))));
        }
        leaving
    }
}
