//! Drafts, revisions and ways back, from the command line to the traffic.

use crate::store::Api;
use crate::{http_at, on_all};
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{Pool, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::{http, needs_root, servers};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const POOLS: &str = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers/pools";

/// Two pools of one origin each; the application leads to this one.
fn leading_to(lab: &Lab, serving: &str) -> String {
    let [a, b] = &lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let one: Pool = pool("one").unmonitored().origin(a, VIP4, 80, 1.0);
    let two: Pool = pool("two").unmonitored().origin(b, VIP4, 80, 1.0);
    format!(
        "{one}{two}{}{}",
        balancer("web", &[serving], None),
        application("web", "tcp/80", VIP4, "web")
    )
}

/// A node of which a file leads to the origin `a`, which serves, and another file to `b`.
struct Node<'l> {
    lab: &'l Lab,
    lb: Daemon,
    first: String,
    second: String,
    path: PathBuf,
}

impl<'l> Node<'l> {
    fn start(lab: &'l Lab) -> Self {
        Self::between(lab, &leading_to(lab, "one"), |first| {
            first.replace("default_pools = [\"one\"]", "default_pools = [\"two\"]")
        })
    }

    /// With this in its file, and in another one what `second` makes of it.
    fn between(lab: &'l Lab, body: &str, second: impl Fn(&str) -> String) -> Self {
        let lb = Daemon::start(lab, body);
        let first = fs::read_to_string(lb.config()).unwrap();
        let second = second(&first);
        assert_ne!(first, second);
        let path = lab.folder().join("second.toml");
        fs::write(&path, &second).unwrap();
        let node = Self {
            lab,
            lb,
            first,
            second,
            path,
        };
        node.served_by("a");
        node
    }

