//! `http` and `https`: one request, judged by its status code and by the beginning of its body.

use super::body::{LIMIT, Search};
use super::redirect::Target;
use super::{Attempt, socket_failure, tcp, tls};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation, Success};
use lb_core::model::Probe;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A probe that is sent on more often than this judges the answer it has then.
const MAX_REDIRECTS: usize = 5;

const USER_AGENT: &str = concat!("lb-monitor/", env!("CARGO_PKG_VERSION"));

/// What one request of an attempt has come to.
enum Exchange {
    Judged(Observation),
    Redirected {
        to: String,
        code: StatusCode,
        judged: Observation,
    },
}

pub(super) async fn attempt(
    request: &ProbeRequest,
    probe: &Probe,
    https: bool,
    tls: &tls::Client,
    attempt: &mut Attempt<'_>,
) -> Observation {
    let origin = SocketAddr::new(request.address, request.port);
    let mut headers = probe.headers.iter();
    let named = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = request.host.as_deref().or(named.map(|(_, value)| value.as_str()));
    let host_name = request.host_name.as_deref();
    let own = host_name.map(|name| super::redirect::authority(name, request.port, https));
    let host = host.or(own.as_deref());
    let mut target = Target::first(origin, https, host, &probe.path);
    let mut method = Method::from_bytes(probe.method.as_bytes())
        .map_err(|_| FailureReason::Other(format!("{:?} is not an HTTP method", probe.method)))?;
    let mut redirects = 0;
    loop {
        let trusted = target.connect.ip() == origin.ip() && target.tls >= https;
        let message = message(&target, &method, probe, trusted)?;
        match exchange(&target, message, probe, tls, attempt).await? {
            Exchange::Judged(observation) => return observation,
            Exchange::Redirected { to, code, judged } => {
                redirects += 1;
                let Some(next) = target.redirect(&to).filter(|_| redirects <= MAX_REDIRECTS) else {
                    return judged;
                };
                method = method_after(code, method);
                target = next;
            }
        }
    }
}

/// RFC 9110 sections 15.4.2 to 15.4.4.
fn method_after(code: StatusCode, method: Method) -> Method {
    match code {
        StatusCode::SEE_OTHER if method != Method::HEAD => Method::GET,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if method == Method::POST => Method::GET,
        _ => method,
    }
}

async fn exchange(
    target: &Target,
    message: Request<Empty<Bytes>>,
    probe: &Probe,
    tls: &tls::Client,
    attempt: &mut Attempt<'_>,
) -> Result<Exchange, FailureReason> {
    let stream = tcp::connect(target.connect, attempt).await?;
    if !target.tls {
        return converse(stream, message, probe, attempt).await;
    }
    let what = format!("TLS handshake for {}", target.host_name());
    let handshake = tls.handshake(target.host_name(), stream);
    let stream = attempt.step(what, FailureReason::HttpTimeout, handshake).await?;
    converse(stream, message, probe, attempt).await
}

