//! Every kind of monitor finds a real server well, sees it die and says why, and sees it come back.

use lb_tests::config::pool;
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::Server;
use lb_tests::{needs_root, servers};
use serde_json::Value;

/// A monitor that is quick to find out. The timeout is long, so that no answer is taken for late on a busy machine.
fn monitor(name: &str, kind: &str, more: &str) -> String {
    format!(
        "[monitors.{name}]\ntype = \"{kind}\"\ninterval = 0.5\ntimeout = 0.5\nretries = 0\nconsecutive_down = 2\n{more}\n"
    )
}

/// A pool named like its monitor, of the lab's first origin by IPv4.
fn watched(lab: &Lab, name: &str, port: u16) -> String {
    let line = format!("monitor = \"{name}\"");
    let pool = pool(name).unmonitored().line(&line);
    pool.origin(&lab.origins[0], VIP4, port, 1.0).to_string()
}

fn wait_reason(lb: &mut Daemon, pool: &str, reason: &str) {
    lb.wait(&format!("{pool} is unhealthy: {reason}"), |status| {
        let origin = status.origin(pool, "a");
        origin["health"] == "unhealthy" && origin["failure_reason"] == reason
    });
}

/// A server that is stopped and started.
struct Kind {
    pools: &'static [(&'static str, &'static str)],
    start: fn(&lb_tests::lab::Host) -> Server,
}

#[test]
fn every_kind_sees_its_server_die_and_come_back() {
    needs_root!();
    let lab = Lab::routed(1);
    let host = &lab.origins[0];
    let config = [
        monitor("tcp", "tcp", ""),
        monitor(
            "http",
            "http",
            "expected_body = \"A\"\nexpected_codes = \"2xx,418\"",
        ),
        monitor("https", "https", "port = 443\nallow_insecure = true"),
        monitor("smtp", "smtp", ""),
        monitor("ping", "icmp_ping", ""),
        monitor("udp", "udp_icmp", ""),
        // A question for `origin.test TXT`, and the name's own text.
        monitor(
            "dns",
            "udp_icmp",
            "payload = \"0x12 34 01 00 00 01 00 00 00 00 00 00 06 6f 72 69 67 69 6e 04 74 65 73 74 00 00 10 00 01\"\n\
             expected_reply = \"0x01 61\"",
        ),
        watched(&lab, "tcp", 80),
        watched(&lab, "http", 80),
        watched(&lab, "https", 443),
        watched(&lab, "smtp", 25),
        watched(&lab, "ping", 0),
        watched(&lab, "udp", 53),
        watched(&lab, "dns", 53),
        // The same by IPv6.
        pool("ping6")
            .unmonitored()
            .line("monitor = \"ping\"")
            .origin(host, VIP6, 0, 1.0)
            .to_string(),
        pool("dns6")
            .unmonitored()
            .line("monitor = \"dns\"")
            .origin(host, VIP6, 53, 1.0)
            .to_string(),
    ];
    let kinds = [
        Kind {
            pools: &[
                ("tcp", "TCP connection failed"),
                ("http", "TCP connection failed"),
            ],
            start: servers::nginx,
        },
        Kind {
            pools: &[("https", "TCP connection failed")],
            start: servers::https,
        },
        Kind {
            pools: &[("smtp", "TCP connection failed")],
            start: servers::smtp,
        },
        Kind {
            pools: &[
                ("udp", "Other Failure: UDP port unreachable"),
                ("dns", "Other Failure: UDP port unreachable"),
                ("dns6", "Other Failure: UDP port unreachable"),
            ],
            start: servers::dnsmasq,
        },
    ];
    let running: Vec<Server> = kinds.iter().map(|kind| (kind.start)(host)).collect();
    let mut lb = Daemon::start(&lab, &config.concat());
    let all = [
        "tcp", "http", "https", "smtp", "ping", "udp", "dns", "ping6", "dns6",
    ];
    lb.wait_healthy(&all);
    for (server, kind) in running.into_iter().zip(&kinds) {
        server.kill();
        for (pool, reason) in kind.pools {
            wait_reason(&mut lb, pool, reason);
        }
        let status = lb.status();
        assert_eq!(status.health("ping", "a"), "healthy", "the host itself is well");
        let _server = (kind.start)(host);
        let pools: Vec<&str> = kind.pools.iter().map(|(pool, _)| *pool).collect();
        lb.wait_healthy(&pools);
    }
    host.namespace.ip("link set dev eth0 down");
    for pool in ["ping", "ping6"] {
        // Without a neighbour it is no timeout.
        lb.wait(&format!("{pool} is unhealthy"), |status| {
            let reason = status.origin(pool, "a")["failure_reason"]
                .as_str()
                .unwrap_or_default();
            status.health(pool, "a") == "unhealthy"
                && (reason.contains("ping timeout") || reason.contains("oute"))
        });
    }
}

