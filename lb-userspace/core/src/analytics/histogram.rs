//! How often which number occurred, to within a sixteenth of it, in little room.

use std::collections::BTreeMap;

/// Parts of each power of two.
const PARTS: u64 = 8;

/// Numbers that were counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    counts: BTreeMap<u16, u64>,
    count: u64,
    sum: u64,
}

/// The row of a number: below 8 each has its own; above, each power of two has eight.
fn row(value: u64) -> u16 {
    if value < PARTS {
        return value as u16;
    }
    let power = value.ilog2();
    let part = (value >> (power - 3)) - PARTS;
    // At most 61 * 8 + 15.
    ((u64::from(power) - 2) * PARTS + part) as u16
}

/// The middle of a row.
fn middle(row: u16) -> f64 {
    let row = u64::from(row);
    if row < PARTS {
        return row as f64;
    }
    let (power, part) = (row / PARTS + 2, row % PARTS);
    let width = (1_u64 << (power - 3)) as f64;
    (PARTS + part) as f64 * width + (width - 1.0) / 2.0
}

impl Histogram {
    /// Counts a number.
    pub fn add(&mut self, value: u64) {
        *self.counts.entry(row(value)).or_default() += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (row, count) in &other.counts {
            *self.counts.entry(*row).or_default() += count;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean, exact; 0 of none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.sum as f64 / self.count as f64
    }

    /// The least number that is not less than this part of them; 0 of none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil().max(1.0) as u64;
        let mut passed = 0;
        for (row, count) in &self.counts {
            passed += count;
            if passed >= wanted {
                return middle(*row);
            }
        }
        0.0
    }

    /// Rows with their counts, and the sum: what it takes to make the same one again.
    #[must_use]
    pub fn parts(&self) -> (Vec<(u16, u64)>, u64) {
        (
            self.counts.iter().map(|(row, count)| (*row, *count)).collect(),
            self.sum,
        )
    }

    /// The inverse of [`Self::parts`].
    #[must_use]
    pub fn from_parts(rows: &[(u16, u64)], sum: u64) -> Self {
        Self {
            counts: rows.iter().copied().collect(),
            count: rows.iter().map(|(_, count)| count).sum(),
            sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.mean(), histogram.quantile(0.5)), (0.0, 0.0));
        for value in 1..=10_000 {
            histogram.add(value);
        }
        assert_eq!(histogram.mean(), 5_000.5);
        for (part, exact) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0), (0.0001, 1.0)] {
            let found = histogram.quantile(part);
            assert!((found - exact).abs() <= exact / 16.0, "{part}: {found}");
        }
        let (rows, sum) = histogram.parts();
        assert!(rows.len() < 100, "{}", rows.len());
        assert_eq!(Histogram::from_parts(&rows, sum), histogram);
    }

    proptest! {
        #[test]
        fn a_number_lies_near_the_middle_of_its_row(value: u64) {
            let found = middle(row(value));
            prop_assert!((found - value as f64).abs() <= value as f64 / 16.0 + 1e-9, "{} for {}", found, value);
        }

        #[test]
        fn parts_add_up(values in proptest::collection::vec(0_u64..1 << 40, 0..50), at in 0_usize..50) {
            let all = |values: &[u64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|value| histogram.add(*value));
                histogram
            };
            let (left, right) = values.split_at(at.min(values.len()));
            let mut sum = all(left);
            sum.merge(&all(right));
            prop_assert_eq!(sum, all(&values));
        }
    }
}
