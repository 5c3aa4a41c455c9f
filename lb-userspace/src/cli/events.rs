//! `lb events`.

use super::table::{Align, Table};
use super::trace::Lines;
use super::{Exit, Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::{Event, EventLine, Events, HealthHistory, Seconds, from_rfc3339, rfc3339};
use clap::Args;
use hyper::Method;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

/// Show what has happened: changes of health and of the configuration, newest last
///
/// Events are kept over restarts, as many and as long as `[history]` says. With --times: for how long origins, pools and load
/// balancers were in which state, and which part of the time they could serve.
#[derive(Args, Debug)]
#[command(name = "events")]
pub(super) struct EventsArgs {
    /// Go on with what happens, also over restarts of the daemon, until interrupted
    #[arg(short, long, conflicts_with_all = ["until", "times"])]
    follow: bool,
    /// Not before: the number of an event, which is left out, a time (2026-11-22T14:56:19Z) or an age (90s, 15m, 36h, 7d)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,
    /// Before: a time or an age
    #[arg(long, value_name = "WHEN", value_parser = time)]
    until: Option<SystemTime>,
    /// Only these kinds, such as health, origin_health, configured, webhook; separated by commas
    #[arg(long, value_name = "KINDS")]
    kind: Option<String>,
    /// Only what concerns this pool or its origins
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Only what concerns this origin: POOL/ORIGIN, or ORIGIN in any pool
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Only what concerns this load balancer
    #[arg(long, value_name = "NAME")]
    load_balancer: Option<String>,
    /// Only the newest N, or the first N since the event that --since names [default: 1000]
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,
    /// Show time in each state and availability, of the last day or since --since
    #[arg(long, conflicts_with_all = ["kind", "count"])]
    times: bool,
}

/// Time between two looks for a daemon that has gone.
const RETRY: Duration = Duration::from_secs(1);

/// Where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    Number(u64),
    Time(SystemTime),
}

fn since(text: &str) -> Result<Since, String> {
    match text.parse() {
        Ok(number) => Ok(Since::Number(number)),
        Err(_) => time(text).map(Since::Time),
    }
}

/// A time, or an age.
fn time(text: &str) -> Result<SystemTime, String> {
    if let Some(time) = from_rfc3339(text) {
        return Ok(time);
    }
    let wrong =
        || "neither a time such as 2026-11-22T14:56:19Z nor an age such as 90s, 15m, 36h or 7d".to_owned();
    let unit = text.char_indices().next_back().map_or(0, |(at, _)| at);
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let age = Duration::from_secs(number.saturating_mul(seconds));
    SystemTime::now().checked_sub(age).ok_or_else(wrong)
}

impl EventsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.times {
            let body = global::wait(client.call(Method::GET, &self.history_query()?))?;
            if global.json {
                return output::print_answer(&body);
            }
            let history: HealthHistory = parse(&body)?;
            return output::print(&times(&history).render(false));
        }
        if self.follow {
            return global::wait(self.follow(global));
        }
        let body = global::wait(client.call(Method::GET, &self.query(None)))?;
        if global.json {
            return output::print_answer(&body);
        }
        let events: Events = parse(&body)?;
        if events.events.is_empty() {
            global.say("no such event");
        }
        output::print(&events.events.iter().map(line).collect::<String>())
    }

    /// Tells events until it is interrupted, over restarts of the daemon, which numbers them on.
    async fn follow(&self, global: &Global) -> Result<(), Failure> {
        let mut last = None;
        let mut waits = false;
        loop {
            let query = self.query(last).with("follow", "true");
            let ended = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                ended = self.tell(global, &query, &mut last) => ended,
            };
            match ended {
                // It was never there, or refuses.
                Err(failure) if last.is_none() || failure.exit != Exit::Unreachable => return Err(failure),
                Ok(()) => waits = false,
                Err(_) => {}
            }
            if !std::mem::replace(&mut waits, true) {
                global.say("the daemon has gone: waiting for the next one");
            }
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Tells what one daemon says, and notes the number of the last event.
    async fn tell(&self, global: &Global, query: &Query, last: &mut Option<u64>) -> Result<(), Failure> {
        let mut lines = Lines::default();
        // From now on there was a daemon.
        let first = last.unwrap_or_default();
        let show = |bytes: &[u8]| {
            let mut text = String::new();
            last.get_or_insert(first);
            for found in lines.take(bytes).iter().filter(|line| !line.is_empty()) {
                let understood = understand(found)?;
                if let EventLine::Event(event) = &understood {
                    *last = Some(event.sequence);
                }
                match understood {
                    _ if global.json => {
                        text.push_str(found);
                        text.push('\n');
                    }
                    EventLine::Event(event) => text.push_str(&line(&event)),
                    EventLine::Lost { lost } => {
                        // Where they are missing, also when the terminal shows both.
                        output::print(&std::mem::take(&mut text))?;
                        global.say(&format!("{lost} events are missing here: there were too many"));
                    }
                }
            }
            output::print(&text)?;
            Ok(ControlFlow::Continue(()))
        };
        global.client()?.stream(query, show).await
    }

    /// The question, for events after the number `last`.
    fn query(&self, last: Option<u64>) -> Query {
        let count = self.count.unwrap_or(1_000).to_string();
        let (number, from) = match (last, self.since) {
            (Some(number), _) | (None, Some(Since::Number(number))) => (Some(number.to_string()), None),
            (None, Some(Since::Time(time))) => (None, Some(rfc3339(time))),
            (None, None) => (None, None),
        };
        self.filtered("/api/v1/events")
            .with_some("since", number.as_deref())
            .with_some("from", from.as_deref())
            .with_some("until", self.until.map(rfc3339).as_deref())
            .with_some("kind", self.kind.as_deref())
            .with("limit", &count)
    }

    fn history_query(&self) -> Result<Query, Failure> {
        let since = match self.since {
            Some(Since::Number(_)) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "--times takes a time or an age as --since",
                ));
            }
            Some(Since::Time(time)) => Some(rfc3339(time)),
            None => None,
        };
        Ok(self
            .filtered("/api/v1/health/history")
            .with_some("since", since.as_deref())
            .with_some("until", self.until.map(rfc3339).as_deref()))
    }

    fn filtered(&self, path: &str) -> Query {
        Query::new(path)
            .with_some("pool", self.pool.as_deref())
            .with_some("origin", self.origin.as_deref())
            .with_some("load_balancer", self.load_balancer.as_deref())
    }
}

