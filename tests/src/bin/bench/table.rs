//! The table of nanoseconds per packet, the table of bars, and both as JSON.

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
    let against = results.rows.iter().any(|row| row.earlier.is_some());
    let earlier = if against { "  x earlier" } else { "" };
    println!(
        "{:<36} {:>9} {:>7} {:>7} {:>7}  {:>7}{earlier}  floor",
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
    let earlier = if against {
        format!("  {:>9}", ratio(row.earlier))
    } else {
        String::new()
    };
    let (floor, to_floor) = match &row.floor {
        Some((name, ratio)) => (name.trim_start_matches("floor: "), Some(*ratio)),
        None => ("", None),
    };
    let bad = if row.bad > 0 {
        format!("  WRONG: {} packets", row.bad)
    } else {
        String::new()
    };
    println!(
        "{name:<36} {flows:>9} {:>7.1} {:>7.1} {net:>7}  {:>7}{earlier}  {floor}{bad}",
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
        json!({
            "case": row.case.name(),
            "flows": row.case.shape.flows,
            "ns": quartiles(&row.nanoseconds),
            "net_ns": row.net.as_ref().map(quartiles),
            "floor": row.floor.as_ref().map(|(name, _)| name),
            "x_floor": row.floor.as_ref().map(|(_, ratio)| quartiles(ratio)),
            "x_earlier": row.earlier.as_ref().map(quartiles),
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
