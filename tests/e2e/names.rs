//! Origins given as a host name, with a name server whose answers change and which dies.

use crate::http_at;
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{application, balancer};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Host, Lab, VIP4};
use lb_tests::load::{self, Load, Report};
use lb_tests::servers::{self, ECHO_PORT, name_server};
use lb_tests::status::Status;
use lb_tests::{gate, needs_root};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const NAME: &str = "origins.test";
/// Requests a second while names change.
const RATE: u32 = 200;
/// How much load is watched after each change.
const WATCHED: usize = 200;

/// HTTP and echo on the VIP, over one pool whose origin is [`NAME`], looked up at `server`.
fn config(server: &Host) -> String {
    format!(
        r#"
[dns]
servers = ["{}"]
min_ttl = 1

[monitors.http]
type = "tcp"
port = 80
interval = 0.2
timeout = 0.2
retries = 0
consecutive_down = 6

[pools.eu]
monitor = "http"
[pools.eu.origins.named]
address = "{NAME}"
{}{}{}"#,
        server.v4,
        balancer("web", &["eu"], None),
        application("web", "tcp/80", VIP4, "web"),
        application("echo", "tcp/7", VIP4, "web")
    )
}

/// The addresses of [`NAME`] in use, and why the last lookup failed.
fn name(status: &Status) -> (Vec<String>, Option<String>) {
    let name = &status.json()["names"][0];
    let addresses = name["addresses"].as_array().expect("names have addresses");
    (
        addresses
            .iter()
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect(),
        name["failure"].as_str().map(str::to_owned),
    )
}

/// Waits until the pool's origins are exactly these, and healthy.
fn wait_origins(lb: &mut Daemon, hosts: &[&Host]) -> Status {
    let expected: Vec<String> = hosts.iter().map(|host| host.v4.to_string()).collect();
    lb.wait("the origins are the name's addresses", |status| {
        let origins = status.json()["pools"][0]["origins"].as_array();
        let origins = origins.map(Vec::as_slice).unwrap_or_default();
        let addresses = origins.iter().filter_map(|origin| origin["address"].as_str());
        addresses.eq(expected.iter().map(String::as_str)) && status.is_all_healthy("eu")
    })
}

fn watch(load: &Load, from: Instant) -> Report {
    wait_until(SOON, "enough requests were made", || {
        let report = load.so_far().since(from);
        (report.total() >= WATCHED).then_some(report)
    })
}

#[test]
fn traffic_follows_a_name_and_outlives_its_server() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let _web = (servers::nginx(a), servers::nginx(b));
    let _echo = (servers::echo(a), servers::echo(b));
    let (v4, names) = (|host: &Host| IpAddr::from(host.v4), name_server(c));
    names.say(NAME, &[v4(a)]);
    let mut lb = Daemon::start(&lab, &config(c));
    let status = wait_origins(&mut lb, &[a]);
    assert_eq!(status.origin("eu", "named")["host_name"], NAME);
    let load = Load::start(&lab.client, RATE, load::http(http_at(VIP4)));
    let before = watch(&load, Instant::now());
    assert_eq!(before.share("a"), 1.0, "{:?}", before.counts());
    let open = || EchoFlow::open((VIP4, ECHO_PORT).into());
    let mut flow = lab.client.enter(open).unwrap();
    assert_eq!(flow.origin(), "a");

    // The name moves: what is new goes to the new address, what is open goes on.
    names.say(NAME, &[v4(b)]);
    wait_origins(&mut lb, &[b]);
    let after = watch(&load, Instant::now() + Duration::from_millis(100));
    assert_eq!(after.share("b"), 1.0, "{:?}", after.counts());
    lab.client
        .enter(|| flow.ping())
        .expect("an open connection goes on");

    // Without a server everything stays as it is, and the status says so: also for a daemon that starts meanwhile.
    names.kill();
    let failed = |status: &Status| name(status).1.is_some();
    let status = lb.wait("the lookup fails", failed);
    assert_eq!(name(&status).0, [b.v4.to_string()]);
    assert_eq!(status.health("eu", "named"), "healthy");
    let text = lb.lb_ok(&["status"]);
    assert!(text.contains("DNS lookup failed"), "{text}");
    let log = lb.log();
    assert!(
        log.contains("could not be looked up, its 1 addresses stay"),
        "{log}"
    );
    // What is known is on the disk soon after.
    lb.kill();
    lb.run();
    let status = lb.wait("the lookup fails again", failed);
    assert_eq!(name(&status).0, [b.v4.to_string()]);
    wait_origins(&mut lb, &[b]);
    let without = watch(&load, Instant::now());
    assert_eq!(without.share("b"), 1.0, "{:?}", without.counts());

    let report = load.finish();
    assert_all_served(&report);

    // A new server has one address more.
    let load = Load::start(&lab.client, RATE, load::http(http_at(VIP4)));
    let names = name_server(c);
    names.say(NAME, &[v4(b), v4(a)]);
    let status = wait_origins(&mut lb, &[a, b]);
    assert_eq!(name(&status).1, None);
    let both = watch(&load, Instant::now() + Duration::from_millis(100));
    assert!(
        both.share("a") > 0.3 && both.share("b") > 0.3,
        "{:?}",
        both.counts()
    );
    lab.client
        .enter(|| flow.ping())
        .expect("an open connection goes on");
    let report = load.finish();
    assert_all_served(&report);
}

