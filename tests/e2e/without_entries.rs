//! TCP connections to origins that answer clients directly need no entry in a flow table: they stay where they began all
//! the same, whatever the configuration becomes.

use crate::explain::assert_told_once;
use crate::on_all;
use lb_tests::agent::OriginAgent;
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{Pool, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::{EchoFlow, connect_from};
use lb_tests::forwarding::{Forwarding, agent_of};
use lb_tests::lab::Lab;
use lb_tests::lab::direct::straight;
use lb_tests::servers::{ECHO_PORT, EchoServer};
use lb_tests::{needs_root, servers};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const FORWARDINGS: [Forwarding; 3] = [Forwarding::DsrL2, Forwarding::DsrIpip, Forwarding::DsrGue];
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Connections to each VIP.
const CONNECTIONS: usize = 40;

fn vips() -> [IpAddr; 2] {
    [straight(20, false), straight(20, true)]
}

/// Three origins, one for each way to forward without the answers' coming back, with an echo server each.
struct World {
    lab: Lab,
    _agents: Vec<OriginAgent>,
    servers: Vec<EchoServer>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::direct(FORWARDINGS.len());
        let agents = (lab.origins.iter())
            .map(|host| agent_of(host, &vips(), &[]))
            .collect();
        let servers = on_all(&lab, servers::echo);
        Self {
            lab,
            _agents: agents,
            servers,
        }
    }

    /// A pool of the origins with these weights; those without one are not in it.
    fn pool(&self, weights: [Option<f64>; 3]) -> Pool {
        self.pool_by(FORWARDINGS, weights)
    }

    /// The same, with other ways to forward.
    fn pool_by(&self, forwardings: [Forwarding; 3], weights: [Option<f64>; 3]) -> Pool {
        let origins = self.lab.origins.iter().zip(forwardings).zip(weights);
        origins.fold(
            pool("eu").unmonitored(),
            |pool, ((host, forwarding), weight)| match weight {
                Some(weight) => pool
                    .origin(host, vips()[0], 0, weight)
                    .origin_line(&format!("forwarding = \"{}\"", forwarding.name())),
                None => pool,
            },
        )
    }

    fn open(&self, vip: IpAddr) -> EchoFlow {
        let opened = self.lab.client.enter(|| EchoFlow::open((vip, ECHO_PORT).into()));
        opened.expect("the echo server answers")
    }

    fn open_many(&self) -> Vec<EchoFlow> {
        let each = vips().into_iter().flat_map(|vip| [vip; CONNECTIONS]);
        each.map(|vip| self.open(vip)).collect()
    }
}

fn config(pool: &Pool) -> String {
    named(["echo4", "echo6"], pool)
}

fn named(names: [&str; 2], pool: &Pool) -> String {
    let applications = names.into_iter().zip(vips());
    let applications = applications.map(|(name, vip)| application(name, "tcp/7", vip, "echo"));
    format!(
        "{pool}{}{}",
        balancer("echo", &["eu"], None),
        applications.collect::<String>()
    )
}

fn change(lb: &Daemon, pool: &Pool) {
    lb.write_config(&config(pool));
    lb.lb_ok(&["reload"]);
}

fn ping_all(flows: &mut [EchoFlow], when: &str) {
    for flow in flows {
        let origin = flow.origin().to_owned();
        flow.ping()
            .unwrap_or_else(|error| panic!("{when}: of {origin}: {error}"));
    }
}

fn by_origin(flows: &[EchoFlow]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for flow in flows {
        *counts.entry(flow.origin()).or_default() += 1;
    }
    counts
}

