//! One run of a monitor that decides about nothing and tells every step: `lb monitor test`.

use super::{Probes, Step, Way, attempt_by};
use crate::resolve;
use crate::wire::{
    ErrorCode, ErrorDetail, MonitorAttempt, MonitorRun, MonitorStep, MonitorTest, MonitorTestQuery,
    failure_reason,
};
use lb_core::engine::{ProbeRequest, TargetId, Trials};
use lb_core::model::{Config, Dns, Host, Monitor, MonitorKind, Pool};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What is to be probed.
#[derive(Clone, Debug)]
pub struct Trial {
    /// `POOL/ORIGIN`, or what somebody has given.
    pub name: String,
    pub asked: Asked,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Asked {
    Address {
        request: Box<ProbeRequest>,
        /// The way of its packets, where that is not the usual one.
        way: Option<Way>,
    },
    /// All addresses of a name. The requests lack the address, and are for one of each family.
    Name {
        host: String,
        v4: Box<ProbeRequest>,
        v6: Box<ProbeRequest>,
    },
}

/// Trials of one monitor.
#[derive(Clone, Debug)]
pub struct TrialSet {
    pub monitor: Arc<Monitor>,
    pub trials: Vec<Trial>,
    /// By whom names are looked up.
    pub dns: Dns,
}

impl Asked {
    fn new(host: &Host, request: impl Fn(IpAddr) -> ProbeRequest) -> Self {
        match host {
            Host::Address(address) => Self::Address {
                request: Box::new(request(*address)),
                way: None,
            },
            Host::Name(name) => Self::Name {
                host: name.clone(),
                v4: Box::new(request(Ipv4Addr::UNSPECIFIED.into())),
                v6: Box::new(request(Ipv6Addr::UNSPECIFIED.into())),
            },
        }
    }
}

/// Finds what is to be probed.
///
/// # Errors
/// What is asked for is not there.
pub fn select(config: &Config, monitor: &str, query: &MonitorTestQuery) -> Result<TrialSet, ErrorDetail> {
    let not_found = |what: &str, name: &str| {
        Err(ErrorDetail::new(ErrorCode::NotFound, format!("there is no {what} `{name}`")).of_field(what))
    };
    let Some(monitor) = config.monitor(monitor).cloned().map(Arc::new) else {
        return not_found("monitor", monitor);
    };
    let set = |trials| TrialSet {
        monitor: Arc::clone(&monitor),
        trials,
        dns: config.dns.clone(),
    };
    let given = [&query.pool, &query.origin, &query.address];
    if given.into_iter().flatten().count() > 1 {
        let message = "give one of `pool`, `origin` and `address`";
        return Err(ErrorDetail::new(ErrorCode::InvalidRequest, message));
    }
    if let Some(text) = &query.address {
        let (host, port) = host_and_port(text)
            .ok_or_else(|| ErrorDetail::new(ErrorCode::InvalidRequest, format!("`{text}` is no address")))?;
        let trial = Trial {
            name: text.clone(),
            asked: Asked::new(&host, |address| request(&monitor, address, port, host.name())),
        };
        return Ok(set(vec![trial]));
    }
    if let Some(pool) = query.pool.as_deref().filter(|pool| config.pool(pool).is_none()) {
        return not_found("pool", pool);
    }
    let (requests, mut trials) = (Trials::new(config), Vec::new());
    for pool in &config.pools {
        for origin in &pool.origins {
            let name = format!("{}/{}", pool.name, origin.name);
            let wanted = match (&query.pool, &query.origin) {
                (Some(wanted), _) => *wanted == pool.name,
                (None, Some(wanted)) => *wanted == name || *wanted == origin.name,
                (None, None) => watches(config, pool, &monitor.name),
            };
            if wanted {
                let asked = Asked::new(&origin.address, |address| {
                    requests.request(&pool.name, origin, address, &monitor)
                });
                trials.push(Trial { name, asked });
            }
        }
    }
    match (&query.origin, trials.is_empty()) {
        (Some(origin), true) => not_found("origin", origin),
        (None, true) => {
            let message = format!(
                "no pool has the monitor `{}`: name a `pool`, an `origin` or an `address` to probe",
                monitor.name
            );
            Err(ErrorDetail::new(ErrorCode::InvalidRequest, message))
        }
        (_, false) => Ok(set(trials)),
    }
}

fn watches(config: &Config, pool: &Pool, monitor: &str) -> bool {
    let group = pool.monitor_group.as_deref();
    let mut groups = config
        .monitor_groups
        .iter()
        .filter(|found| Some(found.name.as_str()) == group);
    pool.monitor.as_deref() == Some(monitor)
        || groups.any(|group| group.members.iter().any(|member| member.monitor == monitor))
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn host_and_port(text: &str) -> Option<(Host, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip().into(), Some(address.port())));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some((address.into(), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let name = host.to_lowercase();
    crate::config::is_host_name(&name).then_some((Host::Name(name), port))
}

/// Makes all runs at once, as far as there are file descriptors for them.
pub async fn run(set: TrialSet, probes: &Arc<Probes>) -> MonitorTest {
    let mut runs = JoinSet::new();
    for (index, trial) in set.trials.into_iter().enumerate() {
        let (probes, dns) = (Arc::clone(probes), set.dns.clone());
        runs.spawn(async move { (index, one(trial, &dns, &probes).await) });
    }
    let mut found = runs.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    MonitorTest {
        monitor: set.monitor.name.clone(),
        r#type: set.monitor.kind.name().to_owned(),
        runs: found.into_iter().flat_map(|(_, runs)| runs).collect(),
    }
}

async fn one(Trial { name, asked }: Trial, dns: &Dns, probes: &Probes) -> Vec<MonitorRun> {
    let (host, v4, v6) = match asked {
        Asked::Address { request, way } => {
            return vec![observe(name, &request, way.as_ref(), Vec::new(), probes).await];
        }
        Asked::Name { host, v4, v6 } => (host, v4, v6),
    };
    let started = Instant::now();
    let found = resolve::look_up(dns, &host).await;
    let took = started.elapsed();
    let resolved = |what| Step { what, took };
    match found {
        Ok(addresses) => {
            let mut runs = Vec::new();
            for address in addresses {
                let like = if address.is_ipv4() { &v4 } else { &v6 };
                let request = ProbeRequest {
                    address,
                    ..(**like).clone()
                };
                let steps = vec![resolved(format!("resolve {host}: {address}"))];
                runs.push(observe(name.clone(), &request, None, steps, probes).await);
            }
            runs
        }
        Err(reason) => {
            let reason = Some(failure_reason(&reason));
            vec![MonitorRun {
                target: name,
                address: host.clone(),
                healthy: false,
                failure_reason: reason.clone(),
                rtt_ms: None,
                attempts: vec![MonitorAttempt {
                    steps: vec![told(resolved(format!("resolve {host}")))],
                    failure_reason: reason,
                }],
            }]
        }
    }
}

/// What the monitor asks of an address that is no origin's.
fn request(monitor: &Arc<Monitor>, address: IpAddr, port: Option<u16>, name: Option<&str>) -> ProbeRequest {
    let own = match monitor.kind {
        MonitorKind::Https { .. } => 443,
        MonitorKind::Smtp => 25,
        MonitorKind::IcmpPing => 0,
        MonitorKind::Http(_) | MonitorKind::Tcp | MonitorKind::UdpIcmp(_) => 80,
    };
    ProbeRequest {
        target: TargetId(u64::MAX),
        attempt: 0,
        monitor: Arc::clone(monitor),
        address,
        port: port.or(monitor.port).unwrap_or(own),
        host: None,
        host_name: name.map(str::to_owned),
        via: None,
    }
}

/// One run: further attempts only after a timeout, as the monitor does.
async fn observe(
    target: String,
    request: &ProbeRequest,
    way: Option<&Way>,
    before: Vec<Step>,
    probes: &Probes,
) -> MonitorRun {
    let mut attempts = Vec::new();
    let mut steps = before;
    let mut left = request.monitor.retries;
    let observation = loop {
        // Who asks is patient.
        let permit = probes.permit().await;
        let (observation, made) = attempt_by(request, way, probes).await;
        drop(permit);
        steps.extend(made);
        attempts.push(MonitorAttempt {
            steps: std::mem::take(&mut steps).into_iter().map(told).collect(),
            failure_reason: observation.as_ref().err().map(failure_reason),
        });
        match &observation {
            Err(reason) if reason.is_timeout() && left > 0 => left -= 1,
            Ok(_) | Err(_) => break observation,
        }
    };
    MonitorRun {
        target,
        address: match request.port {
            0 => request.address.to_string(),
            port => SocketAddr::new(request.address, port).to_string(),
        },
        healthy: observation.is_ok(),
        failure_reason: observation.as_ref().err().map(failure_reason),
        rtt_ms: observation.ok().map(|success| milliseconds(success.rtt)),
        attempts,
    }
}

fn told(step: Step) -> MonitorStep {
    MonitorStep {
        what: step.what,
        took_ms: (!step.took.is_zero()).then(|| milliseconds(step.took)),
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
