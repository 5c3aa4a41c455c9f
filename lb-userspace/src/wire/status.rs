//! `GET /api/v1/status`: the engine's snapshot joined with the traffic counters.

use super::{API_VERSION, Ordered, Overridden};
use lb_common::abi::Traffic;
use lb_core::health::{GroupHealth, OriginHealth};
use lb_core::time::Timestamp;
use lb_core::view::{
    ApplicationView, LoadBalancerView, MonitorView, NameView, OriginView, PoolView, RouteView, RoutedPool,
    View,
};
use lb_core::vote::Role;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the kernel maps count, by the ids of the [`View`].
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By application id.
    pub applications: BTreeMap<u32, Traffic>,
    /// By origin id.
    pub origins: BTreeMap<u32, Traffic>,
    /// Open flows by application id.
    pub application_flows: BTreeMap<u32, u64>,
    /// Open flows by origin id.
    pub origin_flows: BTreeMap<u32, u64>,
    /// Packets by drop reason, zeros included, so that the keys do not come and go.
    pub drops: Vec<(&'static str, u64)>,
}

/// The whole answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub api_version: u32,
    pub node: NodeStatus,
    pub interfaces: Vec<InterfaceStatus>,
    #[serde(default)]
    pub monitoring: MonitoringStatus,
    pub applications: Vec<ApplicationStatus>,
    pub load_balancers: Vec<LoadBalancerStatus>,
    pub pools: Vec<PoolStatus>,
    /// Packets by drop reason.
    pub drops: Ordered<u64>,
    /// Interfaces of the configuration that the program is not attached to: lb attaches when it can.
    #[serde(default)]
    pub unattached: Vec<UnattachedInterface>,
    #[serde(default)]
    pub webhooks: Vec<WebhookStatus>,
    /// Host names of origins.
    #[serde(default)]
    pub names: Vec<NameStatus>,
}

/// A host name of origins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NameStatus {
    pub name: String,
    /// In use: those of the last lookup that succeeded.
    pub addresses: Vec<IpAddr>,
    /// How long ago that was; `None`: not since the daemon started.
    pub age_seconds: Option<u64>,
    /// Why the last lookup failed.
    pub failure: Option<String>,
    /// What the last answer had beside them and no origin can have.
    pub refused: Vec<String>,
    /// How many more addresses there are than a name may have.
    pub left_out: usize,
}

/// A webhook, since the daemon started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WebhookStatus {
    pub name: String,
    /// Its URL without path and query, which are often secret.
    pub endpoint: String,
    /// Notices that wait.
    pub pending: usize,
    pub delivered_total: u64,
    pub failed_attempts_total: u64,
    /// Notices that were given up, or forgotten because too many waited.
    pub dropped_total: u64,
    /// RFC 3339.
    pub last_delivered: Option<String>,
    /// Since when no notice has arrived although it was sent.
    pub failing_since: Option<String>,
    pub last_error: Option<String>,
}

/// The machine and the daemon.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    /// Of the daemon.
    pub version: String,
    pub abi_version: u32,
    /// Number of the live configuration; 0: none yet.
    pub generation: u32,
    pub uptime_seconds: u64,
    /// How often the open flows have been counted: the figures are those of the last time, and a count that was going on
    /// when something changed may have missed it.
    #[serde(default)]
    pub flow_counts_total: u64,
    /// What is wrong with the store of the objects that were made through the API, or with one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_problem: Option<String>,
    /// Where the API listens beside its socket; `None`: the daemon does not say.
    #[serde(default)]
    pub listen: Option<Vec<SocketAddr>>,
}

/// All monitors' probes, since the daemon started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MonitoringStatus {
    /// Origins, once for each monitor that probes them.
    pub targets: usize,
    pub runs_total: u64,
    /// Runs that were due and not made: the one before was still going on, the daemon was held up, or too many attempts were
    /// going on already.
    pub missed_runs_total: u64,
    /// Attempts that are going on, and how many may: the limit on open files decides.
    pub attempts: usize,
    pub max_attempts: usize,
}

