//! The configuration changes under traffic: by every way to say so, and never halfway.

use crate::{eu, http_at, on_all, web};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{Pool, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load::{self, Load};
use lb_tests::servers::ECHO_PORT;
use lb_tests::{needs_root, servers};
use rustix::process::Signal;
use std::time::Duration;

const LONG_LIVED: usize = 40;

fn echo_and_web(pool: &Pool) -> String {
    format!(
        "{pool}{}{}{}",
        balancer("web", &["eu"], None),
        application("web", "tcp/80", VIP4, "web"),
        application("echo", "tcp/7", VIP4, "web")
    )
}

#[test]
fn established_connections_never_move_and_no_request_fails_across_fifty_reloads() {
    needs_root!();
    let lab = Lab::routed(4);
    let [a, b, c, d] = &lab.origins[..] else {
        panic!("four origins were asked for")
    };
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let start = eu(&lab, VIP4, 0, &[1.0, 1.0]).unmonitored();
    let mut lb = Daemon::start(&lab, &echo_and_web(&start));
    lb.wait_healthy(&["eu"]);
    let mut flows: Vec<EchoFlow> = lab.client.enter(|| {
        (0..LONG_LIVED)
            .map(|_| EchoFlow::open((VIP4, ECHO_PORT).into()).expect("the echo server answers"))
            .collect()
    });
    for name in ["a", "b"] {
        assert!(
            flows.iter().any(|flow| flow.origin() == name),
            "{name} has no flow to keep"
        );
    }
    let load = Load::start(&lab.client, 200, load::http(http_at(VIP4)));
    for round in 1..=number("LB_TEST_RELOADS", 50) {
        // a and b stay, with ever other weights, also none; c and d come and go, before and after them.
        let weight = |step: usize| (round * step % 11) as f64 / 10.0;
        let mut next = pool("eu").unmonitored();
        if round % 2 == 1 {
            next = next.origin(c, VIP4, 0, 1.0);
        }
        next = next
            .origin(a, VIP4, 0, weight(3).min(1.0))
            .origin(b, VIP4, 0, weight(7).clamp(0.1, 1.0));
        if round % 3 == 0 {
            next = next.origin(d, VIP4, 0, 0.5);
        }
        lb.write_config(&echo_and_web(&next));
        lb.lb_ok(&["reload"]);
        for flow in &mut flows {
            flow.ping()
                .unwrap_or_else(|error| panic!("after reload {round}: {error}"));
        }
    }
    assert_all_served(&load.finish());
}

/// A configuration whose first origin has that weight.
fn weighing(lab: &Lab, weight: f64) -> String {
    web(VIP4, &eu(lab, VIP4, 80, &[weight, 1.0]))
}

fn wait_weight(lb: &mut Daemon, weight: f64) {
    lb.wait(&format!("a weighs {weight}"), |status| {
        status.origin("eu", "a")["weight"]
            .as_f64()
            .is_some_and(|now| (now - weight).abs() < 1e-6)
    });
}

#[test]
fn a_changed_file_is_taken_over_on_sighup_on_lb_reload_and_by_itself() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &weighing(&lab, 1.0));
    wait_weight(&mut lb, 1.0);

    lb.write_config(&weighing(&lab, 0.2));
    wait_weight(&mut lb, 0.2);

    lb.write_config(&weighing(&lab, 0.4));
    lb.signal(Signal::HUP);
    wait_weight(&mut lb, 0.4);

    lb.write_config(&weighing(&lab, 0.6));
    lb.lb_ok(&["reload"]);
    let status = lb.status();
    assert_eq!(
        status.origin("eu", "a")["weight"].as_f64(),
        Some(0.6),
        "lb reload returns when it is in force"
    );
}

#[test]
fn an_invalid_file_changes_nothing_and_is_reported() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &weighing(&lab, 1.0));
    lb.wait_healthy(&["eu"]);
    lb.write_config("[pools.eu]\nmonitor = \"nobody\"\nwait = 1\n");
    let output = lb.lb(&["reload"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(
        words.contains("nobody") && words.contains("wait"),
        "both errors are told: {words}"
    );
    // Also when it is found without being asked for.
    wait_until(SOON, "the daemon tells of the invalid file", || {
        lb.log().contains("nobody").then_some(())
    });
    assert_eq!(lb.status().origin("eu", "a")["weight"].as_f64(), Some(1.0));
    let report = load::run(&lab.client, 200, 4, load::http(http_at(VIP4)));
    assert_all_served(&report);
    assert!(
        report
            .samples()
            .iter()
            .all(|sample| sample.took < Duration::from_secs(1))
    );

    lb.write_config(&weighing(&lab, 0.3));
    lb.lb_ok(&["reload"]);
    wait_weight(&mut lb, 0.3);
}

/// What is removed from the file is no longer served, and what is added is, without touching the rest.
#[test]
fn applications_come_and_go_with_the_file() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let base = weighing(&lab, 1.0);
    let second = format!("{base}{}", application("second", "tcp/8080", VIP4, "web"));
    let mut lb = Daemon::start(&lab, &second);
    lb.wait_healthy(&["eu"]);
    let first_at = http_at(VIP4);
    let second_at = (VIP4, 8080).into();
    assert!(lab.client_reaches(first_at) && lab.client_reaches(second_at));
    lb.write_config(&base);
    lb.lb_ok(&["reload"]);
    assert!(lab.client_reaches(first_at) && !lab.client_reaches(second_at));
    lb.write_config(&second);
    lb.lb_ok(&["reload"]);
    assert!(lab.client_reaches(first_at) && lab.client_reaches(second_at));
}

#[test]
fn a_disabled_origin_keeps_its_connections_and_gets_no_new_ones() {
    needs_root!();
    let lab = Lab::routed(2);
    let [a, b] = &lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let both = pool("eu")
        .unmonitored()
        .origin(a, VIP4, 0, 1.0)
        .origin(b, VIP4, 0, 1.0);
    let only_b = pool("eu")
        .unmonitored()
        .origin(a, VIP4, 0, 1.0)
        .disabled()
        .origin(b, VIP4, 0, 1.0);
    let mut lb = Daemon::start(&lab, &echo_and_web(&both));
    lb.wait_healthy(&["eu"]);
    let open = || {
        lab.client
            .enter(|| EchoFlow::open((VIP4, ECHO_PORT).into()))
            .unwrap()
    };
    let mut flows: Vec<EchoFlow> = (0..LONG_LIVED)
        .map(|_| open())
        .filter(|flow| flow.origin() == "a")
        .collect();
    assert!(!flows.is_empty());
    lb.write_config(&echo_and_web(&only_b));
    lb.lb_ok(&["reload"]);
    let status = lb.status();
    assert_eq!(status.health("eu", "a"), "disabled");
    assert_eq!(status.origin("eu", "a")["draining"], true);
    for flow in &mut flows {
        flow.ping().expect("a draining connection goes on");
    }
    for _ in 0..20 {
        assert_eq!(open().origin(), "b");
    }
}
