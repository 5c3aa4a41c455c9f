//! Nanoseconds per packet: all cases take turns, so that what the machine does meanwhile meets them alike.

use crate::abi::Series;
use crate::arguments::Arguments;
use crate::cases::{self, Case, Program};
use crate::frame::Traffic;
use crate::node::Node;
use crate::report::{Quartiles, progress, quartiles, ratios};
use anyhow::{Context, Result};
use lb_tests::check::is_interrupted;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::path::Path;

/// The CPU that is measured, where there is more than one: interrupts mostly go to the first.
const CPU: usize = 1;
/// Packets before each measurement, which nobody times.
const WARM: u32 = 4_000;

/// A case and what came out.
pub struct Row {
    pub case: Case,
    /// Nanoseconds, by round.
    pub samples: Vec<f64>,
    /// Packets that went another way than expected.
    pub bad: u64,
}

/// A row beside the floors.
pub struct Compared<'a> {
    pub row: &'a Row,
    pub nanoseconds: Quartiles,
    /// Round by round.
    pub to_transmit: Option<Quartiles>,
    pub to_lookup: Option<Quartiles>,
}

/// Measures the cases that are wanted, and the floors.
///
/// # Errors
/// The kernel refuses something, or a program does not do what its case says.
pub fn measure(arguments: &Arguments, object: &Path) -> Result<Vec<Row>> {
    // A thread of its own: what else this process starts must not be bound to one CPU.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            pin()?;
            rounds(arguments, object)
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    let last = std::thread::available_parallelism()?.get() - 1;
    cpus.set(CPU.min(last));
    sched_setaffinity(None, &cpus).context("bind the measuring thread to a CPU")
}

fn rounds(arguments: &Arguments, object: &Path) -> Result<Vec<Row>> {
    let cases = cases::all(&arguments.flows);
    let wanted = cases
        .into_iter()
        .filter(|case| case.is_floor() || arguments.wants(&case.name()));
    let mut rows: Vec<(Row, Series)> = wanted
        .map(|case| {
            let row = Row {
                case,
                samples: Vec::new(),
                bad: 0,
            };
            (row, case.series())
        })
        .collect();
    let mut nodes = Vec::new();
    for &flows in &arguments.flows {
        progress(&format!("load lb with {flows} flows of each kind"));
        nodes.push(Node::new(object, flows).with_context(|| format!("prepare {flows} flows"))?);
    }
    let rounds = arguments.packet_rounds();
    let count = rows.len();
    for round in 0..rounds {
        progress(&format!("packets: round {} of {rounds}", round + 1));
        // Each round begins with another case.
        for turn in 0..count {
            anyhow::ensure!(!is_interrupted(), "interrupted");
            let (row, series) = &mut rows[(turn + round as usize) % count];
            let node = nodes.iter_mut().find(|node| node.flows == row.case.flows);
            let node = node.context("every case has a node")?;
            sample(row, series, node, arguments.packets())
                .with_context(|| format!("{} at {} flows", row.case.name(), row.case.flows))?;
        }
    }
    progress("packets: done\n");
    Ok(rows.into_iter().map(|(row, _)| row).collect())
}

fn sample(row: &mut Row, series: &mut Series, node: &mut Node, usual: u32) -> Result<()> {
    let case = row.case;
    node.leave_by(case.exit())?;
    if case.traffic != Traffic::New {
        row.bad += node.run(case.version, series, WARM, &case.expected(WARM))?.bad;
    }
    let packets = case.packets(usual);
    let run = node.run(case.version, series, packets, &case.expected(packets))?;
    row.samples.push(run.nanoseconds);
    row.bad += run.bad;
    if case.traffic == Traffic::New {
        row.bad += node.flush(case.version, case.protocol)?;
    }
    Ok(())
}

/// Sets every row beside the floors of its family; the lookup also of its number of flows.
pub fn compare(rows: &[Row]) -> Vec<Compared<'_>> {
    rows.iter()
        .map(|row| Compared {
            row,
            nanoseconds: quartiles(&row.samples),
            to_transmit: to_floor(rows, row, Program::Transmit),
            to_lookup: to_floor(rows, row, Program::Lookup).filter(|_| row.case.program != Program::Transmit),
        })
        .collect()
}

fn to_floor(rows: &[Row], row: &Row, floor: Program) -> Option<Quartiles> {
    let suits = |case: &Case| {
        case.program == floor
            && case.version == row.case.version
            && (floor == Program::Transmit || case.flows == row.case.flows)
    };
    let floor = rows.iter().find(|other| suits(&other.case))?;
    (floor.case != row.case).then(|| ratios(&row.samples, &floor.samples))
}
