//! From routes, links, addresses and neighbours to the [`Path`] of an address: the part of [`super::paths`] that
//! needs no kernel.

use lb_common::abi::Tag;
use lb_core::engine::Path;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// An interface as rtnetlink tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    pub(super) name: String,
    /// `None`: not Ethernet.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// `veth`, `bridge`, ...; `None`: a device of its own.
    pub(super) kind: Option<String>,
    /// Switched on, and the carrier is there.
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// The interface that a virtual one is made of.
    pub(super) parent: Option<u32>,
    /// The tag of a VLAN.
    pub(super) vlan: Option<Tag>,
}

impl Link {
    pub(super) fn read(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(parent) => link.parent = Some(*parent),
                LinkAttribute::Address(mac) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = mac.as_slice().try_into().ok();
                }
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.vlan = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Vlan(vlan)) => tag(vlan),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

fn tag(vlan: &[InfoVlan]) -> Option<Tag> {
    let id = vlan.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    });
    let protocol = vlan.iter().find_map(|info| match info {
        InfoVlan::Protocol(protocol) => Some(u16::from(*protocol)),
        _ => None,
    });
    Some(Tag::new(protocol.unwrap_or(0x8100), id?))
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Neighbour {
    /// `None`: not resolved.
    pub(super) mac: Option<[u8; 6]>,
    /// Somebody has set it by hand, or it needs no resolution: it is never touched.
    pub(super) fixed: bool,
    /// The kernel keeps it resolved (`NTF_EXT_MANAGED`).
    pub(super) managed: bool,
    /// Who has made it (`NDA_PROTOCOL`).
    pub(super) protocol: u8,
}

/// Which neighbour: the interface and the address.
pub(super) type Hop = (u32, IpAddr);

impl Neighbour {
    pub(super) fn read(message: &NeighbourMessage) -> Option<(Hop, Self)> {
        let state = message.header.state;
        let resolved = matches!(
            state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        let mut neighbour = Self {
            mac: None,
            fixed: matches!(state, NeighbourState::Permanent | NeighbourState::Noarp),
            managed: false,
            protocol: 0,
        };
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
                NeighbourAttribute::LinkLayerAddress(mac) if resolved => {
                    neighbour.mac = mac.as_slice().try_into().ok();
                }
                NeighbourAttribute::ExtFlags(flags) => {
                    neighbour.managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Protocol(protocol) => neighbour.protocol = u8::from(*protocol),
                _ => {}
            }
        }
        Some(((message.header.ifindex, address?), neighbour))
    }
}

/// What the kernel's routing decision for an address is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    Via {
        ifindex: u32,
        /// `None`: the address is on the link.
        gateway: Option<IpAddr>,
        /// The source address that the node itself would use.
        preferred: Option<IpAddr>,
        /// Smaller than the interface's: set on the route, or learned by path MTU discovery.
        mtu: Option<u32>,
    },
    Unusable(String),
}

impl Route {
    /// Reads the answer to `RTM_GETROUTE`.
    pub(super) fn read(to: IpAddr, answer: io::Result<RouteNetlinkMessage>) -> Self {
        match answer {
            Ok(RouteNetlinkMessage::NewRoute(message)) => Self::read_route(to, &message),
            Ok(_) => Self::Unusable(format!("the kernel does not tell a route to {to}")),
            Err(error) => Self::Unusable(refusal(to, &error)),
        }
    }

    fn read_route(to: IpAddr, message: &RouteMessage) -> Self {
        let why = match message.header.kind {
            RouteType::Unicast => None,
            RouteType::Local => Some(format!("{to} is this node's own address")),
            RouteType::Broadcast | RouteType::Anycast => {
                Some(format!("{to} is a broadcast or anycast address"))
            }
            RouteType::Multicast => Some(format!("{to} is a multicast address")),
            RouteType::BlackHole => Some(refusal(to, &io::Error::from_raw_os_error(libc::EINVAL))),
            RouteType::Prohibit => Some(refusal(to, &io::Error::from_raw_os_error(libc::EACCES))),
            RouteType::Unreachable => Some(refusal(to, &io::Error::from_raw_os_error(libc::EHOSTUNREACH))),
            _ => Some(format!("the route to {to} is of a kind that lb does not know")),
        };
        if let Some(why) = why {
            return Self::Unusable(why);
        }
        let (mut out, mut gateway, mut preferred, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => out = Some(*ifindex),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                // An IPv4 route with an IPv6 next hop (RFC 5549): the neighbour is looked up in the IPv6 table.
                RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some((*v4).into()),
                RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some((*v6).into()),
                RouteAttribute::PrefSource(address) => preferred = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {
                    return Self::Unusable(format!(
                        "the route to {to} adds an encapsulation, which lb cannot do"
                    ));
                }
                _ => {}
            }
        }
        match out {
            Some(ifindex) => Self::Via {
                ifindex,
                gateway,
                preferred,
                mtu,
            },
            None => Self::Unusable(format!("the route to {to} names no interface")),
        }
    }

    /// The neighbour that packets are sent to.
    pub(super) fn hop(&self, to: IpAddr) -> Option<Hop> {
        match self {
            Self::Via { ifindex, gateway, .. } => Some((*ifindex, gateway.unwrap_or(to))),
            Self::Unusable(_) => None,
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The kernel reports routes that lead nowhere as errors of the lookup (`fib_props` in net/ipv4/fib_semantics.c).
fn refusal(to: IpAddr, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH) => format!("there is no route to {to}"),
        Some(libc::EHOSTUNREACH) => format!("the route to {to} says that it is unreachable"),
        Some(libc::EINVAL) => format!("the route to {to} is a blackhole"),
        Some(libc::EACCES) => format!("the route to {to} is prohibited"),
        _ => format!("the kernel does not tell a route to {to}: {error}"),
    }
}

