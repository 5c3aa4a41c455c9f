//! Whoever traces packets: what the program shall report, and who gets it.

use super::node::Node;
use crate::api::{TraceItem, Tracing as Subscription};
use crate::datapath::trace::{Listener, Source, Traced};
use crate::net::interface;
use crate::wire::{ErrorCode, ErrorDetail, TraceNames, TraceQuery};
use anyhow::{Context, Result};
use lb_common::abi::{Ip, Port, Prefix, TraceKinds, Tracing};
use lb_common::trace;
use lb_core::engine::Event;
use lb_core::view::View;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often it is looked whether somebody still traces.
const LOOK: Duration = Duration::from_secs(1);
/// The program traces for so long after it was told to: it stops by itself when this process is no more.
const HOLDS: u32 = 3;
/// Those who may trace at a time.
const MOST: usize = 16;
/// Packets that wait for a client that is slow.
const WAITING: usize = 8_192;
/// How long the thread waits for packets before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Those who trace.
pub(super) struct Tracer {
    source: Source,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    /// Ends the thread that listens.
    stop: Option<Arc<AtomicBool>>,
    /// When it is to be looked whether somebody still traces.
    pub due: Option<Instant>,
}

struct Subscriber {
    wanted: Tracing,
    items: mpsc::Sender<TraceItem>,
    /// When the program knew what it wants, by the clock of reports: less may be there of packets that came before.
    since: u64,
    /// Packets that it has not been told of.
    lost: u64,
    /// The second that it was told of `count` packets in.
    second: u64,
    count: u64,
}

impl Tracer {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            subscribers: Arc::default(),
            stop: None,
            due: None,
        }
    }

    fn subscribe(&mut self, wanted: Tracing) -> Result<mpsc::Receiver<TraceItem>> {
        let (items, receiver) = mpsc::channel(WAITING);
        lock(&self.subscribers).push(Subscriber::new(wanted, items));
        self.adapt()?;
        if let Some(newest) = lock(&self.subscribers).last_mut() {
            newest.since = since_boot().as_nanos() as u64;
        }
        Ok(receiver)
    }

    /// Has the program report what those who are left want; whether there are any.
    fn adapt(&mut self) -> Result<bool> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|subscriber| !subscriber.items.is_closed());
        let wanted = subscribers.iter().map(|subscriber| subscriber.wanted);
        let Some(wanted) = wanted.reduce(both) else {
            drop(subscribers);
            self.end();
            return Ok(false);
        };
        drop(subscribers);
        self.source.set(&wanted)?;
        if self.stop.is_none() {
            let listener = self.source.listen()?;
            let stop = Arc::new(AtomicBool::new(false));
            let (subscribers, ended) = (self.subscribers.clone(), stop.clone());
            thread::Builder::new()
                .name("trace".into())
                .spawn(move || listen(listener, &subscribers, &ended))
                .context("start a thread")?;
            self.stop = Some(stop);
            info!("packets are traced");
        }
        Ok(true)
    }

    /// Lets go of all who trace.
    pub fn end(&mut self) {
        lock(&self.subscribers).clear();
        if let Some(stop) = self.stop.take() {
            stop.store(true, Ordering::Relaxed);
            info!("packets are not traced any more");
        }
        self.due = None;
    }
}

fn lock(subscribers: &Mutex<Vec<Subscriber>>) -> MutexGuard<'_, Vec<Subscriber>> {
    subscribers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of reports.
fn since_boot() -> Duration {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(monotonic.tv_sec as u64, monotonic.tv_nsec as u32)
}

/// What serves both.
fn both(one: Tracing, other: Tracing) -> Tracing {
    fn same<T: PartialEq>(one: T, other: T, any: T) -> T {
        if one == other { one } else { any }
    }
    Tracing {
        prefixes: same(one.prefixes, other.prefixes, Default::default()),
        application: same(one.application, other.application, Tracing::ANY),
        row: same(one.row, other.row, Tracing::ANY),
        port: same(one.port, other.port, Port::default()),
        reserved: 0,
        kinds: TraceKinds(one.kinds.0 | other.kinds.0),
        snap: one.snap.max(other.snap),
        limit: one.limit.max(other.limit),
    }
}

/// Passes on what the program reports.
fn listen(mut listener: Listener, subscribers: &Mutex<Vec<Subscriber>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = listener.wait(PATIENCE) {
            warn!(%error, "packets cannot be traced any more");
            // Their streams end.
            return lock(subscribers).clear();
        }
        let (packets, lost) = listener.read();
        let packets: Vec<Arc<Traced>> = packets.into_iter().map(Arc::new).collect();
        for subscriber in lock(subscribers).iter_mut() {
            subscriber.lost += lost;
            for packet in &packets {
                subscriber.give(packet, listener.cpus());
            }
            subscriber.own_up();
        }
    }
}

