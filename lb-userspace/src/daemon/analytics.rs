//! Traffic of applications over time: what counters and sweeps say goes into the history, by minutes.

use super::node::Node;
use crate::api::{CloudflareReply, Minutes, Present};
use crate::cloudflare::Failure;
use crate::config::Kind;
use crate::datapath::flows::{Ages, FlowCounts};
use crate::datapath::reader::Reader;
use crate::store::HistoryChange;
use crate::wire::micros;
use lb_core::analytics::{Counted, Histogram, Meter, Open};
use lb_core::view::View;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

/// What "the last minute" is.
const PRESENT: Duration = Duration::from_secs(60);

/// The traffic.
#[derive(Default)]
pub struct Traffic {
    meter: Meter,
    /// Rows of the applications that are live, by name.
    live: BTreeMap<String, u32>,
    /// Counters of those that went live since the last sweep began, from when they did.
    begun: BTreeMap<String, Counted>,
    /// From before the sweep that is going on.
    counted: Vec<Application>,
    /// Counters of the last minute.
    looks: VecDeque<(Instant, BTreeMap<String, Counted>)>,
    /// Open flows of each application, and the sum of their ages in milliseconds.
    open: BTreeMap<String, (u64, u64)>,
    looked: Option<SystemTime>,
}

/// An application before a sweep.
struct Application {
    /// In the API.
    id: String,
    row: u32,
    counted: Counted,
    /// Whether it has addresses of IPv4 and of IPv6.
    served: [bool; 2],
}

impl Traffic {
    /// What happens now.
    fn present(&self) -> Vec<Present> {
        let (first, last) = (self.looks.front(), self.looks.back());
        let Some((_, counts)) = last else {
            return Vec::new();
        };
        let former = |application: &str| {
            let former = first.and_then(|(_, counts)| counts.get(application));
            former.copied().unwrap_or_default()
        };
        let present = counts.iter().map(|(application, counted)| {
            let former = former(application);
            let (open, age) = self.open.get(application).copied().unwrap_or_default();
            Present {
                application: application.clone(),
                // Counters fall when the maps are made anew.
                bytes_in: counted.bytes_in.saturating_sub(former.bytes_in),
                bytes_out: counted.bytes_out.saturating_sub(former.bytes_out),
                open,
                age_ms: if open == 0 { 0.0 } else { age as f64 / open as f64 },
            }
        });
        present.collect()
    }
}

fn counters(reader: &Reader, row: u32) -> Counted {
    let traffic = reader.application(row);
    Counted {
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        new_flows: traffic.new_flows,
    }
}

impl Node {
    /// Reads the counters, before a sweep begins.
    pub(super) fn read_counters(&mut self) {
        let (view, catalog) = (self.view.borrow().clone(), self.objects.catalog());
        let reader = &self.datapath.reader;
        let counted = view.applications.iter().filter_map(|application| {
            let entry = catalog.named(Kind::Application, &application.name)?;
            let has = |v6| {
                application
                    .addresses
                    .iter()
                    .any(|address| address.is_ipv6() == v6)
            };
            Some(Application {
                id: entry.id.to_string(),
                row: application.id,
                counted: counters(reader, application.id),
                served: [has(false), has(true)],
            })
        });
        let counted = counted.collect();
        for application in &view.applications {
            if let Some(begun) = self.traffic.begun.get(&application.name)
                && let Some(entry) = catalog.named(Kind::Application, &application.name)
            {
                self.traffic.meter.begin(&entry.id.to_string(), *begun);
            }
        }
        self.traffic.begun.clear();
        self.traffic.counted = counted;
    }

    /// Remembers where the counters of applications begin that have just gone live. Of those that were there when the
    /// daemon came, nobody knows.
    pub(super) fn follow_applications(&mut self, view: &View) {
        let traffic = &mut self.traffic;
        let known = view.applications.len() == traffic.live.len()
            && view
                .applications
                .iter()
                .all(|application| traffic.live.get(&application.name) == Some(&application.id));
        if known {
            return;
        }
        let live = view.applications.iter();
        let live = live.map(|application| (application.name.clone(), application.id));
        let former = std::mem::replace(&mut traffic.live, live.collect());
        if traffic.looked.is_none() {
            return;
        }
        for (name, row) in &traffic.live {
            if former.get(name) != Some(row) {
                let counted = counters(&self.datapath.reader, *row);
                traffic.begun.insert(name.clone(), counted);
            }
        }
    }

