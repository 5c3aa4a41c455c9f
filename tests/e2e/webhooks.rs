//! Problems are told to a webhook and resolved there, whatever happens in between.

use crate::{eu, on_all, web};
use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::receiver::{Posted, Receiver};
use lb_tests::{needs_root, servers};
use ring::hmac;
use std::fs;

const SECRET: &str = "a-secret-that-nobody-may-see";

/// Checks the signature with the secret.
fn assert_signed(posted: &Posted) {
    let header = posted.header("x-lb-signature").expect("a signature");
    let (time, signature) = header.split_once(",v1=").expect("both parts");
    let time = time.strip_prefix("t=").expect("the time");
    let bytes: Vec<u8> = (0..signature.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap())
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = format!("{time}.{}", posted.body);
    hmac::verify(&key, signed.as_bytes(), &bytes).expect("the signature is right");
}

/// `SOURCE NEW_HEALTH RESOLVED` of what was taken.
fn told(receiver: &Receiver) -> Vec<String> {
    let taken = receiver.taken();
    taken
        .iter()
        .map(|posted| {
            let data = &posted.json()["data"];
            let word = |key: &str| data[key].as_str().unwrap().to_owned();
            format!(
                "{} {} {}",
                word("event_source"),
                word("new_health"),
                data["resolved"]
            )
        })
        .collect()
}

#[test]
fn a_problem_is_told_and_resolved_over_refusals_crash_and_restart() {
    needs_root!();
    let lab = Lab::routed(1);
    let receiver = Receiver::start(&lab.node);
    let mut nginx = on_all(&lab, servers::nginx);
    let secret = lab.folder().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let config = format!(
        "{}\n[webhooks.ops]\nurl = \"http://{}/hidden-path\"\nsecret_file = {secret:?}\npools = [\"eu\"]\n\
         [webhooks.other]\nurl = \"http://{}/\"\npools = [\"us\"]\n",
        web(VIP4, &eu(&lab, VIP4, 80, &[1.0])),
        receiver.address(),
        receiver.address()
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    assert!(receiver.posted().is_empty(), "nothing has happened");

    // The first attempt is refused, and made again.
    receiver.refuse(1);
    nginx.pop().unwrap().kill();
    wait_until(SOON, "origin and pool are told", || {
        (told(&receiver) == ["origin Unhealthy false", "pool Unhealthy false"]).then_some(())
    });
    let posted = receiver.posted();
    assert_eq!((posted.len(), posted[0].status), (3, 500), "{posted:?}");
    assert_eq!(posted[0].body, posted[1].body);
    let attempts: Vec<_> = posted
        .iter()
        .map(|posted| posted.header("x-lb-attempt").unwrap())
        .collect();
    assert_eq!(attempts, ["1", "2", "1"]);
    posted.iter().for_each(assert_signed);
    let problem = posted[1].json();
    let data = &problem["data"];
    assert_eq!(
        (&data["pool"], &data["origin"]),
        (&"eu".into(), &"a".into()),
        "{problem}"
    );
    assert_eq!(
        (&data["former_health"], &data["health"]),
        (&"healthy".into(), &"unhealthy".into())
    );
    assert_eq!(data["reason"], "TCP connection failed");
    assert_eq!(
        (&problem["name"], &problem["alert_event"]),
        (&"ops".into(), &"ALERT_STATE_EVENT_START".into())
    );
    let events = lb.lb_ok(&["events", "--kind", "webhook"]);
    assert!(
        events.contains("is tried again: the answer is 500") && events.contains("takes notices again"),
        "{events}"
    );

    // Nobody takes what comes next, until the daemon has crashed and another one runs.
    receiver.refuse(usize::MAX);
    let _nginx = on_all(&lab, servers::nginx);
    lb.wait("notices wait", |status| {
        let webhook = &status.json()["webhooks"][0];
        webhook["pending"] == 2 && webhook["last_error"].is_string()
    });
    lb.kill();
    receiver.refuse(0);
    lb.run();
    let expected = [
        "origin Unhealthy false",
        "pool Unhealthy false",
        "origin Healthy true",
        "pool Healthy true",
    ];
    wait_until(SOON, "the end of the problem is told", || {
        (told(&receiver) == expected).then_some(())
    });
    let taken = receiver.taken();
    taken.iter().for_each(assert_signed);
    for (problem, resolved) in [(0, 2), (1, 3)] {
        let (problem, resolved) = (taken[problem].json(), taken[resolved].json());
        assert_eq!(problem["alert_correlation_id"], resolved["alert_correlation_id"]);
        assert_eq!(resolved["alert_event"], "ALERT_STATE_EVENT_END");
        assert_ne!(problem["data"]["sequence"], resolved["data"]["sequence"]);
    }
    lb.wait("nothing waits", |status| {
        let webhook = &status.json()["webhooks"][0];
        webhook["pending"] == 0 && webhook["delivered_total"] == 2 && webhook["last_error"].is_null()
    });

    // What was taken is not sent again.
    assert!(lb.terminate().success());
    lb.run();
    lb.wait_healthy(&["eu"]);
    let status = lb.lb_ok(&["status"]);
    assert!(status.contains("WEBHOOK"), "{status}");
    assert_eq!(told(&receiver), expected);
    let shown = [
        lb.log(),
        status,
        lb.lb_ok(&["status", "--json"]),
        lb.lb_ok(&["events", "--json"]),
    ]
    .concat();
    assert!(
        !shown.contains(SECRET) && !shown.contains("hidden-path"),
        "it is told what nobody may see"
    );
}
