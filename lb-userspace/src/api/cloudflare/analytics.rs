//! Spectrum's analytics.

use super::super::{Handle, Minutes, Request};
use super::answer::{Answer, Asked, Refused, success};
use crate::cloudflare::{Analytics, AnalyticsMetrics, AnalyticsQuery, AnalyticsRow, CurrentTraffic, Failure};
use crate::wire::{from_micros, from_rfc3339, micros, rfc3339};
use axum::extract::State;
use lb_core::analytics::{self as core, Dimension, Filter, Interval, Metric, Query, Sort, SortBy, TimeDelta};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Rows of an answer, unless the client says otherwise, and at most.
const MOST_ROWS: usize = 100_000;
/// Intervals of an answer by time: a week of minutes.
const MOST_INTERVALS: usize = 10_080;
/// How far back a question looks that does not say.
const SIX_HOURS: Duration = Duration::from_secs(6 * 3600);
const MINUTE: u64 = 60_000_000;

/// `GET aggregate/current`.
pub(super) async fn current(handle: State<Handle>, asked: Asked) -> Answer<Vec<CurrentTraffic>> {
    let wanted = asked.list("appID");
    let place = asked.text("colo_name").or(asked.text("coloName"));
    let (present, colo) = handle.ask_cloudflare(|reply| Request::Present { reply }).await?;
    let is_wanted = |application: &String| wanted.is_empty() || wanted.contains(&application.as_str());
    let here = place.is_none_or(|place| place == colo);
    let found = present
        .into_iter()
        .filter(|present| here && is_wanted(&present.application));
    success(
        found
            .map(|present| CurrentTraffic {
                app_id: present.application,
                bytes_egress: present.bytes_out,
                bytes_ingress: present.bytes_in,
                connections: present.open,
                duration_avg: present.age_ms,
            })
            .collect(),
    )
}

/// `GET events/summary`.
pub(super) async fn summary(handle: State<Handle>, asked: Asked) -> Answer<Analytics> {
    let question = Question::new(&asked, SystemTime::now())?;
    question.answer(&handle).await
}

/// `GET events/bytime`.
pub(super) async fn by_time(handle: State<Handle>, asked: Asked) -> Answer<Analytics> {
    let mut question = Question::new(&asked, SystemTime::now())?;
    let words = TimeDelta::ALL.map(|(word, _)| word);
    let Some(word) = asked.word("time_delta", &words)? else {
        return Err(wrong(
            "time_delta",
            format!("is missing: one of {}", words.join(", ")),
        ));
    };
    let delta = TimeDelta::ALL
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, delta)| *delta);
    let delta = delta.unwrap_or(TimeDelta::Minute);
    let intervals = delta.intervals(
        question.since / MINUTE,
        question.until.div_ceil(MINUTE),
        MOST_INTERVALS,
    );
    question.query.intervals = intervals.ok_or_else(|| {
        wrong(
            "time_delta",
            format!("\"{word}\" divides the time into more than {MOST_INTERVALS} parts"),
        )
    })?;
    question.echo.time_delta = Some(word.to_owned());
    question.by_time = true;
    question.answer(&handle).await
}

fn wrong(parameter: &str, what: String) -> Refused {
    Refused(Failure::new(400, 1002, format!("{parameter}: {what}")))
}

/// A question as it is understood.
struct Question {
    query: Query,
    echo: AnalyticsQuery,
    /// Microseconds since 1970.
    since: u64,
    until: u64,
    by_time: bool,
}

impl Question {
    fn new(asked: &Asked, now: SystemTime) -> Result<Self, Refused> {
        let dimensions = words(asked, "dimensions", &Dimension::ALL)?;
        let mut metrics = words(asked, "metrics", &Metric::ALL)?;
        if metrics.is_empty() {
            metrics.push(("count", Metric::Count));
        }
        let filters = asked.text("filters").unwrap_or_default();
        let filter = Filter::parse(filters).map_err(|error| wrong("filters", error.to_string()))?;
        let until = time(asked, "until")?.unwrap_or(now);
        let since = time(asked, "since")?;
        let since = since.unwrap_or_else(|| until.checked_sub(SIX_HOURS).unwrap_or(SystemTime::UNIX_EPOCH));
        if since >= until {
            let message = format!(
                "\"{}\" is not before until, \"{}\"",
                rfc3339(since),
                rfc3339(until)
            );
            return Err(wrong("since", message));
        }
        let sorts = asked.list("sort");
        let sort = sorts.iter().map(|word| sort(word, &dimensions, &metrics));
        let names = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
        let limit = asked.number("limit", 1..=MOST_ROWS)?.unwrap_or(MOST_ROWS);
        Ok(Self {
            echo: AnalyticsQuery {
                dimensions: names(dimensions.iter().map(|(name, _)| *name).collect()),
                metrics: names(metrics.iter().map(|(name, _)| *name).collect()),
                filters: filters.to_owned(),
                limit,
                since: rfc3339(since),
                until: rfc3339(until),
                sort: names(sorts.clone()),
                time_delta: None,
            },
            query: Query {
                sort: sort.collect::<Result<_, _>>()?,
                dimensions: dimensions.into_iter().map(|(_, dimension)| dimension).collect(),
                metrics: metrics.into_iter().map(|(_, metric)| metric).collect(),
                filter,
                limit,
                colo: String::new(),
                intervals: Vec::new(),
            },
            since: micros(since),
            until: micros(until),
            by_time: false,
        })
    }

