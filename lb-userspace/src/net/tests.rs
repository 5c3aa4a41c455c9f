//! The watcher against a real kernel: two network namespaces and a veth pair between them.

use super::interface;
use super::netlink::Netlink;
use super::paths::{PathWatcher, release_neighbours};
use super::routing::{Neighbour, Tables};
use lb_common::abi::{Mac, Tag};
use lb_core::engine::Path;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What "at once" means for everything that the kernel tells by a notification.
const SOON: Duration = Duration::from_secs(1);

const PEER: [u8; 6] = [2, 0, 0, 0, 0x77, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0x77, 3];

/// Two namespaces: the node with `eth0`, where lb is attached, and `eth1`, where it is not; and the network beside it.
pub(crate) struct Network {
    node: String,
    peer: String,
}

impl Network {
    /// `None` without root.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "CI must run this as root"
            );
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let name = |side: &str| format!("pb-{}-{test}-{side}", std::process::id());
        let network = Self {
            node: name("n"),
            peer: name("p"),
        };
        let (node, peer) = (&network.node, &network.peer);
        for name in [node, peer] {
            ip(&format!("netns add {name}"));
            // An address under duplicate address detection answers nobody for a second.
            set(name, "ipv6/conf/default/accept_dad", "0");
        }
        for command in [
            format!("-n {node} link set lo up"),
            format!("-n {node} link add eth0 type veth peer name peer0 netns {peer}"),
            format!("-n {node} link add eth1 type veth peer name peer1 netns {peer}"),
            format!("-n {peer} link set peer0 address {}", mac_text(PEER)),
            format!("-n {node} addr add 10.77.0.1/24 dev eth0"),
            format!("-n {node} addr add 10.77.0.5/24 dev eth0"),
            format!("-n {node} addr add fd77::1/64 dev eth0 nodad"),
            format!("-n {node} addr add 10.78.0.1/24 dev eth1"),
            format!("-n {peer} addr add 10.77.0.2/24 dev peer0"),
            format!("-n {peer} addr add 10.77.0.3/24 dev peer0"),
            format!("-n {peer} addr add fd77::2/64 dev peer0 nodad"),
            format!("-n {node} link set eth0 up"),
            format!("-n {node} link set eth1 up"),
            format!("-n {peer} link set peer0 up"),
            format!("-n {peer} link set peer1 up"),
        ] {
            ip(&command);
        }
        // So that the peer tells its neighbours when its MAC address changes, as a real failover does.
        set(peer, "ipv4/conf/peer0/arp_notify", "1");
        Some(network)
    }

    pub(crate) fn node(&self, command: &str) {
        ip(&format!("-n {} {command}", self.node));
    }

    pub(crate) fn peer(&self, command: &str) {
        ip(&format!("-n {} {command}", self.peer));
    }

    /// Sets a sysctl under `net` of the peer.
    pub(crate) fn set_peer(&self, sysctl: &str, value: &str) {
        set(&self.peer, sysctl, value);
    }

    /// Waits until both sides answer: a link that has just come up loses the first packets, and the kernel repeats
    /// its questions only after a second. Then forgets what was learned.
    async fn settle(&self) {
        for peer in ["10.77.0.2", "fd77::2"].map(parse) {
            let unspecified = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = std::net::UdpSocket::bind(unspecified).unwrap();
            let started = Instant::now();
            while neighbours()
                .get(&peer)
                .is_none_or(|neighbour| neighbour.mac.is_none())
            {
                assert!(started.elapsed() < Duration::from_secs(5), "{peer} never answers");
                let _ = socket.send_to(b"", (peer, 9));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.node("neigh flush dev eth0");
    }

    /// Runs the test in a thread and a runtime inside the node's namespace.
    pub(crate) fn run(self, test: impl AsyncFnOnce(&Self) + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.node)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    self.settle().await;
                    test(&self).await;
                });
            });
            thread.join().unwrap();
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.node, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

