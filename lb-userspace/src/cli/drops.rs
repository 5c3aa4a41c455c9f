//! `lb drops`.

use super::table::{Align, Table};
use super::{Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::{Drops, Ordered};
use clap::Args;
use hyper::Method;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// Show how many packets were dropped or refused, by reason
#[derive(Args, Debug)]
#[command(name = "drops")]
pub(super) struct DropsArgs {
    /// Show reasons that never occurred too
    #[arg(long)]
    all: bool,
    /// Show it again and again, with packets per second
    #[arg(short, long)]
    watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = global::seconds, requires = "watch")]
    interval: Duration,
}

impl DropsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if self.watch {
            return global::wait(self.watch(global));
        }
        let body = global::wait(global.client()?.call(Method::GET, &query()))?;
        if global.json {
            return output::print_answer(&body);
        }
        let drops: Drops = parse(&body)?;
        let table = self.table(&drops.drops, None);
        match table.is_empty() {
            true => {
                global.say("no packet was dropped");
                Ok(())
            }
            false => output::print(&table.render(false)),
        }
    }

    async fn watch(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(Instant, Drops)> = None;
        loop {
            let body = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                body = async { ticks.tick().await; client.call(Method::GET, &query()).await } => body?,
            };
            if global.json {
                output::print_answer(&body)?;
                continue;
            }
            let (now, drops): (_, Drops) = (Instant::now(), parse(&body)?);
            let rates = before
                .as_ref()
                .map(|(then, old)| (&old.drops, (now - *then).as_secs_f64()));
            let table = self.table(&drops.drops, rates).render(false);
            output::print(&match output::stdout_is_terminal() {
                // Over the last one, without clearing the screen first, which would flicker.
                true => format!("\x1b[H{}\x1b[J", table.replace('\n', "\x1b[K\n")),
                false => format!("{table}\n"),
            })?;
            before = Some((now, drops));
        }
    }

    /// The counts, and what was counted since `before` per second.
    fn table(&self, drops: &Ordered<u64>, before: Option<(&Ordered<u64>, f64)>) -> Table {
        let mut columns = vec![("REASON", Align::Left), ("PACKETS", Align::Right)];
        if self.watch {
            columns.push(("PER SECOND", Align::Right));
        }
        let mut table = Table::new(&columns);
        for (reason, count) in drops.0.iter().filter(|(_, count)| self.all || *count > 0) {
            let rate = before.map(|(old, seconds)| {
                let known = old.0.iter().find(|(known, _)| known == reason);
                // Counters fall when the maps are made anew: no rate is better than a wrong one.
                count.saturating_sub(known.map_or(0, |(_, count)| *count)) as f64 / seconds.max(1e-3)
            });
            let mut row = vec![reason.clone(), count.to_string()];
            if self.watch {
                row.push(rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")));
            }
            table.row(row);
        }
        table
    }
}

fn query() -> Query {
    Query::new("/api/v1/drops")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let arguments = DropsArgs {
            all: false,
            watch: true,
            interval: Duration::from_secs(1),
        };
        let drops = |counts: [u64; 3]| {
            let names = ["a", "b", "c"].map(str::to_owned);
            Ordered(names.into_iter().zip(counts).collect())
        };
        let table = arguments.table(&drops([10, 4, 0]), Some((&drops([6, 8, 0]), 2.0)));
        assert_eq!(
            table.render(false),
            "REASON  PACKETS  PER SECOND\na            10           2\nb             4           0\n"
        );
    }
}
