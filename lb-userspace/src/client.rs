//! The API's client: one request, one answer, over the daemon's unix socket or over TCP.

use crate::api::Token;
use crate::cli::{Exit, Failure};
use crate::wire::{ErrorBody, ErrorCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Larger answers are not read: a million flows are about 250 MB.
const MAX_ANSWER: usize = 512 << 20;

/// Where the daemon is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Socket(PathBuf),
    /// `HOST:PORT` of an `http://` URL.
    Tcp(String),
}

impl Target {
    /// Reads an URL such as `http://127.0.0.1:7600`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_url(url: &str) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(match url.starts_with("https://") {
                true => format!(
                    "{url}: TLS is not supported in this version; use a tunnel and http://127.0.0.1:PORT"
                ),
                false => format!("{url}: the URL must start with http://, as in http://127.0.0.1:7600"),
            });
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        match authority.parse::<hyper::http::uri::Authority>() {
            Ok(parsed) if parsed.as_str().contains('@') => Err("the URL must not hold a password".to_owned()),
            Ok(parsed) => Ok(Self::Tcp(match parsed.port_u16() {
                Some(_) => authority.to_owned(),
                None => format!("{authority}:80"),
            })),
            Err(_) => Err(format!("{url}: not of the form http://HOST:PORT")),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Tcp(authority) => format!("http://{authority}"),
        }
    }
}

/// A daemon to ask.
#[derive(Clone, Debug)]
pub struct Client {
    pub target: Target,
    pub token: Option<Token>,
    /// For one request with its answer.
    pub timeout: Duration,
}

/// What drives a connection, as long as it is held.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A path with its query, each value escaped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query(String);

impl Query {
    /// A path without parameters.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// A path of these segments behind `base`, each escaped.
    #[must_use]
    pub fn below(base: &str, segments: &[&str]) -> Self {
        let mut query = Self::new(base);
        for segment in segments {
            query.0.push('/');
            query.push_escaped(segment);
        }
        query
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.push_escaped(value);
        self
    }

    fn push_escaped(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(char::from(byte))
                }
                // Writing to a string cannot fail.
                _ => drop(write!(self.0, "%{byte:02X}")),
            }
        }
    }

    /// The same with one more parameter if there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl Client {
    /// Asks, and reads the answer as `T`.
    ///
    /// # Errors
    /// See [`Self::call`]; also an answer of another shape.
    pub async fn fetch<T: DeserializeOwned>(&self, method: Method, query: &Query) -> Result<T, Failure> {
        parse(&self.call(method, query).await?)
    }

    /// Asks, and gives the body of a successful answer as it came.
    ///
    /// # Errors
    /// Nobody answers ([`Exit::Unreachable`]), the socket may not be used ([`Exit::Privilege`]), or the daemon's
    /// refusal with the exit code of its kind.
    pub async fn call(&self, method: Method, query: &Query) -> Result<Bytes, Failure> {
        self.send_json(method, query, Bytes::new()).await
    }

    /// As [`Self::call`], with a body that is JSON; an empty one is none.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn send_json(
        &self,
        method: Method,
        query: &Query,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, Failure> {
        let (status, body) = self.answer_json(method, query, body).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(refusal(status, &body)),
        }
    }

    /// Status and body of any answer to a body that is JSON; an empty one is none.
    ///
    /// # Errors
    /// Nobody answers in time, or the socket may not be used.
    pub async fn answer_json(
        &self,
        method: Method,
        query: &Query,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        match tokio::time::timeout(self.timeout, self.exchange_json(method, query, body.into())).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", self.timeout.as_secs_f64()))),
        }
    }

    /// Status and body of any answer.
    ///
    /// # Errors
    /// Nobody answers, or the socket may not be used.
    pub async fn exchange(&self, method: Method, query: &Query) -> Result<(StatusCode, Bytes), Failure> {
        self.exchange_json(method, query, Bytes::new()).await
    }

    async fn exchange_json(
        &self,
        method: Method,
        query: &Query,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let (response, _connection) = self.ask(method, query, body).await?;
        let status = response.status();
        Ok((status, self.whole(response.into_body()).await?))
    }

    /// Asks, and gives the body of a successful answer to `take` piece by piece, until it ends or `take` has enough. Only the
    /// head of the answer has to come in time.
    ///
    /// # Errors
    /// As [`Self::call`], and those of `take`.
    pub async fn stream(
        &self,
        query: &Query,
        mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let asked = tokio::time::timeout(self.timeout, self.ask(Method::GET, query, Bytes::new()));
        let Ok(asked) = asked.await else {
            let why = format!("no answer within {} s", self.timeout.as_secs_f64());
            return Err(self.unreachable(why));
        };
        let (response, _connection) = asked?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let body = self.whole(body).await?;
            return Err(refusal(status, &body));
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(format!("the answer broke off: {error}")))?;
            if let Some(bytes) = frame.data_ref()
                && take(bytes)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        query: &Query,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        match &self.target {
            Target::Socket(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|error| self.not_connected(&error))?;
                self.send(stream, "localhost", method, query, body).await
            }
            Target::Tcp(authority) => {
                let stream = TcpStream::connect(authority)
                    .await
                    .map_err(|error| self.not_connected(&error))?;
                self.send(stream, authority, method, query, body).await
            }
        }
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: &str,
        method: Method,
        query: &Query,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        let broken = |error: hyper::Error| self.unreachable(format!("the connection broke: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks shows where the answer is read.
            let _ = connection.await;
        }));
        let mut request = Request::builder()
            .method(method)
            .uri(query.0.as_str())
            .header(HOST, host);
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(token.authorization())
                .map_err(|_| Failure::new(Exit::Usage, "the token cannot be sent in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Usage, format!("the request cannot be sent: {error}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, Failure> {
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.unreachable(format!("the answer broke off: {error}")))?;
        Ok(body.to_bytes())
    }

    fn not_connected(&self, error: &std::io::Error) -> Failure {
        match (error.kind(), &self.target) {
            (ErrorKind::PermissionDenied, _) => Failure::new(
                Exit::Privilege,
                format!(
                    "no permission to use {}: run the command as root, like the daemon",
                    self.target.name()
                ),
            ),
            (ErrorKind::NotFound, Target::Socket(path)) => {
                self.unreachable(format!("the socket {} does not exist", path.display()))
            }
            _ => self.unreachable(error.to_string()),
        }
    }

    fn unreachable(&self, why: String) -> Failure {
        let remedy = match self.target {
            Target::Socket(_) => {
                "is it running (lb run -c FILE)? another socket is named with --socket or LB_SOCKET"
            }
            Target::Tcp(_) => {
                "does it listen there (`api.listen`)? another address is named with --url or LB_URL"
            }
        };
        Failure::new(
            Exit::Unreachable,
            format!(
                "the daemon at {} cannot be reached: {why}\n{remedy}",
                self.target.name()
            ),
        )
    }
}

