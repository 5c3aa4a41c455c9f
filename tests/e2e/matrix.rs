//! Every way to forward, with both protocols and all families, between real clients and real servers; and all ways in one
//! pool.

use crate::on_all;
use lb_tests::agent::OriginAgent;
use lb_tests::check::{assert_all_served, assert_share};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::forwarding::{FORWARDINGS, Forwarding, Route, agent, agent_of, pool_names, pools};
use lb_tests::gate::number;
use lb_tests::lab::Lab;
use lb_tests::lab::direct::through;
use lb_tests::load::{self, Report};
use lb_tests::servers::{DNS_PORT, HTTP_PORT};
use lb_tests::{http, needs_root, servers};
use std::net::IpAddr;

const WORKERS: usize = 4;

fn ask(lab: &Lab, vip: IpAddr, tcp: bool, count: usize) -> Report {
    if tcp {
        load::run(&lab.client, count, WORKERS, load::http((vip, HTTP_PORT).into()))
    } else {
        load::run(&lab.client, count, WORKERS, load::dns((vip, DNS_PORT).into()))
    }
}

fn protocol(tcp: bool) -> &'static str {
    if tcp { "tcp" } else { "udp" }
}

fn applications(name: &str, vip: IpAddr, balancer: &str) -> String {
    let one = |tcp, port| {
        let protocol = protocol(tcp);
        application(
            &format!("{name}-{protocol}"),
            &format!("{protocol}/{port}"),
            vip,
            balancer,
        )
    };
    one(true, HTTP_PORT) + &one(false, DNS_PORT)
}

#[test]
fn every_way_to_forward_serves_every_protocol_and_family() {
    needs_root!();
    let lab = Lab::direct(2);
    let _nginx = on_all(&lab, servers::nginx);
    let _dnsmasq = on_all(&lab, servers::dnsmasq);
    let agents = on_all(&lab, |host| agent(host, &[]));
    let routes = Route::all();
    let listeners: String = routes
        .iter()
        .map(|route| applications(&route.name(), route.vip(), &route.pool()))
        .collect();
    let mut lb = Daemon::start(
        &lab,
        &format!("{MONITOR}port = {HTTP_PORT}\n{}{listeners}", pools(&lab, &routes)),
    );
    lb.wait_healthy(&pool_names(&routes).iter().map(String::as_str).collect::<Vec<_>>());
    let count = number("LB_TEST_MATRIX_REQUESTS", 400);
    println!("forwarding protocol families requests failed      a      b");
    let mut wrong = Vec::new();
    for route in routes {
        for tcp in [true, false] {
            let report = ask(&lab, route.vip(), tcp, count);
            let (counts, failures) = (report.counts(), report.failures().len());
            let of = |origin: &str| counts.get(origin).copied().unwrap_or(0);
            println!(
                "{:10} {:8} {:8} {:8} {failures:6} {:6} {:6}",
                route.forwarding.name(),
                protocol(tcp),
                route.families(),
                report.total(),
                of("a"),
                of("b")
            );
            let name = format!("{} {}", route.name(), protocol(tcp));
            if failures > 0 {
                wrong.push(format!("{name}: {}", report.explain_failures()));
            } else if (report.share("a") - 0.5).abs() > 0.12 {
                wrong.push(format!("{name}: {counts:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // That it went the way that was asked for: nothing else comes by a tunnel, and only nat hides the client.
    for outcome in ["ipip", "gue"] {
        let packets: u64 = agents.iter().map(|agent| agent.count(outcome)).sum();
        assert!(packets >= 8 * count as u64, "{packets} by {outcome}");
    }
    for route in Route::all() {
        let answer = lab
            .client
            .enter(|| http::get((route.vip(), HTTP_PORT).into(), "/source"));
        let source: IpAddr = answer.unwrap().body.trim().parse().unwrap();
        let from_client = lab.client_has(source);
        assert_eq!(
            from_client,
            route.forwarding != Forwarding::Nat,
            "{}: {source}",
            route.name()
        );
    }
}

#[test]
fn all_ways_to_forward_mix_in_one_pool() {
    needs_root!();
    let lab = Lab::direct(FORWARDINGS.len());
    let _nginx = on_all(&lab, servers::nginx);
    let _dnsmasq = on_all(&lab, servers::dnsmasq);
    let kinds: Vec<_> = lab.origins.iter().zip(FORWARDINGS).collect();
    let vips = [through(20, false), through(20, true)];
    let mut agents: Vec<OriginAgent> = Vec::new();
    for (host, forwarding) in &kinds {
        if forwarding.is_straight() {
            lab.answer_straight(host);
            agents.push(agent_of(host, &vips, &[]));
        }
    }
    for vip in vips {
        let mixed = kinds.iter().fold(pool("mixed"), |pool, (host, forwarding)| {
            pool.origin(host, vip, 0, 1.0)
                .origin_line(&format!("forwarding = \"{}\"", forwarding.name()))
        });
        let config = format!(
            "{MONITOR}port = {HTTP_PORT}\n{mixed}{}{}",
            balancer("mixed", &["mixed"], None),
            applications("mixed", vip, "mixed")
        );
        let mut lb = Daemon::start(&lab, &config);
        lb.wait_healthy(&["mixed"]);
        for tcp in [true, false] {
            let report = ask(&lab, vip, tcp, 3 * number("LB_TEST_MATRIX_REQUESTS", 400));
            println!("{vip} {}: {:?}", protocol(tcp), report.counts());
            assert_all_served(&report);
            for host in &lab.origins {
                assert_share(&report, &host.name, 0.2, 0.08);
            }
        }
    }
}
