//! The engine against an in-memory model of the maps.

mod scenarios;
mod sequences;
mod world;
