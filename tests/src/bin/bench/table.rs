//! The table of nanoseconds per packet, the table of bars, and both as JSON.

use crate::cases::Build;
use crate::compare::{Compared, Judged, Results};
use crate::report::Quartiles;
use serde_json::{Value, json};

/// Prints nanoseconds per packet.
pub fn print(results: &Results, rounds: u32) {
    println!(
        "CPU time per packet in ns, of {rounds} rounds. \"net\" is less what sending the packet back at once took in the"
    );
    println!(
        "same round; \"x floor\" is the median ratio of net costs, to the floor of the same family and number of flows."
    );
    println!("Flows: in the tables, of each protocol and family.\n");
    let other = results.rows.iter().find_map(|row| row.other.as_ref());
    let against = other.is_some();
    let heading = match other.map(|other| other.build) {
        Some(Build::Foreign) => "    other    x other",
        Some(_) => "  earlier  x earlier",
        None => "",
    };
    println!(
        "{:<36} {:>9} {:>7} {:>7} {:>7}  {:>7}{heading}  floor",
        "case", "flows", "min", "median", "net", "x floor"
    );
    let mut last = String::new();
    for row in &results.rows {
        let name = row.case.name();
        print_row(row, if name == last { "" } else { &name }, against);
        last = name;
    }
}

fn print_row(row: &Compared, name: &str, against: bool) {
    let flows = match row.case.shape.flows {
        0 => "any".to_owned(),
        flows => flows.to_string(),
    };
    let ratio =
        |ratio: Option<Quartiles>| ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median));
    let net = row
        .net
        .map_or_else(String::new, |net| format!("{:.1}", net.median));
    let other = match &row.other {
        Some(other) => format!("  {:>7.1}  {:>9.2}", other.net.median, other.ratio.median),
        None if against => format!("  {:>7}  {:>9}", "", ""),
        None => String::new(),
    };
    let (floor, to_floor) = match &row.floor {
        Some((name, ratio)) => (name.trim_start_matches("floor: "), Some(*ratio)),
        None => ("", None),
    };
    let wrong = |whose: &str, bad: u64| match bad {
        0 => String::new(),
        bad => format!("  WRONG{whose}: {bad} packets"),
    };
    let others = row.other.as_ref().map_or(0, |other| other.bad);
    let bad = wrong("", row.bad) + &wrong(" in what it is compared with", others);
    println!(
        "{name:<36} {flows:>9} {:>7.1} {:>7.1} {net:>7}  {:>7}{other}  {floor}{bad}",
        row.nanoseconds.least,
        row.nanoseconds.median,
        ratio(to_floor),
    );
}

/// Prints what was to be reached, and what was.
pub fn print_bars(bars: &[Judged]) {
    if bars.is_empty() {
        return;
    }
    let met = bars.iter().filter(|judged| judged.is_met()).count();
    println!("\nBars, in net costs: {met} of {} met.\n", bars.len());
    println!(
        "{:<36} {:>9} {:>5} {:>8} {:>13}  {:<7} of",
        "case", "flows", "bar", "measured", "quartiles", ""
    );
    for judged in bars {
        let Judged { bar, ratio } = judged;
        println!(
            "{:<36} {:>9} {:>5.2} {:>8.2} {:>13}  {:<7} {}",
            bar.subject.name(),
            bar.subject.shape.flows,
            bar.limit,
            ratio.median,
            format!("{:.2} - {:.2}", ratio.lower, ratio.upper),
            if judged.is_met() { "met" } else { "NOT MET" },
            bar.words()
        );
    }
}

fn quartiles(of: &Quartiles) -> Value {
    json!({"min": of.least, "q1": of.lower, "median": of.median, "q3": of.upper})
}

/// The rows, for programs.
pub fn json(results: &Results) -> Value {
    let rows = results.rows.iter().map(|row| {
        let (foreign, earlier) = match &row.other {
            Some(other) if other.build == Build::Foreign => (Some(other), None),
            other => (None, other.as_ref()),
        };
        json!({
            "case": row.case.name(),
            "flows": row.case.shape.flows,
            "ns": quartiles(&row.nanoseconds),
            "net_ns": row.net.as_ref().map(quartiles),
            "floor": row.floor.as_ref().map(|(name, _)| name),
            "x_floor": row.floor.as_ref().map(|(_, ratio)| quartiles(ratio)),
            "x_earlier": earlier.map(|other| quartiles(&other.ratio)),
            "x_foreign": foreign.map(|other| quartiles(&other.ratio)),
            "other_net_ns": row.other.as_ref().map(|other| quartiles(&other.net)),
            "other_wrong_packets": row.other.as_ref().map(|other| other.bad),
            "wrong_packets": row.bad,
        })
    });
    rows.collect()
}

/// The bars, for programs.
pub fn json_bars(bars: &[Judged]) -> Value {
    let bars = bars.iter().map(|judged| {
        json!({
            "case": judged.bar.subject.name(),
            "flows": judged.bar.subject.shape.flows,
            "of": judged.bar.words(),
            "bar": judged.bar.limit,
            "measured": quartiles(&judged.ratio),
            "met": judged.is_met(),
        })
    });
    bars.collect()
}
