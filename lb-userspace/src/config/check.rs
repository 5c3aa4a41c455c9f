//! What can only be checked when the whole file is known: references, and addresses used twice.

use super::application::ReadApplication;
use super::load_balancer::ReadLoadBalancer;
use super::monitor_group::ReadGroup;
use super::pool::ReadPool;
use super::reader::{Located, Place, Sink, suggestion};
use super::{Declared, Document};
use lb_core::model::{Application, Host, Monitor, MonitorKind, Ports, Transport};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Reports what does not fit together.
pub(super) fn references(
    sink: &Sink,
    (monitors, groups): (&[Declared<Monitor>], &[Declared<ReadGroup>]),
    pools: &[Declared<ReadPool>],
    load_balancers: &[Declared<ReadLoadBalancer>],
    applications: &[Declared<ReadApplication>],
) {
    let monitors = Index::new("monitor", monitors);
    for name in groups.iter().flat_map(|group| &group.object.monitors) {
        let _ = monitors.resolve(sink, name);
    }
    let groups = Index::new("monitor group", groups);
    for pool in pools.iter().map(|pool| &pool.object) {
        let named = pool
            .monitor
            .as_ref()
            .and_then(|name| monitors.resolve(sink, name));
        let group = pool
            .monitor_group
            .as_ref()
            .and_then(|name| groups.resolve(sink, name));
        let members = group.into_iter().flat_map(|group| &group.group.members);
        let enabled = members.filter(|member| member.enabled);
        let members = enabled.filter_map(|member| monitors.objects.get(member.monitor.as_str()).copied());
        for monitor in named.into_iter().chain(members) {
            probed_port(sink, pool, monitor);
        }
    }
    let pools = Index::new("pool", pools);
    for balancer in load_balancers {
        let object = &balancer.object;
        for name in &object.pools {
            let _ = pools.resolve(sink, name);
        }
        for (name, list) in &object.weighted {
            if pools.resolve(sink, name).is_some()
                && !list.contains(&name.value)
                && object.load_balancer.pool_sets.is_empty()
            {
                let message = format!(
                    "pool `{}` is not one of `default_pools`: its weight has no effect",
                    name.value
                );
                sink.warning(&name.place, message, None);
            }
        }
    }
    let balancers = Index::new("load balancer", load_balancers);
    for application in applications {
        let balancer = application
            .object
            .load_balancer
            .as_ref()
            .and_then(|name| balancers.resolve(sink, name));
        if let Some(name) = &application.object.origin_dns
            && balancers.objects.contains_key(name.value.as_str())
        {
            let help = format!("write `load_balancer = \"{}\"`", name.value);
            sink.error(&name.place, "is the name of a load balancer", help);
        }
        families(sink, &application.object, balancer, &pools);
    }
    origin_ports(sink, &pools, &balancers, applications);
    listeners(sink, applications);
    loops(sink, &pools, applications);
}

/// Objects of one kind by name.
struct Index<'a, T> {
    /// What messages call the kind.
    kind: &'static str,
    objects: HashMap<&'a str, &'a T>,
    in_order: Vec<&'a T>,
}

impl<'a, T> Index<'a, T> {
    fn new(kind: &'static str, declared: &'a [Declared<T>]) -> Self {
        let objects = declared
            .iter()
            .map(|declared| (declared.name.value.as_str(), &declared.object))
            .collect();
        Self {
            kind,
            objects,
            in_order: declared.iter().map(|declared| &declared.object).collect(),
        }
    }

    /// The object of that name; reports it when there is none.
    fn resolve(&self, sink: &Sink, name: &Located<String>) -> Option<&'a T> {
        let object = self.objects.get(name.value.as_str()).copied();
        if object.is_none() {
            // In a fixed order, so that the same file always gets the same words.
            let mut known: Vec<&str> = self.objects.keys().copied().collect();
            known.sort_unstable();
            let help = suggestion(&name.value, known.iter().copied()).or_else(|| match known.len() {
                // There, names of some kinds are ids, which help nobody.
                _ if name.place.document == Document::Objects => None,
                0 => Some(format!("the file declares no {}", self.kind)),
                1..=10 => Some(format!("declared: {}", known.join(", "))),
                _ => None,
            });
            sink.error(
                &name.place,
                format!("there is no {} `{}`", self.kind, name.value),
                help,
            );
        }
        object
    }
}

