//! The fields of a configuration's parts as texts.
//!
//! Each part is taken apart without a rest, so that a new field of the model cannot be forgotten here.

use super::machine::{of_api, of_datapath, of_dns, of_geoip, of_history, of_node, of_webhook};
use super::writer::{Writer, letters};
use super::{Described, Part};
use crate::model::{
    Affinity, Application, Config, Coordinates, Destination, Echo, FilterOptions, Forwarding, GeoPools,
    Limits, LoadBalancer, LoadShedding, Member, Monitor, MonitorGroup, MonitorKind, NotificationFilter,
    OnUnhealthy, Origin, Pool, PoolSet, PoolWeights, Probe, ProbeSource, RecordType, SheddingPolicy,
    SomeTimeouts, Topology, UdpProbe,
};

/// All parts of a configuration.
pub fn parts(config: &Config) -> Vec<Described> {
    let Config {
        node,
        datapath,
        api,
        history,
        webhooks,
        dns,
        monitors,
        monitor_groups,
        pools,
        load_balancers,
        applications,
        geoip,
    } = config;
    let mut parts = vec![
        described(Part::Node, "", of_node(node)),
        described(Part::Datapath, "", of_datapath(datapath)),
        described(Part::Api, "", of_api(api)),
        described(Part::Dns, "", of_dns(dns)),
        described(Part::History, "", of_history(history)),
    ];
    parts.extend(
        geoip
            .iter()
            .map(|table| described(Part::Geoip, "", of_geoip(table))),
    );
    for webhook in webhooks {
        parts.push(described(Part::Webhook, &webhook.name, of_webhook(webhook)));
    }
    for monitor in monitors {
        parts.push(described(Part::Monitor, &monitor.name, of_monitor(monitor)));
    }
    for group in monitor_groups {
        parts.push(described(Part::MonitorGroup, &group.name, of_group(group)));
    }
    for pool in pools {
        parts.push(described(Part::Pool, &pool.name, of_pool(pool)));
        for origin in &pool.origins {
            let name = format!("{}/{}", pool.name, origin.name);
            parts.push(described(Part::Origin, &name, of_origin(origin)));
        }
    }
    for balancer in load_balancers {
        parts.push(described(
            Part::LoadBalancer,
            &balancer.name,
            of_balancer(balancer),
        ));
    }
    for application in applications {
        parts.push(described(
            Part::Application,
            &application.name,
            of_application(application),
        ));
    }
    parts
}

fn described(part: Part, name: &str, Writer(fields): Writer) -> Described {
    Described {
        part,
        name: name.to_owned(),
        fields,
    }
}

fn of_monitor(monitor: &Monitor) -> Writer {
    let Monitor {
        name: _,
        kind,
        interval,
        timeout,
        retries,
        consecutive_up,
        consecutive_down,
        port,
        source,
    } = monitor;
    let mut fields = Writer::default();
    fields.tell("type", kind.name());
    fields.seconds("interval", *interval);
    fields.seconds("timeout", *timeout);
    fields.tell("retries", retries);
    // 0 and 1 are the same.
    fields.tell("consecutive_up", (*consecutive_up).max(1));
    fields.tell("consecutive_down", (*consecutive_down).max(1));
    fields.tell_some("port", *port);
    let ProbeSource { v4, v6, interface } = source;
    fields.tell_some("source (IPv4)", *v4);
    fields.tell_some("source (IPv6)", *v6);
    fields.tell_some("interface", interface.as_ref());
    match kind {
        MonitorKind::Tcp | MonitorKind::IcmpPing | MonitorKind::Smtp => {}
        MonitorKind::Http(probe) => of_probe(&mut fields, probe),
        MonitorKind::Https {
            probe,
            allow_insecure,
        } => {
            of_probe(&mut fields, probe);
            fields.tell("allow_insecure", allow_insecure);
        }
        MonitorKind::UdpIcmp(UdpProbe {
            payload,
            expected_reply,
        }) => {
            fields.text("payload", &hexadecimal(payload));
            fields.text("expected_reply", &hexadecimal(expected_reply));
        }
    }
    fields
}

