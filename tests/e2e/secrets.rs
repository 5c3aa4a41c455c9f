//! What the API keeps from those whom it does not concern.

use crate::store::Api;
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::needs_root;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const MONITORS: &str = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers/monitors";
const APPLICATIONS: &str = "/client/v4/zones/0123456789abcdef0123456789abcdef/spectrum/apps";

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What a user of the node gets who has no token.
fn without_a_token(lab: &Lab, method: &str, path: &str, body: &Value) -> String {
    let mut stream = lab
        .node
        .enter(|| TcpStream::connect(("127.0.0.1", 7600)))
        .unwrap();
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_api_reads_nobodys_files_and_shows_nobodys_secrets() {
    needs_root!();
    let lab = Lab::routed(1);
    let mut lb = Daemon::start(
        &lab,
        "listen = [\"127.0.0.1:7600\"]\n\n[pools.eu.origins.a]\naddress = \"10.0.2.11\"\nport = 80\n",
    );
    let (secret, pipe) = (lab.folder().join("shadow"), lab.folder().join("pipe"));
    std::fs::write(&secret, "root:$6$salt:19000\n").unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let mut api = Api::connect(&lb.socket()).unwrap();
    for path in [&secret, &pipe] {
        let body = json!({
            "protocol": "tcp/80",
            "dns": {"name": "a.example.com", "type": "ADDRESS"},
            "edge_ips": {"type": "static", "ips": [VIP4]},
            "origin_direct": ["tcp://10.0.2.11:80"],
            "access": {"deny_files": [path]},
        });
        let (status, answer) = api.exchange("POST", APPLICATIONS, &body).unwrap();
        let answer = answer.to_string();
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer.contains("in the configuration file only") && !answer.contains("salt"),
            "{answer}"
        );
    }
    let monitor = json!({"type": "http", "header": {"Authorization": ["Bearer topsecret"]}});
    let (status, made) = api.exchange("POST", MONITORS, &monitor).unwrap();
    assert_eq!(status, 200, "{made}");
    assert!(made.to_string().contains("topsecret"), "{made}");
    let seen = without_a_token(&lab, "GET", MONITORS, &json!({}));
    assert!(
        seen.starts_with("HTTP/1.1 200") && seen.contains("Authorization") && !seen.contains("topsecret"),
        "{seen}"
    );
    let seen = without_a_token(&lab, "GET", "/api/v1/monitors", &json!({}));
    assert!(
        seen.starts_with("HTTP/1.1 200") && seen.contains("Authorization") && !seen.contains("topsecret"),
        "{seen}"
    );
    let refused = without_a_token(&lab, "POST", MONITORS, &json!({"type": "tcp"}));
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("api.token_file"),
        "{refused}"
    );
    assert!(without_a_token(&lab, "GET", "/readyz", &json!({})).starts_with("HTTP/1.1 200"));
    let config = lb.config();
    let state = config.parent().unwrap().join("state");
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("lb.redb")), 0o600);
    // A mistake is told without the lines around it, and a warning without its own.
    let text = std::fs::read_to_string(&config).unwrap();
    let with = |more: &str| {
        format!(
            "{text}\n[monitors.m]\ntype = \"http\"\nheader = {{ Authorization = [\"topsecret\"] }}\n{more}"
        )
    };
    for (more, code) in [
        ("intervall = 3\n", 3),
        ("[webhooks.w]\nurl = \"http://10.0.2.11/topsecret\"\n", 0),
    ] {
        std::fs::write(&config, with(more)).unwrap();
        assert_eq!(lb.lb(&["reload"]).status.code(), Some(code));
    }
    lb.kill();
    lb.run();
    let log = lb.log();
    assert!(log.contains("intervall") && log.contains("TLS"), "{log}");
    assert!(!log.contains("topsecret"), "{log}");
}
