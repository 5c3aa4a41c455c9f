//! Sweeps of the flow tables and counts of flows, again and again, by threads that may block.

use super::node::{Node, lock};
use crate::datapath::flows::FlowCounts;
use crate::datapath::kernel::Datapath;
use crate::datapath::loads::Loads;
use anyhow::Result;
use lb_common::abi::OriginId;
use lb_common::datapath::select::SWEEP_SECONDS;
use lb_core::engine::Event;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::warn;

/// Time between two sweeps of the flow tables, unless they take so long that it must be more.
const SWEEP: Duration = Duration::from_secs(1);
/// A sweep may take this part of the time.
const SWEEP_SHARE: u32 = 20;
/// But there are caps on flows only as long as somebody sweeps: see [`SWEEP_SECONDS`].
const LONGEST_PAUSE: Duration = Duration::from_secs(SWEEP_SECONDS as u64 / 3);

/// Time between two looks at how many flows origins have, where steering goes by that. However many there are: they are
/// not gone through.
const COUNT: Duration = Duration::from_secs(1);

/// Looks at how many flows origins have, by a thread that may block.
pub struct Counting {
    loads: Arc<Loads>,
    sender: mpsc::Sender<Result<BTreeMap<OriginId, u64>>>,
    /// What was found.
    pub(super) done: mpsc::Receiver<Result<BTreeMap<OriginId, u64>>>,
    /// `None` while one is going on.
    pub(super) next: Option<tokio::time::Instant>,
}

impl Counting {
    /// # Errors
    /// When a map cannot be opened.
    pub fn new(datapath: &Datapath) -> Result<Self> {
        let (sender, done) = mpsc::channel(1);
        Ok(Self {
            loads: Arc::new(Loads::new(|name| datapath.open_map(name))?),
            sender,
            done,
            next: Some(tokio::time::Instant::now()),
        })
    }
}

impl Node {
    pub(super) fn start_count(&mut self) {
        if !self.engine.counts_flows() {
            self.counting.next = Some(tokio::time::Instant::now() + COUNT);
            return;
        }
        self.counting.next = None;
        let (loads, done) = (Arc::clone(&self.counting.loads), self.counting.sender.clone());
        tokio::task::spawn_blocking(move || {
            // The daemon is stopping when nobody listens.
            let _ = done.blocking_send(loads.established());
        });
    }

    pub(super) fn end_count(&mut self, result: Result<BTreeMap<OriginId, u64>>) {
        match result {
            Ok(mut counts) => {
                // What only a look at the flows can tell is as old as the last sweep.
                for (id, count) in &self.counts.tentative {
                    *counts.entry(OriginId(*id)).or_default() += count;
                }
                self.tell(Event::OpenFlows(counts));
            }
            Err(error) => warn!(error = %format!("{error:#}"), "open flows cannot be counted"),
        }
        self.counting.next = Some(tokio::time::Instant::now() + COUNT);
    }

    /// Has flows that have timed out removed and the others counted.
    pub(super) fn start_sweep(&mut self) {
        self.next_sweep = None;
        self.read_counters();
        let (flows, clock, done) = (self.flows.clone(), self.datapath.clock, self.sweeps.clone());
        let moves = self.moves.clone();
        tokio::task::spawn_blocking(move || {
            let mut flows = lock(&flows);
            let result = flows.shed(&moves).and_then(|_| flows.sweep(&clock));
            drop(flows);
            // The daemon is stopping when nobody listens.
            let _ = done.blocking_send(result);
        });
        self.sweep_started = Instant::now();
    }

    pub(super) fn end_sweep(&mut self, result: Result<FlowCounts>) {
        match result {
            Ok(mut counts) => {
                let named = std::mem::take(&mut counts.named);
                self.drains.swept(self.sweep_started, named);
                self.measure(&mut counts);
                self.counts = counts;
                self.flow_counts += 1;
            }
            Err(error) => warn!(error = %format!("{error:#}"), "the flow tables cannot be read"),
        }
        self.write_again();
        if self.interfaces.is_refused() {
            self.follow_interfaces();
        }
        let pause = (self.sweep_started.elapsed() * SWEEP_SHARE).clamp(SWEEP, LONGEST_PAUSE);
        self.next_sweep = Some(tokio::time::Instant::now() + pause);
    }
}
