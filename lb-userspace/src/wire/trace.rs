//! `GET /api/v1/trace`: what becomes of packets, an object a line; and the same in words.

use super::time::rfc3339;
use crate::datapath::dissect::{self, Head};
use crate::datapath::trace::Traced;
use lb_common::abi::{Report, ReportKind, Tracing};
use lb_common::datapath::{DropReason, Hold, Pass, Reply};
use lb_core::view::View;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// What shall be traced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceQuery {
    /// Only packets of this application.
    pub application: Option<String>,
    /// Only packets from or to addresses of these prefixes: address and length.
    pub client: Option<(IpAddr, u8)>,
    pub vip: Option<(IpAddr, u8)>,
    /// Only packets from or to this port.
    pub port: Option<u16>,
    /// Only packets with the verdict that has this row.
    pub reason: Option<u32>,
    /// `TraceKinds`.
    pub kinds: u32,
    /// Bytes of each frame.
    pub snap: u32,
    /// Packets a second, on each CPU.
    pub limit: u32,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TraceLine {
    Packet(Box<TraceRow>),
    /// Packets that should be here, and are not, because there were too many.
    Lost {
        lost: u64,
    },
}

/// What became of one packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceRow {
    /// When it came: RFC 3339, UTC.
    pub time: String,
    /// By which interface.
    pub interface: String,
    /// `forward`, `reply`, `drop`, `hold` or `pass`.
    pub verdict: String,
    /// Why; `None` of a packet that was forwarded.
    pub reason: Option<String>,
    pub application: Option<String>,
    pub pool: Option<String>,
    pub origin: Option<String>,
    /// Of the frame in bytes.
    pub length: u32,
    /// As it came.
    pub packet: Option<PacketHead>,
    /// By which interface it, or its answer, leaves.
    pub leaves_by: Option<String>,
    /// As it, or its answer, leaves.
    pub leaving: Option<PacketHead>,
}

/// The head of a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PacketHead {
    /// Such as `tcp`.
    pub protocol: String,
    /// Address, with the port where there is one.
    pub source: String,
    pub destination: String,
    /// Of TCP, the flags; of ICMP, type and code.
    pub detail: Option<String>,
    pub vlans: Vec<u16>,
    /// The packet in a tunnel, or the one that an ICMP error is about.
    pub inner: Option<Box<Self>>,
}

impl From<Head> for PacketHead {
    fn from(head: Head) -> Self {
        Self {
            protocol: head.protocol,
            source: head.source,
            destination: head.destination,
            detail: head.detail,
            vlans: head.vlans,
            inner: head.inner.map(|inner| Box::new(Self::from(*inner))),
        }
    }
}

impl From<&PacketHead> for Head {
    fn from(head: &PacketHead) -> Self {
        Self {
            protocol: head.protocol.clone(),
            source: head.source.clone(),
            destination: head.destination.clone(),
            detail: head.detail.clone(),
            vlans: head.vlans.clone(),
            inner: head.inner.as_deref().map(|inner| Box::new(Self::from(inner))),
        }
    }
}

/// What turns numbers into names and times.
#[derive(Clone, Debug)]
pub struct Names {
    /// Of interfaces, by index.
    pub interfaces: BTreeMap<u32, String>,
    /// When the monotonic clock was 0.
    pub start: SystemTime,
}

impl Names {
    /// The name of an interface.
    #[must_use]
    pub fn interface(&self, index: u32) -> String {
        let known = self.interfaces.get(&index);
        known.cloned().unwrap_or_else(|| format!("interface {index}"))
    }

    /// A time of the monotonic clock.
    #[must_use]
    pub fn time(&self, nanoseconds: u64) -> SystemTime {
        self.start + Duration::from_nanos(nanoseconds)
    }
}

