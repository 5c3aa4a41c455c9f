//! The kernel's side of the datapath: loading the program, its maps, its links. Nothing here decides about traffic.

pub mod access;
pub mod attach;
pub mod buckets;
pub mod clock;
pub mod dissect;
pub mod explain;
mod filter;
mod flow_filter;
pub mod flows;
pub mod held;
pub mod kernel;
pub mod loads;
pub mod migrate;
pub mod object;
pub mod pins;
pub mod question;
pub mod reader;
mod shortcuts;
pub mod slots;
mod steering_words;
pub mod sys;
pub mod trace;
pub mod ways;
mod words;
pub mod writer;
