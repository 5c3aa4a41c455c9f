//! How much of what has happened is kept.

use core::time::Duration;

/// `[history]`: whatever is more, or older, is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// Default 100,000.
    pub max_events: u32,
    /// Age of the oldest event; default 90 days.
    pub retention: Duration,
    /// Minutes of traffic, one for each application and IP version that had some in it; default 1,000,000.
    pub max_minutes: u32,
    /// Age of the oldest minute; default 30 days.
    pub traffic_retention: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self {
            max_events: 100_000,
            retention: Duration::from_secs(90 * 86_400),
            max_minutes: 1_000_000,
            traffic_retention: Duration::from_secs(30 * 86_400),
        }
    }
}