    async fn answer(mut self, handle: &Handle) -> Answer<Analytics> {
        // A minute counts if some of it is asked for.
        let (since, until) = (self.since / MINUTE, self.until.div_ceil(MINUTE));
        let make = |reply| Request::Minutes { since, until, reply };
        let Minutes { minutes, lag, colo } = handle.ask_cloudflare(make).await?;
        self.query.colo = colo;
        let answer = tokio::task::spawn_blocking(move || {
            let minutes = minutes
                .iter()
                .map(|(minute, slice, bucket)| (*minute, slice, bucket));
            (self.query.answer(minutes), self)
        });
        let (answer, question) = answer.await.map_err(|error| {
            Refused(Failure::internal(format!(
                "the answer cannot be computed: {error}"
            )))
        })?;
        success(question.shape(answer, lag))
    }

    fn shape(self, answer: core::Answer, lag: Duration) -> Analytics {
        let named = |values: Vec<f64>| -> BTreeMap<String, f64> {
            self.echo.metrics.iter().cloned().zip(values).collect()
        };
        let metrics = |metrics: Vec<Vec<f64>>| match self.by_time {
            true => AnalyticsMetrics::ByTime(metrics),
            false => AnalyticsMetrics::Whole(metrics.into_iter().flatten().collect()),
        };
        let interval = |interval: &Interval| {
            [interval.start, interval.end].map(|minute| rfc3339(from_micros(minute * MINUTE)))
        };
        Analytics {
            rows: answer.rows.len(),
            data_lag: lag.as_secs_f64(),
            min: named(answer.least),
            max: named(answer.most),
            totals: named(answer.totals),
            time_intervals: self
                .by_time
                .then(|| self.query.intervals.iter().map(interval).collect()),
            data: answer
                .rows
                .into_iter()
                .map(|row| AnalyticsRow {
                    dimensions: row.dimensions,
                    metrics: metrics(row.metrics),
                })
                .collect(),
            query: self.echo,
        }
    }
}

/// A list of words of which each means something.
fn words<T: Copy>(
    asked: &Asked,
    parameter: &str,
    known: &[(&'static str, T)],
) -> Result<Vec<(&'static str, T)>, Refused> {
    let mut found: Vec<(&'static str, T)> = Vec::new();
    for word in asked.list(parameter) {
        let Some(meaning) = known.iter().find(|(name, _)| *name == word) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            return Err(wrong(
                parameter,
                format!("\"{word}\" is not one of {}", names.join(", ")),
            ));
        };
        if !found.iter().any(|(name, _)| *name == meaning.0) {
            found.push(*meaning);
        }
    }
    Ok(found)
}

/// `count`, `+count` or `-count`.
fn sort(
    word: &str,
    dimensions: &[(&'static str, Dimension)],
    metrics: &[(&'static str, Metric)],
) -> Result<Sort, Refused> {
    // A plus that was not escaped arrives as a space.
    let (name, descending) = match word.strip_prefix('-') {
        Some(name) => (name, true),
        None => (word.trim_start_matches(['+', ' ']), false),
    };
    let by = dimensions
        .iter()
        .position(|(known, _)| *known == name)
        .map(SortBy::Dimension);
    let by = by.or_else(|| {
        metrics
            .iter()
            .position(|(known, _)| *known == name)
            .map(SortBy::Metric)
    });
    match by {
        Some(by) => Ok(Sort { by, descending }),
        None => Err(wrong(
            "sort",
            format!("\"{word}\" is not among the dimensions and metrics that are asked for"),
        )),
    }
}

fn time(asked: &Asked, parameter: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(text) = asked.text(parameter) else {
        return Ok(None);
    };
    // A plus that was not escaped arrives as a space.
    let escaped = match text.rfind(' ') {
        Some(at) if at > 10 => format!("{}+{}", &text[..at], &text[at + 1..]),
        Some(_) | None => text.to_owned(),
    };
    match from_rfc3339(&escaped) {
        Some(time) => Ok(Some(time)),
        None => Err(wrong(
            parameter,
            format!("\"{text}\" is no time such as 2026-11-22T14:56:19Z"),
        )),
    }
}
