//! The configuration file: TOML in, a validated [`Config`] or every mistake at once out.
//!
//! `reader` asks the text typed questions, one file below for each kind of object turns the answers into the
//! model, and `check` follows the references between them. Nothing is accepted without effect unless it is
//! said so: what this version cannot do is an error that names the field.

mod access;
mod address;
mod application;
mod check;
mod diagnostic;
mod direct;
mod dns;
mod geoip;
mod lines;
mod load_balancer;
mod monitor;
mod monitor_group;
mod node;
mod pool;
mod pool_set;
mod reader;
mod steering;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use address::is_host_name;
pub use diagnostic::{ConfigErrors, Diagnostic, Severity, Source};
pub use node::check_interface;

use lb_core::model::Config;
use reader::{Located, Place, Sink, Table, Value};
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Where the file is looked for when nobody says.
pub const DEFAULT_PATH: &str = "/etc/lb/lb.toml";

/// Where the daemon's socket is when nobody says.
pub const DEFAULT_SOCKET: &str = "/run/lb/lb.sock";

/// Larger files are refused: 10,000 origins need about 1 MiB.
const MAX_FILE_SIZE: u64 = 64 << 20;

/// A configuration that was accepted, with what looked odd in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// What the file leaves to the machine.
#[derive(Clone, Debug)]
pub struct HostDefaults {
    pub node_name: String,
}

impl HostDefaults {
    /// What this machine says: its host name, with characters that a name may not have replaced.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let allowed = |c: char| if is_name_character(c) { c } else { '-' };
        let node_name: String = host.trim_matches('.').chars().map(allowed).take(255).collect();
        Self {
            node_name: if node_name.is_empty() {
                "lb".to_owned()
            } else {
                node_name
            },
        }
    }
}

/// Reads and validates a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let name = path.display().to_string();
    let text = read(path).map_err(|message| ConfigErrors {
        errors: vec![Diagnostic::unreadable(
            &name,
            message,
            "name the file with -c FILE or LB_CONFIG; its format is described in README.md",
        )],
        warnings: Vec::new(),
    })?;
    parse(&text, &name, &HostDefaults::of_this_machine())
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read the file: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(format!("the file is larger than {} MiB", MAX_FILE_SIZE >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        format!(
            "the file is not UTF-8: byte {} is not",
            error.utf8_error().valid_up_to()
        )
    })
}

/// Validates the text of a file; `name` is what messages call it.
///
/// # Errors
/// Everything that is wrong with it. A text that is not TOML is not looked into further.
pub fn parse(text: &str, name: &str, defaults: &HostDefaults) -> Result<Loaded, ConfigErrors> {
    let source = Source::new(name, text);
    let sink = Sink::new(source);
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        for error in &syntax {
            let place = Place {
                field: String::new(),
                span: error.span().unwrap_or(0..0),
            };
            sink.error(&place, format!("not valid TOML: {}", error.message()), None);
        }
        let (mut errors, warnings) = sink.into_parts();
        // After a first mistake the rest of its line is noise.
        errors.dedup_by_key(|error| error.position().map(|(line, _)| line));
        return Err(ConfigErrors { errors, warnings });
    }
    let config = configuration(&Table::root(document.get_ref(), &sink), defaults);
    let (errors, warnings) = sink.into_parts();
    match errors.is_empty() {
        true => Ok(Loaded { config, warnings }),
        false => Err(ConfigErrors { errors, warnings }),
    }
}

/// The `api.socket` of a file, whatever else is in it, for commands that only want to find the daemon.
#[must_use]
pub fn socket_in(path: &Path) -> Option<PathBuf> {
    let text = read(path).ok()?;
    let (document, _) = DeTable::parse_recoverable(&text);
    let socket = document
        .get_ref()
        .get("api")?
        .get_ref()
        .as_table()?
        .get("socket")?
        .get_ref()
        .as_str()?;
    Some(PathBuf::from(socket))
}

