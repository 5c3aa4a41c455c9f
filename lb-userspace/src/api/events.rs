//! `/api/v1/events` and `/api/v1/health/history`.

use super::error::ApiError;
use super::routes::Parameters;
use super::{EventFeed, Handle, Request};
use crate::wire::{
    EVENT_KINDS, EventFilter, EventLine, EventQuery, Events, HealthHistory, HealthHistoryQuery, from_rfc3339,
    micros, rfc3339,
};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

/// Events in an answer, unless the client says otherwise, and at most.
const DEFAULT_EVENTS: usize = 10_000;
const MAX_EVENTS: usize = 1_000_000;
/// A stream without news sends an empty line this often, which shows whether the client is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The window of a health history, unless the client says otherwise.
const DAY: Duration = Duration::from_secs(86_400);

/// What has happened: all at once, or with `follow=true` as lines that go on.
pub(super) async fn events(State(handle): State<Handle>, query: RawQuery) -> Result<Response, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let query = parameters.events()?;
    let follow = parameters.optional("follow", "true or false")?.unwrap_or(false);
    parameters.finish()?;
    let filter = query.filter.clone();
    let feed = handle.ask(|reply| Request::Events { query, reply }).await?;
    Ok(match follow {
        false => Json::<Events>(feed.events).into_response(),
        true => respond(feed, filter),
    })
}

/// For how long origins, pools and load balancers were in which state.
pub(super) async fn health(
    State(handle): State<Handle>,
    query: RawQuery,
) -> Result<Json<HealthHistory>, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let until = parameters.time("until")?.unwrap_or_else(SystemTime::now);
    let since = parameters
        .time("since")?
        .unwrap_or_else(|| until.checked_sub(DAY).unwrap_or(until));
    let query = HealthHistoryQuery {
        since: micros(since),
        until: micros(until),
        pool: parameters.optional("pool", "a name")?,
        origin: parameters.optional("origin", "a name")?,
        load_balancer: parameters.optional("load_balancer", "a name")?,
    };
    parameters.finish()?;
    if query.since >= query.until {
        return Err(ApiError::parameter("since", "`since` is not before `until`"));
    }
    Ok(Json(
        handle
            .ask(|reply| Request::HealthHistory { query, reply })
            .await?,
    ))
}

/// What there is, and then what comes, as lines of JSON.
fn respond(EventFeed { events, live }: EventFeed, filter: EventFilter) -> Response {
    let mut first = Vec::new();
    for event in events.events {
        write(&mut first, &EventLine::Event(Box::new(event)));
    }
    let chunks = stream::unfold((Some(first), live, filter), async |(first, mut live, filter)| {
        let bytes = match first {
            // The head of the answer goes out at once, even without events.
            Some(first) if first.is_empty() => b"\n".to_vec(),
            Some(first) => first,
            None => next(&mut live, &filter).await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), (None, live, filter)))
    });
    let kind = "application/x-ndjson";
    ([(CONTENT_TYPE, kind)], Body::from_stream(chunks)).into_response()
}

/// The next lines; `None` when the daemon stops.
async fn next(
    live: &mut broadcast::Receiver<std::sync::Arc<crate::wire::Event>>,
    filter: &EventFilter,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.is_empty() {
        match timeout(HEARTBEAT, live.recv()).await {
            Err(_) => bytes.push(b'\n'),
            Ok(Ok(event)) if filter.matches(&event) => {
                write(
                    &mut bytes,
                    &EventLine::Event(Box::new(crate::wire::Event::clone(&event))),
                );
            }
            Ok(Ok(_)) => {}
            Ok(Err(RecvError::Lagged(lost))) => write(&mut bytes, &EventLine::Lost { lost }),
            Ok(Err(RecvError::Closed)) => return None,
        }
    }
    Some(bytes)
}

fn write(bytes: &mut Vec<u8>, line: &EventLine) {
    // Shapes of our own can be written as JSON.
    bytes.extend(serde_json::to_vec(line).unwrap_or_default());
    bytes.push(b'\n');
}

impl Parameters {
    fn events(&mut self) -> Result<EventQuery, ApiError> {
        let kinds: Option<String> = self.optional("kind", "words")?;
        let kinds = match kinds.as_deref().map(EventFilter::kinds_of) {
            None => Vec::new(),
            Some(Ok(kinds)) => kinds,
            Some(Err(word)) => {
                let known = EVENT_KINDS.join(", ");
                let message = format!("`kind` names {word:?}, not health or one of {known}");
                return Err(ApiError::parameter("kind", message));
            }
        };
        let limit = self.optional("limit", "a number")?.unwrap_or(DEFAULT_EVENTS);
        if limit == 0 || limit > MAX_EVENTS {
            let message = format!("`limit` is {limit}, not 1 to {MAX_EVENTS}");
            return Err(ApiError::parameter("limit", message));
        }
        Ok(EventQuery {
            since: self.optional("since", "the number of an event")?,
            filter: EventFilter {
                kinds,
                pool: self.optional("pool", "a name")?,
                origin: self.optional("origin", "a name")?,
                load_balancer: self.optional("load_balancer", "a name")?,
                from: self.time("from")?.map(rfc3339),
                until: self.time("until")?.map(rfc3339),
            },
            limit,
        })
    }

    fn time(&mut self, name: &str) -> Result<Option<SystemTime>, ApiError> {
        let text: Option<String> = self.optional(name, "a time")?;
        let read = |text: String| {
            from_rfc3339(&text).ok_or_else(|| {
                let message = format!("`{name}` is {text:?}, not a time such as 2026-11-22T14:56:19Z");
                ApiError::parameter(name, message)
            })
        };
        text.map(read).transpose()
    }
}
