//! The harness: network namespaces, a lab of client, node and origins in them, real servers, real clients, and the
//! real `lb` binary.
//!
//! Everything made here is named after this process, and goes when its value is dropped, also after a panic. What a
//! killed process leaves behind, the next lab sweeps away.

pub mod agent;
pub mod check;
pub mod config;
pub mod daemon;
pub mod dns;
pub mod files;
pub mod flows;
pub mod forwarding;
pub mod gate;
pub mod http;
pub mod lab;
pub mod layout1;
pub mod load;
pub mod netns;
pub mod pcapng;
pub mod process;
pub mod prog;
pub mod raw;
pub mod receiver;
pub mod servers;
pub mod status;
pub mod traffic;
pub mod tunneler;
