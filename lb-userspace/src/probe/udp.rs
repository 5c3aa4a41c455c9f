//! `udp_icmp`: an echo, which must be answered, and then a datagram, which must not be answered by "port unreachable".
//!
//! A service that says nothing is healthy: only its host can tell that it is not there, and tells that only so often
//! (`net.ipv4.icmp_ratelimit`). The datagram is sent again while nothing is heard, so that one lost error does not count.

use super::{Attempt, icmp, socket, socket_failure};
use crate::net::sys;
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation};
use lb_core::model::UdpProbe;
use rustls::crypto::SecureRandom;
use socket2::{Protocol, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// How often the datagram is sent, in equal parts of the time that is left after the echo.
const SENT: u32 = 3;
/// What is sent when the monitor names nothing. An empty datagram ends some services: it reads as the end of a file.
const PAYLOAD: &[u8] = &[0];
/// The largest datagram there is.
const MAX_REPLY: usize = 65_535;

pub(super) async fn attempt(
    request: &ProbeRequest,
    probe: &UdpProbe,
    random: &dyn SecureRandom,
    attempt: &mut Attempt<'_>,
) -> Observation {
    let took = icmp::attempt(request, random, attempt).await?;
    let to = SocketAddr::new(request.address, request.port);
    let socket = open(to, attempt).map_err(|error| socket::failure(&error, to.ip(), attempt.source))?;
    let ask = ask(&socket, probe, attempt.deadline);
    let what = format!("datagram to {to}");
    match attempt.step(what, FailureReason::UdpTimeout, ask).await {
        // Nothing was heard, and nothing need be.
        Err(FailureReason::UdpTimeout) if probe.expected_reply.is_empty() => Ok(took),
        Err(reason) => Err(reason),
        Ok(()) => Ok(took),
    }
}

fn open(to: SocketAddr, attempt: &Attempt<'_>) -> io::Result<UdpSocket> {
    let (source, ports) = (attempt.source, attempt.ports);
    let socket = match attempt.way(to.ip()) {
        Some(way) => way.datagrams(to.port(), source, ports)?,
        None => {
            let socket = socket::open(to.ip(), Type::DGRAM, Protocol::UDP, source)?;
            socket.connect(&to.into())?;
            UdpSocket::from_std(socket.into())?
        }
    };
    sys::report_icmp_errors(&socket, to.is_ipv6())?;
    Ok(socket)
}

/// Ends when an answer settles it: never, if none comes.
async fn ask(socket: &UdpSocket, probe: &UdpProbe, deadline: Instant) -> Result<(), FailureReason> {
    let payload = if probe.payload.is_empty() {
        PAYLOAD
    } else {
        &probe.payload
    };
    let pause = deadline.saturating_duration_since(Instant::now()) / SENT;
    let mut buffer = vec![0; MAX_REPLY];
    let mut again = Instant::now();
    loop {
        // Whatever was heard of the datagram before is reported by either call.
        socket.send(payload).await.map_err(|error| failure(&error))?;
        again += pause.max(Duration::from_millis(1));
        while let Ok(received) = timeout_at(again, socket.recv(&mut buffer)).await {
            let length = received.map_err(|error| failure(&error))?;
            if contains(&buffer[..length], &probe.expected_reply) {
                return Ok(());
            }
        }
    }
}

fn failure(error: &io::Error) -> FailureReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => FailureReason::PortUnreachable,
        _ => socket_failure(error),
    }
}

fn contains(reply: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || reply.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TIMEOUT, probe};
    use super::*;
    use lb_core::model::MonitorKind;
    use std::time::Instant;

    fn asks(payload: &[u8], expected_reply: &[u8]) -> MonitorKind {
        MonitorKind::UdpIcmp(UdpProbe {
            payload: payload.to_vec(),
            expected_reply: expected_reply.to_vec(),
        })
    }

    async fn service(at: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn a_port_that_says_nothing_is_healthy_and_asked_more_than_once() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (silent, address) = service(at).await;
            let started = Instant::now();
            let took = probe(asks(b"", b""), address).await.unwrap().rtt;
            assert!(started.elapsed() >= TIMEOUT, "an error may come until then");
            assert!(took < TIMEOUT, "the time is that of the echo: {took:?}");
            let mut buffer = [9; 8];
            for _ in 0..SENT {
                let length = silent.try_recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], [0]);
            }
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable_at_once() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (closed, address) = service(at).await;
            drop(closed);
            let started = Instant::now();
            let observation = probe(asks(b"", b""), address).await;
            assert_eq!(observation, Err(FailureReason::PortUnreachable));
            assert!(started.elapsed() < TIMEOUT);
        }
    }

    #[tokio::test]
    async fn the_payload_is_sent_and_the_expected_reply_awaited() {
        let (socket, address) = service("127.0.0.1:0").await;
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = [b"noise ", &buffer[..length], b" noise"].concat();
                let _ = socket.send_to(b"first another datagram", from).await;
                let _ = socket.send_to(&answer, from).await;
            }
        });
        let started = Instant::now();
        probe(asks(b"\xff\xffping", b"\xff\xffping noise"), address)
            .await
            .unwrap();
        assert!(started.elapsed() < TIMEOUT, "an answer settles it");
        probe(asks(b"x", b""), address).await.unwrap();
        assert!(
            started.elapsed() < TIMEOUT * 2,
            "any answer does, if none is named"
        );
        let observation = probe(asks(b"x", b"y"), address).await;
        assert_eq!(observation, Err(FailureReason::UdpTimeout));
    }
}