/// Sets a sysctl under `net` in a namespace.
fn set(namespace: &str, sysctl: &str, value: &str) {
    let entered = format!("--net=/run/netns/{namespace}");
    let write = format!("echo {value} > /proc/sys/net/{sysctl}");
    assert!(
        Command::new("nsenter")
            .args([&entered, "sh", "-c", &write])
            .status()
            .unwrap()
            .success()
    );
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

type Paths = mpsc::Receiver<BTreeMap<IpAddr, Path>>;

async fn watch(addresses: &[&str]) -> (PathWatcher, Paths) {
    let eth0 = interface::by_name("eth0").unwrap();
    let (watcher, paths) = PathWatcher::start(vec![eth0.index]).await.unwrap();
    watcher.watch(addresses.iter().map(|address| parse(address)).collect());
    (watcher, paths)
}

/// Waits until the path to `to` satisfies the predicate, and fails when that takes longer than [`SOON`].
async fn becomes(paths: &mut Paths, to: &str, what: &str, wanted: impl Fn(&Path) -> bool) -> Path {
    let started = Instant::now();
    let mut last = None;
    loop {
        match tokio::time::timeout(SOON.saturating_sub(started.elapsed()), paths.recv()).await {
            Ok(Some(mut all)) => {
                let path = all.remove(&parse(to)).unwrap();
                if wanted(&path) {
                    return path;
                }
                last = Some(path);
            }
            _ => panic!("{to} is not {what} within {SOON:?}: {last:?}"),
        }
    }
}

fn by(next_hop: &str, mac: [u8; 6]) -> impl Fn(&Path) -> bool {
    let (wanted_hop, wanted) = (parse(next_hop), Mac::from(mac));
    move |path| matches!(path, Path::Via { next_hop, neighbour: Some(mac), .. } if *next_hop == wanted_hop && *mac == wanted)
}

fn unusable(words: &str) -> impl Fn(&Path) -> bool {
    move |path| matches!(path, Path::Unusable(why) if why.contains(words))
}

fn neighbours() -> BTreeMap<IpAddr, Neighbour> {
    let mut tables = Tables::default();
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let entries = Netlink::open().unwrap().dump(request).unwrap();
    entries.iter().for_each(|entry| tables.learn(entry));
    let known = tables
        .neighbours
        .into_iter()
        .map(|((_, address), neighbour)| (address, neighbour));
    // Entries for multicast groups come and go with the kernel's own traffic.
    known.filter(|(address, _)| !address.is_multicast()).collect()
}

#[test]
fn origins_on_the_link_are_resolved() {
    let Some(network) = Network::new("link") else {
        return;
    };
    network.run(async |_| {
        for (address, sources) in [
            ("10.77.0.2", &["10.77.0.1", "10.77.0.5"][..]),
            ("fd77::2", &["fd77::1"]),
        ] {
            let (_watcher, mut paths) = watch(&[address]).await;
            let path = becomes(&mut paths, address, "resolved", by(address, PEER)).await;
            let eth0 = interface::by_name("eth0").unwrap();
            let expected = Path::Via {
                tags: [Tag::NONE; 2],
                ifindex: eth0.index,
                next_hop: parse(address),
                neighbour: Some(PEER.into()),
                interface_mac: eth0.mac.into(),
                mtu: 1500,
                sources: sources.iter().map(|source| parse(source)).collect(),
            };
            assert_eq!(path, expected);
        }
    });
}

#[test]
fn addresses_that_lb_cannot_reach_say_why() {
    let Some(network) = Network::new("why") else {
        return;
    };
    network.run(async |network| {
        network.node("route add blackhole 192.0.2.1/32");
        network.node("route add unreachable 192.0.2.2/32");
        network.node("route add prohibit 192.0.2.3/32");
        for (address, words) in [
            ("10.77.0.1", "own address"),
            ("127.0.0.9", "own address"),
            ("fd77::1", "own address"),
            ("10.78.0.2", "add \"eth1\" to datapath.interfaces"),
            ("198.51.100.1", "no route"),
            ("192.0.2.1", "blackhole"),
            ("192.0.2.2", "unreachable"),
            ("192.0.2.3", "prohibited"),
            ("10.77.0.255", "broadcast"),
            ("224.0.0.5", ""),
            ("2001:db8::1", "no route"),
        ] {
            let (_watcher, mut paths) = watch(&[address]).await;
            becomes(&mut paths, address, words, unusable(words)).await;
        }
    });
}

#[test]
fn a_neighbours_new_mac_address_is_followed() {
    let Some(network) = Network::new("mac") else {
        return;
    };
    network.run(async |network| {
        let (_watcher, mut paths) = watch(&["10.77.0.2"]).await;
        becomes(&mut paths, "10.77.0.2", "resolved", by("10.77.0.2", PEER)).await;
        network.peer(&format!("link set peer0 address {}", mac_text(OTHER)));
        becomes(&mut paths, "10.77.0.2", "at its new MAC", by("10.77.0.2", OTHER)).await;
    });
}

#[test]
fn a_neighbour_that_moves_without_a_word_is_followed() {
    let Some(network) = Network::new("silent") else {
        return;
    };
    network.set_peer("ipv4/conf/peer0/arp_notify", "0");
    network.run(async |network| {
        for address in ["10.77.0.2", "fd77::2"] {
            let (_watcher, mut paths) = watch(&[address]).await;
            becomes(&mut paths, address, "resolved", by(address, PEER)).await;
            for mac in [OTHER, PEER, OTHER, PEER] {
                // For a second after its entry changed, the kernel believes nobody (LOCKTIME in net/ipv4/arp.c).
                tokio::time::sleep(Duration::from_millis(1100)).await;
                // Addresses stay: the kernel of the peer tells nobody.
                network.peer(&format!("link set peer0 address {}", mac_text(mac)));
                becomes(&mut paths, address, "at its new MAC", by(address, mac)).await;
            }
        }
    });
}

#[test]
fn a_change_of_the_gateway_is_followed() {
    let Some(network) = Network::new("gateway") else {
        return;
    };
    network.run(async |network| {
        let origin = "198.51.100.1";
        let (_watcher, mut paths) = watch(&[origin]).await;
        becomes(&mut paths, origin, "without a route", unusable("no route")).await;
        network.node("route add 198.51.100.0/24 via 10.77.0.2");
        becomes(
            &mut paths,
            origin,
            "behind the first gateway",
            by("10.77.0.2", PEER),
        )
        .await;
        network.node("route replace 198.51.100.0/24 via 10.77.0.3 mtu 1400");
        let path = becomes(
            &mut paths,
            origin,
            "behind the second gateway",
            by("10.77.0.3", PEER),
        )
        .await;
        assert!(matches!(path, Path::Via { mtu: 1400, .. }), "{path:?}");
        network.node("route replace 198.51.100.0/24 via inet6 fd77::2 dev eth0");
        becomes(&mut paths, origin, "behind an IPv6 gateway", by("fd77::2", PEER)).await;
        network.node("route del 198.51.100.0/24");
        becomes(&mut paths, origin, "without a route", unusable("no route")).await;
    });
}

#[test]
fn a_link_that_goes_down_is_noticed_and_comes_back() {
    let Some(network) = Network::new("down") else {
        return;
    };
    network.run(async |network| {
        let (_watcher, mut paths) = watch(&["10.77.0.2"]).await;
        becomes(&mut paths, "10.77.0.2", "resolved", by("10.77.0.2", PEER)).await;
        network.peer("link set peer0 down");
        becomes(
            &mut paths,
            "10.77.0.2",
            "without a carrier",
            unusable("eth0, which is down"),
        )
        .await;
        network.peer("link set peer0 up");
        becomes(&mut paths, "10.77.0.2", "back", by("10.77.0.2", PEER)).await;
        network.node("link set eth0 down");
        becomes(&mut paths, "10.77.0.2", "switched off", unusable("")).await;
        network.node("link set eth0 up");
        becomes(&mut paths, "10.77.0.2", "back again", by("10.77.0.2", PEER)).await;
    });
}

#[test]
fn a_neighbour_that_appears_late_is_found() {
    let Some(network) = Network::new("late") else {
        return;
    };
    network.run(async |network| {
        let (_watcher, mut paths) = watch(&["10.77.0.66"]).await;
        let unresolved = |path: &Path| matches!(path, Path::Via { neighbour: None, .. });
        becomes(&mut paths, "10.77.0.66", "unresolved", unresolved).await;
        // Longer than the three requests after which the kernel gives up.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        network.peer("addr add 10.77.0.66/24 dev peer0");
        let started = Instant::now();
        let found = async {
            while let Some(all) = paths.recv().await {
                if by("10.77.0.66", PEER)(&all[&parse("10.77.0.66")]) {
                    break;
                }
            }
        };
        // Its address is new, its MAC is not: nothing is announced, and the next request finds it.
        tokio::time::timeout(Duration::from_secs(3), found).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn release_leaves_the_neighbour_table_as_it_was() {
    let Some(network) = Network::new("release") else {
        return;
    };
    network.run(async |network| {
        let stale = format!("neigh add 10.77.0.2 lladdr {} dev eth0 nud stale", mac_text(PEER));
        let permanent = format!(
            "neigh add 10.77.0.9 lladdr {} dev eth0 nud permanent",
            mac_text(OTHER)
        );
        network.node(&stale);
        network.node(&permanent);
        let before = neighbours();
        let (watcher, mut paths) = watch(&["10.77.0.2", "10.77.0.3", "10.77.0.9", "fd77::2"]).await;
        becomes(&mut paths, "fd77::2", "resolved", by("fd77::2", PEER)).await;
        let during = neighbours();
        let managed = |address: &str| during[&parse(address)].managed;
        assert!(
            managed("10.77.0.2") && managed("10.77.0.3") && managed("fd77::2"),
            "{during:?}"
        );
        assert_eq!(during[&parse("10.77.0.9")], before[&parse("10.77.0.9")]);
        watcher.release().await.unwrap();
        assert_eq!(neighbours(), before);

        // Addresses that are not watched any more are released too.
        watcher.watch(vec![parse("10.77.0.3")]);
        becomes(&mut paths, "10.77.0.3", "resolved", by("10.77.0.3", PEER)).await;
        watcher.watch(vec![parse("10.77.0.9")]);
        becomes(&mut paths, "10.77.0.9", "resolved", by("10.77.0.9", OTHER)).await;
        assert_eq!(neighbours(), before);

        // What a daemon that was killed has left behind is found again.
        watcher.watch(vec![parse("10.77.0.3")]);
        becomes(&mut paths, "10.77.0.3", "resolved", by("10.77.0.3", PEER)).await;
        drop(watcher);
        assert_eq!(paths.recv().await, None, "the watcher ends with its handle");
        assert!(neighbours()[&parse("10.77.0.3")].managed);
        assert_eq!(release_neighbours().unwrap(), 1);
        assert_eq!(neighbours(), before);
    });
}

#[test]
fn interfaces_are_described() {
    let Some(network) = Network::new("interface") else {
        return;
    };
    network.run(async |_| {
        let eth0 = interface::by_name("eth0").unwrap();
        assert_eq!(
            (eth0.driver.as_str(), eth0.kind.as_deref()),
            ("veth", Some("veth"))
        );
        assert!(interface::is_veth(&eth0) && interface::needs_partial_checksums(&eth0));
        assert!(eth0.up && !eth0.loopback && eth0.mtu == 1500 && eth0.mac != [0; 6]);
        assert!(
            ["10.77.0.1", "10.77.0.5", "fd77::1"]
                .iter()
                .all(|own| eth0.addresses.contains(&parse(own)))
        );
        let names: Vec<_> = interface::all()
            .unwrap()
            .into_iter()
            .map(|interface| interface.name)
            .collect();
        assert!(
            ["lo", "eth0", "eth1"]
                .iter()
                .all(|name| names.iter().any(|other| other == name))
        );
        assert!(interface::by_name("lo").unwrap().loopback);
        let error = interface::by_name("eth9").unwrap_err().to_string();
        assert!(error.contains("eth9") && error.contains("eth0"), "{error}");
    });
}
