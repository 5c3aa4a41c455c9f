//! The configuration with every reference resolved and every number assigned.

use super::TargetId;
use super::ids::{Ids, identity, pool_identity};
use super::layout::Full;
use super::names::Names;
use super::served::{Asked, Served};
use crate::model::{
    Application, Config, Destination, Forwarding, Host, LoadShedding, Monitor, MonitorGroup, OnUnhealthy,
    Origin, OriginSteering, Pool, Weight,
};
use crate::steering::parts;
use crate::vote::Role;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use lb_common::abi::{AccessList, OriginId, PoolId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers that outlive a configuration.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// By identity.
    pub origins: Ids<u64>,
    pub pools: Ids<String>,
    pub applications: Ids<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Declared pools, then one for each application with `origin_direct`.
    pub pools: Vec<PlannedPool>,
    /// In the order of the configuration.
    pub applications: Vec<PlannedApplication>,
    index: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
pub struct PlannedPool {
    pub name: String,
    /// What it is known by whatever its name is.
    pub key: String,
    pub id: PoolId,
    pub enabled: bool,
    /// Those that probe. Of a pool with one monitor: that.
    pub watchers: Vec<Watcher>,
    pub minimum_origins: u32,
    pub origin_steering: OriginSteering,
    pub load_shedding: LoadShedding,
    /// From the node, in kilometres.
    pub distance: Option<f64>,
    pub on_unhealthy: OnUnhealthy,
    /// Whether some load balancer names it as its fallback pool.
    pub last_resort: bool,
    /// Whether some of its origins answer clients directly.
    pub direct: bool,
    /// Whether all do.
    pub only_direct: bool,
    /// Established flows that each origin may have; 0: any number.
    pub max_flows: u32,
    /// Of an origin with a host name one for each address, side by side.
    pub origins: Vec<PlannedOrigin>,
    /// Origins with a host name of which no address is known.
    pub unresolved: Vec<Unresolved>,
}

/// An origin whose address is not known.
#[derive(Clone, Debug)]
pub struct Unresolved {
    /// How many of the pool's planned origins stand before it.
    pub place: usize,
    pub name: String,
    pub host_name: String,
    pub port: Option<u16>,
    pub weight: Weight,
    pub enabled: bool,
    pub forwarding: Forwarding,
}

/// A monitor of a pool, and what its results count for.
#[derive(Clone, Debug)]
pub struct Watcher {
    pub monitor: Arc<Monitor>,
    pub role: Role,
}

impl PlannedPool {
    /// Whether anybody's results count for its origins' health.
    pub fn is_monitored(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.role.counts())
    }
}

/// What a watcher asks of an origin.
#[derive(Clone, Copy, Debug)]
pub struct PlannedProbe {
    pub asked: Asked,
    /// `None`: not probed.
    pub target: Option<TargetId>,
}

#[derive(Clone, Debug)]
pub struct PlannedOrigin {
    pub name: String,
    /// What it is known by in its pool whatever its name is.
    pub key: String,
    pub identity: u64,
    pub id: OriginId,
    pub address: IpAddr,
    /// The name that the address is one of.
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub weight: Weight,
    /// How many addresses share the weight where this one competes, itself included: of a name, those that serve the same
    /// clients.
    pub sharing: u32,
    pub enabled: bool,
    pub forwarding: Forwarding,
    /// What HTTP monitors ask for.
    pub host: Option<String>,
    /// How long its flows may go on once it is disabled or removed.
    pub drain_timeout: Duration,
    /// By watcher of the pool.
    pub probes: Vec<PlannedProbe>,
}

impl PlannedOrigin {
    /// Its address, if its name alone does not tell it apart.
    pub fn named_address(&self) -> Option<IpAddr> {
        self.host_name.as_ref().map(|_| self.address)
    }

    /// Its part of the weight, in units that are the same for all origins.
    pub fn weight(&self) -> u32 {
        parts(self.weight) / self.sharing
    }
}

