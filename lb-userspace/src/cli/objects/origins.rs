//! `lb origins`: the members of pools.

use super::remote::{Remote, origin, origins};
use super::{done, each, edit, list, state};
use crate::cli::table::{Align, Table};
use crate::cli::{Exit, Failure, Global, output};
use crate::config::Kind;
use crate::wire::{Object, Operand, OriginStatus, Status};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// How often it is looked whether a drain has come to its end.
const LOOK: Duration = Duration::from_millis(500);

/// List, switch, drain and weigh origins: POOL/ORIGIN
///
/// Origins of the configuration file can be switched, drained and weighed, too: what was set by hand holds instead of the
/// file's values, over restarts as well, until `lb origins reset`.
#[derive(Args, Debug)]
pub(in crate::cli) struct Origins {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List them with their state (this is also what happens without a verb)
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this pool
        pool: Option<String>,
    },
    /// Print one with its state
    Show(Place),
    /// Add one to a pool
    Create {
        #[command(flatten)]
        place: Place,
        /// Its IP address
        #[arg(long)]
        address: String,
        /// Its port [default: the application's]
        #[arg(long)]
        port: Option<u16>,
        /// Its share, 0 to 1 [default: 1]
        #[arg(long, value_parser = weight, allow_negative_numbers = true)]
        weight: Option<f64>,
        /// Add it without traffic
        #[arg(long)]
        disabled: bool,
        /// Any other field, such as --set forwarding=dnat
        #[arg(long, value_name = "FIELD=VALUE")]
        set: Vec<String>,
    },
    /// Set fields, such as --set port=8080; its pool is edited with `lb pools edit`
    Edit {
        #[command(flatten)]
        place: Place,
        /// A field; without a value it gets its default; repeat for more
        #[arg(long, value_name = "FIELD=VALUE", required = true)]
        set: Vec<String>,
    },
    /// Remove them from their pools
    #[command(visible_alias = "rm")]
    Delete(Places),
    /// Let them have traffic
    Enable(Places),
    /// Keep new flows away; those that are open may go on for the pool's drain_timeout
    Disable(Places),
    /// Keep new flows away, and end those that are open after a time of your own
    Drain {
        #[command(flatten)]
        places: Places,
        /// How long open flows may go on, such as 30s or 5m [default: the pool's drain_timeout]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<Duration>,
        /// Return when no flow is left
        #[arg(long)]
        wait: bool,
    },
    /// Set the share of one, 0 to 1
    Weight {
        #[command(flatten)]
        place: Place,
        #[arg(value_parser = weight, allow_negative_numbers = true)]
        weight: f64,
    },
    /// Forget what was set by hand: the configuration file holds again
    Reset(Places),
}

/// One origin.
#[derive(Args, Clone, Debug)]
struct Place {
    #[arg(value_name = "POOL/ORIGIN", value_parser = path)]
    origin: Path,
}

/// Some origins.
#[derive(Args, Clone, Debug)]
struct Places {
    #[arg(value_name = "POOL/ORIGIN", required = true, value_parser = path)]
    origins: Vec<Path>,
}

/// `POOL/ORIGIN`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Path {
    pool: String,
    name: String,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

