//! Without root, and with what is not there: exit codes and words.

use lb_tests::daemon::Daemon;
use lb_tests::gate::lb_binary;
use lb_tests::lab::Lab;
use lb_tests::needs_root;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

/// Runs `lb` as nobody: a copy of it, because nobody can enter the folder it was built in.
fn as_nobody(arguments: &[&str], config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (binary, file) = (folder.path().join("lb"), folder.path().join("lb.toml"));
    // By a process of its own: a child that another test starts meanwhile would inherit the file open for writing, and
    // nobody could run it.
    assert!(
        Command::new("cp")
            .arg(lb_binary())
            .arg(&binary)
            .status()
            .unwrap()
            .success()
    );
    fs::write(&file, config).unwrap();
    for path in [folder.path(), &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .args(arguments);
    command
        .env("NO_COLOR", "1")
        .arg("-c")
        .arg(file)
        .current_dir("/")
        .output()
        .unwrap()
}

const CONFIG: &str = "[datapath]\ninterfaces = [\"lo\"]\n[api]\nsocket = \"/tmp/lb-nobody.sock\"\n";

#[test]
fn run_without_root_says_what_is_missing() {
    needs_root!();
    let output = as_nobody(&["run"], CONFIG);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{words}");
    assert!(words.contains("root") || words.contains("CAP_"), "{words}");
}

#[test]
fn check_needs_no_root() {
    needs_root!();
    let output = as_nobody(&["check"], CONFIG);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn attaching_to_an_interface_that_is_not_there_names_it_and_those_that_are() {
    needs_root!();
    let lab = Lab::routed(1);
    let lb = Daemon::prepare(&lab, "", "");
    let config = lb.config();
    let output = lb.lb(&["attach", "eth7", "-c", config.to_str().unwrap()]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{words}");
    assert!(words.contains("eth7") && words.contains("eth1"), "{words}");
    assert!(!lb.pins().exists());
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    needs_root!();
    let mut lab = Lab::routed(1);
    // A bridge has no native mode: the start fails after it has attached to the first interface.
    lab.node.ip("link add br9 type bridge\nlink set dev br9 up");
    lab.interfaces = vec!["eth0", "br9"];
    let mut lb = Daemon::prepare(&lab, "mode = \"native\"", "");
    lb.launch();
    assert_eq!(lb.wait_for_end().code(), Some(1), "{}", lb.log());
    assert!(lb.log().contains("br9"), "{}", lb.log());
    assert!(!lb.pins().exists(), "{:?}", fs::read_dir(lb.pins()));
    let link = lab.node.run("ip", &["-details", "link", "show", "dev", "eth0"]);
    assert!(!link.contains("xdp"), "{link}");
}

#[test]
fn a_command_without_a_daemon_exits_with_four() {
    needs_root!();
    let lab = Lab::routed(1);
    let lb = Daemon::prepare(&lab, "", "");
    let output = lb.lb(&["status"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{words}");
    assert!(words.contains(&*lb.socket().to_string_lossy()), "{words}");
}
