//! Sockets of probes: by the address and the interface that the monitor names.

use super::socket_failure;
use crate::net::sys;
use lb_core::health::FailureReason;
use lb_core::model::ProbeSource;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A socket for packets to that address.
pub(super) fn open(to: IpAddr, kind: Type, protocol: Protocol, source: &ProbeSource) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(to, 0)), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    prepare(&socket, to, source)?;
    Ok(socket)
}

/// Makes a socket's packets start where the monitor says.
pub(super) fn prepare(socket: &Socket, to: IpAddr, source: &ProbeSource) -> io::Result<()> {
    if let Some(interface) = &source.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    bind(socket, to, source)
}

/// Gives the socket the monitor's address; the port is found when it connects.
pub(super) fn bind(socket: &Socket, to: IpAddr, source: &ProbeSource) -> io::Result<()> {
    let Some(address) = source.address(to) else {
        return Ok(());
    };
    sys::bind_without_port(socket)?;
    socket.bind(&SocketAddr::new(address, 0).into())
}

/// The reason for an error of such a socket.
pub(super) fn failure(error: &io::Error, to: IpAddr, source: &ProbeSource) -> FailureReason {
    match (error.raw_os_error(), source.address(to), &source.interface) {
        (Some(libc::EADDRNOTAVAIL), Some(address), _) => {
            FailureReason::MonitorConfig(format!("source {address} is not an address of this node"))
        }
        (Some(libc::ENODEV), _, Some(interface)) => {
            FailureReason::MonitorConfig(format!("there is no interface {interface}"))
        }
        _ => socket_failure(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Probes, attempt, testing};
    use super::*;
    use lb_core::engine::ProbeRequest;
    use lb_core::health::Observation;
    use lb_core::model::{MonitorKind, UdpProbe};
    use std::sync::Arc;
    use tokio::net::{TcpListener, UdpSocket};

    fn request(kind: MonitorKind, to: SocketAddr, source: ProbeSource) -> ProbeRequest {
        let mut request = testing::request(kind, to);
        Arc::make_mut(&mut request.monitor).source = source;
        request
    }

    async fn probe(kind: MonitorKind, to: SocketAddr, source: ProbeSource) -> Observation {
        let probes = Probes::with_roots(rustls::RootCertStore::empty()).unwrap();
        attempt(&request(kind, to, source), &probes).await
    }

    fn from(address: &str, interface: Option<&str>) -> ProbeSource {
        ProbeSource {
            v4: Some(address.parse().unwrap()),
            v6: None,
            interface: interface.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn probes_come_from_the_monitors_address() {
        for interface in [None, Some("lo")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (observation, accepted) = tokio::join!(
                probe(
                    MonitorKind::Tcp,
                    listener.local_addr().unwrap(),
                    from("127.0.0.77", interface)
                ),
                listener.accept()
            );
            observation.unwrap();
            assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.77");
        }
        let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let kind = MonitorKind::UdpIcmp(UdpProbe::default());
        probe(kind, service.local_addr().unwrap(), from("127.0.0.78", None))
            .await
            .unwrap();
        let (_, sender) = service.try_recv_from(&mut [0; 8]).unwrap();
        assert_eq!(sender.ip().to_string(), "127.0.0.78");
    }

    #[tokio::test]
    async fn an_address_or_an_interface_that_is_not_there_is_an_error_of_the_monitor() {
        let to = testing::closed_port();
        for kind in [
            MonitorKind::Tcp,
            MonitorKind::IcmpPing,
            MonitorKind::UdpIcmp(UdpProbe::default()),
        ] {
            // TEST-NET-1 (RFC 5737): nobody has it.
            let observation = probe(kind.clone(), to, from("192.0.2.1", None)).await;
            assert_eq!(
                observation,
                Err(FailureReason::MonitorConfig(
                    "source 192.0.2.1 is not an address of this node".to_owned()
                )),
                "{kind:?}"
            );
            let observation = probe(kind.clone(), to, from("127.0.0.1", Some("lb-none"))).await;
            assert_eq!(
                observation,
                Err(FailureReason::MonitorConfig(
                    "there is no interface lb-none".to_owned()
                )),
                "{kind:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_source_of_the_other_family_does_not_matter() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let (observation, _) = tokio::join!(
            probe(
                MonitorKind::Tcp,
                listener.local_addr().unwrap(),
                from("192.0.2.1", None)
            ),
            listener.accept()
        );
        observation.unwrap();
    }
}
