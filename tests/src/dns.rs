//! One DNS question, by hand: who answers `origin.test TXT`?

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Never asked twice: what has not come by then is lost.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// The name whose text record is the origin's name.
pub const NAME: &str = "origin.test";
const TYPE_TXT: [u8; 2] = [0, 16];
const CLASS_IN: [u8; 2] = [0, 1];

/// Asks from a new source port.
///
/// # Errors
/// `TimedOut` or `WouldBlock`: lost. `ConnectionRefused`: an ICMP error came back.
pub fn ask(server: SocketAddr, id: u16) -> io::Result<String> {
    ask_from(&socket(server)?, id)
}

/// Source ports of queries, and how many were handed out.
const PORTS: Range<u16> = 10_000..60_000;
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

/// A socket that only talks to `server`, so that ICMP errors reach it.
///
/// # Errors
/// No port is free, or there is no route.
pub fn socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = loop {
        // Each query from a port of its own, and none used again while a balancer may remember it: a new flow each.
        let turn = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u32;
        match UdpSocket::bind((any, PORTS.start + turn as u16)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => break result?,
        }
    };
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Asks from that socket's port.
///
/// # Errors
/// As for [`ask`].
pub fn ask_from(socket: &UdpSocket, id: u16) -> io::Result<String> {
    socket.send(&question(id))?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer)?;
        let answer = &buffer[..length];
        if answer.starts_with(&id.to_be_bytes()) {
            let text = text(answer).ok_or(io::ErrorKind::InvalidData)?;
            return Ok(text.to_owned());
        }
    }
}

fn question(id: u16) -> Vec<u8> {
    let mut bytes = Vec::from(id.to_be_bytes());
    // Recursion desired, one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in NAME.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(TYPE_TXT);
    bytes.extend(CLASS_IN);
    bytes
}

/// The first text record of a good answer.
fn text(answer: &[u8]) -> Option<&str> {
    let (flags, answers) = (answer.get(2..4)?, answer.get(6..8)?);
    if flags[0] & 0x80 == 0 || flags[1] & 0x0f != 0 || answers == [0, 0] {
        return None;
    }
    // The question comes back before the answer, whose name is a pointer of two bytes into it; type, class, time to
    // live and length follow.
    let record = answer.get(question(0).len() + 2..)?;
    let (kind, text) = (record.get(..2)?, record.get(10..)?);
    let length = usize::from(*text.first()?);
    (kind == TYPE_TXT)
        .then(|| std::str::from_utf8(text.get(1..=length)?).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_record_of_an_answer_is_found() {
        let mut answer = question(7);
        answer[2] = 0x85;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, 2, 1, b'a']);
        assert_eq!(text(&answer), Some("a"));
        answer[3] = 5;
        assert_eq!(text(&answer), None, "refused");
        assert_eq!(text(&question(7)), None, "a question is not an answer");
    }
}
