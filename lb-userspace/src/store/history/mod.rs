//! `history.redb`: what has happened, and the health that is known of everybody.
//!
//! It is a file of its own because it is written all the time and may lose its last moments, and objects may not. A writer
//! collects for [`writer::LINGER`] and writes once; a crash loses what was not written yet, and no number is given twice.

mod database;
mod row;
mod writer;

pub use database::{History, Restored};
pub use row::{State, StoredNotice};
pub use writer::{HistoryChange, HistoryNews, HistoryWriter};