/// Walks the whole file. With errors in the sink the result is only fit to be thrown away.
fn configuration(root: &Table<'_>, defaults: &HostDefaults) -> Config {
    let node = node::node(root.table("node"), defaults);
    let lists = access::Lists::default();
    let datapath = node::datapath(root.table("datapath"), &lists);
    let api = node::api(root.table("api"));
    let dns = dns::dns(root.table("dns"));
    let monitors = objects(root, "monitors", monitor::monitor);
    let groups = objects(root, "monitor_groups", monitor_group::monitor_group);
    let pools = objects(root, "pools", pool::pool);
    let load_balancer = |name: &Located<String>, table| load_balancer::load_balancer(name, table, &lists);
    let load_balancers = objects(root, "load_balancers", load_balancer);
    let application = |name: &Located<String>, table| application::application(name, table, &lists);
    let applications = objects(root, "applications", application);
    let geoip = geoip::geoip(root, &lists);
    root.report_unknown();
    check::references(
        root.sink,
        (&monitors, &groups),
        &pools,
        &load_balancers,
        &applications,
    );
    steering::check(root.sink, &node, geoip.is_some(), &pools, &load_balancers);
    Config {
        node,
        datapath,
        api,
        dns,
        monitors: monitors.into_iter().map(|declared| declared.object).collect(),
        monitor_groups: monitor_group::groups(groups),
        pools: pools.into_iter().map(|declared| declared.object.pool).collect(),
        load_balancers: load_balancers
            .into_iter()
            .map(|declared| declared.object.load_balancer)
            .collect(),
        applications: applications
            .into_iter()
            .map(|declared| declared.object.application)
            .collect(),
        geoip,
    }
}

/// An object of the file with the key that names it.
struct Declared<T> {
    name: Located<String>,
    object: T,
}

/// Reads a table whose keys are names, such as `[pools]`, with `read` for each entry.
fn objects<'a, T>(
    parent: &Table<'a>,
    key: &'static str,
    read: impl Fn(&Located<String>, Table<'a>) -> T,
) -> Vec<Declared<T>> {
    let Some(table) = parent.table(key) else {
        return Vec::new();
    };
    let mut objects = Vec::new();
    for (name, value) in table.entries() {
        check_name(parent.sink, &name);
        if let Some(fields) = value.table() {
            objects.push(Declared {
                object: read(&name, fields),
                name,
            });
        }
    }
    objects
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Reports a name that is not 1 to 255 letters, digits, `-`, `_` and `.`.
fn check_name(sink: &Sink, name: &Located<String>) {
    let text = &name.value;
    if text.is_empty() {
        sink.error(&name.place, "the name is empty", None);
    } else if let Some(bad) = text.chars().find(|&c| !is_name_character(c)) {
        let help = "names consist of letters, digits, `-`, `_` and `.`".to_owned();
        sink.error(&name.place, format!("the name {text:?} contains {bad:?}"), help);
    } else if text.len() > 255 {
        sink.error(
            &name.place,
            format!("the name has {} characters; 255 are allowed", text.len()),
            None,
        );
    }
}

/// `enabled`, true unless the file says otherwise.
fn enabled(table: &Table<'_>) -> bool {
    table
        .get("enabled")
        .and_then(|value| value.boolean())
        .unwrap_or(true)
}

/// A duration in seconds, fractions allowed.
fn seconds(value: &Value<'_>, range: std::ops::RangeInclusive<f64>) -> Option<std::time::Duration> {
    value
        .number_in(range, " seconds")
        .map(std::time::Duration::from_secs_f64)
}

/// A file that must be valid.
#[cfg(test)]
fn testing_config(text: &str) -> Config {
    let defaults = HostDefaults {
        node_name: "test".to_owned(),
    };
    match parse(text, "lb.toml", &defaults) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{}", errors.render(false)),
    }
}
