//! Bodies in, envelopes out.

use super::super::guard::Onlooker;
use crate::cloudflare::{Envelope, Failure};
use crate::objects::Id;
use axum::Json;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// A pool with 10,000 origins needs about 1 MiB.
const MAX_BODY: usize = 8 << 20;
/// How long a client may take for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A refusal as an answer.
pub(super) struct Refused(pub Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        failed(&self.0)
    }
}

/// What handlers answer.
pub(super) type Answer<T> = Result<Json<Envelope<T>>, Refused>;

pub(super) fn failed(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(failure.envelope())).into_response()
}

pub(super) fn no_route(path: &str) -> Failure {
    Failure::new(
        404,
        7003,
        format!("No route for the URI: {path}: perhaps an id in it is not one, or the method is another"),
    )
}

/// An object, as an answer.
pub(super) fn success<T: Serialize>(result: T) -> Answer<T> {
    Ok(Json(Envelope::success(result)))
}

/// Ends what takes too long, whatever it waits for.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => failed(&Failure::new(503, 10002, "the answer took too long")),
    };
    if is_write && response.status().is_server_error() {
        // What may have been made must not be made again: Cloudflare's clients would by themselves.
        let headers = response.headers_mut();
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}

/// The parts of the path and the query that handlers ask for.
pub(super) struct Asked {
    path: HashMap<String, String>,
    query: Vec<(String, String)>,
    /// Whether secrets are not for who asks.
    is_onlooker: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let unknown = || Refused(no_route(parts.uri.path()));
        let path = Path::<HashMap<String, String>>::from_request_parts(&mut parts.clone(), state).await;
        let Path(path) = path.map_err(|_| unknown())?;
        for owner in ["account", "zone"] {
            if path.get(owner).is_some_and(|id| Id::parse(id).is_none()) {
                return Err(unknown());
            }
        }
        let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(query) =
            query.map_err(|_| Refused(Failure::new(400, 6003, "the query string is malformed")))?;
        Ok(Self {
            path,
            query,
            is_onlooker: parts.extensions.get::<Onlooker>().is_some(),
        })
    }
}

impl Asked {
    /// `{id}` of the path.
    pub fn id(&self) -> &str {
        self.part("id")
    }

    /// Whether secrets are not for who asks.
    pub fn is_onlooker(&self) -> bool {
        self.is_onlooker
    }

    /// A part of the path.
    pub fn part(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// A parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        let mut all = self.query.iter().filter(|(key, _)| key == name);
        all.next().map(|(_, value)| value.as_str())
    }

    /// A parameter that is a list: given several times, or with commas.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let all = self.query.iter().filter(|(key, _)| key == name);
        let words = all.flat_map(|(_, value)| value.split(','));
        words.map(str::trim_end).filter(|word| !word.is_empty()).collect()
    }

    /// A parameter that is a number in `range`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, Refused> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        // Clients in some languages write all numbers with a fraction.
        let whole = text.strip_suffix(".0").unwrap_or(text);
        match usize::from_str(whole)
            .ok()
            .filter(|number| range.contains(number))
        {
            Some(number) => Ok(Some(number)),
            None => Err(Refused(Failure::new(
                400,
                1002,
                format!(
                    "{name}: \"{text}\" is not a number from {} to {}",
                    range.start(),
                    range.end()
                ),
            ))),
        }
    }

    /// A parameter that is one of `words`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn word<'w>(&self, name: &str, words: &[&'w str]) -> Result<Option<&'w str>, Refused> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match words.iter().find(|word| **word == text) {
            Some(word) => Ok(Some(word)),
            None => Err(Refused(Failure::new(
                400,
                1002,
                format!("{name}: \"{text}\" is not one of {}", words.join(", ")),
            ))),
        }
    }
}

/// The body of a request: an object in JSON.
///
/// # Errors
/// What it is instead.
pub(super) async fn object(request: Request) -> Result<Map<String, Value>, Refused> {
    let bytes = bytes(request).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refused(Failure::new(
            400,
            6007,
            "the body is JSON, but not an object",
        ))),
        Err(error) => Err(Refused(Failure::new(
            400,
            6007,
            format!("the body is not JSON: {error}"),
        ))),
    }
}

async fn bytes(request: Request) -> Result<Bytes, Refused> {
    let too_long = || {
        let message = format!("the body is longer than {} MiB", MAX_BODY >> 20);
        Err(Refused(Failure::new(413, 6008, message)))
    };
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return too_long();
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_long(),
        Ok(Err(error)) => Err(Refused(Failure::new(
            400,
            6007,
            format!("the body cannot be read: {error}"),
        ))),
        Err(_) => Err(Refused(Failure::new(408, 6007, "the body did not come in time"))),
    }
}
