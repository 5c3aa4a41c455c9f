//! `tcp`: a full connect, closed with a FIN.

use super::{Attempt, socket};
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation};
use socket2::{Protocol, Type};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

pub(super) async fn attempt(request: &ProbeRequest, attempt: &mut Attempt<'_>) -> Observation {
    let stream = connect(SocketAddr::new(request.address, request.port), attempt).await?;
    let established = attempt.elapsed();
    close(stream).await;
    Ok(established.into())
}

/// Connects within the time of the attempt.
pub(super) async fn connect(to: SocketAddr, attempt: &mut Attempt<'_>) -> Result<TcpStream, FailureReason> {
    let (way, source, ports) = (attempt.way(to.ip()), attempt.source, attempt.ports);
    let connect = async {
        let connected = match way {
            Some(way) => way.connect(to.port(), source, ports).await,
            None => match socket::open(to.ip(), Type::STREAM, Protocol::TCP, source) {
                Ok(socket) => TcpSocket::from_std_stream(socket.into()).connect(to).await,
                Err(error) => Err(error),
            },
        };
        connected.map_err(|error| socket::failure(&error, to.ip(), source))
    };
    attempt
        .step(format!("connect {to}"), FailureReason::TcpTimeout, connect)
        .await
}

/// Says goodbye with a FIN. An origin that speaks first may still get a RST: that is what TCP does when a socket is
/// closed with unread data in it (RFC 2525 section 2.17).
async fn close(mut stream: TcpStream) {
    // The origin has already answered; how it takes the goodbye changes nothing.
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, probe};
    use super::*;
    use lb_core::model::MonitorKind;
    use std::time::{Duration, Instant};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_listening_port_is_healthy_and_sees_a_fin() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let (observation, seen) =
                tokio::join!(probe(MonitorKind::Tcp, listener.local_addr().unwrap()), async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    stream.read(&mut [0; 8]).await
                });
            assert!(observation.unwrap().rtt < Duration::from_secs(1));
            assert_eq!(seen.unwrap(), 0, "end of stream, not a reset");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_at_once() {
        let observation = probe(MonitorKind::Tcp, testing::closed_port()).await;
        assert_eq!(observation, Err(FailureReason::ConnectionFailed));
    }

    #[tokio::test]
    async fn a_port_that_does_not_answer_times_out() {
        let (full, _keep) = testing::full_listener();
        let started = Instant::now();
        assert_eq!(
            probe(MonitorKind::Tcp, full).await,
            Err(FailureReason::TcpTimeout)
        );
        assert!((testing::TIMEOUT..testing::TIMEOUT * 2).contains(&started.elapsed()));
    }
}
