//! An immutable snapshot of what the engine knows, for the API, the status command and metrics.
//!
//! Traffic counters are not in it: the shell reads them from the maps and joins them by the ids given here.

use crate::engine::LookupFailure;
use crate::health::{FailureReason, GroupHealth, OriginHealth};
use crate::model::{Forwarding, Weight};
use crate::monitor::Counts;
use crate::time::Timestamp;
use crate::vote::Role;
use core::net::IpAddr;
use core::time::Duration;
use lb_common::abi::{Country, OriginId, PoolId};
use std::borrow::Cow;

/// The snapshot. All lists keep the order of the configuration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct View {
    pub node: String,
    /// Number of the configuration generation that the maps hold.
    pub generation: u32,
    pub applications: Vec<ApplicationView>,
    pub load_balancers: Vec<LoadBalancerView>,
    pub monitoring: MonitoringView,
    /// Declared pools, then one for each application with `origin_direct`.
    pub pools: Vec<PoolView>,
    /// Host names of origins, in alphabetical order.
    pub names: Vec<NameView>,
}

/// A host name of origins.
#[derive(Clone, PartialEq, Debug)]
pub struct NameView {
    pub name: String,
    /// In use, IPv4 first. Those of the last lookup that succeeded.
    pub addresses: Vec<IpAddr>,
    /// When a lookup has succeeded last; `None`: not since the daemon started.
    pub answered: Option<Timestamp>,
    /// Why the last lookup failed.
    pub failure: Option<LookupFailure>,
    /// Addresses of the last answer that no origin can have, and why.
    pub refused: Vec<(IpAddr, String)>,
    /// How many more addresses the answer had than one name may.
    pub left_out: usize,
}

/// All monitors' runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MonitoringView {
    /// Origins, once for each monitor that probes them.
    pub targets: usize,
    pub runs: Counts,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ApplicationView {
    pub name: String,
    /// Row of the application's counters.
    pub id: u32,
    /// Such as `tcp/80`.
    pub protocol: String,
    pub addresses: Vec<IpAddr>,
    pub load_balancer: Option<String>,
    /// The pool that gets new flows: with several, the one with the largest share. `None`: nobody can serve.
    pub pool: Option<String>,
    /// Whether `pool` is the fallback pool in that role.
    pub on_fallback: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct LoadBalancerView {
    pub name: String,
    pub health: GroupHealth,
    /// Whether the health is unknown because results of monitors are still to come.
    pub awaits_results: bool,
    pub steering_policy: &'static str,
    /// Share of new flows by pool, 0 to 1, of the first of `routes`; pools with no share are left out.
    pub pool_shares: Vec<(String, f64)>,
    /// Whether a fallback pool is in use for the flows of some place.
    pub on_fallback: bool,
    /// At least one: the first is for all clients but those of the other ones' countries.
    pub routes: Vec<RouteView>,
}

/// What a load balancer does with the flows of a place.
#[derive(Clone, PartialEq, Debug)]
pub struct RouteView {
    /// Of the clients; [`Country::UNKNOWN`] for those whose country is not known. Empty: all that are in no other route.
    pub countries: Vec<Country>,
    /// Which part of the load balancer says so, such as `default_pools`.
    pub source: String,
    pub steering_policy: &'static str,
    /// In failover order, then the fallback pool as long as it has a share.
    pub pools: Vec<RoutedPool>,
    pub fallback_pool: Option<String>,
    /// Whether the fallback pool is in use because no other can serve.
    pub on_fallback: bool,
}

/// A pool of a route.
#[derive(Clone, PartialEq, Debug)]
pub struct RoutedPool {
    pub name: String,
    /// Of the route's new flows, 0 to 1.
    pub share: f64,
    /// What speaks for it or against it.
    pub why: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct PoolView {
    pub name: String,
    /// Row of the pool's records.
    pub id: PoolId,
    pub health: GroupHealth,
    /// Whether the health is unknown because results of the monitor are still to come. Otherwise it stays unknown: there is
    /// no monitor.
    pub awaits_results: bool,
    /// Whether it may get new flows of any address family, and not as a fallback pool.
    pub usable: bool,
    pub healthy_origins: u32,
    pub minimum_origins: u32,
    pub origins: Vec<OriginView>,
}

impl PoolView {
    /// Whether its health lets it have flows. Without a monitor nothing speaks against it, but it must have somebody; with
    /// one, as long as there are no results, everything does.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        match self.health {
            GroupHealth::Healthy | GroupHealth::Degraded => true,
            GroupHealth::Unknown => self.usable,
            GroupHealth::Critical | GroupHealth::Disabled => false,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct OriginView {
    pub name: String,
    /// Row of the origin's counters; `NONE` when the maps are full.
    pub id: OriginId,
    /// `None`: none of its host name is known.
    pub address: Option<IpAddr>,
    /// The host name that it is an address of. A name with several has an origin of the same name for each.
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub forwarding: Forwarding,
    pub enabled: bool,
    pub health: OriginHealth,
    /// Why the last run failed, or why there is no address; `None` when it succeeded or there is no monitor.
    pub failure_reason: Option<FailureReason>,
    /// Of a monitor group: what each enabled member has found out.
    pub monitors: Vec<MonitorView>,
    /// Why packets cannot reach it although it may be healthy: no route, neighbour unresolved, not attached there. Or
    /// why its monitor's do not go the way that clients' packets go.
    pub path_problem: Option<String>,
    /// As configured: the addresses of a host name share it.
    pub weight: Weight,
    /// Share of the pool's new flows from clients of the address' family, 0 to 1.
    pub share: f64,
    /// Round-trip time of the last successful attempt.
    pub rtt: Option<Duration>,
    /// Status code that the last run of its monitor ended with, if that speaks HTTP.
    pub response_code: Option<u16>,
    pub draining: bool,
    /// When its flows are reset, or were: of an origin that drains.
    pub drain_deadline: Option<Timestamp>,
}

/// What one member of a monitor group has found out about an origin.
#[derive(Clone, PartialEq, Debug)]
pub struct MonitorView {
    pub name: String,
    pub role: Role,
    pub health: OriginHealth,
    pub failure_reason: Option<FailureReason>,
    pub rtt: Option<Duration>,
}

impl OriginView {
    /// What it is called where the addresses of a host name are told apart.
    #[must_use]
    pub fn label(&self) -> Cow<'_, str> {
        match (&self.host_name, self.address) {
            (Some(_), Some(address)) => Cow::Owned(origin_label(&self.name, Some(address))),
            (Some(_), None) | (None, _) => Cow::Borrowed(&self.name),
        }
    }
}

/// An origin's name, and which of its addresses is meant if it has a host name.
#[must_use]
pub fn origin_label(name: &str, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{name} ({address})"),
        None => name.to_owned(),
    }
}