impl Subscriber {
    fn new(wanted: Tracing, items: mpsc::Sender<TraceItem>) -> Self {
        Self {
            wanted,
            items,
            since: u64::MAX,
            lost: 0,
            second: 0,
            count: 0,
        }
    }

    /// Tells of a packet, if it is wanted.
    fn give(&mut self, traced: &Arc<Traced>, cpus: u64) {
        if traced.report.time < self.since || !trace::wants(&self.wanted, &traced.report) {
            return;
        }
        // Another one may have asked the program for more packets a second.
        let second = traced.report.time / 1_000_000_000;
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        if self.count >= u64::from(self.wanted.limit).saturating_mul(cpus) {
            self.lost += 1;
            return;
        }
        self.count += 1;
        self.own_up();
        // What is lost is told before what comes after it.
        if self.lost > 0 || self.items.try_send(TraceItem::Packet(traced.clone())).is_err() {
            self.lost += 1;
        }
    }

    /// Says how many packets it was not told of, when there is room for that.
    fn own_up(&mut self) {
        if self.lost > 0 && self.items.try_send(TraceItem::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
    }
}

/// What the program has to know of a query.
fn wanted(query: &TraceQuery, view: &View) -> Result<Tracing, ErrorDetail> {
    let application = match &query.application {
        None => Tracing::ANY,
        Some(name) => {
            let mut applications = view.applications.iter();
            let found = applications.find(|application| application.name == *name);
            let missing = || {
                let message = format!("there is no application `{name}`");
                ErrorDetail::new(ErrorCode::NotFound, message).of_field("application")
            };
            found.ok_or_else(missing)?.id
        }
    };
    let prefixes = [query.client, query.vip];
    Ok(Tracing {
        prefixes: prefixes.map(|known| known.map_or_else(Default::default, prefix)),
        application,
        row: query.reason.unwrap_or(Tracing::ANY),
        port: Port::new(query.port.unwrap_or(0)),
        reserved: 0,
        kinds: TraceKinds(query.kinds),
        snap: query.snap,
        limit: query.limit,
    })
}

/// Address and mask of a prefix, IPv4 v4-mapped.
fn prefix((address, length): (IpAddr, u8)) -> Prefix {
    let length = u32::from(length) + if address.is_ipv4() { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
    let mask = Ip(bytemuck::cast(mask.to_be_bytes()));
    let [a, b, c, d] = Ip::from(address).0;
    let [e, f, g, h] = mask.0;
    Prefix {
        address: Ip([a & e, b & f, c & g, d & h]),
        mask,
    }
}

impl Node {
    /// Lets somebody trace packets.
    pub(super) fn trace(&mut self, query: &TraceQuery) -> Result<Subscription, ErrorDetail> {
        let wanted = wanted(query, &self.view.borrow().clone())?;
        let internal = |error: anyhow::Error| ErrorDetail::new(ErrorCode::Internal, format!("{error:#}"));
        if lock(&self.tracer.subscribers).len() >= MOST {
            let message = format!("{MOST} trace already: wait for one of them to end");
            return Err(ErrorDetail::new(ErrorCode::Conflict, message));
        }
        let interfaces = interface::all().map_err(internal)?;
        let items = self.tracer.subscribe(wanted).map_err(internal)?;
        self.refresh_trace();
        Ok(Subscription {
            items,
            names: TraceNames {
                interfaces: interfaces
                    .into_iter()
                    .map(|interface| (interface.index, interface.name))
                    .collect(),
                start: SystemTime::now()
                    .checked_sub(since_boot())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            },
        })
    }

    /// Has the program trace for a while longer, if somebody still does.
    pub(super) fn refresh_trace(&mut self) {
        let until = match self.tracer.adapt() {
            Ok(true) => {
                self.tracer.due = Some(Instant::now() + LOOK);
                let clock = &self.datapath.clock;
                // 0 is never.
                clock.now().wrapping_add(HOLDS * clock.hz) | 1
            }
            Ok(false) => 0,
            Err(error) => {
                debug!(error = %format!("{error:#}"), "tracing ends");
                self.tracer.end();
                0
            }
        };
        self.tell(Event::Trace(until));
    }

    /// Ends all tracing.
    pub(super) fn end_trace(&mut self) {
        self.tracer.end();
        self.tell(Event::Trace(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use lb_common::abi::{Report, ReportKind};
    use std::net::Ipv4Addr;

    fn ip(text: &str) -> Ip {
        Ip::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn prefixes_are_masks() {
        let of = |text: &str, length| prefix((text.parse().unwrap(), length));
        let Prefix { address, mask } = of("198.51.100.7", 24);
        assert_eq!(address, ip("198.51.100.0"));
        assert_eq!(
            mask.0.map(u32::from_be),
            [u32::MAX, u32::MAX, u32::MAX, 0xffff_ff00]
        );
        let Prefix { address, mask } = of("2001:db8::7", 32);
        assert_eq!((address, mask.0), (ip("2001:db8::"), [u32::MAX, 0, 0, 0]));
        assert_eq!(of("::", 0), Prefix::default());
        assert_eq!(of("198.51.100.7", 32).address, ip("198.51.100.7"));
    }

    const ONE: Tracing = Tracing {
        prefixes: [Prefix {
            address: Ip([0; 4]),
            mask: Ip([0; 4]),
        }; 2],
        application: 3,
        row: 7,
        port: Port(80),
        reserved: 0,
        kinds: TraceKinds(1),
        snap: 100,
        limit: 7,
    };

    #[test]
    fn several_are_served_by_what_serves_them_all() {
        assert_eq!(both(ONE, ONE), ONE);
        let other = Tracing {
            application: 4,
            kinds: TraceKinds(2),
            snap: 50,
            limit: 9,
            ..ONE
        };
        let expected = Tracing {
            application: Tracing::ANY,
            kinds: TraceKinds(3),
            limit: 9,
            ..ONE
        };
        assert_eq!(both(ONE, other), expected);
        let elsewhere = Tracing {
            prefixes: [prefix((Ipv4Addr::LOCALHOST.into(), 32)), Prefix::default()],
            row: Tracing::ANY,
            port: Port(81),
            ..ONE
        };
        let expected = Tracing {
            row: Tracing::ANY,
            port: Port(0),
            ..ONE
        };
        assert_eq!(both(ONE, elsewhere), expected);
    }

    fn traced(time: u64, row: u32) -> Arc<Traced> {
        let report = Report {
            time,
            row,
            application: 3,
            kind: ReportKind::DROP,
            ..Report::zeroed()
        };
        let frame = Vec::new();
        Arc::new(Traced { report, frame })
    }

    fn subscriber(room: usize, limit: u32) -> (Subscriber, mpsc::Receiver<TraceItem>) {
        let (items, receiver) = mpsc::channel(room);
        let wanted = Tracing {
            port: Port(0),
            kinds: TraceKinds(TraceKinds::REFUSED),
            limit,
            ..ONE
        };
        let subscriber = Subscriber {
            since: 1,
            ..Subscriber::new(wanted, items)
        };
        (subscriber, receiver)
    }

    /// What was received: times of packets, and after `-` how many are missing.
    fn told(receiver: &mut mpsc::Receiver<TraceItem>) -> String {
        let mut told = Vec::new();
        while let Ok(item) = receiver.try_recv() {
            told.push(match item {
                TraceItem::Packet(traced) => traced.report.time.to_string(),
                TraceItem::Lost(lost) => format!("-{lost}"),
            });
        }
        told.join(" ")
    }

    #[test]
    fn one_that_lags_is_told_how_many_packets_it_missed() {
        let (mut slow, mut receiver) = subscriber(3, u32::MAX);
        for time in 1..=10 {
            slow.give(&traced(time, 7), 1);
        }
        // Of another reason: not asked for, so not missing.
        slow.give(&traced(11, 8), 1);
        slow.own_up();
        assert_eq!(told(&mut receiver), "1 2 3");
        slow.give(&traced(12, 7), 1);
        assert_eq!(told(&mut receiver), "-7 12");
        for time in 13..=17 {
            slow.give(&traced(time, 7), 1);
        }
        assert_eq!(told(&mut receiver), "13 14 15");
        // Also when no packet follows.
        slow.own_up();
        slow.own_up();
        assert_eq!(told(&mut receiver), "-2");
    }

    #[test]
    fn what_was_reported_before_somebody_asked_is_not_told() {
        let (mut late, mut receiver) = subscriber(3, u32::MAX);
        late.since = 5;
        for time in 3..=6 {
            late.give(&traced(time, 7), 1);
        }
        late.own_up();
        assert_eq!(told(&mut receiver), "5 6");
    }

    #[test]
    fn nobody_gets_more_packets_a_second_than_asked_for() {
        let (mut modest, mut receiver) = subscriber(100, 2);
        for time in 1..=10 {
            modest.give(&traced(time, 7), 2);
        }
        modest.give(&traced(1_000_000_000, 7), 2);
        assert_eq!(told(&mut receiver), "1 2 3 4 -6 1000000000");
    }
}