#[test]
fn a_name_that_does_not_exist_is_an_unhealthy_origin_until_it_does() {
    needs_root!();
    let lab = Lab::routed(2);
    let (_web, names) = (servers::nginx(&lab.origins[0]), name_server(&lab.origins[1]));
    let mut lb = Daemon::start(&lab, &config(&lab.origins[1]));
    let status = lb.wait_origin("eu", "named", "unhealthy");
    let origin = status.origin("eu", "named");
    assert_eq!(origin["failure_reason"], "DNS Unknown Host");
    assert!(origin["address"].is_null(), "{origin}");
    assert_eq!(status.pool_health("eu"), "critical");
    names.say(NAME, &["127.0.0.1".parse().unwrap(), VIP4.into()]);
    let status = lb.wait("the answer is refused", |status| {
        name(status)
            .1
            .is_some_and(|failure| failure.contains("cannot be an origin"))
    });
    assert_eq!(status.health("eu", "named"), "unhealthy");
    names.say(NAME, &[lab.origins[0].v4.into()]);
    wait_origins(&mut lb, &[&lab.origins[0]]);
    let report = load::run(&lab.client, 50, 2, load::http(http_at(VIP4)));
    assert_all_served(&report);
}

#[test]
fn the_problem_of_a_name_that_nobody_watches_ends_when_it_is_found() {
    needs_root!();
    let lab = Lab::routed(2);
    let (_web, names) = (servers::nginx(&lab.origins[0]), name_server(&lab.origins[1]));
    let config = config(&lab.origins[1]).replace("monitor = \"http\"\n", "");
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_origin("eu", "named", "unhealthy");
    let events = |lb: &Daemon| {
        let text = lb.lb_ok(&["events", "--kind", "health", "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["events"].as_array().unwrap().clone()
    };
    for (kind, name) in [("pool_health", "pool"), ("load_balancer_health", "load_balancer")] {
        wait_until(SOON, &format!("the {name} has a problem"), || {
            let found = events(&lb)
                .into_iter()
                .rev()
                .find(|event| event["kind"] == kind)?;
            (found["health"] == "critical").then_some(())
        });
    }
    names.say(NAME, &[lab.origins[0].v4.into()]);
    wait_origins(&mut lb, &[&lab.origins[0]]);
    let report = load::run(&lab.client, 50, 2, load::http(http_at(VIP4)));
    assert_all_served(&report);
    for (kind, name) in [("pool_health", "pool"), ("load_balancer_health", "load_balancer")] {
        wait_until(SOON, &format!("the problem of the {name} is over"), || {
            let found = events(&lb)
                .into_iter()
                .rev()
                .find(|event| event["kind"] == kind)?;
            (found["health"] == "unknown" && found["resolved"] == true).then_some(())
        });
    }
}

#[test]
fn attach_looks_names_up_once() {
    needs_root!();
    let lab = Lab::routed(2);
    let (_web, names) = (servers::nginx(&lab.origins[0]), name_server(&lab.origins[1]));
    names.say(NAME, &[lab.origins[0].v4.into()]);
    let resolved = || std::net::TcpStream::connect((lab.origins[1].v4, 53)).is_ok();
    assert!(lab.node.enter(resolved), "the node reaches the name server");
    let lb = Daemon::prepare(&lab, "", &config(&lab.origins[1]));
    let config = lb.config();
    lb.lb_ok(&["check", "-c", config.to_str().unwrap()]);
    for interface in &lab.interfaces {
        lb.lb_ok(&["attach", interface, "-c", config.to_str().unwrap()]);
    }
    names.kill();
    let report = load::run(&lab.client, 50, 2, load::http(http_at(VIP4)));
    assert_all_served(&report);
    lb.lb_ok(&["detach"]);
}
