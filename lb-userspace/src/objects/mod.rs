//! The objects of a configuration, in Cloudflare's shapes: those of the file and those that were made through the API.
//!
//! ```text
//! file ───declarations──▶ entries ┐
//! store ──────rows──────▶ entries ┴▶ Catalog ─render─▶ second document ─▶ config::compile
//! request ──▶ Change ─apply▶ Catalog'
//! ```
//! Everything here is a function of its arguments: who writes, deploys and answers is the daemon.

mod catalog;
mod change;
mod entry;
mod file;
mod names;
mod operation;
mod overrides;
mod references;
mod render;
#[cfg(test)]
mod sequences;
mod stored;
#[cfg(test)]
mod tests;
mod text;

pub use catalog::Catalog;
pub use change::{Action, Applied, Change, Declare, Moment, refusal, rows};
pub use entry::{Body, Entry, Id, time};
pub use file::FileObjects;
pub use operation::Operation;
pub use overrides::{Override, Overrides, Subject};
pub use references::references;
pub use render::{Rendered, for_people, render};
pub use stored::Stored;
pub use text::{Mistake, parse as parse_text, places, set as set_fields, write as write_text};
