//! The fields of what there is one of, and of webhooks.

use super::writer::{Writer, fingerprint, letters};
use crate::model::{
    Api, AttachMode, CountryTable, Datapath, Dns, EventSources, FlowTimeouts, History, Node, OnExit, Prefix,
    Tells, TunnelSource, Webhook,
};
use lb_common::abi::Country;

pub fn of_node(node: &Node) -> Writer {
    let Node {
        name,
        pop,
        region,
        country,
        latitude,
        longitude,
        state_dir,
    } = node;
    let mut fields = Writer::default();
    fields.tell("name", name);
    fields.tell_some("pop", pop.as_ref());
    fields.tell_some("region", region.as_ref());
    fields.tell_some("country", country.as_ref());
    fields.tell_some("latitude", *latitude);
    fields.tell_some("longitude", *longitude);
    fields.tell("state_dir", state_dir.display());
    fields
}

pub fn of_datapath(datapath: &Datapath) -> Writer {
    let Datapath {
        interfaces,
        mode,
        snat_addresses,
        max_flows,
        on_exit,
        flow_timeouts,
        max_replies_per_second,
        tunnel_source,
        access,
    } = datapath;
    let mut fields = Writer::default();
    fields.list("interfaces", interfaces);
    fields.tell(
        "mode",
        match mode {
            AttachMode::Auto => "auto",
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        },
    );
    fields.list("snat_addresses", snat_addresses);
    fields.tell("max_flows", max_flows);
    fields.tell(
        "on_exit",
        match on_exit {
            OnExit::Keep => "keep",
            OnExit::Detach => "detach",
        },
    );
    let FlowTimeouts {
        tcp,
        tcp_handshake,
        tcp_closing,
        udp,
    } = flow_timeouts;
    fields.seconds("flow_timeouts.tcp", *tcp);
    fields.seconds("flow_timeouts.tcp_handshake", *tcp_handshake);
    fields.seconds("flow_timeouts.tcp_closing", *tcp_closing);
    fields.seconds("flow_timeouts.udp", *udp);
    fields.tell("max_replies_per_second", max_replies_per_second);
    let TunnelSource { v4, v6 } = tunnel_source;
    let prefixes: Vec<&Prefix> = v4.iter().chain(v6).collect();
    match prefixes.is_empty() {
        true => fields.tell("tunnel_source", "node"),
        false => fields.list("tunnel_source", prefixes),
    }
    fields.access(access.as_deref());
    fields
}

pub fn of_api(api: &Api) -> Writer {
    let Api {
        socket,
        listen,
        token_file,
        edge_ips,
    } = api;
    let mut fields = Writer::default();
    fields.tell("socket", socket.display());
    fields.list("listen", listen);
    fields.tell_some("token_file", token_file.as_ref().map(|file| file.display()));
    fields.list("edge_ips", edge_ips);
    fields
}

pub fn of_dns(dns: &Dns) -> Writer {
    let Dns {
        servers,
        min_ttl,
        max_ttl,
    } = dns;
    let mut fields = Writer::default();
    fields.list("servers", servers);
    fields.seconds("min_ttl", *min_ttl);
    fields.seconds("max_ttl", *max_ttl);
    fields
}

pub fn of_history(history: &History) -> Writer {
    let History {
        max_events,
        retention,
        max_minutes,
        traffic_retention,
    } = history;
    let mut fields = Writer::default();
    fields.tell("max_events", max_events);
    fields.seconds("retention", *retention);
    fields.tell("max_minutes", max_minutes);
    fields.seconds("traffic_retention", *traffic_retention);
    fields
}

pub fn of_webhook(webhook: &Webhook) -> Writer {
    let Webhook {
        name: _,
        enabled,
        url,
        allow_insecure,
        secret_file,
        pools,
        sources,
        tells,
        pool_enablement,
        timeout,
        max_pending,
        give_up_after,
    } = webhook;
    let mut fields = Writer::default();
    fields.tell("enabled", enabled);
    // Paths are often secret.
    let path = fingerprint(url.path.bytes());
    fields.tell("url", format!("{}/.. (fingerprint {path:016x})", url.endpoint()));
    fields.tell("allow_insecure", allow_insecure);
    fields.tell_some("secret_file", secret_file.as_ref().map(|file| file.display()));
    fields.list("pools", pools);
    let EventSources {
        pool,
        origin,
        load_balancer,
    } = sources;
    let words = [
        (pool, "pool"),
        (origin, "origin"),
        (load_balancer, "load_balancer"),
    ];
    fields.list(
        "event_source",
        words.iter().filter(|(told, _)| **told).map(|(_, word)| word),
    );
    let Tells { healthy, unhealthy } = tells;
    let words = [(healthy, "healthy"), (unhealthy, "unhealthy")];
    fields.list(
        "new_health",
        words.iter().filter(|(told, _)| **told).map(|(_, word)| word),
    );
    fields.tell("pool_enablement", pool_enablement);
    fields.seconds("timeout", *timeout);
    fields.tell("max_pending", max_pending);
    fields.seconds("give_up_after", *give_up_after);
    fields
}

pub fn of_geoip(table: &CountryTable) -> Writer {
    let mut fields = Writer::default();
    let row = |(prefix, country): &(Prefix, Country)| format!("{prefix} {}", letters(country));
    fields.list("prefixes", table.rows().iter().map(row));
    fields
}
