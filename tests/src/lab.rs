//! Client, node and origins, each in a namespace of its own, in one of three topologies.
//!
//! ```text
//! routed:   client ── eth0 node eth1 ── switch ── origins
//! gateway:  client ── eth0 node eth1 ── gateway ── switch ── origins
//! one-arm:  client, node (eth0), origins ── switch
//! ```
//!
//! Nothing in the node forwards packets but lb: the kernel's own forwarding is off. Checksum offload of client and
//! origins stays as the kernel sets it: on, so that lb meets frames whose checksums are only begun.

pub mod direct;
mod features;

pub use features::Features;

use crate::gate::Permit;
use crate::netns::Netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The usual VIPs, which the client reaches through the node and which no interface owns.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// The lab. Dropping it removes the namespaces and what runs in them.
pub struct Lab {
    pub client: Netns,
    pub node: Netns,
    pub origins: Vec<Host>,
    /// The node's interfaces that lb attaches to.
    pub interfaces: Vec<&'static str>,
    /// Switch and gateway.
    between: Vec<Netns>,
    folder: TempDir,
    _permit: Permit,
}

/// A machine that serves.
#[derive(Clone)]
pub struct Host {
    /// `a`, `b`, `c`, ... in the order of [`Lab::origins`].
    pub name: String,
    pub namespace: Netns,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// For its servers' files; goes with the lab.
    pub folder: PathBuf,
}

impl Host {
    /// Its address of the family of `like`.
    #[must_use]
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }
}

/// Third number of the client's, the node's and (behind a gateway) the origins' networks.
const CLIENT_NET: u8 = 1;
const ORIGIN_NET: u8 = 2;
const FAR_NET: u8 = 4;
/// Networks of links that a test adds, by the number of the interface.
const EXTRA_NET: u8 = 10;
const EXTRA: [&str; 4] = ["eth2", "eth3", "eth4", "eth5"];
const NODE: u8 = 1;
const CLIENT: u8 = 2;
const GATEWAY: u8 = 254;
const FIRST_ORIGIN: u8 = 11;

fn v4(net: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, net, host)
}

fn v6(net: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into())
}

fn add_address(namespace: &Netns, interface: &str, net: u8, host: u8) {
    namespace.ip(&format!(
        "address add {}/24 dev {interface}\naddress add {}/64 dev {interface} nodad",
        v4(net, host),
        v6(net, host)
    ));
}

fn add_default_route(namespace: &Netns, net: u8, host: u8) {
    namespace.ip(&format!(
        "route add default via {}\nroute add default via {}",
        v4(net, host),
        v6(net, host)
    ));
}

impl Lab {
    /// Client and origins on different sides of the node.
    #[must_use]
    pub fn routed(origins: usize) -> Self {
        let mut lab = Self::bare();
        lab.client.connect_host("eth0", &lab.node, "eth0");
        let switch = switch();
        lab.node.connect("eth1", &switch, "node");
        plug(&switch, "node");
        add_address(&lab.node, "eth0", CLIENT_NET, NODE);
        add_address(&lab.node, "eth1", ORIGIN_NET, NODE);
        lab.interfaces = vec!["eth0", "eth1"];
        lab.add_origins(origins, &switch, ORIGIN_NET, NODE);
        lab.finish(switch)
    }

    /// As routed, with a router between the node and the origins.
    #[must_use]
    pub fn behind_gateway(origins: usize) -> Self {
        let mut lab = Self::bare();
        lab.client.connect_host("eth0", &lab.node, "eth0");
        let gateway = Netns::new("gateway");
        let switch = switch();
        lab.node.connect("eth1", &gateway, "eth0");
        gateway.connect("eth1", &switch, "gateway");
        plug(&switch, "gateway");
        add_address(&lab.node, "eth0", CLIENT_NET, NODE);
        add_address(&lab.node, "eth1", ORIGIN_NET, NODE);
        add_address(&gateway, "eth0", ORIGIN_NET, GATEWAY);
        add_address(&gateway, "eth1", FAR_NET, NODE);
        gateway.offload("eth0", "gro", "on");
        enable_forwarding(&gateway);
        lab.node.ip(&format!(
            "route add {}/24 via {}\nroute add {}/64 via {}",
            v4(FAR_NET, 0),
            v4(ORIGIN_NET, GATEWAY),
            v6(FAR_NET, 0),
            v6(ORIGIN_NET, GATEWAY)
        ));
        gateway.ip(&format!(
            "route add default via {}\nroute add default via {}",
            v4(ORIGIN_NET, NODE),
            v6(ORIGIN_NET, NODE)
        ));
        lab.interfaces = vec!["eth0", "eth1"];
        lab.add_origins(origins, &switch, FAR_NET, NODE);
        lab.between.push(gateway);
        lab.finish(switch)
    }

