//! `cargo xtask bench`: builds `lb`, the benchmark and its kernel programs, and runs it. The benchmark itself is a program
//! of the harness.

#[path = "../../tests/src/bin/bench/arguments.rs"]
#[expect(dead_code, reason = "the rest is the benchmark's own")]
mod arguments;

use crate::workspace::{cargo, is_root, lb_binary, target_dir};
use crate::{NO_PRIVILEGE, programs, setup, step};
use anyhow::{Context, Result};
pub use arguments::Arguments;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Replaces this process by the benchmark, with the same arguments.
///
/// # Errors
/// Something does not build or is missing.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !is_root() {
        eprintln!("error: the benchmark needs root: it loads BPF programs and makes network namespaces");
        eprintln!("       sudo -E env \"PATH=$PATH\" cargo xtask bench");
        return Ok(ExitCode::from(NO_PRIVILEGE));
    }
    setup::bpf()?;
    if arguments.measures_paths() || arguments.measures_forwarding() || arguments.measures_control() {
        setup::lab()?;
    }
    if arguments.measures_paths() {
        setup::bench()?;
    }
    step::must(
        "build lb",
        cargo().args(["build", "--release", "--package", "lb-userspace"]),
    )?;
    // What it measures of the control plane is lb's own code within it.
    step::must(
        "build bench",
        cargo().args(["build", "--release", "--package", "lb-tests", "--bin", "bench"]),
    )?;
    let objects = programs::build()?;
    let bench = target_dir().join("release/bench");
    let own = env::args_os().skip_while(|argument| argument != "bench").skip(1);
    let error = Command::new(&bench)
        .args(own)
        .env("LB_BIN", lb_binary())
        .env("LB_LOG", "info")
        .env("LB_BENCH_OBJECT", objects.join("bench"))
        .env("LB_BENCH_FORWARDING", objects.join("forwarding"))
        .exec();
    Err(error).with_context(|| format!("start {}", bench.display()))
}
