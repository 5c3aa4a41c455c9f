//! `smtp`: a connect, and the conversation of a client that has no mail (RFC 5321).

use super::{Attempt, socket_failure, tcp};
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation};
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// RFC 5321 section 4.5.3.1.5 allows 512 bytes a line; an answer may have several.
const MAX_ANSWER: u64 = 16 << 10;
const READY: u16 = 220;
const COMPLETED: u16 = 250;
const CLOSING: u16 = 221;

pub(super) async fn attempt(request: &ProbeRequest, attempt: &mut Attempt<'_>) -> Observation {
    let stream = tcp::connect(SocketAddr::new(request.address, request.port), attempt).await?;
    let mut stream = BufReader::new(stream);
    let greeting = answer(&mut stream, READY);
    attempt
        .step("greeting".to_owned(), FailureReason::SmtpTimeout, greeting)
        .await?;
    for (line, expected) in [
        (format!("HELO {}", own_name()), COMPLETED),
        ("QUIT".to_owned(), CLOSING),
    ] {
        let said = say(&mut stream, &line, expected);
        attempt
            .step(line.clone(), FailureReason::SmtpTimeout, said)
            .await?;
    }
    let took = attempt.elapsed();
    // The server has said goodbye; how it takes ours changes nothing.
    let _ = stream.get_mut().shutdown().await;
    Ok(took.into())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str, expected: u16) -> Result<(), FailureReason> {
    let line = format!("{line}\r\n");
    let sent = stream.get_mut().write_all(line.as_bytes()).await;
    sent.map_err(|error| socket_failure(&error))?;
    answer(stream, expected).await
}

/// Reads one answer, of one line or several (`250-` until `250 `).
async fn answer(stream: &mut BufReader<TcpStream>, expected: u16) -> Result<(), FailureReason> {
    let mut limited = stream.take(MAX_ANSWER);
    loop {
        let mut line = Vec::new();
        let read = limited.read_until(b'\n', &mut line).await;
        read.map_err(|error| socket_failure(&error))?;
        let (code, last) = parse(&line).ok_or(FailureReason::SmtpInvalidResponse)?;
        if code != expected {
            return Err(FailureReason::ResponseCodeMismatch(code));
        }
        if last {
            return Ok(());
        }
    }
}

/// The code of a line, and whether it is the answer's last one. `None`: not a whole line of SMTP.
fn parse(line: &[u8]) -> Option<(u16, bool)> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (code, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(code).ok()?;
    let last = match rest.first() {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    let code = code.parse().ok().filter(|code| (200..600).contains(code))?;
    Some((code, last))
}

/// How a client introduces itself: by the host's name, if that could be one of the DNS.
fn own_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match crate::config::is_host_name(&host) {
        true => host,
        false => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, TIMEOUT, probe};
    use super::*;
    use lb_core::model::MonitorKind;
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    /// A mail server that gives these answers, the first one unasked. Tells what it has heard.
    async fn server(answers: &'static [&'static str]) -> (SocketAddr, oneshot::Receiver<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, heard) = oneshot::channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut lines = Vec::new();
            for (number, answer) in answers.iter().enumerate() {
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                if number + 1 == answers.len() {
                    stream.get_mut().shutdown().await.unwrap();
                }
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                    lines.push(line);
                }
            }
            let _ = sender.send(lines);
        });
        (address, heard)
    }

    async fn check(answers: &'static [&'static str], expected: Result<(), FailureReason>) {
        let (address, _heard) = server(answers).await;
        let observation = probe(MonitorKind::Smtp, address).await;
        assert_eq!(observation.map(|_| ()), expected, "{answers:?}");
    }

    #[tokio::test]
    async fn a_mail_server_is_greeted_and_left_in_order() {
        let (address, heard) = server(&["220 mail\r\n", "250-mail\r\n250 hello\r\n", "221 bye\r\n"]).await;
        assert!(probe(MonitorKind::Smtp, address).await.unwrap().rtt < TIMEOUT);
        let heard = heard.await.unwrap();
        assert!(
            heard[0].starts_with("HELO ") && heard[0].ends_with("\r\n"),
            "{heard:?}"
        );
        assert_eq!(heard[1..], ["QUIT\r\n"]);
    }

    #[tokio::test]
    async fn another_code_is_named() {
        for (answers, code) in [
            (&["554 go away\r\n"][..], 554),
            (&["220 mail\r\n", "502 what\r\n"], 502),
            (&["220 mail\r\n", "250 hello\r\n", "421 oh\r\n"], 421),
        ] {
            check(answers, Err(FailureReason::ResponseCodeMismatch(code))).await;
        }
    }

    #[tokio::test]
    async fn what_is_not_smtp_is_no_answer() {
        for answers in [
            &["SSH-2.0-OpenSSH_9.9\r\n"][..],
            &["HTTP/1.1 400 Bad Request\r\n"],
            &["220 mail\r\n", "25"],
        ] {
            check(answers, Err(FailureReason::SmtpInvalidResponse)).await;
        }
    }

    #[tokio::test]
    async fn silence_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let observation = probe(MonitorKind::Smtp, address).await;
        assert_eq!(observation, Err(FailureReason::SmtpTimeout));
        let (full, _keep) = testing::full_listener();
        assert_eq!(
            probe(MonitorKind::Smtp, full).await,
            Err(FailureReason::TcpTimeout)
        );
        let observation = probe(MonitorKind::Smtp, testing::closed_port()).await;
        assert_eq!(observation, Err(FailureReason::ConnectionFailed));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(b"220-more\r\n").await.is_ok() {}
        });
        let started = std::time::Instant::now();
        let observation = probe(MonitorKind::Smtp, address).await;
        assert_eq!(observation, Err(FailureReason::SmtpInvalidResponse));
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn lines_are_read_as_the_rfc_has_them() {
        for (line, parsed) in [
            ("250 ok\r\n", Some((250, true))),
            ("250-ok\r\n", Some((250, false))),
            ("250\r\n", Some((250, true))),
            ("250 ok\n", Some((250, true))),
            ("250 ok", None),
            ("25\r\n", None),
            ("250x\r\n", None),
            ("100 no\r\n", None),
            ("ab0 no\r\n", None),
            ("", None),
        ] {
            assert_eq!(parse(line.as_bytes()), parsed, "{line:?}");
        }
    }
}
