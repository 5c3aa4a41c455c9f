//! Changes of objects: what becomes of the catalog, or why nothing does.

use super::catalog::Catalog;
use super::entry::{Body, Entry, Id, time};
use super::names::first_names;
use super::operation::{Operation, Outcome, operate};
use super::references::{references, refuse_strangers};
use super::render::Rendered;
use super::text::declared;
use crate::cloudflare::{self, Application, Failure, Monitor, OriginPort, Pool, Reason};
use crate::config::{ConfigErrors, Declaration, Diagnostic, Document, Kind};
use crate::store::{RowChange, Table};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A change of one object.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub kind: Kind,
    pub action: Action,
}

/// What is to become of the object.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// A new one.
    Create(Map<String, Value>),
    /// Fields that are not given get their defaults.
    Replace(String, Map<String, Value>),
    /// Fields that are not given stay.
    Merge(String, Map<String, Value>),
    Delete(String),
    /// What the text says, in the file's vocabulary.
    Declare(Declare),
    /// A switch or a weight.
    Operate {
        name: String,
        /// Of a pool.
        origin: Option<String>,
        operation: Operation,
    },
}

/// An object in the file's vocabulary.
#[derive(Clone, PartialEq, Debug)]
pub struct Declare {
    pub object: Declaration,
    /// What it replaces; `None`: a new one.
    pub replaces: Option<String>,
    /// Of what it replaces, when its author looked at it (microseconds since 1970): a later one is not replaced.
    pub seen: Option<u64>,
}

/// A catalog after a change.
#[derive(Clone, Debug)]
pub struct Applied {
    pub catalog: Catalog,
    /// The object as it is now, or was before it went.
    pub entry: Arc<Entry>,
    pub deleted: bool,
}

/// What a change takes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Microseconds since 1970.
    pub now: u64,
    pub random: u128,
}

impl Change {
    /// What an operation does, for people; `None`: it is none.
    #[must_use]
    pub fn what(&self) -> Option<String> {
        let Action::Operate {
            name,
            origin,
            operation,
        } = &self.action
        else {
            return None;
        };
        let verb = operation.verb();
        Some(match origin {
            Some(origin) => format!("{verb} {name}/{origin}"),
            None => format!("{verb} {name}"),
        })
    }

    /// Applies the change to a catalog; what it means for the configuration is found out later.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn apply(self, catalog: &Catalog, moment: Moment) -> Result<Applied, Failure> {
        let kind = self.kind;
        // What people name and nobody has is told together with their other mistakes.
        let by_name = matches!(self.action, Action::Declare(_));
        let former = match &self.action {
            Action::Create(_) => None,
            Action::Replace(id, _) | Action::Merge(id, _) | Action::Delete(id) => {
                Some(changeable(catalog, catalog.find(kind, id)?)?)
            }
            Action::Declare(Declare { replaces, .. }) => match replaces {
                Some(name) => Some(changeable(catalog, catalog.called(kind, name)?)?),
                None => None,
            },
            Action::Operate { name, .. } => Some(Arc::clone(catalog.called(kind, name)?)),
        };
        let body = match self.action {
            Action::Create(body) | Action::Replace(_, body) => Some(body),
            Action::Declare(declare) => Some(declared(catalog, &declare, former.as_deref())?),
            Action::Operate {
                origin, operation, ..
            } => {
                let former = former.ok_or_else(|| Failure::internal("nothing is operated on"))?;
                match operate(catalog, &former, origin.as_deref(), &operation, moment.now)? {
                    Outcome::Body(body) => {
                        let body = read(kind, body.to_json(), Some(&former), moment)?;
                        return put(catalog, body, Some(&former), moment);
                    }
                    Outcome::Overridden(catalog) => {
                        let entry = Arc::clone(catalog.find(kind, former.id.as_str())?);
                        return Ok(Applied {
                            catalog,
                            entry,
                            deleted: false,
                        });
                    }
                }
            }
            Action::Merge(_, changes) => {
                let mut body = former
                    .as_ref()
                    .map(|entry| entry.body.to_json())
                    .unwrap_or_default();
                match kind {
                    Kind::Monitor => Monitor::prepare(&mut body, &changes),
                    Kind::Application => Application::prepare(&mut body, &changes),
                    Kind::MonitorGroup | Kind::Pool | Kind::LoadBalancer => {}
                }
                cloudflare::merge(&mut body, changes);
                Some(body)
            }
            Action::Delete(_) => None,
        };
        let Some(body) = body else {
            let mut objects: Vec<Arc<Entry>> = catalog.of_api().to_vec();
            let Some(entry) = former else {
                return Err(Failure::internal("an object without an id cannot be deleted"));
            };
            refuse_referenced(catalog, &entry)?;
            objects.retain(|other| other.id != entry.id);
            return Ok(Applied {
                catalog: catalog.with_objects(objects),
                entry,
                deleted: true,
            });
        };
        let body = read(kind, body, former.as_deref(), moment)?;
        let applied = put(catalog, body, former.as_deref(), moment)?;
        if !by_name {
            refuse_strangers(&applied.catalog, &applied.entry)?;
        }
        Ok(applied)
    }
}

