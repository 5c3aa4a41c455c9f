//! Looks at frames: what every frame must keep to, and then what a test asks.

use super::Frame;
use super::build::{pseudo_header, sum};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A frame taken apart, by code that shares nothing with the pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub link_source: [u8; 6],
    pub link_destination: [u8; 6],
    pub tags: Vec<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub ttl: u8,
    pub protocol: u8,
    /// TCP flags, sequence and acknowledgement number; zeros for other protocols.
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// The checksum field of the transport header as it stands.
    pub checksum: u16,
    /// What follows the transport header; for ICMP, its four bytes of data too.
    pub payload: Vec<u8>,
    /// Bytes after the IP packet.
    pub padding: usize,
}

/// Something that a frame is asked for.
pub type Check<'a> = Box<dyn Fn(&Seen) + 'a>;

/// Takes a frame apart, verifying lengths and checksums.
///
/// # Panics
/// A length or checksum is wrong.
#[must_use]
pub fn see(frame: &Frame) -> Seen {
    let (seen, valid) = dissect(frame).unwrap_or_else(|| panic!("cut short: {}", hex(&frame.0)));
    assert!(valid, "wrong checksum in {seen:#?}: {}", hex(&frame.0));
    seen
}

/// Verifies lengths and checksums of a frame, and that every check holds.
///
/// # Panics
/// One does not.
pub fn check(frame: &Frame, checks: &[Check]) {
    let seen = see(frame);
    for check in checks {
        check(&seen);
    }
}

fn same<'a, T: PartialEq + Debug + 'a>(what: &'a str, of: impl Fn(&Seen) -> T + 'a, wanted: T) -> Check<'a> {
    Box::new(move |seen| assert_eq!(of(seen), wanted, "{what} of {seen:#?}"))
}

/// From this address and port.
pub fn from<'a>(source: SocketAddr) -> Check<'a> {
    same("source", |seen| seen.source, source)
}

/// To this address and port.
pub fn to<'a>(destination: SocketAddr) -> Check<'a> {
    same("destination", |seen| seen.destination, destination)
}

/// Between these stations.
pub fn link<'a>(source: [u8; 6], destination: [u8; 6]) -> Check<'a> {
    same(
        "link addresses",
        |seen| (seen.link_source, seen.link_destination),
        (source, destination),
    )
}

/// With this TTL or hop limit.
pub fn ttl<'a>(ttl: u8) -> Check<'a> {
    same("ttl", |seen| seen.ttl, ttl)
}

/// With exactly these TCP flags.
pub fn flags<'a>(flags: u8) -> Check<'a> {
    same("flags", |seen| seen.flags, flags)
}

/// With these TCP sequence and acknowledgement numbers.
pub fn numbers<'a>(sequence: u32, acknowledgment: u32) -> Check<'a> {
    same(
        "numbers",
        |seen| (seen.sequence, seen.acknowledgment),
        (sequence, acknowledgment),
    )
}

/// With these VLAN tags, outermost first.
pub fn tags(tags: &[u16]) -> Check<'_> {
    same("tags", |seen| seen.tags.clone(), tags.to_vec())
}

/// With this payload.
pub fn payload(payload: &[u8]) -> Check<'_> {
    same("payload", |seen| seen.payload.clone(), payload.to_vec())
}

/// With this checksum field in the transport header.
pub fn checksum<'a>(field: u16) -> Check<'a> {
    same("checksum", |seen| seen.checksum, field)
}

/// With this IP protocol.
pub fn protocol<'a>(protocol: u8) -> Check<'a> {
    same("protocol", |seen| seen.protocol, protocol)
}

/// Whether a frame is an unfragmented TCP, UDP or ICMP packet whose lengths and checksums are all right.
#[must_use]
pub fn is_valid(frame: &Frame) -> bool {
    dissect(frame).is_some_and(|(_, valid)| valid)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Takes a frame apart and says whether its checksums are right; `None` when a length is wrong.
#[must_use]
pub fn dissect(Frame(frame): &Frame) -> Option<(Seen, bool)> {
    let mut at = 12;
    let mut tags = Vec::new();
    while matches!(word(frame, at)?, 0x8100 | 0x88a8) {
        tags.push(word(frame, at + 2)?);
        at += 4;
    }
    let ip = frame.get(at + 2..)?;
    let v4 = word(frame, at)? == 0x0800;
    let header = *ip.first()?;
    let mut valid = true;
    let (total, start, protocol, source, destination, ttl) = if v4 {
        let length = usize::from(header & 15) * 4;
        let total = usize::from(word(ip, 2)?);
        if header >> 4 != 4 || length < 20 || total < length || word(ip, 6)? & 0x3fff != 0 {
            return None;
        }
        valid &= sum(&[ip.get(..length)?]) == 0xffff;
        let address = |at| Some(IpAddr::from(Ipv4Addr::from(long(ip, at)?)));
        (
            total,
            length,
            *ip.get(9)?,
            address(12)?,
            address(16)?,
            *ip.get(8)?,
        )
    } else {
        let total = 40 + usize::from(word(ip, 4)?);
        if word(frame, at)? != 0x86dd || header >> 4 != 6 {
            return None;
        }
        let address = |at| {
            let bytes: [u8; 16] = *ip.get(at..)?.first_chunk()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)))
        };
        let (next, start) = walk(ip, *ip.get(6)?)?;
        (total, start, next, address(8)?, address(24)?, *ip.get(7)?)
    };
    let segment = ip.get(start..total)?;
    let pseudo = pseudo_header(source, destination, protocol, segment.len());
    let whole = sum(&[&pseudo, segment]) == 0xffff;
    let mut seen = Seen {
        link_destination: *frame.first_chunk()?,
        link_source: *frame.get(6..)?.first_chunk()?,
        tags,
        source: (source, 0).into(),
        destination: (destination, 0).into(),
        ttl,
        protocol,
        flags: 0,
        sequence: 0,
        acknowledgment: 0,
        checksum: 0,
        payload: Vec::new(),
        padding: ip.len() - total,
    };
    match protocol {
        6 | 17 => {
            seen.source.set_port(word(segment, 0)?);
            seen.destination.set_port(word(segment, 2)?);
        }
        _ => {}
    }
    let payload = match protocol {
        6 => {
            seen.flags = *segment.get(13)?;
            seen.sequence = long(segment, 4)?;
            seen.acknowledgment = long(segment, 8)?;
            seen.checksum = word(segment, 16)?;
            valid &= whole;
            let length = usize::from(*segment.get(12)? >> 4) * 4;
            if length < 20 {
                return None;
            }
            length
        }
        17 => {
            seen.checksum = word(segment, 6)?;
            valid &= if seen.checksum == 0 { v4 } else { whole };
            if usize::from(word(segment, 4)?) != segment.len() {
                return None;
            }
            8
        }
        1 => {
            valid &= sum(&[segment]) == 0xffff;
            4
        }
        58 => {
            valid &= whole;
            4
        }
        _ => 0,
    };
    seen.payload = segment.get(payload..)?.to_vec();
    Some((seen, valid))
}

/// Walks the extension headers of a whole IPv6 packet.
fn walk(ip: &[u8], mut next: u8) -> Option<(u8, usize)> {
    let mut at = 40;
    loop {
        let length = usize::from(*ip.get(at + 1).unwrap_or(&0));
        let step = match next {
            0 | 43 | 60 => (length + 1) * 8,
            51 => (length + 2) * 4,
            44 if word(ip, at + 2)? & 0xfff9 == 0 => 8,
            44 => return None,
            _ => return Some((next, at)),
        };
        next = *ip.get(at)?;
        at += step;
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
