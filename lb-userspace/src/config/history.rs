//! `[history]`: how much of what has happened is kept.

use super::reader::Table;
use super::seconds;
use lb_core::model::History;

pub(super) fn history(table: Option<Table<'_>>) -> History {
    let mut history = History::default();
    let Some(table) = table else {
        return history;
    };
    if let Some(events) = table.get("max_events") {
        history.max_events = events.integer(1_000..=10_000_000).unwrap_or(history.max_events);
    }
    if let Some(minutes) = table.get("max_minutes") {
        history.max_minutes = minutes
            .integer(1_000..=100_000_000)
            .unwrap_or(history.max_minutes);
    }
    for (key, retention) in [
        ("retention", &mut history.retention),
        ("traffic_retention", &mut history.traffic_retention),
    ] {
        if let Some(value) = table.get(key) {
            // Ten years.
            *retention = seconds(&value, 60.0..=315_360_000.0).unwrap_or(*retention);
        }
    }
    table.report_unknown();
    history
}