/// An object of the API; those of the file are changed in the file.
fn changeable(catalog: &Catalog, found: &Arc<Entry>) -> Result<Arc<Entry>, Failure> {
    match found.document {
        Document::Objects => Ok(Arc::clone(found)),
        Document::File => {
            let (kind, file) = (found.kind(), catalog.file());
            Err(Failure::read_only(
                kind,
                &found.name,
                &file.place(kind, &found.name),
            ))
        }
    }
}

/// The load balancer with that name as host names are compared: in any case, with or without a final dot (RFC 4343).
fn balancer_of_host<'c>(catalog: &'c Catalog, name: &str) -> Option<&'c Arc<Entry>> {
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    catalog.named(Kind::LoadBalancer, name).or_else(|| {
        let name = plain(name);
        let mut balancers = catalog.of_kind(Kind::LoadBalancer);
        balancers.find(|entry| plain(&entry.name) == name)
    })
}

/// The catalog with an object, in the place of the former one if there is one.
fn put(
    catalog: &Catalog,
    mut body: Body,
    former: Option<&Entry>,
    moment: Moment,
) -> Result<Applied, Failure> {
    if let Body::Application(application) = &mut body
        && let Some(dns) = &mut application.origin_dns
    {
        if let Some(balancer) = balancer_of_host(catalog, &dns.name) {
            dns.name.clone_from(&balancer.name);
            dns.host_name = false;
        } else {
            dns.host_name = application.origin_port.is_some();
        }
    }
    let mut objects: Vec<Arc<Entry>> = catalog.of_api().to_vec();
    let entry = Arc::new(entry(catalog, body, former, moment)?);
    match objects.iter_mut().find(|other| other.id == entry.id) {
        Some(place) => *place = Arc::clone(&entry),
        None => objects.push(Arc::clone(&entry)),
    }
    Ok(Applied {
        catalog: catalog.with_objects(objects),
        entry,
        deleted: false,
    })
}

fn read(
    kind: Kind,
    body: Map<String, Value>,
    former: Option<&Entry>,
    moment: Moment,
) -> Result<Body, Failure> {
    Ok(match kind {
        Kind::Monitor => Body::Monitor(cloudflare::read(body)?),
        Kind::MonitorGroup => {
            let mut group: cloudflare::MonitorGroup = cloudflare::read(body)?;
            for member in &mut group.members {
                member.created_at = time(former.map_or(moment.now, |entry| entry.created));
                member.updated_at = time(moment.now);
            }
            Body::MonitorGroup(group)
        }
        Kind::Pool => {
            let mut pool: Pool = cloudflare::read(body)?;
            origins(&pool)?;
            let former = match former.map(|entry| &entry.body) {
                Some(Body::Pool(pool)) => Some(pool),
                Some(_) | None => None,
            };
            note_disabled(&mut pool, former, &time(moment.now));
            Body::Pool(pool)
        }
        Kind::LoadBalancer => Body::LoadBalancer(cloudflare::read(body)?),
        Kind::Application => {
            firewall(&body)?;
            let application = cloudflare::read(body)?;
            destination(&application)?;
            Body::Application(application)
        }
    })
}