/// The places of a host's addresses: each with the number of those that share its clients.
fn shares(addresses: &[IpAddr], forwarding: Forwarding) -> impl Iterator<Item = (IpAddr, u32)> {
    let count = |family: Option<bool>| {
        let same = addresses
            .iter()
            .filter(|address| family.is_none_or(|v4| address.is_ipv4() == v4));
        u32::try_from(same.count()).unwrap_or(u32::MAX)
    };
    addresses.iter().map(move |address| {
        // Those that get packets as they were sent serve clients of both families.
        let family = (!forwarding.is_direct()).then_some(address.is_ipv4());
        (*address, count(family))
    })
}

#[derive(Clone, Debug)]
pub struct PlannedApplication {
    /// Row of the counters.
    pub id: u32,
    pub route: Route,
    /// Who may open its flows.
    pub access: AccessList,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Route {
    /// Index into the configuration's load balancers.
    Balancer(usize),
    /// Index into the plan's pools.
    Direct(usize),
}

/// Why a configuration cannot come into force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    Full(Full),
    /// A declared pool has the name of an implicit one.
    ReservedName(String),
    /// An application names a load balancer that does not exist.
    Dangling {
        application: String,
        load_balancer: String,
    },
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full(full) => full.fmt(f),
            Self::ReservedName(pool) => {
                write!(
                    f,
                    "pool {pool:?} has the name of the pool that an application's origin_direct implies: rename it"
                )
            }
            Self::Dangling {
                application,
                load_balancer,
            } => {
                write!(
                    f,
                    "application {application:?} names load balancer {load_balancer:?}, which does not exist"
                )
            }
        }
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl Plan {
    /// Resolves a configuration. Numbers of things that are gone are retired; those of origins are not given to
    /// others as long as a flow may mean them.
    pub fn new(config: &Config, names: &Names, numbers: &mut Numbers) -> Result<Self, Refusal> {
        let mut plan = Self::default();
        plan.add_declared_pools(config, names);
        let balancers: BTreeMap<&str, usize> = (0..)
            .zip(&config.load_balancers)
            .map(|(index, balancer)| (balancer.name.as_str(), index))
            .collect();
        for application in &config.applications {
            let route = match &application.destination {
                Destination::LoadBalancer(name) => match balancers.get(name.as_str()) {
                    Some(index) => Route::Balancer(*index),
                    None => {
                        let (application, load_balancer) = (application.name.clone(), name.clone());
                        return Err(Refusal::Dangling {
                            application,
                            load_balancer,
                        });
                    }
                },
                Destination::Direct(_) => Route::Direct(plan.add_direct_pool(application, names)?),
            };
            plan.applications.push(PlannedApplication {
                id: 0,
                route,
                access: AccessList::NONE,
            });
        }
        plan.number(config, numbers)?;
        Ok(plan)
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// What a pool is known by whatever its name is.
    pub fn pool_key<'a>(&'a self, name: &'a str) -> &'a str {
        let pool = self.pool(name).and_then(|index| self.pools.get(index));
        pool.map_or(name, |pool| &pool.key)
    }

    /// The identity of a pool as a competitor of other pools.
    pub fn pool_identity(&self, name: &str) -> u64 {
        pool_identity(self.pool_key(name))
    }

    /// All origins with their pools.
    pub fn origins(&self) -> impl Iterator<Item = (&PlannedPool, &PlannedOrigin)> {
        self.pools
            .iter()
            .flat_map(|pool| pool.origins.iter().map(move |origin| (pool, origin)))
    }

    fn add_declared_pools(&mut self, config: &Config, names: &Names) {
        let monitors: BTreeMap<&str, Arc<Monitor>> = config
            .monitors
            .iter()
            .map(|monitor| (monitor.name.as_str(), Arc::new(monitor.clone())))
            .collect();
        let fallbacks: BTreeSet<&str> = config
            .load_balancers
            .iter()
            .flat_map(|balancer| balancer.fallback_pools())
            .collect();
        let home = config.node.coordinates();
        let served = Served::new(config);
        let groups: BTreeMap<&str, &MonitorGroup> = config
            .monitor_groups
            .iter()
            .map(|group| (group.name.as_str(), group))
            .collect();
        for pool in &config.pools {
            let group = pool.monitor_group.as_deref().and_then(|name| groups.get(name));
            let members = group.map_or(&[][..], |group| &group.members);
            let enabled = members.iter().filter(|member| member.enabled);
            let named = enabled.map(|member| (member.monitor.as_str(), member.role()));
            let single = pool.monitor.as_deref().map(|name| (name, Role::Voter));
            let watcher = |(name, role)| {
                let monitor = Arc::clone(monitors.get(name)?);
                Some(Watcher { monitor, role })
            };
            let watchers: Vec<Watcher> = single.into_iter().chain(named).filter_map(watcher).collect();
            let planned = |origin: &Origin, address: IpAddr, sharing: u32| {
                let probe = |watcher: &Watcher| PlannedProbe {
                    asked: served.asked(&pool.name, &watcher.monitor, origin, address),
                    target: None,
                };
                PlannedOrigin {
                    name: origin.name.clone(),
                    key: origin.identity().to_owned(),
                    identity: identity(
                        pool.identity(),
                        origin.identity(),
                        address,
                        origin.port,
                        origin.forwarding,
                    ),
                    id: OriginId::NONE,
                    address,
                    host_name: origin.address.name().map(str::to_owned),
                    port: origin.port,
                    weight: origin.weight,
                    sharing,
                    enabled: origin.enabled,
                    forwarding: origin.forwarding,
                    host: origin.host.clone(),
                    drain_timeout: origin.drain_timeout.unwrap_or(pool.drain_timeout),
                    probes: watchers.iter().map(probe).collect(),
                }
            };
            let (mut origins, mut unresolved) = (Vec::new(), Vec::new());
            for origin in &pool.origins {
                let addresses = names.addresses(&origin.address);
                if let (true, Host::Name(name)) = (addresses.is_empty(), &origin.address) {
                    unresolved.push(Unresolved {
                        place: origins.len(),
                        name: origin.name.clone(),
                        host_name: name.clone(),
                        port: origin.port,
                        weight: origin.weight,
                        enabled: origin.enabled,
                        forwarding: origin.forwarding,
                    });
                }
                let shares = shares(&addresses, origin.forwarding);
                origins.extend(shares.map(|(address, sharing)| planned(origin, address, sharing)));
            }
            let planned = PlannedPool {
                name: pool.name.clone(),
                key: pool.identity().to_owned(),
                id: PoolId::NONE,
                enabled: pool.enabled,
                origins,
                unresolved,
                watchers,
                minimum_origins: pool.minimum_origins,
                origin_steering: pool.origin_steering,
                load_shedding: pool.load_shedding,
                distance: home.zip(pool.coordinates).map(|(home, pool)| home.distance(pool)),
                on_unhealthy: pool.on_unhealthy,
                last_resort: fallbacks.contains(pool.name.as_str()),
                max_flows: served.flows_per_origin(&pool.name).unwrap_or(0),
                direct: pool.origins.iter().any(|origin| origin.forwarding.is_direct()),
                only_direct: pool.origins.iter().all(|origin| origin.forwarding.is_direct()),
            };
            self.index.insert(pool.name.clone(), self.pools.len());
            self.pools.push(planned);
        }
    }

    fn add_direct_pool(&mut self, application: &Application, names: &Names) -> Result<usize, Refusal> {
        let Destination::Direct(direct) = &application.destination else {
            return Ok(0);
        };
        let name = format!("direct:{}", application.name);
        if self.index.contains_key(&name) {
            return Err(Refusal::ReservedName(name));
        }
        let (mut origins, mut unresolved) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for origin in direct {
            let shown = match &origin.address {
                Host::Address(address) => SocketAddr::new(*address, origin.port).to_string(),
                Host::Name(host) => format!("{host}:{}", origin.port),
            };
            let mut addresses = names.addresses(&origin.address);
            addresses.retain(|address| origin.record_type.takes(*address));
            if let (true, Host::Name(host)) = (addresses.is_empty(), &origin.address) {
                unresolved.push(Unresolved {
                    place: origins.len(),
                    name: shown.clone(),
                    host_name: host.clone(),
                    port: Some(origin.port),
                    weight: Weight::ONE,
                    enabled: true,
                    forwarding: Forwarding::Nat,
                });
            }
            for (address, sharing) in shares(&addresses, Forwarding::Nat) {
                if !seen.insert((address, origin.port)) {
                    continue;
                }
                // By whichever name it is found: two may have the same address.
                let socket = SocketAddr::new(address, origin.port).to_string();
                let identity = identity(&name, &socket, address, Some(origin.port), Forwarding::Nat);
                origins.push(PlannedOrigin {
                    identity,
                    key: shown.clone(),
                    name: shown.clone(),
                    id: OriginId::NONE,
                    address,
                    host_name: origin.address.name().map(str::to_owned),
                    port: Some(origin.port),
                    weight: Weight::ONE,
                    sharing,
                    enabled: true,
                    forwarding: Forwarding::Nat,
                    host: None,
                    drain_timeout: Pool::DRAIN_TIMEOUT,
                    probes: Vec::new(),
                });
            }
        }
        let index = self.pools.len();
        self.index.insert(name.clone(), index);
        self.pools.push(PlannedPool {
            key: name.clone(),
            name,
            id: PoolId::NONE,
            enabled: true,
            watchers: Vec::new(),
            minimum_origins: 1,
            origin_steering: OriginSteering::Random,
            load_shedding: LoadShedding::default(),
            distance: None,
            on_unhealthy: OnUnhealthy::Keep,
            last_resort: false,
            direct: false,
            only_direct: false,
            max_flows: application.limits.flows_per_origin.unwrap_or(0),
            origins,
            unresolved,
        });
        Ok(index)
    }

    fn number(&mut self, config: &Config, numbers: &mut Numbers) -> Result<(), Full> {
        let full = |what, needed: usize, ids: u32| Full {
            what,
            needed: needed as u64,
            available: u64::from(ids),
        };
        // Old origins keep their numbers until the new ones have theirs: the live tables still name them.
        let mut identities: BTreeSet<u64> = self.origins().map(|(_, origin)| origin.identity).collect();
        for pool in &mut self.pools {
            for origin in &mut pool.origins {
                // A retired number is free once it is forgotten: the next packet of a flow that still names it would
                // go to the wrong origin, also long after the drain has ended.
                let Some((id, _)) = numbers.origins.assign_if(&origin.identity, |_| false) else {
                    identities.extend(numbers.origins.living());
                    let what = "origins (those of the former configuration and those that still have flows included)";
                    let needed = identities.len() + numbers.origins.retired().count();
                    return Err(full(what, needed, numbers.origins.count()));
                };
                origin.id = OriginId(id);
            }
        }
        numbers
            .origins
            .retain(|identity, _| identities.contains(identity));

        // The rows of a pool that is gone are not read any more when its number's next rows are written.
        let keys: BTreeSet<&str> = self.pools.iter().map(|pool| pool.key.as_str()).collect();
        numbers.pools.retain(|key, _| keys.contains(key.as_str()));
        let pools = self.pools.len();
        for pool in &mut self.pools {
            let assigned = numbers.pools.assign(&pool.key);
            let (id, _) = assigned.ok_or_else(|| full("pools", pools, numbers.pools.count()))?;
            pool.id = PoolId(id);
        }

        let names: BTreeSet<&str> = config
            .applications
            .iter()
            .map(|application| application.name.as_str())
            .collect();
        numbers
            .applications
            .retain(|name, _| names.contains(name.as_str()));
        for (planned, application) in self.applications.iter_mut().zip(&config.applications) {
            let assigned = numbers.applications.assign(&application.name);
            let (id, _) =
                assigned.ok_or_else(|| full("applications", names.len(), numbers.applications.count()))?;
            planned.id = id;
        }
        Ok(())
    }
}
