//! The command line as people type it.

use super::*;
use std::path::PathBuf;
use std::time::Duration;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(line.split(' '))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.global.settle(&matches);
    Ok(cli)
}

#[test]
fn the_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_anywhere() {
    for line in [
        "lb --socket /s --json status",
        "lb status --json --socket /s",
        "lb --json status --socket /s",
    ] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json, "{line}");
        assert_eq!(cli.global.socket, Some(PathBuf::from("/s")), "{line}");
    }
    assert_eq!(
        parse("lb --timeout 0.5 status").unwrap().global.timeout,
        Duration::from_millis(500)
    );
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for line in [
        "lb frobnicate",
        "lb explain sctp 10.0.0.1:1 10.0.0.2:2",
        "lb explain tcp 10.0.0.1 10.0.0.2:2",
        "lb attach an-interface-name-that-is-too-long",
        "lb --timeout 0 status",
        "lb -q -v status",
        "lb status --watch --exit-code",
        "lb completions csh",
    ] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
}

#[test]
fn the_url_is_taken_unless_a_socket_is_named() {
    let client = parse("lb --url http://127.0.0.1:7600 status")
        .unwrap()
        .global
        .client()
        .unwrap();
    assert_eq!(
        client.target,
        crate::client::Target::Tcp("127.0.0.1:7600".to_owned())
    );
    let failure = parse("lb --url ftp://x status")
        .unwrap()
        .global
        .client()
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    let client = parse("lb --socket /s status").unwrap().global.client().unwrap();
    assert_eq!(client.target, crate::client::Target::Socket(PathBuf::from("/s")));
}

#[test]
fn a_weight_that_is_none_is_a_mistake_of_the_command_line() {
    for weight in ["0", "0.25", "1"] {
        parse(&format!("lb origins weight eu/a {weight}")).unwrap();
        parse(&format!(
            "lb origins create eu/a --address 10.0.0.1 --weight {weight}"
        ))
        .unwrap();
    }
    for weight in ["-0.1", "1.01", "half", "nan", "inf"] {
        for line in [
            "lb origins weight eu/a",
            "lb origins create eu/a --address 10.0.0.1 --weight",
        ] {
            let error = parse(&format!("{line} {weight}")).unwrap_err().to_string();
            assert!(error.contains("not a number from 0 to 1"), "{error}");
        }
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let Command::Man(verb) = parse(&format!("lb man {}", directory.path().display()))
        .unwrap()
        .command
    else {
        panic!("not the verb");
    };
    verb.run(Cli::command()).unwrap();
    assert!(directory.path().join("lb-status.1").exists());
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "lb", &mut script);
    assert!(String::from_utf8(script).unwrap().contains("healthcheck"));
}

#[test]
fn a_failure_keeps_its_code_through_anyhow() {
    let error = anyhow::Error::from(Failure::new(Exit::Privilege, "no CAP_BPF"));
    assert_eq!(Failure::from(error), Failure::new(Exit::Privilege, "no CAP_BPF"));
    let error = anyhow::anyhow!("cause").context("attach XDP to eth0");
    assert_eq!(
        Failure::from(error),
        Failure::new(Exit::Failed, "attach XDP to eth0: cause")
    );
}
