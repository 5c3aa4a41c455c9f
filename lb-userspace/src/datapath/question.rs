//! What `lb explain` is asked: a flow, and the packet that would open it.

use lb_common::abi::Protocol;
use lb_common::testing::Frame;
use std::net::{IpAddr, SocketAddr};

/// A flow's first packet, as far as an operator names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub vip: SocketAddr,
}

impl Question {
    /// The frame of a SYN or an empty datagram. Checksums are not looked at.
    pub(super) fn first_packet(self) -> Frame {
        let Self {
            protocol,
            client,
            vip,
        } = self;
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let transport_len: u16 = if protocol == Protocol::TCP { 20 } else { 8 };
        match (client.ip(), vip.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00, 0x45, 0x00]);
                bytes.extend((transport_len + 20).to_be_bytes());
                bytes.extend([0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            (source, destination) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(transport_len.to_be_bytes());
                bytes.extend([protocol.0, 64]);
                for address in [source, destination] {
                    let octets = match address {
                        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                        IpAddr::V6(v6) => v6.octets(),
                    };
                    bytes.extend(octets);
                }
            }
        }
        bytes.extend(client.port().to_be_bytes());
        bytes.extend(vip.port().to_be_bytes());
        if protocol == Protocol::TCP {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            bytes.extend([0, 8, 0, 0]);
        }
        Frame(bytes)
    }
}
