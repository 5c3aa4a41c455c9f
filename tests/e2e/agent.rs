//! The agent on an origin: what arrives by tunnels is served, and answered straight to the client.

use lb_common::testing::tunnels::Tunnel;
use lb_tests::agent::{OriginAgent, run};
use lb_tests::check::{SOON, wait_until};
use lb_tests::gate::{Permit, lb_binary};
use lb_tests::lab::Host;
use lb_tests::netns::Netns;
use lb_tests::servers::{self, ECHO_PORT, EchoServer, HTTP_PORT};
use lb_tests::tunneler::{DEVICE, Tunneler, Way};
use lb_tests::{http, needs_root};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use tempfile::TempDir;

const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0x2f, 1];
const ORIGIN_MAC: [u8; 6] = [2, 0, 0, 0, 0x2f, 0x11];
const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];
const NODES: [&str; 2] = ["10.0.2.1", "fd00:2::1"];
const ORIGINS: [&str; 2] = ["10.0.2.11", "fd00:2::11"];
const AGENT: [&str; 5] = ["--vip", VIPS[0], "--vip", VIPS[1], "--add-vips"];

/// A node, which is the client too, and an origin.
struct Pair {
    node: Netns,
    origin: Host,
    folder: TempDir,
    _permit: Permit,
}

impl Pair {
    fn new() -> Self {
        let permit = Permit::acquire();
        let folder = tempfile::tempdir().unwrap();
        let (node, origin) = (Netns::new("node"), Netns::new("origin"));
        node.connect("eth0", &origin, "eth0");
        for (namespace, mac, addresses) in [(&node, NODE_MAC, NODES), (&origin, ORIGIN_MAC, ORIGINS)] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let [v4, v6] = addresses;
            namespace.ip(&format!(
                "link set dev eth0 address {mac}\naddress add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad"
            ));
        }
        // The client lives behind the node, as the internet does.
        node.ip("address add 198.51.100.7/32 dev lo\naddress add 2001:db8:c::7/128 dev lo nodad");
        let [v4, v6] = NODES;
        origin.ip(&format!("route add default via {v4}\nroute add default via {v6}"));
        let origin = Host {
            name: "a".to_owned(),
            namespace: origin,
            v4: ORIGINS[0].parse().unwrap(),
            v6: ORIGINS[1].parse().unwrap(),
            folder: folder.path().to_owned(),
        };
        Self {
            node,
            origin,
            folder,
            _permit: permit,
        }
    }

    fn agent(&self, arguments: &[&str]) -> OriginAgent {
        OriginAgent::start(&self.origin.namespace, "eth0", arguments, self.folder.path())
    }

    /// A tunnel from the node to the origin, and the client's routes to the VIPs through it.
    fn tunnel(&self, tunnel: Tunnel, outer_v6: bool) -> Tunneler {
        let outer = usize::from(outer_v6);
        let way = Way {
            interface: "eth0",
            link: (NODE_MAC, ORIGIN_MAC),
            from: NODES[outer].to_owned(),
            to: ORIGINS[outer].to_owned(),
        };
        let tunneler = Tunneler::start(&self.node, tunnel, way);
        let [v4, v6] = VIPS;
        self.node.ip(&format!(
            "route replace {v4}/32 dev {DEVICE} src 198.51.100.7\n\
             route replace {v6}/128 dev {DEVICE} src 2001:db8:c::7"
        ));
        tunneler
    }

    fn pings(&self, vip: &str) -> bool {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", vip]);
        self.node.output(&mut ping).status.success()
    }

    /// What the echo server behind a VIP says to a datagram.
    fn datagram(&self, vip: &str) -> String {
        let to: SocketAddr = (vip.parse::<IpAddr>().unwrap(), ECHO_PORT).into();
        self.node.enter(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket.send(b"who?").unwrap();
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        })
    }

    fn sysctl(&self, key: &str) -> String {
        self.origin.namespace.enter(|| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/conf/eth0/{key}"))
                .unwrap()
                .trim()
                .to_owned()
        })
    }

    /// Kernel parameters and addresses that the agent may change.
    fn settings(&self) -> Vec<String> {
        let mut settings: Vec<_> = ["arp_ignore", "arp_announce", "rp_filter"]
            .iter()
            .map(|key| self.sysctl(key))
            .collect();
        settings.push(
            self.origin
                .namespace
                .run("ip", &["-brief", "address", "show", "dev", "lo"]),
        );
        settings
    }
}