    fn file(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn on_disk(&self) -> String {
        fs::read_to_string(self.lb.config()).unwrap()
    }

    fn origin(&self) -> Option<String> {
        let answer = self.lab.client.enter(|| http::get(http_at(VIP4), "/"));
        answer.ok().map(|answer| answer.body.trim().to_owned())
    }

    /// Waits until new connections to the VIP are served by this origin.
    fn served_by(&self, name: &str) {
        wait_until(SOON, &format!("{name} serves"), || {
            (self.origin().as_deref() == Some(name)).then_some(())
        });
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.lb.lb_ok(&[&["--json"], arguments].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// The command must fail so; returns its words.
    fn fails(&self, exit: i32, arguments: &[&str]) -> String {
        let output = self.lb.lb(arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "lb {arguments:?}: {words}");
        words
    }

    /// Number and cause of the newest revision.
    fn newest(&self) -> (u64, String) {
        let newest = self.json(&["revisions"])["revisions"][0].clone();
        assert_eq!(newest["running"], true);
        let cause = newest["cause"].as_str().unwrap().to_owned();
        (newest["revision"].as_u64().unwrap(), cause)
    }

    /// Origins of which something was set by hand, as `POOL/ORIGIN`.
    fn by_hand(&self) -> Vec<String> {
        let status = self.lb.status();
        let pools = status.json()["pools"].as_array().unwrap().iter();
        let origins = pools.flat_map(|pool| {
            let origins = pool["origins"].as_array().unwrap().iter();
            origins.map(|origin| (pool["name"].as_str().unwrap(), origin))
        });
        origins
            .filter(|(_, origin)| !origin["overridden"].is_null())
            .map(|(pool, origin)| format!("{pool}/{}", origin["name"].as_str().unwrap()))
            .collect()
    }

    fn is_newest(&self, number: u64, cause: &str) {
        assert_eq!(self.newest(), (number, cause.to_owned()), "{}", self.lb.log());
    }
}

#[test]
fn drafts_are_saved_compared_deployed_and_taken_back() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut node = Node::start(&lab);
    node.is_newest(1, "start");

    // Saved, compared, and nothing has happened.
    node.lb.lb_ok(&["drafts", "save", node.file(), "--name", "blue"]);
    let plan = node.json(&["diff", "draft:blue"]);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["changes"][0]["object"], "load balancer");
    let field = json!({"field": "default_pools", "before": "one", "after": "two"});
    assert_eq!(plan["changes"][0]["fields"], json!([field]));
    assert_eq!(plan["traffic"][0]["moved"], 1.0);
    assert_eq!(plan["traffic"][0]["shares"][0]["origin"], "two/b");
    let words = node.lb.lb_ok(&["diff", node.file()]);
    assert!(words.contains("web (IPv4): 100 % moves"), "{words}");
    assert!(node.lb.lb_ok(&["diff"]).contains("no difference"));
    assert_eq!(node.lb.lb_ok(&["drafts", "show", "blue"]), node.second);
    assert_eq!(
        (node.origin().as_deref(), node.on_disk()),
        (Some("a"), node.first.clone())
    );

    // What is invalid is refused wherever it is given, and nothing changes.
    let broken = lab.folder().join("broken.toml");
    fs::write(&broken, node.second.replace("weight = 1.0", "weight = 7.0")).unwrap();
    let broken = broken.to_str().unwrap();
    for arguments in [
        &["drafts", "save", broken, "--name", "broken"][..],
        &["apply", broken],
        &["diff", broken],
    ] {
        let words = node.fails(3, arguments);
        assert!(
            words.contains("broken.toml:") && words.contains("weight"),
            "{words}"
        );
    }
    assert_eq!(
        node.json(&["drafts", "list"])["drafts"].as_array().unwrap().len(),
        1
    );
    node.fails(5, &["drafts", "deploy", "green"]);
    node.fails(5, &["diff", "revision:99"]);
    node.fails(5, &["rollback", "99"]);
    node.fails(5, &["rollback"]);
    node.fails(6, &["confirm"]);
    node.is_newest(1, "start");
    assert_eq!(
        (node.origin().as_deref(), node.on_disk()),
        (Some("a"), node.first.clone())
    );

    // Deployed.
    node.lb.lb_ok(&["drafts", "deploy", "blue"]);
    node.served_by("b");
    assert_eq!(node.on_disk(), node.second);
    node.is_newest(2, "apply");
    let words = node.fails(6, &["drafts", "deploy", "blue"]);
    assert!(words.contains("--force"), "{words}");
    assert_eq!(node.json(&["apply", node.file()])["changed"], false);
    node.lb.lb_ok(&["drafts", "delete", "blue"]);
    node.fails(5, &["drafts", "show", "blue"]);

    // A change of the API is a revision, too, and going back takes its object away.
    let mut api = Api::connect(&node.lb.socket()).unwrap();
    let origin = json!({"name": "x", "address": "192.0.2.1"});
    let (status, made) = api
        .ask("POST", POOLS, &json!({"name": "of-the-api", "origins": [origin]}))
        .unwrap();
    assert_eq!(status, 200, "{made}");
    let one = format!("{POOLS}/{}", made["id"].as_str().unwrap());
    node.is_newest(3, "api");
    node.lb.lb_ok(&["rollback", "1"]);
    node.served_by("a");
    node.is_newest(4, "rollback");
    assert_eq!(node.on_disk(), node.first);
    assert_eq!(api.ask("GET", &one, &json!({})).unwrap().0, 404);
    let plan = node.json(&["diff", "revision:3"]);
    let added = plan["changes"].as_array().unwrap().iter();
    assert!(
        added
            .clone()
            .any(|change| change["change"] == "added" && change["name"] == "of-the-api"),
        "{plan}"
    );
    // And back again, with the same object.
    node.lb.lb_ok(&["rollback"]);
    node.served_by("b");
    node.is_newest(5, "rollback");
    let (status, found) = api.ask("GET", &one, &json!({})).unwrap();
    assert_eq!((status, &found["name"]), (200, &json!("of-the-api")));
    assert_eq!(node.on_disk(), node.second);

    // All of it outlives a crash; a file that changed meanwhile is a revision of its own.
    node.lb.kill();
    node.lb.run();
    node.is_newest(5, "rollback");
    node.lb.kill();
    fs::write(node.lb.config(), &node.first).unwrap();
    node.lb.run();
    node.is_newest(6, "start");
    node.served_by("a");
    assert_eq!(node.lb.lb_ok(&["revisions", "show", "5"]), node.second);
}

#[test]
fn what_nobody_confirms_goes_back() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut node = Node::start(&lab);
    let (file, first) = (node.file().to_owned(), node.first.clone());

