//! Servers on loopback, and requests to probe them.

use super::{Probes, attempt};
use lb_core::engine::{ProbeRequest, TargetId};
use lb_core::health::Observation;
use lb_core::model::{ExpectedCodes, Monitor, MonitorKind, Probe};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Timeout of the monitors of all tests.
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

pub(super) fn request(kind: MonitorKind, to: SocketAddr) -> ProbeRequest {
    let monitor = Monitor {
        interval: Duration::from_secs(5),
        timeout: TIMEOUT,
        retries: 0,
        consecutive_up: 0,
        consecutive_down: 0,
        ..Monitor::new("test", kind)
    };
    ProbeRequest {
        target: TargetId(1),
        attempt: 1,
        monitor: Arc::new(monitor),
        address: to.ip(),
        port: to.port(),
        host: None,
        host_name: None,
        via: None,
    }
}

pub(super) async fn probe(kind: MonitorKind, to: SocketAddr) -> Observation {
    let probes = Probes::with_roots(rustls::RootCertStore::empty()).unwrap();
    attempt(&request(kind, to), &probes).await
}

pub(super) async fn ping(address: IpAddr) -> Observation {
    probe(MonitorKind::IcmpPing, SocketAddr::new(address, 0)).await
}

pub(super) fn get() -> Probe {
    Probe {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
        expected_codes: ExpectedCodes::default(),
        expected_body: String::new(),
        follow_redirects: false,
    }
}

/// A port of loopback where nobody listens.
pub(super) fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A listener whose accept queue is full: Linux drops further SYNs, so that a connect gets no answer at all.
pub(super) fn full_listener() -> (SocketAddr, impl Sized) {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("create socket");
    listener
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(stream);
    }
    (address, (listener, queued))
}

/// A server that reads a request head, answers with the chunks one after the other and closes. Returns its address
/// and the heads it has read.
pub(super) async fn server(
    chunks: Vec<(Duration, Vec<u8>)>,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (chunks, sender) = (chunks.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = sender.send(read_head(&mut stream).await);
                for (delay, chunk) in chunks {
                    tokio::time::sleep(delay).await;
                    if stream.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heads)
}

pub(super) async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