/// A tcp or UDP probe needs a port from the monitor or from the origin; the others have their own.
fn probed_port(sink: &Sink, pool: &ReadPool, monitor: &Monitor) {
    let needed = matches!(monitor.kind, MonitorKind::Tcp | MonitorKind::UdpIcmp(_));
    if !needed || monitor.port.is_some() {
        return;
    }
    for (origin, place) in pool.pool.origins.iter().zip(&pool.origins) {
        // Direct ones are asked where the application's clients ask them.
        if origin.port.is_none() && !origin.forwarding.is_direct() {
            let message = format!(
                "the {} monitor `{}` does not know which port to probe",
                monitor.kind.name(),
                monitor.name
            );
            sink.error(
                &place.name,
                message,
                "set `port` on the monitor or on the origin".to_owned(),
            );
        }
    }
}

/// Warns of VIPs whose family no origin has: addresses are not translated between IPv4 and IPv6.
fn families(
    sink: &Sink,
    application: &ReadApplication,
    balancer: Option<&ReadLoadBalancer>,
    pools: &Index<'_, ReadPool>,
) {
    // Hosts, and whether clients of the other family are served too.
    let mut reached: Vec<(&Host, bool)> = Vec::new();
    match balancer {
        Some(balancer) => {
            for name in &balancer.pools {
                // An unknown pool is reported where it is named; what it would hold cannot be guessed.
                let Some(pool) = pools.objects.get(name.value.as_str()) else {
                    return;
                };
                let origins = pool.pool.origins.iter();
                reached.extend(origins.map(|origin| (&origin.address, origin.forwarding.is_direct())));
            }
        }
        None => {
            if let lb_core::model::Destination::Direct(origins) = &application.application.destination {
                reached.extend(origins.iter().map(|origin| (&origin.address, false)));
            }
        }
    }
    if reached.is_empty() {
        return;
    }
    for (vip, place) in application
        .application
        .addresses
        .iter()
        .zip(&application.addresses)
    {
        if !reached.iter().any(|(origin, both)| {
            *both
                || origin
                    .address()
                    .is_none_or(|origin| origin.is_ipv4() == vip.is_ipv4())
        }) {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            let message =
                format!("{vip} is {family}, and none of the origins behind it is: nobody can serve it");
            sink.warning(
                place,
                message,
                Some(format!("add an origin with an {family} address")),
            );
        }
    }
}

/// Ports of origins that are not the ones that packets would get there with.
fn origin_ports(
    sink: &Sink,
    pools: &Index<'_, ReadPool>,
    balancers: &Index<'_, ReadLoadBalancer>,
    applications: &[Declared<ReadApplication>],
) {
    // One message a place is enough, however many applications lead there.
    let mut told = HashSet::new();
    for declared in applications
        .iter()
        .filter(|declared| declared.object.protocol_known)
    {
        let ReadApplication {
            application,
            load_balancer,
            origin_port,
            ..
        } = &declared.object;
        let (name, ports) = (&application.name, application.ports);
        let balancer = load_balancer
            .as_ref()
            .and_then(|name| balancers.objects.get(name.value.as_str()));
        let names = balancer.iter().flat_map(|balancer| &balancer.pools);
        for pool in names.filter_map(|name| pools.objects.get(name.value.as_str())) {
            for (origin, places) in pool.pool.origins.iter().zip(&pool.origins) {
                let (port, place) = match origin.port {
                    Some(port) => (Some(port), &places.port),
                    None => (application.origin_port, origin_port),
                };
                let (Some(port), Some(place)) = (port, place) else {
                    continue;
                };
                let direct = origin.forwarding.is_direct();
                if direct && Ports::single(port) != ports && told.insert(place.key()) {
                    // A packet that arrives as it was sent has the port that the client chose.
                    let message = format!(
                        "packets reach an origin of forwarding \"{}\" as the client has sent them: to port {ports} of \
                         application `{name}`, not {port}",
                        origin.forwarding.name(),
                    );
                    let help =
                        "leave the key out, and let the origin's service listen on the application's port";
                    sink.error(place, message, help.to_owned());
                }
                if !direct && ports.is_range() && origin.port.is_some() && told.insert(place.key()) {
                    let message =
                        format!("has no effect for application `{name}`, which has a range of ports");
                    let help = "its `origin_port` says which ports its origins have";
                    sink.warning(place, message, help.to_owned());
                }
            }
        }
    }
}

