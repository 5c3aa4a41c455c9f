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
mod references;
mod render;
#[cfg(test)]
mod sequences;
#[cfg(test)]
mod tests;

pub use catalog::Catalog;
pub use change::{Action, Applied, Change, Moment, refusal, rows};
pub use entry::{Body, Entry, Id};
pub use file::FileObjects;
pub use references::references;
pub use render::{Rendered, render};