#[test]
fn every_tunnel_is_served_and_answered_straight() {
    needs_root!();
    let pair = Pair::new();
    let agent = pair.agent(&AGENT);
    // Any address: that of the VIP is the answer's source only where the datagram came to it.
    let _echo = VIPS.map(|vip| {
        EchoServer::start_at(
            &pair.origin.namespace,
            "a",
            (vip.parse::<IpAddr>().unwrap(), ECHO_PORT).into(),
        )
    });
    for outer_v6 in [false, true] {
        for kind in Tunnel::ALL {
            let tunnel = pair.tunnel(kind, outer_v6);
            for vip in VIPS {
                assert!(pair.pings(vip), "{kind:?} {outer_v6} {vip}");
                assert_eq!(pair.datagram(vip), "a", "{kind:?} {outer_v6} {vip}");
            }
            wait_until(SOON, "all of it went by the tunnel", || {
                (tunnel.sent() >= 4).then_some(())
            });
        }
    }
    assert!(agent.count("ipip") >= 8);
    assert!(agent.count("gue") >= 16);
    for outcome in ["malformed", "fragment", "not_local", "congestion", "resize"] {
        assert_eq!(agent.count(outcome), 0, "{outcome}");
    }
}

#[test]
fn connections_never_send_more_than_a_tunnel_carries() {
    needs_root!();
    let pair = Pair::new();
    let _nginx = servers::nginx(&pair.origin);
    let upload = pair.folder.path().join("upload");
    fs::write(&upload, vec![b'x'; 3 << 20]).unwrap();
    for (outer_v6, kind, overhead) in [
        (false, Tunnel::Ipip, 20),
        (true, Tunnel::Ipip, 40),
        (false, Tunnel::Gue, 28),
        (true, Tunnel::Gue, 48),
    ] {
        let agent = pair.agent(&AGENT);
        let tunnel = pair.tunnel(kind, outer_v6);
        for vip in VIPS {
            let vip: IpAddr = vip.parse().unwrap();
            let address = SocketAddr::from((vip, HTTP_PORT));
            let answer = pair.node.enter(|| http::get(address, "/")).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, "a\n"));
            let url = format!("http://{address}/upload/{overhead}");
            pair.node.run(
                "curl",
                &[
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--globoff",
                    "--max-time",
                    "20",
                    "--upload-file",
                    upload.to_str().unwrap(),
                    &url,
                ],
            );
            let arrived = servers::uploads(&pair.origin).join(overhead.to_string());
            assert_eq!(fs::metadata(arrived).unwrap().len(), 3 << 20);
            let status = agent.status();
            let known = status
                .addresses
                .iter()
                .find(|known| known.address == vip)
                .unwrap();
            assert_eq!(known.overhead, overhead, "{kind:?}");
        }
        assert_eq!(tunnel.too_large(), 0, "{kind:?} {outer_v6}");
        assert!(tunnel.sent() > 2 * 2000);
        // Both families, two connections each.
        assert_eq!(agent.count("clamped"), 4);
    }
    // That it is the clamp which does it.
    let agent = pair.agent(&[&AGENT[..], &["--clamp-mtu", "0"]].concat());
    let tunnel = pair.tunnel(Tunnel::Ipip, false);
    let url = format!("http://{}/upload/unclamped", VIPS[0]);
    let words = [
        "--silent",
        "--max-time",
        "1",
        "--upload-file",
        upload.to_str().unwrap(),
        &url,
    ];
    assert!(
        !pair
            .node
            .output(Command::new("curl").args(words))
            .status
            .success()
    );
    assert!(tunnel.too_large() > 0);
    assert_eq!(agent.count("clamped"), 0);
}

#[test]
fn what_is_not_meant_for_a_vip_is_not_taken() {
    needs_root!();
    let pair = Pair::new();
    // No VIP is named: those of the machine are, which has none but on loopback.
    pair.origin
        .namespace
        .ip(&format!("address add {}/32 dev lo", VIPS[0]));
    let agent = pair.agent(&[]);
    let tunnel = pair.tunnel(Tunnel::Ipip, false);
    assert!(pair.pings(VIPS[0]));
    // The origin is no router: what is for somebody else is not let in.
    assert!(!pair.pings(VIPS[1]));
    wait_until(SOON, "it is counted", || {
        (agent.count("not_vip") > 0).then_some(())
    });
    drop(tunnel);
    // An address that comes later is one too, and one that goes is none any more.
    pair.origin
        .namespace
        .ip(&format!("address add {}/128 dev lo nodad", VIPS[1]));
    wait_until(SOON, "the new VIP is known", || {
        agent
            .status()
            .addresses
            .iter()
            .any(|known| known.address.to_string() == VIPS[1])
            .then_some(())
    });
    let _tunnel = pair.tunnel(Tunnel::Ipip, true);
    assert!(pair.pings(VIPS[1]));
    pair.origin
        .namespace
        .ip(&format!("address del {}/32 dev lo", VIPS[0]));
    wait_until(SOON, "the old VIP is forgotten", || {
        agent
            .status()
            .addresses
            .iter()
            .all(|known| known.address.to_string() != VIPS[0])
            .then_some(())
    });
}

