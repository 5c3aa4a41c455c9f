//! End to end: the real binary, real servers and real clients in network namespaces. Every test needs root, builds its
//! own lab, and waits for states rather than for time.
//!
//! Numbers can be made smaller for a quick run: `LB_TEST_REQUESTS`, `LB_TEST_MATRIX_REQUESTS`, `LB_TEST_DOWNLOAD_MB`,
//! `LB_TEST_TRANSFER_MB`, `LB_TEST_FLOWS`, `LB_TEST_RELOADS`, `LB_TEST_UPGRADES`, `LB_TEST_GENERATIONS`, `LB_TEST_FLOOD`,
//! `LB_TEST_CONNECTIONS`, `LB_TEST_PROBED`, `LB_TEST_PROBE_SECONDS`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod agent;
mod analytics;
mod api;
mod check_file;
mod drafts;
mod endings;
mod events;
mod explain;
mod failover;
mod flood;
mod fragments;
mod generations;
mod interfaces;
mod limits;
mod many_probes;
mod matrix;
mod messages;
mod monitors;
mod names;
mod objects_cli;
mod others;
mod pmtu;
mod privilege;
mod probe_ways;
mod refuse;
mod reload;
mod restart;
mod secrets;
mod spread;
mod steering;
mod store;
mod takeover;
mod topology;
mod trace;
mod transfer;
mod webhooks;
mod without_entries;

use lb_tests::config::{MONITOR, Pool, application, balancer, pool};
use lb_tests::lab::{Host, Lab};
use lb_tests::servers::{DNS_PORT, HTTP_PORT};
use std::net::{IpAddr, SocketAddr};

/// The web application on `vip`, over one pool `eu`.
fn web(vip: impl Into<IpAddr>, eu: &Pool) -> String {
    format!(
        "{MONITOR}{eu}{}{}",
        balancer("web", &["eu"], None),
        application("web", "tcp/80", vip, "web")
    )
}

/// The pool `eu` of all origins of the lab, with these weights, reached by the family of `vip`.
fn eu(lab: &Lab, vip: impl Into<IpAddr>, port: u16, weights: &[f64]) -> Pool {
    let vip = vip.into();
    let weighted = lab.origins.iter().zip(weights);
    weighted.fold(pool("eu"), |pool, (host, &weight)| {
        pool.origin(host, vip, port, weight)
    })
}

/// The DNS application on `vip`, over one pool `eu`.
fn names(vip: impl Into<IpAddr>, eu: &Pool) -> String {
    format!(
        "{MONITOR}{eu}{}{}",
        balancer("names", &["eu"], None),
        application("names", "udp/53", vip, "names")
    )
}

fn http_at(vip: impl Into<IpAddr>) -> SocketAddr {
    (vip.into(), HTTP_PORT).into()
}

fn dns_at(vip: impl Into<IpAddr>) -> SocketAddr {
    (vip.into(), DNS_PORT).into()
}

/// A server on every origin.
fn on_all<S>(lab: &Lab, server: impl Fn(&Host) -> S) -> Vec<S> {
    lab.origins.iter().map(server).collect()
}