/// Origins are known by their names: in a list, names can be missing or the same.
fn origins(pool: &Pool) -> Result<(), Failure> {
    let mut problems = Vec::new();
    if pool.origins.is_empty() {
        let message = "origins: the list is empty: a pool needs at least one origin";
        problems.push(Reason::field(Kind::Pool, "/origins", message));
    }
    let mut seen = HashSet::new();
    for (index, origin) in pool.origins.iter().enumerate() {
        let pointer = format!("/origins/{index}/name");
        let message = match origin.name.as_str() {
            "" => format!("origins[{index}].name: is missing: each origin of a pool has a name of its own"),
            name if !seen.insert(name) => {
                format!("origins[{index}].name: `{name}` is already the name of another origin of the pool")
            }
            _ => continue,
        };
        problems.push(Reason::field(Kind::Pool, &pointer, message));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Failure::invalid(problems)),
    }
}

/// Keeps since when the pool and its origins are disabled.
fn note_disabled(pool: &mut Pool, former: Option<&Pool>, now: &str) {
    let since = |enabled: bool, former: Option<&String>| {
        (!enabled).then(|| former.cloned().unwrap_or_else(|| now.to_owned()))
    };
    let before = former.and_then(|former| former.disabled_at.as_ref());
    pool.disabled_at = since(pool.enabled, before);
    for origin in &mut pool.origins {
        let origins = former.into_iter().flat_map(|former| &former.origins);
        let mut same = origins.filter(|former| former.name == origin.name);
        let before = same.next().and_then(|former| former.disabled_at.as_ref());
        origin.disabled_at = since(origin.enabled, before);
    }
}

/// `access` holds: that it does not cannot be asked for.
fn firewall(body: &Map<String, Value>) -> Result<(), Failure> {
    let is_given = body.get("access").is_some_and(|access| !access.is_null());
    if !is_given || body.get("ip_firewall") != Some(&Value::Bool(false)) {
        return Ok(());
    }
    let message = "ip_firewall: false, but `access` is given: set `access` to null, too";
    let reason = Reason::field(Kind::Application, "/ip_firewall", message);
    Err(Failure::invalid(vec![reason]))
}

/// What the configuration file says otherwise.
fn destination(application: &cloudflare::Application) -> Result<(), Failure> {
    let wrong = |code, pointer: &str, message: String| {
        let reason = Reason::field(Kind::Application, pointer, message);
        Err(Failure::invalid(vec![Reason { code, ..reason }]))
    };
    if let Some(OriginPort::Number(port)) = &application.origin_port
        && !(1..=65535).contains(port)
    {
        let message = format!("origin_port: {port} is outside 1 to 65535");
        return wrong(11001, "/origin_port", message);
    }
    if let Some(dns) = &application.origin_dns
        && let Some(ttl) = dns.ttl.filter(|ttl| *ttl < 0)
    {
        let message = format!("origin_dns.ttl: {ttl} is no number of seconds");
        return wrong(11001, "/origin_dns/ttl", message);
    }
    let direct = application
        .origin_direct
        .as_ref()
        .filter(|origins| !origins.is_empty());
    match (direct, &application.origin_dns) {
        (Some(_), None) | (None, Some(_)) => {}
        (Some(_), Some(_)) => {
            let message = "origin_dns: `origin_direct` is given too: keep one of them";
            return wrong(11000, "/origin_dns", message.to_owned());
        }
        (None, None) => {
            let message = "origin_dns: nothing says where the traffic goes: give `origin_dns` with the `name` of a load \
                           balancer, or `origin_direct`";
            return wrong(11000, "/origin_dns", message.to_owned());
        }
    }
    if application.dns.name.is_empty() {
        return wrong(
            11000,
            "/dns/name",
            "dns.name: is missing: applications are known by it".to_owned(),
        );
    }
    let edge = &application.edge_ips;
    let (kind, connectivity) = (edge.r#type.as_str(), edge.connectivity.as_deref());
    let record = match (kind, connectivity, &edge.ips) {
        ("dynamic", Some("all" | "ipv4" | "ipv6") | None, _) => "CNAME",
        ("dynamic", Some(other), _) => {
            let message = format!("edge_ips.connectivity: \"{other}\" is not one of all, ipv4, ipv6");
            return wrong(11033, "/edge_ips/connectivity", message);
        }
        ("static", _, Some(ips)) if !ips.is_empty() => "ADDRESS",
        ("static", _, _) => {
            let message = "edge_ips.ips: is missing: list the addresses that clients connect to";
            return wrong(11033, "/edge_ips/ips", message.to_owned());
        }
        (other, _, _) => {
            let message = format!("edge_ips.type: \"{other}\" is not one of static, dynamic");
            return wrong(11033, "/edge_ips/type", message);
        }
    };
    if application.dns.r#type != record {
        let message = format!(
            "dns.type: \"{}\" does not fit edge_ips of type \"{kind}\": it must be \"{record}\"",
            application.dns.r#type
        );
        return wrong(11004, "/dns/type", message);
    }
    Ok(())
}

