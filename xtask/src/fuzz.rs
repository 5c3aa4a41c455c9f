//! `cargo xtask fuzz`: libFuzzer looks for packets, changes and times that break a promise of the pipeline.
//!
//! The compiler is the usual one: coverage is counted by a pass of its LLVM, and libFuzzer comes as C++ source with the
//! crate that calls it. What is found stands in `target/fuzz/found`; inputs that reach new code, in `target/fuzz/corpus`,
//! beside the small corpus of the tree, `tests/fuzz/corpus.txt`, that every test run plays.

use crate::corpus;
use crate::setup;
use crate::step;
use crate::workspace::{cargo, root, target_dir};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[derive(clap::Args)]
pub struct Arguments {
    /// Stop after so many seconds; 0: never
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Instead of searching, make the corpus of the tree as small as its coverage allows, with all that was found useful
    #[arg(long)]
    minimise: bool,
    /// More arguments for libFuzzer, or inputs to play
    #[arg(last = true)]
    more: Vec<String>,
}

/// How coverage is counted: what `cargo fuzz` asks of the compiler, but for sanitizers: the pipeline has no `unsafe`.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    // More, and the counters of one function are in several places.
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// Longest input, in bytes: some dozens of steps.
const MAX_LENGTH: u32 = 1024;
/// Seconds that a single input may take.
const SLOW: u32 = 5;

/// Builds the target and becomes it.
///
/// # Errors
/// It does not build, or its folders cannot be made.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::fuzz()?;
    let target = target_dir().join("fuzz");
    let machine = machine()?;
    step::must(
        "build fuzz target",
        cargo()
            .args(["build", "--release", "--package", "lb-fuzz"])
            // With a target named, build scripts and macros are not instrumented.
            .args(["--target", &machine])
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")),
    )?;
    let (own, tree, found) = (target.join("corpus"), target.join("tree"), target.join("found"));
    for folder in [&own, &found] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let file = root().join("tests/fuzz/corpus.txt");
    corpus::unpack(&file, &tree)?;
    let mut fuzzer = Command::new(target.join(&machine).join("release/pipeline"));
    fuzzer.args([
        format!("-artifact_prefix={}/", found.display()),
        format!("-max_len={MAX_LENGTH}"),
        format!("-timeout={SLOW}"),
    ]);
    if arguments.minimise {
        let new = target.join("minimised");
        corpus::empty(&new)?;
        step::must(
            "minimise the corpus",
            fuzzer
                // That code is reached is kept, how often is not: that takes ten times as many inputs.
                .args(["-merge=1", "-set_cover_merge=1", "-use_counters=0"])
                .args([&new, &tree, &own]),
        )?;
        let inputs = corpus::pack(&new, &file)?;
        println!("{}: {inputs} inputs", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    fuzzer.args(&arguments.more);
    if arguments.more.iter().all(|argument| argument.starts_with('-')) {
        fuzzer.arg(format!("-max_total_time={}", arguments.seconds));
        fuzzer.args([&own, &tree]);
    }
    let error = fuzzer.exec();
    Err(error).context("start the fuzz target")
}

/// The name of the machine that the compiler builds for.
fn machine() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc does not say what it builds for")
}
