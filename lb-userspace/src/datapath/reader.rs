//! Reads counters: sums over the CPUs.

use anyhow::Result;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::abi::{Traffic, maps};
use lb_common::datapath::{DropReason, Hold, Notice, Pass, Reply};

/// The counter maps.
pub struct Reader {
    verdicts: PerCpuArray<MapData, u64>,
    applications: PerCpuArray<MapData, Traffic>,
    origins: PerCpuArray<MapData, Traffic>,
}

impl Reader {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        Ok(Self {
            verdicts: take(maps::VERDICTS)?.try_into()?,
            applications: take(maps::APPLICATION_TRAFFIC)?.try_into()?,
            origins: take(maps::ORIGIN_TRAFFIC)?.try_into()?,
        })
    }

    /// Traffic of the application in counter row `id`; nothing for a row that is not there.
    #[must_use]
    pub fn application(&self, id: u32) -> Traffic {
        sum(self.applications.get(&id, 0))
    }

    /// Traffic of the origin in counter row `id`.
    #[must_use]
    pub fn origin(&self, id: u32) -> Traffic {
        sum(self.origins.get(&id, 0))
    }

    /// Packets that were neither forwarded nor dropped, by reason, and what was noticed of packets beside their verdicts.
    #[must_use]
    pub fn verdicts(&self) -> Vec<(&'static str, u64)> {
        self.counted(verdicts())
    }

    /// Packets of applications that were not forwarded by the program, by reason: refused with an answer, or dropped.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.counted(drops())
    }

    fn counted(&self, rows: impl Iterator<Item = (&'static str, u32)>) -> Vec<(&'static str, u64)> {
        rows.map(|(name, row)| (name, self.verdict(row))).collect()
    }

    fn verdict(&self, row: u32) -> u64 {
        self.verdicts.get(&row, 0).map_or(0, |values| values.iter().sum())
    }
}

fn sum(values: Result<PerCpuValues<Traffic>, aya::maps::MapError>) -> Traffic {
    let mut total = Traffic::default();
    let Ok(values) = values else { return total };
    for value in values.iter() {
        total.packets_in += value.packets_in;
        total.bytes_in += value.bytes_in;
        total.packets_out += value.packets_out;
        total.bytes_out += value.bytes_out;
        total.new_flows += value.new_flows;
    }
    total
}

/// Names and rows of what is neither forwarded nor dropped, and of what is noticed.
fn verdicts() -> impl Iterator<Item = (&'static str, u32)> {
    let passed = Pass::ALL.iter().map(|reason| (reason.name(), reason.row()));
    let held = Hold::ALL.iter().map(|reason| (reason.name(), reason.row()));
    let noticed = Notice::ALL.iter().map(|notice| (notice.name(), notice.row()));
    passed.chain(held).chain(noticed)
}

/// Names and rows of what is refused or dropped.
fn drops() -> impl Iterator<Item = (&'static str, u32)> {
    let refused = Reply::ALL.iter().map(|reason| (reason.name(), reason.row()));
    let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), reason.row()));
    refused.chain(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::held::HeldCounts;
    use std::collections::BTreeSet;

    const README: &str = include_str!("../../../README.md");

    /// The names in the first column of the table that follows a line.
    fn table_after(line: &str) -> Vec<&'static str> {
        let (_, rest) = README.split_once(line).expect("the line is there");
        let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
        let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
        rows.map(|row| row.split('`').nth(1).expect("a name")).collect()
    }

    #[track_caller]
    fn lists(line: &str, counted: impl Iterator<Item = &'static str>) {
        let listed = table_after(line);
        let names: BTreeSet<_> = listed.iter().copied().collect();
        assert_eq!(names.len(), listed.len(), "twice in {listed:?}");
        assert_eq!(names, counted.collect());
    }

    #[test]
    fn the_readme_says_what_each_reason_means() {
        let held = HeldCounts::default().drops().map(|(name, _)| name);
        lists(
            "`lb drops`, and `drops` in `lb status --json`:",
            drops().map(|(name, _)| name).chain(held),
        );
        lists(
            "`verdicts` in `lb drops --json`:",
            verdicts().map(|(name, _)| name),
        );
    }
}
