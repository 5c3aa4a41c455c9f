//! Plots: what a packet costs by the number of flows, beside the floors. SVG, written by hand: three lines and some words
//! need no library.

use crate::cases::{Case, Floor};
use crate::compare::{Compared, Results};
use crate::frame::{Traffic, Version};
use crate::layout::{Door, Width};
use crate::modes::Mode;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// Size of a plot, and of what is left around it, in pixels.
const SIZE: (f64, f64) = (760.0, 420.0);
const MARGIN: Margin = Margin {
    left: 70.0,
    right: 250.0,
    top: 44.0,
    bottom: 54.0,
};
/// Okabe and Ito's colours, which also those can tell apart who do not see all (2008).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800", "#000000",
];

struct Margin {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// Lines that belong together.
struct Plot {
    file: String,
    title: String,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    /// Floors are dashed.
    dashed: bool,
    /// Number of flows, and net cost in ns.
    points: Vec<(f64, f64)>,
}

/// Writes the plots into a folder, which is made if need be.
///
/// # Errors
/// They cannot be written.
pub fn write(folder: &Path, results: &Results) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for plot in plots(&results.rows) {
        let path = folder.join(&plot.file);
        std::fs::write(&path, plot.svg()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Each plot of which there are numbers.
fn plots(rows: &[Compared]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (version, word, title) in [(Version::V4, "v4", "IPv4"), (Version::V6, "v6", "IPv6")] {
        let mut add = |file: &str, title: String, wanted: &dyn Fn(&Case) -> bool| {
            let lines = lines(rows, &|case| {
                case.version == version && case.cpus == 1 && case.shape.width == Width::Usual && wanted(case)
            });
            if lines.iter().any(|line| !line.dashed) {
                let file = format!("{file}-{word}.svg");
                plots.push(Plot { file, title, lines });
            }
        };
        let is = |case: &Case, floor| case.as_floor() == Some(floor);
        add(
            "translated",
            format!("Established flows of nat and dnat, {title}"),
            &|case| {
                let known = matches!(case.traffic, Traffic::In | Traffic::Out);
                let lb = case.as_floor().is_none() && known && !case.mode.forwarding().is_direct();
                lb || is(case, Floor::Lookup)
            },
        );
        add(
            "direct",
            format!("Established TCP flows that are forwarded directly, {title}"),
            &|case| {
                let lb = case.as_floor().is_none()
                    && case.traffic == Traffic::In
                    && case.protocol == lb_common::abi::Protocol::TCP
                    && case.mode.forwarding().is_direct();
                lb || is(case, Floor::Ring) || is(case, Floor::RingTunnel)
            },
        );
        add("new", format!("New flows, {title}"), &|case| {
            let opened = case.as_floor().is_none() && matches!(case.traffic, Traffic::New(Door::Open));
            opened || is(case, Floor::Insert)
        });
        add("refused", format!("Packets that go nowhere, {title}"), &|case| {
            let refused = matches!(case.traffic, Traffic::Refused(_) | Traffic::NotOurs);
            case.as_floor().is_none() && refused && case.mode == Mode::Nat || is(case, Floor::Miss)
        });
    }
    plots
}

fn lines(rows: &[Compared], wanted: &dyn Fn(&Case) -> bool) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let most = rows.iter().map(|row| row.case.shape.flows).max().unwrap_or(1);
    for row in rows.iter().filter(|row| wanted(&row.case)) {
        let Some(net) = row.net else { continue };
        let name = row.case.name();
        let cost = net.median;
        let points = match row.case.shape.flows {
            // It does not depend on them.
            0 => vec![(1.0, cost), (f64::from(most), cost)],
            flows => vec![(f64::from(flows), cost)],
        };
        match lines.last_mut() {
            Some(line) if line.name == name => line.points.extend(points),
            _ => lines.push(Line {
                dashed: row.case.as_floor().is_some(),
                name,
                points,
            }),
        }
    }
    lines
}

impl Plot {
    fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most_flows = points().map(|point| point.0).fold(10.0, f64::max).log10();
        let step = step(points().map(|point| point.1).fold(1.0, f64::max));
        let steps = (points().map(|point| point.1).fold(1.0, f64::max) / step).ceil();
        let (width, height) = (
            SIZE.0 - MARGIN.left - MARGIN.right,
            SIZE.1 - MARGIN.top - MARGIN.bottom,
        );
        let x = |flows: f64| MARGIN.left + width * flows.max(1.0).log10() / most_flows;
        let y = |cost: f64| MARGIN.top + height * (1.0 - cost.max(0.0) / (step * steps));
        let mut svg = String::new();
        let mut add = |element: String| {
            // A String takes all.
            let _ = writeln!(svg, "{element}");
        };
        add(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" font-family="sans-serif" font-size="12">"#,
            SIZE.0, SIZE.1
        ));
        add(r##"<rect width="100%" height="100%" fill="#ffffff"/>"##.into());
        add(format!(
            r#"<text x="{}" y="24" font-size="15">{}</text>"#,
            MARGIN.left,
            escape(&self.title)
        ));
        let mut number = 0.0;
        while number <= steps {
            let (cost, at) = (number * step, y(number * step));
            add(format!(
                r##"<path d="M{} {at:.1}H{}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{cost}</text>"##,
                MARGIN.left,
                MARGIN.left + width,
                MARGIN.left - 8.0,
                at + 4.0
            ));
            number += 1.0;
        }
        let base = MARGIN.top + height;
        for power in 0..=most_flows.floor() as u32 {
            let flows = 10_u64.pow(power);
            add(format!(
                r##"<path d="M{0:.1} {1}V{base}" stroke="#eeeeee"/><text x="{0:.1}" y="{2}" text-anchor="middle">{flows}</text>"##,
                x(flows as f64),
                MARGIN.top,
                base + 18.0
            ));
        }
        add(format!(
            r#"<text x="{}" y="{}" text-anchor="middle">flows</text>"#,
            MARGIN.left + width / 2.0,
            base + 38.0
        ));
        add(format!(
            r#"<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">ns per packet, net of the harness</text>"#,
            MARGIN.top + height / 2.0
        ));
        for (index, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            // Beyond the colours, and for floors, other strokes.
            let dashes = match (line.dashed, index / COLOURS.len()) {
                (true, _) => r#" stroke-dasharray="6 4""#,
                (false, 0) => "",
                (false, _) => r#" stroke-dasharray="2 3""#,
            };
            let points = line.points.iter();
            let points: Vec<String> = points
                .map(|&(flows, cost)| format!("{:.1},{:.1}", x(flows), y(cost)))
                .collect();
            let stroke = format!(r#"fill="none" stroke="{colour}" stroke-width="2"{dashes}"#);
            add(format!(r#"<polyline points="{}" {stroke}/>"#, points.join(" ")));
            for point in &points {
                if let Some((x, y)) = point.split_once(',') {
                    add(format!(r#"<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>"#));
                }
            }
            let (left, at) = (MARGIN.left + width + 14.0, MARGIN.top + 18.0 * index as f64);
            add(format!(
                r#"<path d="M{left} {at:.1}h22" {stroke}/><text x="{}" y="{:.1}">{}</text>"#,
                left + 28.0,
                at + 4.0,
                escape(&line.name)
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A round distance of lines, of which about six reach `most`.
fn step(most: f64) -> f64 {
    let rough = most / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare;
    use crate::compare::tests::rows;

    #[test]
    fn steps_are_round() {
        assert_eq!(step(600.0), 100.0);
        assert_eq!(step(700.0), 200.0);
        assert_eq!(step(2900.0), 500.0);
        assert_eq!(step(4.0), 1.0);
    }

    #[test]
    fn a_plot_has_a_line_for_each_case_and_floor() {
        let results = compare(&rows(&[
            ("floor: transmit v4", &[40.0]),
            ("floor: lookup v4", &[90.0]),
            ("tcp v4 in", &[140.0]),
            ("tcp v4 out", &[150.0]),
        ]));
        let plots = plots(&results.rows);
        assert_eq!(plots.len(), 1, "of the others there are no numbers");
        let svg = plots[0].svg();
        assert_eq!(plots[0].file, "translated-v4.svg");
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert_eq!(
            svg.matches("stroke-dasharray=\"6 4\"").count(),
            2,
            "the floor, and its name"
        );
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
