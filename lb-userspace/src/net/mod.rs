//! The node's network as the kernel sees it: interfaces, the way to each address, ports, and what is wrong with them.
//!
//! Everything looks at the network namespace of the calling thread.

pub mod addresses;
pub mod doctor;
pub mod interface;
pub mod links;
mod netlink;
pub mod paths;
pub mod ports;
mod routing;
mod solicit;
pub(crate) mod sys;
#[cfg(test)]
pub(crate) mod tests;