#[test]
fn an_agent_that_is_told_to_stop_puts_everything_back() {
    needs_root!();
    let pair = Pair::new();
    pair.origin.namespace.sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    let before = pair.settings();
    let mut agent = pair.agent(&AGENT);
    assert_eq!(
        ["arp_ignore", "arp_announce", "rp_filter"].map(|key| pair.sysctl(key)),
        ["1", "2", "2"]
    );
    let _tunnel = pair.tunnel(Tunnel::Ipip, false);
    assert!(pair.pings(VIPS[0]));
    assert!(agent.stop().success(), "{}", agent.log());
    assert_eq!(pair.settings(), before);
    let link = pair
        .origin
        .namespace
        .run("ip", &["-details", "link", "show", "dev", "eth0"]);
    assert!(!link.contains("xdp"), "{link}");
    let output = run(&pair.origin.namespace, &["status"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        run(&pair.origin.namespace, &["detach", "eth0"]).status.code(),
        Some(5)
    );
    assert!(!pair.pings(VIPS[0]));
}

#[test]
fn origins_are_served_while_the_agent_is_dead() {
    needs_root!();
    let pair = Pair::new();
    let before = pair.settings();
    let _tunnel = pair.tunnel(Tunnel::Gue, false);
    let mut first = pair.agent(&AGENT);
    first.kill();
    assert!(pair.pings(VIPS[0]));
    assert!(!first.status().running);
    // The next one takes over, other settings and all, and knows what was changed before it.
    let mut second = pair.agent(&[&AGENT[..], &["--gue-port", "6081"]].concat());
    assert!(second.status().running);
    assert!(!pair.pings(VIPS[0]), "another port");
    second.kill();
    let output = run(&pair.origin.namespace, &["detach", "eth0"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(pair.settings(), before);
}

#[test]
fn an_interface_without_native_mode_is_served_too() {
    needs_root!();
    let pair = Pair::new();
    let origin = &pair.origin.namespace;
    // A bridge has none. Its address is that of its port, and the origin's.
    origin.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set dev br0 address 02:00:00:00:2f:11\nlink set dev br0 up");
    origin.ip("address flush dev eth0\nlink set dev eth0 master br0");
    let ([v4, v6], [gateway4, gateway6]) = (ORIGINS, NODES);
    origin.ip(&format!("address add {v4}/24 dev br0\naddress add {v6}/64 dev br0 nodad\nroute replace default via {gateway4}\nroute replace default via {gateway6}"));
    let agent = OriginAgent::start(origin, "br0", &AGENT, pair.folder.path());
    assert_eq!(agent.status().mode.as_deref(), Some("generic"));
    for outer_v6 in [false, true] {
        for kind in Tunnel::ALL {
            let _tunnel = pair.tunnel(kind, outer_v6);
            for vip in VIPS {
                assert!(pair.pings(vip), "{kind:?} {outer_v6} {vip}");
            }
        }
    }
}

#[test]
fn an_origin_does_not_claim_the_vip_on_its_network() {
    needs_root!();
    let pair = Pair::new();
    let [vip, _] = VIPS;
    pair.node.ip(&format!("route add {vip}/32 dev eth0"));
    pair.origin.namespace.ip(&format!("address add {vip}/32 dev lo"));
    assert!(pair.pings(vip), "as origins do by themselves");
    pair.node.ip("neigh flush dev eth0");
    let _agent = pair.agent(&[]);
    assert!(!pair.pings(vip));
}

#[test]
fn what_is_missing_is_said() {
    needs_root!();
    let pair = Pair::new();
    let mut nowhere = OriginAgent::launch(&pair.origin.namespace, "eth7", &[], pair.folder.path());
    assert_eq!(nowhere.wait_for_end().code(), Some(7), "{}", nowhere.log());
    assert!(nowhere.log().contains("eth7"), "{}", nowhere.log());
    let _agent = pair.agent(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut second = OriginAgent::launch(&pair.origin.namespace, "eth0", &[], folder.path());
    assert_eq!(second.wait_for_end().code(), Some(6), "{}", second.log());
    let refused = run(&pair.origin.namespace, &["detach", "eth0"]);
    assert_eq!(refused.status.code(), Some(6));
    // Nobody may run what root has built where root has built it: a copy.
    let copy = folder.path().join("lb");
    assert!(
        Command::new("cp")
            .arg(lb_binary())
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy);
    nobody
        .args(["origin-agent", "run", "--interface", "eth0"])
        .current_dir("/");
    let output = pair.origin.namespace.output(&mut nobody);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{words}");
    assert!(words.contains("CAP_BPF"), "{words}");
}