    /// Everybody on one network: packets leave the node by the interface they came in by.
    #[must_use]
    pub fn one_arm(origins: usize) -> Self {
        let mut lab = Self::bare();
        let switch = switch();
        lab.client.connect_host("eth0", &switch, "client");
        plug(&switch, "client");
        lab.node.connect("eth0", &switch, "node");
        plug(&switch, "node");
        add_address(&lab.node, "eth0", CLIENT_NET, NODE);
        lab.interfaces = vec!["eth0"];
        lab.add_origins(origins, &switch, CLIENT_NET, NODE);
        lab.finish(switch)
    }

    fn bare() -> Self {
        let permit = Permit::acquire();
        Self {
            client: Netns::new("client"),
            node: Netns::new("node"),
            origins: Vec::new(),
            interfaces: Vec::new(),
            between: Vec::new(),
            folder: tempfile::Builder::new()
                .prefix("lb-lab-")
                .tempdir()
                .expect("a temporary folder can be made"),
            _permit: permit,
        }
    }

    fn add_origins(&mut self, count: usize, switch: &Netns, net: u8, router: u8) {
        for (name, number) in ('a'..='z').zip(FIRST_ORIGIN..).take(count) {
            let name = name.to_string();
            let namespace = Netns::new(&name);
            namespace.connect_host("eth0", switch, &name);
            plug(switch, &name);
            add_address(&namespace, "eth0", net, number);
            add_default_route(&namespace, net, router);
            let folder = self.folder.path().join(&name);
            std::fs::create_dir(&folder).expect("a folder can be made in a temporary folder");
            self.origins.push(Host {
                name,
                namespace,
                v4: v4(net, number),
                v6: v6(net, number),
                folder,
            });
        }
    }

    fn finish(mut self, switch: Netns) -> Self {
        add_address(&self.client, "eth0", CLIENT_NET, CLIENT);
        add_default_route(&self.client, CLIENT_NET, NODE);
        // XDP_REDIRECT into a veth is dropped in silence unless its peer polls: with GRO it does.
        self.client.offload("eth0", "gro", "on");
        // Many short connections from one address.
        self.client.sysctl("net/ipv4/ip_local_port_range", "10000 65000");
        for namespace in self
            .origins
            .iter()
            .map(|origin| &origin.namespace)
            .chain([&self.client])
        {
            namespace.sysctl("net/core/somaxconn", "8192");
        }
        self.between.push(switch);
        self
    }

    /// Frames that the links of the lab have lost so far, all together: on a machine that stands still for a while.
    #[must_use]
    pub fn dropped_by_links(&self) -> u64 {
        let origins = self.origins.iter().map(|origin| &origin.namespace);
        let all = origins.chain(&self.between).chain([&self.client, &self.node]);
        all.map(Netns::dropped_by_links).sum()
    }

    /// Takes the node's interface towards the origins away.
    ///
    /// # Panics
    /// The lab is not [`Lab::routed`].
    pub fn remove_origin_side(&self) {
        self.node.ip("link delete dev eth1");
    }

    /// Makes the node's interface towards the origins again, after [`Lab::remove_origin_side`]; `how` may say more, such
    /// as `index 9`.
    pub fn make_origin_side(&self, how: &str) {
        self.node.ip(&format!(
            "link add eth1 {how} type veth peer name node netns {}",
            self.switch().name()
        ));
        plug(self.switch(), "node");
        self.switch().ip("link set dev node up");
        self.node.ip("link set dev eth1 up");
        add_address(&self.node, "eth1", ORIGIN_NET, NODE);
    }

    /// Connects the node by one more interface, named `eth<number>`, to the origins' network.
    pub fn add_origin_side(&mut self, number: u8) -> (&'static str, Ipv4Addr) {
        let interface = EXTRA[usize::from(number - 2)];
        let port = format!("node{number}");
        self.node.connect(interface, self.switch(), &port);
        plug(self.switch(), &port);
        let net = if self.between.len() > 1 {
            FAR_NET
        } else {
            ORIGIN_NET
        };
        add_address(&self.node, interface, net, number);
        self.interfaces.push(interface);
        (interface, v4(net, number))
    }

    /// Connects client and node by one more link, `eth<number>` at both ends, and returns the node's address there.
    pub fn add_client_side(&mut self, number: u8) -> (&'static str, Ipv4Addr) {
        let interface = EXTRA[usize::from(number - 2)];
        let net = EXTRA_NET + number;
        self.client.connect_host(interface, &self.node, interface);
        add_address(&self.client, interface, net, CLIENT);
        add_address(&self.node, interface, net, NODE);
        self.client.offload(interface, "gro", "on");
        self.interfaces.push(interface);
        (interface, v4(net, NODE))
    }

