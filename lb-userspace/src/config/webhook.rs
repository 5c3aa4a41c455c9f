//! `[webhooks.NAME]`, and `notification_filter` of pools.

use super::node::absolute;
use super::reader::{Located, Table, Value, suggestion};
use super::{address, check_name, enabled, seconds};
use lb_core::model::{EventSources, FilterOptions, NotificationFilter, Tells, Webhook, WebhookUrl};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Reads the webhooks of a file that has these pools.
pub(super) fn webhooks(root: &Table<'_>, pools: &[&str]) -> Vec<Webhook> {
    let Some(table) = root.table("webhooks") else {
        return Vec::new();
    };
    let mut webhooks = Vec::new();
    for (name, value) in table.entries() {
        check_name(table.sink, &name);
        if let Some(table) = value.table() {
            webhooks.extend(webhook(&name, &table, pools));
        }
    }
    webhooks
}

fn webhook(name: &Located<String>, table: &Table<'_>, known: &[&str]) -> Option<Webhook> {
    let location = table.get("url");
    if location.is_none() {
        let help = "add `url = \"https://hooks.example.com/lb\"`".to_owned();
        table.sink.error(&table.place, "the webhook has no `url`", help);
    }
    let boolean = |key| table.get(key).and_then(|value| value.boolean()).unwrap_or(false);
    let duration = |key, most, default: Duration| {
        table
            .get(key)
            .and_then(|value| seconds(&value, 0.1..=most))
            .unwrap_or(default)
    };
    let webhook = Webhook {
        name: name.value.clone(),
        enabled: enabled(table),
        allow_insecure: boolean("allow_insecure"),
        secret_file: table.get("secret_file").as_ref().and_then(absolute),
        pools: pools(table, known),
        sources: sources(table),
        tells: tells(table),
        pool_enablement: boolean("pool_enablement"),
        timeout: duration("timeout", 60.0, Webhook::TIMEOUT),
        max_pending: table
            .get("max_pending")
            .and_then(|value| value.integer(1..=100_000))
            .unwrap_or(Webhook::MAX_PENDING),
        give_up_after: duration("give_up_after", 2_592_000.0, Webhook::GIVE_UP_AFTER),
        url: location.as_ref().and_then(url).unwrap_or(WebhookUrl {
            tls: false,
            host: String::new(),
            port: 0,
            path: String::new(),
        }),
    };
    if let (Some(location), false) = (&location, webhook.url.tls || is_loopback(&webhook.url.host)) {
        let message = "has no TLS: what is sent can be read and changed on the way";
        table.sink.warning(&location.place, message, None);
    }
    table.report_unknown();
    location.map(|_| webhook)
}

