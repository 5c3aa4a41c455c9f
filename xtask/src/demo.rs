//! `cargo xtask demo`: builds `lb` and the demo, and runs it. The demo itself is a program of the harness.

use crate::workspace::{cargo, is_root, lb_binary, target_dir};
use crate::{NO_PRIVILEGE, setup, step};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Replaces this process by the demo, so that Ctrl-C reaches exactly one program.
///
/// # Errors
/// Something does not build or is missing.
pub fn run() -> Result<ExitCode> {
    if !is_root() {
        eprintln!("error: the demo needs root: it makes network namespaces and loads a BPF program");
        eprintln!("       sudo -E env \"PATH=$PATH\" cargo xtask demo");
        return Ok(ExitCode::from(NO_PRIVILEGE));
    }
    setup::bpf()?;
    setup::lab()?;
    step::must(
        "build lb",
        cargo().args(["build", "--release", "--package", "lb-userspace"]),
    )?;
    step::must(
        "build demo",
        cargo().args(["build", "--package", "lb-tests", "--bin", "demo"]),
    )?;
    let demo = target_dir().join("debug/demo");
    let error = Command::new(&demo).env("LB_BIN", lb_binary()).exec();
    Err(error).with_context(|| format!("start {}", demo.display()))
}
