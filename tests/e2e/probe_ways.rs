//! Monitors of origins that are forwarded to directly: their packets reach the VIP on exactly that origin, by every
//! tunnel, and the answers reach them, wherever the VIP is otherwise.

use lb_common::abi::{Forwarding, Port};
use lb_common::tunnel::GUE_PORT;
use lb_common::tunnel::probe::Probe;
use lb_core::engine::{ProbeRequest, TargetId};
use lb_core::health::{FailureReason, Observation};
use lb_core::model::{ExpectedCodes, Monitor, MonitorKind, Probe as Question};
use lb_tests::agent::OriginAgent;
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Host, Lab, VIP4, VIP6};
use lb_tests::needs_root;
use lb_tests::netns::Netns;
use lb_tests::servers::{ECHO_PORT, EchoServer};
use lb_tests::status::Status;
use lb_userspace::datapath::ways::Ways;
use lb_userspace::net::interface;
use lb_userspace::probe::{self, Probes, Way};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
const DIRECT: [Forwarding; 3] = [Forwarding::DSR_L2, Forwarding::DSR_IPIP, Forwarding::DSR_GUE];
const NOBODY: u16 = 9;

/// Client, node and origins on one network; the origins serve the VIPs, and nothing else.
struct World {
    lab: Lab,
    agents: Vec<OriginAgent>,
    servers: Vec<EchoServer>,
}

impl World {
    fn new(origins: usize) -> Self {
        let lab = Lab::one_arm(origins);
        let [v4, v6] = VIPS.map(|vip| vip.to_string());
        let start = |host: &Host| {
            let arguments = ["--vip", &v4, "--vip", &v6, "--add-vips"];
            OriginAgent::start(&host.namespace, "eth0", &arguments, &host.folder)
        };
        let agents = lab.origins.iter().map(start).collect();
        let servers = lab.origins.iter().flat_map(serve).collect();
        Self { lab, agents, servers }
    }

    fn prober(&self) -> Prober {
        Prober::start(&self.lab.node, "eth0")
    }

    /// A way to an origin and a VIP; of another family than the origin's address, if the two say so.
    fn way(&self, origin: &Host, forwarding: Forwarding, origin_v6: bool, vip_v6: bool) -> Probe {
        let vip = VIPS[usize::from(vip_v6)];
        let like = VIPS[usize::from(origin_v6)];
        let (origin, mixed) = (origin.address(like), origin_v6 != vip_v6);
        let ifindex = self.lab.node.enter(|| interface::by_name("eth0").unwrap().index);
        Probe {
            vip: vip.into(),
            target: if mixed { vip } else { origin }.into(),
            origin: origin.into(),
            source: self.lab.node_address(like).into(),
            ifindex: if mixed { ifindex } else { 0 },
            gue_port: Port::new(GUE_PORT),
            forwarding,
            live: 1,
        }
    }
}

/// Servers that listen at the VIPs alone.
fn serve(host: &Host) -> [EchoServer; 2] {
    VIPS.map(|vip| EchoServer::start_at(&host.namespace, &host.name, (vip, ECHO_PORT).into()))
}

/// Makes probes in the node's namespace.
struct Prober {
    namespace: Netns,
    probes: Arc<Probes>,
    ways: Mutex<Ways>,
}

impl Prober {
    fn start(namespace: &Netns, name: &str) -> Self {
        let ways = namespace.enter(|| {
            let index = interface::by_name(name).unwrap().index;
            let mut ways = Ways::load(1000).unwrap();
            ways.attach(&[(name.to_owned(), index)]).unwrap();
            ways
        });
        Self {
            namespace: namespace.clone(),
            probes: Arc::new(Probes::new().unwrap()),
            ways: Mutex::new(ways),
        }
    }

    fn by(&self, probe: &Probe) -> Way {
        let mark = self.ways.lock().unwrap().mark(probe).unwrap();
        Way {
            mark,
            target: probe.target.into(),
            device: (probe.ifindex != 0).then(|| "eth0".to_owned()),
        }
    }

    /// One probe of each, all at the same time.
    fn probe_all(&self, what: &[(MonitorKind, Probe, u16)]) -> Vec<Observation> {
        let run = async {
            let mut tasks = Vec::new();
            for (kind, probe, port) in what {
                let (request, way) = (request(kind.clone(), probe, *port), self.by(probe));
                let probes = Arc::clone(&self.probes);
                tasks.push(tokio::spawn(async move {
                    probe::attempt_by(&request, Some(&way), &probes).await.0
                }));
            }
            let mut all = Vec::new();
            for task in tasks {
                all.push(task.await.unwrap());
            }
            all
        };
        self.namespace.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(run)
        })
    }

    fn probe(&self, kind: MonitorKind, probe: &Probe, port: u16) -> Observation {
        self.probe_all(&[(kind, *probe, port)]).remove(0)
    }
}

