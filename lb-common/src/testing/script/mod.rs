//! A script of packets, changes and time, read from bytes that a fuzzer finds; and what must hold whatever happens.
//!
//! Every string of bytes is a script, and a small change of the bytes is a small change of the script: each step is one
//! byte that says what is done, and then the bytes of its choices. So a fuzzer that looks at coverage gets somewhere.

mod changes;
mod packets;
mod promises;

use super::scenario::Host;
use super::{Frame, Random, Scenario};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Steps of one script: enough for a flow's whole life among others.
const MAX_STEPS: usize = 200;
/// Forwarded packets that are remembered, to be answered, followed and quoted.
const MEMORY: usize = 8;

/// The rest of the bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The next one; at the end, the script is over.
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// The next ones, as many as there are.
    fn some(&mut self, count: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        some
    }

    /// One of several.
    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(usize::from(self.byte()?) % of.len().max(1)).copied()
    }
}

/// A packet that was forwarded: how it arrived, and how it left, with a tunnel's headers and without.
#[derive(Clone)]
struct Talk {
    arrived: Frame,
    left: Frame,
    inner: Frame,
    /// Ends of the packet, as it arrived and as it left.
    ends: [(SocketAddr, SocketAddr); 2],
    protocol: u8,
}

/// A script that is being played.
struct Player {
    host: Host,
    talks: Vec<Talk>,
    /// The last packet that was sent.
    last: (u32, Frame),
    /// Fragments that userspace keeps.
    held: Vec<(u32, Frame)>,
    /// Packets so far.
    packets: usize,
    /// Established flows that the scenario starts with, by origin; their entries are nowhere.
    preset: BTreeMap<u32, u32>,
}

/// Plays a script.
///
/// # Panics
/// A promise is broken.
pub fn run(bytes: &[u8]) {
    thread_local! {
        // Making it takes longer than most scripts.
        static STANDARD: Scenario = Scenario::standard();
    }
    let mut bytes = Bytes(bytes);
    let scenario = STANDARD.with(Clone::clone);
    let mut player = Player::new(scenario);
    player.prepare(&mut bytes);
    for _ in 0..MAX_STEPS {
        if player.step(&mut bytes).is_none() {
            break;
        }
    }
}

/// Changes things in a configuration, as many as chance will have, of which no outcome depends on the time.
pub fn vary(scenario: &mut Scenario, random: &mut Random) {
    let mut player = Player::new(std::mem::take(scenario));
    for _ in 0..random.below(24) {
        let kind = random.below(9) as u8;
        // All that any of them reads; without effect where chance names what is not there.
        let _ = player.set(kind, &mut Bytes(&random.bytes(16)));
    }
    player.settle();
    *scenario = player.host.scenario;
}

impl Player {
    fn new(scenario: Scenario) -> Self {
        let loads = scenario.tables.loads.borrow();
        let preset = loads
            .iter()
            .map(|(origin, load)| (*origin, load.established))
            .collect();
        drop(loads);
        Self {
            host: Host::new(scenario),
            talks: Vec::new(),
            last: (super::scenario::CLIENT_SIDE, Frame(vec![0; 14])),
            held: Vec::new(),
            packets: 0,
            preset,
        }
    }

    /// One step; `None` at the end of the bytes.
    fn step(&mut self, bytes: &mut Bytes) -> Option<()> {
        match bytes.byte()? % 16 {
            0 | 1 => self.open(bytes),
            2..=4 => self.follow(bytes),
            5..=7 => self.answer(bytes),
            8 => self.repeat_spoiled(bytes),
            9 if self.held.is_empty() => self.fragments(bytes),
            9 => self.release(bytes),
            10 => self.quote(bytes),
            11 => self.echo(bytes),
            12 => self.raw(bytes),
            13 => self.pass_time(bytes),
            14 => self.forget(bytes),
            _ => self.change(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Random;

    /// Also without a fuzzer: scripts that are nothing but noise.
    #[test]
    fn noise_keeps_every_promise() {
        for seed in 0..2_000 {
            let mut random = Random(seed);
            let length = random.below(600);
            super::run(&random.bytes(length));
        }
    }
}