fn path(text: &str) -> Result<Path, String> {
    match text.split_once('/') {
        Some((pool, name)) if !pool.is_empty() && !name.is_empty() && !name.contains('/') => Ok(Path {
            pool: pool.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err("not of the form POOL/ORIGIN, such as eu/a".to_owned()),
    }
}

/// `30`, `30s`, `5m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a time such as 30s, 5m or 2h".to_owned())
}

/// The share of an origin.
fn weight(text: &str) -> Result<f64, String> {
    let weight: Option<f64> = text.parse().ok();
    weight
        .filter(|weight| (0.0..=1.0).contains(weight))
        .ok_or_else(|| "not a number from 0 to 1".to_owned())
}

impl Origins {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let remote = Remote::new(Kind::Pool, global)?;
        let plain = Operand::default();
        let all_of = |Places { origins }: Places, verb| switch(&remote, global, &origins, verb, &plain);
        match self.verb.unwrap_or(Verb::List { pool: None }) {
            Verb::List { pool } => all(&remote, global, pool.as_deref()),
            Verb::Show(Place { origin }) => show(&remote, global, &origin),
            Verb::Create {
                place: Place { origin: path },
                address,
                port,
                weight,
                disabled,
                set,
            } => {
                let pool = remote.show(&path.pool)?;
                if origin(&pool, &path.name).is_some() {
                    let message = format!("pool `{}` has an origin `{}` already", path.pool, path.name);
                    return Err(Failure::new(Exit::Conflict, message));
                }
                let mut fields = vec![format!("address={}", json!(address))];
                fields.extend(port.map(|port| format!("port={port}")));
                fields.extend(weight.map(|weight| format!("weight={weight}")));
                fields.extend(disabled.then(|| "enabled=false".to_owned()));
                fields.extend(set);
                let pool = edit::set(&remote, &path.pool, &of_origin(&path, &fields))?;
                told(global, &pool, &path, || format!("origin `{path}` added"))
            }
            Verb::Edit {
                place: Place { origin: path },
                set,
            } => {
                existing(&remote, &path)?;
                let pool = edit::set(&remote, &path.pool, &of_origin(&path, &set))?;
                told(global, &pool, &path, || format!("origin `{path}` changed"))
            }
            Verb::Delete(Places { origins }) => each(&origins, |path| {
                existing(&remote, path)?;
                let field = format!("{}=", key(path));
                let pool = edit::set(&remote, &path.pool, &[field])?;
                done(global, &pool, || format!("origin `{path}` deleted"))
            }),
            Verb::Enable(places) => all_of(places, "enable"),
            Verb::Disable(places) => all_of(places, "disable"),
            Verb::Reset(places) => all_of(places, "reset"),
            Verb::Weight {
                place: Place { origin },
                weight,
            } => {
                let operand = Operand {
                    weight: Some(weight),
                    ..plain
                };
                switch(&remote, global, &[origin], "weight", &operand)
            }
            Verb::Drain {
                places: Places { origins },
                deadline,
                wait,
            } => {
                let operand = Operand {
                    deadline: deadline.map(|deadline| deadline.as_secs_f64()),
                    ..plain
                };
                switch(&remote, global, &origins, "drain", &operand)?;
                match wait {
                    true => wait_for(&remote, global, &origins),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Fields of an origin as fields of its pool.
fn of_origin(path: &Path, fields: &[String]) -> Vec<String> {
    let key = key(path);
    fields.iter().map(|field| format!("{key}.{field}")).collect()
}

fn key(path: &Path) -> String {
    crate::config::field_of("origins", &path.name)
}

fn existing(remote: &Remote, path: &Path) -> Result<Object, Failure> {
    let pool = remote.show(&path.pool)?;
    match origin(&pool, &path.name) {
        Some(_) => Ok(pool),
        None => Err(Failure::new(
            Exit::NotFound,
            format!("pool `{}` has no origin `{}`", path.pool, path.name),
        )),
    }
}

/// Does the same to some origins, one after the other.
fn switch(
    remote: &Remote,
    global: &Global,
    origins: &[Path],
    verb: &str,
    operand: &Operand,
) -> Result<(), Failure> {
    each(origins, |path| {
        let pool = remote.operate(&[&path.pool, "origins", &path.name, verb], operand)?;
        told(global, &pool, path, || {
            let weight = origin(&pool, &path.name).map_or(Value::Null, |origin| origin["weight"].clone());
            format!("origin `{path}` (weight {weight}): {}", state(&pool, &path.name))
        })
    })
}

/// Says what was done to an origin, or prints it.
fn told(global: &Global, pool: &Object, path: &Path, words: impl FnOnce() -> String) -> Result<(), Failure> {
    if let (true, Some(origin)) = (global.json, origin(pool, &path.name)) {
        return output::print_json(origin);
    }
    global.say(&words());
    Ok(())
}

/// The origins of all pools, or of one.
fn all(remote: &Remote, global: &Global, pool: Option<&str>) -> Result<(), Failure> {
    let pools = match pool {
        Some(pool) => vec![remote.show(pool)?],
        None => remote.list()?,
    };
    if global.json {
        let of_pool = |pool: &Object| {
            let name = pool.name.clone();
            let of_one = origins(pool).cloned();
            let with_pool = of_one.map(move |mut origin| {
                origin["pool"] = json!(name);
                origin
            });
            with_pool.collect::<Vec<_>>()
        };
        let origins: Vec<Value> = pools.iter().flat_map(of_pool).collect();
        return output::print_json(&origins);
    }
    let status = remote.status()?;
    output::print(&table(&pools, &status).render(output::stdout_has_color()))
}

fn table(pools: &[Object], status: &Status) -> Table {
    let mut table = Table::new(&[
        ("ORIGIN", Align::Left),
        ("ADDRESS", Align::Left),
        ("HEALTH", Align::Left),
        ("WEIGHT", Align::Right),
        ("SHARE", Align::Right),
        ("FLOWS", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for pool in pools {
        for origin in origins(pool) {
            let name = origin["name"].as_str().unwrap_or_default();
            let found: Vec<&OriginStatus> = find(status, &pool.name, name).collect();
            let address = origin["address"].as_str().unwrap_or_default();
            let port = origin["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let port = port.filter(|port| *port > 0);
            let row = |found: Option<&OriginStatus>| {
                let known = |text: fn(&OriginStatus) -> String| found.map_or_else(list::dash, text);
                // Of a name each of its addresses is shown.
                let ip = found
                    .and_then(|origin| origin.address)
                    .or_else(|| address.parse().ok());
                let at = match (ip, port) {
                    (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
                    (Some(ip), None) => ip.to_string(),
                    (None, Some(port)) => format!("{address}:{port}"),
                    (None, None) => address.to_owned(),
                };
                [
                    format!("{}/{name}", pool.name),
                    at,
                    known(|origin| origin.health.clone()),
                    format!("{:.2}", origin["weight"].as_f64().unwrap_or(1.0)),
                    known(|origin| format!("{:.1}%", origin.share * 100.0)),
                    known(|origin| origin.flows.to_string()),
                    found.map_or_else(String::new, note),
                ]
            };
            if found.is_empty() {
                table.row(row(None));
            }
            for found in found {
                table.row(row(Some(found)));
            }
        }
    }
    table
}

/// Everything that keeps traffic away, or was set by hand.
fn note(origin: &OriginStatus) -> String {
    let draining = match (origin.draining && origin.flows > 0, origin.drain_seconds_left) {
        (true, Some(seconds)) => Some(format!("draining, {seconds} s left")),
        (true, None) => Some("draining".to_owned()),
        (false, _) => None,
    };
    let by_hand = origin.overridden.as_ref().map(crate::wire::Overridden::words);
    let notes = draining.into_iter().chain(by_hand);
    notes
        .chain(origin.failure_reason.clone())
        .collect::<Vec<_>>()
        .join("; ")
}

/// An origin's state; of a name with several addresses that of each.
fn find<'s>(status: &'s Status, pool: &str, name: &str) -> impl Iterator<Item = &'s OriginStatus> {
    let pools = status.pools.iter().filter(move |found| found.name == pool);
    pools
        .flat_map(|pool| &pool.origins)
        .filter(move |origin| origin.name == name)
}

fn show(remote: &Remote, global: &Global, path: &Path) -> Result<(), Failure> {
    let pool = existing(remote, path)?;
    if global.json {
        return output::print_json(&origin(&pool, &path.name));
    }
    let only = Object {
        object: json!({"origins": [origin(&pool, &path.name)]}),
        ..pool
    };
    output::print(&table(&[only], &remote.status()?).render(output::stdout_has_color()))
}

/// Counts of the flows until none of them began before now, and none missed a flow that went from one table to another
/// meanwhile: the first may be going on already.
const COUNTS: u64 = 3;

/// Waits until origins have no flows left.
fn wait_for(remote: &Remote, global: &Global, origins: &[Path]) -> Result<(), Failure> {
    let mut told = None;
    let mut since = remote.status()?.node.flow_counts_total;
    loop {
        let status = remote.status()?;
        // A daemon that was started meanwhile begins anew.
        since = since.min(status.node.flow_counts_total);
        let counted = status.node.flow_counts_total - since >= COUNTS;
        let found = origins
            .iter()
            .flat_map(|path| find(&status, &path.pool, &path.name));
        let (mut flows, mut left) = (0, 0);
        for origin in found {
            if !origin.draining {
                let message = format!(
                    "origin `{}` does not drain any more: somebody has enabled it",
                    origin.name
                );
                return Err(Failure::new(Exit::Conflict, message));
            }
            flows += origin.flows;
            left = left.max(origin.drain_seconds_left.unwrap_or_default());
        }
        match (flows, left) {
            (0, _) if counted => global.say("drained: no flow is left"),
            (1.., 0) => global.say(&format!(
                "drained: the time is up, and the last {flows} flows are reset"
            )),
            (_, _) => {
                if output::stderr_is_terminal() && counted && told != Some(flows) {
                    global.say(&format!("{flows} flows are left, for {left} s at most"));
                    told = Some(flows);
                }
                std::thread::sleep(LOOK);
                continue;
            }
        }
        return Ok(());
    }
}
