//! The configuration: TOML in, a validated [`Config`] or every mistake at once out.
//!
//! It comes in up to two documents: the file, and the objects that were made through the API, in the file's vocabulary. One
//! reader reads both, so that a mistake is the same one wherever it is made. Names are unique over both. The file is valid
//! on its own; the objects refer to its objects and to each other.
//!
//! `reader` asks the text typed questions, one file below for each kind of object turns the answers into the
//! model, and `check` follows the references between them. Nothing is accepted without effect unless it is
//! said so: what this version cannot do is an error that names the field.

mod access;
mod address;
mod application;
mod check;
mod declared;
mod diagnostic;
mod direct;
mod dns;
mod files;
mod geoip;
mod history;
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
mod webhook;

pub use access::Imports;
pub(crate) use address::is_host_name;
pub use declared::{Declaration, Kind, declarations};
pub use diagnostic::{ConfigErrors, Diagnostic, Document, Severity, Source};
pub use node::check_interface;

use lb_core::model::Config;
use reader::{Located, Place, Sink, Table, Value};
pub(crate) use reader::{join as field_of, suggestion};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
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
    /// The text of the file, for the next compilation with other objects.
    pub file: Arc<Source>,
    pub imports: Imports,
    /// When the file was changed last.
    pub modified: SystemTime,
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
    load_of(path, files::Kind::Any)
}

/// As [`load`], for a daemon that runs: it takes a regular file only, since for everything else it might have to wait.
///
/// # Errors
/// Everything that is wrong with it.
pub fn reload(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_of(path, files::Kind::Regular)
}

/// The bytes of a file that [`reload`] could read.
#[must_use]
pub fn content(path: &Path) -> Option<Vec<u8>> {
    files::bytes(path, files::Kind::Regular, MAX_FILE_SIZE).ok()
}

/// The text of a file that [`reload`] could read.
///
/// # Errors
/// Says why it cannot be read.
pub fn text(path: &Path) -> Result<String, String> {
    files::text(path, files::Kind::Regular, MAX_FILE_SIZE)
}

fn load_of(path: &Path, kind: files::Kind) -> Result<Loaded, ConfigErrors> {
    let name = path.display().to_string();
    let modified = std::fs::metadata(path).and_then(|file| file.modified());
    let text = files::text(path, kind, MAX_FILE_SIZE).map_err(|message| ConfigErrors {
        errors: vec![Diagnostic::unreadable(
            &name,
            message,
            "name the file with -c FILE or LB_CONFIG; its format is described in README.md",
        )],
        warnings: Vec::new(),
    })?;
    let loaded = parse(&text, &name, &HostDefaults::of_this_machine())?;
    Ok(Loaded {
        modified: modified.unwrap_or(loaded.modified),
        ..loaded
    })
}

/// Validates the text of a file; `name` is what messages call it.
///
/// # Errors
/// Everything that is wrong with it. A text that is not TOML is not looked into further.
pub fn parse(text: &str, name: &str, defaults: &HostDefaults) -> Result<Loaded, ConfigErrors> {
    let (file, imports) = (Source::new(name, text), Imports::default());
    let Compiled { config, warnings } = compile(&file, None, &imports, defaults)?;
    Ok(Loaded {
        config,
        warnings,
        file,
        imports,
        modified: SystemTime::now(),
    })
}

/// A configuration that was accepted, without what it was made of.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// Validates a file together with the objects that were made through the API.
///
/// # Errors
/// Everything that is wrong with either. A text that is not TOML is not looked into further.
pub fn compile(
    file: &Arc<Source>,
    objects: Option<&Arc<Source>>,
    imports: &Imports,
    defaults: &HostDefaults,
) -> Result<Compiled, ConfigErrors> {
    let sink = Sink::new(file, objects);
    let documents = [(Document::File, Some(file)), (Document::Objects, objects)];
    let mut parsed = Vec::new();
    let mut is_toml = true;
    for (document, source) in documents {
        let Some(source) = source else { continue };
        let (table, syntax) = DeTable::parse_recoverable(source.text());
        is_toml &= syntax.is_empty();
        for error in &syntax {
            let place = Place {
                document,
                field: String::new(),
                span: error.span().unwrap_or(0..0),
            };
            sink.error(&place, format!("not valid TOML: {}", error.message()), None);
        }
        parsed.push((document, table));
    }
    if !is_toml {
        let (mut errors, warnings) = sink.into_parts();
        // After a first mistake the rest of its line is noise.
        errors.dedup_by_key(|error| (error.document, error.position().map(|(line, _)| line)));
        return Err(ConfigErrors { errors, warnings });
    }
    let roots: Vec<Table<'_>> = parsed
        .iter()
        .map(|(document, table)| Table::root(table.get_ref(), &sink, *document))
        .collect();
    let config = configuration(&roots, imports, defaults);
    let (errors, warnings) = sink.into_parts();
    match (config, errors.is_empty()) {
        (Some(config), true) => Ok(Compiled { config, warnings }),
        (_, _) => Err(ConfigErrors { errors, warnings }),
    }
}

