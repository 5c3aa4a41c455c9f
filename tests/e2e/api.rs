//! Cloudflare's own client configures a running lb, and traffic then goes where it says.

use crate::{http_at, on_all};
use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::{gate, http, needs_root, servers};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "correct-horse-battery-staple";

/// The client's steps against a daemon in the node's namespace.
struct Client<'l> {
    lab: &'l Lab,
}

impl Client<'_> {
    fn step(&self, step: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/client.py");
        let mut python = Command::new(gate::python());
        python
            .arg(script)
            .args(["http://127.0.0.1:7600", TOKEN, step])
            .args(arguments);
        let output = self.lab.node.output(&mut python);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the step `{step}` failed:\n{words}");
    }
}

/// Waits until a new connection to the VIP is served by this origin.
fn served_by(lab: &Lab, name: &str) {
    wait_until(SOON, &format!("{name} serves"), || {
        let answer = lab.client.enter(|| http::get(http_at(VIP4), "/"));
        answer.ok().filter(|answer| answer.body.trim() == name).map(drop)
    });
}

#[test]
fn cloudflares_python_client_runs_the_node() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let addresses: Vec<String> = lab.origins.iter().map(|host| host.v4.to_string()).collect();
    let [first, second] = &addresses[..] else {
        panic!("two origins were asked for")
    };
    let token = lab.folder().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let config = format!(
        "listen = [\"127.0.0.1:7600\"]\ntoken_file = {token:?}\nedge_ips = [\"{VIP4}\"]\n\n\
         [monitors.of-the-file]\ntype = \"http\"\ninterval = 0.5\ntimeout = 0.4\ndescription = \"of-the-file\"\n\
         [pools.of-the-file.origins.only]\naddress = \"{first}\"\nport = 80\n\
         [load_balancers.of-the-file]\ndefault_pools = [\"of-the-file\"]\nsteering_policy = \"hash\"\n\
         [applications.of-the-file]\nprotocol = \"tcp/81\"\naddresses = [\"{VIP4}\"]\nload_balancer = \"of-the-file\"\n"
    );
    let mut lb = Daemon::start(&lab, &config);
    let client = Client { lab: &lab };
    client.step("strangers", &[]);
    client.step("deploy", &[first, second]);
    served_by(&lab, "a");
    client.step("move", &[]);
    served_by(&lab, "b");
    // A connection outlives that everything on its way is called otherwise.
    let mut connection = lab.client.enter(|| TcpStream::connect(http_at(VIP4))).unwrap();
    for _ in 0..2 {
        let answer = http::get_kept(&mut connection, "/").unwrap();
        assert_eq!(answer.body.trim(), "b");
        client.step("rename", &[]);
    }
    assert_eq!(http::get_kept(&mut connection, "/").unwrap().body.trim(), "b");
    client.step("walk", &[first, second]);
    // The first look at an application's counters is what later ones are compared with.
    served_by(&lab, "b");
    client.step("analytics", &[]);
    served_by(&lab, "b");
    // What was made is there after a crash, and forwarded to without a pause to think.
    lb.kill();
    served_by(&lab, "b");
    lb.run();
    served_by(&lab, "b");
    client.step("walk", &[first, second]);
    client.step("clean", &[]);
    assert!(lab.client.enter(|| http::get(http_at(VIP4), "/")).is_err());
}