/// An interface that the program is attached to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    pub program_id: u32,
    /// Switched on, and the carrier is there.
    #[serde(default)]
    pub up: bool,
}

/// An interface that the program is not attached to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UnattachedInterface {
    pub name: String,
    pub problem: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ApplicationStatus {
    pub name: String,
    /// Such as `tcp/80`.
    pub protocol: String,
    pub addresses: Vec<IpAddr>,
    /// `None`: the application has direct origins.
    pub load_balancer: Option<String>,
    /// The pool that gets new flows; `None`: nobody can serve.
    pub pool: Option<String>,
    pub on_fallback: bool,
    /// Open now.
    pub flows: u64,
    pub new_flows_total: u64,
    /// Both directions.
    pub packets_total: u64,
    /// Both directions.
    pub bytes_total: u64,
    /// What was set by hand instead of the file's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LoadBalancerStatus {
    pub name: String,
    /// `healthy`, `degraded`, `critical`, `unknown` or `disabled`.
    pub health: String,
    pub steering_policy: String,
    /// Share of new flows by pool, 0 to 1.
    pub pool_shares: Ordered<f64>,
    pub on_fallback: bool,
    /// What was set by hand instead of the file's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
    /// What becomes of the flows of each place; the first one's shares are `pool_shares`.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Of the clients, `unknown` included. Empty: all that are in no other route.
    pub countries: Vec<String>,
    /// Which part of the load balancer says so, such as `default_pools`.
    pub source: String,
    pub steering_policy: String,
    pub fallback_pool: Option<String>,
    pub on_fallback: bool,
    pub pools: Vec<RoutedPoolStatus>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RoutedPoolStatus {
    pub name: String,
    /// Of new flows, 0 to 1.
    pub share: f64,
    pub why: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    /// `healthy`, `degraded`, `critical`, `unknown` or `disabled`.
    pub health: String,
    pub healthy_origins: u32,
    pub minimum_origins: u32,
    pub origins: Vec<OriginStatus>,
    /// What was set by hand instead of the file's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OriginStatus {
    pub name: String,
    /// `None`: none of its host name is known.
    pub address: Option<IpAddr>,
    /// The host name that it is an address of: a name with several has an origin of the same name for each.
    #[serde(default)]
    pub host_name: Option<String>,
    /// `None`: the application's.
    pub port: Option<u16>,
    /// `nat`, `dnat`, `dsr_l2`, `dsr_ipip` or `dsr_gue`.
    #[serde(default)]
    pub forwarding: String,
    pub enabled: bool,
    /// `healthy`, `unhealthy`, `unknown` or `disabled`.
    pub health: String,
    /// Why the last run of the monitor failed.
    pub failure_reason: Option<String>,
    /// Of a monitor group: what each enabled member has found out. Of a single monitor: nothing more.
    #[serde(default)]
    pub monitors: Vec<MonitorStatus>,
    /// 0 to 1.
    pub weight: f64,
    /// Share of the pool's new flows, 0 to 1.
    pub share: f64,
    /// Open now.
    pub flows: u64,
    /// Both directions.
    pub packets_total: u64,
    /// Both directions.
    pub bytes_total: u64,
    /// Of the last successful probe.
    pub rtt_ms: Option<f64>,
    pub draining: bool,
    /// Until the flows of an origin that drains are reset; 0: they are.
    #[serde(default)]
    pub drain_seconds_left: Option<u64>,
    /// Why packets cannot reach it although it may be healthy.
    pub path_problem: Option<String>,
    /// What was set by hand instead of the file's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

/// One member of a monitor group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorStatus {
    pub name: String,
    /// Its results change nothing.
    pub monitoring_only: bool,
    /// When it fails the origin is unhealthy, whatever the others say.
    pub must_be_healthy: bool,
    /// `healthy`, `unhealthy`, `unknown` or `disabled`.
    pub health: String,
    pub failure_reason: Option<String>,
    pub rtt_ms: Option<f64>,
}

impl Status {
    /// Joins the snapshot with the counters. `node.name` and `node.generation` are taken from the snapshot.
    #[must_use]
    pub fn new(view: &View, counters: &Counters, node: NodeStatus, interfaces: Vec<InterfaceStatus>) -> Self {
        let now = Timestamp(Duration::from_secs(node.uptime_seconds));
        let named = |&(name, count): &(&'static str, u64)| (name.to_owned(), count);
        Self {
            api_version: API_VERSION,
            node: NodeStatus {
                name: view.node.clone(),
                generation: view.generation,
                ..node
            },
            interfaces,
            monitoring: MonitoringStatus {
                targets: view.monitoring.targets,
                runs_total: view.monitoring.runs.started,
                missed_runs_total: view.monitoring.runs.missed,
                ..MonitoringStatus::default()
            },
            unattached: Vec::new(),
            webhooks: Vec::new(),
            names: view.names.iter().map(|view| name(view, now)).collect(),
            applications: view
                .applications
                .iter()
                .map(|view| application(view, counters))
                .collect(),
            load_balancers: view.load_balancers.iter().map(load_balancer).collect(),
            pools: view.pools.iter().map(|view| pool(view, counters, now)).collect(),
            drops: Ordered(counters.drops.iter().map(named).collect()),
        }
    }

    /// Whether the program is attached and a configuration is live.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.interfaces.is_empty() && self.node.generation > 0
    }
}

fn application(view: &ApplicationView, counters: &Counters) -> ApplicationStatus {
    let traffic = counters.applications.get(&view.id).copied().unwrap_or_default();
    ApplicationStatus {
        name: view.name.clone(),
        protocol: view.protocol.clone(),
        addresses: view.addresses.clone(),
        load_balancer: view.load_balancer.clone(),
        pool: view.pool.clone(),
        on_fallback: view.on_fallback,
        flows: counters
            .application_flows
            .get(&view.id)
            .copied()
            .unwrap_or_default(),
        new_flows_total: traffic.new_flows,
        packets_total: traffic.packets_in.saturating_add(traffic.packets_out),
        bytes_total: traffic.bytes_in.saturating_add(traffic.bytes_out),
        overridden: None,
    }
}

fn load_balancer(view: &LoadBalancerView) -> LoadBalancerStatus {
    LoadBalancerStatus {
        name: view.name.clone(),
        health: group_health(view.health).to_owned(),
        steering_policy: view.steering_policy.to_owned(),
        pool_shares: Ordered(view.pool_shares.clone()),
        on_fallback: view.on_fallback,
        overridden: None,
        routes: view.routes.iter().map(route).collect(),
    }
}

fn route(view: &RouteView) -> RouteStatus {
    let pool = |pool: &RoutedPool| RoutedPoolStatus {
        name: pool.name.clone(),
        share: pool.share,
        why: pool.why.clone(),
    };
    RouteStatus {
        countries: view.countries.iter().map(ToString::to_string).collect(),
        source: view.source.clone(),
        steering_policy: view.steering_policy.to_owned(),
        fallback_pool: view.fallback_pool.clone(),
        on_fallback: view.on_fallback,
        pools: view.pools.iter().map(pool).collect(),
    }
}

fn name(view: &NameView, now: Timestamp) -> NameStatus {
    let refused = view.refused.iter();
    NameStatus {
        name: view.name.clone(),
        addresses: view.addresses.clone(),
        age_seconds: view.answered.map(|answered| now.since(answered).as_secs()),
        failure: view.failure.as_ref().map(ToString::to_string),
        refused: refused
            .map(|(address, why)| format!("{address} is {why}"))
            .collect(),
        left_out: view.left_out,
    }
}

fn pool(view: &PoolView, counters: &Counters, now: Timestamp) -> PoolStatus {
    PoolStatus {
        name: view.name.clone(),
        health: group_health(view.health).to_owned(),
        healthy_origins: view.healthy_origins,
        minimum_origins: view.minimum_origins,
        origins: view
            .origins
            .iter()
            .map(|view| origin(view, counters, now))
            .collect(),
        overridden: None,
    }
}

fn origin(view: &OriginView, counters: &Counters, now: Timestamp) -> OriginStatus {
    let traffic = counters.origins.get(&view.id.0).copied().unwrap_or_default();
    OriginStatus {
        name: view.name.clone(),
        address: view.address,
        host_name: view.host_name.clone(),
        port: view.port,
        forwarding: view.forwarding.name().to_owned(),
        enabled: view.enabled,
        health: origin_health(view.health).to_owned(),
        failure_reason: view.failure_reason.as_ref().map(super::error::failure_reason),
        monitors: view.monitors.iter().map(monitor).collect(),
        weight: view.weight.value(),
        share: view.share,
        flows: counters.origin_flows.get(&view.id.0).copied().unwrap_or_default(),
        packets_total: traffic.packets_in.saturating_add(traffic.packets_out),
        bytes_total: traffic.bytes_in.saturating_add(traffic.bytes_out),
        rtt_ms: view.rtt.map(milliseconds),
        draining: view.draining,
        drain_seconds_left: view.drain_deadline.map(|deadline| {
            let left = deadline.since(now);
            left.as_secs() + u64::from(left.subsec_nanos() > 0)
        }),
        path_problem: view.path_problem.clone(),
        overridden: None,
    }
}

fn monitor(view: &MonitorView) -> MonitorStatus {
    MonitorStatus {
        name: view.name.clone(),
        monitoring_only: view.role == Role::Observer,
        must_be_healthy: view.role == Role::Veto,
        health: origin_health(view.health).to_owned(),
        failure_reason: view.failure_reason.as_ref().map(super::failure_reason),
        rtt_ms: view.rtt.map(milliseconds),
    }
}

/// Microseconds are what a monitor can tell.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn group_health(health: GroupHealth) -> &'static str {
    match health {
        GroupHealth::Healthy => "healthy",
        GroupHealth::Degraded => "degraded",
        GroupHealth::Critical => "critical",
        GroupHealth::Unknown => "unknown",
        GroupHealth::Disabled => "disabled",
    }
}