    /// Takes in what the sweep has found.
    pub(super) fn measure(&mut self, counts: &mut FlowCounts) {
        let (now, clock) = (SystemTime::now(), self.datapath.clock);
        let minute = micros(now) / 60_000_000;
        let milliseconds = |jiffies: u64| jiffies * 1_000 / u64::from(clock.hz);
        let traffic = &mut self.traffic;
        let counted = std::mem::take(&mut traffic.counted);
        let mut found = |row: u32, v6: bool| -> Open {
            let Ages {
                open,
                age,
                closing,
                ended,
            } = counts.ages.remove(&(row, v6)).unwrap_or_default();
            let mut durations = Histogram::default();
            for jiffies in ended {
                durations.add(milliseconds(u64::from(jiffies)));
            }
            Open {
                open,
                age: milliseconds(age),
                closing,
                ended: durations,
            }
        };
        traffic.open.clear();
        for application in &counted {
            let Application {
                id,
                row,
                counted,
                served,
            } = application;
            let found = [found(*row, false), found(*row, true)];
            let open = found.iter().map(|found| found.open).sum();
            let age = found.iter().map(|found| found.age).sum();
            traffic.open.insert(id.clone(), (open, age));
            traffic.meter.look(minute, id, *counted, &found, *served);
        }
        let there: BTreeSet<&str> = counted
            .iter()
            .map(|application| application.id.as_str())
            .collect();
        traffic.meter.retain(|application| there.contains(application));
        let instant = Instant::now();
        let counts = counted
            .into_iter()
            .map(|application| (application.id, application.counted));
        traffic.looks.push_back((instant, counts.collect()));
        while traffic.looks.len() > 2
            && traffic
                .looks
                .get(1)
                .is_some_and(|(at, _)| instant - *at >= PRESENT)
        {
            traffic.looks.pop_front();
        }
        traffic.looked = Some(now);
        if traffic.meter.first().is_some_and(|first| first < minute) {
            self.write_traffic();
        }
    }

    /// Has the history take what has been measured.
    pub(super) fn write_traffic(&mut self) {
        let parts = self.traffic.meter.take().into_iter();
        let changes = parts.map(|(minute, slice, bucket)| HistoryChange::Traffic(minute, slice, bucket));
        let changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            self.journal.write(changes);
        }
    }

    /// Answers with the minutes from `since` to before `until`.
    pub(super) fn minutes(&mut self, since: u64, until: u64, reply: CloudflareReply<Minutes>) {
        self.write_traffic();
        let lag = self.traffic.looked.and_then(|looked| looked.elapsed().ok());
        let node = &self.config.node;
        let (lag, colo) = (
            lag.unwrap_or_default(),
            node.pop.clone().unwrap_or_else(|| node.name.clone()),
        );
        let Some((history, written)) = self.journal.flushed() else {
            let problem = self.journal.problem.clone().unwrap_or_default();
            let refusal = Failure::new(503, 10002, format!("there is no history: {problem}"));
            return drop(reply.send(Err(refusal)));
        };
        tokio::spawn(async move {
            // If it cannot be written, what is there must do.
            let _ = written.await;
            let read = tokio::task::spawn_blocking(move || history.traffic(since, until)).await;
            let minutes = read.map_err(anyhow::Error::from).flatten();
            let failure = |error| Failure::internal(format!("the history cannot be read: {error:#}"));
            let _ = reply.send(
                minutes
                    .map_err(failure)
                    .map(|minutes| Minutes { minutes, lag, colo }),
            );
        });
    }

    /// What the applications do now, and where.
    pub(super) fn present(&self) -> (Vec<Present>, String) {
        let node = &self.config.node;
        let colo = node.pop.clone().unwrap_or_else(|| node.name.clone());
        (self.traffic.present(), colo)
    }
}