/// The request. Headers of the monitor replace those that lb would send; its credentials go to nobody but the origin,
/// and not in clear text when the monitor speaks TLS.
fn message(
    target: &Target,
    method: &Method,
    probe: &Probe,
    trusted: bool,
) -> Result<Request<Empty<Bytes>>, FailureReason> {
    let own = [
        (header::HOST, target.host.as_str()),
        (header::USER_AGENT, USER_AGENT),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ];
    let mut builder = Request::builder().method(method).uri(&target.path);
    for (name, value) in own {
        let replaced = name != header::HOST && probe.headers.iter().any(|(other, _)| name == other.as_str());
        if !replaced {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in &probe.headers {
        let secret = header::AUTHORIZATION == name.as_str() || header::COOKIE == name.as_str();
        if !name.eq_ignore_ascii_case("host") && (trusted || !secret) {
            builder = builder.header(name, value);
        }
    }
    builder
        .body(Empty::new())
        .map_err(|error| FailureReason::Other(format!("the monitor's request is not valid HTTP: {error}")))
}

/// Sends the request on a connection and judges the answer.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    message: Request<Empty<Bytes>>,
    probe: &Probe,
    attempt: &mut Attempt<'_>,
) -> Result<Exchange, FailureReason> {
    let what = format!("{} {}", message.method(), message.uri());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_failure(&error))?;
    let mut connection = std::pin::pin!(connection);
    let mut connected = true;
    // hyper's connection does the I/O while the request and the body are waited for. That it ends (the origin has
    // closed) is no verdict: what it has read by then is still to be looked at.
    macro_rules! drive {
        ($wanted:expr) => {{
            let mut wanted = std::pin::pin!($wanted);
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut wanted => break outcome,
                    _ = &mut connection, if connected => connected = false,
                }
            }
        }};
    }
    let head = async { drive!(sender.send_request(message)).map_err(|error| http_failure(&error)) };
    let response = attempt.step(what, FailureReason::HttpTimeout, head).await?;
    let took = attempt.elapsed();
    let code = response.status();
    attempt.note(format!("status {code}"));
    if probe.follow_redirects
        && let Some(to) = location(&response)
    {
        // Followed or not is decided by the caller; an answer that is not followed is judged by its code alone.
        return Ok(Exchange::Redirected {
            to,
            code,
            judged: judge_code(code, probe, took),
        });
    }
    let judged = judge_code(code, probe, took);
    if judged.is_err() || probe.expected_body.is_empty() {
        return Ok(Exchange::Judged(judged));
    }
    let mut body = response.into_body();
    let search = async { drive!(search(&mut body, &probe.expected_body)) };
    let found = attempt
        .step("read the body".to_owned(), FailureReason::HttpTimeout, search)
        .await?;
    let not = if found { "" } else { "not " };
    attempt.note(format!(
        "{:?} is {not}in the first {} KiB",
        probe.expected_body,
        LIMIT >> 10
    ));
    Ok(Exchange::Judged(if found {
        judged
    } else {
        Err(FailureReason::ResponseBodyMismatch)
    }))
}

fn judge_code(code: StatusCode, probe: &Probe, took: Duration) -> Observation {
    match probe.expected_codes.contains(code.as_u16()) {
        true => Ok(Success {
            rtt: took,
            response_code: Some(code.as_u16()),
        }),
        false => Err(FailureReason::ResponseCodeMismatch(code.as_u16())),
    }
}

fn location(response: &Response<Incoming>) -> Option<String> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| redirects)?;
    location.to_str().ok().map(str::to_owned)
}

/// Reads until the text was found or cannot be found any more.
async fn search(body: &mut Incoming, wanted: &str) -> Result<bool, FailureReason> {
    let mut search = Search::new(wanted);
    while !search.is_full() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| http_failure(&error))?;
        if let Some(data) = frame.data_ref()
            && search.feed(data)
        {
            return Ok(true);
        }
    }
    Ok(search.finish())
}

