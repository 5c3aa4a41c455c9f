//! Ways for monitors' packets to origins that are forwarded to directly: the programs that send them there, and the marks
//! by which these know them.
//!
//! Nothing is pinned: without a daemon there are no probes.

use anyhow::{Context, Result};
use aya::maps::{Array, MapData};
use aya::programs::tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::tunnel::probe::{Probe, maps};
use std::collections::{BTreeMap, HashMap};
use tracing::info;

/// The object that build.rs made of lb-ebpf's programs for probes.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-probe.bpf.o"));

/// High half of the marks: "LB".
pub const MARK: u32 = 0x4c42_0000;

/// Answers that are waited for at the same time; the oldest are forgotten first.
const ANSWERS: u32 = 1 << 16;
/// Seconds after a packet in which an answer to it is expected: the longest timeout of a monitor, and a goodbye.
const PATIENCE: u32 = 30;

const PROGRAMS: [(&str, TcAttachType); 2] = [
    (maps::OUTGOING, TcAttachType::Egress),
    (maps::INCOMING, TcAttachType::Ingress),
];

/// The programs, attached to interfaces until this is dropped, and the ways that they know.
pub struct Ways {
    ebpf: Ebpf,
    probes: Array<MapData, Probe>,
    numbers: Numbers,
    attached: BTreeMap<u32, [SchedClassifierLinkId; 2]>,
}

/// Which number stands for which way. A number is given to another way only when all are taken, the oldest first: a
/// socket outlives its attempt for a while.
#[derive(Default)]
struct Numbers {
    by_way: HashMap<Probe, u32>,
    ways: Vec<Probe>,
    next: u32,
}

impl Numbers {
    /// The number of a way, and whether it is a new one.
    fn of(&mut self, way: Probe) -> (u32, bool) {
        if let Some(&number) = self.by_way.get(&way) {
            return (number, false);
        }
        let number = self.next;
        self.next = (number + 1) % maps::MAX_PROBES;
        match self.ways.get_mut(number as usize) {
            Some(former) => {
                self.by_way.remove(former);
                *former = way;
            }
            None => self.ways.push(way),
        }
        self.by_way.insert(way, number);
        (number, true)
    }

    fn forget(&mut self, way: &Probe) {
        self.by_way.remove(way);
    }
}

impl Ways {
    /// Loads the programs. `hz` is how many jiffies a second has.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program; the message carries what the verifier said last.
    pub fn load(hz: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries(maps::PROBES, maps::MAX_PROBES)
            .map_max_entries(maps::ANSWERS, ANSWERS)
            .override_global(maps::MARK, &MARK, true)
            .override_global(maps::PATIENCE, &hz.saturating_mul(PATIENCE), true)
            .load(OBJECT)
            .context("create the maps of the programs for probes")?;
        for (name, _) in PROGRAMS {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load the kernel program `{name}`"))?;
        }
        let probes = ebpf
            .take_map(maps::PROBES)
            .context("the object has no map for ways")?;
        Ok(Self {
            ebpf,
            probes: probes.try_into()?,
            numbers: Numbers::default(),
            attached: BTreeMap::new(),
        })
    }

    /// Attaches to exactly these interfaces, given by name and index.
    ///
    /// # Errors
    /// The first that the kernel refuses.
    pub fn attach(&mut self, interfaces: &[(String, u32)]) -> Result<()> {
        let stays = |index: &u32| interfaces.iter().any(|(_, wanted)| wanted == index);
        let gone: Vec<u32> = self
            .attached
            .keys()
            .copied()
            .filter(|index| !stays(index))
            .collect();
        for links in gone.iter().filter_map(|index| self.attached.remove(index)) {
            for ((which, _), link) in PROGRAMS.into_iter().zip(links) {
                // The link of an interface that was deleted is detached already.
                let _ = program(&mut self.ebpf, which)?.detach(link);
            }
        }
        for (name, index) in interfaces {
            if self.attached.contains_key(index) {
                continue;
            }
            let mut links = Vec::new();
            for (which, at) in PROGRAMS {
                let link = attach(program(&mut self.ebpf, which)?, name, which, at)
                    .with_context(|| format!("attach the program for probes `{which}` to {name}"))?;
                links.push(link);
            }
            if let Ok(links) = links.try_into() {
                self.attached.insert(*index, links);
            }
        }
        Ok(())
    }

    /// The mark by which packets of a socket go this way.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn mark(&mut self, way: &Probe) -> Result<u32> {
        let (number, is_new) = self.numbers.of(*way);
        if is_new && let Err(error) = self.probes.set(number, way, 0) {
            self.numbers.forget(way);
            return Err(error).context("write a way for probes");
        }
        Ok(MARK | number)
    }

    /// One of the programs, for tests.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        program(&mut self.ebpf, name)
    }
}

/// Removes what a daemon on a kernel without links for TC programs has left on an interface.
pub fn release(interface: &str) {
    for (name, at) in PROGRAMS {
        let _ = tc::qdisc_detach_program(interface, at, name);
    }
}

/// Attaches a program by a link, or as a filter where the kernel (before 6.6) has no links for it.
fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    name: &str,
    at: TcAttachType,
) -> Result<SchedClassifierLinkId> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    match program.attach_with_options(interface, at, options) {
        Ok(link) => Ok(link),
        Err(error) => {
            info!(interface, %error, "no TCX (Linux 6.6): using a filter of clsact");
            let _ = tc::qdisc_detach_program(interface, at, name);
            // There already is as good.
            let _ = tc::qdisc_add_clsact(interface);
            let options = TcAttachOptions::Netlink(NlOptions::default());
            Ok(program.attach_with_options(interface, at, options)?)
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program `{name}`"))?;
    Ok(program.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(number: u32) -> Probe {
        Probe {
            ifindex: number,
            live: 1,
            ..Probe::default()
        }
    }

    #[test]
    fn a_way_keeps_its_number_until_all_are_taken() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.of(way(7)), (0, true));
        assert_eq!(numbers.of(way(8)), (1, true));
        assert_eq!(numbers.of(way(7)), (0, false));
        for number in 2..maps::MAX_PROBES {
            assert_eq!(numbers.of(way(100 + number)), (number, true));
        }
        assert_eq!(numbers.of(way(8)), (1, false));
        assert_eq!(numbers.of(way(9)), (0, true), "the oldest goes");
        assert_eq!(numbers.of(way(7)), (1, true), "it was 8's");
        assert_eq!(numbers.by_way.len(), maps::MAX_PROBES as usize);
    }
}