fn request(kind: MonitorKind, probe: &Probe, port: u16) -> ProbeRequest {
    let monitor = Monitor {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(3),
        retries: 0,
        consecutive_up: 0,
        consecutive_down: 0,
        ..Monitor::new("test", kind)
    };
    ProbeRequest {
        target: TargetId(1),
        attempt: 1,
        monitor: Arc::new(monitor),
        address: probe.origin.into(),
        port,
        host: None,
        host_name: None,
        via: None,
    }
}

/// A GET with a header of that many bytes.
fn http(path: &str, header: usize) -> MonitorKind {
    MonitorKind::Http(Question {
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: vec![("X-Padding".to_owned(), "x".repeat(header))],
        expected_codes: ExpectedCodes::default(),
        expected_body: String::new(),
        follow_redirects: false,
    })
}

#[test]
fn a_probe_reaches_the_vip_by_every_way() {
    needs_root!();
    let world = World::new(1);
    let origin = &world.lab.origins[0];
    let _nginx = lb_tests::servers::nginx(origin);
    let prober = world.prober();
    // The VIPs are routed by an interface of ours: where probes of another family leave.
    world.lab.node.ip(&format!(
        "route add default via {}\nroute add default via {}",
        world.lab.client_address(VIPS[0]),
        world.lab.client_address(VIPS[1])
    ));
    let mut ways = Vec::new();
    for forwarding in DIRECT {
        for origin_v6 in [false, true] {
            for vip_v6 in [false, true] {
                if forwarding == Forwarding::DSR_L2 && origin_v6 != vip_v6 {
                    continue;
                }
                ways.push(world.way(origin, forwarding, origin_v6, vip_v6));
            }
        }
    }
    assert_eq!(ways.len(), 2 + 4 + 4);
    // Checksums that are left to the device, and that the node finishes itself.
    for offload in ["on", "off"] {
        world.lab.node.offload("eth0", "tx", offload);
        for way in &ways {
            let what = format!("with offload {offload} by {way:?}");
            // Nobody listens at the origin's own address. The last question takes several segments.
            for (kind, port) in [
                (MonitorKind::Tcp, ECHO_PORT),
                (MonitorKind::IcmpPing, 0),
                (http("/", 0), 80),
                (http("/", 6000), 80),
            ] {
                let seen = prober.probe(kind.clone(), way, port);
                assert!(seen.is_ok(), "{kind:?} {what}: {seen:?}");
            }
            let refused = prober.probe(MonitorKind::Tcp, way, NOBODY);
            assert_eq!(refused, Err(FailureReason::ConnectionFailed), "{what}");
        }
    }
    let agent = &world.agents[0];
    assert!(agent.count("ipip") >= 4 * 4 && agent.count("gue") >= 4 * 4);
    for outcome in ["malformed", "not_vip", "not_local", "fragment"] {
        assert_eq!(agent.count(outcome), 0, "{outcome}");
    }
}

#[test]
fn a_probe_reaches_origins_when_the_node_owns_the_vip() {
    needs_root!();
    let world = World::new(1);
    world.lab.own_vips();
    world.lab.node.sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    let prober = world.prober();
    for forwarding in DIRECT {
        for v6 in [false, true] {
            let way = world.way(&world.lab.origins[0], forwarding, v6, v6);
            for (kind, port) in [(MonitorKind::Tcp, ECHO_PORT), (MonitorKind::IcmpPing, 0)] {
                prober
                    .probe(kind, &way, port)
                    .unwrap_or_else(|reason| panic!("{forwarding:?} {v6}: {reason:?}"));
            }
        }
    }
}

#[test]
fn each_origins_health_is_its_own() {
    needs_root!();
    let mut world = World::new(2);
    let prober = world.prober();
    let [a, b] = &world.lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let ways: Vec<Probe> = [a, b]
        .iter()
        .map(|origin| world.way(origin, Forwarding::DSR_IPIP, false, false))
        .collect();
    for way in &ways {
        prober.probe(MonitorKind::Tcp, way, ECHO_PORT).unwrap();
    }
    // The second origin's servers end, the first's go on. All answers come from one address and port.
    world.servers.truncate(2);
    let both: Vec<_> = (0..400)
        .map(|number| (MonitorKind::Tcp, ways[number % 2], ECHO_PORT))
        .collect();
    for (number, seen) in prober.probe_all(&both).into_iter().enumerate() {
        match number % 2 {
            0 => assert!(seen.is_ok(), "{number}: {seen:?}"),
            _ => assert_eq!(seen, Err(FailureReason::ConnectionFailed), "{number}"),
        }
    }
}

#[test]
fn without_an_agent_an_origin_does_not_serve() {
    needs_root!();
    let mut world = World::new(1);
    let prober = world.prober();
    let ways = DIRECT.map(|forwarding| world.way(&world.lab.origins[0], forwarding, false, false));
    world.lab.origins[0]
        .namespace
        .ip(&format!("address add {VIP4}/32 dev eth0"));
    world.agents.clear();
    let [l2, ipip, gue] = ways.map(|way| prober.probe(MonitorKind::Tcp, &way, ECHO_PORT));
    assert!(l2.is_ok(), "no tunnel, no agent: {l2:?}");
    // The kernel says that nobody takes the protocol; the socket hears nothing of it.
    assert_eq!(ipip, Err(FailureReason::TcpTimeout));
    assert_eq!(gue, Err(FailureReason::TcpTimeout));
}

