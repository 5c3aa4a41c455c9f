//! Many short flows arrive, none is lost, and the origins get what their weights say.

use crate::{dns_at, eu, http_at, names, on_all, web};
use lb_tests::check::{assert_all_served, assert_share};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::{load, needs_root, servers};
use std::net::IpAddr;

const WORKERS: usize = 8;
/// Points that a share may be off its weight's.
const TOLERANCE: f64 = 0.03;

fn requests() -> usize {
    number("LB_TEST_REQUESTS", 10_000)
}

fn http_spreads_by_weight(lab: &Lab, vip: impl Into<IpAddr>, count: usize) {
    let vip = vip.into();
    let _nginx = on_all(lab, servers::nginx);
    let mut lb = Daemon::start(lab, &web(vip, &eu(lab, vip, 80, &[1.0, 0.5])));
    lb.wait_healthy(&["eu"]);
    let report = load::run(&lab.client, count, WORKERS, load::http(http_at(vip)));
    assert_all_served(&report);
    assert_eq!(report.total(), count);
    assert_share(&report, "a", 2.0 / 3.0, TOLERANCE);
    assert_share(&report, "b", 1.0 / 3.0, TOLERANCE);
    let status = lb.status();
    let share = status.origin("eu", "a")["share"].as_f64().unwrap();
    assert!((share - 2.0 / 3.0).abs() < TOLERANCE, "status says {share}");
    lb.wait("every flow is counted", |status| {
        status.application("web")["new_flows_total"]
            .as_u64()
            .is_some_and(|flows| flows >= count as u64)
    });
}

fn dns_spreads_by_weight(lab: &Lab, vip: impl Into<IpAddr>, count: usize) {
    let vip = vip.into();
    let _dnsmasq = on_all(lab, servers::dnsmasq);
    let mut lb = Daemon::start(lab, &names(vip, &eu(lab, vip, 53, &[1.0, 0.5])));
    lb.wait_healthy(&["eu"]);
    let report = load::run(&lab.client, count, WORKERS, load::dns(dns_at(vip)));
    assert_all_served(&report);
    assert_share(&report, "a", 2.0 / 3.0, TOLERANCE);
    assert_share(&report, "b", 1.0 / 3.0, TOLERANCE);
}

#[test]
fn ten_thousand_http_requests_arrive_and_spread_by_weight_over_ipv4() {
    needs_root!();
    http_spreads_by_weight(&Lab::routed(2), VIP4, requests());
}

#[test]
fn ten_thousand_http_requests_arrive_and_spread_by_weight_over_ipv6() {
    needs_root!();
    http_spreads_by_weight(&Lab::routed(2), VIP6, requests());
}

#[test]
fn ten_thousand_dns_queries_arrive_and_spread_by_weight_over_ipv4() {
    needs_root!();
    dns_spreads_by_weight(&Lab::routed(2), VIP4, requests());
}

#[test]
fn ten_thousand_dns_queries_arrive_and_spread_by_weight_over_ipv6() {
    needs_root!();
    dns_spreads_by_weight(&Lab::routed(2), VIP6, requests());
}

/// A real network card hands over finished checksums: then none may be finished a second time.
#[test]
fn frames_with_complete_checksums_arrive_too() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(2);
        lab.complete_checksums();
        http_spreads_by_weight(&lab, vip, requests().min(3_000));
        dns_spreads_by_weight(&lab, vip, requests().min(3_000));
    }
}

#[test]
fn keepalive_connections_carry_many_requests_without_an_error() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let output = lab
        .client
        .run("wrk", &["-t2", "-c32", "-d3s", &format!("http://{VIP4}/")]);
    assert!(output.contains("requests in"), "{output}");
    assert!(
        !output.contains("Socket errors") && !output.contains("Non-2xx"),
        "{output}"
    );
}
