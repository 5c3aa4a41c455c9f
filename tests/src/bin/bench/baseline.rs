//! An earlier run, stored as JSON: how far each row's ratio to its floor has moved since.

use crate::compare::{Compared, Results};
use crate::table;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;

/// Ratios of the stored run.
pub struct Baseline {
    rows: Vec<Stored>,
}

struct Stored {
    case: String,
    flows: u64,
    x_floor: f64,
}

/// A row that both runs have.
#[derive(PartialEq, Debug)]
pub struct Moved {
    pub case: String,
    pub flows: u32,
    /// Multiples of the floor: then, and now.
    pub before: f64,
    pub now: f64,
}

impl Moved {
    /// Less than 1: it has become cheaper.
    pub fn ratio(&self) -> f64 {
        self.now / self.before
    }
}

impl Baseline {
    /// Reads what [`save`], or `--json`, has written.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let stored: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        Self::parse(&stored).with_context(|| format!("{} is no run of the benchmark", path.display()))
    }

    fn parse(stored: &Value) -> Result<Self> {
        let Some(rows) = stored["packets"].as_array() else {
            bail!("it has no rows of packets");
        };
        let rows = rows.iter().filter_map(|row| {
            Some(Stored {
                case: row["case"].as_str()?.to_owned(),
                flows: row["flows"].as_u64()?,
                // The floors themselves have none.
                x_floor: row["x_floor"]["median"].as_f64()?,
            })
        });
        Ok(Self { rows: rows.collect() })
    }

    /// The rows that both runs have, in the order of the present one.
    pub fn compare(&self, rows: &[Compared]) -> Vec<Moved> {
        let moved = rows.iter().filter_map(|row| {
            let (case, flows) = (row.case.name(), row.case.shape.flows);
            let (_, now) = row.floor.as_ref()?;
            let same = |stored: &&Stored| stored.case == case && stored.flows == u64::from(flows);
            let before = self.rows.iter().find(same)?.x_floor;
            (before > 0.0).then_some(Moved {
                case,
                flows,
                before,
                now: now.median,
            })
        });
        moved.collect()
    }
}

/// Stores the packets of a run for [`Baseline::read`].
///
/// # Errors
/// It cannot be written.
pub fn save(path: &Path, results: &Results, rounds: u32) -> Result<()> {
    let run = json!({
        "packet_rounds": rounds,
        "packets": table::json(results),
        "bars": table::json_bars(&results.bars),
    });
    std::fs::write(path, format!("{run:#}\n")).with_context(|| format!("write {}", path.display()))
}

/// Prints which rows have moved, the most expensive first.
pub fn print(moved: &[Moved]) {
    println!("\nMultiples of the floor, then and now; less than 1.00 is cheaper.\n");
    println!(
        "{:<36} {:>9} {:>7} {:>7} {:>7}",
        "case", "flows", "then", "now", "ratio"
    );
    let mut moved: Vec<&Moved> = moved.iter().collect();
    moved.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    for row in moved {
        println!(
            "{:<36} {:>9} {:>7.2} {:>7.2} {:>7.2}",
            row.case,
            row.flows,
            row.before,
            row.now,
            row.ratio()
        );
    }
}

/// The same, for programs.
pub fn json(moved: &[Moved]) -> Value {
    let rows = moved.iter().map(|row| {
        json!({
            "case": row.case,
            "flows": row.flows,
            "x_floor_before": row.before,
            "x_floor": row.now,
            "ratio": row.ratio(),
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare;
    use crate::compare::tests::rows;

    fn results(lb: f64) -> Results {
        compare(&rows(&[
            ("floor: transmit v4", &[40.0]),
            ("floor: lookup v4", &[90.0]),
            ("tcp v4 in", &[lb]),
        ]))
    }

    #[test]
    fn a_stored_run_is_compared_by_ratios_to_the_floor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        save(file.path(), &results(140.0), 1).unwrap();
        let baseline = Baseline::read(file.path()).unwrap();
        let moved = baseline.compare(&results(90.0).rows);
        let expected = Moved {
            case: "tcp v4 in".to_owned(),
            flows: 1,
            before: 2.0,
            now: 1.0,
        };
        assert_eq!(moved, [expected]);
        assert_eq!(moved[0].ratio(), 0.5);
    }

    #[test]
    fn something_else_is_refused() {
        assert!(Baseline::parse(&json!({"paths": []})).is_err());
    }
}
