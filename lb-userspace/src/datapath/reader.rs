//! Reads counters: sums over the CPUs.

use anyhow::Result;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::abi::{Traffic, maps};
use lb_common::datapath::{DropReason, Hold, Pass, Reply};

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

    /// Packets left to the kernel, by reason.
    #[must_use]
    pub fn passes(&self) -> Vec<(&'static str, u64)> {
        Pass::ALL
            .iter()
            .map(|reason| (reason.name(), self.verdict(reason.row())))
            .collect()
    }

    /// Packets that userspace was to hold, by reason.
    #[must_use]
    pub fn holds(&self) -> Vec<(&'static str, u64)> {
        Hold::ALL
            .iter()
            .map(|reason| (reason.name(), self.verdict(reason.row())))
            .collect()
    }

    /// Packets of applications that were not forwarded by the program, by reason: refused with an answer, or dropped.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let refused = Reply::ALL
            .iter()
            .map(|reason| (reason.name(), self.verdict(reason.row())));
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.verdict(reason.row())));
        refused.chain(dropped).collect()
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
