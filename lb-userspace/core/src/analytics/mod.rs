//! Traffic of applications over time: what the counters and the sweeps of the flow tables say, as events in minutes, and
//! answers to questions about them.
//!
//! The packet path counts bytes and new flows of each application, and remembers flows; it does not count bytes of single
//! flows. What follows from that:
//! * `connect` and bytes are exact, and so is `disconnect` (opened, less those that are still open) but for the moment of the sweep.
//! * Bytes belong to `disconnect` and `progress` in proportion to the flows that ended and that are still open, and to IP versions in
//!   proportion to their flows, where an application has both.
//! * Durations are those of flows that were seen to end: what an attack pushed out of memory is not among them.

mod filter;
mod histogram;
mod interval;
mod meter;
mod query;

pub use filter::{Filter, FilterError};
pub use histogram::Histogram;
pub use interval::{Interval, TimeDelta};
pub use meter::{Counted, Meter, Open};
pub use query::{Answer, Dimension, Metric, Query, Row, Sort, SortBy};

/// Which of the flows: of an application (its id in the API), of clients of that IP version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slice {
    pub application: String,
    pub v6: bool,
}

/// Traffic of a slice in one minute, or of any time that minutes add up to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Flows opened.
    pub connects: u64,
    /// Flows ended.
    pub disconnects: u64,
    /// Flows that were open at once, at most.
    pub open: u64,
    /// From clients and to clients, of flows that ended.
    pub ended: Bytes,
    /// Of flows that went on.
    pub going_on: Bytes,
    /// Milliseconds, of flows that were seen to end.
    pub durations: Histogram,
}

/// Bytes in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bytes {
    /// From clients.
    pub ingress: u64,
    /// To clients.
    pub egress: u64,
}

impl Bytes {
    fn add(&mut self, other: Self) {
        self.ingress += other.ingress;
        self.egress += other.egress;
    }
}

impl Bucket {
    /// Adds another part of the same minute.
    pub fn merge(&mut self, other: &Self) {
        self.connects += other.connects;
        self.disconnects += other.disconnects;
        self.open = self.open.max(other.open);
        self.ended.add(other.ended);
        self.going_on.add(other.going_on);
        self.durations.merge(&other.durations);
    }

    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
