//! `lb diff`: what a version of the configuration would change.

use super::apply::{ask, read};
use super::{Failure, Global, output};
use crate::client::{Query, parse};
use crate::wire::{DiffBody, PartDiff, Plan, Side, TrafficDiff};
use clap::Args;
use hyper::Method;
use std::path::Path;

/// Show what a file, a draft or a revision would change, and which share of traffic would move
///
/// TO and --from are each a file, or one of: `running` (what is in force), `file` (the daemon's configuration file as it is on
/// the disk), `draft:NAME`, `revision:N`, `-` (stdin). A file with such a name is given as ./running.
///
/// Compared is what the configurations mean, with the objects of the API and what was set by hand (at its time for a
/// revision). The share of traffic that moves is that of new flows which would get another origin, with every enabled origin
/// up; flows that are open stay where they are.
#[derive(Args, Debug)]
#[command(name = "diff")]
pub(super) struct DiffArgs {
    /// What would be deployed
    #[arg(value_name = "TO", default_value = "file")]
    to: String,
    /// What it is compared with
    #[arg(long, value_name = "FROM", default_value = "running")]
    from: String,
}

/// Of an application so many origins are told.
const MAX_SHARES: usize = 20;

impl DiffArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let body = DiffBody {
            from: side(&self.from)?,
            to: side(&self.to)?,
        };
        let body = ask(global, Method::POST, &Query::new("/api/v1/diff"), &body)?;
        if global.json {
            return output::print_answer(&body);
        }
        let plan: Plan = parse(&body)?;
        for warning in &plan.warnings {
            global.say(&format!("warning: {warning}"));
        }
        output::print(&text(&plan))
    }
}

fn side(text: &str) -> Result<Side, Failure> {
    if let Some(name) = text.strip_prefix("draft:") {
        return Ok(Side::Draft(name.to_owned()));
    }
    if let Some(Ok(number)) = text.strip_prefix("revision:").map(str::parse) {
        return Ok(Side::Revision(number));
    }
    match text {
        "running" => Ok(Side::Running),
        "file" => Ok(Side::File),
        path => {
            let (text, file) = read(Path::new(path))?;
            Ok(Side::Text { text, file })
        }
    }
}

fn text(plan: &Plan) -> String {
    let mut text = format!("{} -> {}\n", plan.from, plan.to);
    if plan.changes.is_empty() && plan.traffic.is_empty() {
        text.push_str("\nno difference\n");
        return text;
    }
    if !plan.changes.is_empty() {
        text.push('\n');
    }
    for change in &plan.changes {
        text.push_str(&part(change));
    }
    text.push_str("\ntraffic (new flows, with every enabled origin up)\n");
    if plan.traffic.is_empty() {
        text.push_str("  no flow gets another origin\n");
    }
    for traffic in &plan.traffic {
        text.push_str(&moved(traffic));
    }
    text
}

