//! The daemon is killed, stopped and started again while traffic flows.

use crate::{eu, http_at, on_all, web};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{MONITOR, application, balancer};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load::{self, Load};
use lb_tests::servers::ECHO_PORT;
use lb_tests::{needs_root, servers};
use std::process::Command;
use std::time::Instant;

/// Requests watched in each phase.
const WATCHED: usize = 300;
const LONG_LIVED: usize = 30;

/// Whether any interface of the node has an XDP program.
fn is_attached(lab: &Lab) -> bool {
    let output = lab
        .node
        .output(Command::new("ip").args(["-details", "link", "show"]));
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

fn more(load: &Load) {
    let from = Instant::now();
    wait_until(SOON, "requests go on", || {
        (load.so_far().since(from).total() >= WATCHED).then_some(())
    });
}

/// Ends the daemon by `end` while requests and long-lived connections go on, and starts it again.
fn nothing_is_lost(end: impl FnOnce(&mut Daemon)) {
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let pool = eu(&lab, VIP4, 0, &[1.0, 0.5]).unmonitored();
    let config = format!(
        "{MONITOR}{pool}{}{}{}",
        balancer("web", &["eu"], None),
        application("web", "tcp/80", VIP4, "web"),
        application("echo", "tcp/7", VIP4, "web")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let mut flows: Vec<EchoFlow> = lab.client.enter(|| {
        (0..LONG_LIVED)
            .map(|_| EchoFlow::open((VIP4, ECHO_PORT).into()).expect("the echo server answers"))
            .collect()
    });
    let mut ping_all = |when: &str| {
        for flow in &mut flows {
            flow.ping().unwrap_or_else(|error| panic!("{when}: {error}"));
        }
    };
    let load = Load::start(&lab.client, 200, load::http(http_at(VIP4)));
    more(&load);
    ping_all("before");
    end(&mut lb);
    assert!(is_attached(&lab), "forwarding goes on without a daemon");
    more(&load);
    ping_all("while it is away");
    lb.run();
    more(&load);
    ping_all("after it came back");
    lb.wait_healthy(&["eu"]);
    more(&load);
    assert_all_served(&load.finish());
}

#[test]
fn no_request_fails_and_no_connection_breaks_when_the_daemon_is_killed_and_comes_back() {
    needs_root!();
    nothing_is_lost(Daemon::kill);
}

#[test]
fn no_request_fails_and_no_connection_breaks_when_the_daemon_is_stopped_and_comes_back() {
    needs_root!();
    nothing_is_lost(|lb| assert!(lb.terminate().success(), "SIGTERM is a good end"));
}

/// A restart must not empty a pool until its first probes are back.
#[test]
fn health_known_from_before_survives_a_restart() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let load = Load::start(&lab.client, 200, load::http(http_at(VIP4)));
    more(&load);
    lb.kill();
    lb.run();
    more(&load);
    assert_all_served(&load.finish());
}

#[test]
fn on_exit_detach_leaves_nothing_behind() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let config = web(VIP4, &eu(&lab, VIP4, 80, &[1.0]));
    let mut lb = Daemon::start_with(&lab, "on_exit = \"detach\"", &config);
    lb.wait_healthy(&["eu"]);
    assert!(is_attached(&lab) && lb.pins().exists());
    assert!(lb.terminate().success());
    wait_until(SOON, "the programs are gone", || {
        (!is_attached(&lab)).then_some(())
    });
    assert!(!lb.pins().exists(), "pins stayed");
    assert!(!lab.client_reaches(http_at(VIP4)));
}

#[test]
fn attach_forwards_without_a_daemon_and_detach_removes_everything() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::prepare(&lab, "", &web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0])));
    let config = lb.config();
    for interface in &lab.interfaces {
        lb.lb_ok(&["attach", interface, "-c", config.to_str().unwrap()]);
    }
    let report = load::run(&lab.client, WATCHED, 4, load::http(http_at(VIP4)));
    assert_all_served(&report);
    // A daemon takes over what is there, and flows go on.
    let load = Load::start(&lab.client, 200, load::http(http_at(VIP4)));
    lb.run();
    lb.wait_healthy(&["eu"]);
    more(&load);
    assert_all_served(&load.finish());
    lb.kill();
    lb.lb_ok(&["detach"]);
    assert!(!is_attached(&lab), "programs stayed");
    assert!(!lb.pins().exists(), "pins stayed");
}