    // Nobody does.
    node.lb.lb_ok(&["apply", &file, "--confirm", "2s"]);
    node.served_by("b");
    assert_eq!(node.on_disk(), first);
    node.served_by("a");
    node.is_newest(3, "unconfirmed");
    assert_eq!(node.on_disk(), first);
    node.fails(6, &["confirm"]);

    // Somebody does; until then nothing else is deployed.
    let waits = node.json(&["apply", &file, "--confirm", "3s"]);
    assert!(waits["confirm_by"].is_string(), "{waits}");
    let until = Instant::now() + Duration::from_secs(4);
    node.fails(6, &["apply", &file]);
    node.fails(6, &["rollback", "1"]);
    node.lb.lb_ok(&["confirm"]);
    assert_eq!(node.on_disk(), node.second);
    while Instant::now() < until {
        assert_eq!(node.origin().as_deref(), Some("b"));
    }
    node.is_newest(4, "apply");

    // Going back without waiting for the time.
    let back = lab.folder().join("back.toml");
    fs::write(&back, &first).unwrap();
    let back = back.to_str().unwrap();
    node.lb.lb_ok(&["apply", back, "--confirm", "10m"]);
    node.served_by("a");
    node.lb.lb_ok(&["rollback"]);
    node.served_by("b");
    node.is_newest(6, "unconfirmed");

    // Killed before anybody could: the next start has what was before.
    node.lb.lb_ok(&["apply", back, "--confirm", "10m"]);
    node.served_by("a");
    node.lb.kill();
    // The program forwards on as it was told last.
    node.served_by("a");
    node.lb.run();
    node.served_by("b");
    node.is_newest(8, "unconfirmed");
    let events = node.lb.get("/api/v1/events").unwrap().body;
    assert!(events.contains("revision 7 is taken back"), "{events}");

    // A daemon that is told to stop goes back first.
    node.lb.lb_ok(&["apply", back, "--confirm", "10m"]);
    node.served_by("a");
    assert!(node.lb.terminate().success());
    node.served_by("b");
    node.lb.run();
    node.is_newest(10, "unconfirmed");

    // And so does one that another takes over from.
    node.lb.lb_ok(&["apply", back, "--confirm", "10m"]);
    node.served_by("a");
    node.lb.take_over(&lb_tests::gate::lb_binary());
    node.served_by("b");
    node.is_newest(12, "unconfirmed");
    assert_eq!(node.on_disk(), node.second);
}

/// The configuration with its state elsewhere.
fn with_state_dir(config: &str, folder: &Path) -> String {
    let line = config.lines().find(|line| line.starts_with("state_dir")).unwrap();
    config.replacen(line, &format!("state_dir = \"{}\"", folder.display()), 1)
}

