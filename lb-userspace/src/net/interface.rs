//! Network interfaces.

use super::netlink::Netlink;
use super::routing::{Link, own_address};
use super::sys;
use anyhow::{Context as _, bail};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use std::fs;
use std::net::IpAddr;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// All zero for interfaces that are not Ethernet.
    pub mac: [u8; 6],
    /// In bytes, without the link-layer header.
    pub mtu: u32,
    /// The driver's name as `ethtool -i` shows it, else the kind; empty when neither is known.
    pub driver: String,
    /// The kind of a virtual interface: `veth`, `bridge`, `vlan`, ...
    pub kind: Option<String>,
    /// Switched on, and the carrier is there.
    pub up: bool,
    /// All its addresses, of every scope.
    pub addresses: Vec<IpAddr>,
    pub loopback: bool,
}

/// The interface with that name.
///
/// # Errors
/// When there is none (the names of those that exist are in the message), or netlink fails.
pub fn by_name(name: &str) -> anyhow::Result<Interface> {
    let interfaces = all()?;
    match interfaces.iter().position(|interface| interface.name == name) {
        Some(index) => Ok(interfaces[index].clone()),
        None => {
            let names: Vec<_> = interfaces
                .iter()
                .map(|interface| interface.name.as_str())
                .collect();
            bail!(
                "there is no interface {name:?} in this network namespace, only {}",
                names.join(", ")
            )
        }
    }
}

/// All interfaces of the network namespace, by index.
///
/// # Errors
/// When netlink fails.
pub fn all() -> anyhow::Result<Vec<Interface>> {
    select(|_| true)
}

/// Those of the named interfaces that are there, by index.
///
/// # Errors
/// When netlink fails.
pub fn present(names: &[String]) -> anyhow::Result<Vec<Interface>> {
    select(|name| names.iter().any(|wanted| wanted == name))
}

fn select(wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Interface>> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let links = netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .context("list network interfaces")?;
    let addresses = netlink
        .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
        .context("list the addresses of network interfaces")?;
    let mut interfaces = Vec::new();
    for entry in &links {
        if let RouteNetlinkMessage::NewLink(message) = entry {
            let link = Link::read(message);
            if !wanted(&link.name) {
                continue;
            }
            let mut interface = describe(message.header.index, link);
            for entry in &addresses {
                if let RouteNetlinkMessage::NewAddress(address) = entry
                    && address.header.index == interface.index
                {
                    interface.addresses.extend(own_address(address));
                }
            }
            interfaces.push(interface);
        }
    }
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// The names of the VLAN interfaces on top of the interface with that index.
///
/// # Errors
/// When netlink fails.
pub(super) fn vlans_on(index: u32) -> anyhow::Result<Vec<String>> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let links = netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .context("list network interfaces")?;
    let links = links.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
        _ => None,
    });
    let vlans = links.filter(|link| link.parent == Some(index) && link.kind.as_deref() == Some("vlan"));
    Ok(vlans.map(|link| link.name).collect())
}

/// Whether frames *from* this interface may come without a finished checksum (`CHECKSUM_PARTIAL`), because they
/// have never been on a wire: XDP sees the sum of the pseudo header in the place of the checksum then, and must not
/// trust it.
#[must_use]
pub fn needs_partial_checksums(interface: &Interface) -> bool {
    matches!(
        interface.driver.as_str(),
        "veth" | "virtio_net" | "tun" | "tap" | "bridge" | "netkit" | "xen_netfront"
    )
}

/// Whether the interface is one end of a veth pair.
#[must_use]
pub fn is_veth(interface: &Interface) -> bool {
    interface.driver == "veth"
}

fn describe(index: u32, link: Link) -> Interface {
    let driver = driver(&link);
    Interface {
        index,
        name: link.name,
        mac: link.mac.unwrap_or_default(),
        mtu: link.mtu,
        driver,
        kind: link.kind,
        up: link.up,
        addresses: Vec::new(),
        loopback: link.loopback,
    }
}

fn driver(link: &Link) -> String {
    let device = || {
        let driver = fs::read_link(format!("/sys/class/net/{}/device/driver", link.name)).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    };
    let kind = link.kind.as_deref().unwrap_or_default();
    // The kind of a veth is its driver's name; asking ethtool needs no privilege but a socket.
    sys::driver(&link.name)
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(device)
        .unwrap_or_else(|| kind.to_owned())
}