/// Each port of an address and protocol belongs to one enabled application.
fn listeners(sink: &Sink, applications: &[Declared<ReadApplication>]) {
    /// One application on one address.
    type Listener<'a> = (Ports, usize, &'a Application, &'a Place);
    let mut listeners: HashMap<(IpAddr, Transport), Vec<Listener<'_>>> = HashMap::new();
    for (order, declared) in applications.iter().enumerate() {
        let application = &declared.object.application;
        if !application.enabled || !declared.object.protocol_known {
            continue;
        }
        for (address, place) in application.addresses.iter().zip(&declared.object.addresses) {
            listeners
                .entry((*address, application.transport))
                .or_default()
                .push((application.ports, order, application, place));
        }
    }
    for ((address, _), mut listeners) in listeners {
        listeners.sort_unstable_by_key(|(ports, order, ..)| (*ports, *order));
        let Some((mut widest, others)) = listeners.split_first() else {
            continue;
        };
        for listener in others {
            let (ports, order, application, place) = listener;
            if ports.first() > widest.0.last() {
                widest = listener;
                continue;
            }
            // An address that an application lists twice is reported where it is listed.
            if application.name != widest.2.name {
                let (one, other) = match *order > widest.1 {
                    true => ((*application, *place), widest.2),
                    false => ((widest.2, widest.3), *application),
                };
                overlap(sink, address, one, other);
            }
            if ports.last() > widest.0.last() {
                widest = listener;
            }
        }
    }
}

/// `application` is the one that stands later in the file.
fn overlap(sink: &Sink, address: IpAddr, (application, place): (&Application, &Place), other: &Application) {
    let message = match application.ports == other.ports {
        true => format!(
            "{address} with {} already belongs to application `{}`",
            application.protocol(),
            other.name
        ),
        false => format!(
            "{} of {address} overlaps {} of application `{}`",
            application.protocol(),
            other.protocol(),
            other.name
        ),
    };
    let help = "use another address or other ports, or disable one of them";
    sink.error(place, message, help.to_owned());
}

/// Warns of origins whose address is a VIP: lb does not handle its own packets twice.
fn loops(sink: &Sink, pools: &Index<'_, ReadPool>, applications: &[Declared<ReadApplication>]) {
    let vips: HashSet<IpAddr> = applications
        .iter()
        .flat_map(|declared| declared.object.application.addresses.iter().copied())
        .collect();
    let warn = |host: &Host, place: &super::Place| {
        if let Some(address) = host.address()
            && vips.contains(&address)
        {
            let message = format!("{address} is also the address of an application");
            let help = "packets that lb forwards are not handled a second time: name the machine behind it";
            sink.warning(place, message, help.to_owned());
        }
    };
    for pool in &pools.in_order {
        for (origin, places) in pool.pool.origins.iter().zip(&pool.origins) {
            if let Some(place) = &places.address {
                warn(&origin.address, place);
            }
        }
    }
    for declared in applications {
        if let lb_core::model::Destination::Direct(origins) = &declared.object.application.destination {
            for (origin, place) in origins.iter().zip(&declared.object.direct) {
                warn(&origin.address, place);
            }
        }
    }
}
