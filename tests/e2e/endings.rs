//! Connections that lb itself ends: both sides are told by a reset that their kernels accept.

use crate::{eu, on_all};
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{MONITOR, Pool, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::{ECHO_PORT, EchoServer, HTTP_PORT};
use lb_tests::{needs_root, servers};
use std::io::ErrorKind;
use std::net::IpAddr;

/// Connections that are open, at least one of them at the first origin.
const FLOWS: usize = 20;

fn echo(vip: IpAddr, pool: &Pool) -> String {
    format!(
        "{MONITOR}port = {HTTP_PORT}\n{pool}{}{}",
        balancer("web", &["eu"], None),
        application("echo", "tcp/7", vip, "web")
    )
}

fn open(lab: &Lab, vip: IpAddr) -> Vec<EchoFlow> {
    let flows = || (0..FLOWS).map(|_| EchoFlow::open((vip, ECHO_PORT).into()).expect("an origin answers"));
    let flows: Vec<EchoFlow> = lab.client.enter(|| flows().collect());
    assert!(flows.iter().any(|flow| flow.origin() == "a"), "a has connections");
    assert!(flows.iter().any(|flow| flow.origin() == "b"), "b has connections");
    flows
}

/// Those of the first origin are reset at both ends, and all others go on.
fn only_the_first_origins_end(flows: Vec<EchoFlow>, servers: &[EchoServer]) {
    let (ended, mut others): (Vec<_>, Vec<_>) = flows.into_iter().partition(|flow| flow.origin() == "a");
    for mut flow in ended {
        let error = wait_until(SOON, "the client is told", || flow.ping().err());
        // Told while it writes, or while it reads.
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{error}"
        );
    }
    wait_until(SOON, "the origin is told", || {
        (servers[0].connections() == 0).then_some(())
    });
    for flow in &mut others {
        flow.ping().expect("the other origin's go on");
    }
    assert_eq!(servers[1].connections(), others.len());
}

fn resets(lb: &Daemon) -> u64 {
    lb.status().json()["drops"]["reset_ended"]
        .as_u64()
        .expect("a counter")
}

#[test]
fn a_drain_ends_with_a_reset_of_both_sides() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(2);
        let echoes = on_all(&lab, servers::echo);
        let [a, b] = &lab.origins[..] else {
            panic!("two origins were asked for")
        };
        let start = pool("eu")
            .unmonitored()
            .line("drain_timeout = 2")
            .origin(a, vip, 0, 1.0);
        let without_a = start.clone().disabled().origin(b, vip, 0, 1.0);
        let mut lb = Daemon::start(&lab, &echo(vip, &start.origin(b, vip, 0, 1.0)));
        lb.wait_healthy(&["eu"]);
        let mut flows = open(&lab, vip);
        lb.write_config(&echo(vip, &without_a));
        lb.lb_ok(&["reload"]);
        for flow in &mut flows {
            flow.ping().expect("a draining connection goes on");
        }
        only_the_first_origins_end(flows, &echoes);
        assert!(resets(&lb) > 0);
    }
}

#[test]
fn an_unhealthy_origins_connections_are_reset_where_the_pool_says_so() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(2);
        let echoes = on_all(&lab, servers::echo);
        let mut nginx = on_all(&lab, servers::nginx);
        let pool = eu(&lab, vip, 0, &[1.0, 1.0]).line("on_unhealthy = \"reset\"");
        let mut lb = Daemon::start(&lab, &echo(vip, &pool));
        lb.wait_healthy(&["eu"]);
        let flows = open(&lab, vip);
        nginx.remove(0).kill();
        lb.wait_origin("eu", "a", "unhealthy");
        only_the_first_origins_end(flows, &echoes);
        assert!(resets(&lb) > 0);
    }
}
