//! The command line: one file for each verb.
//!
//! Data goes to stdout and words to stderr, so that every command can stand in a pipe; how a command ended is its exit
//! code ([`Exit`]).

mod apply;
mod capture;
mod check;
mod completions;
mod diff;
mod doctor;
mod drafts;
mod drops;
mod events;
mod explain;
mod failure;
mod flows;
mod global;
mod healthcheck;
mod interfaces;
mod log;
mod man;
mod objects;
mod origin_agent;
mod output;
mod reload;
mod run;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod version;

pub use failure::{Exit, Failure};
pub use global::Global;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// eBPF/XDP load balancer for TCP and UDP
///
/// Pools of origins, health monitors, traffic steering and a fallback pool, on your own hardware: packets are
/// forwarded in the network driver, and go on being forwarded when the daemon stops.
#[derive(Parser, Debug)]
#[command(name = "lb", version, arg_required_else_help = true, propagate_version = false, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Environment: LB_CONFIG, LB_SOCKET, LB_URL, LB_TOKEN_FILE, LB_LOG (such as debug)

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid, 4 daemon unreachable,
5 not found, 6 conflict, 7 privilege or kernel feature missing,
8 degraded (status --exit-code, healthcheck)";

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Run),
    Attach(interfaces::Attach),
    Detach(interfaces::Detach),
    Check(check::Check),
    Status(status::StatusArgs),
    Reload(reload::Reload),
    #[command(visible_alias = "pool")]
    Pools(objects::Pools),
    #[command(visible_alias = "origin")]
    Origins(objects::Origins),
    #[command(visible_alias = "monitor")]
    Monitors(objects::Monitors),
    #[command(visible_alias = "monitor-group")]
    MonitorGroups(objects::MonitorGroups),
    #[command(visible_alias = "load-balancer")]
    LoadBalancers(objects::LoadBalancers),
    #[command(visible_alias = "application")]
    Applications(objects::Applications),
    Diff(diff::DiffArgs),
    Apply(apply::Apply),
    Confirm(apply::Confirm),
    Rollback(apply::Rollback),
    Revisions(drafts::RevisionsArgs),
    Drafts(drafts::DraftsArgs),
    Explain(explain::ExplainArgs),
    Flows(flows::FlowsArgs),
    Drops(drops::DropsArgs),
    Events(events::EventsArgs),
    Trace(trace::Trace),
    Capture(capture::Capture),
    Doctor(doctor::DoctorArgs),
    OriginAgent(origin_agent::OriginAgent),
    Healthcheck(healthcheck::Healthcheck),
    Completions(completions::Completions),
    Man(man::Man),
    Version(version::VersionArgs),
}

/// The `lb` command: reads the process's arguments and does what they say.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| {
            let mut cli = Cli::from_arg_matches(&matches)?;
            cli.global.settle(&matches);
            Ok(cli)
        });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout; neither may panic on a closed pipe.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Ok.into()
            };
        }
    };
    match dispatch(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(&format!("error: {}", failure.message));
            }
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Run(verb) => verb.run(global),
        Command::Attach(verb) => verb.run(global),
        Command::Detach(verb) => verb.run(global),
        Command::Check(verb) => verb.run(global),
        Command::Status(verb) => verb.run(global),
        Command::Reload(verb) => verb.run(global),
        Command::Pools(verb) => verb.run(global),
        Command::Origins(verb) => verb.run(global),
        Command::Monitors(verb) => verb.run(global),
        Command::MonitorGroups(verb) => verb.run(global),
        Command::LoadBalancers(verb) => verb.run(global),
        Command::Applications(verb) => verb.run(global),
        Command::Diff(verb) => verb.run(global),
        Command::Apply(verb) => verb.run(global),
        Command::Confirm(verb) => verb.run(global),
        Command::Rollback(verb) => verb.run(global),
        Command::Revisions(verb) => verb.run(global),
        Command::Drafts(verb) => verb.run(global),
        Command::Explain(verb) => verb.run(global),
        Command::Flows(verb) => verb.run(global),
        Command::Drops(verb) => verb.run(global),
        Command::Events(verb) => verb.run(global),
        Command::Trace(verb) => verb.run(global),
        Command::Capture(verb) => verb.run(global),
        Command::Doctor(verb) => verb.run(global),
        Command::OriginAgent(verb) => verb.run(global),
        Command::Healthcheck(verb) => verb.run(global),
        Command::Completions(verb) => verb.run(Cli::command()),
        Command::Man(verb) => verb.run(Cli::command()),
        Command::Version(verb) => verb.run(global),
    }
}
