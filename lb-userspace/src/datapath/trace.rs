//! What the kernel program reports of packets that are traced.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Array, MapData, PerfEventArray};
use aya::util::online_cpus;
use bytemuck::Zeroable;
use lb_common::abi::{Report, Tracing, maps};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Pages of each CPU's buffer between program and daemon: a power of two.
const PAGES: usize = 256;

/// The program's end: what it reports, and where.
pub struct Source {
    tracing: Array<MapData, Tracing>,
    reports: PerfEventArray<MapData>,
}

/// A packet as it came, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    pub report: Report,
    /// The frame as it came, or its start.
    pub frame: Vec<u8>,
}

impl Traced {
    /// The head of the frame that leaves; empty when none does.
    #[must_use]
    pub fn leaving(&self) -> &[u8] {
        let left = self.report.left as usize;
        match self.report.leaves_by {
            0 => &[],
            _ => self.report.leaving.get(..left).unwrap_or_default(),
        }
    }
}

impl Source {
    /// Takes the maps of a loaded program.
    ///
    /// # Errors
    /// When they have been taken already.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("the map {name} is in use"))
        };
        Ok(Self {
            tracing: take(maps::TRACING)?.try_into()?,
            reports: take(maps::REPORTS)?.try_into()?,
        })
    }

    /// Says what shall be reported.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set(&mut self, tracing: &Tracing) -> Result<()> {
        self.tracing
            .set(0, tracing, 0)
            .context("say what is to be traced")
    }

    /// Listens, until the listener is dropped.
    ///
    /// # Errors
    /// When the kernel does not let this process listen.
    pub fn listen(&mut self) -> Result<Listener> {
        let cpus = online_cpus()
            .map_err(|(_, error)| error)
            .context("count the CPUs")?;
        let buffers = cpus
            .into_iter()
            .map(|cpu| Ok((cpu, self.reports.open(cpu, Some(PAGES))?)))
            .collect::<Result<Vec<_>>>()
            .context("listen to the kernel program")?;
        Ok(Listener {
            buffers,
            omitted: BTreeMap::new(),
        })
    }
}

/// The other end.
pub struct Listener {
    buffers: Vec<(u32, PerfEventArrayBuffer<MapData>)>,
    /// What each CPU had left out when it was heard last.
    omitted: BTreeMap<u32, u32>,
}

impl Listener {
    /// How many CPUs are listened to.
    #[must_use]
    pub fn cpus(&self) -> u64 {
        self.buffers.len() as u64
    }

    /// Waits until there is something to read, but no longer than `patience`.
    ///
    /// # Errors
    /// When the kernel does not let it wait.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        let mut waits: Vec<PollFd<'_>> = self
            .buffers
            .iter()
            .map(|(_, buffer)| PollFd::from_borrowed_fd(buffer.as_fd(), PollFlags::IN))
            .collect();
        let patience = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        match poll(&mut waits, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All reports that are there, in the order in which the packets came, and how many were lost.
    pub fn read(&mut self) -> (Vec<Traced>, u64) {
        let (mut packets, mut lost) = (Vec::new(), 0);
        for (cpu, buffer) in &mut self.buffers {
            let omitted = &mut self.omitted;
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => {
                    if let Some(traced) = understand(head, tail) {
                        let now = traced.report.omitted;
                        let before = omitted.insert(*cpu, now).unwrap_or(now);
                        lost += u64::from(now.wrapping_sub(before));
                        packets.push(traced);
                    }
                }
                PerfEvent::Lost { count } => lost += count,
            });
        }
        packets.sort_by_key(|traced: &Traced| traced.report.time);
        (packets, lost)
    }
}

/// Takes an event apart: the report, and the frame. What follows the frame is padding.
fn understand(head: &[u8], tail: &[u8]) -> Option<Traced> {
    let mut bytes = [head, tail].concat();
    let mut report = Report::zeroed();
    let start = bytes.get(..size_of::<Report>())?;
    bytemuck::bytes_of_mut(&mut report).copy_from_slice(start);
    let end = size_of::<Report>().checked_add(report.captured as usize)?;
    if end > bytes.len() {
        return None;
    }
    bytes.truncate(end);
    let frame = bytes.split_off(size_of::<Report>());
    Some(Traced { report, frame })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_taken_apart_wherever_it_is_split() {
        let mut report = Report::zeroed();
        (report.captured, report.length, report.leaves_by, report.left) = (5, 9, 3, 2);
        let mut event = bytemuck::bytes_of(&report).to_vec();
        event.extend(b"frame...");
        for at in [0, 1, size_of::<Report>(), event.len()] {
            let (head, tail) = event.split_at(at);
            let traced = understand(head, tail).unwrap();
            assert_eq!((traced.report, traced.frame.as_slice()), (report, &b"frame"[..]));
            assert_eq!(traced.leaving(), [0, 0]);
        }
        assert_eq!(understand(&event[..event.len() - 4], &[]), None);
        assert_eq!(understand(&[], &[]), None);
    }
}
