//! Statistics, the table of paths, and JSON.

use crate::bars;
use crate::compare::Results;
use crate::paths::{self, Measure, Result as PathResult};
use crate::table;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// What a set of samples comes down to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quartiles {
    pub least: f64,
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

/// Sorts and picks; of an empty set, zeros.
pub fn quartiles(samples: &[f64]) -> Quartiles {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (sorted.len().saturating_sub(1)) as f64 * share;
        let (below, above) = (index.floor() as usize, index.ceil() as usize);
        match (sorted.get(below), sorted.get(above)) {
            (Some(low), Some(high)) => low + (high - low) * index.fract(),
            _ => 0.0,
        }
    };
    Quartiles {
        least: at(0.0),
        lower: at(0.25),
        median: at(0.5),
        upper: at(0.75),
    }
}

/// Ratios of what was measured in the same round.
pub fn ratios(samples: &[f64], floors: &[f64]) -> Quartiles {
    let pairs: Vec<f64> = samples
        .iter()
        .zip(floors)
        .map(|(sample, floor)| sample / floor)
        .collect();
    quartiles(&pairs)
}

/// The load average, and a warning when it says that others are at work.
pub fn load() -> (f64, Option<String>) {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0);
    let busy = load > 0.5;
    (
        load,
        busy.then(|| {
            format!("the machine is busy (load average {load}): trust the ratios, not the nanoseconds")
        }),
    )
}

/// Says how far it is: on a terminal, in the place of what was said before.
pub fn progress(text: &str) {
    let mut words = std::io::stderr().lock();
    // Nobody reads it: that is no reason to stop.
    let _ = if words.is_terminal() {
        write!(words, "\r\x1b[K{text}")
    } else {
        writeln!(words, "{}", text.trim_end())
    };
}

/// As [`progress`], for what is said again and again: only on a terminal.
pub fn progress_often(text: &str) {
    if std::io::stderr().is_terminal() {
        progress(text);
    }
}

/// A time as people read it.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

/// Prints throughput and rates.
pub fn print_paths(results: &[PathResult], rounds: u32, seconds: u32) {
    println!(
        "\nTCP through network namespaces: medians of {rounds} runs of {seconds} s each, taken in turns; in brackets the"
    );
    println!("median ratio to routing in the same round.\n");
    let (rates, times) = Measure::ALL.split_at(Measure::RATES);
    print_measures(results, rates);
    println!();
    print_measures(results, times);
    let judged = judge(results);
    let met = judged.iter().filter(|judged| judged.is_met()).count();
    println!(
        "\nBars of {}, at least: {met} of {} met.\n",
        paths::LB,
        judged.len()
    );
    for judged in &judged {
        println!(
            "{:<18} {:>5.2} {:>6.2} {:>13}  {:<7} of {}",
            judged.measure.title(),
            judged.limit,
            judged.ratio.median,
            format!("{:.2} - {:.2}", judged.ratio.lower, judged.ratio.upper),
            if judged.is_met() { "met" } else { "NOT MET" },
            judged.reference
        );
    }
    println!("\n{CAVEAT}");
}

/// A table of some measures; `-`: the path does not do that.
fn print_measures(results: &[PathResult], measures: &[Measure]) {
    print!("{:<34}", "path");
    for measure in measures {
        print!(" {:>18}", measure.title());
    }
    println!();
    let Some(reference) = results.first() else { return };
    for result in results {
        print!("{:<34}", result.name);
        for &measure in measures {
            let (samples, reference) = (
                &result.samples[measure as usize],
                &reference.samples[measure as usize],
            );
            let cell = if samples.is_empty() {
                "-".to_owned()
            } else {
                let value = quartiles(samples).median;
                format!("{value:.1} ({:.2})", ratios(samples, reference).median)
            };
            print!(" {cell:>18}");
        }
        println!();
    }
}

/// A bar of lb's path, and what was measured.
struct Judged {
    measure: Measure,
    limit: f64,
    reference: &'static str,
    ratio: Quartiles,
}

impl Judged {
    fn is_met(&self) -> bool {
        self.ratio.median >= self.limit
    }
}

/// Holds lb's path against those that were measured too.
fn judge(results: &[PathResult]) -> Vec<Judged> {
    let of = |name: &str| results.iter().find(|result| result.name == name);
    let mut judged = Vec::new();
    for (index, measure) in Measure::ALL.into_iter().enumerate() {
        for (limit, reference) in bars::path(measure) {
            if let (Some(own), Some(other)) = (of(paths::LB), of(reference)) {
                judged.push(Judged {
                    measure,
                    limit,
                    reference,
                    ratio: ratios(&own.samples[index], &other.samples[index]),
                });
            }
        }
    }
    judged
}

const CAVEAT: &str = "\
Client, node, origin and the programs that measure share this machine's CPUs, so each path's own cost is only a part.
veth favours the kernel's stack in bulk TCP: it hands over unsegmented 64 KiB frames without a copy, where XDP on veth
switches the peer's segmentation offload off and copies each packet into a buffer; neither happens on a network card.
\"packet by packet\" is the same path with the features of all interfaces as they are under lb: the node's neighbours
segment what they send to it, so that each packet passes the node by itself. Compare lb with these in bulk, and
with all in the other columns.";

/// Everything, for programs.
pub fn json(
    packets: &Results,
    packet_rounds: u32,
    paths: &[PathResult],
    path_rounds: u32,
    seconds: u32,
) -> Value {
    let bars: Vec<Value> = judge(paths)
        .iter()
        .map(|judged| {
            json!({
                "measure": judged.measure.name(),
                "of": judged.reference,
                "bar": judged.limit,
                "measured": judged.ratio.median,
                "met": judged.is_met(),
            })
        })
        .collect();
    let paths: Vec<Value> = paths
        .iter()
        .map(|path| {
            let measures = Measure::ALL.iter().zip(&path.samples);
            let measures = measures.map(|(measure, samples)| {
                let value =
                    json!({"unit": measure.unit(), "median": quartiles(samples).median, "samples": samples});
                (measure.name().to_owned(), value)
            });
            json!({"path": path.name, "measures": measures.collect::<serde_json::Map<_, _>>()})
        })
        .collect();
    json!({
        "load_average": load().0,
        "packet_rounds": packet_rounds,
        "packets": table::json(packets),
        "bars": table::json_bars(&packets.bars),
        "path_rounds": path_rounds,
        "path_seconds": seconds,
        "paths": paths,
        "path_bars": bars,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (slow, fast) = ([30.0, 60.0, 33.0], [10.0, 20.0, 10.0]);
        assert_eq!(ratios(&slow, &fast).median, 3.0);
        assert_eq!(ratios(&slow, &fast).least, 3.0);
        let four = quartiles(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((four.least, four.median, four.lower), (1.0, 2.5, 1.75));
        assert_eq!(quartiles(&[]).median, 0.0);
        assert_eq!(clock(Duration::from_secs(61)), "1:01 min");
    }
}
