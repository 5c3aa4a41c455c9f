//! What the API asks of the daemon.

use super::version_request::VersionRequest;
use crate::cloudflare::{Failure, Preview, PreviewStarted};
use crate::datapath::trace::Traced;
use crate::objects::{Catalog, Change, Entry, Id};
use crate::probe::{Probes, TrialSet};
use crate::wire::{
    Drops, ErrorCode, ErrorDetail, Event, EventQuery, Events, Explain, ExplainQuery, FlowFilter, Flows,
    Flushed, HandedOver, HealthHistory, HealthHistoryQuery, MonitorTestQuery, Reloaded, Status,
    StoredObjects, TraceNames, TraceQuery,
};
use lb_core::analytics::{Bucket, Slice};
use lb_core::view::View;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// How long the daemon may take for one request; listing a million flows takes about a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the daemon puts its answer.
pub type Reply<T> = oneshot::Sender<Result<T, ErrorDetail>>;

/// The same for clients of Cloudflare's API.
pub type CloudflareReply<T> = oneshot::Sender<Result<T, Failure>>;

/// Everything the daemon can be asked.
#[derive(Debug)]
pub enum Request {
    /// Whether it does its work. Anybody may ask this as often as he likes, so it is cheap to answer.
    Ready {
        reply: Reply<Standing>,
    },
    Status {
        reply: Reply<Status>,
    },
    /// Read the configuration file again and bring it into force, all or nothing.
    Reload {
        reply: Reply<Reloaded>,
    },
    /// Change an object. Answered when the change is on the disk.
    Change {
        change: Change,
        reply: CloudflareReply<Arc<Entry>>,
    },
    /// Something about drafts, revisions and deployments.
    Version(VersionRequest),
    /// Run a monitor against pools, without having it decide about anything.
    Preview {
        monitor: serde_json::Map<String, serde_json::Value>,
        pools: Vec<Id>,
        reply: CloudflareReply<PreviewStarted>,
    },
    /// What a preview has found so far.
    PreviewResult {
        id: String,
        reply: CloudflareReply<Option<Preview>>,
    },
    /// What a monitor would probe now, and with what.
    MonitorTest {
        monitor: String,
        query: MonitorTestQuery,
        reply: Reply<(TrialSet, Arc<Probes>)>,
    },
    /// The objects that were made through the API.
    Objects {
        reply: Reply<StoredObjects>,
    },
    /// Tell of packets as they come, until the receiver is dropped.
    Trace {
        query: TraceQuery,
        reply: Reply<Tracing>,
    },
    /// End, and leave everything to the process that asks: it takes over without losing a packet.
    HandOver {
        reply: Reply<HandedOver>,
    },
    Explain {
        query: ExplainQuery,
        reply: Reply<Explain>,
    },
    Flows {
        filter: FlowFilter,
        limit: usize,
        reply: Reply<Flows>,
    },
    FlushFlows {
        filter: FlowFilter,
        reply: Reply<Flushed>,
    },
    Drops {
        reply: Reply<Drops>,
    },
    /// What has happened, and what happens from now on.
    Events {
        query: EventQuery,
        reply: Reply<EventFeed>,
    },
    /// Traffic of applications in the minutes (since 1970) from `since` to before `until`.
    Minutes {
        since: u64,
        until: u64,
        reply: CloudflareReply<Minutes>,
    },
    /// What applications do now, and where the node is.
    Present {
        reply: CloudflareReply<(Vec<Present>, String)>,
    },
    /// For how long everybody was in which state.
    HealthHistory {
        query: HealthHistoryQuery,
        reply: Reply<HealthHistory>,
    },
}

/// Traffic by minutes.
#[derive(Clone, Debug)]
pub struct Minutes {
    pub minutes: Vec<(u64, Slice, Bucket)>,
    /// How long ago it was looked last.
    pub lag: Duration,
    /// Where the node is: its `pop`, else its name.
    pub colo: String,
}

/// What an application does now.
#[derive(Clone, PartialEq, Debug)]
pub struct Present {
    /// Its id.
    pub application: String,
    /// Of the last minute.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Open flows, and their mean age.
    pub open: u64,
    pub age_ms: f64,
}

/// What has happened, and what happens from now on without a gap.
#[derive(Debug)]
pub struct EventFeed {
    pub events: Events,
    /// All events that come; it ends when the daemon stops.
    pub live: broadcast::Receiver<Arc<Event>>,
}

/// Whether the daemon does its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Ready,
    /// No interface has the program.
    Detached,
    /// No configuration is live.
    NotConfigured,
}

/// What is told of packets.
#[derive(Clone, Debug)]
pub enum TraceItem {
    Packet(Arc<Traced>),
    /// So many packets are missing here.
    Lost(u64),
}

/// Packets as they come.
#[derive(Debug)]
pub struct Tracing {
    pub items: mpsc::Receiver<TraceItem>,
    pub names: TraceNames,
}

/// The API's end of the daemon.
#[derive(Clone, Debug)]
pub struct Handle {
    pub view: watch::Receiver<Arc<View>>,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Has an object changed. Once it is sent the change is made, even if nobody waits for the answer any more.
    ///
    /// # Errors
    /// Why it is not changed.
    pub async fn change(&self, change: Change) -> Result<Arc<Entry>, Failure> {
        self.ask_cloudflare(|reply| Request::Change { change, reply })
            .await
    }

    /// As [`Self::ask`], in the words of Cloudflare's API.
    ///
    /// # Errors
    /// The daemon's refusal, or that it did not answer.
    pub async fn ask_cloudflare<T>(
        &self,
        make: impl FnOnce(CloudflareReply<T>) -> Request,
    ) -> Result<T, Failure> {
        let unavailable = |message: &str| Failure::new(503, 10002, message);
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests
                .send(make(reply))
                .await
                .map_err(|_| unavailable("the daemon is stopping"))?;
            answer
                .await
                .map_err(|_| unavailable("the daemon is stopping: the change may have been made or not"))?
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(result) => result,
            Err(_) => Err(unavailable(
                "the daemon did not answer in time: the change may have been made or not",
            )),
        }
    }

    /// Sends the request that `make` builds around the place for the answer, and waits for it.
    ///
    /// # Errors
    /// The daemon's refusal, or that it did not answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, ErrorDetail> {
        let unavailable = |message: &str| ErrorDetail::new(ErrorCode::Unavailable, message);
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests
                .send(make(reply))
                .await
                .map_err(|_| unavailable("the daemon is stopping"))?;
            answer
                .await
                .map_err(|_| unavailable("the daemon dropped the request"))?
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(result) => result,
            Err(_) => Err(unavailable("the daemon did not answer in time")),
        }
    }
}