fn http_failure(error: &hyper::Error) -> FailureReason {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return match error.kind() {
                // A body that ends before its Content-Length or its last chunk (RFC 9112 section 8).
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                    FailureReason::HttpInvalidResponse
                }
                _ => socket_failure(error),
            };
        }
        source = cause.source();
    }
    // Everything else that can go wrong here is an answer that is not HTTP/1: garbage, a closed connection before
    // the head is complete, a head without end, an upgrade nobody asked for.
    FailureReason::HttpInvalidResponse
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, TIMEOUT, get, probe, server};
    use super::*;
    use lb_core::model::{ExpectedCodes, MonitorKind};
    use std::time::Instant;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    const NOW: Duration = Duration::ZERO;

    async fn check(chunks: &[(Duration, &[u8])], asked: Probe, expected: Result<(), FailureReason>) {
        let chunks = chunks
            .iter()
            .map(|(delay, chunk)| (*delay, chunk.to_vec()))
            .collect();
        let (address, _heads) = server(chunks).await;
        let started = Instant::now();
        let observation = probe(MonitorKind::Http(asked), address).await;
        assert_eq!(observation.map(|_| ()), expected);
        assert!(started.elapsed() < TIMEOUT * 2);
    }

    fn wants(body: &str) -> Probe {
        Probe {
            expected_body: body.to_owned(),
            ..get()
        }
    }

    #[tokio::test]
    async fn an_expected_code_is_healthy_and_any_other_is_named() {
        let answer: &[_] = &[(NOW, &b"HTTP/1.1 204 No Content\r\n\r\n"[..])];
        let codes = |codes| Probe {
            expected_codes: ExpectedCodes::parse(codes).unwrap(),
            ..get()
        };
        check(answer, codes("200,204"), Ok(())).await;
        check(answer, codes("2xx"), Ok(())).await;
        check(
            answer,
            codes("200"),
            Err(FailureReason::ResponseCodeMismatch(204)),
        )
        .await;
        let old: &[_] = &[(NOW, &b"HTTP/1.0 200 OK\r\n\r\nhello"[..])];
        check(old, wants("hello"), Ok(())).await;
        for (monitor, code) in [(wants("hello"), 200), (codes("2xx"), 200)] {
            let (address, _heads) = server(
                old.iter()
                    .map(|(delay, chunk)| (*delay, chunk.to_vec()))
                    .collect(),
            )
            .await;
            let success = probe(MonitorKind::Http(monitor), address).await.unwrap();
            assert_eq!(success.response_code, Some(code));
        }
    }

    #[tokio::test]
    async fn the_body_must_hold_the_expected_text() {
        let answer: &[_] = &[(NOW, &b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nI LIVE!"[..])];
        check(answer, wants("live"), Ok(())).await;
        check(answer, wants("dead"), Err(FailureReason::ResponseBodyMismatch)).await;
        let chunked: &[_] = &[
            (
                NOW,
                &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nI li\r\n"[..],
            ),
            (Duration::from_millis(20), b"3\r\nve!\r\n0\r\n\r\n"),
        ];
        check(chunked, wants("LIVE"), Ok(())).await;
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_read_no_further_than_needed() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        let giant = [&head[..], &vec![b' '; 64 * 1024]].concat();
        let answer: &[_] = &[(NOW, giant.as_slice()), (Duration::from_secs(5), b"late")];
        check(answer, wants("late"), Err(FailureReason::ResponseBodyMismatch)).await;
        let early = [&head[..], b"early"].concat();
        let early: &[_] = &[(NOW, early.as_slice()), (Duration::from_secs(5), b"late")];
        check(early, wants("early"), Ok(())).await;
        check(early, wants("late"), Err(FailureReason::HttpTimeout)).await;
        check(early, get(), Ok(())).await;
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_in_time_is_an_http_timeout() {
        check(
            &[(Duration::from_secs(5), b"")],
            get(),
            Err(FailureReason::HttpTimeout),
        )
        .await;
        let (full, _keep) = testing::full_listener();
        let observation = probe(MonitorKind::Http(get()), full).await;
        assert_eq!(observation, Err(FailureReason::TcpTimeout), "not even connected");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_is_invalid() {
        for answer in [
            &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
            b"",
            b"HTTP/1.1 2",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"\x16\x03\x01\x00\x05hello",
        ] {
            check(&[(NOW, answer)], get(), Err(FailureReason::HttpInvalidResponse)).await;
        }
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        check(
            &[(NOW, short)],
            wants("x"),
            Err(FailureReason::HttpInvalidResponse),
        )
        .await;
    }

    #[tokio::test]
    async fn refused_and_reset_connections_are_told_apart() {
        let observation = probe(MonitorKind::Http(get()), testing::closed_port()).await;
        assert_eq!(observation, Err(FailureReason::ConnectionFailed));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kind = MonitorKind::Http(get());
        let (observation, ()) = tokio::join!(probe(kind, listener.local_addr().unwrap()), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            testing::read_head(&mut stream).await;
            stream.set_zero_linger().unwrap();
        });
        assert_eq!(observation, Err(FailureReason::ConnectionReset));
    }

    #[tokio::test]
    async fn the_request_carries_the_monitors_headers() {
        let (address, mut heads) = server(vec![(NOW, b"HTTP/1.1 200 OK\r\n\r\n".to_vec())]).await;
        let plain = Probe {
            path: "/health?full=1".to_owned(),
            method: "HEAD".to_owned(),
            ..get()
        };
        probe(MonitorKind::Http(plain), address).await.unwrap();
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("HEAD /health?full=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
        assert!(
            head.contains(&format!(
                "user-agent: lb-monitor/{}\r\n",
                env!("CARGO_PKG_VERSION")
            )),
            "{head}"
        );

        let headers = [
            ("Host", "example.com"),
            ("X-Key", "1"),
            ("X-Key", "2"),
            ("User-Agent", "mine"),
        ];
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        probe(MonitorKind::Http(Probe { headers, ..get() }), address)
            .await
            .unwrap();
        let head = heads.recv().await.unwrap();
        for line in ["host: example.com", "x-key: 1\r\nx-key: 2", "user-agent: mine"] {
            assert!(head.contains(&format!("{line}\r\n")), "{head}");
        }
        assert_eq!(head.matches("host: ").count(), 1);
        assert_eq!(head.matches("user-agent: ").count(), 1);
    }

    #[tokio::test]
    async fn redirects_are_followed_only_when_asked_and_not_forever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = testing::read_head(&mut stream).await;
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/" => "302 Found\r\nLocation: /next".to_owned(),
                    "/next" => format!("307 Temporary Redirect\r\nLocation: http://{address}/ok"),
                    "/ok" => "200 OK".to_owned(),
                    "/away" => "301 Moved Permanently\r\nLocation: http://elsewhere.example/".to_owned(),
                    _ => "302 Found\r\nLocation: /loop".to_owned(),
                };
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        for (path, follow_redirects, expected) in [
            ("/", true, Ok(())),
            ("/", false, Err(FailureReason::ResponseCodeMismatch(302))),
            ("/away", true, Err(FailureReason::ResponseCodeMismatch(301))),
            ("/loop", true, Err(FailureReason::ResponseCodeMismatch(302))),
        ] {
            let asked = Probe {
                path: path.to_owned(),
                follow_redirects,
                ..get()
            };
            let observation = probe(MonitorKind::Http(asked), address).await;
            assert_eq!(observation.map(|_| ()), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn credentials_do_not_follow_a_redirect_to_another_host() {
        let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let to = elsewhere.local_addr().unwrap();
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\n\r\n");
        let (address, mut heads) = server(vec![(NOW, answer.into_bytes())]).await;
        let headers = [("Authorization", "secret"), ("X-Key", "1")];
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        let asked = Probe {
            headers,
            follow_redirects: true,
            ..get()
        };
        let (observation, head) = tokio::join!(probe(MonitorKind::Http(asked), address), async {
            let (mut stream, _) = elsewhere.accept().await.unwrap();
            let head = testing::read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            head
        });
        observation.unwrap();
        assert!(heads.recv().await.unwrap().contains("authorization: secret"));
        assert!(head.contains("x-key: 1") && !head.contains("secret"), "{head}");
    }

    #[tokio::test]
    async fn a_monitor_that_makes_no_request_says_so() {
        let asked = Probe {
            headers: vec![("a b".to_owned(), "c".to_owned())],
            ..get()
        };
        let observation = probe(MonitorKind::Http(asked), testing::closed_port()).await;
        assert!(
            matches!(observation, Err(FailureReason::Other(_))),
            "{observation:?}"
        );
    }
}
