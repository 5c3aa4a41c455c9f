//! A status as text.

use crate::cli::table::{Align, Table};
use crate::wire::{ApplicationStatus, OriginStatus, Overridden, PoolStatus, Status};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What happened per second between two snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    applications: HashMap<String, Rate>,
    /// By pool, origin and address.
    origins: HashMap<OriginKey, Rate>,
}

/// Pool, origin and address.
type OriginKey = (String, String, Option<IpAddr>);

#[derive(Clone, Copy, PartialEq, Debug)]
struct Rate {
    new_flows: f64,
    packets: f64,
    bytes: f64,
}

impl Rates {
    pub fn new(old: &Status, new: &Status, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        // Counters fall when the maps are made anew: no rate is better than a wrong one.
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let mut rates = Self::default();
        let known: HashMap<&str, &ApplicationStatus> = old
            .applications
            .iter()
            .map(|application| (application.name.as_str(), application))
            .collect();
        for application in &new.applications {
            if let Some(old) = known.get(application.name.as_str()) {
                let rate = Rate {
                    new_flows: rate(old.new_flows_total, application.new_flows_total),
                    packets: rate(old.packets_total, application.packets_total),
                    bytes: rate(old.bytes_total, application.bytes_total),
                };
                rates.applications.insert(application.name.clone(), rate);
            }
        }
        let known: HashMap<OriginKey, &OriginStatus> = origins(old).collect();
        for (key, origin) in origins(new) {
            if let Some(old) = known.get(&key) {
                let rate = Rate {
                    new_flows: 0.0,
                    packets: rate(old.packets_total, origin.packets_total),
                    bytes: rate(old.bytes_total, origin.bytes_total),
                };
                rates.origins.insert(key, rate);
            }
        }
        rates
    }
}

fn origins(status: &Status) -> impl Iterator<Item = (OriginKey, &OriginStatus)> {
    status
        .pools
        .iter()
        .flat_map(|pool| pool.origins.iter().map(|origin| (key(pool, origin), origin)))
}

fn key(pool: &PoolStatus, origin: &OriginStatus) -> OriginKey {
    (pool.name.clone(), origin.name.clone(), origin.address)
}

/// The whole status; with `rates` (of `--watch`) instead of totals.
pub(super) fn text(status: &Status, rates: Option<Rates>, color: bool) -> String {
    let node = &status.node;
    let heading = match node.generation {
        0 => format!("{}: no configuration is live\n", node.name),
        generation => {
            format!(
                "{}: configuration {generation}, up {}, lb {}\n",
                node.name,
                uptime(node.uptime_seconds),
                node.version
            )
        }
    };
    let sections = [
        interfaces(status),
        applications(status, rates.as_ref()),
        load_balancers(status),
        pools(status, rates.as_ref()),
        names(status),
        webhooks(status),
        drops(status),
    ];
    let sections = sections
        .into_iter()
        .flatten()
        .map(|table| format!("\n{}", table.render(color)));
    let problem = node
        .store_problem
        .iter()
        .map(|problem| format!("WARNING: {problem}\n"));
    std::iter::once(heading).chain(problem).chain(sections).collect()
}

