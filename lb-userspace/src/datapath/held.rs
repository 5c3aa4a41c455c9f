//! Fragments that came before the first one of their datagram, and so cannot be sent on yet.
//!
//! The kernel program hands such frames over ([`maps::HELD`]). They are held until the first fragment has come, which the
//! program remembers ([`maps::FRAGMENTS`]), and are then put through the program again as if they arrived only now: by a
//! test run with live frames, on the interface that they had come by. What waits too long is dropped, and counted.
//!
//! When nobody holds frames, because no daemon runs or its hands are full, the program drops them by itself
//! (`fragment_not_held`).

use super::clock::Clock;
use super::sys;
use anyhow::{Context, Result};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{HashMap, MapData, PerfEventArray};
use aya::util::online_cpus;
use lb_common::abi::{FragmentFlow, FragmentKey, Held};
use lb_common::datapath::FRAGMENT_LIFETIME;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// How much is held, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub frames: usize,
    pub bytes: usize,
    /// Frames of one datagram: 64 KiB in the smallest packets that IPv4 paths must carry.
    pub of_datagram: usize,
    /// Far longer than a network mixes packets up, far shorter than a receiver waits.
    pub patience: Duration,
}

pub const LIMITS: Limits = Limits {
    frames: 4_096,
    bytes: 8 << 20,
    of_datagram: 128,
    patience: Duration::from_secs(2),
};

/// Time between two looks at what is held.
const TICK: Duration = Duration::from_millis(1);
/// Looking takes up no more than this part of the time.
const SHARE: u32 = 4;
/// Pages of each CPU's buffer between program and daemon: a power of two.
const PAGES: usize = 64;
/// Frames that are taken from one CPU's buffer at a time: in a flood the rest stays there, and the program drops more.
const AT_A_TIME: usize = 64;

/// A frame, and how it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub ifindex: u32,
    pub frame: Vec<u8>,
}

/// What is held of one datagram.
#[derive(Debug)]
struct Datagram {
    since: Instant,
    frames: Vec<Waiting>,
}

/// Frames that wait for the first one of their datagram. When there are too many, those that have waited longest go: whoever
/// sends fragments without end fills it, and others need it only for a moment.
#[derive(Debug)]
pub struct Holder {
    limits: Limits,
    datagrams: BTreeMap<FragmentKey, Datagram>,
    /// By age.
    order: VecDeque<FragmentKey>,
    frames: usize,
    bytes: usize,
    /// Frames that were given up.
    expired: u64,
}

impl Holder {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            datagrams: BTreeMap::new(),
            order: VecDeque::new(),
            frames: 0,
            bytes: 0,
            expired: 0,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Frames that were given up so far.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Takes a frame of the datagram that `key` names.
    pub fn hold(&mut self, key: FragmentKey, waiting: Waiting, now: Instant) {
        let order = &mut self.order;
        let datagram = self.datagrams.entry(key).or_insert_with(|| {
            order.push_back(key);
            Datagram {
                since: now,
                frames: Vec::new(),
            }
        });
        if datagram.frames.len() >= self.limits.of_datagram {
            self.expired += 1;
            return;
        }
        self.frames += 1;
        self.bytes += waiting.frame.len();
        datagram.frames.push(waiting);
        while self.frames > self.limits.frames || self.bytes > self.limits.bytes {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            let given_up = self.take(&oldest);
            self.expired += given_up.len() as u64;
        }
    }

    /// Lets go of the frames whose first fragment has come, in the order in which they came, and gives up those that have
    /// waited too long.
    pub fn release(&mut self, now: Instant, mut has_come: impl FnMut(&FragmentKey) -> bool) -> Vec<Waiting> {
        let mut released = Vec::new();
        for key in std::mem::take(&mut self.order) {
            let since = self.datagrams.get(&key).map_or(now, |datagram| datagram.since);
            if has_come(&key) {
                released.extend(self.take(&key));
            } else if now.saturating_duration_since(since) > self.limits.patience {
                let given_up = self.take(&key);
                self.expired += given_up.len() as u64;
            } else {
                self.order.push_back(key);
            }
        }
        released
    }

    fn take(&mut self, key: &FragmentKey) -> Vec<Waiting> {
        let frames = self
            .datagrams
            .remove(key)
            .map_or_else(Vec::new, |datagram| datagram.frames);
        self.frames -= frames.len();
        self.bytes -= frames.iter().map(|waiting| waiting.frame.len()).sum::<usize>();
        frames
    }
}