#[test]
fn a_file_that_was_edited_is_not_replaced_unasked() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let node = Node::start(&lab);
    // Somebody's edit is not valid yet.
    let edited = format!("{}\n[pools", node.first);
    fs::write(node.lb.config(), &edited).unwrap();
    let words = node.fails(6, &["apply", node.file()]);
    assert!(words.contains("has changed since it was loaded"), "{words}");
    node.fails(3, &["diff"]);
    assert_eq!(node.on_disk(), edited);
    assert_eq!(node.origin().as_deref(), Some("a"));
    node.lb.lb_ok(&["apply", node.file(), "--force"]);
    node.served_by("b");
    assert_eq!(node.on_disk(), node.second);
    // What was to be replaced all the same can be confirmed, or taken back: then the file still says something else.
    let first = lab.folder().join("first.toml");
    fs::write(&first, &node.first).unwrap();
    let (anyway, edited) = (
        ["apply", first.to_str().unwrap(), "--force", "--confirm", "10m"],
        format!("{}\n[pools", node.second),
    );
    fs::write(node.lb.config(), &edited).unwrap();
    node.lb.lb_ok(&anyway);
    let words = node.fails(0, &["rollback"]);
    assert!(
        words.contains("holds something else") && !words.contains("lb.toml holds it"),
        "{words}"
    );
    assert_eq!(node.on_disk(), edited);
    node.served_by("b");
    node.lb.lb_ok(&anyway);
    node.lb.lb_ok(&["confirm"]);
    assert_eq!(node.on_disk(), node.first);
    // What takes effect later is said, and what cannot is refused.
    let more = node
        .second
        .replacen("[datapath]", "[datapath]\nmax_flows = 2048", 1);
    fs::write(node.lb.config(), &more).unwrap();
    let words = node.fails(0, &["reload"]);
    assert!(
        words.contains("takes effect when the maps are made anew"),
        "{words}"
    );
    let moved = lab.folder().join("moved");
    fs::write(node.lb.config(), with_state_dir(&node.second, &moved)).unwrap();
    let words = node.fails(6, &["reload"]);
    assert!(
        words.contains("node.state_dir") && words.contains("moved"),
        "{words}"
    );
    fs::write(node.lb.config(), &node.second).unwrap();
    node.lb.lb_ok(&["reload"]);
    let before = node.newest().0;
    // A valid edit ends the wait for a confirmation.
    node.lb
        .lb_ok(&["apply", first.to_str().unwrap(), "--confirm", "10m"]);
    node.served_by("a");
    node.lb.signal(Signal::HUP);
    node.served_by("b");
    wait_until(SOON, "the reload is a revision", || {
        (node.newest() == (before + 2, "file".to_owned())).then_some(())
    });
    node.fails(6, &["confirm"]);
    // A file that cannot be replaced is not deployed.
    let config = node.lb.config();
    rustix::mount::mount_bind(&config, &config).unwrap();
    let words = node.fails(7, &["apply", first.to_str().unwrap()]);
    rustix::mount::unmount(&config, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(words.contains("mount point"), "{words}");
    assert_eq!(node.origin().as_deref(), Some("b"));
    node.is_newest(before + 2, "file");
}