#[test]
fn a_mark_that_stands_for_nothing_changes_nothing() {
    needs_root!();
    let world = World::new(1);
    let prober = world.prober();
    let origin = &world.lab.origins[0];
    let own = EchoServer::start_at(
        &origin.namespace,
        "own",
        (IpAddr::from(origin.v4), ECHO_PORT).into(),
    );
    let way = world.way(origin, Forwarding::DSR_IPIP, false, false);
    // Another origin's way: the packets are for somebody else, and go where they say.
    let other = Probe {
        target: world.lab.client_address(VIPS[0]).into(),
        ..way
    };
    let stray = Way {
        target: origin.v4.into(),
        ..prober.by(&other)
    };
    let unused = Way {
        mark: stray.mark + 1,
        ..stray.clone()
    };
    for way in [stray, unused] {
        let reached = prober.namespace.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let request = request(MonitorKind::Tcp, &other, ECHO_PORT);
            let request = ProbeRequest {
                address: origin.v4.into(),
                ..request
            };
            runtime
                .block_on(probe::attempt_by(&request, Some(&way), &prober.probes))
                .0
        });
        assert!(reached.is_ok(), "{reached:?}");
    }
    drop(own);
}

/// An application on a VIP, over all origins of the lab, by a tunnel.
fn served(world: &World, forwarding: &str, vip: IpAddr, like: IpAddr) -> String {
    let origins = world.lab.origins.iter();
    let eu = origins.fold(pool("eu"), |pool, host| pool.origin(host, like, 0, 1.0));
    format!(
        "{MONITOR}{}{}{}",
        eu.line(&format!("forwarding = \"{forwarding}\"")),
        balancer("echo", &["eu"], None),
        application("echo", &format!("tcp/{ECHO_PORT}"), vip, "echo")
    )
}

fn health<'a>(status: &'a Status, origin: &str) -> &'a str {
    status.origin("eu", origin)["health"].as_str().unwrap()
}

#[test]
fn the_daemon_asks_the_vip_at_each_origin() {
    needs_root!();
    for (forwarding, vip) in [("dsr_l2", VIPS[0]), ("dsr_ipip", VIPS[1]), ("dsr_gue", VIPS[0])] {
        let mut world = World::new(2);
        // As an announcing daemon has it.
        world.lab.own_vips();
        let mut lb = Daemon::start(&world.lab, &served(&world, forwarding, vip, vip));
        lb.wait("both are healthy", |status| {
            ["a", "b"]
                .iter()
                .all(|origin| health(status, origin) == "healthy")
        });
        // Clients go the same way, and are answered straight.
        let mut flow = world
            .lab
            .client
            .enter(|| EchoFlow::open((vip, ECHO_PORT).into()))
            .unwrap_or_else(|error| panic!("{forwarding}: {error}"));
        flow.ping().unwrap();
        assert!(["a", "b"].contains(&flow.origin()), "{}", flow.origin());
        drop(flow);
        // Only the first one's servers go on; both hosts do.
        world.servers.truncate(2);
        lb.wait("one is not", |status| {
            (health(status, "a"), health(status, "b")) == ("healthy", "unhealthy")
        });
        let problem = lb.status().origin("eu", "a")["path_problem"].clone();
        assert!(problem.is_null(), "{problem}");
        let filters = |parent| {
            world
                .lab
                .node
                .run("tc", &["filter", "show", "dev", "eth0", parent])
        };
        drop(lb);
        assert_eq!(
            (filters("egress"), filters("ingress")),
            (String::new(), String::new())
        );
    }
}

#[test]
fn a_vip_that_cannot_be_asked_is_named_and_the_origin_itself_is_asked() {
    needs_root!();
    let world = World::new(1);
    let [v4, v6] = VIPS;
    let mut lb = Daemon::start(&world.lab, &served(&world, "dsr_ipip", v6, v4));
    let problem = |status: &Status| {
        let problem = status.origin("eu", "a")["path_problem"]
            .as_str()
            .map(str::to_owned);
        problem.unwrap_or_default()
    };
    // The VIP is of another family than the origin, and no route leads to it.
    lb.wait("the origin's own address is asked", |status| {
        health(status, "a") == "unhealthy" && problem(status).contains(&v6.to_string())
    });
    let own = EchoServer::start_at(
        &world.lab.origins[0].namespace,
        "own",
        (world.lab.origins[0].v4, ECHO_PORT).into(),
    );
    lb.wait("somebody answers there", |status| {
        health(status, "a") == "healthy"
    });
    drop(own);
    world
        .lab
        .node
        .ip(&format!("route add default via {}", world.lab.client_address(v6)));
    lb.wait("the VIP is asked", |status| {
        health(status, "a") == "healthy" && problem(status).is_empty()
    });
}
