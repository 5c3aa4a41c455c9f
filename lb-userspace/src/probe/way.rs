//! Sockets of monitors whose packets shall go another way than their addresses say: see
//! [`lb_common::tunnel::probe`].

use lb_core::model::ProbeSource;
use socket2::{Domain, Protocol, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// How many ports are tried: some are in use, or have been until a moment ago.
const ATTEMPTS: u32 = 32;

/// The way of one probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// By which the kernel program knows the socket's packets.
    pub mark: u32,
    /// What the socket is connected to.
    pub target: IpAddr,
    /// Interface by which its packets have to leave, because routes do not lead them there.
    pub device: Option<String>,
}

/// Local ports for probes that go a way of their own, one after the other. Answers are told apart by their ports alone,
/// as all of them come from the VIP: no port may be used by two probes at a time.
#[derive(Debug, Default)]
pub struct LocalPorts {
    next: AtomicU32,
}

impl LocalPorts {
    fn next(&self) -> u16 {
        let (low, high) = local_range().unwrap_or((32_768, 60_999));
        let count = u32::from(high - low) + 1;
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % count;
        low + turn as u16
    }
}

/// The ports that the kernel gives to sockets without one.
fn local_range() -> Option<(u16, u16)> {
    let text = fs::read_to_string(LOCAL_RANGE).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Some((low, high)),
        _ => None,
    }
}

impl Way {
    /// Makes a socket's packets go this way: by its own interface, if it needs one, whatever the monitor's is.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when the interface has gone.
    pub fn apply(&self, socket: &Socket, source: &ProbeSource) -> io::Result<()> {
        socket.set_mark(self.mark)?;
        match self.device.as_ref().or(source.interface.as_ref()) {
            Some(device) => socket.bind_device(Some(device.as_bytes())),
            None => Ok(()),
        }
    }

    /// Connects this way.
    ///
    /// # Errors
    /// As for any connection.
    pub async fn connect(
        &self,
        port: u16,
        source: &ProbeSource,
        ports: &LocalPorts,
    ) -> io::Result<TcpStream> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let connected = match self.stream(source, ports.next()) {
                Ok(socket) => socket.connect(SocketAddr::new(self.target, port)).await,
                Err(error) => Err(error),
            };
            match connected {
                Err(error) if is_taken(&error) && attempts < ATTEMPTS => {}
                other => return other,
            }
        }
    }

    /// A socket for datagrams that go this way.
    ///
    /// # Errors
    /// As for any socket.
    pub fn datagrams(&self, port: u16, source: &ProbeSource, ports: &LocalPorts) -> io::Result<UdpSocket> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let socket = self.socket(Type::DGRAM, Protocol::UDP, source, ports.next());
            let connected = socket.and_then(|socket| {
                socket.connect(&SocketAddr::new(self.target, port).into())?;
                UdpSocket::from_std(socket.into())
            });
            match connected {
                Err(error) if is_taken(&error) && attempts < ATTEMPTS => {}
                other => return other,
            }
        }
    }

    fn stream(&self, source: &ProbeSource, port: u16) -> io::Result<TcpSocket> {
        let socket = self.socket(Type::STREAM, Protocol::TCP, source, port)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    fn socket(&self, kind: Type, protocol: Protocol, source: &ProbeSource, port: u16) -> io::Result<Socket> {
        let (domain, any) = match self.target {
            IpAddr::V4(_) => (Domain::IPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        self.apply(&socket, source)?;
        if protocol == Protocol::TCP {
            // A connection of a minute ago may still linger at the port.
            socket.set_reuse_address(true)?;
        }
        let from = source.address(self.target).unwrap_or(any);
        socket.bind(&SocketAddr::new(from, port).into())?;
        Ok(socket)
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_one_after_the_other_and_again() {
        let (low, high) = local_range().unwrap();
        let ports = LocalPorts::default();
        let count = usize::from(high - low) + 1;
        let mut all: Vec<u16> = (0..count).map(|_| ports.next()).collect();
        assert_eq!((all[0], all[count - 1]), (low, high));
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(ports.next(), low);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_passed_over() {
        let Ok(listener) = std::net::TcpListener::bind("127.0.0.1:0") else {
            panic!("no port is free");
        };
        let taken = listener.local_addr().unwrap().port();
        let (low, _) = local_range().unwrap();
        let ports = LocalPorts::default();
        ports.next.store(u32::from(taken - low), Ordering::Relaxed);
        let way = Way {
            mark: 0,
            target: Ipv4Addr::LOCALHOST.into(),
            device: None,
        };
        if way.stream(&ProbeSource::default(), 0).is_err() {
            eprintln!("SKIPPED: marks need CAP_NET_ADMIN");
            return;
        }
        let stream = way.connect(taken, &ProbeSource::default(), &ports).await.unwrap();
        assert_ne!(stream.local_addr().unwrap().port(), taken);
    }
}
