//! `create`: flags for the usual fields, or a whole object from a file.

use super::remote::Remote;
use super::{done, title};
use crate::cli::{Exit, Failure, Global};
use crate::config::{Declaration, Kind};
use crate::objects::{set_fields, write_text};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// `create [NAME] FLAGS` or `create -f FILE`.
#[derive(Args, Debug)]
pub(super) struct Create<C: Args> {
    /// Its name, unless it comes from a file
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Read it from a file (- for stdin): TOML as in lb.toml, or JSON as the API has it
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    file: Option<PathBuf>,
    #[command(flatten)]
    fields: C,
    /// Any other field, in the file's vocabulary, such as --set drain_timeout=60
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
}

/// The flags of a kind.
pub(super) trait Fields {
    const KIND: Kind;

    /// Writes down what was given.
    ///
    /// # Errors
    /// Which flag is wrong.
    fn fill(self, object: &mut Declaration) -> Result<(), String>;
}

impl<C: Args + Fields> Create<C> {
    pub fn run(self, remote: &Remote, global: &Global) -> Result<(), Failure> {
        let usage = |message| Failure::new(Exit::Usage, message);
        let mut object = Declaration {
            kind: C::KIND,
            name: self.name.unwrap_or_default(),
            line: 1,
            fields: Map::new(),
            origins: Vec::new(),
        };
        self.fields.fill(&mut object).map_err(usage)?;
        set_fields(&mut object, &self.set).map_err(usage)?;
        let made = match self.file {
            None => remote
                .create(&write_text(&object))
                .map_err(|refused| flags(refused.into_failure("")))?,
            Some(_) if !object.fields.is_empty() || !object.origins.is_empty() => {
                return Err(usage("with --file all fields come from the file".to_owned()));
            }
            Some(path) => {
                let text = read(&path)?;
                match text.trim_start().starts_with('{') {
                    true => remote.create_json(text)?,
                    false => {
                        let file = path.display().to_string();
                        remote
                            .create(&text)
                            .map_err(|refused| refused.into_failure(&file))?
                    }
                }
            }
        };
        done(global, &made, || {
            format!("{} created ({})", title(C::KIND, &made), made.id)
        })
    }
}

/// Nobody has seen the text of flags: its lines mean nothing.
fn flags(failure: Failure) -> Failure {
    let lines = failure.message.lines().map(|line| {
        let rest = line.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        rest.map_or(line, |(_, message)| message)
    });
    Failure {
        message: lines.collect::<Vec<_>>().join("\n"),
        ..failure
    }
}

/// A file, or stdin.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("cannot read {}: {error}", path.display()),
        )),
    }
}

/// Writes fields that were given.
struct Writer<'o>(&'o mut Map<String, Value>);

impl Writer<'_> {
    fn put(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    /// A list, unless it is empty.
    fn list(&mut self, key: &str, values: Vec<String>) {
        self.put(key, Some(values).filter(|values| !values.is_empty()));
    }

    /// A switch that is off unless it is given.
    fn on(&mut self, key: &str, given: bool) {
        self.put(key, given.then_some(true));
    }

    fn disabled(&mut self, given: bool) {
        self.put("enabled", given.then_some(false));
    }
}

#[derive(Args, Debug)]
pub(super) struct NewPool {
    /// An origin, such as name=a,address=10.0.0.11,port=8080,weight=0.5; repeat for more
    #[arg(long = "origin", value_name = "FIELDS")]
    origins: Vec<String>,
    /// The monitor that watches its origins
    #[arg(long, value_name = "NAME")]
    monitor: Option<String>,
    /// The monitor group, instead of a monitor
    #[arg(long, value_name = "NAME", conflicts_with = "monitor")]
    monitor_group: Option<String>,
    /// With fewer healthy origins it is passed over [default: 1]
    #[arg(long, value_name = "N")]
    minimum_origins: Option<u32>,
    /// How an origin is picked: random, hash, least_connections
    #[arg(long, value_name = "POLICY")]
    origin_steering: Option<String>,
    /// How packets reach origins: nat, dnat, dsr_l2, dsr_ipip, dsr_gue
    #[arg(long, value_name = "MODE")]
    forwarding: Option<String>,
    /// What becomes of TCP flows of an unhealthy origin: keep, reset
    #[arg(long, value_name = "WHAT")]
    on_unhealthy: Option<String>,
    /// Words about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Make it without traffic
    #[arg(long)]
    disabled: bool,
}

impl Fields for NewPool {
    const KIND: Kind = Kind::Pool;

