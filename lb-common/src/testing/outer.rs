//! Looks at packets in tunnels, by code that shares nothing with the pipeline.

use super::Frame;
use super::build::{pseudo_header, sum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame whose IP packet carries another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Link addresses: sender, receiver.
    pub link: ([u8; 6], [u8; 6]),
    /// VLAN tags as they stand, types and all, outermost first.
    pub tags: Vec<[u8; 4]>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    /// Type of service or traffic class.
    pub class: u8,
    /// IPv6: the flow label.
    pub label: u32,
    /// IPv4: the identification, and the word of flags and offset.
    pub fragment: (u16, u16),
    pub protocol: u8,
    /// The header of GUE, if there is one.
    pub udp: Option<Udp>,
    /// The inner IP packet.
    pub inner: Vec<u8>,
    /// Bytes after the outer IP packet.
    pub padding: usize,
}

/// An outer UDP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Udp {
    pub source: u16,
    pub destination: u16,
    pub checksum: u16,
    /// The checksum is none, or right.
    pub valid: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Takes the outer headers of a frame apart; `None` when a length or the IP header's checksum is wrong, or it is no tunnel's.
#[must_use]
pub fn outer(Frame(frame): &Frame) -> Option<Outer> {
    let link = (*frame.get(6..)?.first_chunk()?, *frame.first_chunk()?);
    let mut at = 12;
    let mut tags = Vec::new();
    while matches!(word(frame, at)?, 0x8100 | 0x88a8) {
        tags.push(*frame.get(at..)?.first_chunk()?);
        at += 4;
    }
    let ip = frame.get(at + 2..)?;
    let first = *ip.first()?;
    let (total, header, outer) = match word(frame, at)? {
        0x0800 if first == 0x45 && sum(&[ip.get(..20)?]) == 0xffff => {
            let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
            let outer = Outer {
                link,
                tags,
                source: address(12)?.into(),
                destination: address(16)?.into(),
                ttl: *ip.get(8)?,
                class: *ip.get(1)?,
                label: 0,
                fragment: (word(ip, 4)?, word(ip, 6)?),
                protocol: *ip.get(9)?,
                udp: None,
                inner: Vec::new(),
                padding: 0,
            };
            (usize::from(word(ip, 2)?), 20, outer)
        }
        0x86dd if first >> 4 == 6 => {
            let address = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?));
            let word32 = u32::from_be_bytes(*ip.first_chunk()?);
            let outer = Outer {
                link,
                tags,
                source: address(8)?.into(),
                destination: address(24)?.into(),
                ttl: *ip.get(7)?,
                class: (word32 >> 20) as u8,
                label: word32 & 0xf_ffff,
                fragment: (0, 0),
                protocol: *ip.get(6)?,
                udp: None,
                inner: Vec::new(),
                padding: 0,
            };
            (40 + usize::from(word(ip, 4)?), 40, outer)
        }
        _ => return None,
    };
    let payload = ip.get(header..total)?;
    let padding = ip.len() - total;
    let (udp, inner) = match outer.protocol {
        4 | 41 => (None, payload),
        17 if usize::from(word(payload, 4)?) == payload.len() => {
            let checksum = word(payload, 6)?;
            let pseudo = pseudo_header(outer.source, outer.destination, 17, payload.len());
            let udp = Udp {
                source: word(payload, 0)?,
                destination: word(payload, 2)?,
                checksum,
                valid: checksum == 0 || sum(&[&pseudo, payload]) == 0xffff,
            };
            (Some(udp), payload.get(8..)?)
        }
        _ => return None,
    };
    let version = inner.first()? >> 4;
    let told = match outer.protocol {
        4 => version == 4,
        41 => version == 6,
        _ => version == 4 || version == 6,
    };
    told.then(|| Outer {
        udp,
        inner: inner.to_vec(),
        padding,
        ..outer
    })
}
