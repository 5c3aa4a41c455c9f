//! Host names of origins, and `[dns]`.

use super::*;
use lb_core::model::{Destination, DirectOrigin, Dns, Host, RecordType};

fn pool(origins: &[(&str, &str)]) -> String {
    let origins = origins
        .iter()
        .map(|(name, address)| format!("[pools.p.origins.{name}]\naddress = '{address}'\nport = 80\n"));
    origins.collect()
}

#[test]
fn origins_have_addresses_or_host_names() {
    let text = pool(&[
        ("a", "10.0.0.1"),
        ("b", "DB-1.Example.com."),
        ("c", "db"),
        ("d", "_srv.xn--mnchen-3ya.de"),
    ]);
    let text = format!(
        "{text}
        [applications.x]
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:81', 'tcp://Db.example.com:82']
        [applications.y]
        protocol = 'udp/80-89'
        addresses = ['203.0.113.10']
        origin_direct = ['udp://db.example.com:180-189']"
    );
    let loaded = parse_text(&text).unwrap();
    assert!(loaded.warnings.is_empty());
    let config = loaded.config;
    let hosts: Vec<String> = config.pools[0]
        .origins
        .iter()
        .map(|origin| origin.address.to_string())
        .collect();
    assert_eq!(
        hosts,
        ["10.0.0.1", "db-1.example.com", "db", "_srv.xn--mnchen-3ya.de"]
    );
    let Destination::Direct(direct) = &config.applications[0].destination else {
        panic!("{:?}", config.applications[0]);
    };
    assert_eq!(
        (&direct[1].address, direct[1].port),
        (&Host::Name("db.example.com".to_owned()), 82)
    );
    assert_eq!(config.applications[1].port_at_origins(), 180);
    let names: Vec<&str> = config.host_names().into_iter().collect();
    assert_eq!(
        names,
        [
            "_srv.xn--mnchen-3ya.de",
            "db",
            "db-1.example.com",
            "db.example.com"
        ]
    );
}

#[test]
fn names_that_cannot_be_looked_up_are_refused() {
    let long = format!("{}.example.com", "a".repeat(64));
    let longest = format!("{}example.com", "a.".repeat(130));
    for (address, message) in [
        ("a..example.com", "has an empty label"),
        (".example.com", "has an empty label"),
        ("-a.example.com", "has a label that begins or ends with `-`"),
        ("a-.example.com", "has a label that begins or ends with `-`"),
        ("münchen.de", "has characters that no host name has"),
        ("localhost", "is this machine itself"),
        ("db.localhost", "is this machine itself"),
        (long.as_str(), "has a label of 64 characters"),
        (longest.as_str(), "has 271 characters"),
        ("db.example.com:80", "is a host name with a port"),
        ("10.0.0.300", "is not an IP address"),
        ("http://db.example.com", "is a URL"),
        ("a b.example.com", "is not an IP address"),
        ("", "the address is empty"),
    ] {
        let errors = parse_text(&pool(&[("a", address)])).unwrap_err().errors;
        let messages: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
        assert!(
            messages.len() == 1 && messages[0].contains(message),
            "{address}: {messages:?}"
        );
    }
    for (origin, message) in [
        ("tcp://db.example.com", "has no port"),
        ("tcp://db.example.com:0", "is not a port from 1 to 65535"),
        ("tcp://localhost:80", "is this machine itself"),
        ("tcp://a..b:80", "has an empty label"),
        ("tcp://10.0.0.300:80", "is not an address with a port"),
    ] {
        let text = format!(
            "[applications.x]
            protocol = 'tcp/80'
            addresses = ['203.0.113.10']
            origin_direct = ['{origin}']"
        );
        let errors = parse_text(&text).unwrap_err().errors;
        assert!(errors[0].to_string().contains(message), "{origin}: {}", errors[0]);
    }
    let twice = pool(&[("a", "db.example.com"), ("b", "DB.example.com")]);
    let errors = parse_text(&twice).unwrap_err().errors;
    assert!(
        errors[0].to_string().contains("is also the address of `a`"),
        "{}",
        errors[0]
    );
    // VIPs stay addresses.
    let vip = "[applications.x]\nprotocol = 'tcp/80'\naddresses = ['vip.example.com']\norigin_direct = ['tcp://10.0.0.1:80']";
    let errors = parse_text(vip).unwrap_err().errors;
    assert!(errors[0].to_string().contains("is a host name"), "{}", errors[0]);
}