    /// Connects the node by one more link, `eth<number>`, to one more router, which leads to the origins of
    /// [`Lab::behind_gateway`] too; returns the router and its address on that link.
    pub fn add_gateway(&mut self, number: u8) -> (Netns, Ipv4Addr) {
        let interface = EXTRA[usize::from(number - 2)];
        let net = EXTRA_NET + number;
        let gateway = Netns::new("gateway2");
        let port = format!("gateway{number}");
        self.node.connect(interface, &gateway, "eth0");
        gateway.connect("eth1", self.switch(), &port);
        plug(self.switch(), &port);
        add_address(&self.node, interface, net, NODE);
        add_address(&gateway, "eth0", net, GATEWAY);
        add_address(&gateway, "eth1", FAR_NET, number);
        gateway.offload("eth0", "gro", "on");
        enable_forwarding(&gateway);
        gateway.ip(&format!(
            "route add default via {}\nroute add default via {}",
            v4(net, NODE),
            v6(net, NODE)
        ));
        self.interfaces.push(interface);
        self.between.insert(0, gateway.clone());
        (gateway, v4(net, GATEWAY))
    }

    /// The router of [`Lab::behind_gateway`].
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn gateway(&self) -> &Netns {
        let gateway = self.between.iter().rev().nth(1);
        gateway.expect("the lab has a gateway")
    }

    /// The other end of the node's link towards the origins: a namespace and an interface.
    #[must_use]
    pub fn beside_node(&self) -> (&Netns, &'static str) {
        (self.switch(), "node")
    }

    fn switch(&self) -> &Netns {
        self.between.last().expect("a lab has a switch")
    }

    /// The client's own address of that family.
    #[must_use]
    pub fn client_address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            v4(CLIENT_NET, CLIENT).into()
        } else {
            v6(CLIENT_NET, CLIENT).into()
        }
    }

    /// The node's address on the client's side.
    #[must_use]
    pub fn node_address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            v4(CLIENT_NET, NODE).into()
        } else {
            v6(CLIENT_NET, NODE).into()
        }
    }

    /// A folder that goes with the lab.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets client and origins finish every checksum themselves, as frames from a real network card have them.
    pub fn complete_checksums(&self) {
        for namespace in self
            .origins
            .iter()
            .map(|origin| &origin.namespace)
            .chain([&self.client])
        {
            namespace.offload("eth0", "tx", "off");
        }
    }

    /// Gives the VIPs to the node itself, so that its own services answer on them too.
    pub fn own_vips(&self) {
        self.node.ip(&format!(
            "address add {VIP4}/32 dev lo\naddress add {VIP6}/128 dev lo nodad"
        ));
    }

    /// Lets the node's kernel forward, for tests of the lab itself.
    pub fn forward_without_lb(&self) {
        enable_forwarding(&self.node);
    }

    /// Whether the client reaches `server` by TCP now.
    #[must_use]
    pub fn client_reaches(&self, server: SocketAddr) -> bool {
        self.client
            .enter(|| std::net::TcpStream::connect_timeout(&server, crate::http::TIMEOUT).is_ok())
    }

    /// Whether `address` answers a ping from the client.
    #[must_use]
    pub fn client_pings(&self, address: IpAddr) -> bool {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "2", &address.to_string()]);
        self.client.output(&mut ping).status.success()
    }
}

fn enable_forwarding(namespace: &Netns) {
    namespace.sysctl("net/ipv4/ip_forward", "1");
    namespace.sysctl("net/ipv6/conf/all/forwarding", "1");
}

/// A namespace that is nothing but a bridge.
fn switch() -> Netns {
    let switch = Netns::new("switch");
    switch.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    switch.ip("link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\nlink set dev br0 up");
    switch
}

/// Makes an interface of the switch a port of its bridge that also takes redirected frames.
fn plug(switch: &Netns, port: &str) {
    switch.ip(&format!("link set dev {port} master br0"));
    switch.offload(port, "gro", "on");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;

    /// What the lab promises without lb in it: only then can a failure be lb's.
    fn check_paths(lab: &Lab) {
        lab.forward_without_lb();
        for origin in &lab.origins {
            assert!(lab.client_pings(origin.v4.into()), "{} by IPv4", origin.name);
            assert!(lab.client_pings(origin.v6.into()), "{} by IPv6", origin.name);
        }
    }

    #[test]
    fn origins_are_reached_through_the_node() {
        needs_root!();
        let lab = Lab::routed(3);
        assert!(
            !lab.client_pings(lab.origins[0].v4.into()),
            "the node's kernel does not forward by itself"
        );
        check_paths(&lab);
    }

    #[test]
    fn origins_are_reached_through_node_and_gateway() {
        needs_root!();
        check_paths(&Lab::behind_gateway(2));
    }

    #[test]
    fn everybody_on_one_network_reaches_the_node() {
        needs_root!();
        let lab = Lab::one_arm(2);
        check_paths(&lab);
        assert!(lab.client_pings(lab.node_address(VIP4.into())));
        assert!(lab.client_pings(lab.node_address(VIP6.into())));
    }

    #[test]
    fn vips_reach_the_node_when_it_owns_them() {
        needs_root!();
        let lab = Lab::routed(1);
        lab.own_vips();
        assert!(lab.client_pings(VIP4.into()));
        assert!(lab.client_pings(VIP6.into()));
    }
}
