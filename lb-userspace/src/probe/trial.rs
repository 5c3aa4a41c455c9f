//! One run of a monitor that decides about nothing and tells every step: `lb monitor test`.

use super::{Probes, Step, Way, attempt_by};
use crate::wire::{
    ErrorCode, ErrorDetail, MonitorAttempt, MonitorRun, MonitorStep, MonitorTest, MonitorTestQuery,
    failure_reason,
};
use lb_core::engine::{ProbeRequest, TargetId, Trials};
use lb_core::health::FailureReason;
use lb_core::model::{Config, Monitor, MonitorKind, Pool};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What is to be probed.
#[derive(Clone, Debug)]
pub enum Trial {
    /// An origin of the configuration.
    Origin {
        /// `POOL/ORIGIN`.
        name: String,
        request: ProbeRequest,
        /// The way of its packets, where that is not the usual one.
        way: Option<Way>,
    },
    /// A host name or an address that somebody has given.
    Host {
        name: String,
        port: Option<u16>,
        monitor: Arc<Monitor>,
    },
}

/// Trials of one monitor.
#[derive(Clone, Debug)]
pub struct TrialSet {
    pub monitor: Arc<Monitor>,
    pub trials: Vec<Trial>,
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
    let given = [&query.pool, &query.origin, &query.address];
    if given.into_iter().flatten().count() > 1 {
        let message = "give one of `pool`, `origin` and `address`";
        return Err(ErrorDetail::new(ErrorCode::InvalidRequest, message));
    }
    if let Some(text) = &query.address {
        let (name, port) = host_and_port(text)
            .ok_or_else(|| ErrorDetail::new(ErrorCode::InvalidRequest, format!("`{text}` is no address")))?;
        let trials = vec![Trial::Host {
            name,
            port,
            monitor: Arc::clone(&monitor),
        }];
        return Ok(TrialSet { monitor, trials });
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
                let request = requests.request(&pool.name, origin, &monitor);
                let way = None;
                trials.push(Trial::Origin { name, request, way });
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
        (_, false) => Ok(TrialSet { monitor, trials }),
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
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), Some(address.port())));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text, None),
    };
    crate::config::is_host_name(host).then(|| (host.to_owned(), port))
}

/// Makes all runs at once, as far as there are file descriptors for them.
pub async fn run(set: TrialSet, probes: &Arc<Probes>) -> MonitorTest {
    let mut runs = JoinSet::new();
    for (index, trial) in set.trials.into_iter().enumerate() {
        let probes = Arc::clone(probes);
        runs.spawn(async move { (index, one(trial, &probes).await) });
    }
    let mut found = runs.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    MonitorTest {
        monitor: set.monitor.name.clone(),
        r#type: set.monitor.kind.name().to_owned(),
        runs: found.into_iter().flat_map(|(_, runs)| runs).collect(),
    }
}

async fn one(trial: Trial, probes: &Probes) -> Vec<MonitorRun> {
    let (name, port, monitor) = match trial {
        Trial::Origin { name, request, way } => {
            return vec![observe(name, &request, way.as_ref(), Vec::new(), probes).await];
        }
        Trial::Host { name, port, monitor } => (name, port, monitor),
    };
    let started = Instant::now();
    let found = tokio::time::timeout(monitor.timeout, tokio::net::lookup_host((name.as_str(), 0))).await;
    let took = started.elapsed();
    let failure = match found {
        Err(_) => format!("no answer within {} s", monitor.timeout.as_secs_f64()),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address.ip()) {
                    addresses.push(address.ip());
                }
            }
            let mut runs = Vec::new();
            for address in addresses {
                let request = request(&monitor, address, port, &name);
                // What is an address already need not be looked up.
                let resolved = name.parse::<IpAddr>().is_err().then(|| Step {
                    what: format!("resolve {name}: {address}"),
                    took,
                });
                runs.push(
                    observe(
                        name.clone(),
                        &request,
                        None,
                        resolved.into_iter().collect(),
                        probes,
                    )
                    .await,
                );
            }
            return runs;
        }
    };
    let reason = failure_reason(&FailureReason::Other(format!(
        "the name cannot be resolved: {failure}"
    )));
    vec![MonitorRun {
        target: name.clone(),
        address: name.clone(),
        healthy: false,
        failure_reason: Some(reason.clone()),
        rtt_ms: None,
        attempts: vec![MonitorAttempt {
            steps: vec![told(Step {
                what: format!("resolve {name}"),
                took,
            })],
            failure_reason: Some(reason),
        }],
    }]
}

/// What the monitor asks of an address that is no origin's.
fn request(monitor: &Arc<Monitor>, address: IpAddr, port: Option<u16>, name: &str) -> ProbeRequest {
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
        host: name.parse::<IpAddr>().is_err().then(|| name.to_owned()),
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
        rtt_ms: observation.ok().map(milliseconds),
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
