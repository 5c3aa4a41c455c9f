//! `lb status`.

mod text;

use super::{Exit, Failure, Global, global, output};
use crate::client::{Client, Query, parse};
use crate::wire::Status;
use clap::Args;
use hyper::Method;
use std::time::{Duration, Instant};
use text::{Rates, text};

/// Show interfaces, applications and the pool in use, load balancers, pools and origins
#[derive(Args, Debug)]
#[command(name = "status")]
pub(super) struct StatusArgs {
    /// Show it again and again, with rates, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Seconds between two looks with --watch
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::global::seconds)]
    interval: Duration,
    /// End with exit code 8 unless everything is healthy and on its own pools
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
}

impl StatusArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.watch {
            return global::wait(watch(client, global.json, self.interval));
        }
        let body = global::wait(client.call(Method::GET, &query()))?;
        let status: Status = parse(&body)?;
        match global.json {
            true => output::print_answer(&body)?,
            false => output::print(&text(&status, None, output::stdout_has_color()))?,
        }
        if self.exit_code && !is_sound(&status) {
            Err(Failure::silent(Exit::Degraded))
        } else {
            Ok(())
        }
    }
}

fn query() -> Query {
    Query::new("/api/v1/status")
}

/// Shows one snapshot after the other. A daemon that goes away later is waited for.
async fn watch(client: Client, json: bool, interval: Duration) -> Result<(), Failure> {
    let redraw = output::stdout_is_terminal() && !json;
    let mut before: Option<(Instant, Status)> = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let body = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            body = async { ticks.tick().await; client.call(Method::GET, &query()).await } => body,
        };
        let frame = match body {
            Ok(body) if json => {
                output::print_answer(&body)?;
                continue;
            }
            Ok(body) => {
                let (now, status): (_, Status) = (Instant::now(), parse(&body)?);
                let rates = before
                    .take()
                    .map(|(then, old)| Rates::new(&old, &status, now - then));
                let frame = text(
                    &status,
                    Some(rates.unwrap_or_default()),
                    output::stdout_has_color(),
                );
                before = Some((now, status));
                frame
            }
            Err(failure) if before.is_none() => return Err(failure),
            Err(failure) => format!("{failure}\n"),
        };
        output::print(&if redraw {
            over_the_last(&frame)
        } else {
            format!("{frame}\n")
        })?;
    }
}

/// The frame drawn over the last one without clearing the screen first, which would flicker.
fn over_the_last(frame: &str) -> String {
    format!("\x1b[H{}\x1b[J", frame.replace('\n', "\x1b[K\n"))
}

/// Whether everything that is in use is attached and healthy, and nothing is on its fallback pool.
fn is_sound(status: &Status) -> bool {
    let well = |health: &str| matches!(health, "healthy" | "disabled");
    let serves = |application: &crate::wire::ApplicationStatus| {
        let balancer = status
            .load_balancers
            .iter()
            .find(|balancer| Some(&balancer.name) == application.load_balancer.as_ref());
        let disabled = balancer.is_some_and(|balancer| balancer.health == "disabled");
        disabled || (application.pool.is_some() && !application.on_fallback)
    };
    status.is_ready()
        && status.unattached.is_empty()
        && status.applications.iter().all(serves)
        && status
            .load_balancers
            .iter()
            .all(|balancer| well(&balancer.health))
        && status.pools.iter().all(|pool| well(&pool.health))
}
