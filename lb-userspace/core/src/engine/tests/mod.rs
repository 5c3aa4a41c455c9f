//! The engine against an in-memory model of the maps.

mod access;
mod addresses;
mod asking;
mod degenerate;
mod drains;
mod forwarding;
mod groups;
mod limits;
mod listeners;
mod maps;
mod moves;
mod names;
mod places;
mod problems;
mod renames;
mod restart;
mod scale;
mod scenarios;
mod sequences;
mod steering;
mod tracing;
pub mod world;
