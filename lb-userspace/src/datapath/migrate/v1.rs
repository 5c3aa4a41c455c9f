//! Layout 1: one memory for all flows of a family, which evicts; only `nat`; idle times of the whole node.
//!
//! What stands here must never change: it describes maps that are in use somewhere.

use super::{Found, Layout, Visit, entries, value};
use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use lb_common::abi::{
    self, HashKey, HopId, Ip, Ip4, Ip6, Mac, OriginId, OriginState, Parity, PoolId, Port, Protocol, TcpState,
};
use lb_common::abi::{FlowSide, Forwarding};
use lb_common::datapath::Memory;
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    pub k0: u64,
    pub k1: u64,
    pub tcp_timeout: u32,
    pub tcp_handshake_timeout: u32,
    pub tcp_closing_timeout: u32,
    pub udp_timeout: u32,
    pub snat_ports: [u16; 2],
    pub flags: u32,
    pub generation: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Origin {
    pub address: [u32; 4],
    pub identity: u64,
    pub snat_base: u32,
    pub snat_count: u32,
    pub hop: u32,
    pub port: u16,
    pub state: u8,
    pub forwarding: u8,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ApplicationKey {
    pub address: [u32; 4],
    pub port: u16,
    pub protocol: u8,
    pub parity: u8,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Application {
    pub id: u32,
    pub pools: [u32; 3],
    pub fallback: u32,
    pub origin_port: u16,
    pub reserved: u16,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey4 {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub reserved: [u8; 3],
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub reserved: [u8; 3],
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowCore {
    pub origin: u32,
    pub application: u32,
    pub seen: u32,
    pub client_ifindex: u32,
    pub client_mac: [u16; 3],
    pub node_mac: [u16; 3],
    pub source_port: u16,
    pub destination_port: u16,
    pub header_delta: u16,
    pub payload_delta: u16,
    pub tcp: u8,
    pub side: u8,
    pub last_resort: u8,
    pub reserved: u8,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Flow4 {
    pub core: FlowCore,
    pub source: u32,
    pub destination: u32,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Flow6 {
    pub core: FlowCore,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

const _: () = assert!(size_of::<Settings>() == 48 && size_of::<Origin>() == 40);
const _: () = assert!(size_of::<ApplicationKey>() == 20 && size_of::<Application>() == 24);
const _: () = assert!(size_of::<FlowKey4>() == 16 && size_of::<FlowKey6>() == 40);
const _: () = assert!(size_of::<FlowCore>() == 40 && size_of::<Flow4>() == 48 && size_of::<Flow6>() == 72);

const TCP: u8 = 6;
const ESTABLISHED: u8 = 2;
const BOTH_FINS: u8 = 4 | 8;
const RESET: u8 = 16;

/// Maps of this layout, in a folder.
pub struct V1<'a>(pub &'a Path);

impl V1<'_> {
    fn settings(&self) -> Result<Settings> {
        value(self.0, "SETTINGS")
    }
}

impl Layout for V1<'_> {
    fn found(&self) -> Result<Found> {
        let settings = self.settings()?;
        let live = Parity::of(settings.generation);
        let mut found = Found {
            generation: settings.generation,
            hash_key: HashKey {
                k0: settings.k0,
                k1: settings.k1,
            },
            ..Found::default()
        };
        entries::<u32, Origin>(self.0, "ORIGINS", |id, record| {
            if record.identity != 0 {
                found.origins.push((OriginId(*id), origin(record)));
            }
        })?;
        entries::<ApplicationKey, Application>(self.0, "APPLICATIONS", |key, record| {
            if key.parity == live.0 {
                found
                    .applications
                    .push((application_key(key), application(record)));
            }
        })?;
        Ok(found)
    }

    fn flows4(&self, now: u32, visit: &mut Visit<'_, abi::FlowKey4, abi::Flow4>) -> Result<()> {
        let settings = self.settings()?;
        entries::<FlowKey4, Flow4>(self.0, "FLOWS4", |key, flow| {
            if is_alive(&settings, key.protocol, &flow.core, now) {
                let key4 = abi::FlowKey4 {
                    source: Ip4(key.source),
                    destination: Ip4(key.destination),
                    source_port: Port(key.source_port),
                    destination_port: Port(key.destination_port),
                    protocol: Protocol(key.protocol),
                    ..abi::FlowKey4::default()
                };
                let flow4 = abi::Flow4 {
                    core: core(&flow.core),
                    source: Ip4(flow.source),
                    destination: Ip4(flow.destination),
                };
                visit(memory(key.protocol, &flow.core), &key4, &flow4);
            }
        })
    }

    fn flows6(&self, now: u32, visit: &mut Visit<'_, abi::FlowKey6, abi::Flow6>) -> Result<()> {
        let settings = self.settings()?;
        entries::<FlowKey6, Flow6>(self.0, "FLOWS6", |key, flow| {
            if is_alive(&settings, key.protocol, &flow.core, now) {
                let key6 = abi::FlowKey6 {
                    source: Ip6(key.source),
                    destination: Ip6(key.destination),
                    source_port: Port(key.source_port),
                    destination_port: Port(key.destination_port),
                    protocol: Protocol(key.protocol),
                    ..abi::FlowKey6::default()
                };
                let flow6 = abi::Flow6 {
                    core: core(&flow.core),
                    source: Ip6(flow.source),
                    destination: Ip6(flow.destination),
                };
                visit(memory(key.protocol, &flow.core), &key6, &flow6);
            }
        })
    }
}

fn origin(old: &Origin) -> abi::Origin {
    abi::Origin {
        address: Ip(old.address),
        // Identities of `nat` origins are made as they were.
        identity: old.identity,
        // Source addresses and next hops are found anew.
        hop: HopId::UNRESOLVED,
        port: Port(old.port),
        state: OriginState(old.state),
        forwarding: Forwarding::NAT,
        ..abi::Origin::default()
    }
}

fn application_key(old: &ApplicationKey) -> abi::ApplicationKey {
    abi::ApplicationKey {
        address: Ip(old.address),
        port: Port(old.port),
        protocol: Protocol(old.protocol),
        parity: Parity(old.parity),
    }
}

/// Its number is what counts: flows name it.
fn application(old: &Application) -> abi::Application {
    abi::Application {
        id: old.id,
        fallback: PoolId::NONE,
        origin_port: Port(old.origin_port),
        ..abi::Application::default()
    }
}

fn core(old: &FlowCore) -> abi::FlowCore {
    abi::FlowCore {
        origin: OriginId(old.origin),
        application: old.application,
        seen: old.seen,
        client_ifindex: old.client_ifindex,
        client_mac: Mac(old.client_mac),
        node_mac: Mac(old.node_mac),
        source_port: Port(old.source_port),
        destination_port: Port(old.destination_port),
        header_delta: old.header_delta,
        payload_delta: old.payload_delta,
        tcp: TcpState(old.tcp),
        side: FlowSide(old.side),
        last_resort: old.last_resort,
        // Not known any more, and at that time at the latest.
        opened: old.seen,
        ..abi::FlowCore::default()
    }
}

/// Where the flow belongs now. Which datagrams were answered this layout did not remember: none is to be lost.
fn memory(protocol: u8, core: &FlowCore) -> Memory {
    let established = core.tcp & ESTABLISHED != 0 && !is_closing(core);
    if protocol != TCP || established {
        Memory::Established
    } else {
        Memory::Tentative
    }
}

fn is_closing(core: &FlowCore) -> bool {
    core.tcp & BOTH_FINS == BOTH_FINS || core.tcp & RESET != 0
}

fn is_alive(settings: &Settings, protocol: u8, core: &FlowCore, now: u32) -> bool {
    let timeout = if protocol != TCP {
        settings.udp_timeout
    } else if is_closing(core) {
        settings.tcp_closing_timeout
    } else if core.tcp & ESTABLISHED != 0 {
        settings.tcp_timeout
    } else {
        settings.tcp_handshake_timeout
    };
    let idle = now.wrapping_sub(core.seen);
    // A packet may have stamped it since the time was read.
    idle <= timeout || idle > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        k0: 0,
        k1: 0,
        tcp_timeout: 1000,
        tcp_handshake_timeout: 10,
        tcp_closing_timeout: 20,
        udp_timeout: 50,
        snat_ports: [0; 2],
        flags: 0,
        generation: 1,
        reserved: 0,
    };

    fn entry(tcp: u8) -> FlowCore {
        FlowCore {
            tcp,
            seen: u32::MAX - 4,
            ..FlowCore::default()
        }
    }

    #[test]
    fn flows_are_remembered_by_how_far_they_have_come() {
        use Memory::{Established, Tentative};
        for (protocol, tcp, expected) in [
            (TCP, 0, Tentative),
            (TCP, 1, Tentative),
            (TCP, 1 | ESTABLISHED, Established),
            (TCP, 1 | ESTABLISHED | 4, Established),
            (TCP, 1 | ESTABLISHED | BOTH_FINS, Tentative),
            (TCP, 1 | ESTABLISHED | RESET, Tentative),
            (17, 0, Established),
        ] {
            assert_eq!(memory(protocol, &entry(tcp)), expected, "{protocol} {tcp}");
        }
    }

    #[test]
    fn flows_that_have_timed_out_are_left_behind() {
        for (protocol, tcp, timeout) in [
            (TCP, 0, 10),
            (TCP, 1 | ESTABLISHED, 1000),
            (TCP, RESET, 20),
            (17, 0, 50),
        ] {
            let entry = entry(tcp);
            let alive = |idle: u32| is_alive(&SETTINGS, protocol, &entry, entry.seen.wrapping_add(idle));
            assert!(
                alive(0) && alive(timeout) && !alive(timeout + 1),
                "{protocol} {tcp}"
            );
            assert!(alive(u32::MAX), "stamped since the clock was read");
        }
    }

    #[test]
    fn every_field_of_an_entry_comes_along() {
        let old = FlowCore {
            origin: 3,
            application: 4,
            seen: 5,
            client_ifindex: 6,
            client_mac: [7, 8, 9],
            node_mac: [10, 11, 12],
            source_port: 13,
            destination_port: 14,
            header_delta: 15,
            payload_delta: 16,
            tcp: 3,
            side: 1,
            last_resort: 1,
            reserved: 0,
        };
        let expected = abi::FlowCore {
            origin: OriginId(3),
            application: 4,
            seen: 5,
            client_ifindex: 6,
            client_mac: Mac([7, 8, 9]),
            node_mac: Mac([10, 11, 12]),
            source_port: Port(13),
            destination_port: Port(14),
            header_delta: 15,
            payload_delta: 16,
            tcp: TcpState(3),
            side: FlowSide::ORIGIN,
            last_resort: 1,
            opened: 5,
            ..abi::FlowCore::default()
        };
        assert_eq!(core(&old), expected);
    }
}