/// Entries of TCP flows, by origin.
fn entries(lb: &Daemon) -> BTreeMap<String, usize> {
    let text = lb.lb_ok(&["--json", "flows"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let mut counts = BTreeMap::new();
    for flow in list["flows"].as_array().expect("a list") {
        let origin = flow["origin"].as_str().expect("a name").to_owned();
        *counts.entry(origin).or_default() += 1;
    }
    counts
}

#[test]
fn connections_outlive_every_change_without_an_entry() {
    needs_root!();
    let world = World::new();
    let mut lb = Daemon::start(
        &world.lab,
        &config(&world.pool([Some(1.0), Some(1.0), Some(1.0)])),
    );
    lb.wait_healthy(&["eu"]);
    let mut flows = world.open_many();
    ping_all(&mut flows, "at first");
    assert_eq!(by_origin(&flows).len(), 3, "{:?}", by_origin(&flows));
    assert_eq!(entries(&lb), BTreeMap::new());
    // Their origins are given next to nothing, and others get new connections.
    for (number, heavy) in [0, 1, 2, 0].into_iter().enumerate() {
        let mut weights = [Some(0.0); 3];
        weights[heavy] = Some(1.0);
        change(&lb, &world.pool(weights));
        let newer = world.open_many();
        let expected = BTreeMap::from([(NAMES[heavy], 2 * CONNECTIONS)]);
        assert_eq!(by_origin(&newer), expected, "new ones follow the weights");
        ping_all(&mut flows, &format!("after change {number}"));
        flows.extend(newer);
        ping_all(&mut flows, &format!("with those of change {number}"));
    }
    // An origin leaves, and comes back as the same.
    change(&lb, &world.pool([Some(1.0), Some(1.0), None]));
    ping_all(&mut flows, "when c has left");
    lb.kill();
    ping_all(&mut flows, "without a daemon");
    lb.run();
    lb.wait_healthy(&["eu"]);
    ping_all(&mut flows, "after a restart");
    change(&lb, &world.pool([Some(0.2), Some(1.0), Some(1.0)]));
    flows.extend(world.open_many());
    ping_all(&mut flows, "when c has come back");
}

/// Where an origin that translates joins, some connections have entries and others of the same buckets none.
#[test]
fn connections_outlive_other_ways_to_forward_and_other_names() {
    needs_root!();
    let world = World::new();
    let all = |weight| [Some(1.0), Some(1.0), weight];
    let mut lb = Daemon::start(&world.lab, &config(&world.pool(all(None))));
    lb.wait_healthy(&["eu"]);
    let mut flows = world.open_many();
    let translated = [Forwarding::DsrL2, Forwarding::DsrIpip, Forwarding::Nat];
    for round in 0..3 {
        change(&lb, &world.pool_by(translated, all(Some(1.0))));
        ping_all(&mut flows, &format!("when c has joined for the {round}th time"));
        let newer = world.open_many();
        assert!(by_origin(&newer).contains_key("c"), "{:?}", by_origin(&newer));
        flows.extend(newer);
        ping_all(&mut flows, &format!("round {round}"));
        change(&lb, &world.pool_by(translated, all(Some(0.0))));
        flows.extend(world.open_many());
        ping_all(&mut flows, &format!("when c gets no more in round {round}"));
        change(&lb, &world.pool(all(None)));
        flows.extend(world.open_many());
        ping_all(&mut flows, &format!("when c has left in round {round}"));
    }
    lb.write_config(&named(
        ["one", "other"],
        &world.pool([Some(1.0), Some(0.0), None]),
    ));
    lb.lb_ok(&["reload"]);
    ping_all(&mut flows, "under other names");
    flows.extend(world.open_many());
    ping_all(&mut flows, "with those that came under other names");
    lb.write_config(&named(
        ["other", "one"],
        &world.pool([Some(1.0), Some(0.0), None]),
    ));
    lb.lb_ok(&["reload"]);
    ping_all(&mut flows, "when the two have changed their names");
}

#[test]
fn what_the_operator_is_told_of_connections_without_entries_is_true() {
    needs_root!();
    let world = World::new();
    let only_a = world.pool([Some(1.0), None, None]);
    let mut lb = Daemon::start(&world.lab, &config(&only_a));
    lb.wait_healthy(&["eu"]);
    let [vip, _] = vips();
    let client = SocketAddr::from((world.lab.straight_address(false), 40_001));
    let server = SocketAddr::from((vip, ECHO_PORT));
    let explain = |lb: &Daemon| -> Value {
        let text = lb.lb_ok(&[
            "--json",
            "explain",
            "tcp",
            &client.to_string(),
            &server.to_string(),
        ]);
        let explained = serde_json::from_str(&text).expect("JSON");
        assert_told_once(&explained);
        explained
    };
    assert_eq!(explain(&lb)["origin"], "a");
    let stream = world.lab.client.enter(|| connect_from(client, server)).unwrap();
    let mut flow = EchoFlow::over(stream).unwrap();
    flow.ping().unwrap();
    lb.wait("the flow is counted", |status| {
        status.application("echo4")["flows"].as_u64() == Some(1)
    });
    // The next from there would go elsewhere; this one does not.
    change(&lb, &world.pool([Some(0.0), Some(1.0), None]));
    wait_until(SOON, "b gets new flows", || {
        (explain(&lb)["origin"] == "b").then_some(())
    });
    flow.ping().unwrap();
    assert_eq!(flow.origin(), "a");
    assert_eq!(entries(&lb), BTreeMap::new());
    // Whoever forgets it makes a new one of it, and b knows nothing of that.
    let told = lb.lb_ok(&["--json", "flows", "--origin", "eu/a", "flush"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["flushed"], 1);
    assert!(flow.ping().is_err());
}

#[test]
fn a_drain_ends_connections_without_entries_at_its_deadline() {
    needs_root!();
    let world = World::new();
    let mut lb = Daemon::start(
        &world.lab,
        &config(&world.pool([Some(1.0), Some(1.0), Some(1.0)])),
    );
    lb.wait_healthy(&["eu"]);
    let mut flows = world.open_many();
    ping_all(&mut flows, "at first");
    lb.lb_ok(&["origins", "drain", "eu/a", "--deadline", "1h"]);
    ping_all(&mut flows, "while a drains");
    assert!(!by_origin(&world.open_many()).contains_key("a"));
    let drained = lb.lb(&["origins", "drain", "eu/a", "--deadline", "0.5s", "--wait"]);
    assert!(drained.status.success(), "{drained:?}");
    let (ended, mut others): (Vec<_>, Vec<_>) = flows.into_iter().partition(|flow| flow.origin() == "a");
    assert!(!ended.is_empty());
    for mut flow in ended {
        assert!(flow.ping().is_err(), "it was reset");
    }
    wait_until(SOON, "the origin is told", || {
        (world.servers[0].connections() == 0).then_some(())
    });
    ping_all(&mut others, "when a has drained");
    lb.lb_ok(&["origins", "enable", "eu/a"]);
    wait_until(SOON, "new connections lead to a again", || {
        Some(world.open(vips()[0])).filter(|flow| flow.origin() == "a")
    });
    ping_all(&mut others, "when a is back");
}

/// What was made at an address before an application with buckets came to it is found there, be they another's by now.
#[test]
fn connections_with_entries_outlive_the_coming_of_buckets() {
    needs_root!();
    let world = World::new();
    let [four, six] = vips();
    // The second address is the application's, or another's whose connections have entries.
    let shared = |weights: [f64; 3], kept: bool| {
        let pool = world.pool(weights.map(Some));
        let balancer = balancer("echo", &["eu"], None);
        let echo = application("echo", "tcp/7", four, "echo");
        if kept {
            let keeper = application("keeper", "tcp/7", six, "echo");
            return format!("{pool}{balancer}{echo}{keeper}affinity = {{ ttl = 60 }}\n");
        }
        let both = echo.replace(&format!("[\"{four}\"]"), &format!("[\"{four}\", \"{six}\"]"));
        format!("{pool}{balancer}{both}")
    };
    let configure = |lb: &Daemon, weights: [f64; 3], kept: bool| {
        lb.write_config(&shared(weights, kept));
        lb.lb_ok(&["reload"]);
    };
    let mut lb = Daemon::start(&world.lab, &shared([1.0, 1.0, 0.0], false));
    lb.wait_healthy(&["eu"]);
    let counted = |lb: &mut Daemon, buckets: usize| {
        lb.wait("a sweep has seen the connections", |status| {
            (status.application("echo")["flows"].as_u64()).is_some_and(|flows| flows > buckets as u64)
        });
    };
    let owners: Vec<EchoFlow> = (0..200).map(|_| world.open(six)).collect();
    counted(&mut lb, 50);
    // The next one tells of all these that they have no entries.
    let others: Vec<EchoFlow> = (0..200).map(|_| world.open(four)).collect();
    counted(&mut lb, 200);
    assert_eq!(entries(&lb), BTreeMap::new());
    drop((owners, others));
    configure(&lb, [0.0, 0.0, 1.0], true);
    let mut flows: Vec<EchoFlow> = (0..CONNECTIONS).map(|_| world.open(six)).collect();
    assert_eq!(by_origin(&flows), BTreeMap::from([("c", CONNECTIONS)]));
    ping_all(&mut flows, "at their own application");
    assert_eq!(entries(&lb), BTreeMap::from([("c".to_owned(), CONNECTIONS)]));
    for round in 0..2 {
        configure(&lb, [1.0, 1.0, 0.0], false);
        ping_all(&mut flows, &format!("round {round}: when the other is there"));
        configure(&lb, [1.0, 1.0, 0.0], true);
        ping_all(&mut flows, &format!("round {round}: when their own is back"));
    }
}
