//! Who gets the flows: several applications and pools, weights, hash, minimum_origins, what is switched off.

use crate::{dns_at, eu, http_at, on_all, web};
use lb_tests::check::{assert_all_served, assert_share};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::connect_from;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::load::{self, Report};
use lb_tests::{http, needs_root, servers};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const REQUESTS: usize = 3_000;
const WORKERS: usize = 4;

fn ask(lab: &Lab, vip: impl Into<IpAddr>, count: usize) -> Report {
    let report = load::run(&lab.client, count, WORKERS, load::http(http_at(vip)));
    assert_all_served(&report);
    report
}

#[test]
fn applications_of_different_protocols_share_pools_and_load_balancers() {
    needs_root!();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let _nginx = on_all(&lab, servers::nginx);
    let _dnsmasq = on_all(&lab, servers::dnsmasq);
    let both = pool("both")
        .origin(a, VIP4, 0, 1.0)
        .origin(b, VIP4, 0, 1.0)
        .unmonitored();
    let one = pool("one").origin(c, VIP4, 0, 1.0).unmonitored();
    let six = pool("six").origin(b, VIP6, 0, 1.0).unmonitored();
    let config = [
        both.to_string(),
        one.to_string(),
        six.to_string(),
        balancer("first", &["both", "one"], None),
        balancer("second", &["one", "both"], None),
        balancer("third", &["six"], Some("six")),
        application("web", "tcp/80", VIP4, "first"),
        application("names", "udp/53", VIP4, "first"),
        application("other-web", "tcp/80", OTHER_VIP, "second"),
        application("other-names", "udp/53", OTHER_VIP, "second"),
        application("six", "tcp/80", VIP6, "third"),
    ]
    .concat();
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["both", "one", "six"]);
    let first = ask(&lab, VIP4, REQUESTS);
    assert_share(&first, "a", 0.5, 0.05);
    assert_share(&first, "b", 0.5, 0.05);
    assert_share(&ask(&lab, OTHER_VIP, 200), "c", 1.0, 0.0);
    assert_share(&ask(&lab, VIP6, 200), "b", 1.0, 0.0);
    let names = load::run(&lab.client, REQUESTS, WORKERS, load::dns(dns_at(VIP4)));
    assert_all_served(&names);
    assert_share(&names, "a", 0.5, 0.05);
    let names = load::run(&lab.client, 200, WORKERS, load::dns(dns_at(OTHER_VIP)));
    assert_all_served(&names);
    assert_share(&names, "c", 1.0, 0.0);
}

#[test]
fn random_steering_spreads_flows_over_pools_by_weight() {
    needs_root!();
    let lab = Lab::routed(2);
    let [a, b] = &lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let _nginx = on_all(&lab, servers::nginx);
    let (small, large) = (
        pool("small").origin(a, VIP4, 80, 1.0),
        pool("large").origin(b, VIP4, 80, 1.0),
    );
    let steering =
        "steering_policy = \"random\"\nrandom_steering = { pool_weights = { small = 0.25, large = 0.75 } }\n";
    let config = format!(
        "{MONITOR}{small}{large}{}{steering}{}",
        balancer("web", &["small", "large"], None),
        application("web", "tcp/80", VIP4, "web")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["small", "large"]);
    let report = ask(&lab, VIP4, REQUESTS);
    assert_share(&report, "a", 0.25, 0.04);
    assert_share(&report, "b", 0.75, 0.04);
    let status = lb.status();
    let shares = &status.load_balancer("web")["pool_shares"];
    assert!(
        (shares["small"].as_f64().unwrap() - 0.25).abs() < 0.02,
        "{shares}"
    );
}

#[test]
fn hash_steering_leads_a_client_address_to_one_origin_and_clients_to_all() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let steered = eu(&lab, VIP4, 80, &[1.0, 1.0]).line("origin_steering = { policy = \"hash\" }");
    let mut lb = Daemon::start(&lab, &web(VIP4, &steered));
    lb.wait_healthy(&["eu"]);
    let clients: Vec<Ipv4Addr> = (100..140).map(|host| Ipv4Addr::new(10, 0, 1, host)).collect();
    let lines: Vec<String> = clients
        .iter()
        .map(|ip| format!("address add {ip}/24 dev eth0"))
        .collect();
    lab.client.ip(&lines.join("\n"));
    let mut seen = BTreeMap::<Ipv4Addr, BTreeSet<String>>::new();
    lab.client.enter(|| {
        for _ in 0..5 {
            for &client in &clients {
                let stream = connect_from((client, 0).into(), http_at(VIP4)).unwrap();
                let answer = http::get_over(stream, "/").unwrap();
                seen.entry(client)
                    .or_default()
                    .insert(answer.body.trim().to_owned());
            }
        }
    });
    assert!(seen.values().all(|origins| origins.len() == 1), "{seen:?}");
    let used: BTreeSet<&String> = seen.values().flatten().collect();
    assert_eq!(used.len(), 2, "forty clients reach both origins");
}

#[test]
fn a_pool_below_its_minimum_origins_gives_way_to_the_next() {
    needs_root!();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let (first, _b, _c) = (servers::nginx(a), servers::nginx(b), servers::nginx(c));
    let eu = pool("eu")
        .line("minimum_origins = 2")
        .origin(a, VIP4, 80, 1.0)
        .origin(b, VIP4, 80, 1.0);
    let us = pool("us").origin(c, VIP4, 80, 1.0);
    let config = format!(
        "{MONITOR}{eu}{us}{}{}",
        balancer("web", &["eu", "us"], None),
        application("web", "tcp/80", VIP4, "web")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu", "us"]);
    assert_eq!(ask(&lab, VIP4, 100).share("c"), 0.0);
    first.kill();
    let status = lb.wait("us serves", |status| status.pool_in_use("web") == Some("us"));
    assert_eq!(status.pool_health("eu"), "critical");
    assert_share(&ask(&lab, VIP4, 100), "c", 1.0, 0.0);
}

#[test]
fn an_origin_of_weight_zero_and_a_disabled_one_get_nothing() {
    needs_root!();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let _nginx = on_all(&lab, servers::nginx);
    let eu = pool("eu")
        .origin(a, VIP4, 80, 0.0)
        .origin(b, VIP4, 80, 1.0)
        .disabled()
        .origin(c, VIP4, 80, 0.1);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu));
    let status = lb.wait_origin("eu", "c", "healthy");
    assert_eq!(status.health("eu", "b"), "disabled");
    assert_eq!(status.origin("eu", "a")["share"].as_f64(), Some(0.0));
    assert_share(&ask(&lab, VIP4, 500), "c", 1.0, 0.0);
}

#[test]
fn an_application_may_name_its_origins_directly() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let direct: Vec<String> = lab
        .origins
        .iter()
        .map(|origin| format!("tcp://{}:80", origin.v4))
        .collect();
    let config = format!(
        "[applications.web]\nprotocol = \"tcp/8080\"\naddresses = [\"{VIP4}\"]\norigin_direct = {direct:?}\n"
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait("the application is there", |status| {
        status.application("web").is_object()
    });
    let report = load::run(&lab.client, 1_000, WORKERS, load::http((VIP4, 8080).into()));
    assert_all_served(&report);
    assert_share(&report, "a", 0.5, 0.06);
}
