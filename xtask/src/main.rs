//! What one does with the tree: `cargo xtask setup | test | demo | bench | fuzz | tidy`. One file a task.

mod bench;
mod corpus;
mod demo;
mod fuzz;
mod programs;
mod setup;
mod step;
mod test;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Set up, test and demonstrate lb.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find the BPF toolchain, or install it; quick when nothing is missing
    Setup(setup::Arguments),
    /// Format, lint, build, unit tests, end-to-end tests
    Test(test::Arguments),
    /// Watch pools fail over and back, in network namespaces, in under a minute
    Demo,
    /// What a packet costs, beside what nothing can be below; and throughput beside other ways to balance
    Bench(bench::Arguments),
    /// Search, guided by coverage, for packets that break a promise of the pipeline
    Fuzz(fuzz::Arguments),
    /// Check the rules of the house that no compiler knows
    Tidy,
}

/// Exit code of a task that lacks a privilege, the same as `lb`'s own.
const NO_PRIVILEGE: u8 = 7;

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Test(arguments) => test::run(&arguments),
        Task::Demo => demo::run(),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Tidy => tidy::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
