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
    if let Some(retention) = table.get("retention") {
        // Ten years.
        history.retention = seconds(&retention, 60.0..=315_360_000.0).unwrap_or(history.retention);
    }
    table.report_unknown();
    history
}
