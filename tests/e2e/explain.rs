//! `lb explain` says where a flow would go; then the flow goes there.

use crate::{eu, http_at, on_all, web};
use lb_tests::config::application;
use lb_tests::daemon::Daemon;
use lb_tests::flows::connect_from;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::{http, needs_root, servers};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// Asks the API, as `lb explain` does, without a process for each of a thousand questions.
fn explain(lb: &Daemon, client: SocketAddr, server: SocketAddr) -> Value {
    let answer = lb
        .get(&format!(
            "/api/v1/explain?protocol=tcp&client={client}&vip={server}"
        ))
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// No step is told twice.
pub fn assert_told_once(explained: &Value) {
    let steps = explained["steps"].as_array().expect("steps");
    let distinct: BTreeSet<String> = steps.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), steps.len(), "{explained}");
}

/// The origin's name without its pool's.
fn origin(explained: &Value) -> Option<&str> {
    explained["origin"]
        .as_str()
        .and_then(|name| name.rsplit('/').next())
}

#[test]
fn explain_names_the_origin_that_the_flow_then_reaches() {
    needs_root!();
    let lab = Lab::routed(3);
    let _nginx = on_all(&lab, servers::nginx);
    let config = web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 0.5, 0.3]));
    let mut lb = Daemon::start(
        &lab,
        &format!("{config}{}", application("other", "tcp/80", OTHER_VIP, "web")),
    );
    lb.wait_healthy(&["eu"]);
    let flows = number("LB_TEST_FLOWS", 1_000);
    let mut reached = BTreeMap::<String, usize>::new();
    for number in 0..flows {
        // Every port once, in an order without pattern: 7919 has no divisor in common with the 50,000 ports.
        let port = 10_000 + u16::try_from(number * 7_919 % 50_000).unwrap();
        let client = SocketAddr::from((lab.client_address(VIP4.into()), port));
        let server = http_at(if number % 2 == 0 { VIP4 } else { OTHER_VIP });
        let explained = explain(&lb, client, server);
        assert_told_once(&explained);
        let promised = origin(&explained)
            .unwrap_or_else(|| panic!("no origin in {explained}"))
            .to_owned();
        let answer = lab
            .client
            .enter(|| http::get_over(connect_from(client, server).unwrap(), "/"))
            .unwrap();
        assert_eq!(answer.body.trim(), promised, "{client} to {server}: {explained}");
        *reached.entry(promised).or_default() += 1;
    }
    assert_eq!(reached.len(), 3, "{reached:?}");
}

#[test]
fn explain_knows_what_is_for_no_application_and_the_command_agrees() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0])));
    lb.wait_healthy(&["eu"]);
    let client = SocketAddr::from((lab.client_address(VIP4.into()), 40_000));
    let nothing = explain(&lb, client, (VIP4, 22).into());
    assert_eq!(origin(&nothing), None, "{nothing}");
    let command = [
        "--json",
        "explain",
        "tcp",
        &client.to_string(),
        &http_at(VIP4).to_string(),
    ];
    let text = lb.lb_ok(&command);
    assert_eq!(
        origin(&serde_json::from_str(&text).unwrap()),
        Some("a"),
        "the command says what the API says: {text}"
    );
}