#[test]
fn what_was_set_by_hand_goes_and_comes_with_revisions() {
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let one = pool("one").unmonitored().origin(&lab.origins[0], VIP4, 80, 1.0);
    let two = pool("two").unmonitored().origin(&lab.origins[1], VIP4, 80, 1.0);
    let (balancer, application) = (
        balancer("web", &["one", "two"], None),
        application("web", "tcp/80", VIP4, "web"),
    );
    // The second file has the second pool alone.
    let mut node = Node::between(&lab, &format!("{one}{two}{balancer}{application}"), |first| {
        first
            .replace(&one.to_string(), "")
            .replace("[\"one\", \"two\"]", "[\"two\"]")
    });
    let (file, none) = (node.file().to_owned(), Vec::<String>::new());

    // What is set by hand is a revision.
    node.lb.lb_ok(&["origins", "disable", "one/a"]);
    node.served_by("b");
    node.is_newest(2, "api");
    let newest = node.json(&["revisions"])["revisions"][0].clone();
    assert_eq!(newest["note"], "disable one/a");
    // Done again, it is none.
    node.lb.lb_ok(&["origins", "disable", "one/a"]);
    node.is_newest(2, "api");
    let plan = node.json(&["diff", "revision:1"]);
    assert_eq!(plan["changes"][0]["name"], "one/a", "{plan}");
    let field = json!({"field": "enabled", "before": "false", "after": "true"});
    assert_eq!(plan["changes"][0]["fields"], json!([field]));
    assert_eq!(plan["traffic"][0]["moved"], 1.0);
    assert!(node.lb.lb_ok(&["diff", "file"]).contains("no difference"));

    // A rollback takes it back, and brings it back; it is on the disk.
    node.lb.lb_ok(&["rollback"]);
    node.served_by("a");
    node.is_newest(3, "rollback");
    assert_eq!(node.by_hand(), none);
    node.lb.lb_ok(&["rollback", "2"]);
    node.served_by("b");
    assert_eq!(node.by_hand(), ["one/a"]);
    node.lb.kill();
    node.lb.run();
    node.served_by("b");
    node.is_newest(4, "rollback");
    assert_eq!(node.by_hand(), ["one/a"]);

    // Nobody confirms a file without the origin: what was set on it is back, and what was set meanwhile stays.
    node.lb.lb_ok(&["apply", &file, "--confirm", "3s"]);
    assert_eq!(node.by_hand(), none);
    node.lb.lb_ok(&["origins", "weight", "two/b", "0.5"]);
    wait_until(SOON, "it goes back", || {
        (node.newest() == (7, "unconfirmed".to_owned())).then_some(())
    });
    assert_eq!(node.by_hand(), ["one/a", "two/b"]);
    node.served_by("b");
    node.lb.lb_ok(&["origins", "reset", "two/b"]);

    // So it is after a crash, and when the file is read again.
    node.lb.lb_ok(&["apply", &file, "--confirm", "10m"]);
    node.lb.kill();
    node.lb.run();
    node.is_newest(10, "unconfirmed");
    assert_eq!(node.by_hand(), ["one/a"]);
    node.served_by("b");
    node.lb.lb_ok(&["apply", &file, "--confirm", "10m"]);
    assert_eq!(node.by_hand(), none);
    node.lb.lb_ok(&["reload"]);
    assert_eq!(node.by_hand(), ["one/a"]);
    node.lb.kill();
    node.lb.run();
    assert_eq!(node.by_hand(), ["one/a"]);
    node.is_newest(12, "file");

    // It goes with the origin, and comes back with the revision.
    node.lb.lb_ok(&["apply", &file]);
    assert_eq!(node.by_hand(), none);
    node.lb.lb_ok(&["rollback"]);
    assert_eq!(node.by_hand(), ["one/a"]);
    assert_eq!(
        (node.origin().as_deref(), node.on_disk()),
        (Some("b"), node.first.clone())
    );
    node.lb.lb_ok(&["rollback", "1"]);
    node.served_by("a");
    assert_eq!(node.by_hand(), none);
}

#[test]
fn a_draft_may_have_a_host_name_as_an_origin() {
    const NAME: &str = "origins.test";
    needs_root!();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let [a, b] = &lab.origins[..] else {
        panic!("two origins were asked for")
    };
    let names = servers::name_server(b);
    names.say(NAME, &[b.v4.into()]);
    let mut node = Node::between(&lab, &leading_to(&lab, "one"), |first| {
        let named = first.replace(&a.v4.to_string(), NAME);
        format!("{named}\n[dns]\nservers = [\"{}\"]\nmin_ttl = 1\n", b.v4)
    });
    node.lb.lb_ok(&["drafts", "save", node.file(), "--name", "named"]);
    let plan = node.json(&["diff", "draft:named"]);
    let parts = plan["changes"].as_array().unwrap().iter();
    let parts: Vec<&Value> = parts.map(|change| &change["object"]).collect();
    assert_eq!(parts, ["dns", "origin"], "{plan}");
    let field = json!({"field": "address", "before": a.v4.to_string(), "after": NAME});
    assert_eq!(plan["changes"][1]["fields"], json!([field]));
    // The name is looked up at the servers of the draft, and those of the file before are back with it.
    node.lb.lb_ok(&["drafts", "deploy", "named", "--confirm", "10m"]);
    node.served_by("b");
    node.lb.lb_ok(&["rollback"]);
    node.served_by("a");
    assert_eq!(node.on_disk(), node.first);
    node.lb.lb_ok(&["drafts", "deploy", "named"]);
    node.served_by("b");
    node.lb.kill();
    node.lb.run();
    node.served_by("b");
    assert_eq!(node.on_disk(), node.second);
    // A revision with another address.
    node.lb.lb_ok(&["rollback", "1"]);
    node.served_by("a");
    node.lb.lb_ok(&["rollback"]);
    node.served_by("b");
}
