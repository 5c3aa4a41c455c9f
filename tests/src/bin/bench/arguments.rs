//! The benchmark's options. `cargo xtask bench` includes this file and passes them on.

/// Rounds of a full and of a quick run: of packets, and of paths.
const ROUNDS: (u32, u32) = (15, 3);
const QUICK_ROUNDS: (u32, u32) = (5, 1);

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
    /// Only the cases (such as `tcp v4 in`) and paths (such as `lb`) whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Only the cases at these numbers of flows
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 1_000, 100_000, 1_000_000],
          value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub flows: Vec<u32>,
    /// Leave out throughput through namespaces
    #[arg(long)]
    no_paths: bool,
    /// Leave out nanoseconds per packet
    #[arg(long, conflicts_with = "no_paths")]
    no_packets: bool,
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

    pub fn packet_rounds(&self) -> u32 {
        let default = if self.quick { QUICK_ROUNDS.0 } else { ROUNDS.0 };
        self.rounds.unwrap_or(default)
    }

    pub fn path_rounds(&self) -> u32 {
        if self.quick { QUICK_ROUNDS.1 } else { ROUNDS.1 }
    }

    /// Packets of one measurement.
    pub fn packets(&self) -> u32 {
        if self.quick { 50_000 } else { 200_000 }
    }

    /// Whether a case or path of that name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }
}