fn understand(line: &str) -> Result<EventLine, Failure> {
    parse(line.as_bytes())
}

fn line(event: &Event) -> String {
    let problem = match (event.problem, event.resolved) {
        (Some(problem), true) => format!(" (problem {problem} is over)"),
        (Some(problem), false) if problem == event.sequence => format!(" (problem {problem})"),
        (Some(_) | None, _) => String::new(),
    };
    format!("{} {:<20} {}{problem}\n", event.time, event.kind, event.message)
}

fn times(history: &HealthHistory) -> Table {
    let mut table = Table::new(&[
        ("KIND", Align::Left),
        ("NAME", Align::Left),
        ("HEALTH", Align::Left),
        ("AVAILABLE", Align::Right),
        ("GOOD", Align::Right),
        ("DEGRADED", Align::Right),
        ("BAD", Align::Right),
        ("UNKNOWN", Align::Right),
        ("DISABLED", Align::Right),
        ("CHANGES", Align::Right),
    ]);
    for subject in &history.subjects {
        let Seconds {
            healthy,
            degraded,
            critical,
            unhealthy,
            unknown,
            disabled,
            unobserved,
        } = subject.seconds;
        let available = subject.availability.map(|part| format!("{:.3} %", part * 100.0));
        table.row(vec![
            subject.kind.clone(),
            subject.name.clone(),
            subject.health.clone().unwrap_or_else(|| "-".to_owned()),
            available.unwrap_or_else(|| "-".to_owned()),
            span(healthy),
            span(degraded),
            span(critical + unhealthy),
            span(unknown + unobserved),
            span(disabled),
            subject.changes.to_string(),
        ]);
    }
    table
}

/// A time in its two largest units.
fn span(seconds: f64) -> String {
    if seconds == 0.0 {
        return "-".to_owned();
    }
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3_600 => format!("{}m{}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{}h", whole / 86_400, whole / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SubjectHistory;

    #[test]
    fn a_beginning_is_a_number_a_time_or_an_age() {
        assert_eq!(since("17"), Ok(Since::Number(17)));
        let noon = from_rfc3339("2026-11-22T12:00:00Z").unwrap();
        assert_eq!(since("2026-11-22T12:00:00Z"), Ok(Since::Time(noon)));
        let Ok(Since::Time(time)) = since("15m") else {
            panic!()
        };
        let age = time.elapsed().unwrap();
        assert!(
            age >= Duration::from_secs(900) && age < Duration::from_secs(960),
            "{age:?}"
        );
        for wrong in ["", "m", "1.5h", "-1s", "5y", "yesterday", "5é"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_short() {
        let history = HealthHistory {
            subjects: vec![SubjectHistory {
                kind: "origin".into(),
                name: "eu/a".into(),
                health: Some("healthy".into()),
                availability: Some(0.975_558),
                seconds: Seconds {
                    healthy: 100_000.0,
                    unhealthy: 65.0,
                    unobserved: 1.25,
                    ..Seconds::default()
                },
                changes: 3,
                periods: Vec::new(),
            }],
            ..HealthHistory::default()
        };
        let text = times(&history).render(false);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            row,
            [
                "origin", "eu/a", "healthy", "97.556", "%", "1d3h", "-", "1m5s", "1.2s", "-", "3"
            ]
        );
    }
}
