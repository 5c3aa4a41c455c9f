//! Objects by the command line: made, changed, operated and deleted by name, with traffic that follows.

use crate::{http_at, on_all, web};
use lb_tests::check::{SOON, assert_all_served, assert_share, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load::{self, Report};
use lb_tests::servers::ECHO_PORT;
use lb_tests::status::Status;
use lb_tests::{needs_root, servers};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

/// Requests by which shares are measured, and how far those may be off.
const REQUESTS: usize = 3000;
const TOLERANCE: f64 = 0.04;

fn measured(lab: &Lab) -> Report {
    let report = load::run(&lab.client, REQUESTS, 8, load::http(http_at(VIP4)));
    assert_all_served(&report);
    report
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It must end with that code; its words.
fn ends(lb: &Daemon, code: i32, arguments: &[&str]) -> String {
    let output = lb.lb(arguments);
    let words = words(&output);
    assert_eq!(output.status.code(), Some(code), "lb {arguments:?}: {words}");
    words
}

fn json(lb: &Daemon, arguments: &[&str]) -> Value {
    let text = lb.lb_ok(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Pool `eu` over both origins, watched by `quick`, behind the application `web`; all by flags.
fn make_everything(lb: &Daemon, lab: &Lab) {
    let monitor = "monitors create quick --type tcp --interval 0.2 --probe-timeout 0.2 --retries 0";
    lb.lb_ok(&monitor.split(' ').collect::<Vec<_>>());
    let origins: Vec<String> = lab
        .origins
        .iter()
        .map(|host| format!("name={},address={},port=80", host.name, host.v4))
        .collect();
    let mut create = vec!["pool", "create", "eu", "--monitor", "quick"];
    for origin in &origins {
        create.extend(["--origin", origin]);
    }
    lb.lb_ok(&create);
    lb.lb_ok(&[
        "load-balancers",
        "create",
        "web",
        "--pool",
        "eu",
        "--fallback-pool",
        "eu",
    ]);
    let vip = VIP4.to_string();
    lb.lb_ok(&[
        "applications",
        "create",
        "front",
        "--protocol",
        "tcp/80",
        "--address",
        &vip,
        "--load-balancer",
        "web",
    ]);
}

#[test]
fn what_the_command_line_makes_serves_and_is_operated_by_name() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, "");
    make_everything(&lb, &lab);
    lb.wait_healthy(&["eu"]);
    let report = measured(&lab);
    assert_share(&report, "a", 0.5, TOLERANCE);

    lb.lb_ok(&["origins", "weight", "eu/b", "0.5"]);
    assert_share(&measured(&lab), "a", 2.0 / 3.0, TOLERANCE);
    lb.lb_ok(&["origin", "disable", "eu/a"]);
    assert_eq!(measured(&lab).share("b"), 1.0);
    lb.lb_ok(&["origins", "enable", "eu/a"]);
    lb.wait_healthy(&["eu"]);
    assert_share(&measured(&lab), "a", 2.0 / 3.0, TOLERANCE);

    // What is listed and shown.
    let list = lb.lb_ok(&["pools"]);
    assert!(
        list.contains("2 of 2 healthy") && list.contains("quick") && list.contains("api"),
        "{list}"
    );
    for noun in [
        "monitors",
        "load-balancers",
        "applications",
        "origins",
        "monitor-groups",
    ] {
        lb.lb_ok(&[noun, "list"]);
    }
    let text = lb.lb_ok(&["pools", "show", "eu"]);
    assert!(
        text.contains("monitor = \"quick\"") && text.contains("[pools.eu.origins.b]"),
        "{text}"
    );
    let shown = json(&lb, &["pools", "show", "eu"]);
    assert_eq!(shown["origins"][1]["weight"], 0.5);
    let id = shown["id"].as_str().unwrap();
    assert_eq!(json(&lb, &["pools", "show", id]), shown, "by id as by name");
    assert_eq!(json(&lb, &["pools"])[0], shown);
    assert_eq!(json(&lb, &["origins", "list"])[1]["pool"], "eu");

    // Nothing goes that others need.
    for (noun, name, referrer) in [
        ("monitors", "quick", "pool `eu`"),
        ("pools", "eu", "load balancer `web`"),
        ("load-balancers", "web", "application `front`"),
    ] {
        let told = ends(&lb, 6, &[noun, "delete", name]);
        assert!(told.contains(referrer), "{told}");
    }
    assert!(ends(&lb, 5, &["pools", "delete", "us"]).contains("there is no pool `us`"));
    for (noun, name) in [
        ("applications", "front"),
        ("load-balancers", "web"),
        ("pools", "eu"),
        ("monitors", "quick"),
    ] {
        lb.lb_ok(&[noun, "delete", name]);
    }
    assert_eq!(json(&lb, &["pools"]), serde_json::json!([]));
}

#[test]
fn a_drain_ends_flows_after_its_deadline_and_can_be_waited_for() {
    needs_root!();
    let lab = Lab::routed(2);
    let _echo = on_all(&lab, servers::echo);
    let [a, b] = &lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let pool = pool("eu")
        .origin(a, VIP4, ECHO_PORT, 1.0)
        .origin(b, VIP4, ECHO_PORT, 1.0)
        .unmonitored();
    let config = format!(
        "{pool}{}{}",
        balancer("echo", &["eu"], None),
        application("echo", "tcp/7", VIP4, "echo")
    );
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let open = || {
        lab.client
            .enter(|| EchoFlow::open((VIP4, ECHO_PORT).into()))
            .unwrap()
    };
    let mut flow = wait_until(SOON, "a flow leads to a", || {
        Some(open()).filter(|flow| flow.origin() == "a")
    });
    flow.ping().unwrap();
    lb.lb_ok(&["origins", "drain", "eu/a", "--deadline", "1h"]);
    for _ in 0..20 {
        flow.ping().expect("an open flow goes on");
        assert_eq!(open().origin(), "b", "new ones go elsewhere");
    }
    let status = lb.status();
    assert_eq!(status.origin("eu", "a")["overridden"]["drain_timeout"], 3600.0);
    // Sooner, and by somebody who waits for it.
    let told = ends(
        &lb,
        0,
        &["origins", "drain", "eu/a", "--deadline", "0.5s", "--wait"],
    );
    assert!(told.contains("drained: "), "{told}");
    assert!(flow.ping().is_err(), "it was reset");
    lb.lb_ok(&["origins", "enable", "eu/a"]);
    wait_until(SOON, "new flows lead to a again", || {
        Some(open()).filter(|flow| flow.origin() == "a")
    });
}

#[test]
fn origins_of_the_file_are_operated_by_hand_until_that_is_reset() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let config = web(VIP4, &crate::eu(&lab, VIP4, 80, &[1.0, 1.0]));
    let mut lb = Daemon::start(&lab, &config);
    lb.wait_healthy(&["eu"]);
    let told = ends(&lb, 0, &["origins", "disable", "eu/a"]);
    assert!(
        told.contains("disabled by hand") && told.contains("lb.toml:"),
        "{told}"
    );
    assert_eq!(measured(&lab).share("b"), 1.0);
    let table = lb.lb_ok(&["status"]);
    assert!(table.contains("disabled by hand"), "{table}");
    // It outlives a restart, a crash and a reload.
    assert!(lb.terminate().success());
    lb.run();
    assert_eq!(measured(&lab).share("b"), 1.0);
    lb.kill();
    lb.run();
    lb.lb_ok(&["reload"]);
    assert_eq!(measured(&lab).share("b"), 1.0);
    lb.lb_ok(&["origins", "enable", "eu/a"]);
    lb.lb_ok(&["origins", "weight", "eu/a", "0.25"]);
    lb.wait_healthy(&["eu"]);
    assert_share(&measured(&lab), "a", 0.2, TOLERANCE);
    lb.lb_ok(&["origins", "reset", "eu/a"]);
    assert_share(&measured(&lab), "a", 0.5, TOLERANCE);
    // The load balancer, and nothing answers.
    lb.lb_ok(&["load-balancers", "disable", "web"]);
    let list = lb.lb_ok(&["load-balancers"]);
    assert!(list.contains("disabled by hand"), "{list}");
    lb.lb_ok(&["load-balancers", "enable", "web"]);
    assert_share(&measured(&lab), "a", 0.5, TOLERANCE);

    // Everything else is changed in the file, and where is told.
    let file = lb.config().display().to_string();
    for arguments in [
        &["pools", "edit", "eu", "--set", "minimum_origins=2"][..],
        &["pools", "delete", "eu"],
        &["origins", "delete", "eu/a"],
        &["origins", "create", "eu/c", "--address", "10.0.2.99"],
        &["monitors", "edit", "tcp", "--set", "interval=3"],
    ] {
        let told = ends(&lb, 6, arguments);
        assert!(
            told.contains(&format!("is declared in {file}:")),
            "{arguments:?}: {told}"
        );
    }
    // An origin that leaves the file takes its override with it.
    lb.lb_ok(&["origins", "disable", "eu/a"]);
    let only_b = pool("eu").origin(&lab.origins[1], VIP4, 80, 1.0);
    lb.write_config(&web(VIP4, &only_b));
    let count = |status: &Status| {
        status.json()["pools"][0]["origins"]
            .as_array()
            .map_or(0, Vec::len)
    };
    lb.wait("the file is read", |status| count(status) == 1);
    lb.write_config(&config);
    lb.wait("it is as it was", |status| {
        count(status) == 2 && status.is_all_healthy("eu")
    });
    assert_share(&measured(&lab), "a", 0.5, TOLERANCE);
}

#[test]
fn an_editor_changes_objects_or_comes_back_with_what_is_wrong() {
    needs_root!();
    let lab = Lab::routed(2);
    let mut lb = Daemon::start(&lab, "");
    make_everything(&lb, &lab);
    lb.wait("the pool is there", |status| {
        status.json()["pools"][0]["name"] == "eu"
    });
    let folder = tempfile::tempdir().unwrap();
    let temp = folder.path().display().to_string();
    let edit = |editor: &str, arguments: &[&str]| {
        lb.lb_with(
            &[("VISUAL", ""), ("EDITOR", editor), ("TMPDIR", &temp)],
            arguments,
        )
    };
    let pool = &["pools", "edit", "eu"][..];
    let minimum = || json(&lb, &["pools", "show", "eu"])["minimum_origins"].clone();

    let output = edit("sed -i 's/^monitor = .*/&\\nminimum_origins = 2/'", pool);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(minimum(), 2);
    for untouched in ["true", "sed -i d"] {
        let output = edit(untouched, pool);
        assert!(
            output.status.success() && words(&output).contains("nothing was changed"),
            "{}",
            words(&output)
        );
    }
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0, "nothing is left behind");

    // Wrong at first; the second time the editor sees what and where, and mends it.
    let (script, seen) = (folder.path().join("editor"), folder.path().join("seen"));
    let mends = format!(
        "#!/bin/sh\nif grep -q '^# ERROR' \"$1\"; then cp \"$1\" {}; sed -i 's/= -3/= 1/' \"$1\"\nelse sed -i 's/minimum_origins = 2/minimum_origins = -3/' \"$1\"; fi\n",
        seen.display()
    );
    fs::write(&script, mends).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = edit(script.to_str().unwrap(), pool);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(minimum(), 1);
    let seen = fs::read_to_string(seen).unwrap();
    let told = seen.lines().find(|line| line.contains("ERROR: line")).unwrap();
    let line: usize = told
        .split(' ')
        .nth(3)
        .unwrap()
        .trim_end_matches(':')
        .parse()
        .unwrap();
    assert_eq!(seen.lines().nth(line - 1), Some("minimum_origins = -3"), "{seen}");

    // Wrong and given up: nothing changed, and the text is kept.
    let output = edit("sed -i 's/^monitor = .*/monitor = \"nothing\"/'", pool);
    let told = words(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("monitor: there is no monitor `nothing`"), "{told}");
    let kept = told
        .lines()
        .find_map(|line| line.strip_prefix("your text is kept in "))
        .unwrap();
    let kept = fs::read_to_string(kept).unwrap();
    assert!(
        kept.contains("monitor = \"nothing\"") && !kept.contains("ERROR"),
        "{kept}"
    );
    assert_eq!(minimum(), 1);

    // Somebody else is faster.
    let racer = format!(
        "#!/bin/sh\n{} --socket {} origins weight eu/a 0.5 || exit 1\nsed -i 's/^monitor = .*/&\\nminimum_origins = 2/' \"$1\"\n",
        lb_tests::gate::lb_binary().display(),
        lb.socket().display()
    );
    fs::write(&script, racer).unwrap();
    let output = edit(script.to_str().unwrap(), pool);
    assert_eq!(output.status.code(), Some(6), "{}", words(&output));
    assert!(
        words(&output).contains("changed by somebody else"),
        "{}",
        words(&output)
    );
    assert_eq!(
        (
            minimum(),
            json(&lb, &["pools", "show", "eu"])["origins"][0]["weight"].clone()
        ),
        (1.into(), 0.5.into())
    );

    // Without an editor, and from files in both vocabularies.
    lb.lb_ok(&[
        "pools",
        "edit",
        "eu",
        "--set",
        "minimum_origins=2",
        "--set",
        "origins.a.weight=",
    ]);
    assert_eq!(minimum(), 2);
    lb.lb_ok(&["origins", "edit", "eu/a", "--set", "port=8080"]);
    assert_eq!(json(&lb, &["origins", "show", "eu/a"])["port"], 8080);
    lb.lb_ok(&[
        "origins",
        "create",
        "eu/c",
        "--address",
        "10.0.2.99",
        "--port",
        "80",
        "--weight",
        "0.5",
    ]);
    lb.lb_ok(&["origins", "delete", "eu/c"]);
    let told = ends(&lb, 3, &["pools", "edit", "eu", "--set", "origins.a.weight=7"]);
    assert!(told.contains("outside 0 to 1"), "{told}");
    let file = folder.path().join("us.toml");
    fs::write(
        &file,
        "[pools.us]\nmonitor = \"quick\"\n[pools.us.origins.a]\naddress = \"10.0.2.11\"\nweight = 3\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let told = ends(&lb, 3, &["pools", "create", "-f", path]);
    assert!(told.contains(&format!("{path}:5:1: origins[0].weight")), "{told}");
    fs::write(
        &file,
        "[pools.us]\nmonitor = \"quick\"\n[pools.us.origins.a]\naddress = \"10.0.2.11\"\nport = 80\n",
    )
    .unwrap();
    lb.lb_ok(&["pools", "create", "-f", path]);
    fs::write(
        &file,
        r#"{"name": "asia", "origins": [{"name": "a", "address": "10.0.2.12"}]}"#,
    )
    .unwrap();
    lb.lb_ok(&["pools", "create", "-f", path]);
    assert_eq!(json(&lb, &["pools"]).as_array().unwrap().len(), 3);
    let told = ends(
        &lb,
        3,
        &["pools", "create", "us", "--origin", "name=a,address=10.0.2.11"],
    );
    assert!(told.contains("already the name"), "{told}");
}

#[test]
fn a_monitor_is_tried_step_by_step_by_the_daemon_and_without_one() {
    needs_root!();
    let lab = Lab::routed(1);
    let host = &lab.origins[0];
    let _nginx = servers::nginx(host);
    let _dnsmasq = servers::dnsmasq(host);
    let _tls = servers::https(host);
    let monitor = |name: &str, kind: &str, more: &str| {
        format!("[monitors.{name}]\ntype = \"{kind}\"\ninterval = 60\ntimeout = 1\nretries = 0\n{more}\n")
    };
    let config = [
        MONITOR.to_owned(),
        monitor("web", "http", "expected_body = \"a\""),
        monitor("teapot", "http", "expected_codes = \"418\""),
        monitor("words", "http", "expected_body = \"nowhere\""),
        monitor("tls", "https", "port = 443\nallow_insecure = true"),
        monitor("strict", "https", "port = 443"),
        monitor("ping", "icmp_ping", ""),
        monitor("dns", "udp_icmp", "port = 53"),
        pool("eu").origin(host, VIP4, 80, 1.0).to_string(),
    ]
    .concat();
    let lb = Daemon::start(&lab, &config);
    let file = lb.config().display().to_string();
    for (code, name, target, said) in [
        (
            0,
            "tcp",
            "eu/a",
            &["eu/a  10.0.2.11:80  healthy", "connect 10.0.2.11:80", " ms"][..],
        ),
        (
            0,
            "web",
            "eu/a",
            &[
                "healthy",
                "GET /",
                "status 200 OK",
                "read the body",
                "\"a\" is in the first 10 KiB",
            ],
        ),
        (
            0,
            "tls",
            "eu/a",
            &["healthy", "connect 10.0.2.11:443", "TLS handshake", "status 200"],
        ),
        (0, "ping", "eu/a", &["healthy", "ping 10.0.2.11"]),
        (
            0,
            "dns",
            "eu/a",
            &["healthy", "ping 10.0.2.11", "datagram to 10.0.2.11:53"],
        ),
        (
            1,
            "teapot",
            "eu/a",
            &["UNHEALTHY: Response code mismatch error: 200", "status 200 OK"],
        ),
        (
            1,
            "words",
            "eu/a",
            &["UNHEALTHY: Response body mismatch error", "is not in the first"],
        ),
        (
            1,
            "strict",
            "eu/a",
            &["UNHEALTHY: TLS untrusted certificate error", "TLS handshake"],
        ),
        (
            1,
            "tcp",
            "10.0.2.11:81",
            &["UNHEALTHY: TCP connection failed", "connect 10.0.2.11:81"],
        ),
        (1, "tls", "10.0.2.11:80", &["UNHEALTHY: TLS Handshake Failure"]),
        (
            1,
            "ping",
            "10.0.2.77",
            &["UNHEALTHY: Other Failure: ping timeout", "ping 10.0.2.77"],
        ),
        (
            1,
            "dns",
            "10.0.2.11:54",
            &["UNHEALTHY: Other Failure: UDP port unreachable", "datagram to"],
        ),
        (
            1,
            "tcp",
            "nowhere.invalid",
            &["UNHEALTHY: DNS", "resolve nowhere.invalid"],
        ),
    ] {
        let flag = if target.contains('/') {
            "--origin"
        } else {
            "--address"
        };
        for further in [&[][..], &["-c", &file]] {
            let arguments = [&["monitor", "test", name, flag, target], further].concat();
            let output = lb.lb(&arguments);
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{arguments:?}: {text}{}",
                words(&output)
            );
            for words in said {
                assert!(text.contains(words), "{arguments:?}: {words} is not in\n{text}");
            }
        }
    }
    let found = json(&lb, &["monitor", "test", "tcp"]);
    assert_eq!(found["runs"][0]["target"], "eu/a", "those that it watches");
    assert!(ends(&lb, 5, &["monitor", "test", "nothing"]).contains("there is no monitor"));
    assert!(ends(&lb, 5, &["monitor", "test", "tcp", "--origin", "eu/x"]).contains("there is no origin"));
}
