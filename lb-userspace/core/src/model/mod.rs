//! The configuration in the user's vocabulary, validated: every reference resolves, every number is in its range.
//!
//! Objects keep the order in which they were declared. References between objects are names, which are unique for each
//! kind of object.

mod access;
mod application;
mod history;
mod host;
mod load_balancer;
mod monitor;
mod monitor_group;
mod node;
mod place;
mod pool;
mod prefix;
mod webhook;

pub use access::{Access, CountryTable};
pub use application::{Affinity, Application, Destination, DirectOrigin, Echo, Limits, Ports, Transport};
pub use history::History;
pub use host::{AddressFlaw, Host, RecordType};
pub use load_balancer::{GeoPools, LoadBalancer, PoolSet, PoolWeights, SteeringPolicy, Topology};
pub use monitor::{ExpectedCodes, Monitor, MonitorKind, Probe, ProbeSource, UdpProbe};
pub use monitor_group::{Member, MonitorGroup};
pub use node::{Api, AttachMode, Datapath, Dns, FlowTimeouts, Node, OnExit, SomeTimeouts, TunnelSource};
pub use place::Coordinates;
pub use pool::{
    Forwarding, LoadShedding, OnUnhealthy, Origin, OriginSteering, Pool, SheddingPolicy, Weight, WeightError,
};
pub use prefix::{Prefix, PrefixError};
pub use webhook::{EventSources, FilterOptions, NotificationFilter, Tells, Webhook, WebhookUrl};

use std::collections::BTreeSet;
use std::sync::Arc;

/// A whole configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub node: Node,
    pub datapath: Datapath,
    pub api: Api,
    pub history: History,
    pub webhooks: Vec<Webhook>,
    pub dns: Dns,
    pub monitors: Vec<Monitor>,
    pub monitor_groups: Vec<MonitorGroup>,
    pub pools: Vec<Pool>,
    pub load_balancers: Vec<LoadBalancer>,
    pub applications: Vec<Application>,
    /// `[geoip]`, loaded if some access list or load balancer has countries.
    pub geoip: Option<Arc<CountryTable>>,
}

impl Config {
    /// The host names of origins, in order and each once.
    #[must_use]
    pub fn host_names(&self) -> BTreeSet<&str> {
        let pools = self.pools.iter().flat_map(|pool| &pool.origins);
        let direct = self
            .applications
            .iter()
            .flat_map(|application| match &application.destination {
                Destination::Direct(origins) => &origins[..],
                Destination::LoadBalancer(_) => &[],
            });
        let hosts = pools.map(|origin| &origin.address);
        hosts
            .chain(direct.map(|origin| &origin.address))
            .filter_map(Host::name)
            .collect()
    }

    /// The monitor of that name.
    #[must_use]
    pub fn monitor(&self, name: &str) -> Option<&Monitor> {
        self.monitors.iter().find(|monitor| monitor.name == name)
    }

    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The load balancer of that name.
    #[must_use]
    pub fn load_balancer(&self, name: &str) -> Option<&LoadBalancer> {
        self.load_balancers.iter().find(|balancer| balancer.name == name)
    }
}
