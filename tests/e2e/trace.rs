//! `lb trace`, `lb capture` and `lb drops`: what becomes of packets, as an operator sees it.

use crate::{eu, http_at, on_all};
use lb_common::abi::{ABI_VERSION, Settings, SettingsFlags, maps};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate::lb_binary;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load::{self, Load};
use lb_tests::{layout1, needs_root, pcapng, servers};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nobody serves this one.
const LONELY: u16 = 81;

/// A lab with two origins, the application `web` and the application `lonely`, whose pool is empty.
fn start(lab: &Lab) -> Daemon {
    let config = format!(
        "{MONITOR}{}{}{}{}{}{}",
        eu(lab, VIP4, 80, &[1.0, 1.0]),
        pool("nobody")
            .unmonitored()
            .origin(&lab.origins[0], VIP4, 9, 1.0)
            .disabled(),
        balancer("web", &["eu"], None),
        balancer("lonely", &["nobody"], None),
        application("web", "tcp/80", VIP4, "web"),
        application("lonely", &format!("tcp/{LONELY}"), VIP4, "lonely"),
    );
    let mut lb = Daemon::start(lab, &config);
    lb.wait_healthy(&["eu"]);
    lb
}

/// Whether the program reports packets now.
fn is_traced(lb: &Daemon) -> bool {
    let folder = lb.pins().join(format!("v{ABI_VERSION}"));
    let settings: aya::maps::Array<_, Settings> = layout1::open(&folder, maps::SETTINGS).try_into().unwrap();
    settings.get(&0, 0).unwrap().flags.has(SettingsFlags::TRACE)
}

/// Runs commands that end by themselves while requests go on, also such that nobody serves; what they printed.
fn under_load<const N: usize>(lab: &Lab, lb: &Daemon, commands: [&[&str]; N]) -> [String; N] {
    thread::scope(|scope| {
        let running = commands.map(|arguments| scope.spawn(|| lb.lb_ok(arguments)));
        let load = Load::start(&lab.client, 100, load::http(http_at(VIP4)));
        wait_until(SOON, "the commands have seen enough", || {
            let _refused = lab.client_reaches((VIP4, LONELY).into());
            running.iter().all(ScopedJoinHandle::is_finished).then_some(())
        });
        assert_all_served(&load.finish());
        running.map(|command| command.join().unwrap())
    })
}

/// Packets of which a trace tells, and how many it says are missing.
fn rows(text: &str) -> (Vec<Value>, u64) {
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (lost, rows): (Vec<Value>, Vec<Value>) = lines.partition(|line| line["lost"].is_u64());
    (rows, lost.iter().map(|line| line["lost"].as_u64().unwrap()).sum())
}

fn wait_untraced(lb: &Daemon) {
    wait_until(SOON, "nobody traces, and nothing is reported", || {
        (!is_traced(lb)).then_some(())
    });
}

