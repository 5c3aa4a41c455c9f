//! A program that is measured, and the programs that measure it.

use crate::abi::{Series, flow};
use crate::cases::{ACTIONS, Build, Case};
use crate::counters::Counters;
use crate::driver::{Driver, Sent};
use crate::flows;
use crate::frame::{self, IFINDEX, openings};
use crate::layout::{Shape, Width};
use crate::rival::Rival;
use crate::subject::Subject;
use anyhow::{Context, Result, ensure};
use lb_userspace::datapath::pins::Pins;
use std::path::Path;

/// So many new flows are looked for.
const LAST: u32 = 256;

/// One of them.
pub struct Node {
    pub build: Build,
    pub shape: Shape,
    driver: Driver,
    subject: Box<dyn Subject>,
}

/// What a run did.
pub struct Run {
    pub nanoseconds: f64,
    /// Packets that went another way than expected.
    pub bad: u64,
}

impl Node {
    /// Loads an object and the benchmark's programs, and fills the tables.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(programs: &Path, rival: &Rival, build: Build, shape: Shape) -> Result<Self> {
        // By pins the programs come to share maps; afterwards nobody needs them.
        let Shape { flows, width } = shape;
        let name = format!(
            "bench{}-{flows}-{}-{}",
            std::process::id(),
            width as u32,
            build as u32
        );
        let pins = Pins::open(&name)?;
        let node = Self::pinned(programs, rival, build, shape, &pins);
        pins.remove().context("remove the benchmark's pins")?;
        node
    }

    fn pinned(programs: &Path, rival: &Rival, build: Build, shape: Shape, pins: &Pins) -> Result<Self> {
        let mut subject = rival.load(build, shape, pins)?;
        subject.leave_by(IFINDEX)?;
        // Floors are measured beside this tree's lb alone.
        let full = match (build, shape.width) {
            (Build::Present, Width::Usual) => flows::tentative(build, shape),
            _ => 1,
        };
        Ok(Self {
            build,
            shape,
            driver: Driver::new(programs, pins, full, subject.as_ref())?,
            subject,
        })
    }

    /// Whether a case is measured here.
    pub fn serves(&self, case: &Case) -> bool {
        let any = case.shape.flows == 0 && self.shape.width == Width::Usual;
        self.build == case.build && (any || self.shape == case.shape)
    }

    /// The packets of a case that are sent from CPU number `number` of the case's.
    pub fn series(&self, case: &Case, number: u32) -> Series {
        frame::series(case, self.subject.effect(case), number)
    }

    /// Does what a case needs before its first measurement; see [`Case::priming`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prime(&mut self, case: &Case, cpus: &[usize]) -> Result<()> {
        let packets = case.priming();
        if packets > 0 {
            self.subject.leave_by(case.exit())?;
            let mut series = [openings(case, self.subject.effect(case))];
            self.driver.send(case.version, &mut series, cpus, packets)?;
        }
        Ok(())
    }

    /// Sends `packets` packets of a case from each of its CPUs.
    ///
    /// # Errors
    /// The kernel does not run it, or the program's verdict is another than expected.
    pub fn run(&mut self, case: &Case, series: &mut [Series], cpus: &[usize], packets: u32) -> Result<Run> {
        self.subject.leave_by(case.exit())?;
        let before = self.counters()?;
        let Sent {
            nanoseconds,
            packets,
            mut bad,
            actions,
        } = self.driver.send(case.version, series, cpus, packets)?;
        let expected = self.subject.effect(case).action;
        for action in actions {
            ensure!(
                action == expected,
                "the program returned {} instead of {}",
                ACTIONS.get(action as usize).unwrap_or(&"nonsense"),
                ACTIONS[expected as usize]
            );
        }
        let after = self.counters()?;
        if let (Some(before), Some(after)) = (before, after) {
            bad += after.since(&before).distance(&case.counted(packets));
        }
        Ok(Run { nanoseconds, bad })
    }

    /// Does what lb's daemon does from time to time; see [`Subject::settle`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settle(&mut self) -> Result<()> {
        self.subject.settle()
    }

    /// Says whether no flow has an entry that needs none.
    ///
    /// # Errors
    /// One has, or the kernel refuses.
    pub fn verify(&self) -> Result<()> {
        let count = self.subject.needless()?;
        ensure!(
            count == 0,
            "{count} TCP flows have entries, though their origins answer clients directly"
        );
        Ok(())
    }

    fn counters(&self) -> Result<Option<Counters>> {
        let found = self.driver.found()?;
        let counters = self.subject.counters()?;
        Ok(counters.map(|counters| Counters { found, ..counters }))
    }

    /// Looks for the flows that a case's run has opened last, and returns how many are not as they should be.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn amiss(&self, case: &Case, series: &[Series]) -> Result<u64> {
        let mut count = 0;
        for series in series {
            let turns = (1..=LAST).map(|back| series.turn.wrapping_sub(back));
            let flows: Vec<u32> = turns.map(|turn| flow(turn, series.mask, series.flows)).collect();
            count += self.subject.amiss(case, &flows)?;
        }
        Ok(count)
    }
}
