//! Answers that go on: traced packets, as lines of JSON or as a capture file.

use super::error::ApiError;
use super::routes::Parameters;
use super::{Handle, Request, TraceItem, Tracing};
use crate::wire::{Pcapng, PcapngPacket, TraceLine, TraceQuery, TraceRow, trace_action, trace_row_of};
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lb_common::abi::{MAX_SNAP, TraceKinds};
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::SystemTime;

/// Enough of a frame for what a line tells of it.
const HEADS: u32 = 256;
/// Packets a second that are told on each CPU, unless the client says otherwise.
const LINES: u32 = 1_000;
const PACKETS: u32 = 20_000;

/// Each packet as a line of JSON, until the client has seen enough.
pub(super) async fn trace(State(handle): State<Handle>, query: RawQuery) -> Result<Response, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let query = parameters.trace(HEADS, LINES)?;
    parameters.finish()?;
    let tracing = handle.ask(|reply| Request::Trace { query, reply }).await?;
    let line = move |item: &TraceItem, tracing: &Tracing| {
        let line = match item {
            TraceItem::Packet(traced) => {
                let view = handle.view.borrow().clone();
                TraceLine::Packet(Box::new(TraceRow::new(traced, &view, &tracing.names)))
            }
            TraceItem::Lost(lost) => TraceLine::Lost { lost: *lost },
        };
        // Shapes of our own can be written as JSON.
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        text
    };
    Ok(respond("application/x-ndjson", Vec::new(), tracing, line))
}

/// All packets as a pcapng file, until the client has seen enough.
pub(super) async fn capture(State(handle): State<Handle>, query: RawQuery) -> Result<Response, ApiError> {
    let mut parameters = Parameters::parse(query)?;
    let query = parameters.trace(MAX_SNAP as u32, PACKETS)?;
    parameters.finish()?;
    let snap = query.snap as usize;
    let (mut writer, start) = Pcapng::begin(query.snap);
    let tracing = handle.ask(|reply| Request::Trace { query, reply }).await?;
    let mut missing = 0;
    let packet = move |item: &TraceItem, tracing: &Tracing| {
        let traced = match item {
            TraceItem::Packet(traced) => traced,
            TraceItem::Lost(lost) => {
                missing += lost;
                return Vec::new();
            }
        };
        let view = handle.view.borrow().clone();
        let row = TraceRow::new(traced, &view, &tracing.names);
        let time = tracing.names.time(traced.report.time);
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        writer.packet(&PcapngPacket {
            interface: (traced.report.ifindex, &row.interface),
            time: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            length: traced.report.length,
            // Somebody else may have asked for more.
            frame: traced.frame.get(..snap).unwrap_or(&traced.frame),
            comment: &row.comment(),
            action: trace_action(&traced.report),
            lost: std::mem::take(&mut missing),
        })
    };
    Ok(respond("application/x-pcapng", start, tracing, packet))
}

/// An answer that starts with some bytes and goes on with what `write` makes of each item.
fn respond(
    kind: &'static str,
    start: Vec<u8>,
    tracing: Tracing,
    write: impl FnMut(&TraceItem, &Tracing) -> Vec<u8> + Send + 'static,
) -> Response {
    let first = (!start.is_empty()).then_some(start);
    let chunks = stream::unfold(
        (first, tracing, write),
        async |(first, mut tracing, mut write)| {
            if let Some(first) = first {
                return Some((first, (None, tracing, write)));
            }
            loop {
                let item = tracing.items.recv().await?;
                let mut bytes = write(&item, &tracing);
                // What waits goes with it.
                while bytes.len() < 64 << 10
                    && let Ok(item) = tracing.items.try_recv()
                {
                    bytes.extend(write(&item, &tracing));
                }
                if !bytes.is_empty() {
                    return Some((bytes, (None, tracing, write)));
                }
            }
        },
    );
    let chunks = futures_util::StreamExt::map(chunks, |bytes| Ok::<_, Infallible>(Bytes::from(bytes)));
    ([(CONTENT_TYPE, kind)], Body::from_stream(chunks)).into_response()
}

impl Parameters {
    fn prefix(&mut self, name: &str) -> Result<Option<(IpAddr, u8)>, ApiError> {
        let text: Option<String> = self.optional(name, "an address or a prefix")?;
        text.map(|text| prefix(name, &text)).transpose()
    }

    fn trace(&mut self, snap: u32, limit: u32) -> Result<TraceQuery, ApiError> {
        let kinds: Option<String> = self.optional("kinds", "words")?;
        let kinds = match kinds {
            None => TraceKinds::FORWARDED | TraceKinds::REFUSED,
            Some(words) => {
                let mut kinds = 0;
                for word in words.split(',') {
                    kinds |= match word {
                        "forwarded" => TraceKinds::FORWARDED,
                        "refused" => TraceKinds::REFUSED,
                        "passed" => TraceKinds::PASSED,
                        other => {
                            let message =
                                format!("`kinds` names {other:?}, not forwarded, refused or passed");
                            return Err(ApiError::parameter("kinds", message));
                        }
                    };
                }
                kinds
            }
        };
        let most = MAX_SNAP as u32;
        let snap = self.optional("snap", "a number of bytes")?.unwrap_or(snap);
        if snap == 0 || snap > most {
            return Err(ApiError::parameter(
                "snap",
                format!("`snap` is {snap}, not 1 to {most}"),
            ));
        }
        let reason: Option<String> = self.optional("reason", "a word")?;
        let reason = reason.map(|word| {
            trace_row_of(&word).ok_or_else(|| {
                let message =
                    format!("`reason` is {word:?}: the reasons are those that `lb drops --all` lists");
                ApiError::parameter("reason", message)
            })
        });
        Ok(TraceQuery {
            application: self.optional("application", "a name")?,
            client: self.prefix("client")?,
            vip: self.prefix("vip")?,
            port: self.optional("port", "a port")?,
            reason: reason.transpose()?,
            kinds,
            snap,
            limit: self.optional("limit", "a number of packets")?.unwrap_or(limit),
        })
    }
}

/// An address, or one with the length of a prefix.
fn prefix(name: &str, text: &str) -> Result<(IpAddr, u8), ApiError> {
    let refuse = || {
        let message = format!("`{name}` is {text:?}, not an address or a prefix such as 198.51.100.0/24");
        ApiError::parameter(name, message)
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| refuse())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        "" if !text.contains('/') => most,
        length => length.parse().map_err(|_| refuse())?,
    };
    if length > most {
        Err(refuse())
    } else {
        Ok((address, length))
    }
}
