//! The heads of frames in words, for people.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the head of a frame says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Such as `tcp`, `icmp6` or `arp`; the number where it has no name here.
    pub protocol: String,
    /// Address, with the port where there is one.
    pub source: String,
    pub destination: String,
    /// Of TCP, such as `S` or `SA`; of ICMP, type and code; of fragments, the offset.
    pub detail: Option<String>,
    /// VLAN identifiers, the outer one first.
    pub vlans: Vec<u16>,
    /// The packet within this one.
    pub inner: Option<Box<Head>>,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vlan in &self.vlans {
            write!(f, "vlan {vlan} ")?;
        }
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)?;
        if let Some(detail) = &self.detail {
            write!(f, " {detail}")?;
        }
        match &self.inner {
            Some(inner) => write!(f, " ({inner})"),
            None => Ok(()),
        }
    }
}

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Extension headers that are looked through, and packets within packets.
const MOST: usize = 8;
/// The UDP port that GUE has unless another is configured.
const GUE: u16 = 6080;

/// Reads the head of an Ethernet frame; `None` when it has none.
#[must_use]
pub fn frame(bytes: &[u8]) -> Option<Head> {
    let mut kind = word(bytes, 12)?;
    let mut at = ETHERNET;
    let mut vlans = Vec::new();
    while VLAN.contains(&kind) && vlans.len() < 2 {
        vlans.push(word(bytes, at)? & 0x0fff);
        kind = word(bytes, at + 2)?;
        at += 4;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let head = match kind {
        IPV4 | IPV6 => packet(rest, MOST),
        _ => None,
    };
    let head = head.unwrap_or_else(|| Head {
        protocol: match kind {
            IPV4 => "ipv4".to_owned(),
            IPV6 => "ipv6".to_owned(),
            0x0806 => "arp".to_owned(),
            other => format!("{other:#06x}"),
        },
        source: mac(bytes.get(6..12)),
        destination: mac(bytes.get(..6)),
        ..Head::default()
    });
    Some(Head { vlans, ..head })
}

/// Reads an IP packet.
fn packet(bytes: &[u8], depth: usize) -> Option<Head> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes, depth),
        6 => ipv6(bytes, depth),
        _ => None,
    }
}

fn ipv4(bytes: &[u8], depth: usize) -> Option<Head> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let address = |at: usize| {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    let offset = (word(bytes, 6)? & 0x1fff) * 8;
    let ends = (address(12)?, address(16)?);
    let rest = bytes.get(header..).unwrap_or_default();
    Some(transport(*bytes.get(9)?, rest, ends, offset, depth))
}