    fn fill(self, object: &mut Declaration) -> Result<(), String> {
        let mut writer = Writer(&mut object.fields);
        writer.put("monitor", self.monitor);
        writer.put("monitor_group", self.monitor_group);
        writer.put("minimum_origins", self.minimum_origins);
        let steering = self.origin_steering.map(|policy| json!({"policy": policy}));
        writer.put("origin_steering", steering);
        writer.put("forwarding", self.forwarding);
        writer.put("on_unhealthy", self.on_unhealthy);
        writer.put("description", self.description);
        writer.disabled(self.disabled);
        for text in &self.origins {
            object.origins.push(origin(text)?);
        }
        Ok(())
    }
}

/// An origin of `--origin`.
fn origin(text: &str) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            format!("--origin {text}: `{part}` is not of the form FIELD=VALUE, as in name=a,address=10.0.0.11,port=8080")
        })?;
        if fields
            .insert(key.trim().to_owned(), scalar(value.trim()))
            .is_some()
        {
            return Err(format!("--origin {text}: `{key}` is given twice"));
        }
    }
    for key in ["name", "address"] {
        match fields.get_mut(key) {
            // A name may look like a number.
            Some(value) if !value.is_string() => *value = json!(value.to_string()),
            Some(_) => {}
            None => return Err(format!("--origin {text}: `{key}` is missing")),
        }
    }
    Ok(fields)
}

/// A number or a switch where it looks like one.
fn scalar(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        Ok(_) | Err(_) => json!(text),
    }
}

#[derive(Args, Debug)]
pub(super) struct NewMonitor {
    /// What is probed
    #[arg(long, value_name = "TYPE")]
    r#type: Option<MonitorType>,
    /// Instead of the origin's port
    #[arg(long)]
    port: Option<u16>,
    /// Seconds between two runs [default: 60]
    #[arg(long, value_name = "SECONDS")]
    interval: Option<f64>,
    /// Seconds that one attempt may take [default: 5]
    #[arg(long, value_name = "SECONDS")]
    probe_timeout: Option<f64>,
    /// Further attempts after a timeout [default: 2]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Good runs until an origin is healthy
    #[arg(long, value_name = "N")]
    consecutive_up: Option<u32>,
    /// Failed runs until an origin is unhealthy
    #[arg(long, value_name = "N")]
    consecutive_down: Option<u32>,
    /// Of http and https: GET or HEAD
    #[arg(long)]
    method: Option<String>,
    /// Of http and https [default: /]
    #[arg(long)]
    path: Option<String>,
    /// Of http and https: a header such as 'Host: www.example.com'; repeat for more
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Of http and https: such as 200,3xx [default: 200]
    #[arg(long, value_name = "CODES")]
    expected_codes: Option<String>,
    /// Of http and https: must occur in the first 10 KiB, in any case
    #[arg(long, value_name = "TEXT")]
    expected_body: Option<String>,
    /// Of http and https: go where redirects lead
    #[arg(long)]
    follow_redirects: bool,
    /// Of https: accept any certificate
    #[arg(long)]
    allow_insecure: bool,
    /// Of udp_icmp: what is sent
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    /// Of udp_icmp: what must occur in an answer
    #[arg(long, value_name = "TEXT")]
    expected_reply: Option<String>,
}

/// Types of monitors.
#[derive(Clone, Copy, ValueEnum, Debug)]
#[value(rename_all = "snake_case")]
enum MonitorType {
    Tcp,
    Http,
    Https,
    IcmpPing,
    UdpIcmp,
    Smtp,
}

impl Fields for NewMonitor {
    const KIND: Kind = Kind::Monitor;

    fn fill(self, object: &mut Declaration) -> Result<(), String> {
        let mut headers: Map<String, Value> = Map::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("--header {header}: not of the form NAME: VALUE"))?;
            let values = headers.entry(name.trim()).or_insert_with(|| json!([]));
            if let Value::Array(values) = values {
                values.push(json!(value.trim()));
            }
        }
        let mut writer = Writer(&mut object.fields);
        let word = self.r#type.and_then(|word| word.to_possible_value());
        writer.put("type", word.map(|word| word.get_name().to_owned()));
        writer.put("port", self.port);
        writer.put("interval", self.interval);
        writer.put("timeout", self.probe_timeout);
        writer.put("retries", self.retries);
        writer.put("consecutive_up", self.consecutive_up);
        writer.put("consecutive_down", self.consecutive_down);
        writer.put("method", self.method);
        writer.put("path", self.path);
        writer.put("header", Some(headers).filter(|headers| !headers.is_empty()));
        writer.put("expected_codes", self.expected_codes);
        writer.put("expected_body", self.expected_body);
        writer.on("follow_redirects", self.follow_redirects);
        writer.on("allow_insecure", self.allow_insecure);
        writer.put("payload", self.payload);
        writer.put("expected_reply", self.expected_reply);
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(super) struct NewGroup {
    /// A monitor, perhaps with must_be_healthy, monitoring_only or disabled, such as web,must_be_healthy; repeat for more
    #[arg(long = "member", value_name = "MONITOR[,WORD]...")]
    members: Vec<String>,
}

