//! What the API asks of the daemon.

use crate::datapath::trace::Traced;
use crate::wire::{
    Drops, ErrorCode, ErrorDetail, Events, Explain, ExplainQuery, FlowFilter, Flows, Flushed, HandedOver,
    Reloaded, Status, TraceNames, TraceQuery,
};
use lb_core::view::View;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long the daemon may take for one request; listing a million flows takes about a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the daemon puts its answer.
pub type Reply<T> = oneshot::Sender<Result<T, ErrorDetail>>;

/// Everything the daemon can be asked.
#[derive(Debug)]
pub enum Request {
    Status {
        reply: Reply<Status>,
    },
    /// Read the configuration file again and bring it into force, all or nothing.
    Reload {
        reply: Reply<Reloaded>,
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
    /// What happened after the event with the number `since`; 0: everything that is remembered.
    Events {
        since: u64,
        reply: Reply<Events>,
    },
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
    pub requests: mpsc::Sender<Request>,
}

impl Handle {
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
