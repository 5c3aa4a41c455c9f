//! `lb check` finds what is wrong with a file, says where, and needs nobody's privilege for it.

use lb_tests::gate::lb_binary;
use std::fs;
use std::process::{Command, Output};

fn check(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    fs::write(&path, text).unwrap();
    Command::new(lb_binary())
        .args(["check", "-c"])
        .arg(path)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// A sound file; the broken ones differ from it in one line.
const SOUND: &str = r#"[node]
name = "edge-1"

[datapath]
interfaces = ["eth0"]
max_flows = 65536

[monitors.tcp-check]
type = "tcp"
interval = 5
timeout = 1

[pools.eu]
monitor = "tcp-check"
minimum_origins = 1
[pools.eu.origins.a]
address = "10.0.0.11"
port = 8080
weight = 1.0

[load_balancers.web]
default_pools = ["eu"]
steering_policy = "off"

[applications.web]
protocol = "tcp/80"
addresses = ["203.0.113.10"]
load_balancer = "web"

[applications.web2]
protocol = "tcp/81"
addresses = ["203.0.113.10"]
load_balancer = "web"
"#;

#[test]
fn a_sound_file_is_accepted() {
    let output = check(SOUND);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn ten_broken_files_are_refused_with_the_line_and_the_reason() {
    // What is replaced by what, what the message must contain, and how many lines further down it points.
    let cases = [
        ("[pools.eu]", "[pools.eu", "", 0),
        ("interfaces = [", "interfacess = [", "interfaces", 0),
        (
            "monitor = \"tcp-check\"",
            "monitor = \"tcp-chek\"",
            "tcp-check",
            0,
        ),
        ("interval = 5", "interval = 0.01", "interval", 0),
        (
            "address = \"10.0.0.11\"",
            "address = \"10.0.0.300\"",
            "10.0.0.300",
            0,
        ),
        ("weight = 1.0", "weight = 1.5", "weight", 0),
        ("default_pools = [\"eu\"]", "default_pools = [\"us\"]", "us", 0),
        ("steering_policy = \"off\"", "steering_policy = \"of\"", "off", 0),
        ("protocol = \"tcp/80\"", "protocol = \"sctp/80\"", "sctp", 0),
        ("protocol = \"tcp/81\"", "protocol = \"tcp/80\"", "tcp/80", 1),
    ];
    for (sound, broken, expected, further) in cases {
        let at = SOUND.find(sound).unwrap();
        let line = SOUND[..at].lines().count() + 1 + further;
        let text = SOUND.replacen(sound, broken, 1);
        let output = check(&text);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{broken}: {words}");
        assert!(words.contains(expected), "{broken}: {expected} is not in {words}");
        assert!(
            names_line(&words, line),
            "{broken}: line {line} is not in {words}"
        );
    }
}

/// A line is named as `lb.toml:7:1`, `[lb.toml:7:1]` or `line 7`.
fn names_line(words: &str, line: usize) -> bool {
    words.contains(&format!(":{line}:")) || words.contains(&format!("line {line}"))
}

#[test]
fn all_errors_of_a_file_are_told_together() {
    let text = SOUND
        .replace("weight = 1.0", "weight = 7")
        .replace("type = \"tcp\"", "type = \"tpc\"");
    let output = check(&text);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("weight") && words.contains("tpc"), "{words}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = Command::new(lb_binary())
        .args(["check", "-c", "/nowhere/lb.toml"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/lb.toml"));
}