/// The entry for a body, with its name in the file's vocabulary.
fn entry(catalog: &Catalog, body: Body, former: Option<&Entry>, moment: Moment) -> Result<Entry, Failure> {
    let kind = body.kind();
    let id = former.map_or_else(|| Id::random(moment.random), |former| former.id.clone());
    let name = match (&body, former) {
        (Body::Monitor(_) | Body::MonitorGroup(_), _) => id.to_string(),
        (Body::Pool(pool), _) => pool.name.clone(),
        (Body::LoadBalancer(balancer), _) => balancer.name.clone(),
        // Its flows and counters are known by it.
        (Body::Application(_), Some(former)) => former.name.clone(),
        (Body::Application(application), None) => {
            let (plain, protocol) = (&application.dns.name, application.transport_and_ports());
            let further = format!("{plain}-{}", protocol.replace('/', "-"));
            let numbered = (2..).map(|number| format!("{further}-{number}"));
            [plain.clone(), further.clone()]
                .into_iter()
                .chain(numbered)
                .find(|name| catalog.named(kind, name).is_none())
                .unwrap_or(further)
        }
    };
    let taken = match kind {
        Kind::LoadBalancer => balancer_of_host(catalog, &name),
        _ => catalog.named(kind, &name),
    };
    let taken = taken.filter(|other| other.id != id);
    if let Some(taken) = taken {
        let owner = match taken.document {
            Document::File => format!("declared in {}", catalog.file().path),
            Document::Objects => format!("with the id {}", taken.id),
        };
        let noun = kind.noun();
        let name = &taken.name;
        let message = format!("name: value not unique: `{name}` is already the name of the {noun} {owner}");
        let reason = Reason::field(kind, "/name", message);
        return Err(Failure::invalid(vec![Reason { code: 1003, ..reason }]));
    }
    let first_names = match (&body, former) {
        (Body::Pool(pool), Some(former)) => first_names(former, pool),
        _ => BTreeMap::new(),
    };
    // No two have the same, so that the order of creation is the order of time.
    let latest = catalog.of_api().last().map_or(0, |entry| entry.created);
    Ok(Entry {
        id,
        document: Document::Objects,
        name,
        created: former.map_or(moment.now.max(latest + 1), |former| former.created),
        modified: moment.now.max(former.map_or(latest + 1, |former| former.created)),
        first_names,
        body,
    })
}

fn refuse_referenced(catalog: &Catalog, entry: &Entry) -> Result<(), Failure> {
    const TOLD: usize = 10;
    let (referrers, _) = references(catalog, entry);
    if referrers.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = referrers
        .iter()
        .take(TOLD)
        .map(|other| format!("{} `{}` ({})", other.kind().noun(), other.title(), other.id))
        .collect();
    let more = match referrers.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Failure::new(
        412,
        1005,
        format!(
            "This object is referenced by other objects, delete them first: {}{more}.",
            names.join(", ")
        ),
    ))
}

