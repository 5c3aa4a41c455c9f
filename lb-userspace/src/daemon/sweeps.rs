//! Sweeps of the flow tables, again and again, by a thread that may block.

use super::node::{Node, lock};
use crate::datapath::flows::FlowCounts;
use anyhow::Result;
use lb_common::abi::OriginId;
use lb_common::datapath::select::SWEEP_SECONDS;
use lb_core::engine::Event;
use std::time::{Duration, Instant};
use tracing::warn;

/// Time between two sweeps of the flow tables, unless they take so long that it must be more.
const SWEEP: Duration = Duration::from_secs(1);
/// A sweep may take this part of the time.
const SWEEP_SHARE: u32 = 20;
/// But there are caps on flows only as long as somebody sweeps: see [`SWEEP_SECONDS`].
const LONGEST_PAUSE: Duration = Duration::from_secs(SWEEP_SECONDS as u64 / 3);

impl Node {
    /// Has flows that have timed out removed and the others counted.
    pub(super) fn start_sweep(&mut self) {
        self.next_sweep = None;
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
                self.counts = counts;
                if self.engine.counts_flows() {
                    let origins = self.counts.origins.iter();
                    let counts = origins.map(|(&id, &count)| (OriginId(id), count)).collect();
                    self.tell(Event::OpenFlows(counts));
                }
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
