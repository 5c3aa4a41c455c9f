//! The shell around [`lb_core`]: files, sockets, netlink, kernel maps, the API and the command line.

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod cloudflare;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod net;
mod notify;
pub mod objects;
pub mod probe;
pub mod resolve;
pub mod store;
pub mod wire;
