//! `lb monitor test`: one run, step by step, by the daemon or without one.

use super::remote::Remote;
use crate::cli::check::load;
use crate::cli::{Exit, Failure, Global, global, output};
use crate::config::Kind;
use crate::probe::{Probes, run_trials, select_trials};
use crate::wire::{ErrorCode, MonitorTest, MonitorTestQuery};
use clap::Args;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A run with all its attempts may take longer than other answers.
const PATIENCE: Duration = Duration::from_secs(600);

/// `lb monitor test NAME`.
#[derive(Args, Debug)]
pub(super) struct Test {
    /// The monitor's name or id
    name: String,
    /// Only this origin, whoever watches it: POOL/ORIGIN, or ORIGIN in any pool
    #[arg(long, value_name = "POOL/ORIGIN")]
    origin: Option<String>,
    /// All origins of this pool, whoever watches it
    #[arg(long, value_name = "NAME", conflicts_with = "origin")]
    pool: Option<String>,
    /// An address or host name, perhaps with a port, instead of origins
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with_all = ["origin", "pool"])]
    address: Option<String>,
    /// Probe from here, without a daemon, as this configuration file says
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Test {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let query = MonitorTestQuery {
            pool: self.pool,
            origin: self.origin,
            address: self.address,
        };
        let found = match &self.config {
            Some(path) => here(path, &self.name, &query, global)?,
            None => {
                let patient = Global {
                    timeout: global.timeout.max(PATIENCE),
                    ..global.clone()
                };
                Remote::new(Kind::Monitor, &patient)?.test(&self.name, &query)?
            }
        };
        match global.json {
            true => output::print_json(&found)?,
            false => output::print(&text(&found))?,
        }
        match found.is_healthy() {
            true => Ok(()),
            false => Err(Failure::silent(Exit::Failed)),
        }
    }
}

fn here(
    path: &std::path::Path,
    name: &str,
    query: &MonitorTestQuery,
    global: &Global,
) -> Result<MonitorTest, Failure> {
    let loaded = load(path, global)?;
    let set = select_trials(&loaded.config, name, query).map_err(|refused| {
        let exit = match refused.code {
            ErrorCode::NotFound => Exit::NotFound,
            _ => Exit::Usage,
        };
        Failure::new(exit, refused.message)
    })?;
    let probes = Arc::new(Probes::new()?);
    global::wait(async { Ok(run_trials(set, &probes).await) })
}

fn text(found: &MonitorTest) -> String {
    let mut text = String::new();
    let width = |what: &str| what.chars().count();
    let steps = found
        .runs
        .iter()
        .flat_map(|run| &run.attempts)
        .flat_map(|attempt| &attempt.steps);
    let widest = steps.map(|step| width(&step.what)).max().unwrap_or_default();
    for run in &found.runs {
        let target = if run.target == run.address {
            String::new()
        } else {
            format!("{}  ", run.target)
        };
        let verdict = match (&run.failure_reason, run.rtt_ms) {
            (Some(reason), _) => format!("UNHEALTHY: {reason}"),
            (None, Some(rtt)) => format!("healthy, {rtt:.1} ms"),
            (None, None) => "healthy".to_owned(),
        };
        // Writing to a text does not fail.
        let _ = writeln!(text, "{target}{}  {verdict}", run.address);
        for (index, attempt) in run.attempts.iter().enumerate() {
            if run.attempts.len() > 1 {
                let reason = attempt.failure_reason.as_deref().unwrap_or("ok");
                let _ = writeln!(text, "  attempt {}: {reason}", index + 1);
            }
            for step in &attempt.steps {
                let time = step.took_ms.map_or_else(String::new, |took| {
                    let padding = " ".repeat(widest - width(&step.what));
                    format!("{padding}  {took:>9.3} ms")
                });
                let _ = writeln!(text, "    {}{time}", step.what);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_step_is_shown_with_its_time() {
        let found: MonitorTest = serde_json::from_value(json!({
            "monitor": "web", "type": "http",
            "runs": [
                {"target": "eu/a", "address": "10.0.0.1:80", "healthy": true, "failure_reason": null, "rtt_ms": 1.25,
                 "attempts": [{"failure_reason": null, "steps": [
                    {"what": "connect 10.0.0.1:80", "took_ms": 0.25},
                    {"what": "GET /", "took_ms": 1.0},
                    {"what": "status 200 OK", "took_ms": null}]}]},
                {"target": "10.0.0.2:80", "address": "10.0.0.2:80", "healthy": false, "failure_reason": "TCP Timeout",
                 "rtt_ms": null, "attempts": [
                    {"failure_reason": "TCP Timeout", "steps": [{"what": "connect 10.0.0.2:80", "took_ms": 1000.0}]},
                    {"failure_reason": "TCP Timeout", "steps": [{"what": "connect 10.0.0.2:80", "took_ms": 1000.5}]}]}
            ]
        }))
        .unwrap();
        assert_eq!(
            text(&found),
            "\
eu/a  10.0.0.1:80  healthy, 1.2 ms
    connect 10.0.0.1:80      0.250 ms
    GET /                    1.000 ms
    status 200 OK
10.0.0.2:80  UNHEALTHY: TCP Timeout
  attempt 1: TCP Timeout
    connect 10.0.0.2:80   1000.000 ms
  attempt 2: TCP Timeout
    connect 10.0.0.2:80   1000.500 ms
"
        );
        assert!(!found.is_healthy());
    }
}