/// The `api.socket` of a file, whatever else is in it, for commands that only want to find the daemon.
#[must_use]
pub fn socket_in(path: &Path) -> Option<PathBuf> {
    let text = files::text(path, files::Kind::Any, MAX_FILE_SIZE).ok()?;
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

/// Walks all documents, the file first. With errors in the sink the result is only fit to be thrown away.
fn configuration(roots: &[Table<'_>], imports: &Imports, defaults: &HostDefaults) -> Option<Config> {
    let root = roots.first()?;
    let node = node::node(root.table("node"), defaults);
    let lists = access::Lists::new(imports);
    let datapath = node::datapath(root.table("datapath"), &lists);
    let api = node::api(root.table("api"));
    let dns = dns::dns(root.table("dns"));
    let history = history::history(root.table("history"));
    let monitors = objects(roots, Kind::Monitor, monitor::monitor);
    let groups = objects(roots, Kind::MonitorGroup, monitor_group::monitor_group);
    let pools = objects(roots, Kind::Pool, pool::pool);
    let load_balancer = |name: &Located<String>, table| load_balancer::load_balancer(name, table, &lists);
    let load_balancers = objects(roots, Kind::LoadBalancer, load_balancer);
    let application = |name: &Located<String>, table| application::application(name, table, &lists);
    let applications = objects(roots, Kind::Application, application);
    let geoip = geoip::geoip(root, &lists);
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.value.as_str()).collect();
    let webhooks = webhook::webhooks(root, &names);
    for root in roots {
        root.report_unknown();
    }
    check::references(
        root.sink,
        (&monitors, &groups),
        &pools,
        &load_balancers,
        &applications,
    );
    steering::check(root.sink, &node, geoip.is_some(), &pools, &load_balancers);
    Some(Config {
        node,
        datapath,
        api,
        dns,
        history,
        webhooks,
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
    })
}

/// An object with the key that names it.
struct Declared<T> {
    name: Located<String>,
    object: T,
}

/// Reads the tables of a kind, whose keys are names, such as `[pools]`, with `read` for each entry.
fn objects<'a, T>(
    roots: &[Table<'a>],
    kind: Kind,
    read: impl Fn(&Located<String>, Table<'a>) -> T,
) -> Vec<Declared<T>> {
    let mut objects = Vec::new();
    let mut names: HashMap<String, Place> = HashMap::new();
    for table in roots.iter().filter_map(|root| root.table(kind.table())) {
        for (name, value) in table.entries() {
            // A wildcard stands for the host names of clients; nothing is done with it.
            let wildcard = if kind == Kind::LoadBalancer { "*" } else { "" };
            check_name_with(table.sink, &name, wildcard);
            if let Some(other) = names.insert(name.value.clone(), name.place.clone()) {
                let message = format!(
                    "`{}` is already the name of a {} in {}",
                    name.value,
                    kind.noun(),
                    table.sink.line_of(&other)
                );
                table.sink.error(
                    &name.place,
                    message,
                    "choose another name, or remove that one".to_owned(),
                );
            }
            if let Some(fields) = value.table() {
                objects.push(Declared {
                    object: read(&name, fields),
                    name,
                });
            }
        }
    }
    objects
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Reports a name that is not 1 to 255 letters, digits, `-`, `_` and `.`.
fn check_name(sink: &Sink, name: &Located<String>) {
    check_name_with(sink, name, "");
}

/// As [`check_name`], with further characters that are allowed.
fn check_name_with(sink: &Sink, name: &Located<String>, further: &str) {
    let text = &name.value;
    if text.is_empty() {
        sink.error(&name.place, "the name is empty", None);
    } else if let Some(bad) = text
        .chars()
        .find(|&c| !is_name_character(c) && !further.contains(c))
    {
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