fn part(change: &PartDiff) -> String {
    let sign = match change.change.as_str() {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let mut text = format!("{sign} {}", change.object);
    if !change.name.is_empty() {
        text.push_str(&format!(" {}", change.name));
    }
    text.push('\n');
    // Of what goes its name is enough.
    for field in change.fields.iter().filter(|_| sign != '-') {
        let value = match (&field.before, &field.after) {
            (None, Some(after)) if sign == '+' => after.clone(),
            (before, after) => {
                let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                format!("{} -> {}", word(before), word(after))
            }
        };
        text.push_str(&format!("    {}: {value}\n", field.field));
    }
    text
}

fn moved(traffic: &TrafficDiff) -> String {
    let family = match traffic.family.as_str() {
        "ipv6" => "IPv6",
        _ => "IPv4",
    };
    let clients = match &traffic.country {
        None => String::new(),
        Some(country) => format!(", clients in {country}"),
    };
    let mut text = format!(
        "  {} ({family}{clients}): {} moves\n",
        traffic.application,
        percent(traffic.moved)
    );
    let changed = traffic.shares.iter().filter(|share| share.before != share.after);
    let changed: Vec<_> = changed.collect();
    for share in changed.iter().take(MAX_SHARES) {
        let (before, after) = (percent(share.before), percent(share.after));
        text.push_str(&format!("    {}: {before} -> {after}\n", share.origin));
    }
    match changed.len().saturating_sub(MAX_SHARES) {
        0 => {}
        more => text.push_str(&format!("    and {more} more origins\n")),
    }
    text
}

/// A share as a percentage with at most two places; only none is 0 % and only everything is 100 %.
fn percent(share: f64) -> String {
    let rounded = (share * 10_000.0).round() / 100.0;
    if rounded == 0.0 && share > 0.0 {
        "< 0.01 %".to_owned()
    } else if rounded == 100.0 && share < 1.0 - 1e-9 {
        "> 99.99 %".to_owned()
    } else {
        format!("{rounded} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FieldDiff, ShareDiff};

    #[test]
    fn a_plan_is_readable() {
        let change = |change: &str,
                      object: &str,
                      name: &str,
                      fields: &[(&str, Option<&str>, Option<&str>)]| PartDiff {
            change: change.to_owned(),
            object: object.to_owned(),
            name: name.to_owned(),
            fields: fields
                .iter()
                .map(|(field, before, after)| FieldDiff {
                    field: (*field).to_owned(),
                    before: before.map(str::to_owned),
                    after: after.map(str::to_owned),
                })
                .collect(),
        };
        let share = |origin: &str, before, after| ShareDiff {
            origin: origin.to_owned(),
            before,
            after,
        };
        let plan = Plan {
            from: "running (revision 3)".to_owned(),
            to: "new.toml".to_owned(),
            changes: vec![
                change("added", "pool", "us", &[("enabled", None, Some("true"))]),
                change(
                    "changed",
                    "origin",
                    "eu/a",
                    &[("weight", Some("1"), Some("0.5")), ("port", Some("80"), None)],
                ),
                change("removed", "origin", "eu/b", &[("weight", Some("1"), None)]),
            ],
            traffic: vec![TrafficDiff {
                application: "web".to_owned(),
                family: "ipv4".to_owned(),
                country: Some("DE".to_owned()),
                moved: 0.3333,
                shares: vec![
                    share("eu/a", 1.0, 0.66667),
                    share("eu/b", 0.0, 0.33333),
                    share("eu/c", 0.1, 0.1),
                ],
            }],
            warnings: Vec::new(),
        };
        assert_eq!(
            text(&plan),
            "running (revision 3) -> new.toml\n\n\
             + pool us\n    enabled: true\n\
             ~ origin eu/a\n    weight: 1 -> 0.5\n    port: 80 -> (none)\n\
             - origin eu/b\n\n\
             traffic (new flows, with every enabled origin up)\n  \
             web (IPv4, clients in DE): 33.33 % moves\n    eu/a: 100 % -> 66.67 %\n    eu/b: 0 % -> 33.33 %\n"
        );
        let same = Plan {
            changes: Vec::new(),
            traffic: Vec::new(),
            ..plan
        };
        assert_eq!(text(&same), "running (revision 3) -> new.toml\n\nno difference\n");
    }

    #[test]
    fn shares_are_not_rounded_to_none_or_all() {
        for (share, words) in [
            (0.0, "0 %"),
            (1.0, "100 %"),
            (0.00001, "< 0.01 %"),
            (0.99999, "> 99.99 %"),
            (0.125, "12.5 %"),
        ] {
            assert_eq!(percent(share), words);
        }
    }

    #[test]
    fn sides_are_told_apart_from_files() {
        assert_eq!(side("running").unwrap(), Side::Running);
        assert_eq!(side("draft:a").unwrap(), Side::Draft("a".to_owned()));
        assert_eq!(side("revision:7").unwrap(), Side::Revision(7));
        assert_eq!(
            side("revision:x").unwrap_err().exit,
            super::super::Exit::Configuration
        );
    }
}
