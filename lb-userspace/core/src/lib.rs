//! The control path as pure code: one closed [`engine::Event`] enum in, a list of [`engine::Command`]s out.
//!
//! ```text
//! file, API, CLI ─Change──────▶┐                                        ┌─▶ Persist      ─▶ store
//! probe I/O ──────Observation─▶│  Engine (no I/O, no clock)             ├─▶ Start/Stop   ─▶ probes
//! netlink ────────Hops────────▶│  Config→Health→Steering→Image→diff     ├─▶ Apply        ─▶ datapath writer ─▶ maps
//! timer ──────────Tick────────▶┘                                        └─▶ Publish(View)─▶ API, status
//! ```
//!
//! No tokio, aya, serde, sockets, files or environment here: everything that happens comes in as a value, and
//! everything to be done goes out as one.
#![forbid(unsafe_code)]

pub mod analytics;
pub mod arena;
pub mod calendar;
pub mod difference;
pub mod engine;
pub mod health;
pub mod history;
pub mod image;
pub mod maglev;
pub mod model;
pub mod monitor;
pub mod notify;
pub mod steering;
pub mod time;
pub mod view;
pub mod vote;
