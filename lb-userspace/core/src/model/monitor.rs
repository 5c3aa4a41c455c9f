//! Monitors: what is probed, how often, and which answer counts as healthy.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

/// `[monitors.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Monitor {
    pub name: String,
    pub kind: MonitorKind,
    /// Time between the starts of two runs; at least 0.1 s, default 60 s.
    pub interval: Duration,
    /// How long one attempt may take; default 5 s.
    pub timeout: Duration,
    /// Further attempts in the same run, immediately and only after a timeout; default 2.
    pub retries: u32,
    /// Successful runs in a row that make an unhealthy origin healthy; 0 and 1 both mean the first.
    pub consecutive_up: u32,
    /// Failed runs in a row that make a healthy origin unhealthy; 0 and 1 both mean the first.
    pub consecutive_down: u32,
    /// Port to probe; `None`: the origin's port, else the protocol's own (80, 443, 25).
    pub port: Option<u16>,
    pub source: ProbeSource,
}

impl Monitor {
    /// A monitor that says nothing but its type.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: MonitorKind) -> Self {
        Self {
            name: name.into(),
            kind,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            retries: 2,
            consecutive_up: 0,
            consecutive_down: 0,
            port: None,
            source: ProbeSource::default(),
        }
    }
}

/// `source` and `interface`: where probes start; nothing: where routes say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProbeSource {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// Packets leave by this interface, and answers come by it.
    pub interface: Option<String>,
}

impl ProbeSource {
    /// The address that packets to `destination` shall have.
    #[must_use]
    pub fn address(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(_) => self.v4.map(IpAddr::from),
            IpAddr::V6(_) => self.v6.map(IpAddr::from),
        }
    }
}

/// `type` with its own fields.
#[derive(Clone, PartialEq, Debug)]
pub enum MonitorKind {
    /// A full TCP connect.
    Tcp,
    /// An HTTP request.
    Http(Probe),
    /// An HTTP request over TLS.
    Https {
        probe: Probe,
        /// Do not verify the certificate.
        allow_insecure: bool,
    },
    /// An ICMP or ICMPv6 echo.
    IcmpPing,
    /// An echo, and then a datagram that must not be answered by "port unreachable".
    UdpIcmp(UdpProbe),
    /// A connect, and a conversation: `220`, `HELO`, `250`, `QUIT`, `221`.
    Smtp,
}

impl MonitorKind {
    /// The word used in files, in the API and in output.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https { .. } => "https",
            Self::IcmpPing => "icmp_ping",
            Self::UdpIcmp(_) => "udp_icmp",
            Self::Smtp => "smtp",
        }
    }
}

/// What a UDP monitor sends and expects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UdpProbe {
    /// The datagram's bytes; empty: one zero byte.
    pub payload: Vec<u8>,
    /// Must occur in one of the answers; empty: none need come.
    pub expected_reply: Vec<u8>,
}

/// What an HTTP monitor asks and expects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Default `GET`.
    pub method: String,
    /// Default `/`.
    pub path: String,
    /// Sent in this order; `Host` replaces the origin's address.
    pub headers: Vec<(String, String)>,
    pub expected_codes: ExpectedCodes,
    /// Must occur, in any case, in the first 10 KiB of the body; empty: any body.
    pub expected_body: String,
    pub follow_redirects: bool,
}

/// `expected_codes`: HTTP status codes and classes, such as `"200,3xx"`. Never empty; default `200`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpectedCodes {
    ranges: Vec<(u16, u16)>,
}

impl Default for ExpectedCodes {
    fn default() -> Self {
        Self {
            ranges: vec![(200, 200)],
        }
    }
}

impl ExpectedCodes {
    /// Reads a comma-separated list of codes (`200`), classes (`2xx`) and ranges (`200-204`).
    ///
    /// # Errors
    /// The first part that is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim) {
            ranges.push(Self::part(part).ok_or_else(|| part.to_owned())?);
        }
        Ok(Self { ranges })
    }

    fn part(part: &str) -> Option<(u16, u16)> {
        let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
        if let Some(class) = part.strip_suffix("xx").or_else(|| part.strip_suffix("XX")) {
            let class = code(&format!("{class}00")).filter(|_| class.len() == 1)?;
            return Some((class, class + 99));
        }
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (code(first)?, code(last)?);
                (first <= last).then_some((first, last))
            }
            None => code(part).map(|code| (code, code)),
        }
    }

    /// Whether `code` counts as healthy.
    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        self.ranges
            .iter()
            .any(|&(first, last)| (first..=last).contains(&code))
    }
}

/// As it may stand in a file.
impl fmt::Display for ExpectedCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_classes_and_ranges_are_read() {
        for (text, inside, outside) in [
            ("200", &[200][..], &[201, 199][..]),
            ("2xx", &[200, 299], &[300, 199]),
            ("200, 301-303,5XX", &[200, 302, 503], &[201, 304, 404]),
        ] {
            let codes = ExpectedCodes::parse(text).unwrap();
            assert!(inside.iter().all(|&code| codes.contains(code)), "{text}");
            assert!(!outside.iter().any(|&code| codes.contains(code)), "{text}");
        }
        for text in ["", "xx", "2x", "20", "600", "9xx", "204-200", "200,,"] {
            assert!(ExpectedCodes::parse(text).is_err(), "{text}");
        }
    }
}