impl TraceRow {
    /// What the program reported, with the names that things have now.
    #[must_use]
    pub fn new(traced: &Traced, view: &View, names: &Names) -> Self {
        let report = &traced.report;
        let application = (report.application != Tracing::ANY)
            .then(|| {
                view.applications
                    .iter()
                    .find(|application| application.id == report.application)
            })
            .flatten();
        let origin = view
            .pools
            .iter()
            .flat_map(|pool| pool.origins.iter().map(move |origin| (pool, origin)))
            .find(|(_, origin)| origin.id == report.origin && origin.id != lb_common::abi::OriginId::NONE);
        let leaving = dissect::frame(traced.leaving());
        Self {
            time: rfc3339(names.time(report.time)),
            interface: names.interface(report.ifindex),
            verdict: verdict(report.kind).to_owned(),
            reason: reason(report.row).map(str::to_owned),
            application: application.map(|application| application.name.clone()),
            pool: origin.map(|(pool, _)| pool.name.clone()),
            origin: origin.map(|(_, origin)| origin.name.clone()),
            length: report.length,
            packet: dissect::frame(&traced.frame).map(PacketHead::from),
            leaves_by: (report.leaves_by != 0).then(|| names.interface(report.leaves_by)),
            leaving: leaving.map(PacketHead::from),
        }
    }

    /// What is told of the packet beside what is seen in it.
    #[must_use]
    pub fn comment(&self) -> String {
        let named = |key: &str, value: &Option<String>| {
            value
                .as_ref()
                .map_or_else(String::new, |value| format!(" {key}={value}"))
        };
        let leaving = self
            .leaving
            .as_ref()
            .map(|leaving| format!("\n{}", Head::from(leaving)));
        format!(
            "verdict={}{}{}{}{}{}{}",
            self.verdict,
            named("reason", &self.reason),
            named("application", &self.application),
            named("pool", &self.pool),
            named("origin", &self.origin),
            named("leaves_by", &self.leaves_by),
            leaving.unwrap_or_default()
        )
    }
}

impl fmt::Display for TraceRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The day is on the operator's wall.
        let time = self
            .time
            .split_once('T')
            .map_or(self.time.as_str(), |(_, time)| time);
        write!(f, "{} {} ", time.trim_end_matches('Z'), self.interface)?;
        match &self.packet {
            Some(packet) => write!(f, "{}", Head::from(packet))?,
            None => f.write_str("?")?,
        }
        write!(f, ", {} bytes: {}", self.length, self.verdict)?;
        if let Some(reason) = &self.reason {
            write!(f, " {reason}")?;
        }
        if let Some(application) = &self.application {
            write!(f, ", {application}")?;
        }
        if let (Some(pool), Some(origin)) = (&self.pool, &self.origin) {
            write!(f, ", {pool}/{origin}")?;
        }
        if let Some(interface) = &self.leaves_by {
            write!(f, ", by {interface}")?;
        }
        match &self.leaving {
            Some(leaving) => write!(f, ": {}", Head::from(leaving)),
            None => Ok(()),
        }
    }
}

/// The word for a kind of verdict.
fn verdict(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::PASS => "pass",
        ReportKind::FORWARD => "forward",
        ReportKind::REPLY => "reply",
        ReportKind::HOLD => "hold",
        _ => "drop",
    }
}

/// What XDP did with a packet, by its number in `enum xdp_action`.
#[must_use]
pub fn action(report: &Report) -> u64 {
    const DROP: u64 = 1;
    const PASS: u64 = 2;
    const TX: u64 = 3;
    const REDIRECT: u64 = 4;
    match report.kind {
        ReportKind::PASS => PASS,
        ReportKind::FORWARD | ReportKind::REPLY if report.leaves_by == report.ifindex => TX,
        ReportKind::FORWARD | ReportKind::REPLY => REDIRECT,
        _ => DROP,
    }
}

/// The word for a reason.
fn reason(row: u32) -> Option<&'static str> {
    reasons().find(|(known, _)| *known == row).map(|(_, name)| name)
}

/// The row that a reason is counted in, by its word.
#[must_use]
pub fn row_of(word: &str) -> Option<u32> {
    reasons().find(|(_, name)| *name == word).map(|(row, _)| row)
}

/// Why packets are not forwarded: rows and words.
fn reasons() -> impl Iterator<Item = (u32, &'static str)> {
    Pass::ALL
        .iter()
        .map(|reason| (reason.row(), reason.name()))
        .chain(Reply::ALL.iter().map(|reason| (reason.row(), reason.name())))
        .chain(Hold::ALL.iter().map(|reason| (reason.row(), reason.name())))
        .chain(DropReason::ALL.iter().map(|reason| (reason.row(), reason.name())))
}