/// What the program does not count itself.
#[derive(Debug, Default)]
pub struct HeldCounts {
    expired: AtomicU64,
    waiting: AtomicU64,
}

impl HeldCounts {
    /// Held frames that were dropped in the end, by reason.
    #[must_use]
    pub fn drops(&self) -> [(&'static str, u64); 1] {
        [("fragment_expired", self.expired.load(Ordering::Relaxed))]
    }

    /// Frames that are held now.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// All that holding frames needs of the datapath.
pub struct Parts {
    /// Where frames come from.
    pub held: PerfEventArray<MapData>,
    /// What first fragments have said.
    pub fragments: HashMap<MapData, FragmentKey, FragmentFlow>,
    /// The program that they are put through again.
    pub program: OwnedFd,
    pub clock: Clock,
}

/// Holds frames from now on, by a thread of its own that ends with the process.
///
/// # Errors
/// When the kernel does not let this process listen to the program.
pub fn start(parts: Parts) -> Result<Arc<HeldCounts>> {
    let Parts {
        mut held,
        fragments,
        program,
        clock,
    } = parts;
    let cpus = online_cpus()
        .map_err(|(_, error)| error)
        .context("count the CPUs")?;
    let buffers = cpus
        .into_iter()
        .map(|cpu| held.open(cpu, Some(PAGES)))
        .collect::<Result<Vec<_>, _>>()
        .context("listen to the kernel program")?;
    let counts = Arc::new(HeldCounts::default());
    let keeper = Keeper {
        buffers,
        fragments,
        program,
        clock,
        holder: Holder::new(LIMITS),
        counts: counts.clone(),
    };
    thread::Builder::new()
        .name("held".into())
        .spawn(move || keeper.run())
        .context("start a thread")?;
    Ok(counts)
}

struct Keeper {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    fragments: HashMap<MapData, FragmentKey, FragmentFlow>,
    program: OwnedFd,
    clock: Clock,
    holder: Holder,
    counts: Arc<HeldCounts>,
}

impl Keeper {
    fn run(mut self) {
        loop {
            if self.holder.is_empty() && !self.wait() {
                return;
            }
            let started = Instant::now();
            self.listen();
            self.let_go();
            self.counts
                .expired
                .store(self.holder.expired(), Ordering::Relaxed);
            self.counts
                .waiting
                .store(self.holder.frames as u64, Ordering::Relaxed);
            thread::sleep(TICK.max(started.elapsed() * SHARE));
        }
    }

    /// Waits for a frame; false when that is not possible.
    fn wait(&self) -> bool {
        let mut waits: Vec<PollFd<'_>> = self
            .buffers
            .iter()
            .map(|buffer| PollFd::from_borrowed_fd(buffer.as_fd(), PollFlags::IN))
            .collect();
        match poll(&mut waits, None::<&Timespec>) {
            Ok(_) | Err(rustix::io::Errno::INTR) => true,
            Err(error) => {
                warn!(%error, "fragments that come too early are not held any more");
                false
            }
        }
    }

    fn listen(&mut self) {
        let now = Instant::now();
        for buffer in &mut self.buffers {
            let holder = &mut self.holder;
            let _budget_spent = buffer.try_fold(AT_A_TIME, |left, event| {
                if let PerfEvent::Sample { head, tail } = event
                    && let Some((key, waiting)) = read(head, tail)
                {
                    holder.hold(key, waiting, now);
                }
                match left {
                    0 | 1 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(left - 1),
                }
            });
        }
    }

    fn let_go(&mut self) {
        let (fragments, clock) = (&self.fragments, &self.clock);
        let now = clock.now();
        let released = self.holder.release(Instant::now(), |key| {
            // As the program sees it: what it would hold again must stay.
            fragments.get(key, 0).is_ok_and(|first| {
                let age = now.wrapping_sub(first.seen);
                age < clock.hz * (FRAGMENT_LIFETIME - 1) || age > u32::MAX / 2
            })
        });
        for Waiting { ifindex, frame } in released {
            if let Err(error) = sys::run_live(self.program.as_fd(), ifindex, &frame) {
                debug!(%error, ifindex, length = frame.len(), "a held frame was refused");
                self.holder.expired += 1;
            }
        }
    }
}

/// Takes an event apart: what the program said, and the frame. What follows the frame is padding.
fn read(head: &[u8], tail: &[u8]) -> Option<(FragmentKey, Waiting)> {
    let mut bytes = [head, tail].concat();
    let held: Held = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Held>())?);
    let end = size_of::<Held>().checked_add(held.length as usize)?;
    if end > bytes.len() {
        return None;
    }
    bytes.truncate(end);
    let frame = bytes.split_off(size_of::<Held>());
    let waiting = Waiting {
        ifindex: held.ifindex,
        frame,
    };
    Some((held.key, waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> FragmentKey {
        FragmentKey {
            identification: number,
            ..FragmentKey::default()
        }
    }

    fn waiting(number: u8, length: usize) -> Waiting {
        Waiting {
            ifindex: 3,
            frame: vec![number; length],
        }
    }

    /// The first byte of each frame.
    fn numbers(frames: &[Waiting]) -> Vec<u8> {
        frames
            .iter()
            .filter_map(|waiting| waiting.frame.first().copied())
            .collect()
    }

    const SMALL: Limits = Limits {
        frames: 6,
        bytes: 1_000,
        of_datagram: 4,
        patience: Duration::from_secs(2),
    };

    #[test]
    fn frames_wait_for_their_own_first_one() {
        let mut holder = Holder::new(SMALL);
        let now = Instant::now();
        for (id, number) in [(1, 10), (2, 20), (1, 11)] {
            holder.hold(key(id), waiting(number, 1), now);
        }
        assert_eq!(holder.release(now, |_| false), []);
        assert_eq!(numbers(&holder.release(now, |of| *of == key(1))), [10, 11]);
        assert!(!holder.is_empty());
        assert_eq!(numbers(&holder.release(now, |_| true)), [20]);
        assert!(holder.is_empty());
        assert_eq!((holder.frames, holder.bytes, holder.expired()), (0, 0, 0));
    }

    #[test]
    fn patience_ends() {
        let mut holder = Holder::new(SMALL);
        let start = Instant::now();
        holder.hold(key(1), waiting(10, 1), start);
        let later = start + Duration::from_secs(1);
        holder.hold(key(2), waiting(20, 1), later);
        // A datagram is as old as its first frame here.
        holder.hold(key(1), waiting(11, 1), later);
        assert_eq!(holder.release(start + SMALL.patience, |_| false), []);
        assert_eq!(holder.expired(), 0);
        let late = start + SMALL.patience + Duration::from_millis(1);
        assert_eq!(holder.release(late, |_| false), []);
        assert_eq!(holder.expired(), 2);
        // One that comes at the last moment comes in time.
        assert_eq!(numbers(&holder.release(late + SMALL.patience, |_| true)), [20]);
        assert!(holder.is_empty());
    }

    #[test]
    fn the_oldest_make_room() {
        let mut holder = Holder::new(SMALL);
        let now = Instant::now();
        for number in 0..8 {
            holder.hold(key(u32::from(number) / 2), waiting(number, 1), now);
        }
        assert_eq!(holder.expired(), 2);
        assert_eq!(numbers(&holder.release(now, |_| true)), [2, 3, 4, 5, 6, 7]);
        // The same by size.
        for number in 0..4 {
            holder.hold(key(number.into()), waiting(number, 300), now);
        }
        assert_eq!(holder.expired(), 3);
        assert_eq!(numbers(&holder.release(now, |_| true)), [1, 2, 3]);
        assert_eq!((holder.frames, holder.bytes), (0, 0));
    }

    #[test]
    fn one_datagram_takes_only_so_much() {
        let mut holder = Holder::new(SMALL);
        let now = Instant::now();
        for number in 0..6 {
            holder.hold(key(1), waiting(number, 1), now);
        }
        assert_eq!(holder.expired(), 2);
        assert_eq!(numbers(&holder.release(now, |_| true)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_frame_larger_than_all_room_is_given_up() {
        let mut holder = Holder::new(SMALL);
        holder.hold(key(1), waiting(1, 2_000), Instant::now());
        assert!(holder.is_empty());
        assert_eq!((holder.frames, holder.bytes, holder.expired()), (0, 0, 1));
    }

    #[test]
    fn events_are_taken_apart() {
        let held = Held {
            key: key(7),
            ifindex: 9,
            length: 5,
        };
        let event = [bytemuck::bytes_of(&held), b"frame", &[0; 3]].concat();
        let wanted = Waiting {
            ifindex: 9,
            frame: b"frame".to_vec(),
        };
        for split in [0, 20, size_of::<Held>() + 2, event.len()] {
            let (head, tail) = event.split_at(split);
            assert_eq!(read(head, tail), Some((key(7), wanted.clone())));
        }
        assert_eq!(read(&event[..size_of::<Held>() + 4], &[]), None);
        assert_eq!(read(&event[..10], &[]), None);
    }
}
