//! What the API asks, answered from the engine's snapshot and the maps.

use super::marks::mark_overridden;
use super::node::{Node, lock};
use super::reload::ReloadError;
use crate::api::{Reply, Request, Standing};
use crate::datapath::flows::Flow;
use crate::datapath::question::Question;
use crate::wire::{
    Counters, Drops, ErrorCode, ErrorDetail, Explain, ExplainQuery, FlowFilter, FlowRow, Flows, Flushed,
    HandedOver, NodeStatus, Ordered, Problem, Reloaded, Status, StoredObjects,
};
use lb_common::abi::{ABI_VERSION, FlowCore, OriginId, Protocol};
use lb_core::view::View;
use std::collections::BTreeSet;
use std::sync::Arc;
use tracing::info;

impl Node {
    /// Answers one request. A reply that nobody waits for any more is dropped.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Status { reply } => {
                let _ = reply.send(Ok(self.status()));
            }
            Request::Reload { reply } => {
                let result = self.reload_for_request().await;
                let _ = reply.send(result);
            }
            Request::Change { change, reply } => self.change(change, reply),
            Request::Version(request) => self.answer_version(request),
            Request::Ready { reply } => {
                let standing = match (
                    self.datapath.attachments.is_empty(),
                    self.view.borrow().generation,
                ) {
                    (true, _) => Standing::Detached,
                    (false, 0) => Standing::NotConfigured,
                    (false, 1..) => Standing::Ready,
                };
                let _ = reply.send(Ok(standing));
            }
            Request::Preview {
                monitor,
                pools,
                reply,
            } => {
                let _ = reply.send(self.preview(monitor, &pools));
            }
            Request::PreviewResult { id, reply } => {
                let _ = reply.send(Ok(self.previews.get(&id)));
            }
            Request::MonitorTest {
                monitor,
                query,
                reply,
            } => {
                let _ = reply.send(self.trials(&monitor, &query));
            }
            Request::Objects { reply } => {
                let text =
                    |row: crate::store::Row| (row.key, String::from_utf8_lossy(&row.value).into_owned());
                let objects = self.objects.rows().into_iter().map(text).collect();
                let _ = reply.send(Ok(StoredObjects { objects }));
            }
            Request::Trace { query, reply } => {
                let _ = reply.send(self.trace(&query));
            }
            Request::HandOver { reply } => {
                info!("another lb takes over");
                self.handed_over = true;
                let _ = reply.send(Ok(HandedOver {
                    pid: std::process::id(),
                }));
            }
            Request::Explain { query, reply } => {
                let _ = reply.send(self.explain(&query));
            }
            Request::Flows { filter, limit, reply } => self.list_flows(&filter, limit, reply),
            Request::FlushFlows { filter, reply } => self.flush(&filter, reply),
            Request::Drops { reply } => {
                let drops = named(self.drops());
                let verdicts = named(self.datapath.reader.verdicts());
                let _ = reply.send(Ok(Drops { drops, verdicts }));
            }
            Request::Events { query, reply } => self.journal.list(query, reply),
            Request::Minutes { since, until, reply } => self.minutes(since, until, reply),
            Request::Present { reply } => drop(reply.send(Ok(self.present()))),
            Request::HealthHistory { query, reply } => self.journal.health(query, reply),
        }
    }

    fn status(&mut self) -> Status {
        let view = self.snapshot();
        let reader = &self.datapath.reader;
        let applications = view
            .applications
            .iter()
            .map(|view| (view.id, reader.application(view.id)));
        let origins = view.pools.iter().flat_map(|pool| &pool.origins);
        let counters = Counters {
            applications: applications.collect(),
            origins: origins
                .map(|origin| (origin.id.0, reader.origin(origin.id.0)))
                .collect(),
            application_flows: self.counts.applications.clone(),
            origin_flows: self.counts.origins.clone(),
            drops: self.drops(),
        };
        let node = NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            uptime_seconds: self.started.elapsed().as_secs(),
            flow_counts_total: self.flow_counts,
            store_problem: self.objects.problem().or_else(|| self.journal.problem.clone()),
            listen: Some(self.listen.clone()),
            ..NodeStatus::default()
        };
        let mut status = Status::new(&view, &counters, node, self.interface_status());
        status.unattached = self.unattached();
        mark_overridden(&mut status, &self.objects.catalog());
        status.webhooks = self.notifier.status();
        (status.monitoring.attempts, status.monitoring.max_attempts) = self.probes.load();
        status
    }

    /// Packets that were not forwarded, by reason: as the program counts them, and what was held in vain.
    fn drops(&self) -> Vec<(&'static str, u64)> {
        let mut drops = self.datapath.reader.drops();
        drops.extend(self.held.drops());
        drops
    }

    fn snapshot(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    async fn reload_for_request(&mut self) -> Result<Reloaded, ErrorDetail> {
        match self.reload("lb reload").await {
            Ok(loaded) => Ok(Reloaded {
                generation: self.snapshot().generation,
                warnings: loaded.warnings.iter().map(Problem::from).collect(),
            }),
            Err(ReloadError::Invalid(errors)) => Err(ErrorDetail::new(
                ErrorCode::ConfigurationInvalid,
                format!(
                    "{} is invalid; the old configuration stays",
                    self.config_path.display()
                ),
            )
            .with_problems(errors.errors.iter().map(Problem::from).collect())),
            Err(ReloadError::Refused(why)) => Err(ErrorDetail::new(
                ErrorCode::Conflict,
                format!("the old configuration stays: {why}"),
            )),
        }
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explain, ErrorDetail> {
        let protocol = match query.protocol.as_str() {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            other => {
                let message = format!("protocol `{other}` is neither `tcp` nor `udp`");
                return Err(ErrorDetail::new(ErrorCode::InvalidRequest, message).of_field("protocol"));
            }
        };
        if query.client.is_ipv4() != query.vip.is_ipv4() {
            let message = "client and vip are of different address families: no packet has both";
            return Err(ErrorDetail::new(ErrorCode::InvalidRequest, message).of_field("client"));
        }
        let settings = self.datapath.settings().map_err(|error| internal(&error))?;
        let question = Question {
            protocol,
            client: query.client,
            vip: query.vip,
        };
        Ok(self
            .explainer
            .explain(settings, &self.datapath.clock, &self.snapshot(), question))
    }

    /// Answers from a thread that may block: listing a million flows takes a second.
    fn list_flows(&self, filter: &FlowFilter, limit: usize, reply: Reply<Flows>) {
        let view = self.snapshot();
        let wanted = match Wanted::new(&view, filter) {
            Ok(wanted) => wanted,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let (flows, clock) = (self.flows.clone(), self.datapath.clock);
        tokio::task::spawn_blocking(move || {
            let found = lock(&flows).list(&clock, |core| wanted.matches(core));
            let answer = found.map(|found| Flows {
                flows: found.iter().take(limit).map(|flow| row(&view, flow)).collect(),
                total: found.len() as u64,
            });
            let _ = reply.send(answer.map_err(|error| internal(&error)));
        });
    }

    fn flush(&self, filter: &FlowFilter, reply: Reply<Flushed>) {
        let wanted = match Wanted::new(&self.snapshot(), filter) {
            Ok(wanted) => wanted,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let (flows, clock) = (self.flows.clone(), self.datapath.clock);
        tokio::task::spawn_blocking(move || {
            let flushed = lock(&flows).flush(&clock, |core| wanted.matches(core));
            let answer = flushed.map(|flushed| Flushed { flushed });
            let _ = reply.send(answer.map_err(|error| internal(&error)));
        });
    }
}

fn internal(error: &anyhow::Error) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::Internal, format!("{error:#}"))
}

fn named(counters: Vec<(&'static str, u64)>) -> Ordered<u64> {
    Ordered(
        counters
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    )
}

/// A filter in the numbers that flow entries hold.
struct Wanted {
    application: Option<u32>,
    origins: Option<BTreeSet<OriginId>>,
}

impl Wanted {
    fn new(view: &View, filter: &FlowFilter) -> Result<Self, ErrorDetail> {
        let application = match &filter.application {
            None => None,
            Some(name) => match view
                .applications
                .iter()
                .find(|application| application.name == *name)
            {
                Some(found) => Some(found.id),
                None => return Err(unknown("application", name)),
            },
        };
        let origins = match &filter.origin {
            None => None,
            Some(name) => {
                let found = origins(view, name);
                if found.is_empty() {
                    return Err(unknown("origin", name));
                }
                Some(found)
            }
        };
        Ok(Self { application, origins })
    }

    fn matches(&self, core: &FlowCore) -> bool {
        self.application.is_none_or(|id| id == core.application)
            && self
                .origins
                .as_ref()
                .is_none_or(|origins| origins.contains(&core.origin))
    }
}

fn unknown(field: &str, name: &str) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::NotFound, format!("there is no {field} `{name}`")).of_field(field)
}