fn is_loopback(host: &str) -> bool {
    host.is_empty()
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An URL of `http` or `https`. Its path may be a secret: messages do not repeat it.
fn url(value: &Value<'_>) -> Option<WebhookUrl> {
    let help = || "write an URL such as \"https://hooks.example.com/lb\"".to_owned();
    let text = value.string()?;
    let (tls, rest) = if let Some(rest) = text.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = text.strip_prefix("http://") {
        (false, rest)
    } else {
        value.error("is not an URL of http or https", help());
        return None;
    };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let help = "escape them, such as %20 for a space".to_owned();
        value.error("contains characters that an URL cannot have", help);
        return None;
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    if authority.contains('@') {
        let help = "who sends is shown by the signature: see `secret_file`".to_owned();
        value.error("holds a user or a password", help);
        return None;
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_host = match authority.starts_with('[') {
        true => host.parse::<Ipv6Addr>().is_ok(),
        false => host.parse::<IpAddr>().is_ok() || address::is_host_name(host),
    };
    if !is_host {
        value.error(format!("\"{host}\" is no host name and no address"), help());
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => Some(if tls { 443 } else { 80 }),
        None => None,
        Some(port) => port.parse().ok().filter(|port| *port != 0),
    };
    let Some(port) = port else {
        value.error("the port is no number from 1 to 65535", help());
        return None;
    };
    Some(WebhookUrl {
        tls,
        host: host.to_owned(),
        port,
        path: if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        },
    })
}

fn pools(table: &Table<'_>, known: &[&str]) -> Vec<String> {
    let mut pools: Vec<String> = Vec::new();
    let list = table.get("pools");
    for item in list.iter().flat_map(|value| value.list("[\"eu\"]")) {
        let Some(name) = item.string() else { continue };
        if pools.iter().any(|pool| pool == name) {
            item.error(format!("\"{name}\" is listed twice"), None);
        } else if !known.contains(&name) {
            let message = format!("there is no pool `{name}` now; one that the API makes is told of");
            item.sink
                .warning(&item.place, message, suggestion(name, known.iter().copied()));
        }
        pools.push(name.to_owned());
    }
    if let Some(list) = list.filter(|list| list.is_list() && pools.is_empty()) {
        let help = "leave the key out for all pools, or set `enabled = false`".to_owned();
        list.error("names no pool: nothing would be told", help);
    }
    pools
}

/// The words of a list, each of `words` at most once; `None` if there is no list.
fn words<T: Copy>(table: &Table<'_>, key: &'static str, words: &[(&'static str, T)]) -> Option<Vec<T>> {
    let list = table.get(key)?;
    let example = format!("[\"{}\"]", words.first().map_or("", |(word, _)| word));
    let items = list.list(&example);
    if items.is_empty() && list.is_list() {
        list.error(
            "names nothing",
            "leave the key out, or set `enabled = false`".to_owned(),
        );
    }
    Some(items.iter().filter_map(|item| item.word(words)).collect())
}

fn sources(table: &Table<'_>) -> EventSources {
    let known = [("pool", 0), ("origin", 1), ("load_balancer", 2)];
    words(table, "event_source", &known).map_or_else(EventSources::default, |found| EventSources {
        pool: found.contains(&0),
        origin: found.contains(&1),
        load_balancer: found.contains(&2),
    })
}

fn tells(table: &Table<'_>) -> Tells {
    let known = [
        ("unhealthy", false),
        ("healthy", true),
        ("Unhealthy", false),
        ("Healthy", true),
    ];
    words(table, "new_health", &known).map_or_else(Tells::default, |found| Tells {
        healthy: found.contains(&true),
        unhealthy: found.contains(&false),
    })
}

/// `notification_filter = { pool = { healthy = false }, origin = { disable = true } }`.
pub(super) fn notification_filter(pool: &Table<'_>) -> NotificationFilter {
    let mut filter = NotificationFilter::default();
    let Some(table) = pool.table("notification_filter") else {
        return filter;
    };
    for (key, options) in [("pool", &mut filter.pool), ("origin", &mut filter.origin)] {
        if let Some(table) = table.table(key) {
            *options = FilterOptions {
                disable: table
                    .get("disable")
                    .and_then(|value| value.boolean())
                    .unwrap_or(false),
                healthy: table.get("healthy").and_then(|value| value.boolean()),
            };
            table.report_unknown();
        }
    }
    table.report_unknown();
    filter
}

#[cfg(test)]
mod tests {
    use super::super::testing_config;
    use super::*;

    fn webhook(lines: &str) -> Webhook {
        testing_config(&format!(
            "[pools.eu.origins.a]\naddress = \"10.0.0.1\"\n[webhooks.ops]\n{lines}\n"
        ))
        .webhooks
        .remove(0)
    }

    #[test]
    fn a_webhook_has_an_address_and_defaults() {
        for (text, tls, host, port, path) in [
            (
                "https://hooks.example.com/a/b?c=d#e",
                true,
                "hooks.example.com",
                443,
                "/a/b?c=d",
            ),
            ("http://127.0.0.1:8080", false, "127.0.0.1", 8080, "/"),
            ("https://[2001:db8::1]?x", true, "2001:db8::1", 443, "/?x"),
            ("http://[::1]:99/", false, "::1", 99, "/"),
        ] {
            let found = webhook(&format!("url = {text:?}"));
            let expected = WebhookUrl {
                tls,
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            };
            assert!(
                found.url == expected && found.url.path == path,
                "{text}: {:?}",
                found.url
            );
            assert_eq!(
                (found.sources, found.tells),
                (EventSources::default(), Tells::default())
            );
        }
        let found = webhook(
            "url = \"https://h.example\"\npools = [\"eu\"]\nevent_source = [\"load_balancer\"]\nnew_health = [\"Unhealthy\"]",
        );
        assert_eq!(
            found.sources,
            EventSources {
                pool: false,
                origin: false,
                load_balancer: true
            }
        );
        assert_eq!(
            found.tells,
            Tells {
                healthy: false,
                unhealthy: true
            }
        );
    }

    #[test]
    fn pools_choose_what_is_told_of_them() {
        let filter = "notification_filter = { pool = { healthy = false }, origin = { disable = true } }";
        let text = format!("[pools.eu]\n{filter}\n[pools.eu.origins.a]\naddress = \"10.0.0.1\"\n");
        let found = testing_config(&text).pools[0].notification_filter;
        assert!(found.pool.passes(false) && !found.pool.passes(true));
        assert!(!found.origin.passes(false) && !found.origin.passes(true));
    }
}