/// What the configuration's reader says about a changed object, in the API's words.
#[must_use]
pub fn refusal(catalog: &Catalog, rendered: &Rendered, changed: &Entry, errors: &ConfigErrors) -> Failure {
    let mut reasons: Vec<Reason> = Vec::new();
    for error in &errors.errors {
        let reason = reason(catalog, rendered, changed, error);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    Failure::invalid(reasons)
}

fn reason(catalog: &Catalog, rendered: &Rendered, changed: &Entry, error: &Diagnostic) -> Reason {
    let help = error
        .help
        .as_ref()
        .map_or_else(String::new, |help| format!(" ({help})"));
    let Some((kind, id, pointer)) = rendered.place(error) else {
        // The file was right without the change.
        let code = Reason::field(changed.kind(), "", "").code;
        return Reason::new(code, error.to_string());
    };
    // A name is the key of a table there, and a field here.
    let pointer = match (error.message.starts_with("the name "), kind, pointer.is_empty()) {
        (true, Kind::Application, true) => "/dns/name".to_owned(),
        (true, _, _) if !pointer.ends_with("/name") => format!("{pointer}/name"),
        (_, _, _) => pointer,
    };
    let field = field(&pointer);
    let message = match (field.as_str(), pointer.as_str()) {
        ("", _) => format!("{}{help}", error.message),
        (_, "/origin_dns/name") if error.message.starts_with("there is no load balancer") => {
            format!(
                "{field}: {}{help}, and a host name needs an `origin_port`",
                error.message
            )
        }
        (_, "/edge_ips") if error.message == "the list is empty" => {
            "edge_ips: the node has no addresses for applications of this connectivity: set `[api] edge_ips` in its \
             configuration file, or name addresses with {\"type\": \"static\", \"ips\": [..]}"
                .to_owned()
        }
        _ => format!("{field}: {}{help}", error.message),
    };
    let reason = Reason::field(kind, &pointer, message);
    if kind == changed.kind() && *id == changed.id {
        return reason;
    }
    // Another object does not fit to the change.
    let other = catalog
        .get(kind, id)
        .map_or_else(|| id.to_string(), |entry| entry.title().to_owned());
    Reason {
        code: Reason::field(changed.kind(), "", "").code,
        message: format!("{} `{other}`: {}", kind.noun(), reason.message),
        pointer: None,
    }
}

/// `/origins/0/name` as `origins[0].name`.
pub(super) fn field(pointer: &str) -> String {
    let mut field = String::new();
    for segment in pointer.split('/').skip(1) {
        if segment.bytes().all(|byte| byte.is_ascii_digit()) && !segment.is_empty() {
            field.push_str(&format!("[{segment}]"));
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(segment);
        }
    }
    field
}

/// The rows of the store that differ between two catalogs.
#[must_use]
pub fn rows(before: &Catalog, after: &Catalog) -> Vec<RowChange> {
    let old: HashMap<&Id, &Arc<Entry>> = before.of_api().iter().map(|entry| (&entry.id, entry)).collect();
    let kept: HashSet<&Id> = after.of_api().iter().map(|entry| &entry.id).collect();
    let changed = after.of_api().iter().filter(|entry| {
        let former = old.get(&entry.id);
        !former.is_some_and(|former| Arc::ptr_eq(former, entry) || ***former == ***entry)
    });
    let gone = before.of_api().iter().filter(|entry| !kept.contains(&entry.id));
    let put = changed.map(|entry| RowChange {
        table: Table::Objects,
        key: entry.key(),
        value: Some(entry.value()),
    });
    let remove = gone.map(|entry| RowChange {
        table: Table::Objects,
        key: entry.key(),
        value: None,
    });
    put.chain(remove)
        .chain(super::overrides::rows(before.overrides(), after.overrides()))
        .collect()
}
