//! What outlives the daemon on disk, in `state_dir`: for its own user alone.
//!
//! * `health.json`: the health that a next start may restore, and the drains it goes on with.
//! * `lb.redb`: the objects that were made through the API. Each change is on the disk before it is answered.
//! * `history.redb`: events, and the health that is known. A crash may cost its last moment.
//! * `objects.json`: a copy of them, for the day on which the database is damaged.

mod backup;
mod committer;
mod database;
mod health;
mod history;
mod private;

pub use committer::{Committed, Committer, Dead};
pub use database::{Database, Opened, Row, RowChange, open};
pub use health::{Saver, Store};
pub use history::{History, HistoryChange, HistoryNews, HistoryWriter, Restored, State, StoredNotice};
