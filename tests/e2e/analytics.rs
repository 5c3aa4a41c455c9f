//! What the API tells of traffic is what clients have sent.

use crate::{dns_at, eu, http_at, on_all};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::ECHO_PORT;
use lb_tests::{dns, http, load, needs_root, servers};
use serde_json::Value;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const REQUESTS: usize = 40;
const QUESTIONS: usize = 70;
const CONNECTIONS: usize = 15;
/// Ethernet, IPv4 and UDP headers around the question for `origin.test TXT`.
const QUESTION_FRAME: usize = 14 + 20 + 8 + 12 + 13 + 4;

fn ask(lb: &Daemon, path: &str) -> (u16, Value) {
    let path = format!("/client/v4/zones/{}/spectrum/{path}", "0".repeat(32));
    let answer = lb.get(&path).unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

fn result(lb: &Daemon, path: &str) -> Value {
    let (status, answer) = ask(lb, path);
    assert_eq!(status, 200, "{path}: {answer}");
    answer["result"].clone()
}

/// The metrics of the row with these dimensions; none: nothing of that kind has happened.
fn metrics(answer: &Value, dimensions: &[&str]) -> Vec<f64> {
    let rows = answer["data"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["dimensions"] == Value::from(dimensions));
    let metrics = row.map_or(&Value::Null, |row| &row["metrics"]).as_array();
    metrics
        .into_iter()
        .flatten()
        .map(|metric| metric.as_f64().unwrap())
        .collect()
}

/// Waits until so many flows of an application have begun and ended, and if they lasted for how long.
fn wait_events(lb: &Daemon, id: &str, count: usize, lasting: bool) -> Value {
    wait_until(SOON, &format!("{count} flows have ended"), || {
        let metrics_of = "count,bytesIngress,bytesEgress,durationAvg,durationMedian,duration99th";
        let path =
            format!("analytics/events/summary?dimensions=event&metrics={metrics_of}&filters=appID=={id}");
        let answer = result(lb, &path);
        let is = |event| metrics(&answer, &[event]).first() == Some(&(count as f64));
        // The durations come with the entries that the sweep removes.
        let timed = metrics(&answer, &["disconnect"])
            .get(3)
            .is_some_and(|average| *average > 0.0);
        (is("connect") && is("disconnect") && (timed || !lasting)).then_some(answer)
    })
}

fn id(lb: &Daemon, name: &str) -> String {
    let apps = result(lb, "apps");
    let app = apps
        .as_array()
        .unwrap()
        .iter()
        .find(|app| app["dns"]["name"] == name);
    app.unwrap_or_else(|| panic!("{name} is not in {apps}"))["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn an_application_is_measured_from_its_first_flow_on() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let config = |vip_port: &str| {
        format!(
            "{MONITOR}{}{}{}",
            eu(&lab, VIP4, 80, &[1.0]),
            balancer("all", &["eu"], None),
            application(&format!("web{vip_port}"), &format!("tcp/{vip_port}"), VIP4, "all")
        )
    };
    let mut lb = Daemon::start_with(&lab, "flow_timeouts = { tcp_closing = 1 }", &config("80"));
    lb.wait_healthy(&["eu"]);
    let first = id(&lb, "web80");
    wait_until(SOON, "it is measured", || {
        let current = result(&lb, &format!("analytics/aggregate/current?appID={first}"));
        (current[0]["connections"] == 0).then_some(())
    });
    // The row of the second may be the first one's, whose flows are none of its own.
    for port in ["8080", "8081"] {
        lb.write_config(&config(port));
        lb.lb_ok(&["reload"]);
        let server = (VIP4, port.parse().unwrap()).into();
        assert_all_served(&load::run(&lab.client, REQUESTS, 2, load::http(server)));
        wait_events(&lb, &id(&lb, &format!("web{port}")), REQUESTS, false);
    }
}

#[test]
fn analytics_add_up_to_what_clients_have_sent() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let _dnsmasq = on_all(&lab, servers::dnsmasq);
    let config = format!(
        "{MONITOR}{}{}{}{}{}",
        eu(&lab, VIP4, 0, &[1.0]).unmonitored(),
        balancer("all", &["eu"], None),
        application("web", "tcp/80", VIP4, "all"),
        application("echo", "tcp/7", VIP4, "all"),
        application("names", "udp/53", VIP4, "all")
    );
    let timeouts = "flow_timeouts = { tcp_closing = 1, udp = 1 }";
    let mut lb = Daemon::start_with(&lab, timeouts, &config);
    lb.wait_healthy(&["eu"]);
    let [web, echo, names] = ["web", "echo", "names"].map(|name| id(&lb, name));
    let current =
        |lb: &Daemon, id: &str| result(lb, &format!("analytics/aggregate/current?appID={id}"))[0].clone();
    wait_until(SOON, "it is measured", || {
        (current(&lb, &web)["connections"] == 0).then_some(())
    });

    // Bytes to the last one: of datagrams, whose number and length are known.
    lab.client.enter(|| {
        for id in 0..QUESTIONS {
            dns::ask(dns_at(VIP4), id as u16).unwrap();
        }
    });
    let answer = wait_events(&lb, &names, QUESTIONS, false);
    assert_eq!(
        answer["totals"]["bytesIngress"],
        (QUESTIONS * QUESTION_FRAME) as f64,
        "{answer}"
    );

    // Connections that are held, so that their durations are known.
    let started = Instant::now();
    let flows: Vec<EchoFlow> = lab.client.enter(|| {
        (0..CONNECTIONS)
            .map(|_| EchoFlow::open((VIP4, ECHO_PORT).into()).unwrap())
            .collect()
    });
    let opened = started.elapsed();
    wait_until(SOON, "they are open for a while", || {
        let now = current(&lb, &echo);
        let held = now["durationAvg"].as_f64().unwrap() > 1_500.0;
        (now["connections"] == CONNECTIONS && held).then_some(())
    });
    let held = started.elapsed();
    drop(flows);
    let ended = started.elapsed();
    let answer = wait_events(&lb, &echo, CONNECTIONS, true);
    let [_, _, _, average, median, longest] = metrics(&answer, &["disconnect"])[..] else {
        panic!("{answer}")
    };
    let (least, most) = ((held - opened).as_secs_f64() * 1e3, ended.as_secs_f64() * 1e3);
    // A quarter of a second: of ticks, scheduling, and the rows of the histogram.
    let slack = Duration::from_millis(250).as_secs_f64() * 1e3;
    for duration in [average, median, longest] {
        assert!(
            duration > least - slack && duration < most * 17.0 / 16.0 + slack,
            "{duration} is not from {least} to {most}: {answer}"
        );
    }

    // Both directions, against the counters that everybody else reads.
    lab.client.enter(|| {
        for _ in 0..REQUESTS {
            http::get(http_at(VIP4), "/").unwrap();
        }
    });
    let answer = wait_events(&lb, &web, REQUESTS, false);
    let bytes = |answer: &Value| {
        let totals = &answer["totals"];
        totals["bytesIngress"].as_f64().unwrap() + totals["bytesEgress"].as_f64().unwrap()
    };
    let status = lb.status();
    assert_eq!(
        status.application("web")["bytes_total"],
        bytes(&answer),
        "{answer}"
    );
    assert_eq!(metrics(&answer, &["connect"])[1..], [0.0; 5]);

    // By time it is the same, and so it is after a good end; a crash costs a minute at most.
    let everything = |lb: &Daemon| {
        let by_time = result(
            lb,
            "analytics/events/bytime?metrics=count&metrics=bytesIngress&dimensions=appID,event&time_delta=minute&sort=-count",
        );
        let intervals = by_time["time_intervals"].as_array().unwrap().len();
        assert!((360..=362).contains(&intervals), "{intervals}");
        let rows = by_time["data"].as_array().unwrap();
        let sum = |row: &Value| -> f64 {
            row["metrics"][0]
                .as_array()
                .unwrap()
                .iter()
                .map(|cell| cell.as_f64().unwrap())
                .sum()
        };
        let sums: Vec<f64> = rows.iter().map(sum).collect();
        assert!(sums.is_sorted_by(|a, b| a >= b), "{sums:?}");
        assert_eq!(by_time["totals"]["count"], sums.iter().sum::<f64>());
        let count = |id: &str, event: &str| {
            let row = rows
                .iter()
                .find(|row| row["dimensions"] == Value::from([id, event].as_slice()));
            row.map_or(0.0, sum)
        };
        [
            count(&web, "connect"),
            count(&echo, "disconnect"),
            count(&names, "connect"),
        ]
    };
    let expected = [REQUESTS, CONNECTIONS, QUESTIONS].map(|count| count as f64);
    assert_eq!(everything(&lb), expected);
    assert!(lb.terminate().success());
    lb.run();
    assert_eq!(everything(&lb), expected);

    for (path, message) in [
        (
            "summary?metrics=cuont",
            "metrics: \"cuont\" is not one of count, bytesIngress",
        ),
        (
            "summary?dimensions=colo",
            "dimensions: \"colo\" is not one of event, appID",
        ),
        ("summary?filters=event", "filters: \"event\" is no condition"),
        ("summary?sort=-bytesEgress", "sort: \"-bytesEgress\" is not among"),
        ("summary?since=yesterday", "since: \"yesterday\" is no time"),
        (
            "summary?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
            "since: \"2026-01-02T00:00:00.000Z\" is not before",
        ),
        ("bytime", "time_delta: is missing"),
        (
            "bytime?time_delta=fortnight",
            "time_delta: \"fortnight\" is not one of year",
        ),
        (
            "bytime?time_delta=minute&since=2020-01-01T00:00:00Z",
            "time_delta: \"minute\" divides",
        ),
    ] {
        let (status, answer) = ask(&lb, &format!("analytics/events/{path}"));
        let said = answer["errors"][0]["message"].as_str().unwrap();
        assert!(
            status == 400 && said.starts_with(message),
            "{path}: {status} {said}"
        );
    }
}

