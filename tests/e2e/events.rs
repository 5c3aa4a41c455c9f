//! What has happened is told live, kept over restarts and crashes, and summed up.

use crate::{eu, on_all, web};
use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::gate::lb_binary;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::process::Process;
use lb_tests::{needs_root, servers};
use std::process::Command;

/// Numbers and messages of what `lb events` prints with these arguments.
fn events(lb: &Daemon, arguments: &[&str]) -> Vec<(u64, String)> {
    let text = lb.lb_ok(&[&["events", "--json"], arguments].concat());
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = answer["events"].as_array().unwrap().iter();
    events
        .map(|event| {
            let message = event["message"].as_str().unwrap().to_owned();
            (event["sequence"].as_u64().unwrap(), message)
        })
        .collect()
}

#[test]
fn events_are_told_live_and_outlive_crash_and_restart() {
    needs_root!();
    let lab = Lab::routed(1);
    let mut nginx = on_all(&lab, servers::nginx);
    let config = web(VIP4, &eu(&lab, VIP4, 80, &[1.0]));
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let told = lab.folder().join("told");
    let mut follow = Command::new(lb_binary());
    follow
        .args(["events", "--follow", "--pool", "eu"])
        .env("LB_SOCKET", lb.socket());
    let mut follower = Process::start(&lab.node, "lb events -f", &mut follow, &told);
    wait_until(SOON, "what was is told", || {
        follower
            .log()
            .contains("origin `a` of pool `eu` is healthy")
            .then_some(())
    });

    nginx.pop().unwrap().kill();
    lb.wait_origin("eu", "a", "unhealthy");
    wait_until(SOON, "the problem is told live", || {
        let told = follower.log();
        (told.contains("is unhealthy: TCP connection failed (problem ")
            && told.contains("pool `eu` is critical"))
        .then_some(())
    });
    // Written by now at the latest: the answer waits for the disk.
    let times = lb.lb_ok(&["events", "--times", "--origin", "eu/a", "--json"]);
    assert!(times.contains(r#""health":"unhealthy""#), "{times}");
    let before = events(&lb, &[]);
    assert!(
        before
            .iter()
            .map(|(number, _)| *number)
            .is_sorted_by(|a, b| a < b),
        "{before:?}"
    );
    lb.kill();
    wait_until(SOON, "the follower waits for the next daemon", || {
        follower.log().contains("waiting for the next one").then_some(())
    });

    // It recovers while nobody looks: the next daemon finds what was known, and ends the problem under its number.
    let _nginx = on_all(&lab, servers::nginx);
    lb.run();
    lb.wait_healthy(&["eu"]);
    wait_until(SOON, "the follower goes on", || {
        follower.log().contains("is over)").then_some(())
    });
    assert!(follower.ended().is_none());
    let told = follower.log();
    assert_eq!(
        told.matches("is unhealthy: TCP connection failed (problem ")
            .count(),
        1,
        "nothing is told twice: {told}"
    );
    let find = |events: &[(u64, String)], what: &str| {
        events.iter().find(|(_, message)| message.contains(what)).cloned()
    };
    let (problem, _) = find(&before, "origin `a` of pool `eu` is unhealthy").expect("the problem");
    let resolved = wait_until(SOON, "the problem is over", || {
        let answer = lb.get("/api/v1/events?kind=origin_health&origin=eu/a").unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let last = answer["events"].as_array().unwrap().last().unwrap().clone();
        (last["resolved"] == true).then_some(last)
    });
    assert_eq!(resolved["problem"], problem, "{resolved}");
    let after = events(&lb, &[]);
    assert_eq!(
        after[..before.len()],
        before[..],
        "nothing is forgotten or told otherwise"
    );
    let (started, _) = find(&after[before.len()..], "has started").expect("the start");
    assert!(started > before.last().unwrap().0);

    // A good end leaves no gap.
    let last = events(&lb, &[]).last().unwrap().0;
    assert!(lb.terminate().success());
    lb.run();
    let since = events(&lb, &["--since", &last.to_string()]);
    assert_eq!((since[0].0, since[0].1.as_str()), (last + 1, "lb stops"));
    assert_eq!(since[1].0, last + 2, "{since:?}");

    // A changed configuration says why.
    lb.write_config(&config.replace("weight = 1.0", "weight = 0.5"));
    wait_until(SOON, "the new configuration is told", || {
        find(&events(&lb, &["--kind", "configured"]), "the file has changed")
    });
    let answer = lb.lb(&["events", "--kind", "odd"]);
    assert_eq!(
        answer.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
}