fn ipv6(bytes: &[u8], depth: usize) -> Option<Head> {
    let address = |at: usize| {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    let ends = (address(8)?, address(24)?);
    let (mut next, mut at, mut offset) = (*bytes.get(6)?, 40, 0);
    for _ in 0..MOST {
        let Some(&following) = bytes.get(at) else { break };
        let length = match next {
            // Hop-by-hop, routing and destination options (RFC 8200 section 4).
            0 | 43 | 60 => usize::from(*bytes.get(at + 1).unwrap_or(&0)) * 8 + 8,
            44 => {
                offset = word(bytes, at + 2).unwrap_or(0) & 0xfff8;
                8
            }
            51 => usize::from(*bytes.get(at + 1).unwrap_or(&0)) * 4 + 8,
            _ => break,
        };
        (next, at) = (following, at + length);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    Some(transport(next, rest, ends, offset, depth))
}

fn transport(protocol: u8, bytes: &[u8], ends: (IpAddr, IpAddr), offset: u16, depth: usize) -> Head {
    let name = match protocol {
        1 => "icmp".to_owned(),
        4 => "ipip".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        41 => "ip6ip".to_owned(),
        58 => "icmp6".to_owned(),
        other => format!("protocol {other}"),
    };
    let (source, destination) = ends;
    let plain = Head {
        protocol: name,
        source: source.to_string(),
        destination: destination.to_string(),
        ..Head::default()
    };
    if offset > 0 {
        return Head {
            detail: Some(format!("fragment at {offset}")),
            ..plain
        };
    }
    let within = |at: usize| {
        let inner = depth
            .checked_sub(1)
            .and_then(|left| packet(bytes.get(at..)?, left));
        inner.map(Box::new)
    };
    match protocol {
        6 | 17 => {
            let (Some(from), Some(to)) = (word(bytes, 0), word(bytes, 2)) else {
                return plain;
            };
            let end = |ip: IpAddr, port: u16| std::net::SocketAddr::new(ip, port).to_string();
            Head {
                source: end(source, from),
                destination: end(destination, to),
                detail: (protocol == 6).then(|| flags(bytes.get(13).copied().unwrap_or(0))),
                inner: if protocol == 17 && to == GUE {
                    within(8)
                } else {
                    None
                },
                ..plain
            }
        }
        4 | 41 => Head {
            inner: within(0),
            ..plain
        },
        1 | 58 => {
            let (kind, code) = (
                bytes.first().copied().unwrap_or(0),
                bytes.get(1).copied().unwrap_or(0),
            );
            let error = match protocol {
                1 => matches!(kind, 3 | 5 | 11 | 12),
                _ => kind < 128,
            };
            Head {
                detail: Some(format!("type {kind} code {code}")),
                inner: if error { within(8) } else { None },
                ..plain
            }
        }
        _ => plain,
    }
}

/// TCP's flags as tcpdump writes them, `.` for a bare acknowledgment.
fn flags(bits: u8) -> String {
    let mut text = String::new();
    for (bit, letter) in [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (32, 'U'), (16, '.')] {
        if bits & bit != 0 {
            text.push(letter);
        }
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

fn mac(bytes: Option<&[u8]>) -> String {
    let mut text = String::new();
    for byte in bytes.unwrap_or_default() {
        let colon = if text.is_empty() { "" } else { ":" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::testing::PacketBuilder;
    use lb_common::testing::build::extension;

    fn told(builder: &PacketBuilder) -> String {
        frame(&builder.frame().0).unwrap().to_string()
    }

    #[test]
    fn heads_are_put_into_words() {
        let at = |text: &str| text.parse().unwrap();
        let tcp = PacketBuilder::tcp(at("198.51.100.7:40000"), at("203.0.113.10:80"), 2);
        assert_eq!(told(&tcp), "tcp 198.51.100.7:40000 > 203.0.113.10:80 S");
        assert_eq!(
            told(&tcp.clone().tags(&[7, 8])),
            "vlan 7 vlan 8 tcp 198.51.100.7:40000 > 203.0.113.10:80 S"
        );
        assert_eq!(
            told(&tcp.clone().fragment(64, true)),
            "tcp 198.51.100.7 > 203.0.113.10 fragment at 512"
        );
        let udp = PacketBuilder::udp(at("[2001:db8::7]:53"), at("[2001:db8::10]:53"));
        assert_eq!(
            told(&udp.clone().padding_extension(extension::HOP_BY_HOP)),
            "udp [2001:db8::7]:53 > [2001:db8::10]:53"
        );
        let ends = |builder: &PacketBuilder| builder.frame().0.split_off(14);
        let tunnel = PacketBuilder::raw("192.0.2.1".parse().unwrap(), "10.0.0.11".parse().unwrap(), 41);
        assert_eq!(
            told(&tunnel.payload(&ends(&udp))),
            "ip6ip 192.0.2.1 > 10.0.0.11 (udp [2001:db8::7]:53 > [2001:db8::10]:53)"
        );
        let gue = PacketBuilder::udp(at("192.0.2.1:50000"), at("10.0.0.11:6080")).payload(&ends(&tcp));
        assert_eq!(
            told(&gue),
            "udp 192.0.2.1:50000 > 10.0.0.11:6080 (tcp 198.51.100.7:40000 > 203.0.113.10:80 S)"
        );
        let error = [&[3, 4, 0, 0, 0, 0, 5, 0], ends(&tcp).as_slice()].concat();
        let icmp = PacketBuilder::raw("192.0.2.9".parse().unwrap(), "203.0.113.10".parse().unwrap(), 1);
        assert_eq!(
            told(&icmp.payload(&error)),
            "icmp 192.0.2.9 > 203.0.113.10 type 3 code 4 (tcp 198.51.100.7:40000 > 203.0.113.10:80 S)"
        );
        let mut arp = tcp.frame().0;
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(
            frame(&arp).unwrap().to_string(),
            "arp 02:00:00:00:00:c1 > 02:00:00:00:00:01"
        );
    }

    #[test]
    fn any_bytes_are_taken() {
        let whole = PacketBuilder::tcp(
            "198.51.100.7:1".parse().unwrap(),
            "203.0.113.10:80".parse().unwrap(),
            2,
        );
        let whole = whole.frame().0;
        for length in 0..whole.len() {
            let _words = frame(&whole[..length]).map(|head| head.to_string());
        }
        let mut random = lb_common::testing::Random(7);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..random.below(120)).map(|_| random.below(256) as u8).collect();
            if bytes.len() > 14 && random.once_in(2) {
                bytes[12..14].copy_from_slice(&random.pick(&[[8, 0], [0x86, 0xdd]]));
            }
            let _words = frame(&bytes).map(|head| head.to_string());
        }
    }
}