/// The kernel's tables, as far as paths depend on them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) links: BTreeMap<u32, Link>,
    /// Addresses of each interface that packets may be sent from.
    pub(super) addresses: BTreeMap<u32, Vec<IpAddr>>,
    pub(super) neighbours: BTreeMap<Hop, Neighbour>,
}

impl Tables {
    /// Takes one entry of a dump or one notification.
    pub(super) fn learn(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                self.links.insert(link.header.index, Link::read(link));
            }
            RouteNetlinkMessage::NewAddress(address) => {
                if let Some(ip) = source(address) {
                    self.addresses.entry(address.header.index).or_default().push(ip);
                }
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                if let Some((hop, neighbour)) = Neighbour::read(neighbour) {
                    self.neighbours.insert(hop, neighbour);
                }
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                if let Some((hop, _)) = Neighbour::read(neighbour) {
                    self.neighbours.remove(&hop);
                }
            }
            _ => {}
        }
    }

    /// The MAC address of a neighbour.
    pub(super) fn mac(&self, hop: Hop) -> Option<[u8; 6]> {
        self.neighbours.get(&hop).and_then(|neighbour| neighbour.mac)
    }

    /// The interface with the program that packets for `ifindex` leave by, and with which tags: itself, or the one below it
    /// when it is a VLAN.
    pub(super) fn exit(&self, ifindex: u32, attached: &BTreeSet<u32>) -> Option<(u32, [Tag; 2])> {
        if attached.contains(&ifindex) {
            return Some((ifindex, [Tag::NONE; 2]));
        }
        let below = |ifindex: u32| {
            let link = self.links.get(&ifindex)?;
            Some((link.vlan?, link.parent?))
        };
        let (inner, middle) = below(ifindex)?;
        if attached.contains(&middle) {
            return Some((middle, [inner, Tag::NONE]));
        }
        let (outer, lowest) = below(middle)?;
        attached.contains(&lowest).then_some((lowest, [outer, inner]))
    }

    /// How packets get to an address by the given route.
    pub(super) fn path(&self, to: IpAddr, route: &Route, attached: &BTreeSet<u32>) -> Path {
        let (ifindex, preferred, mtu) = match route {
            Route::Unusable(why) => return Path::Unusable(why.clone()),
            Route::Via {
                ifindex,
                preferred,
                mtu,
                ..
            } => (*ifindex, *preferred, *mtu),
        };
        let Some(link) = self.links.get(&ifindex) else {
            return Path::Unusable(format!("{to} is routed to an interface that is gone"));
        };
        let name = &link.name;
        if link.loopback {
            return Path::Unusable(format!("{to} is routed to {name}: it is on this node itself"));
        }
        let Some((exit, tags)) = self.exit(ifindex, attached) else {
            return Path::Unusable(format!(
                "{to} is routed through {name}, where lb is not attached, so that its answers would not come back \
                 through lb: add \"{name}\" to datapath.interfaces"
            ));
        };
        if !link.up {
            return Path::Unusable(format!("{to} is routed through {name}, which is down"));
        }
        let (Some(mac), Some(hop)) = (link.mac, route.hop(to)) else {
            return Path::Unusable(format!(
                "{to} is routed through {name}, which is not an Ethernet interface"
            ));
        };
        let mut sources: Vec<IpAddr> = preferred.into_iter().collect();
        for &address in self.addresses.get(&ifindex).into_iter().flatten() {
            if address.is_ipv4() == to.is_ipv4() && !sources.contains(&address) {
                sources.push(address);
            }
        }
        let mtu = mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Path::Via {
            ifindex: exit,
            tags,
            next_hop: hop.1,
            neighbour: self.mac(hop).map(Into::into),
            interface_mac: mac.into(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            sources,
        }
    }
}

/// The address, when it is one that packets may be sent from: of global scope, and not (any more) in doubt.
pub(super) fn source(message: &AddressMessage) -> Option<IpAddr> {
    let doubtful = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let old = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let doubt = flags.map_or(message.header.flags.intersects(old), |flags| {
        flags.intersects(doubtful)
    });
    if doubt || message.header.scope != AddressScope::Universe {
        return None;
    }
    own_address(message)
}

/// `IFA_LOCAL` is the own address and `IFA_ADDRESS` the peer's on point-to-point links; else there may be only
/// `IFA_ADDRESS`.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// `RTM_GETROUTE` for one address.
pub(super) fn route_request(to: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.header.protocol = RouteProtocol::Unspec;
    message.attributes.push(RouteAttribute::Destination(to.into()));
    RouteNetlinkMessage::GetRoute(message)
}

pub(super) fn family(address: IpAddr) -> netlink_packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests;
