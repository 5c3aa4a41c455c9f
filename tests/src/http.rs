//! The least of HTTP: one GET a connection, over TCP or a unix socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than one retransmission of a SYN, so that a lost one shows as slow, and two lost ones as a failure.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks `path` of `server`.
///
/// # Errors
/// The connection fails, ends early or what comes is not HTTP.
pub fn get(server: SocketAddr, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    get_over(stream, path)
}

/// Asks `path` over a connection that is already there.
///
/// # Errors
/// The connection ends early or what comes is not HTTP.
pub fn get_over(mut stream: TcpStream, path: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(&mut stream, path)
}

/// Asks `path` of the server behind a unix socket.
///
/// # Errors
/// As for [`get`].
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(&mut stream, path)
}

fn exchange(stream: &mut (impl Read + Write), path: &str) -> io::Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

/// Asks `path` over a connection that stays open.
///
/// # Errors
/// The connection ends or stalls, or what comes is not HTTP with a length.
pub fn get_kept(stream: &mut TcpStream, path: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        let length = stream.read(&mut part)?;
        bytes.extend_from_slice(&part[..length]);
        // Whole when its length is right.
        if let Some(answer) = parse(&bytes) {
            return Ok(answer);
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let length: Option<usize> = length.and_then(|(_, value)| value.trim().parse().ok());
    // A connection that ends before the announced end is not an answer.
    (length.is_none_or(|length| length == body.len())).then(|| Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_short_is_not_an_answer() {
        let whole = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na\n").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (200, "a\n"));
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na\n").is_none());
        assert!(parse(b"").is_none());
    }
}
