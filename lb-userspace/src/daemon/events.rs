//! What has happened: told to the operator, and remembered for the API.

use super::node::Node;
use crate::wire::Event;
use lb_core::engine::Report;
use std::time::SystemTime;
use tracing::{error, info, warn};

/// Events that are remembered.
const MAX_EVENTS: usize = 10_000;

impl Node {
    pub(super) fn report(&mut self, report: Report) {
        let event = Event::new(self.next_event, SystemTime::now(), &report);
        self.next_event += 1;
        match &report {
            Report::Refused(why) => {
                error!("{}", event.message);
                self.refusal = Some(why.clone());
            }
            Report::OriginHealth { healthy: false, .. }
            | Report::PoolHealth { usable: false, .. }
            | Report::Fallback { active: true, .. }
            | Report::Lookup { failure: Some(_), .. } => warn!("{}", event.message),
            Report::Addresses { .. } => {
                // An address that comes back and goes again may have had flows meanwhile.
                self.drains.seen.clear();
                info!("{}", event.message);
            }
            Report::OriginHealth { .. }
            | Report::MonitorHealth { .. }
            | Report::PoolHealth { .. }
            | Report::Fallback { .. }
            | Report::Lookup { .. }
            | Report::Configured { .. } => info!("{}", event.message),
        }
        self.record(event);
    }

    /// Remembers what happened to an interface.
    pub(super) fn record_interface(&mut self, name: &str, message: String) {
        let event = Event::of_interface(self.next_event, SystemTime::now(), name, message);
        self.next_event += 1;
        self.record(event);
    }

    /// Remembers what the operator must know of the store.
    pub(super) fn record_store(&mut self, message: String) {
        let event = Event::of_store(self.next_event, SystemTime::now(), message);
        self.next_event += 1;
        self.record(event);
    }

    fn record(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
