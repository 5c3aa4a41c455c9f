//! Origins and pools die and come back: the verdict of the monitor is the moment that counts.

use crate::{dns_at, eu, http_at, names, on_all};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load::{self, Load, Report};
use lb_tests::servers::{ECHO_PORT, HTTP_PORT};
use lb_tests::{dns, gate, needs_root, servers};
use std::time::{Duration, Instant};

/// Requests a second while things die.
const RATE: u32 = 200;
/// How long after the verdict a new flow may still go astray.
const BOUND: Duration = Duration::from_millis(100);
/// How much load is watched after each change.
const WATCHED: usize = 200;

/// Waits until enough requests were made after `from`, and returns those.
fn watch(load: &Load, from: Instant) -> Report {
    wait_until(SOON, "enough requests were made", || {
        let report = load.so_far().since(from);
        (report.total() >= WATCHED).then_some(report)
    })
}

#[test]
fn no_new_connection_reaches_a_dead_origin_once_its_verdict_is_known() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(2);
    let a = servers::nginx(&lab.origins[0]);
    let _b = servers::nginx(&lab.origins[1]);
    let config = crate::web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0]));
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let load = Load::start(&lab.client, RATE, load::http(http_at(VIP4)));
    let before = watch(&load, Instant::now());
    assert_all_served(&before);
    assert!(before.share("a") > 0.2, "{:?}", before.counts());

    let killed = Instant::now();
    a.kill();
    let status = lb.wait_origin("eu", "a", "unhealthy");
    let verdict = Instant::now();
    assert!(
        verdict - killed < Duration::from_secs(2),
        "the verdict took {:?}",
        verdict - killed
    );
    assert!(
        status.origin("eu", "a")["failure_reason"].is_string(),
        "{}",
        status.origin("eu", "a")
    );
    assert_eq!(status.pool_health("eu"), "degraded");
    let after = watch(&load, verdict + BOUND);
    assert_all_served(&after);
    assert_eq!(after.share("b"), 1.0, "{:?}", after.counts());

    let _a = servers::nginx(&lab.origins[0]);
    lb.wait_origin("eu", "a", "healthy");
    let recovered = watch(&load, Instant::now() + BOUND);
    assert_all_served(&recovered);
    assert!(recovered.share("a") > 0.2, "{:?}", recovered.counts());
}

#[test]
fn the_next_pool_and_then_the_fallback_pool_serve_and_traffic_fails_back() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let (first, second, _third) = (servers::nginx(a), servers::nginx(b), servers::nginx(c));
    let pools = [
        pool("eu").origin(a, VIP4, 80, 1.0),
        pool("us").origin(b, VIP4, 80, 1.0),
        pool("sorry").origin(c, VIP4, 80, 1.0).unmonitored(),
    ];
    let [eu, us, sorry] = &pools;
    let config = format!(
        "{MONITOR}{eu}{us}{sorry}{}{}",
        balancer("web", &["eu", "us"], Some("sorry")),
        application("web", "tcp/80", VIP4, "web")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu", "us"]);
    let load = Load::start(&lab.client, RATE, load::http(http_at(VIP4)));
    let serves = |lb: &mut Daemon, pool: &str, origin: &str| {
        let status = lb.wait(&format!("{pool} serves"), |status| {
            status.pool_in_use("web") == Some(pool)
        });
        let report = watch(&load, Instant::now() + BOUND);
        assert_all_served(&report);
        assert_eq!(report.share(origin), 1.0, "{:?}", report.counts());
        assert_eq!(status.application("web")["on_fallback"], pool == "sorry");
    };
    serves(&mut lb, "eu", "a");
    first.kill();
    serves(&mut lb, "us", "b");
    second.kill();
    serves(&mut lb, "sorry", "c");
    let _b = servers::nginx(b);
    serves(&mut lb, "us", "b");
    let _a = servers::nginx(a);
    serves(&mut lb, "eu", "a");
    let events = lb.get("/api/v1/events").unwrap();
    assert_eq!(events.status, 200, "{}", events.body);
    for object in ["eu/a", "us/b"] {
        assert!(events.body.contains(object), "{object} is not in {}", events.body);
    }
}

#[test]
fn a_udp_flow_of_a_dead_origin_moves_at_the_next_datagram() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(2);
    let mut dnsmasq: Vec<_> = on_all(&lab, servers::dnsmasq).into_iter().map(Some).collect();
    let mut lb = Daemon::start(&lab, &names(VIP4, &eu(&lab, VIP4, 53, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let socket = lab.client.enter(|| dns::socket(dns_at(VIP4))).unwrap();
    let first = dns::ask_from(&socket, 1).unwrap();
    for id in 2..50 {
        assert_eq!(
            dns::ask_from(&socket, id).unwrap(),
            first,
            "a flow stays while its origin is up"
        );
    }
    let dead = lab
        .origins
        .iter()
        .position(|origin| origin.name == first)
        .unwrap();
    dnsmasq[dead].take().unwrap().kill();
    lb.wait_origin("eu", &first, "unhealthy");
    let second = dns::ask_from(&socket, 50).unwrap();
    assert_ne!(second, first);
    for id in 51..100 {
        assert_eq!(dns::ask_from(&socket, id).unwrap(), second);
    }
}

/// A probe can be wrong, and a reset cannot be taken back.
#[test]
fn an_established_connection_stays_with_an_origin_that_turns_unhealthy() {
    needs_root!();
    let lab = Lab::routed(2);
    let mut nginx: Vec<_> = on_all(&lab, servers::nginx).into_iter().map(Some).collect();
    let _echo = on_all(&lab, servers::echo);
    let config = format!(
        "{MONITOR}port = {HTTP_PORT}\n{}{}{}",
        eu(&lab, VIP4, ECHO_PORT, &[1.0, 1.0]),
        balancer("echo", &["eu"], None),
        application("echo", "tcp/7", VIP4, "echo")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let open = || {
        lab.client
            .enter(|| EchoFlow::open((VIP4, ECHO_PORT).into()))
            .unwrap()
    };
    let mut flow = open();
    let chosen = flow.origin().to_owned();
    let at = lab
        .origins
        .iter()
        .position(|origin| origin.name == chosen)
        .unwrap();
    nginx[at].take().unwrap().kill();
    lb.wait_origin("eu", &chosen, "unhealthy");
    for _ in 0..10 {
        flow.ping().expect("the connection goes on");
        assert_ne!(open().origin(), chosen, "new ones go elsewhere");
    }
}
