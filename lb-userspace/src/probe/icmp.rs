//! `icmp_ping`: an ICMP or ICMPv6 echo (RFC 792, RFC 4443 section 4).
//!
//! Every attempt has its own socket, connected to the origin, so that the kernel hands it the answers and the ICMP
//! errors of that address only; a random payload tells the attempts at one address apart.

use super::{Attempt, Way, socket, socket_failure};
use crate::net::sys;
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation};
use lb_core::model::ProbeSource;
use rustls::crypto::SecureRandom;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use tokio::io::Interest;
use tokio::time::Instant;

const HEADER: usize = 8;
const PAYLOAD: usize = 56;
/// Identifier, sequence number and the first bytes of the payload. The kernel replaces the identifier on datagram
/// sockets, so that it is the payload that counts.
const NONCE: usize = 20;

/// Type numbers of one version of the protocol.
struct Echo {
    request: u8,
    reply: u8,
    /// Whether a raw socket delivers the IP header too: it does for IPv4 only (ip(7), RFC 3542 section 3).
    raw_has_ip_header: bool,
}

const V4: Echo = Echo {
    request: 8,
    reply: 0,
    raw_has_ip_header: true,
};
const V6: Echo = Echo {
    request: 128,
    reply: 129,
    raw_has_ip_header: false,
};

pub(super) async fn attempt(
    request: &ProbeRequest,
    random: &dyn SecureRandom,
    attempt: &mut Attempt<'_>,
) -> Observation {
    let mut nonce = [0; NONCE];
    random
        .fill(&mut nonce)
        .map_err(|_| FailureReason::Other("the system has no randomness".to_owned()))?;
    let ping = ping(
        request.address,
        attempt.way(request.address),
        attempt.source,
        nonce,
    );
    attempt
        .step(
            format!("ping {}", request.address),
            FailureReason::PingTimeout,
            ping,
        )
        .await
}

async fn ping(origin: IpAddr, way: Option<&Way>, source: &ProbeSource, nonce: [u8; NONCE]) -> Observation {
    let to = way.map_or(origin, |way| way.target);
    let echo = if to.is_ipv4() { V4 } else { V6 };
    let (socket, raw) = open(to)?;
    let failure = |error: io::Error| socket::failure(&error, to, source);
    match way {
        Some(way) => way
            .apply(&socket, source)
            .and_then(|()| socket::bind(&socket, to, source)),
        None => socket::prepare(&socket, to, source),
    }
    .map_err(failure)?;
    sys::report_icmp_errors(&socket, to.is_ipv6()).map_err(failure)?;
    socket.set_nonblocking(true).map_err(failure)?;
    socket.connect(&SocketAddr::new(to, 0).into()).map_err(failure)?;
    let socket = sys::register(socket).map_err(failure)?;

    let request = encode(echo.request, nonce);
    let started = Instant::now();
    // Errors wake the socket but do not make it readable.
    let send = |mut socket: &Socket| socket.write(&request);
    socket
        .async_io(Interest::WRITABLE, |socket| send(socket))
        .await
        .map_err(failure)?;
    let mut buffer = [0; 256];
    loop {
        let interest = Interest::READABLE | Interest::ERROR;
        let received = socket
            .async_io(interest, |mut socket| socket.read(&mut buffer))
            .await;
        let length = received.map_err(failure)?;
        if is_reply(&buffer[..length], &echo, raw, &request) {
            return Ok(started.elapsed().into());
        }
    }
}

/// A datagram socket where `net.ipv4.ping_group_range` allows it: the kernel gives it its own answers only. Else a
/// raw socket.
fn open(to: IpAddr) -> Result<(Socket, bool), FailureReason> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    if let Ok(socket) = Socket::new(domain, Type::DGRAM, Some(protocol)) {
        return Ok((socket, false));
    }
    match Socket::new(domain, Type::RAW, Some(protocol)) {
        Ok(socket) => Ok((socket, true)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(FailureReason::Other(
            "icmp_ping needs CAP_NET_RAW or the group of lb in the sysctl net.ipv4.ping_group_range"
                .to_owned(),
        )),
        Err(error) => Err(socket_failure(&error)),
    }
}

fn encode(kind: u8, nonce: [u8; NONCE]) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0; HEADER + PAYLOAD];
    packet[0] = kind;
    packet[4..4 + NONCE].copy_from_slice(&nonce);
    // The kernel computes the checksum of ICMPv6, which covers a pseudo header (RFC 3542 section 3.1), itself, and
    // that of datagram sockets: only raw IPv4 needs this one.
    let checksum = checksum(&packet);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let sum = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b)));
    let mut sum: u32 = sum.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn is_reply(received: &[u8], echo: &Echo, raw: bool, request: &[u8; HEADER + PAYLOAD]) -> bool {
    let header = match received.first() {
        Some(first) if raw && echo.raw_has_ip_header => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    match received.get(header..) {
        Some([kind, 0, _, _, _, _, rest @ ..]) => *kind == echo.reply && *rest == request[6..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::ping;
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn loopback_answers_pings() {
        for address in ["127.0.0.1", "::1"] {
            let observation = ping(address.parse().unwrap()).await;
            assert!(
                observation
                    .as_ref()
                    .is_ok_and(|success| success.rtt < Duration::from_millis(400)),
                "{observation:?}"
            );
        }
    }

    #[tokio::test]
    async fn many_pings_at_once_do_not_mix_up_their_answers() {
        let pings = (0..200u8).map(|n| {
            let address = IpAddr::from([127, 0, 0, 1 + n % 5]);
            tokio::spawn(async move { super::ping(address, None, &ProbeSource::default(), [n; NONCE]).await })
        });
        for ping in pings.collect::<Vec<_>>() {
            ping.await.unwrap().unwrap();
        }
    }

    #[test]
    fn only_the_answer_to_this_very_request_counts() {
        let request = encode(V4.request, [7; NONCE]);
        assert_eq!(
            checksum(&request),
            0,
            "a packet with its own checksum sums up to zero"
        );
        let mut reply = request;
        reply[0] = V4.reply;
        reply[4..6].copy_from_slice(&[1, 2]);
        assert!(
            is_reply(&reply, &V4, false, &request),
            "the kernel may have changed the identifier"
        );
        let with_header = [&[0x45; 20][..], &reply].concat();
        assert!(is_reply(&with_header, &V4, true, &request));
        assert!(
            !is_reply(&request, &V4, false, &request),
            "the request itself, seen on loopback"
        );
        assert!(
            !is_reply(&encode(V4.reply, [8; NONCE]), &V4, false, &request),
            "somebody else's answer"
        );
        for cut in 0..reply.len() {
            assert!(!is_reply(&reply[..cut], &V4, false, &request));
        }
    }
}
