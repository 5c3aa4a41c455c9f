//! Flows that stay: TCP connections to the echo server, and TCP connections from a chosen source.

use crate::http::TIMEOUT;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection to an echo server, which said its name first.
pub struct EchoFlow {
    stream: BufReader<TcpStream>,
    origin: String,
    sent: u64,
}

impl EchoFlow {
    /// Opens one; to be called inside the client's namespace.
    ///
    /// # Errors
    /// No connection, or no name.
    pub fn open(server: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&server, TIMEOUT)?)
    }

    /// Over a connection that is new.
    ///
    /// # Errors
    /// No name comes.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut origin = String::new();
        stream.read_line(&mut origin)?;
        Ok(Self {
            stream,
            origin: origin.trim().to_owned(),
            sent: 0,
        })
    }

    /// Who it leads to.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Sends a line that was never sent before and waits for exactly that line, from the same origin.
    ///
    /// # Errors
    /// The connection is broken, stalled, or leads elsewhere.
    pub fn ping(&mut self) -> io::Result<()> {
        self.sent += 1;
        let line = format!("ping {}\n", self.sent);
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        if answer == format!("{} {line}", self.origin) {
            return Ok(());
        }
        Err(io::Error::other(format!("{} answered {answer:?}", self.origin)))
    }
}

/// Connects from that address and port (0: any); to be called inside the client's namespace.
///
/// # Errors
/// The port is taken, or the connection fails.
pub fn connect_from(source: SocketAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Linux applies it to connect() as well.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(TIMEOUT))?;
    bind(&socket, &source)?;
    connect(&socket, &server)?;
    Ok(socket.into())
}
