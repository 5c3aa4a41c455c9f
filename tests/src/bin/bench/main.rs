//! What a packet costs in lb, beside what nothing can be below, and what TCP through lb achieves, beside other ways.
//!
//! `cargo xtask bench` builds and starts it. Nothing of it is stored; namespaces and programs go when it ends.

#[path = "../../../bpf/src/abi.rs"]
mod abi;
mod adapter;
mod against;
mod arguments;
mod bars;
mod baseline;
mod cases;
mod compare;
mod control;
mod counters;
mod driver;
mod flow_memory;
mod flows;
mod foreign;
mod forwarding;
mod frame;
mod layout;
mod lb;
mod live;
mod machine;
mod modes;
#[path = "../../../bpf/src/network.rs"]
mod network;
mod node;
mod packets;
mod paths;
mod plot;
mod report;
mod rival;
mod startup;
mod subject;
mod table;
mod tables;

use anyhow::{Context, Result, ensure};
use arguments::Arguments;
use clap::Parser;
use lb_tests::check::interrupt;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Command {
    #[command(flatten)]
    arguments: Arguments,
}

/// Exit code as `lb` has it.
const NO_PRIVILEGE: u8 = 7;

fn main() -> ExitCode {
    let Command { arguments } = Command::parse();
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the benchmark needs root: it loads BPF programs and makes network namespaces");
        return ExitCode::from(NO_PRIVILEGE);
    }
    catch_signals();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(file) = &arguments.export {
        return against::Object::export(file);
    }
    if let (_, Some(warning)) = report::load() {
        eprintln!("warning: {warning}");
    }
    let statistics = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
    if statistics.is_ok_and(|enabled| enabled.trim() != "0") {
        eprintln!("warning: kernel.bpf_stats_enabled is on: it adds to the cost of every program");
    }
    let rows = if arguments.measures_packets() {
        let object = std::env::var_os("LB_BENCH_OBJECT")
            .context("LB_BENCH_OBJECT names no programs: start it by `cargo xtask bench`")?;
        packets::measure(arguments, object.as_ref())?
    } else {
        Vec::new()
    };
    let compared = compare::compare(&rows);
    let moved = packets::keep(arguments, &compared)?;
    if !arguments.json && !rows.is_empty() {
        table::print(&compared, arguments.packet_rounds());
        table::print_bars(&compared.bars);
        if let Some(moved) = &moved {
            baseline::print(moved);
        }
    }
    let ways = if arguments.measures_forwarding() {
        let object = std::env::var_os("LB_BENCH_FORWARDING")
            .context("LB_BENCH_FORWARDING names no programs: start it by `cargo xtask bench`")?;
        forwarding::measure(arguments, object.as_ref())?
    } else {
        Vec::new()
    };
    if !arguments.json && !ways.is_empty() {
        forwarding::print(&ways, arguments.forwarding_rounds());
    }
    let paths = if arguments.measures_paths() {
        paths::measure(arguments)?
    } else {
        Vec::new()
    };
    if !arguments.json && !paths.is_empty() {
        report::print_paths(&paths, arguments.path_rounds(), paths::SECONDS);
    }
    let control = if arguments.measures_control() {
        control::measure(arguments)?
    } else {
        Vec::new()
    };
    if arguments.json {
        let (packets, paths_done) = (arguments.packet_rounds(), arguments.path_rounds());
        let mut json = report::json(&compared, packets, &paths, paths_done, paths::SECONDS);
        json["forwarding"] = forwarding::json(&ways);
        json["control"] = control::json(&control);
        if let Some(moved) = &moved {
            json["moved"] = baseline::json(moved);
        }
        println!("{json:#}");
    } else if !control.is_empty() {
        control::print(&control);
    }
    if let (_, Some(warning)) = report::load() {
        eprintln!("warning: {warning}");
    }
    let bad: u64 = rows.iter().map(|row| row.bad).sum();
    ensure!(
        bad == 0,
        "{bad} packets went another way than their case says: the rows marked WRONG measure something else"
    );
    Ok(())
}

/// Lets SIGINT and SIGTERM end what is under way, so that everything is cleaned up.
fn catch_signals() {
    extern "C" fn note(_: libc::c_int) {
        interrupt();
    }
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is safe at any point of any thread.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}