fn webhooks(status: &Status) -> Option<Table> {
    let mut table = Table::new(&[
        ("WEBHOOK", Align::Left),
        ("ADDRESS", Align::Left),
        ("WAITING", Align::Right),
        ("DELIVERED", Align::Right),
        ("LOST", Align::Right),
        ("PROBLEM", Align::Left),
    ]);
    for webhook in &status.webhooks {
        table.row([
            webhook.name.clone(),
            webhook.endpoint.clone(),
            webhook.pending.to_string(),
            webhook.delivered_total.to_string(),
            webhook.dropped_total.to_string(),
            webhook.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    (!table.is_empty()).then_some(table)
}

fn interfaces(status: &Status) -> Option<Table> {
    let mut columns = vec![
        ("INTERFACE", Align::Left),
        ("LINK", Align::Left),
        ("MODE", Align::Left),
        ("PROGRAM", Align::Right),
    ];
    if !status.unattached.is_empty() {
        columns.push(("PROBLEM", Align::Left));
    }
    let mut table = Table::new(&columns);
    for interface in &status.interfaces {
        table.row([
            interface.name.clone(),
            if interface.up { "up" } else { "DOWN" }.to_owned(),
            interface.mode.clone(),
            interface.program_id.to_string(),
        ]);
    }
    for unattached in &status.unattached {
        let (name, problem) = (unattached.name.as_str(), unattached.problem.as_str());
        table.row([name, "-", "NOT ATTACHED", "-", problem].map(str::to_owned));
    }
    if table.is_empty() {
        table.row(["none", "-", "-", "-"].map(str::to_owned));
    }
    Some(table)
}

fn applications(status: &Status, rates: Option<&Rates>) -> Option<Table> {
    let [flows, packets, bytes] = match rates {
        Some(_) => ["NEW/S", "PACKETS/S", "BYTES/S"],
        None => ["NEW FLOWS", "PACKETS", "BYTES"],
    };
    let mut table = Table::new(&[
        ("APPLICATION", Align::Left),
        ("PROTOCOL", Align::Left),
        ("ADDRESSES", Align::Left),
        ("LOAD BALANCER", Align::Left),
        ("POOL", Align::Left),
        ("FLOWS", Align::Right),
        (flows, Align::Right),
        (packets, Align::Right),
        (bytes, Align::Right),
    ]);
    for application in &status.applications {
        let pool = match (&application.pool, application.on_fallback) {
            (Some(pool), true) => format!("{pool} FALLBACK"),
            (Some(pool), false) => pool.clone(),
            (None, _) => "none".to_owned(),
        };
        let [flows, packets, bytes] = match rates.map(|rates| rates.applications.get(&application.name)) {
            None => [
                count(application.new_flows_total as f64),
                count(application.packets_total as f64),
                count(application.bytes_total as f64),
            ],
            Some(Some(rate)) => [count(rate.new_flows), count(rate.packets), count(rate.bytes)],
            Some(None) => ["-", "-", "-"].map(str::to_owned),
        };
        table.row([
            application.name.clone(),
            application.protocol.clone(),
            list(application.addresses.iter().map(ToString::to_string)),
            application
                .load_balancer
                .clone()
                .unwrap_or_else(|| "-".to_owned()),
            pool,
            application.flows.to_string(),
            flows,
            packets,
            bytes,
        ]);
    }
    Some(table).filter(|table| !table.is_empty())
}

fn load_balancers(status: &Status) -> Option<Table> {
    let mut table = Table::new(&[
        ("LOAD BALANCER", Align::Left),
        ("HEALTH", Align::Left),
        ("STEERING", Align::Left),
        ("POOLS", Align::Left),
    ]);
    for balancer in &status.load_balancers {
        let shares = balancer.pool_shares.0.iter();
        let main = balancer.routes.first();
        let on_fallback = main.map_or(balancer.on_fallback, |route| route.on_fallback);
        let mut pools = shares_of(shares.map(|(pool, share)| (pool, *share)), on_fallback);
        if let Some(by_hand) = &balancer.overridden {
            pools.push_str(&format!(" ({})", by_hand.words()));
        }
        table.row([
            balancer.name.clone(),
            balancer.health.clone(),
            balancer.steering_policy.clone(),
            pools,
        ]);
        for route in balancer.routes.iter().skip(1) {
            let pools = route.pools.iter().filter(|pool| pool.share > 0.0);
            table.row([
                format!("  from {}", list(route.countries.iter().cloned())),
                String::new(),
                route.steering_policy.clone(),
                shares_of(pools.map(|pool| (&pool.name, pool.share)), route.on_fallback),
            ]);
        }
    }
    Some(table).filter(|table| !table.is_empty())
}

fn shares_of<'a>(shares: impl Iterator<Item = (&'a String, f64)>, on_fallback: bool) -> String {
    let shares = list(shares.map(|(pool, share)| format!("{pool} {}", percent(share))));
    match shares.as_str() {
        "" => "none".to_owned(),
        _ if on_fallback => format!("{shares} FALLBACK"),
        _ => shares,
    }
}

fn pools(status: &Status, rates: Option<&Rates>) -> Option<Table> {
    let [packets, bytes] = if rates.is_some() {
        ["PACKETS/S", "BYTES/S"]
    } else {
        ["PACKETS", "BYTES"]
    };
    let mut table = Table::new(&[
        ("POOL / ORIGIN", Align::Left),
        ("ADDRESS", Align::Left),
        ("FORWARDING", Align::Left),
        ("HEALTH", Align::Left),
        ("WEIGHT", Align::Right),
        ("SHARE", Align::Right),
        ("FLOWS", Align::Right),
        (packets, Align::Right),
        (bytes, Align::Right),
        ("RTT", Align::Right),
        ("REASON", Align::Left),
    ]);
    for pool in &status.pools {
        let mut healthy = format!(
            "{} of {} healthy, needs {}",
            pool.healthy_origins,
            pool.origins.len(),
            pool.minimum_origins
        );
        if let Some(by_hand) = &pool.overridden {
            healthy.push_str(&format!("; {}", by_hand.words()));
        }
        let mut row = vec![
            pool.name.clone(),
            String::new(),
            String::new(),
            pool.health.clone(),
        ];
        row.extend(std::iter::repeat_n(String::new(), 6));
        row.push(healthy);
        table.row(row);
        for origin in &pool.origins {
            let [packets, bytes] = match rates {
                None => [
                    count(origin.packets_total as f64),
                    count(origin.bytes_total as f64),
                ],
                Some(rates) => match rates.origins.get(&key(pool, origin)) {
                    Some(rate) => [count(rate.packets), count(rate.bytes)],
                    None => ["-", "-"].map(str::to_owned),
                },
            };
            table.row([
                format!("  {}", origin.name),
                place(origin),
                origin.forwarding.clone(),
                origin.health.clone(),
                format!("{:.2}", origin.weight),
                percent(origin.share),
                origin.flows.to_string(),
                packets,
                bytes,
                origin
                    .rtt_ms
                    .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
                reason(origin),
            ]);
        }
    }
    Some(table).filter(|table| !table.is_empty())
}

/// Where it is; of a host name without an address the name.
fn place(origin: &OriginStatus) -> String {
    match (origin.address, origin.port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("{}:{port}", origin.host_name.as_deref().unwrap_or("-")),
        (None, None) => origin.host_name.clone().unwrap_or_else(|| "-".to_owned()),
    }
}

/// Addresses of one host name that are shown here; `--json` has all.
const SHOWN: usize = 4;

/// Host names of origins, with what is wrong with them.
fn names(status: &Status) -> Option<Table> {
    let mut table = Table::new(&[
        ("HOST NAME", Align::Left),
        ("ADDRESSES", Align::Left),
        ("AGE", Align::Right),
        ("PROBLEM", Align::Left),
    ]);
    for name in &status.names {
        let left_out = (name.left_out > 0).then(|| format!("{} more addresses are left out", name.left_out));
        let failure = name
            .failure
            .iter()
            .map(|failure| format!("DNS lookup failed: {failure}"));
        let problems = failure.chain(name.refused.iter().cloned()).chain(left_out);
        let addresses = name.addresses.iter().take(SHOWN).map(ToString::to_string);
        let more = name.addresses.len().saturating_sub(SHOWN);
        table.row([
            name.name.clone(),
            match (name.addresses.len(), more) {
                (0, _) => "-".to_owned(),
                (_, 0) => list(addresses),
                (_, more) => format!("{} and {more} more", list(addresses)),
            },
            name.age_seconds
                .map_or_else(|| "-".to_owned(), |age| format!("{age} s")),
            problems.collect::<Vec<_>>().join("; "),
        ]);
    }
    Some(table).filter(|table| !table.is_empty())
}

/// Everything that keeps traffic away.
fn reason(origin: &OriginStatus) -> String {
    let draining = origin.draining.then(|| match origin.drain_seconds_left {
        Some(0) => "drained".to_owned(),
        Some(seconds) => format!("draining, {seconds} s left"),
        None => "draining".to_owned(),
    });
    let by_hand = origin.overridden.iter().map(Overridden::words);
    let reasons: Vec<String> = draining
        .into_iter()
        .chain(by_hand)
        .chain(origin.failure_reason.clone())
        .chain(members(origin))
        .chain(origin.path_problem.clone())
        .collect();
    reasons.join("; ")
}

fn drops(status: &Status) -> Option<Table> {
    let mut table = Table::new(&[("DROPS", Align::Left), ("PACKETS", Align::Right)]);
    for (reason, packets) in status.drops.0.iter().filter(|(_, packets)| *packets > 0) {
        table.row([reason.clone(), packets.to_string()]);
    }
    Some(table).filter(|table| !table.is_empty())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A number in four or five characters: `999`, `1.2k`, `34.5M`.
fn count(number: f64) -> String {
    let mut rest = number;
    for suffix in ["", "k", "M", "G", "T"] {
        // What would be rounded to 1000 belongs to the next suffix.
        if rest < 999.5 {
            return match suffix {
                "" => format!("{rest:.0}"),
                _ => format!("{rest:.1}{suffix}"),
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.1}P")
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The members of a monitor group that find the origin unhealthy.
fn members(origin: &OriginStatus) -> Option<String> {
    let failing = origin
        .monitors
        .iter()
        .filter(|member| member.health == "unhealthy");
    let names: Vec<&str> = failing.map(|member| member.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("says {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(packets: u64) -> Status {
        serde_json::from_value(serde_json::json!({
            "api_version": 1,
            "node": {"name": "edge-1", "version": "0.1.0", "abi_version": 1, "generation": 4, "uptime_seconds": 75},
            "interfaces": [{"name": "eth0", "mode": "native", "program_id": 12, "up": true}],
            "unattached": [{"name": "eth1", "problem": "there is no such interface (yet)"}],
            "applications": [{
                "name": "web", "protocol": "tcp/80", "addresses": ["203.0.113.10"], "load_balancer": "lb",
                "pool": "sorry", "on_fallback": true, "flows": 3, "new_flows_total": 5,
                "packets_total": packets, "bytes_total": packets * 100
            }],
            "load_balancers": [{
                "name": "lb", "health": "critical", "steering_policy": "off",
                "pool_shares": {"sorry": 1.0}, "on_fallback": true, "routes": [
                    {"countries": [], "source": "default_pools", "steering_policy": "off", "on_fallback": true, "pools": []},
                    {"countries": ["DE", "FR"], "source": "pool set eu", "steering_policy": "random", "on_fallback": false,
                     "pools": [{"name": "eu", "share": 1.0, "why": "weight 1"}, {"name": "us", "share": 0.0, "why": "disabled"}]}
                ]
            }],
            "pools": [{
                "name": "eu", "health": "critical", "healthy_origins": 0, "minimum_origins": 1,
                "origins": [{
                    "name": "a", "address": "2001:db8::1", "port": 80, "forwarding": "dsr_l2", "enabled": true, "health": "unhealthy",
                    "failure_reason": "TCP Timeout", "weight": 0.5, "share": 0.0, "flows": 0,
                    "packets_total": packets, "bytes_total": 0, "rtt_ms": null, "draining": false,
                    "path_problem": null
                }]
            }],
            "drops": {"no_origin": 4, "malformed": 0}
        }))
        .unwrap()
    }

    #[test]
    fn a_status_is_readable() {
        let expected = "\
edge-1: configuration 4, up 1 min, lb 0.1.0

INTERFACE  LINK  MODE          PROGRAM  PROBLEM
eth0       up    native             12
eth1       -     NOT ATTACHED        -  there is no such interface (yet)

APPLICATION  PROTOCOL  ADDRESSES     LOAD BALANCER  POOL            FLOWS  NEW FLOWS  PACKETS   BYTES
web          tcp/80    203.0.113.10  lb             sorry FALLBACK      3          5     2.0k  200.0k

LOAD BALANCER  HEALTH    STEERING  POOLS
lb             critical  off       sorry 100.0% FALLBACK
  from DE, FR            random    eu 100.0%

POOL / ORIGIN  ADDRESS           FORWARDING  HEALTH     WEIGHT  SHARE  FLOWS  PACKETS  BYTES  RTT  REASON
eu                                           critical                                              0 of 1 healthy, needs 1
  a            [2001:db8::1]:80  dsr_l2      unhealthy    0.50   0.0%      0     2.0k      0    -  TCP Timeout

DROPS      PACKETS
no_origin        4
";
        assert_eq!(text(&status(2000), None, false), expected);
        assert!(text(&status(2000), None, true).contains("\u{1b}["));
    }

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let rates = |old, new| Rates::new(&status(old), &status(new), Duration::from_secs(2));
        assert_eq!(rates(1000, 3000).applications["web"].packets, 1000.0);
        assert_eq!(rates(3000, 1000).applications["web"].packets, 0.0);
        let frame = text(&status(3000), Some(rates(1000, 3000)), false);
        assert!(frame.contains("PACKETS/S") && frame.contains("1.0k"), "{frame}");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.0k"),
            (34_512_345.0, "34.5M"),
            (2e18, "2000.0P"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(uptime(7325), "2 h 2 min");
    }
}