#[test]
fn short_connections_count_for_the_version_of_their_clients() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = on_all(&lab, servers::nginx);
    let host = &lab.origins[0];
    let [four, six] = [("four", VIP4.into()), ("six", VIP6.into())]
        .map(|(name, vip): (_, IpAddr)| pool(name).origin(host, vip, 80, 1.0).unmonitored());
    let config = format!(
        "{four}{six}{}{}{}",
        balancer("all", &["four", "six"], None),
        application("six", "tcp/80", VIP6, "all"),
        application("both", "tcp/8080", VIP6, "all")
            .replace("addresses = [", &format!("addresses = [\"{VIP4}\", "))
    );
    let mut lb = Daemon::start_with(&lab, "flow_timeouts = { tcp_closing = 2 }", &config);
    lb.wait_healthy(&["four", "six"]);
    let [six, both] = ["six", "both"].map(|name| id(&lb, name));
    wait_until(SOON, "they are measured", || {
        let current = result(&lb, &format!("analytics/aggregate/current?appID={six}"));
        (current[0]["connections"] == 0).then_some(())
    });
    lab.client.enter(|| {
        let rounds = [
            (VIP6.into(), 80, 20),
            (VIP4.into(), 8080, 30),
            (VIP6.into(), 8080, 10),
        ];
        let rounds: [(IpAddr, u16, usize); 3] = rounds;
        for (vip, port, count) in rounds {
            for _ in 0..count {
                http::get((vip, port).into(), "/").unwrap();
            }
        }
    });
    wait_events(&lb, &six, 20, false);
    wait_events(&lb, &both, 40, false);
    let by_version = |id: &str| {
        let path =
            format!("analytics/events/summary?dimensions=event,ipVersion&metrics=count&filters=appID=={id}");
        let answer = result(&lb, &path);
        let count = |event, version| metrics(&answer, &[event, version]).first().copied();
        ["connect", "disconnect"].map(|event| [count(event, "4"), count(event, "6")])
    };
    assert_eq!(by_version(&six), [[None, Some(20.0)]; 2]);
    assert_eq!(by_version(&both), [[Some(30.0), Some(10.0)]; 2]);
}