/// Reads an answer as `T`.
///
/// # Errors
/// The answer has another shape: the daemon is of another version, or something else answers there.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let message =
            format!("the answer is not understood: {error}\nis the daemon of the same version (lb version)?");
        Failure::new(Exit::Failed, message)
    })
}

/// What a refusal means for a command.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(ErrorBody { error }) = serde_json::from_slice::<ErrorBody>(body) else {
        return cloudflare_refusal(status, body).unwrap_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!("the answer is {status}, which lb does not give"),
            )
        });
    };
    let exit = match error.code {
        ErrorCode::InvalidRequest => Exit::Usage,
        ErrorCode::ConfigurationInvalid => Exit::Configuration,
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::Conflict => Exit::Conflict,
        ErrorCode::Unavailable => Exit::Unreachable,
        ErrorCode::Unauthorized | ErrorCode::Forbidden | ErrorCode::Unsupported => Exit::Privilege,
        ErrorCode::MethodNotAllowed | ErrorCode::TooLarge | ErrorCode::Internal | ErrorCode::Unknown => {
            Exit::Failed
        }
    };
    let mut message = error.message;
    for problem in &error.problems {
        message.push_str(&format!("\n{problem}"));
    }
    Failure::new(exit, message)
}

/// A refusal of Cloudflare's API; `None`: it is something else.
fn cloudflare_refusal(status: StatusCode, body: &[u8]) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        code: u16,
        message: String,
    }
    let Envelope { errors } = serde_json::from_slice(body).ok()?;
    let unauthorized = errors.iter().any(|error| error.code == 10000);
    let exit = match status.as_u16() {
        _ if unauthorized => Exit::Privilege,
        400 => Exit::Configuration,
        404 => Exit::NotFound,
        // What the file declares, and what others refer to.
        403 | 409 | 412 => Exit::Conflict,
        503 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
    Some(Failure::new(exit, messages.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_a_port() {
        let tcp = |authority: &str| Ok(Target::Tcp(authority.to_owned()));
        assert_eq!(Target::from_url("http://127.0.0.1:7600"), tcp("127.0.0.1:7600"));
        assert_eq!(Target::from_url("http://[::1]:7600/"), tcp("[::1]:7600"));
        assert_eq!(Target::from_url("http://lb.example"), tcp("lb.example:80"));
        for wrong in [
            "",
            "lb.example:7600",
            "https://lb.example",
            "http://",
            "http://a b",
            "http://u:p@h:1",
            "http://h/path",
        ] {
            assert!(Target::from_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_of_cloudflares_api_have_exit_codes() {
        let body = |code: u16| {
            format!(r#"{{"success":false,"errors":[{{"code":{code},"message":"why"}}],"result":null}}"#)
        };
        for (status, code, exit) in [
            (400, 1002, Exit::Configuration),
            (401, 10000, Exit::Privilege),
            (403, 10000, Exit::Privilege),
            (403, 1003, Exit::Conflict),
            (404, 1001, Exit::NotFound),
            (412, 1005, Exit::Conflict),
            (500, 10002, Exit::Failed),
            (503, 10002, Exit::Unreachable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal(status, body(code).as_bytes()), Failure::new(exit, "why"));
        }
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>").exit, Exit::Failed);
    }

    #[test]
    fn parameters_are_escaped() {
        let query = Query::new("/p")
            .with("a", "x y&z=é")
            .with_some("b", None)
            .with("c", "1");
        assert_eq!(
            Query::below("/p", &["*.x", "a/b"]),
            Query("/p/%2A.x/a%2Fb".to_owned())
        );
        assert_eq!(query, Query("/p?a=x%20y%26z%3D%C3%A9&c=1".to_owned()));
    }
}
