//! Addresses and ports of a packet.

use crate::abi::{Port, Protocol};

/// The 5-tuple of a packet: as it arrives, or as it leaves.
#[derive(Clone, Copy, PartialEq, Default)]
pub struct Tuple<A> {
    pub source: A,
    pub destination: A,
    pub source_port: Port,
    pub destination_port: Port,
    pub protocol: Protocol,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of the answers.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}
