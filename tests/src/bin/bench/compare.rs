//! What the samples say: costs net of the harness, beside floors, beside an earlier object, and beside the bars.

use crate::bars::{self, Bar, bars};
use crate::cases::{Build, Case, Floor};
use crate::report::{Quartiles, quartiles, ratios};

/// A case and what came out.
pub struct Row {
    pub case: Case,
    /// Nanoseconds, by round.
    pub samples: Vec<f64>,
    /// Packets that went another way than expected.
    pub bad: u64,
}

/// All rows, each net of the harness.
pub struct Results {
    pub rows: Vec<Compared>,
    pub bars: Vec<Judged>,
}

/// A row beside others.
pub struct Compared {
    pub case: Case,
    pub bad: u64,
    pub nanoseconds: Quartiles,
    /// Less what the harness takes; of the harness itself `None`.
    pub net: Option<Quartiles>,
    /// Name of its floor, and the ratio of both net costs.
    pub floor: Option<(String, Quartiles)>,
    /// Beside the program that lb is compared with.
    pub other: Option<Other>,
}

/// The same case of the other program.
pub struct Other {
    pub build: Build,
    pub bad: u64,
    pub net: Quartiles,
    /// The ratio of lb's net cost to its.
    pub ratio: Quartiles,
}

/// A bar and what was measured.
pub struct Judged {
    pub bar: Bar,
    pub ratio: Quartiles,
}

impl Judged {
    pub fn is_met(&self) -> bool {
        self.ratio.median <= self.bar.limit
    }
}

/// Compares all rows, round by round.
pub fn compare(rows: &[Row]) -> Results {
    let nets: Vec<(Case, Vec<f64>)> = rows
        .iter()
        .filter_map(|row| Some((row.case, net(rows, row)?)))
        .collect();
    let of = |wanted: &Case| {
        let found = nets.iter().find(|(case, _)| case == wanted);
        found.map(|(_, net)| net.as_slice())
    };
    let compared = rows.iter().filter(|row| row.case.build == Build::Present);
    let compared = compared.map(|row| {
        let net = of(&row.case);
        let to = |reference: &Case| Some(ratios(net?, of(reference)?));
        let floor = bars::floor(&row.case);
        // At most one other is measured.
        let other = rows.iter().find(|other| {
            let build = other.case.build;
            build != Build::Present && other.case == Case { build, ..row.case }
        });
        Compared {
            case: row.case,
            bad: row.bad,
            nanoseconds: quartiles(&row.samples),
            net: net.map(quartiles),
            floor: floor.and_then(|floor| Some((floor.name(), to(&floor)?))),
            other: other.and_then(|other| {
                Some(Other {
                    build: other.case.build,
                    bad: other.bad,
                    net: quartiles(of(&other.case)?),
                    ratio: to(&other.case)?,
                })
            }),
        }
    });
    let judged = rows.iter().flat_map(|row| bars(&row.case)).filter_map(|bar| {
        let subject = of(&bar.subject)?;
        let mut sums = vec![0.0; subject.len()];
        for (factor, case) in &bar.references {
            for (sum, net) in sums.iter_mut().zip(of(case)?) {
                *sum += factor * net;
            }
        }
        let ratio = ratios(subject, &sums);
        Some(Judged { bar, ratio })
    });
    Results {
        rows: compared.collect(),
        bars: judged.collect(),
    }
}

/// A row's samples less those of the harness in the same round: of the same family, on as many CPUs.
fn net(rows: &[Row], row: &Row) -> Option<Vec<f64>> {
    let harness = Case {
        cpus: row.case.cpus,
        ..Case::floor(Floor::Transmit, row.case.version)
    };
    let harness = rows.iter().find(|other| other.case == harness)?;
    if harness.case == row.case {
        return None;
    }
    let pairs = row.samples.iter().zip(&harness.samples);
    Some(pairs.map(|(sample, harness)| sample - harness).collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cases;

    /// Rows of the cases with these names, at one flow.
    pub fn rows(costs: &[(&str, &[f64])]) -> Vec<Row> {
        let cases = cases::all(&[1], 1);
        let row = |(name, samples): &(&str, &[f64])| Row {
            case: *cases
                .iter()
                .find(|case| case.name() == *name)
                .expect("such a case"),
            samples: samples.to_vec(),
            bad: 0,
        };
        costs.iter().map(row).collect()
    }

    #[test]
    fn ratios_are_net_and_of_the_same_round() {
        // The machine is half as fast in the second round.
        let rows = rows(&[
            ("floor: transmit v4", &[40.0, 80.0]),
            ("floor: lookup v4", &[90.0, 180.0]),
            ("tcp v4 in", &[140.0, 280.0]),
        ]);
        let results = compare(&rows);
        let lb = &results.rows[2];
        assert_eq!(lb.net.map(|net| net.least), Some(100.0));
        let (name, ratio) = lb.floor.as_ref().expect("it has a floor");
        assert_eq!((name.as_str(), ratio.median), ("floor: lookup v4", 2.0));
        assert!(results.rows[0].net.is_none(), "the harness itself");
        assert_eq!(results.bars.len(), 1);
        assert!(results.bars[0].is_met());
    }

    #[test]
    fn a_bar_may_have_several_references() {
        let rows = rows(&[
            ("floor: transmit v4", &[40.0]),
            ("floor: insert v4", &[1040.0]),
            ("tcp v4 in", &[140.0]),
            ("tcp v4 new", &[3190.0]),
        ]);
        let results = compare(&rows);
        let bar = &results.bars[0];
        assert_eq!(bar.ratio.median, 1.5);
        assert!(!bar.is_met());
    }

    #[test]
    fn another_object_is_a_ratio_not_a_row() {
        let mut rows = rows(&[("floor: transmit v4", &[40.0]), ("tcp v4 in", &[140.0])]);
        let build = Build::Earlier;
        rows.push(Row {
            case: Case {
                build,
                ..rows[1].case
            },
            samples: vec![240.0],
            bad: 0,
        });
        let results = compare(&rows);
        assert_eq!(results.rows.len(), 2);
        let other = results.rows[1].other.as_ref().expect("it was measured");
        assert_eq!((other.net.median, other.ratio.median), (200.0, 0.5));
    }
}
