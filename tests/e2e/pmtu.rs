//! Paths that carry less than the links at their ends: large transfers complete, because every "too big" comes to where it
//! is heeded, also when it arrives on another CPU than what it is about.

use crate::on_all;
use lb_common::datapath::{DropReason, Reply};
use lb_tests::config::{MONITOR, application};
use lb_tests::daemon::Daemon;
use lb_tests::files::{download, generate, sha256, upload};
use lb_tests::forwarding::{Forwarding, Route, agent, pool_names, pools};
use lb_tests::gate::number;
use lb_tests::lab::Lab;
use lb_tests::netns::Netns;
use lb_tests::servers::HTTP_PORT;
use lb_tests::{needs_root, servers};
use std::process::Command;
use std::time::{Duration, Instant};

/// No transfer takes as long, unless a packet is lost for good.
const LIMIT: Duration = Duration::from_secs(20);
/// The CPU on which the client sends, and another.
const CPUS: [u32; 2] = [0, 1];

/// Lets a CPU handle what arrives by an interface, whoever has sent it.
fn handle_on(namespace: &Netns, interface: &str, cpu: u32) {
    // Another /sys, which shows the namespace's interfaces.
    let mask = format!(
        "echo {:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus",
        1 << cpu
    );
    let mut exec = Command::new("ip");
    exec.args(["netns", "exec", namespace.name(), "sh", "-c", &mask]);
    let output = exec.output().unwrap();
    assert!(
        output.status.success(),
        "{mask}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Bytes that tunnels add.
fn overhead(route: Route) -> u32 {
    let outer = if route.origin_v6 { 40 } else { 20 };
    match route.forwarding {
        Forwarding::DsrIpip => outer,
        Forwarding::DsrGue => outer + 8,
        _ => 0,
    }
}

/// The MTU that a machine has learned of a path.
fn learned(namespace: &Netns, arguments: &[&str]) -> Option<u32> {
    let shown = namespace.run("ip", &[&["route", "get"], arguments].concat());
    let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1)?.parse().ok()
}

fn configuration(lab: &Lab, routes: &[Route]) -> String {
    let applications = routes
        .iter()
        .map(|route| application(&route.name(), "tcp/80", route.vip(), &route.pool()));
    format!(
        "{MONITOR}port = {HTTP_PORT}\n{}{}",
        pools(lab, routes),
        applications.collect::<String>()
    )
}

/// What both ends have learned of the path to each other.
struct Learned {
    client: Option<u32>,
    origin: Option<u32>,
}

/// A lab with a server, and a large file that it and the client have.
struct Office {
    lab: Lab,
    megabytes: usize,
    sum: String,
    _nginx: Vec<servers::Server>,
}

impl Office {
    fn open(lab: Lab) -> Self {
        let _nginx = on_all(&lab, servers::nginx);
        let megabytes = number("LB_TEST_TRANSFER_MB", 10);
        let original = lab.folder().join("original");
        generate(&original, megabytes);
        std::fs::hard_link(&original, servers::files(&lab.origins[0]).join("big")).unwrap();
        let sum = sha256(&original);
        Self {
            lab,
            megabytes,
            sum,
            _nginx,
        }
    }

    /// Carries the file both ways; says which MTU client and origin have learned, and what went wrong.
    fn transfer(&self, route: Route) -> (Learned, Option<String>) {
        let url = |path: &str| match route.vip() {
            std::net::IpAddr::V4(vip) => format!("http://{vip}/{path}"),
            std::net::IpAddr::V6(vip) => format!("http://[{vip}]/{path}"),
        };
        let (lab, name) = (&self.lab, route.name());
        let started = Instant::now();
        let down = download(&lab.client, &url("files/big"), LIMIT);
        let between = started.elapsed();
        let origin = self.forget(route);
        let original = lab.folder().join("original");
        let up = upload(&lab.client, &original, &url(&format!("upload/{name}")), LIMIT);
        let up = up.map(|()| sha256(&servers::uploads(&lab.origins[0]).join(&name)));
        let whole = started.elapsed();
        println!(
            "{name:20} {} MB down in {:.2} s, up in {:.2} s",
            self.megabytes,
            between.as_secs_f64(),
            (whole - between).as_secs_f64()
        );
        let wanted = Ok(self.sum.clone());
        let wrong = (up != wanted || down != wanted)
            .then(|| format!("{name}: {up:?} up, {down:?} down, {wanted:?} wanted"));
        let learned = Learned {
            client: self.forget(route).client,
            origin: origin.origin,
        };
        (learned, wrong)
    }

    /// Lets both ends forget what they have learned, and says what that was: with it, they would ask for small segments
    /// from the start, and the next transfer would learn nothing.
    fn forget(&self, route: Route) -> Learned {
        let (client, origin) = (&self.lab.client, &self.lab.origins[0].namespace);
        let vip = route.vip().to_string();
        let lab = &self.lab;
        let straight = lab.straight_address(route.vip_v6).to_string();
        let own = lab.client_address(route.vip()).to_string();
        let node = lab.node_address_inside(route.vip()).to_string();
        let known = Learned {
            client: learned(client, &[&vip]),
            origin: match route.forwarding {
                Forwarding::Nat => learned(origin, &[&node]),
                Forwarding::Dnat => learned(origin, &[&own]),
                _ => learned(origin, &[&straight, "from", &vip]),
            },
        };
        for namespace in [client, origin] {
            for family in ["-4", "-6"] {
                namespace.run("ip", &[family, "route", "flush", "cache"]);
            }
        }
        known
    }
}

/// Where the path to the origins is narrow.
#[derive(Clone, Copy, PartialEq)]
enum Narrow {
    /// Behind the first router.
    Beyond,
    /// The node's own link is.
    AtNode,
}

/// Whether a tunnel over that path leaves less than any IPv6 path carries: then nothing smaller can be asked for, and
/// the origin must not let anybody send that much.
fn needs_clamp(route: Route, mtu: u32) -> bool {
    route.vip_v6 && mtu - overhead(route) < 1280
}

fn transfers_complete(mtu: u32, errors_on: u32, narrow: Narrow) {
    let lab = Lab::narrow(1, mtu);
    let [near, far] = lab.routers();
    if narrow == Narrow::AtNode {
        lab.node.ip(&format!("link set dev eth1 mtu {mtu}"));
        near.ip(&format!("link set dev eth0 mtu {mtu}"));
    }
    // The client sends on one CPU, and routers find packets too big on another.
    handle_on(&lab.client, "eth0", CPUS[0]);
    handle_on(&lab.client, "eth1", CPUS[0]);
    handle_on(near, "eth0", errors_on);
    handle_on(far, "eth2", errors_on);
    // Origins behind a router have no link address to send to.
    let routes: Vec<Route> = Route::all()
        .into_iter()
        .filter(|route| route.forwarding != Forwarding::DsrL2)
        .collect();
    let mut agent = Some(agent(&lab.origins[0], &[]));
    let office = Office::open(lab);
    let lab = &office.lab;
    let mut lb = Daemon::start(lab, &configuration(lab, &routes));
    let names = pool_names(&routes);
    lb.wait_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    let (clamped, plain): (Vec<Route>, Vec<Route>) =
        routes.into_iter().partition(|route| needs_clamp(*route, mtu));
    for route in plain {
        let (learned, failure) = office.transfer(route);
        wrong.extend(failure);
        // That it was found out, and not avoided: what the node knows of the path, by itself or from the transfers before,
        // it tells in the handshake, to who gets segments by a way of which it knows.
        let (through_node, first) = (!route.forwarding.is_straight(), route.vip_v6 == route.origin_v6);
        let wanted = Some(mtu - overhead(route));
        if learned.client != wanted && !(narrow == Narrow::AtNode && through_node) {
            wrong.push(format!(
                "{}: the client knows {:?}, not {wanted:?}",
                route.name(),
                learned.client
            ));
        }
        let wanted = Some(mtu);
        if learned.origin != wanted && narrow == Narrow::Beyond && !through_node && first {
            wrong.push(format!(
                "{}: the origin knows {:?}, not {wanted:?}",
                route.name(),
                learned.origin
            ));
        }
    }
    if !clamped.is_empty() {
        drop(agent.take());
        agent = Some(lb_tests::forwarding::agent(
            &lab.origins[0],
            &["--clamp-mtu", &mtu.to_string()],
        ));
        for route in clamped {
            wrong.extend(office.transfer(route).1);
        }
    }
    drop(agent);
    let learned = lb.verdicts(DropReason::PathMtuLearned.row());
    let told = lb.verdicts(Reply::TooBig.row());
    println!("path MTU {mtu}: learned {learned:?}, told {told:?} by CPU");
    if narrow == Narrow::Beyond {
        let [here, other] = CPUS.map(|cpu| learned[cpu as usize]);
        let (expected, unexpected) = if errors_on == CPUS[0] {
            (here, other)
        } else {
            (other, here)
        };
        println!("on the wanted CPU {expected}, on the other {unexpected}");
        if expected == 0 || unexpected > expected {
            wrong.push(format!("errors came on the wrong CPU: {learned:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn transfers_complete_over_a_path_of_1400_bytes() {
    needs_root!();
    transfers_complete(1400, CPUS[0], Narrow::Beyond);
}

#[test]
fn transfers_complete_over_a_path_of_1280_bytes() {
    needs_root!();
    transfers_complete(1280, CPUS[0], Narrow::Beyond);
}

#[test]
fn transfers_complete_over_1400_bytes_when_errors_come_on_another_cpu() {
    needs_root!();
    transfers_complete(1400, CPUS[1], Narrow::Beyond);
}

#[test]
fn transfers_complete_over_1280_bytes_when_errors_come_on_another_cpu() {
    needs_root!();
    transfers_complete(1280, CPUS[1], Narrow::Beyond);
}

#[test]
fn transfers_complete_when_the_nodes_own_link_carries_less() {
    needs_root!();
    transfers_complete(1400, CPUS[0], Narrow::AtNode);
}

/// The routers between client and node tell the VIP, and the node must tell the origin.
#[test]
fn downloads_complete_over_a_narrow_path_to_the_client() {
    needs_root!();
    for (mtu, errors_on) in [(1400, CPUS[0]), (1280, CPUS[1])] {
        let lab = Lab::distant(1, mtu);
        let [outer, inner] = lab.routers();
        for (namespace, interface, cpu) in [(outer, "eth0", CPUS[0]), (inner, "eth0", errors_on)] {
            handle_on(namespace, interface, cpu);
        }
        handle_on(&lab.origins[0].namespace, "eth0", CPUS[0]);
        let routes: Vec<Route> = Route::all()
            .into_iter()
            .filter(|route| !route.forwarding.is_straight())
            .collect();
        let office = Office::open(lab);
        let mut lb = Daemon::start(&office.lab, &configuration(&office.lab, &routes));
        let names = pool_names(&routes);
        lb.wait_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for route in routes {
            let (learned, failure) = office.transfer(route);
            assert_eq!(failure, None);
            assert_eq!(learned.origin, Some(mtu), "the origin of {}", route.name());
        }
    }
}

/// On one network with the origin, nobody but the node can tell the client; and the router of the straight way back tells the
/// VIP, so that the node must tell the origin.
#[test]
fn transfers_by_link_address_complete_over_narrow_links() {
    needs_root!();
    for (mtu, errors_on) in [(1400, CPUS[0]), (1400, CPUS[1]), (1280, CPUS[0]), (1280, CPUS[1])] {
        let lab = Lab::direct(1);
        lab.node.ip(&format!("link set dev eth1 mtu {mtu}"));
        let back = lab.router_back();
        back.ip(&format!("link set dev client mtu {mtu}"));
        handle_on(&lab.client, "eth0", CPUS[0]);
        handle_on(&lab.client, "eth1", CPUS[0]);
        handle_on(back, "eth1", errors_on);
        let routes: Vec<Route> = Route::all()
            .into_iter()
            .filter(|route| route.forwarding == Forwarding::DsrL2)
            .collect();
        let _agent = agent(&lab.origins[0], &[]);
        let office = Office::open(lab);
        let mut lb = Daemon::start(&office.lab, &configuration(&office.lab, &routes));
        let names = pool_names(&routes);
        lb.wait_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for route in routes {
            let (learned, failure) = office.transfer(route);
            assert_eq!(failure, None);
            assert_eq!(learned.client, Some(mtu), "the client of {}", route.name());
            assert_eq!(learned.origin, Some(mtu), "the origin of {}", route.name());
        }
    }
}
