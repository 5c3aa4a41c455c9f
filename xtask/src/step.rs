//! One step of a task: a line with the time it took; its output goes to a log, whose tail is shown when it fails.

use crate::workspace::target_dir;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Lines of the log shown when a step fails; of tests, what each failed one has to say.
const TAIL: usize = 60;
const TESTS_TAIL: usize = 400;

/// What became of a step.
pub struct Outcome {
    pub success: bool,
    /// Everything the command wrote to stdout and stderr.
    pub output: String,
}

/// Which lines are passed through while the command runs.
#[derive(Clone, Copy)]
pub enum Show {
    Nothing,
    /// Lines of the test harness: `test NAME ... ok`, and what was skipped.
    Tests,
}

/// Runs `command` as the step `title`.
///
/// # Errors
/// The command cannot be started, or the log cannot be written. A command that fails is not an error.
pub fn run(title: &str, command: &mut Command, show: Show) -> Result<Outcome> {
    let dir = target_dir().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join(format!("{}.log", title.replace([' ', '/'], "-")));
    eprint!("{title} … ");
    let started = Instant::now();
    let (success, output) = capture(command, &path, show).with_context(|| format!("run {command:?}"))?;
    let took = started.elapsed().as_secs_f64();
    if success {
        eprintln!("ok ({took:.1} s)");
    } else {
        eprintln!("FAILED ({took:.1} s): {}", path.display());
        let lines: Vec<&str> = output.lines().collect();
        let tail = match show {
            Show::Nothing => TAIL,
            Show::Tests => TESTS_TAIL,
        };
        for line in &lines[lines.len().saturating_sub(tail)..] {
            eprintln!("  | {line}");
        }
    }
    Ok(Outcome { success, output })
}

/// As [`run`], for steps that nothing can go on without.
///
/// # Errors
/// Also when the command fails.
pub fn must(title: &str, command: &mut Command) -> Result<()> {
    let outcome = run(title, command, Show::Nothing)?;
    anyhow::ensure!(outcome.success, "{title} failed");
    Ok(())
}

fn capture(command: &mut Command, path: &PathBuf, show: Show) -> Result<(bool, String)> {
    let (reader, writer) = std::io::pipe()?;
    let mut log = File::create(path)?;
    writeln!(log, "$ {command:?}")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = command.spawn();
    // The command holds the writing ends: without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child?;
    let mut output = String::new();
    let mut lines = BufReader::new(reader);
    let mut first = true;
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? != 0 {
        let line = String::from_utf8_lossy(&bytes);
        log.write_all(&bytes)?;
        if matches!(show, Show::Tests) && is_test_line(&line) {
            if first {
                eprintln!();
                first = false;
            }
            eprint!("  {line}");
        }
        output.push_str(&line);
        bytes.clear();
    }
    Ok((child.wait()?.success(), output))
}

fn is_test_line(line: &str) -> bool {
    (line.starts_with("test ") && line.contains(" ... ")) || line.starts_with("SKIPPED")
}