impl Fields for NewGroup {
    const KIND: Kind = Kind::MonitorGroup;

    fn fill(self, object: &mut Declaration) -> Result<(), String> {
        let mut members = Vec::new();
        for text in &self.members {
            let mut words = text.split(',').map(str::trim);
            let mut member = json!({"monitor": words.next().unwrap_or_default()});
            for word in words {
                match word {
                    "must_be_healthy" | "monitoring_only" => member[word] = json!(true),
                    "disabled" => member["enabled"] = json!(false),
                    _ => {
                        let words = "must_be_healthy, monitoring_only, disabled";
                        return Err(format!("--member {text}: `{word}` is not one of {words}"));
                    }
                }
            }
            members.push(member);
        }
        let members = Some(members).filter(|members| !members.is_empty());
        Writer(&mut object.fields).put("members", members);
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(super) struct NewLoadBalancer {
    /// A pool; repeat in the order of failover
    #[arg(long = "pool", value_name = "NAME")]
    pools: Vec<String>,
    /// Used when no other pool can be
    #[arg(long, value_name = "NAME")]
    fallback_pool: Option<String>,
    /// off, random, hash, geo, dynamic_latency, proximity, least_connections or least_outstanding_requests [default: off]
    #[arg(long, value_name = "POLICY")]
    steering_policy: Option<String>,
    /// With policies that weigh pools: the weight of one, such as eu=0.5; repeat for more
    #[arg(long = "pool-weight", value_name = "POOL=WEIGHT")]
    weights: Vec<String>,
    /// Words about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Make it without traffic
    #[arg(long)]
    disabled: bool,
}

impl Fields for NewLoadBalancer {
    const KIND: Kind = Kind::LoadBalancer;

    fn fill(self, object: &mut Declaration) -> Result<(), String> {
        let mut weights = Map::new();
        for text in &self.weights {
            let given = text.split_once('=').map(|(pool, weight)| (pool, scalar(weight)));
            let Some((pool, weight @ Value::Number(_))) = given else {
                return Err(format!(
                    "--pool-weight {text}: not of the form POOL=WEIGHT, such as eu=0.5"
                ));
            };
            weights.insert(pool.to_owned(), weight);
        }
        let mut writer = Writer(&mut object.fields);
        writer.list("default_pools", self.pools);
        writer.put("fallback_pool", self.fallback_pool);
        writer.put("steering_policy", self.steering_policy);
        let steering = (!weights.is_empty()).then(|| json!({"pool_weights": weights}));
        writer.put("random_steering", steering);
        writer.put("description", self.description);
        writer.disabled(self.disabled);
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(super) struct NewApplication {
    /// Transport and port, such as tcp/80, udp/53 or tcp/1000-2000
    #[arg(long)]
    protocol: Option<String>,
    /// An address that clients connect to; repeat for more [default: those of `[api] edge_ips`]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Where it leads
    #[arg(long, value_name = "NAME")]
    load_balancer: Option<String>,
    /// Where it leads instead: an origin such as tcp://10.0.0.11:8080; repeat for more
    #[arg(long = "origin-direct", value_name = "URL", conflicts_with = "load_balancer")]
    origins: Vec<String>,
    /// The port at origins that name none
    #[arg(long, value_name = "PORT")]
    origin_port: Option<u16>,
    /// Make it without traffic
    #[arg(long)]
    disabled: bool,
}

impl Fields for NewApplication {
    const KIND: Kind = Kind::Application;

    fn fill(self, object: &mut Declaration) -> Result<(), String> {
        let mut writer = Writer(&mut object.fields);
        writer.put("protocol", self.protocol);
        writer.list("addresses", self.addresses);
        writer.put("load_balancer", self.load_balancer);
        writer.list("origin_direct", self.origins);
        writer.put("origin_port", self.origin_port);
        writer.disabled(self.disabled);
        Ok(())
    }
}