/// The origins called `POOL/ORIGIN`, or `ORIGIN` in any pool.
fn origins(view: &View, name: &str) -> BTreeSet<OriginId> {
    let mut found = BTreeSet::new();
    for pool in &view.pools {
        for origin in &pool.origins {
            if origin.name == name || format!("{}/{}", pool.name, origin.name) == name {
                found.insert(origin.id);
            }
        }
    }
    found
}

fn row(view: &View, flow: &Flow) -> FlowRow {
    let application = view
        .applications
        .iter()
        .find(|application| application.id == flow.application);
    let place = view
        .pools
        .iter()
        .flat_map(|pool| pool.origins.iter().map(move |origin| (pool, origin)))
        .find(|(_, origin)| origin.id == flow.origin);
    FlowRow {
        protocol: if flow.protocol == Protocol::TCP {
            "tcp"
        } else {
            "udp"
        }
        .to_owned(),
        client: flow.client,
        vip: flow.vip,
        snat: flow.snat,
        origin_address: flow.origin_address,
        application: application.map(|application| application.name.clone()),
        origin: place.map(|(_, origin)| origin.name.clone()),
        pool: place.map(|(pool, _)| pool.name.clone()),
        state: flow.state.to_owned(),
        idle_seconds: flow.idle.as_secs(),
    }
}
