//! How much of what has happened is kept.

use core::time::Duration;

/// `[history]`: whatever is more, or older, is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// Default 100,000.
    pub max_events: u32,
    /// Age of the oldest event; default 90 days.
    pub retention: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self {
            max_events: 100_000,
            retention: Duration::from_secs(90 * 86_400),
        }
    }
}
