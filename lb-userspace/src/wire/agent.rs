//! What `lb origin-agent status` prints.

use super::Ordered;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    pub interface: String,
    /// How the program that decapsulates is attached; `null`: it is not.
    pub mode: Option<String>,
    /// Whether the process runs; without it the programs go on as they are.
    pub running: bool,
    pub addresses: Vec<AgentAddress>,
    /// Packets by what became of them.
    pub packets: Ordered<u64>,
}

/// An address that the agent's programs know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentAddress {
    pub address: IpAddr,
    /// Tunnels end there.
    pub tunnel: bool,
    /// Tunnels may carry packets to it.
    pub vip: bool,
    /// Bytes that tunnels to it take of each packet; 0: none came by a tunnel.
    pub overhead: u32,
}