#[test]
fn name_servers_and_ttls_are_settings() {
    assert_eq!(parse_text("").unwrap().config.dns, Dns::default());
    let text =
        "[dns]\nservers = ['192.0.2.53', '127.0.0.1:5353', '[2001:db8::53]:54']\nmin_ttl = 1\nmax_ttl = 60";
    let dns = parse_text(text).unwrap().config.dns;
    let servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53:53", "127.0.0.1:5353", "[2001:db8::53]:54"]);
    assert_eq!((dns.min_ttl.as_secs(), dns.max_ttl.as_secs()), (1, 60));
    for (text, message) in [
        (
            "servers = ['ns.example.com']",
            "is not the address of a name server",
        ),
        ("servers = ['0.0.0.0']", "is the unspecified address"),
        ("servers = ['192.0.2.1:0']", "the port is 0"),
        ("servers = ['192.0.2.1', '192.0.2.1:53']", "is listed twice"),
        ("min_ttl = 0", "0"),
        ("min_ttl = 10\nmax_ttl = 5", "less than `min_ttl`"),
        ("server = ['192.0.2.1']", "server"),
    ] {
        let errors = parse_text(&format!("[dns]\n{text}")).unwrap_err().errors;
        assert!(errors[0].to_string().contains(message), "{text}: {}", errors[0]);
    }
}

fn by_name(more: &str) -> String {
    format!("[applications.x]\nprotocol = 'tcp/1000-1002'\naddresses = ['203.0.113.10']\n{more}")
}

#[test]
fn an_application_may_lead_to_a_host_name() {
    for (more, record_type, port) in [
        ("origin_dns = { name = 'Db.example.com' }", RecordType::Any, 1000),
        (
            "origin_dns = { name = 'db.example.com', type = 'A', ttl = 600 }\norigin_port = '2000-2002'",
            RecordType::A,
            2000,
        ),
        (
            "origin_dns = { name = 'db.example.com', type = 'AAAA' }\norigin_port = 3000",
            RecordType::Aaaa,
            3000,
        ),
    ] {
        let config = parse_text(&by_name(more)).unwrap().config;
        let expected = DirectOrigin {
            address: Host::Name("db.example.com".to_owned()),
            record_type,
            port,
        };
        assert_eq!(
            config.applications[0].destination,
            Destination::Direct(vec![expected])
        );
        assert_eq!(config.applications[0].port_at_origins(), port);
    }
    for (more, message) in [
        (
            "origin_dns = { name = 'db.example.com', type = 'SRV' }",
            "SRV records are not looked up",
        ),
        ("origin_dns = { name = 'db.example.com', type = 'MX' }", "MX"),
        ("origin_dns = { name = 'db.example.com', ttl = 30 }", "30"),
        ("origin_dns = { name = '10.0.0.1' }", "is an address"),
        ("origin_dns = { name = '*.example.com' }", "is not a host name"),
        ("origin_dns = { }", "`name` is missing"),
        (
            "origin_dns = { name = 'a.example.com' }\nload_balancer = 'b'",
            "`load_balancer` is given too",
        ),
        (
            "origin_dns = { name = 'a.example.com' }\norigin_direct = ['tcp://10.0.0.1:1-3']",
            "`origin_direct` is given too",
        ),
    ] {
        let errors = parse_text(&by_name(more)).unwrap_err();
        assert!(
            errors.errors[0].to_string().contains(message),
            "{more}: {}",
            errors.render(false)
        );
    }
    let balancer = "origin_dns = { name = 'lb' }\n[load_balancers.lb]\ndefault_pools = ['p']\n";
    let text = by_name(balancer) + &pool(&[("a", "10.0.0.1")]);
    let errors = parse_text(&text).unwrap_err();
    assert!(
        errors.errors[0]
            .to_string()
            .contains("is the name of a load balancer"),
        "{}",
        errors.render(false)
    );
}