#[test]
fn a_group_decides_by_majority_and_veto() {
    needs_root!();
    let lab = Lab::routed(1);
    let host = &lab.origins[0];
    let nginx = servers::nginx(host);
    let smtp = servers::smtp(host);
    let names = servers::dnsmasq(host);
    let config = [
        monitor("web", "http", "port = 80"),
        monitor("mail", "smtp", "port = 25"),
        monitor("ping", "icmp_ping", ""),
        monitor("names", "udp_icmp", "port = 53"),
        "[monitor_groups.all]\nmembers = [{ monitor = \"web\", must_be_healthy = true }, { monitor = \"mail\" }, \
         { monitor = \"ping\" }, { monitor = \"names\", monitoring_only = true, must_be_healthy = true }]\n"
            .to_owned(),
        pool("all")
            .unmonitored()
            .line("monitor_group = \"all\"")
            .origin(host, VIP4, 0, 1.0)
            .to_string(),
    ];
    let mut lb = Daemon::start(&lab, &config.concat());
    lb.wait_healthy(&["all"]);
    let member = |origin: &Value, name: &str| -> String {
        let members = origin["monitors"].as_array().unwrap();
        let member = members
            .iter()
            .find(|member| member["monitor"] == name || member["name"] == name);
        member.unwrap_or_else(|| panic!("no {name} in {origin}"))["health"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    // One that is only shown, and one of three that vote: nothing follows.
    names.kill();
    smtp.kill();
    let status = lb.wait("both are found out", |status| {
        let origin = status.origin("all", "a");
        ["names", "mail"]
            .iter()
            .all(|name| member(origin, name) == "unhealthy")
    });
    assert_eq!(status.health("all", "a"), "healthy");
    // One that must be healthy.
    nginx.kill();
    wait_reason(&mut lb, "all", "TCP connection failed");
    let _nginx = servers::nginx(host);
    lb.wait_healthy(&["all"]);
}

#[test]
fn probes_come_from_where_they_are_told_to() {
    needs_root!();
    let lab = Lab::routed(1);
    let _nginx = servers::nginx(&lab.origins[0]);
    lab.node.ip("address add 10.0.2.77/24 dev eth1");
    let ask = |name: &str, more: &str| {
        let told = format!("path = \"/source\"\nexpected_body = \"10.0.2.77\"\n{more}");
        monitor(name, "http", &told)
    };
    let config = [
        ask("by_route", ""),
        ask("by_source", "source = \"10.0.2.77\""),
        monitor("by_interface", "http", "interface = \"eth1\""),
        monitor("wrong_interface", "http", "interface = \"eth0\""),
        monitor("no_address", "http", "source = \"10.0.2.78\""),
        watched(&lab, "by_route", 80),
        watched(&lab, "by_source", 80),
        watched(&lab, "by_interface", 80),
        watched(&lab, "wrong_interface", 80),
        watched(&lab, "no_address", 80),
    ];
    let mut lb = Daemon::start(&lab, &config.concat());
    lb.wait_healthy(&["by_source", "by_interface"]);
    wait_reason(&mut lb, "by_route", "Response body mismatch error");
    lb.wait("there is no way by the other interface", |status| {
        status.health("wrong_interface", "a") == "unhealthy"
    });
    let status = lb.wait("an address that the node does not have", |status| {
        status.health("no_address", "a") == "unhealthy"
    });
    let reason = status.origin("no_address", "a")["failure_reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        reason.starts_with("Monitor Config Error") && reason.contains("10.0.2.78"),
        "{reason}"
    );
}
