//! Other networks than the usual one, and the slow way to attach.

use crate::{dns_at, eu, http_at, names, on_all, web};
use lb_tests::check::{assert_all_served, assert_share};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::{load, needs_root, servers};
use std::net::IpAddr;

const REQUESTS: usize = 1_000;

fn tcp_and_udp_work(lab: &Lab) {
    let _nginx = on_all(lab, servers::nginx);
    let _dnsmasq = on_all(lab, servers::dnsmasq);
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        {
            let mut lb = Daemon::start(lab, &web(vip, &eu(lab, vip, 80, &[1.0, 1.0])));
            lb.wait_healthy(&["eu"]);
            let report = load::run(&lab.client, REQUESTS, 4, load::http(http_at(vip)));
            assert_all_served(&report);
            assert_share(&report, "a", 0.5, 0.08);
        }
        let mut lb = Daemon::start(lab, &names(vip, &eu(lab, vip, 53, &[1.0, 1.0])));
        lb.wait_healthy(&["eu"]);
        let report = load::run(&lab.client, REQUESTS, 4, load::dns(dns_at(vip)));
        assert_all_served(&report);
        assert_share(&report, "a", 0.5, 0.08);
    }
}

#[test]
fn origins_behind_a_gateway_are_reached() {
    needs_root!();
    tcp_and_udp_work(&Lab::behind_gateway(2));
}

#[test]
fn one_interface_is_enough() {
    needs_root!();
    tcp_and_udp_work(&Lab::one_arm(2));
}

#[test]
fn vips_that_the_node_owns_work_like_those_it_does_not() {
    needs_root!();
    let lab = Lab::routed(2);
    lab.own_vips();
    tcp_and_udp_work(&lab);
}

#[test]
fn generic_mode_works_and_warns() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start_with(
        &lab,
        "mode = \"generic\"",
        &web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0])),
    );
    lb.wait_healthy(&["eu"]);
    let status = lb.status();
    assert!(
        status.interfaces().iter().all(|(_, mode)| *mode == "generic"),
        "{:?}",
        status.interfaces()
    );
    let log = lb.log();
    let warned = log
        .lines()
        .any(|line| line.contains("WARN") && line.to_lowercase().contains("generic"));
    assert!(warned, "no warning in {log}");
    assert_all_served(&load::run(&lab.client, REQUESTS, 4, load::http(http_at(VIP4))));
}

#[test]
fn native_mode_is_the_default_where_the_driver_has_it() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0])));
    assert!(lb.status().interfaces().iter().all(|(_, mode)| *mode == "native"));
}
