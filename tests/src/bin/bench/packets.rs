//! Nanoseconds per packet: all cases take turns, so that what the machine does meanwhile meets them alike.

use crate::abi::Series;
use crate::arguments::Arguments;
use crate::baseline::{self, Baseline, Moved};
use crate::cases::{self, Build, Case};
use crate::compare::{Results, Row};
use crate::driver::pin;
use crate::layout::Shape;
use crate::node::Node;
use crate::plot;
use crate::report::{clock, progress, progress_often};
use crate::rival::Rival;
use anyhow::{Context, Result, ensure};
use lb_tests::check::is_interrupted;
use std::path::Path;
use std::time::{Duration, Instant};

/// The CPU that is measured, where there is more than one: interrupts mostly go to the first.
const CPU: usize = 1;
/// Packets before each measurement, which nobody times.
const WARM: u32 = 4_000;
/// What things take on a machine of two years ago, to say beforehand how long all will: a case beside its packets, whose
/// counters are read; a packet; a new flow; loading lb, and each flow in its tables.
const PER_CASE: Duration = Duration::from_millis(5);
const PER_PACKET: Duration = Duration::from_nanos(500);
const PER_NEW_FLOW: Duration = Duration::from_micros(2);
const PER_NODE: Duration = Duration::from_millis(1500);
const PER_FLOW: Duration = Duration::from_micros(25);