#[test]
fn trace_shows_packets_with_their_verdicts() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = start(&lab);
    assert!(!is_traced(&lb));

    let of_web = ["trace", "--json", "-n", "200", "--application", "web"];
    let [shown] = under_load(&lab, &lb, [&of_web]);
    let (shown, _) = rows(&shown);
    assert_eq!(shown.len(), 200);
    let client = lab.client_address(VIP4.into()).to_string();
    for row in &shown {
        assert_eq!(
            (&row["verdict"], &row["application"]),
            (&"forward".into(), &"web".into()),
            "{row}"
        );
        assert!(row["reason"].is_null() && row["pool"] == "eu", "{row}");
        assert!(row["origin"] == "a" || row["origin"] == "b", "{row}");
        let (source, destination) = (&row["packet"]["source"], &row["packet"]["destination"]);
        let leaves_to = row["leaving"]["destination"].as_str().unwrap();
        if row["interface"] == "eth0" {
            assert!(source.as_str().unwrap().starts_with(&client), "{row}");
            assert_eq!(destination, &format!("{VIP4}:80"), "{row}");
            assert!(row["leaves_by"] == "eth1" && leaves_to.ends_with(":80"), "{row}");
        } else {
            assert!(
                row["leaves_by"] == "eth0" && leaves_to.starts_with(&client),
                "{row}"
            );
            assert_eq!(row["leaving"]["source"], format!("{VIP4}:80"), "{row}");
        }
    }
    let interfaces = |name: &str| shown.iter().filter(|row| row["interface"] == name).count();
    assert!(interfaces("eth0") > 20 && interfaces("eth1") > 20);

    let (vip, within) = (VIP4.to_string(), format!("{client}/32"));
    let few = |condition: &[&'static str]| [&["trace", "--json", "-n", "5"], condition].concat();
    // Several at once, each of which is told what it asked for.
    let [refused, by_reason, by_port, words] = under_load(
        &lab,
        &lb,
        [
            &few(&["--drops-only"]),
            &few(&["--reason", "reset_no_origin"]),
            &few(&["--port", "81"]),
            &[
                "trace", "-n", "3", "--client", &within, "--vip", &vip, "--port", "80",
            ],
        ],
    );
    for (shown, _) in [refused, by_reason, by_port].map(|text| rows(&text)) {
        assert_eq!(shown.len(), 5);
        for row in &shown {
            let verdict = (&row["verdict"], &row["reason"]);
            assert_eq!(verdict, (&"reply".into(), &"reset_no_origin".into()), "{row}");
            assert_eq!(row["application"], "lonely", "{row}");
        }
    }
    assert_eq!(words.lines().count(), 3, "{words}");
    for line in words.lines() {
        let served = line.contains(&format!("{vip}:80")) && line.contains(" bytes: forward, web, eu/");
        assert!(served, "{line}");
    }
    // What is not there is not waited for.
    let output = lb.lb(&["trace", "--application", "nothing"]);
    assert_eq!(output.status.code(), Some(5));
    for wrong in [
        ["--client", "10.0.0.0/33"],
        ["--reason", "bad_luck"],
        ["--port", "0"],
    ] {
        let output = lb.lb(&["trace", wrong[0], wrong[1]]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    wait_untraced(&lb);
    lb.wait_healthy(&["eu"]);
    assert!(lb.log().contains("packets are traced"));
    assert!(
        !lb.log().contains("HTTP/1."),
        "what others send is nobody's business"
    );
}

#[test]
fn a_trace_says_how_much_it_left_out_and_ends_in_time() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let lb = start(&lab);
    let started = Instant::now();
    let modest = ["trace", "--json", "--rate", "3", "--duration", "3"];
    let [modest] = under_load(&lab, &lb, [&modest]);
    assert!(started.elapsed() >= Duration::from_secs(3));
    let (shown, lost) = rows(&modest);
    // Three whole seconds, and one that began before and ended after them.
    let cpus = thread::available_parallelism().unwrap().get();
    assert!((1..=4 * 3 * cpus).contains(&shown.len()), "{}", shown.len());
    assert!(lost > 10, "{lost}");
    wait_untraced(&lb);
}

#[test]
fn a_capture_holds_packets_as_they_came_and_their_verdicts() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let lb = start(&lab);
    let file = lab.folder().join("packets.pcapng");
    let path = file.to_str().unwrap();
    let other = lab.folder().join("short.pcapng");
    let before = now();
    let whole = ["capture", "-w", path, "-n", "100", "--application", "web"];
    let short = ["capture", "-w", other.to_str().unwrap(), "-n", "10"];
    let short = [&short[..], &["--snaplen", "60", "--drops-only"]].concat();
    // Two at once, of which one wants less of each packet.
    let _words = under_load(&lab, &lb, [&whole, &short]);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let capture = pcapng::read(&std::fs::read(&file).unwrap());
    assert_eq!(capture.packets.len(), 100);
    let mut sides: Vec<_> = capture.interfaces.iter().map(String::as_str).collect();
    sides.sort_unstable();
    assert_eq!(sides, ["eth0", "eth1"]);
    let mut origins = BTreeSet::new();
    for packet in &capture.packets {
        let says = |key| packet.says(key);
        assert_eq!(
            (says("verdict"), says("application"), says("pool"), says("reason")),
            (Some("forward"), Some("web"), Some("eu"), None),
            "{packet:?}"
        );
        // XDP_REDIRECT.
        assert!(
            packet.action == 4 && packet.frame.len() == packet.length,
            "{packet:?}"
        );
        assert!(packet.time >= before && packet.time <= now(), "{packet:?}");
        let leaves_by = if packet.interface == "eth0" {
            "eth1"
        } else {
            "eth0"
        };
        assert_eq!(says("leaves_by"), Some(leaves_by), "{packet:?}");
        if leaves_by == "eth0" {
            let leaving = packet.comment.lines().nth(1).unwrap();
            assert!(leaving.starts_with("tcp 203.0.113.10:80 > "), "{packet:?}");
        }
        origins.extend(says("origin").map(str::to_owned));
    }
    assert_eq!(origins.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    let short = pcapng::read(&std::fs::read(&other).unwrap());
    assert_eq!(short.packets.len(), 10);
    for packet in &short.packets {
        assert_eq!(packet.frame.len(), packet.length.min(60), "{packet:?}");
        assert_eq!(packet.says("reason"), Some("reset_no_origin"), "{packet:?}");
    }
    // Others read it as well.
    let read = Command::new("tcpdump")
        .args(["-nn", "-r", path])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&read.stdout);
    assert_eq!(
        text.lines().count(),
        100,
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    assert!(text.contains("> 203.0.113.10.80: Flags [S]"), "{text}");
    assert!(text.contains("HTTP: GET / HTTP/1.0"), "packets are whole: {text}");

    let [piped] = under_load(&lab, &lb, [&["capture", "-w", "-", "-n", "1"]]);
    assert!(piped.contains("verdict="));
    // A mistake costs no older file.
    let output = lb.lb(&["capture", "-w", path, "--application", "nothing"]);
    assert_eq!(output.status.code(), Some(5));
    let again = pcapng::read(&std::fs::read(&file).unwrap());
    assert_eq!(again.packets.len(), 100);
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// Neither a client nor a daemon that is killed leaves tracing on, and a take-over ends it.
#[test]
fn tracing_ends_with_whoever_traces() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = start(&lab);
    let mut command = Command::new(lb_binary());
    command
        .args(["trace", "--json"])
        .env("LB_SOCKET", lb.socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut trace = || lab.node.spawn(&mut command).unwrap();
    let traced = |lb: &Daemon, wanted: bool| {
        wait_until(SOON, "tracing goes on or off", || {
            (is_traced(lb) == wanted).then_some(())
        });
    };
    let mut client = trace();
    traced(&lb, true);
    client.kill().unwrap();
    client.wait().unwrap();
    traced(&lb, false);

    let mut client = trace();
    traced(&lb, true);
    lb.take_over(&lb_binary());
    assert!(client.wait().unwrap().success(), "the stream ends");
    traced(&lb, false);

    let mut client = trace();
    traced(&lb, true);
    lb.kill();
    let _broken = client.wait();
    lb.run();
    traced(&lb, false);
    assert_all_served(&load::run(&lab.client, 200, 4, load::http(http_at(VIP4))));
}

#[test]
fn drops_are_counted_by_reason() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let lb = start(&lab);
    assert!(!lab.client_reaches((VIP4, LONELY).into()));
    let text = lb.lb_ok(&["drops"]);
    assert!(text.contains("reset_no_origin"), "{text}");
    let all = lb.lb_ok(&["drops", "--all"]);
    assert!(all.lines().count() > text.lines().count() + 10, "{all}");
    let answer: Value = serde_json::from_str(&lb.lb_ok(&["drops", "--json"])).unwrap();
    assert!(answer["drops"]["reset_no_origin"].as_u64() >= Some(1), "{answer}");
}
