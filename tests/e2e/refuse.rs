//! Nobody can serve: the client is told so at once instead of being left to wait.

use crate::{dns_at, eu, http_at, names, web};
use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::{dns, http, needs_root};
use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// Sooner than the first retransmission.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Sum of the drop reasons that status shows.
fn drops(lb: &Daemon) -> u64 {
    let status = lb.status();
    let reasons = status.json()["drops"].as_object().cloned().unwrap_or_default();
    reasons.values().filter_map(serde_json::Value::as_u64).sum()
}

#[test]
fn a_connection_nobody_can_serve_is_reset_at_once() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(1);
        let mut lb = Daemon::start(&lab, &web(vip, &eu(&lab, vip, 80, &[1.0])));
        lb.wait_origin("eu", "a", "unhealthy");
        assert_eq!(lb.status().pool_in_use("web"), None);
        let before = drops(&lb);
        let started = Instant::now();
        let result = lab
            .client
            .enter(|| TcpStream::connect_timeout(&http_at(vip), http::TIMEOUT));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        wait_until(SOON, "it is counted", || (drops(&lb) > before).then_some(()));
    }
}

#[test]
fn a_datagram_nobody_can_serve_is_answered_by_port_unreachable() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(1);
        let mut lb = Daemon::start(&lab, &names(vip, &eu(&lab, vip, 53, &[1.0])));
        lb.wait_origin("eu", "a", "unhealthy");
        let started = Instant::now();
        let result = lab.client.enter(|| dns::ask(dns_at(vip), 1));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    }
}
