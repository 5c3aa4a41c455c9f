//! What lb costs beside packets: tables, changes, configurations, memory and starts.

use crate::arguments::Arguments;
use crate::report::{Quartiles, progress, quartiles};
use crate::{bars, flow_memory, frame::Version, machine, startup};
use anyhow::{Result, bail, ensure};
use lb_core::maglev::{Grain, Member, build};
use lb_tests::check::is_interrupted;
use serde_json::{Value, json};
use std::time::Instant;

/// Origins of a pool whose table is built, and of one of whose origins the health changes.
const TABLES: [u32; 3] = [10, 1_000, 10_000];
const POOLS: [u32; 2] = [1_000, 10_000];
/// Flows that a daemon finds when it starts.
const PINNED: [u32; 2] = [0, 1_000_000];
/// Changes of health in a round.
const CHANGES: u32 = 10;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// One table for so many origins.
    Table(u32),
    /// From the observation that one of so many origins does not answer, until it gets no new flow.
    Avoided(u32),
    /// From there until all tables are made without it, but for the pause in between that the engine makes on purpose.
    Rebuilt(u32),
    /// The part of that which maps are written in.
    Rewritten(u32),
    /// A large configuration: from text to maps.
    Parsed,
    Compiled,
    Written,
    /// All three.
    Configured,
    /// The same with one origin more, on what stands in the maps.
    Reconfigured,
    /// Memory of the kernel for each direction of a flow that is remembered.
    FlowMemory(Version),
    /// From the start of a daemon that takes over from another one, with so many flows, until it is in charge.
    TakeOver(u32),
    /// From the start of a daemon after a crash until it is in charge.
    Restart(u32),
}

impl Figure {
    /// All of them, in the order of the table.
    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = TABLES.into_iter().map(Self::Table).collect();
        for origins in POOLS {
            all.extend([
                Self::Avoided(origins),
                Self::Rebuilt(origins),
                Self::Rewritten(origins),
            ]);
        }
        all.extend([
            Self::Parsed,
            Self::Compiled,
            Self::Written,
            Self::Configured,
            Self::Reconfigured,
        ]);
        all.extend([Version::V4, Version::V6].map(Self::FlowMemory));
        for flows in PINNED {
            all.extend([Self::TakeOver(flows), Self::Restart(flows)]);
        }
        all
    }

    /// Its row.
    pub fn name(self) -> String {
        match self {
            Self::Table(origins) => format!("Maglev table, {} origins", counted(origins)),
            Self::Avoided(origins) => format!("1 of {} origins fails: no new flows", counted(origins)),
            Self::Rebuilt(origins) => format!("1 of {} origins fails: all tables", counted(origins)),
            Self::Rewritten(origins) => format!("1 of {} origins fails: of that, written", counted(origins)),
            Self::Parsed => "1,000 applications, 10,000 origins: parsed".into(),
            Self::Compiled => "1,000 applications, 10,000 origins: compiled".into(),
            Self::Written => "1,000 applications, 10,000 origins: applied".into(),
            Self::Configured => "1,000 applications, 10,000 origins: together".into(),
            Self::Reconfigured => "1,000 applications, one origin more".into(),
            Self::FlowMemory(Version::V4) => "memory of an IPv4 flow's direction".into(),
            Self::FlowMemory(Version::V6) => "memory of an IPv6 flow's direction".into(),
            Self::TakeOver(flows) => format!("take-over with {} flows", counted(flows)),
            Self::Restart(flows) => format!("start after a crash with {} flows", counted(flows)),
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::FlowMemory(_) => "bytes",
            Self::TakeOver(_) | Self::Restart(_) => "s",
            _ => "ms",
        }
    }
}

/// A number as people read it.
fn counted(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What came out, in the figure's unit.
pub struct Row {
    pub figure: Figure,
    pub samples: Vec<f64>,
}

impl Row {
    fn quartiles(&self) -> Quartiles {
        quartiles(&self.samples)
    }

    /// The bar, and whether the median is below it.
    fn judged(&self) -> Option<(f64, bool)> {
        let limit = bars::control(self.figure)?;
        Some((limit, self.quartiles().median <= limit))
    }
}

/// Samples by figure.
pub struct Samples(Vec<Row>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, figure: Figure, sample: f64) {
        if let Some(row) = self.0.iter_mut().find(|row| row.figure == figure) {
            row.samples.push(sample);
        }
    }
}