fn of_probe(fields: &mut Writer, probe: &Probe) {
    let Probe {
        method,
        path,
        headers,
        expected_codes,
        expected_body,
        follow_redirects,
    } = probe;
    fields.tell("method", method);
    fields.tell("path", path);
    let header = |(name, value): &(String, String)| format!("{name}: {value}");
    fields.list("header", headers.iter().map(header));
    fields.tell("expected_codes", expected_codes);
    fields.text("expected_body", expected_body);
    fields.tell("follow_redirects", follow_redirects);
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_group(group: &MonitorGroup) -> Writer {
    let MonitorGroup { name: _, members } = group;
    let mut fields = Writer::default();
    fields.list("members", members.iter().map(|member| &member.monitor));
    for member in members {
        let Member {
            monitor,
            enabled,
            monitoring_only,
            must_be_healthy,
        } = member;
        fields.tell(&format!("{monitor}.enabled"), enabled);
        fields.tell(&format!("{monitor}.monitoring_only"), monitoring_only);
        fields.tell(&format!("{monitor}.must_be_healthy"), must_be_healthy);
    }
    fields
}

fn of_pool(pool: &Pool) -> Writer {
    let Pool {
        name: _,
        // No file says it.
        identity: _,
        enabled,
        monitor,
        monitor_group,
        minimum_origins,
        origin_steering,
        on_unhealthy,
        drain_timeout,
        load_shedding,
        coordinates,
        notification_filter,
        // They are parts of their own.
        origins: _,
    } = pool;
    let mut fields = Writer::default();
    fields.tell("enabled", enabled);
    fields.tell_some("monitor", monitor.as_ref());
    fields.tell_some("monitor_group", monitor_group.as_ref());
    fields.tell("minimum_origins", minimum_origins);
    fields.tell("origin_steering.policy", origin_steering.name());
    fields.tell(
        "on_unhealthy",
        match on_unhealthy {
            OnUnhealthy::Keep => "keep",
            OnUnhealthy::Reset => "reset",
        },
    );
    fields.seconds("drain_timeout", *drain_timeout);
    let LoadShedding {
        default_percent,
        default_policy,
        session_percent,
    } = load_shedding;
    if *default_percent > 0.0 || *session_percent > 0.0 {
        fields.tell("load_shedding.default_percent", default_percent);
        fields.tell(
            "load_shedding.default_policy",
            match default_policy {
                SheddingPolicy::Random => "random",
                SheddingPolicy::Hash => "hash",
            },
        );
        fields.tell("load_shedding.session_percent", session_percent);
    }
    if let Some(Coordinates { latitude, longitude }) = coordinates {
        fields.tell("latitude", latitude);
        fields.tell("longitude", longitude);
    }
    let NotificationFilter { pool, origin } = notification_filter;
    for (whose, FilterOptions { disable, healthy }) in [("pool", pool), ("origin", origin)] {
        if *disable {
            fields.tell(&format!("notification_filter.{whose}.disable"), disable);
        }
        fields.tell_some(&format!("notification_filter.{whose}.healthy"), *healthy);
    }
    fields
}

fn of_origin(origin: &Origin) -> Writer {
    let Origin {
        name: _,
        // No file says it.
        identity: _,
        address,
        port,
        weight,
        enabled,
        forwarding,
        host,
        drain_timeout,
    } = origin;
    let mut fields = Writer::default();
    fields.tell("address", address);
    fields.tell_some("port", *port);
    fields.tell("weight", weight.value());
    fields.tell("enabled", enabled);
    fields.tell("forwarding", forwarding.name());
    if let Forwarding::DsrGue { port } = forwarding {
        fields.tell("gue_port", port);
    }
    fields.tell_some("header.Host", host.as_ref());
    if let Some(time) = drain_timeout {
        fields.seconds("drain_timeout", *time);
    }
    fields
}

fn of_balancer(balancer: &LoadBalancer) -> Writer {
    let LoadBalancer {
        name: _,
        enabled,
        default_pools,
        fallback_pool,
        steering_policy,
        random_steering,
        geo,
        pool_sets,
    } = balancer;
    let mut fields = Writer::default();
    fields.tell("enabled", enabled);
    fields.list("default_pools", default_pools);
    fields.tell_some("fallback_pool", fallback_pool.as_ref());
    fields.tell("steering_policy", steering_policy.name());
    of_weights(&mut fields, "random_steering", random_steering);
    let GeoPools {
        pops,
        countries,
        regions,
    } = geo;
    for (pop, pools) in pops {
        fields.list(&format!("pop_pools.{pop}"), pools);
    }
    for (country, pools) in countries {
        fields.list(&format!("country_pools.{}", letters(country)), pools);
    }
    for (region, pools) in regions {
        fields.list(&format!("region_pools.{region}"), pools);
    }
    // The first one that matches counts.
    fields.list("pool_sets", pool_sets.iter().map(|set| &set.name));
    for set in pool_sets {
        of_pool_set(&mut fields, set);
    }
    fields
}

fn of_weights(fields: &mut Writer, place: &str, weights: &PoolWeights) {
    let PoolWeights { named, default } = weights;
    fields.tell(&format!("{place}.default_weight"), default.value());
    for (pool, weight) in named {
        fields.tell(&format!("{place}.pool_weights.{pool}"), weight.value());
    }
}

fn of_pool_set(fields: &mut Writer, set: &PoolSet) {
    let PoolSet {
        name,
        disabled,
        topology,
        pools,
        weights,
        fallback_pool,
        steering_policy,
    } = set;
    let Topology {
        pops,
        countries,
        regions,
    } = topology;
    let field = |field: &str| format!("pool_sets.{name}.{field}");
    fields.tell(&field("disabled"), disabled);
    fields.list(&field("pops"), pops);
    fields.list(&field("countries"), countries.iter().map(letters));
    fields.list(&field("regions"), regions);
    fields.list(&field("pools"), pools.iter().flatten());
    if let Some(weights) = weights {
        of_weights(fields, &format!("pool_sets.{name}"), weights);
    }
    fields.tell_some(&field("fallback_pool"), fallback_pool.as_ref());
    fields.tell(&field("steering_policy"), steering_policy.name());
}

fn of_application(application: &Application) -> Writer {
    let Application {
        name: _,
        enabled,
        transport: _,
        ports: _,
        addresses,
        destination,
        origin_port,
        flow_timeouts,
        echo,
        access,
        limits,
        affinity,
    } = application;
    let mut fields = Writer::default();
    fields.tell("enabled", enabled);
    fields.tell("protocol", application.protocol());
    fields.list("addresses", addresses);
    match destination {
        Destination::LoadBalancer(name) => fields.tell("load_balancer", name),
        Destination::Direct(origins) => {
            let url = |origin: &crate::model::DirectOrigin| {
                let crate::model::DirectOrigin {
                    address,
                    record_type,
                    port,
                } = origin;
                let end = match address.address() {
                    Some(address) => core::net::SocketAddr::new(address, *port).to_string(),
                    None => format!("{address}:{port}"),
                };
                let records = match record_type {
                    RecordType::Any => "",
                    RecordType::A => " (A)",
                    RecordType::Aaaa => " (AAAA)",
                };
                format!("{}://{end}{records}", application.transport)
            };
            fields.list("origin_direct", origins.iter().map(url));
        }
    }
    fields.tell_some("origin_port", *origin_port);
    let SomeTimeouts {
        tcp,
        tcp_handshake,
        tcp_closing,
        udp,
    } = flow_timeouts;
    fields.some_seconds("flow_timeouts.tcp", *tcp);
    fields.some_seconds("flow_timeouts.tcp_handshake", *tcp_handshake);
    fields.some_seconds("flow_timeouts.tcp_closing", *tcp_closing);
    fields.some_seconds("flow_timeouts.udp", *udp);
    fields.tell(
        "echo",
        match echo {
            Echo::Off => "off",
            Echo::Always => "always",
            Echo::Healthy => "healthy",
        },
    );
    fields.access(access.as_deref());
    let Limits {
        new_flows_per_second,
        new_flows_per_second_per_source,
        flows_per_origin,
    } = limits;
    fields.tell_some("limits.new_flows_per_second", *new_flows_per_second);
    fields.tell_some(
        "limits.new_flows_per_second_per_source",
        *new_flows_per_second_per_source,
    );
    fields.tell_some("limits.flows_per_origin", *flows_per_origin);
    if let Some(Affinity { ttl }) = affinity {
        fields.seconds("affinity.ttl", *ttl);
    }
    fields
}
