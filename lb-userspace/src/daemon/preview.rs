//! Previews: a monitor's runs against the origins of pools, which decide about nothing.

use super::node::Node;
use super::setup;
use crate::api::observed;
use crate::cloudflare::{Failure, Preview, PreviewStarted, PreviewedPool};
use crate::config::Kind;
use crate::objects::{Action, Change, Id, Moment, refusal};
use crate::probe::{self, Asked, Probes, TrialSet};
use crate::wire::{ErrorDetail, MonitorTestQuery};
use lb_core::engine::{ProbeRequest, TargetId};
use lb_core::health::{FailureReason, Observation};
use lb_core::model::{Host, Monitor, MonitorKind, Pool};
use lb_core::view::NameView;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Previews that are remembered.
const REMEMBERED: usize = 100;

/// What previews have found so far.
#[derive(Clone, Default)]
pub struct Previews(Arc<Mutex<VecDeque<(Id, Preview)>>>);

impl Previews {
    pub(super) fn get(&self, id: &str) -> Option<Preview> {
        let previews = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = previews.iter().filter(|(known, _)| known.as_str() == id);
        found.next().map(|(_, preview)| preview.clone())
    }

    fn begin(&self, id: Id) {
        let mut previews = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if previews.len() == REMEMBERED {
            previews.pop_front();
        }
        previews.push_back((id, Preview::new()));
    }

    fn add(&self, id: &Id, pool: &Id, found: PreviewedPool) {
        let mut previews = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, preview)) = previews.iter_mut().find(|(known, _)| known == id) {
            preview.insert(pool.to_string(), found);
        }
    }
}

impl Node {
    /// Starts runs of a monitor that is not there against pools that are.
    ///
    /// # Errors
    /// What is wrong with the monitor.
    pub(super) fn preview(
        &self,
        monitor: Map<String, Value>,
        pools: &[Id],
    ) -> Result<PreviewStarted, Failure> {
        let random = || setup::random().map_err(|error| Failure::internal(format!("{error:#}")));
        // What its reader says of it as an object decides whether it is one.
        let change = Change {
            kind: Kind::Monitor,
            action: Action::Create(monitor),
        };
        let moment = Moment {
            now: 0,
            random: random()?,
        };
        let applied = change.apply(&self.objects.catalog(), moment)?;
        let compiled = self.objects.compile(&applied.catalog);
        let config = compiled
            .map_err(|(rendered, errors)| refusal(&applied.catalog, &rendered, &applied.entry, &errors))?
            .config;
        let monitor = config.monitor(&applied.entry.name).cloned().map(Arc::new);
        let monitor = monitor.ok_or_else(|| Failure::internal("the monitor is lost"))?;
        let id = Id::random(random()?);
        self.previews.begin(id.clone());
        let mut started = PreviewStarted {
            pools: Default::default(),
            preview_id: id.to_string(),
        };
        for pool in pools {
            let entry = applied.catalog.find(Kind::Pool, pool.as_str())?;
            started.pools.insert(pool.to_string(), entry.name.clone());
            let Some(pool) = config.pool(&entry.name).cloned() else {
                continue;
            };
            let names = self.view.borrow().names.clone();
            let (previews, id, pool_id) = (self.previews.clone(), id.clone(), entry.id.clone());
            let (probes, monitor) = (Arc::clone(&self.probes), Arc::clone(&monitor));
            tokio::spawn(async move {
                let found = of_pool(&pool, &names, &monitor, &probes).await;
                previews.add(&id, &pool_id, found);
            });
        }
        Ok(started)
    }
}

impl Node {
    /// What a monitor would probe, with the ways that there are now.
    ///
    /// # Errors
    /// What is asked for is not there.
    pub(super) fn trials(
        &mut self,
        monitor: &str,
        query: &MonitorTestQuery,
    ) -> Result<(TrialSet, Arc<Probes>), ErrorDetail> {
        let mut set = probe::select_trials(&self.config, monitor, query)?;
        for trial in &mut set.trials {
            if let Asked::Address { request, way } = &mut trial.asked
                && request.via.is_some()
            {
                **request = self.engine.routed((**request).clone());
                *way = self.way(request);
            }
        }
        Ok((set, Arc::clone(&self.probes)))
    }
}

/// Runs against all addresses of a pool's origins.
async fn of_pool(
    pool: &Pool,
    names: &[NameView],
    monitor: &Arc<Monitor>,
    probes: &Arc<Probes>,
) -> PreviewedPool {
    let mut runs = JoinSet::new();
    for (index, origin) in pool
        .origins
        .iter()
        .enumerate()
        .filter(|(_, origin)| origin.enabled)
    {
        let own = match &monitor.kind {
            MonitorKind::Http(_) => 80,
            MonitorKind::Https { .. } => 443,
            MonitorKind::Smtp => 25,
            _ => 0,
        };
        let request = |address| ProbeRequest {
            target: TargetId(u64::MAX),
            attempt: 0,
            monitor: Arc::clone(monitor),
            address,
            port: monitor.port.or(origin.port).unwrap_or(own),
            host: origin.host.clone(),
            host_name: origin.address.name().map(str::to_owned),
            via: None,
        };
        let addresses = match &origin.address {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let known = names.iter().find(|known| known.name == *name);
                known.map_or_else(Vec::new, |known| known.addresses.clone())
            }
        };
        if addresses.is_empty() {
            runs.spawn(async move { (index, Err(FailureReason::DnsUnknownHost)) });
        }
        for request in addresses.into_iter().map(request) {
            let probes = Arc::clone(probes);
            runs.spawn(async move { (index, run(&request, &probes).await) });
        }
    }
    let mut found = runs.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let healthy = found
        .iter()
        .filter(|(_, observation)| observation.is_ok())
        .count();
    PreviewedPool {
        healthy: healthy >= pool.minimum_origins as usize,
        origins: found
            .into_iter()
            .map(|(index, observation)| {
                let address = pool.origins.get(index).map(|origin| origin.address.to_string());
                observed(address.unwrap_or_default(), &observation)
            })
            .collect(),
    }
}

/// One run: further attempts only after a timeout.
async fn run(request: &ProbeRequest, probes: &Probes) -> Observation {
    let mut left = request.monitor.retries;
    loop {
        // Who asks for a preview is patient; health is not.
        let permit = probes.preview_permit().await;
        let (observation, _) = probe::attempt_by(request, None, probes).await;
        drop(permit);
        match &observation {
            Err(reason) if reason.is_timeout() && left > 0 => left -= 1,
            Ok(_) | Err(_) => return observation,
        }
    }
}