fn origin_health(health: OriginHealth) -> &'static str {
    match health {
        OriginHealth::Healthy => "healthy",
        OriginHealth::Unhealthy => "unhealthy",
        OriginHealth::Unknown => "unknown",
        OriginHealth::Disabled => "disabled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{Country, OriginId, PoolId};
    use lb_core::engine::LookupFailure;
    use lb_core::health::FailureReason;
    use lb_core::model::{Forwarding, Weight};
    use lb_core::monitor::Counts;
    use lb_core::view::MonitoringView;

    #[test]
    fn a_status_has_the_keys_of_the_contract_in_their_order() {
        let view = View {
            node: "edge-1".to_owned(),
            generation: 3,
            monitoring: MonitoringView {
                targets: 1,
                runs: Counts {
                    started: 7,
                    missed: 2,
                },
            },
            applications: vec![ApplicationView {
                name: "web".to_owned(),
                id: 7,
                protocol: "tcp/80".to_owned(),
                addresses: vec!["203.0.113.10".parse().unwrap()],
                load_balancer: Some("web".to_owned()),
                pool: Some("sorry".to_owned()),
                on_fallback: true,
            }],
            load_balancers: vec![LoadBalancerView {
                name: "web".to_owned(),
                health: GroupHealth::Critical,
                awaits_results: false,
                steering_policy: "off",
                pool_shares: vec![("sorry".to_owned(), 1.0)],
                on_fallback: true,
                routes: vec![RouteView {
                    countries: vec![Country::UNKNOWN, Country::new(*b"DE")],
                    source: "default_pools".to_owned(),
                    steering_policy: "off",
                    pools: vec![RoutedPool {
                        name: "sorry".to_owned(),
                        share: 1.0,
                        why: "fallback pool".to_owned(),
                    }],
                    fallback_pool: Some("sorry".to_owned()),
                    on_fallback: true,
                }],
            }],
            pools: vec![PoolView {
                name: "sorry".to_owned(),
                id: PoolId(0),
                health: GroupHealth::Healthy,
                awaits_results: false,
                usable: true,
                healthy_origins: 1,
                minimum_origins: 1,
                origins: vec![OriginView {
                    name: "a".to_owned(),
                    id: OriginId(2),
                    address: Some("10.0.0.1".parse().unwrap()),
                    host_name: Some("origins.example.com".to_owned()),
                    port: None,
                    forwarding: Forwarding::DsrIpip,
                    enabled: true,
                    health: OriginHealth::Unhealthy,
                    failure_reason: Some(FailureReason::TcpTimeout),
                    monitors: Vec::new(),
                    path_problem: None,
                    weight: Weight::ONE,
                    share: 1.0,
                    rtt: Some(Duration::from_micros(1234)),
                    response_code: None,
                    draining: true,
                    drain_deadline: Some(Timestamp(Duration::from_millis(2500))),
                }],
            }],
            names: vec![NameView {
                name: "origins.example.com".to_owned(),
                addresses: vec!["10.0.0.1".parse().unwrap()],
                answered: Some(Timestamp::default()),
                failure: Some(LookupFailure::UnknownHost),
                refused: vec![("127.0.0.1".parse().unwrap(), "a loopback address".to_owned())],
                left_out: 2,
            }],
        };
        let traffic = Traffic {
            packets_in: 3,
            bytes_in: 300,
            packets_out: 2,
            bytes_out: 200,
            new_flows: 1,
        };
        let counters = Counters {
            applications: [(7, traffic)].into(),
            origins: [(2, traffic)].into(),
            application_flows: [(7, 1)].into(),
            drops: vec![("no_origin", 4), ("malformed", 0)],
            ..Counters::default()
        };
        let interfaces = vec![InterfaceStatus {
            name: "eth0".to_owned(),
            mode: "native".to_owned(),
            program_id: 9,
            up: true,
        }];
        let status = Status::new(&view, &counters, NodeStatus::default(), interfaces);
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"api_version":1,"node":{"name":"edge-1","version":"","abi_version":0,"generation":3,"uptime_seconds":0,"flow_counts_total":0,"listen":null},"#,
                r#""interfaces":[{"name":"eth0","mode":"native","program_id":9,"up":true}],"#,
                r#""monitoring":{"targets":1,"runs_total":7,"missed_runs_total":2,"attempts":0,"max_attempts":0},"#,
                r#""applications":[{"name":"web","protocol":"tcp/80","addresses":["203.0.113.10"],"load_balancer":"web","#,
                r#""pool":"sorry","on_fallback":true,"flows":1,"new_flows_total":1,"packets_total":5,"bytes_total":500}],"#,
                r#""load_balancers":[{"name":"web","health":"critical","steering_policy":"off","#,
                r#""pool_shares":{"sorry":1.0},"on_fallback":true,"routes":[{"countries":["unknown","DE"],"source":"default_pools","#,
                r#""steering_policy":"off","fallback_pool":"sorry","on_fallback":true,"#,
                r#""pools":[{"name":"sorry","share":1.0,"why":"fallback pool"}]}]}],"#,
                r#""pools":[{"name":"sorry","health":"healthy","healthy_origins":1,"minimum_origins":1,"#,
                r#""origins":[{"name":"a","address":"10.0.0.1","host_name":"origins.example.com","port":null,"forwarding":"dsr_ipip","enabled":true,"health":"unhealthy","#,
                r#""failure_reason":"TCP Timeout","monitors":[],"weight":1.0,"share":1.0,"flows":0,"packets_total":5,"#,
                r#""bytes_total":500,"rtt_ms":1.234,"draining":true,"drain_seconds_left":3,"path_problem":null}]}],"#,
                r#""drops":{"no_origin":4,"malformed":0},"unattached":[],"webhooks":[],"#,
                r#""names":[{"name":"origins.example.com","addresses":["10.0.0.1"],"age_seconds":0,"#,
                r#""failure":"there is no such host","refused":["127.0.0.1 is a loopback address"],"left_out":2}]}"#
            )
        );
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        assert!(status.is_ready());
    }
}
