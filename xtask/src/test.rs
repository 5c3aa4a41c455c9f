//! `cargo xtask test`: everything that says whether the tree is sound. The last line is the count.

use crate::step::{self, Outcome, Show};
use crate::workspace::{cargo, is_ci, is_root, lb_binary};
use crate::{programs, setup};
use anyhow::Result;
use std::process::{Command, ExitCode};

#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out formatting and lints
    #[arg(long)]
    no_lint: bool,
    /// Only the tests whose name contains PATTERN
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Only what needs no root: lints, unit tests and the rules of the house
    #[arg(long)]
    unit: bool,
}

/// All packages but those that only the kernel runs, and the one that needs a C++ compiler.
const HOST: [&str; 7] = [
    "--workspace",
    "--exclude",
    "lb-ebpf",
    "--exclude",
    "lb-bench-ebpf",
    "--exclude",
    "lb-fuzz",
];

#[derive(Default, Clone, Copy, PartialEq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all of it, going on after a failure as far as that makes sense.
///
/// # Errors
/// A step cannot be started at all.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut tally = Tally::default();
    if let Err(error) = steps(arguments, &mut tally) {
        eprintln!("error: {error:#}");
        tally.failed += 1;
    }
    let skipped = if tally.skipped > 0 {
        format!(", {} skipped", tally.skipped)
    } else {
        String::new()
    };
    println!("{} passed, {} failed{skipped}", tally.passed, tally.failed);
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn steps(arguments: &Arguments, tally: &mut Tally) -> Result<()> {
    let e2e = !arguments.unit;
    setup::bpf()?;
    if e2e && is_root() {
        setup::lab()?;
        setup::python()?;
    }
    if !arguments.no_lint {
        tally.step(&step::run(
            "fmt",
            cargo().args(["fmt", "--all", "--check"]),
            Show::Nothing,
        )?);
        let clippy = [&["clippy"], &HOST[..], &["--all-targets", "--", "-D", "warnings"]].concat();
        tally.step(&step::run("clippy", cargo().args(clippy), Show::Nothing)?);
    }
    if e2e {
        // The release binary: what is tested is what is shipped. Its build script builds and embeds the BPF object.
        step::must(
            "build lb",
            cargo().args(["build", "--release", "--package", "lb-userspace"]),
        )?;
    }
    step::must("build tests", &mut tests(&[&HOST[..], &["--no-run"]].concat()))?;

    let filter: Vec<&str> = arguments.only.iter().map(String::as_str).collect();
    let mut unit = tests(&[&HOST[..], &["--exclude", "lb-tests"]].concat());
    unit.arg("--").args(&filter);
    tally.tests(&step::run("unit tests", &mut unit, Show::Nothing)?);
    let mut harness = tests(&["--package", "lb-tests", "--lib", "--bins"]);
    harness.arg("--").args(&filter);
    tally.tests(&step::run("harness tests", &mut harness, Show::Nothing)?);

    if e2e {
        end_to_end(&filter, tally)?;
    }
    Ok(())
}

fn end_to_end(filter: &[&str], tally: &mut Tally) -> Result<()> {
    let mut e2e = tests(&["--package", "lb-tests", "--test", "*", "--"]);
    e2e.args(filter).env("LB_BIN", lb_binary());
    if is_root() {
        e2e.env("LB_TRAFFIC_OBJECT", programs::build()?.join("traffic"));
        // Two: namespaces are independent, but the tests measure times.
        e2e.arg("--test-threads=2");
        tally.tests(&step::run("end-to-end tests", &mut e2e, Show::Tests)?);
        return Ok(());
    }
    e2e.arg("--list");
    let listed = step::run("list end-to-end tests", &mut e2e, Show::Nothing)?;
    let mut count = 0;
    for name in listed
        .output
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
    {
        eprintln!("SKIPPED (needs root): {name}");
        count += 1;
    }
    if is_ci() {
        eprintln!("CI=true: what cannot run counts as failed");
        tally.failed += count;
    } else {
        tally.skipped += count;
    }
    Ok(())
}

fn tests(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]).args(arguments);
    command
}

impl Tally {
    /// A step that is not a test run counts only when it fails.
    fn step(&mut self, outcome: &Outcome) {
        self.failed += u64::from(!outcome.success);
    }

    fn tests(&mut self, outcome: &Outcome) {
        let mut run = Self::read(&outcome.output);
        if !outcome.success && run.failed == 0 {
            // It did not get as far as a result: a test that does not build, an abort.
            run.failed = 1;
        }
        self.passed += run.passed;
        self.failed += run.failed;
        self.skipped += run.skipped;
    }

    /// Sums the `test result:` lines. A test that skipped itself says so on a line and is not counted as passed.
    fn read(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if let Some(result) = line.trim().strip_prefix("test result: ") {
                for part in result.split(['.', ';']) {
                    match part.trim().split_once(' ') {
                        Some((count, "passed")) => tally.passed += count.parse().unwrap_or(0),
                        Some((count, "failed")) => tally.failed += count.parse().unwrap_or(0),
                        Some((count, "ignored")) => tally.skipped += count.parse().unwrap_or(0),
                        _ => {}
                    }
                }
            }
        }
        let skipped = output.lines().filter(|line| line.starts_with("SKIPPED")).count() as u64;
        tally.passed = tally.passed.saturating_sub(skipped);
        tally.skipped += skipped;
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_skips_are_not_passes() {
        let output = "running 3 tests\nSKIPPED (needs root): a\ntest a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(
            Tally::read(output),
            Tally {
                passed: 4,
                failed: 1,
                skipped: 2
            }
        );
    }

    #[test]
    fn a_run_without_a_result_counts_as_a_failure() {
        let mut tally = Tally::default();
        tally.tests(&Outcome {
            success: false,
            output: "error: could not compile".into(),
        });
        assert_eq!(
            tally,
            Tally {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }
}
