//! The benchmark's options. `cargo xtask bench` includes this file and passes them on.

use std::path::PathBuf;

/// Rounds of a full and of a quick run: of packets, and of paths.
const ROUNDS: (u32, u32) = (30, 3);
const QUICK_ROUNDS: (u32, u32) = (5, 1);
/// Rounds of ways through a node, and packets of each: of open flows, and of new ones.
const FORWARDING_ROUNDS: u32 = 9;
const QUICK_FORWARDING_ROUNDS: u32 = 3;
const FORWARDED: (u32, u32) = (200_000, 50_000);
const QUICK_FORWARDED: (u32, u32) = (100_000, 20_000);
/// Rounds of the control plane.
const CONTROL_ROUNDS: u32 = 5;
const QUICK_CONTROL_ROUNDS: u32 = 2;
/// Packets of one measurement.
const PACKETS: u32 = 100_000;
const QUICK_PACKETS: u32 = 30_000;
/// Numbers of flows. Those of a quick run show what one flow's packets cost, and those of more than fit into caches.
const FLOWS: [u32; 4] = [1, 1_000, 1 << 16, 1_000_000];
const QUICK_FLOWS: [u32; 2] = [1, 1 << 16];

/// Measure the packet path
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Fewer rounds and packets: under two minutes, and rougher
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How often each packet case is measured; the cases take turns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Only the cases (such as `tcp v4 in`) and paths (such as `lb`) whose name contains TEXT; `=TEXT`: is TEXT
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Only the cases at these numbers of flows, instead of 1, 1000, 65536 and 1000000
    #[arg(long, value_name = "N,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Also measure an earlier object of lb, or that in a binary of lb, in the same rounds
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// FILE of --against is another XDP program's object: ADAPTER (TOML) says how to fill and to call it
    #[arg(long, value_name = "ADAPTER", requires = "against")]
    pub adapter: Option<PathBuf>,
    /// Write this tree's object of lb to FILE, for `--against` later
    #[arg(long, value_name = "FILE")]
    pub export: Option<PathBuf>,
    /// Compare the cases with those that --save has written before, as ratios of multiples of the floors
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Write the cases to FILE, for `--baseline` later
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Write plots (SVG) into FOLDER: cost by the number of flows
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    /// Leave out throughput through namespaces
    #[arg(long)]
    no_paths: bool,
    /// Leave out nanoseconds per packet
    #[arg(long)]
    no_packets: bool,
    /// Leave out whole ways through a node
    #[arg(long)]
    no_forwarding: bool,
    /// Leave out tables, changes, configurations, memory and starts
    #[arg(long)]
    no_control: bool,
}

impl Arguments {
    /// Whether nanoseconds per packet are measured.
    pub fn measures_packets(&self) -> bool {
        !self.no_packets
    }

    /// Whether throughput through namespaces is measured.
    pub fn measures_paths(&self) -> bool {
        !self.no_paths
    }

    /// Whether what lb costs beside packets is measured.
    pub fn measures_control(&self) -> bool {
        !self.no_control
    }

    /// Whether ways through a node are measured.
    pub fn measures_forwarding(&self) -> bool {
        !self.no_forwarding
    }

    pub fn forwarding_rounds(&self) -> u32 {
        if self.quick {
            QUICK_FORWARDING_ROUNDS
        } else {
            FORWARDING_ROUNDS
        }
    }

    /// Packets of one measurement of a way.
    pub fn forwarded(&self, new: bool) -> u32 {
        let (known, fresh) = if self.quick { QUICK_FORWARDED } else { FORWARDED };
        if new { fresh } else { known }
    }

    pub fn control_rounds(&self) -> u32 {
        if self.quick {
            QUICK_CONTROL_ROUNDS
        } else {
            CONTROL_ROUNDS
        }
    }

    pub fn packet_rounds(&self) -> u32 {
        let default = if self.quick { QUICK_ROUNDS.0 } else { ROUNDS.0 };
        self.rounds.unwrap_or(default)
    }

    pub fn path_rounds(&self) -> u32 {
        if self.quick { QUICK_ROUNDS.1 } else { ROUNDS.1 }
    }

    /// Packets of one measurement.
    pub fn packets(&self) -> u32 {
        if self.quick { QUICK_PACKETS } else { PACKETS }
    }

    /// Numbers of flows, in ascending order.
    pub fn flows(&self) -> Vec<u32> {
        let mut flows = match (self.flows.as_slice(), self.quick) {
            ([], false) => FLOWS.to_vec(),
            ([], true) => QUICK_FLOWS.to_vec(),
            (own, _) => own.to_vec(),
        };
        flows.sort_unstable();
        flows.dedup();
        flows
    }

    /// Whether a case or path of that name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only
            .as_deref()
            .is_none_or(|only| match only.strip_prefix('=') {
                Some(whole) => name == whole,
                None => name.contains(only),
            })
    }
}