/// Measures the cases that are wanted, and the floors.
///
/// # Errors
/// The kernel refuses something, or a program does not do what its case says.
pub fn measure(arguments: &Arguments, programs: &Path) -> Result<Vec<Row>> {
    let count = std::thread::available_parallelism()?.get();
    let mut cpus: Vec<usize> = (0..count).collect();
    cpus.swap(0, CPU.min(count - 1));
    // A thread of its own: what else this process starts must not be bound to one CPU.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            pin(cpus[0])?;
            rounds(arguments, programs, &cpus)
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Writes what is to be kept of a run, and compares it with the baseline, where there is one.
///
/// # Errors
/// A file cannot be read or written.
pub fn keep(arguments: &Arguments, results: &Results) -> Result<Option<Vec<Moved>>> {
    if !arguments.measures_packets() {
        return Ok(None);
    }
    // First: it may be the same file.
    let baseline = arguments.baseline.as_deref().map(Baseline::read).transpose()?;
    if let Some(file) = &arguments.save {
        baseline::save(file, results, arguments.packet_rounds())?;
    }
    if let Some(folder) = &arguments.plots {
        plot::write(folder, results)?;
    }
    Ok(baseline.map(|baseline| baseline.compare(&results.rows)))
}

/// A row, and where its packets go on.
struct Turn {
    row: Row,
    series: Vec<Series>,
    node: usize,
}

fn rounds(arguments: &Arguments, programs: &Path, cpus: &[usize]) -> Result<Vec<Row>> {
    let against = arguments.against.as_deref();
    let other = against.map(|object| Rival::read(object, arguments.adapter.as_deref()));
    let other = other.transpose()?;
    if let Some(words) = other.as_ref().and_then(Rival::words) {
        progress(&format!("{words}\n"));
    }
    let wanted = wanted(arguments, cpus.len(), other.as_ref());
    if let Some(Rival::Foreign(_)) = other {
        ensure!(
            wanted.iter().any(|case| case.build == Build::Foreign),
            "the adapter serves none of the cases that are wanted: name others in its `cases`, or with --only"
        );
    }
    let (rounds, packets) = (arguments.packet_rounds(), arguments.packets());
    let shapes = shapes(arguments, &wanted);
    progress(&format!(
        "packets: {} cases, {rounds} rounds of {packets} packets: about {}\n",
        wanted.len(),
        clock(estimate(&wanted, &shapes, rounds, packets))
    ));
    let mut nodes = load(programs, other.as_ref(), &shapes)?;
    let mut turns: Vec<Turn> = wanted
        .into_iter()
        .map(|case| {
            let node = nodes.iter().position(|node| node.serves(&case));
            let node = node.context("every case has a node")?;
            let series = (0..case.cpus).map(|number| nodes[node].series(&case, number));
            Ok(Turn {
                node,
                series: series.collect(),
                row: Row {
                    case,
                    samples: Vec::new(),
                    bad: 0,
                },
            })
        })
        .collect::<Result<_>>()?;
    for Turn { row, node, .. } in &turns {
        nodes[*node]
            .prime(&row.case, cpus)
            .with_context(|| title(&row.case))?;
    }
    for node in &mut nodes {
        node.settle()
            .with_context(|| format!("settle {:?}", node.shape))?;
    }
    let started = Instant::now();
    let count = turns.len();
    for round in 0..rounds {
        // Each round begins with another case.
        for turn in 0..count {
            ensure!(!is_interrupted(), "interrupted");
            if turn.is_multiple_of(16) {
                let done = f64::from(round) + turn as f64 / count as f64;
                say(round, rounds, done, started.elapsed());
            }
            let turn = &mut turns[(turn + round as usize * 7) % count];
            sample(turn, &mut nodes[turn.node], cpus, packets).with_context(|| title(&turn.row.case))?;
        }
    }
    for node in &nodes {
        node.verify()
            .with_context(|| format!("look at {:?}", node.shape))?;
    }
    progress(&format!("packets: done in {}\n", clock(started.elapsed())));
    Ok(turns.into_iter().map(|turn| turn.row).collect())
}

/// Says how far it is, and when it will be done.
fn say(round: u32, rounds: u32, done: f64, took: Duration) {
    let left = if done > 0.0 {
        let left = took.mul_f64((f64::from(rounds) - done) / done);
        format!(", {} left", clock(left))
    } else {
        String::new()
    };
    progress_often(&format!("packets: round {} of {rounds}{left}", round + 1));
}

/// The cases that are wanted, all floors, and with each case the same of the other object.
fn wanted(arguments: &Arguments, cpus: usize, other: Option<&Rival>) -> Vec<Case> {
    let cases = cases::all(&arguments.flows(), cpus);
    let mut wanted = Vec::new();
    for case in cases {
        if case.as_floor().is_some() {
            wanted.push(case);
        } else if arguments.wants(&case.name()) {
            wanted.push(case);
            let other = other.filter(|other| other.serves(&case));
            wanted.extend(other.map(|other| Case {
                build: other.build(),
                ..case
            }));
        }
    }
    wanted
}

/// How long it will take.
fn estimate(cases: &[Case], shapes: &[(Build, Shape)], rounds: u32, packets: u32) -> Duration {
    let once = cases.iter().map(|case| {
        let each = if case.opens() { PER_NEW_FLOW } else { PER_PACKET };
        PER_CASE + each * case.packets(packets)
    });
    let load = shapes.iter().map(|(_, shape)| PER_NODE + PER_FLOW * shape.flows);
    load.sum::<Duration>() + once.sum::<Duration>() * rounds
}

/// What must be loaded for the cases.
fn shapes(arguments: &Arguments, cases: &[Case]) -> Vec<(Build, Shape)> {
    // What does not mind how many flows there are is measured with the fewest.
    let fewest = arguments.flows().first().copied().unwrap_or(1);
    let mut shapes = vec![(Build::Present, Shape::usual(fewest))];
    for case in cases {
        let shape = (case.build, case.shape);
        if case.shape.flows != 0 && !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Loads lb in all these shapes.
fn load(programs: &Path, other: Option<&Rival>, shapes: &[(Build, Shape)]) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for &(build, shape) in shapes {
        let rival = match (build, other) {
            (Build::Present, _) | (_, None) => &Rival::OWN,
            (_, Some(other)) => other,
        };
        ensure!(!is_interrupted(), "interrupted");
        progress(&format!(
            "load {} with {} flows of each kind",
            rival.name(),
            shape.flows
        ));
        let node = Node::new(programs, rival, build, shape);
        nodes.push(node.with_context(|| format!("prepare {shape:?} of {}", rival.name()))?);
    }
    Ok(nodes)
}

fn title(case: &Case) -> String {
    format!("{} at {} flows", case.name(), case.shape.flows)
}

fn sample(turn: &mut Turn, node: &mut Node, cpus: &[usize], usual: u32) -> Result<()> {
    let Turn { row, series, .. } = turn;
    let case = row.case;
    row.bad += node.run(&case, series, cpus, WARM)?.bad;
    let packets = case.packets(usual);
    let run = node.run(&case, series, cpus, packets)?;
    row.samples.push(run.nanoseconds);
    row.bad += run.bad;
    if case.opens() {
        row.bad += node.amiss(&case, series)?;
    }
    Ok(())
}