/// Measures all of it, in turns.
///
/// # Errors
/// The kernel refuses something, or what is measured does not do what it should.
pub fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let wanted = |figure: &Figure| arguments.wants(&figure.name());
    let all = Figure::all().into_iter().filter(wanted);
    let mut samples = Samples(
        all.map(|figure| Row {
            figure,
            samples: Vec::new(),
        })
        .collect(),
    );
    let wants =
        |samples: &Samples, which: fn(&Figure) -> bool| samples.0.iter().any(|row| which(&row.figure));
    let rounds = arguments.control_rounds();
    for round in 1..=rounds {
        ensure!(!is_interrupted(), "interrupted");
        let say = |what: &str| progress(&format!("control plane: round {round} of {rounds}, {what}"));
        say("tables");
        for origins in TABLES {
            table(origins, &mut samples)?;
        }
        if wants(&samples, |figure| {
            matches!(
                figure,
                Figure::Avoided(_) | Figure::Rebuilt(_) | Figure::Rewritten(_)
            )
        }) {
            say("failures");
            for origins in POOLS {
                machine::fail_origins(origins, CHANGES, &mut samples)?;
            }
        }
        if wants(&samples, |figure| figure.name().contains("applications")) {
            say("configurations");
            machine::configure(&mut samples)?;
        }
        if wants(&samples, |figure| matches!(figure, Figure::FlowMemory(_))) {
            say("memory");
            flow_memory::measure(&mut samples)?;
        }
    }
    if wants(&samples, |figure| {
        matches!(figure, Figure::TakeOver(_) | Figure::Restart(_))
    }) {
        for flows in PINNED {
            progress(&format!("control plane: start with {} flows", counted(flows)));
            startup::measure(flows, rounds, &mut samples)?;
        }
    }
    progress("control plane: done\n");
    Ok(samples.0)
}

/// One table, as that of a pool of the same weights is made.
fn table(origins: u32, samples: &mut Samples) -> Result<()> {
    // Steps of the golden ratio: far from each other, as digests are.
    const APART: u64 = 0x9e37_79b9_7f4a_7c15;
    let members: Vec<Member> = (1..=origins)
        .map(|owner| Member {
            identity: u64::from(owner).wrapping_mul(APART),
            owner,
            weight: 100,
            present: true,
        })
        .collect();
    let started = Instant::now();
    let table = build(&members, Grain::Coarse);
    let taken = started.elapsed();
    if table.len() < origins as usize {
        bail!("a table of {} slots for {origins} origins", table.len());
    }
    samples.add(Figure::Table(origins), taken.as_secs_f64() * 1e3);
    Ok(())
}

/// Prints the figures.
pub fn print(rows: &[Row]) {
    println!(
        "\nControl plane: medians of what each figure was measured to be; the time is that of the clock.\n"
    );
    println!(
        "{:<46} {:>7} {:>10} {:>10} {:>6} {:>8}",
        "figure", "samples", "min", "median", "unit", "bar"
    );
    for row in rows {
        let Quartiles { least, median, .. } = row.quartiles();
        let bar = match row.judged() {
            Some((limit, met)) => format!("{limit:>8} {}", if met { "met" } else { "NOT MET" }),
            None => String::new(),
        };
        println!(
            "{:<46} {:>7} {least:>10.3} {median:>10.3} {:>6} {bar}",
            row.figure.name(),
            row.samples.len(),
            row.figure.unit(),
        );
    }
}

/// The figures, for programs.
pub fn json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        let judged = row.judged();
        json!({
            "figure": row.figure.name(),
            "unit": row.figure.unit(),
            "median": row.quartiles().median,
            "samples": row.samples,
            "bar": judged.map(|(limit, _)| limit),
            "met": judged.map(|(_, met)| met),
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_apart_by_their_names() {
        let names: std::collections::BTreeSet<String> = Figure::all().into_iter().map(Figure::name).collect();
        assert_eq!(names.len(), Figure::all().len());
        assert_eq!(counted(1_000_000), "1,000,000");
        assert_eq!(counted(100), "100");
    }
}
