//! Files that are right, and files that are wrong in many ways: every mistake is found, at its place.

mod documents;
mod names;
mod steering;

use super::*;
use lb_common::abi::Country;
use lb_core::model::{
    Destination, Echo, Forwarding, MonitorKind, OnUnhealthy, Pool, SteeringPolicy, TunnelSource,
};
use proptest::prelude::*;
use std::time::Duration;

const EXAMPLE: &str = include_str!("testdata/example.toml");

fn parse_text(text: &str) -> Result<Loaded, ConfigErrors> {
    parse(
        text,
        "lb.toml",
        &HostDefaults {
            node_name: "host".to_owned(),
        },
    )
}

/// What [`parse`] says about a file, one line for each error and warning.
fn verdict(text: &str) -> String {
    let (errors, warnings) = match parse_text(text) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(refused) => (refused.errors, refused.warnings),
    };
    let line = |kind: &str, diagnostic: &Diagnostic| format!("{kind} {diagnostic}\n");
    let errors = errors.iter().map(|error| line("error", error));
    errors
        .chain(warnings.iter().map(|warning| line("warning", warning)))
        .collect()
}

/// Each broken file of `testdata` with exactly what is to be said about it.
macro_rules! broken_files {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("testdata/", $name, ".toml")), include_str!(concat!("testdata/", $name, ".expected")))),*]
    };
}

#[test]
fn every_mistake_of_a_broken_file_is_reported_at_its_place() {
    let files = broken_files!(
        "access" "api" "applications" "columns" "datapath" "direct" "forwarding" "geoip" "history" "http" "inert" "limits" "load_balancers" "monitors"
        "monitor_groups" "names" "node"
        "one_line" "origins" "pool_sets" "pools" "ranges" "refused" "steering" "syntax" "types" "unknown" "warnings" "webhooks"
    );
    for (name, text, expected) in files {
        assert_eq!(verdict(text), expected, "{name}.toml");
    }
}

#[test]
fn the_example_of_the_contract_is_valid() {
    let loaded = parse_text(EXAMPLE).unwrap();
    let config = &loaded.config;
    assert_eq!(config.node.name, "edge-1");
    assert_eq!(config.datapath.interfaces, ["eth0"]);
    assert_eq!(config.api.listen, ["127.0.0.1:7600".parse().unwrap()]);
    let monitor = config.monitor("tcp-check").unwrap();
    assert_eq!(
        (&monitor.kind, monitor.interval, monitor.retries),
        (&MonitorKind::Tcp, Duration::from_secs(5), 1)
    );
    let pool = config.pool("eu").unwrap();
    assert_eq!(
        pool.origins
            .iter()
            .map(|origin| origin.weight.hundredths())
            .collect::<Vec<_>>(),
        [100, 50]
    );
    let balancer = config.load_balancer("web").unwrap();
    assert_eq!(
        (
            balancer.default_pools.as_slice(),
            balancer.fallback_pool.as_deref()
        ),
        (&["eu".to_owned()][..], Some("sorry"))
    );
    assert_eq!(
        config.applications[0].destination,
        Destination::LoadBalancer("web".to_owned())
    );
    // The example's IPv6 address has no IPv6 origin.
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_empty_file_gives_every_default() {
    let config = parse_text("").unwrap().config;
    assert_eq!(config.node.name, "host");
    assert_eq!(config.node.state_dir.to_str(), Some("/var/lib/lb"));
    assert_eq!(config.api.socket.to_str(), Some(DEFAULT_SOCKET));
    assert_eq!(config.datapath.max_flows, 1_048_576);
    assert_eq!(config.datapath.flow_timeouts.tcp, Duration::from_secs(3600));
}

#[test]
fn objects_keep_the_order_of_the_file() {
    let text = "
        [pools.z.origins.b]
        address = '10.0.0.1'
        [pools.a.origins.x]
        address = '10.0.0.2'
        [pools.z.origins.a]
        address = '10.0.0.1'
        port = 0x50
    ";
    let config = parse_text(text).unwrap().config;
    assert_eq!(
        config
            .pools
            .iter()
            .map(|pool| pool.name.as_str())
            .collect::<Vec<_>>(),
        ["z", "a"]
    );
    let origins = &config.pools[0].origins;
    assert_eq!(
        origins
            .iter()
            .map(|origin| origin.name.as_str())
            .collect::<Vec<_>>(),
        ["b", "a"]
    );
    assert_eq!((origins[0].port, origins[1].port), (None, Some(80)));
}

#[test]
fn an_origin_is_forwarded_to_as_its_pool_says_unless_it_says_otherwise() {
    let text = "
        [pools.a]
        forwarding = 'dsr_gue'
        gue_port = 7000
        [pools.a.origins]
        a = { address = '10.0.0.1' }
        b = { address = '10.0.0.2', forwarding = 'nat', port = 8080 }
        c = { address = '10.0.0.3', gue_port = 7001 }
        d = { address = '10.0.0.4', forwarding = 'dsr_l2' }
        [pools.b.origins]
        a = { address = '10.0.0.1', forwarding = 'dsr_gue' }
    ";
    let config = parse_text(text).unwrap().config;
    let forwarding: Vec<_> = config.pools[0]
        .origins
        .iter()
        .chain(&config.pools[1].origins)
        .map(|origin| origin.forwarding)
        .collect();
    let gue = |port| Forwarding::DsrGue { port };
    assert_eq!(
        forwarding,
        [
            gue(7000),
            Forwarding::Nat,
            gue(7001),
            Forwarding::DsrL2,
            gue(6080)
        ]
    );
}

#[test]
fn applications_have_ranges_of_ports() {
    let text = "
        [pools.a.origins]
        a = { address = '10.0.0.1' }
        [load_balancers.a]
        default_pools = ['a']
        [applications.a]
        protocol = 'tcp/1000-2000'
        addresses = ['203.0.113.10', '203.0.113.11']
        load_balancer = 'a'
        origin_port = '3000-4000'
        [applications.b]
        protocol = 'tcp/2001-2002'
        addresses = ['203.0.113.10']
        load_balancer = 'a'
        origin_port = 65534
        [applications.c]
        protocol = 'tcp/80-80'
        addresses = ['203.0.113.10']
        load_balancer = 'a'
        [applications.d]
        protocol = 'tcp/1-65535'
        addresses = ['203.0.113.12']
        origin_direct = ['tcp://[2001:db8::1]:1-65535']
        [applications.e]
        protocol = 'udp/5-6'
        addresses = ['203.0.113.12']
        origin_direct = ['udp://10.0.0.1:7-8', 'udp://10.0.0.2:7-8']
    ";
    let applications = parse_text(text).unwrap().config.applications;
    let ports: Vec<_> = applications
        .iter()
        .map(|application| (application.protocol(), application.port_at_origins()))
        .collect();
    let expected = [
        ("tcp/1000-2000", 3000),
        ("tcp/2001-2002", 65534),
        ("tcp/80", 80),
        ("tcp/1-65535", 1),
        ("udp/5-6", 7),
    ];
    assert_eq!(
        ports,
        expected.map(|(protocol, port)| (protocol.to_owned(), port))
    );
}

#[test]
fn applications_differ_from_the_node() {
    let text = "
        [datapath]
        flow_timeouts = { tcp = 100, udp = 10 }
        max_replies_per_second = 20
        tunnel_source = ['2001:db8:ffff::/96', '10.200.0.0/16']
        [applications.a]
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
        flow_timeouts = { udp = 0.5 }
        echo = 'always'
        [applications.b]
        protocol = 'tcp/81'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
    ";
    let config = parse_text(text).unwrap().config;
    let node = &config.datapath;
    assert_eq!(node.max_replies_per_second, 20);
    let prefixes = [node.tunnel_source.v4, node.tunnel_source.v6].map(|prefix| prefix.unwrap().to_string());
    assert_eq!(prefixes, ["10.200.0.0/16", "2001:db8:ffff::/96"]);
    let times = |index: usize| config.applications[index].flow_timeouts.or(&node.flow_timeouts);
    assert_eq!(
        (times(0).tcp, times(0).udp),
        (Duration::from_secs(100), Duration::from_millis(500))
    );
    assert_eq!(times(1).udp, Duration::from_secs(10));
    assert_eq!(
        [config.applications[0].echo, config.applications[1].echo],
        [Echo::Always, Echo::Healthy]
    );
    let node = parse_text("[datapath]\ntunnel_source = 'node'")
        .unwrap()
        .config
        .datapath;
    assert_eq!(node.tunnel_source, TunnelSource::default());
}

#[test]
fn applications_have_limits_and_affinity() {
    let text = "
        [applications.a]
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
        limits = { new_flows_per_second = 1000, new_flows_per_second_per_source = 10, flows_per_origin = 500 }
        affinity = { ttl = 600 }
        [applications.b]
        protocol = 'tcp/81'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
        limits = { flows_per_origin = 1 }
    ";
    let applications = parse_text(text).unwrap().config.applications;
    let limits = |index: usize| applications[index].limits;
    assert_eq!(limits(0).new_flows_per_second, Some(1000));
    assert_eq!(limits(0).new_flows_per_second_per_source, Some(10));
    assert_eq!(
        (limits(0).flows_per_origin, limits(1).flows_per_origin),
        (Some(500), Some(1))
    );
    assert_eq!(limits(1).new_flows_per_second, None);
    let ttl = |index: usize| applications[index].affinity.map(|affinity| affinity.ttl);
    assert_eq!((ttl(0), ttl(1)), (Some(Duration::from_secs(600)), None));
}

/// An application with this access list, and more of the file.
fn guarded(access: &str, more: &str) -> String {
    format!(
        "[applications.a]
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
        access = {{ {access} }}
        {more}"
    )
}

#[test]
fn access_lists_have_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deny.txt");
    std::fs::write(
        &file,
        "# bad\n10.0.0.0/8\n\n  192.0.2.7 ; worse\n2001:db8::/32\n10.0.0.0/8",
    )
    .unwrap();
    let access = format!(
        "allow = ['10.1.0.0/16'], deny = ['192.0.2.7', '198.51.100.0/24'], deny_files = ['{}']",
        file.display()
    );
    let text = guarded(
        &access,
        &guarded(&access, "")
            .replace("[applications.a]", "[applications.b]")
            .replace("tcp/80", "tcp/81"),
    );
    let applications = parse_text(&text).unwrap().config.applications;
    let access = applications[0].access.clone().unwrap();
    let deny: Vec<String> = access.deny.iter().map(ToString::to_string).collect();
    assert_eq!(
        deny,
        ["10.0.0.0/8", "192.0.2.7/32", "198.51.100.0/24", "2001:db8::/32"]
    );
    assert!(
        std::sync::Arc::ptr_eq(&access, applications[1].access.as_ref().unwrap()),
        "equal lists are one"
    );
    let empty = parse_text(&guarded("allow = []", "")).unwrap().config;
    assert_eq!(empty.applications[0].access, None);
}

#[test]
fn mistakes_in_files_are_told_at_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deny.txt");
    let text = guarded(&format!("deny_files = ['{}']", file.display()), "unknown = 1");
    std::fs::write(&file, "10.0.0.0/8\n 10.0.0.1/8 # no\nnonsense\n").unwrap();
    let said = verdict(&text);
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].contains("deny.txt:2:2: applications.a.access.deny_files[0]: \"10.0.0.1/8\" has bits"),
        "{said}"
    );
    assert!(lines[1].contains("deny.txt:3:1: "), "{said}");
    assert!(lines[2].contains("lb.toml:6:"), "{said}");
    std::fs::write(&file, "nonsense\n".repeat(30)).unwrap();
    let said = verdict(&text);
    assert!(
        said.contains("10 more lines of ") && said.lines().count() == 22,
        "{said}"
    );
}

#[test]
fn countries_come_from_a_database_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut database = testing::Database::new(&["country", "iso_code"]);
    database.insert("192.0.2.0/24", "DE");
    std::fs::write(path("geo.mmdb"), database.bytes()).unwrap();
    std::fs::write(path("geo.txt"), "# mine\n192.0.2.0/24 DE\n").unwrap();
    let asks = "allow_countries = ['DE']";
    for key in [
        format!("database = '{}'", path("geo.mmdb")),
        format!("prefixes = '{}'", path("geo.txt")),
    ] {
        let config = parse_text(&guarded(asks, &format!("[geoip]\n{key}")))
            .unwrap()
            .config;
        let table = config.geoip.unwrap();
        assert_eq!(
            table.rows(),
            [("192.0.2.0/24".parse().unwrap(), Country::new(*b"DE"))]
        );
        // Nobody asks.
        let config = parse_text(&guarded("deny = ['10.0.0.0/8']", &format!("[geoip]\n{key}")))
            .unwrap()
            .config;
        assert_eq!(config.geoip, None);
    }
    std::fs::write(path("bad.mmdb"), "hello").unwrap();
    std::fs::write(path("bad.txt"), "192.0.2.0/24 Germany\n192.0.2.0 24 DE\n").unwrap();
    for (key, said) in [
        (
            format!("database = '{}'", path("bad.mmdb")),
            "not a MaxMind database",
        ),
        (format!("database = '{}'", path("none")), "cannot read the file"),
        (
            format!("prefixes = '{}'", path("bad.txt")),
            "\"Germany\" is not a country code",
        ),
        (
            format!("prefixes = '{}'", path("bad.txt")),
            "bad.txt:2:1: geoip.prefixes: \"192.0.2.0 24 DE\" is not a prefix and a country",
        ),
    ] {
        let text = verdict(&guarded(asks, &format!("[geoip]\n{key}")));
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn pools_say_what_becomes_of_flows() {
    let text = "
        [pools.a]
        drain_timeout = 2.5
        on_unhealthy = 'reset'
        origins = { a = { address = '10.0.0.1' } }
        [pools.b]
        origins = { a = { address = '10.0.0.1' } }
    ";
    let pools = parse_text(text).unwrap().config.pools;
    let flows = |pool: &Pool| (pool.on_unhealthy, pool.drain_timeout);
    assert_eq!(
        flows(&pools[0]),
        (OnUnhealthy::Reset, Duration::from_millis(2500))
    );
    assert_eq!(flows(&pools[1]), (OnUnhealthy::Keep, Duration::from_secs(300)));
}

#[test]
fn random_steering_carries_its_weights() {
    let text = "
        [pools.a.origins.x]
        address = '10.0.0.2'
        [load_balancers.web]
        default_pools = ['a']
        steering_policy = 'random'
        random_steering = { default_weight = 0.2, pool_weights = { a = 0.5 } }
    ";
    let config = parse_text(text).unwrap().config;
    let balancer = &config.load_balancers[0];
    assert_eq!(balancer.steering_policy, SteeringPolicy::Random);
    let weight = |pool: &str| balancer.random_steering.of(pool).hundredths();
    assert_eq!((weight("a"), weight("b")), (50, 20));
}

#[test]
fn a_disabled_application_may_share_an_address() {
    let text = "
        [applications.blue]
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.1:80']
        [applications.green]
        enabled = false
        protocol = 'tcp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['tcp://10.0.0.2:80']
        [applications.dns]
        protocol = 'udp/80'
        addresses = ['203.0.113.10']
        origin_direct = ['udp://10.0.0.2:80']
    ";
    assert_eq!(parse_text(text).unwrap().config.applications.len(), 3);
}

#[test]
fn the_excerpt_underlines_the_value() {
    let errors = parse_text("[datapath]\nmode = \"nativ\"\n").unwrap_err();
    let text = errors.render(false);
    assert!(
        text.contains("lb.toml:2:8") && text.contains("───") && text.contains("did you mean `native`?"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(errors.render(true).contains('\u{1b}'));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let errors = load(Path::new("/nonexistent/lb.toml")).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("/nonexistent/lb.toml: cannot read the file: "),
        "{errors}"
    );
    assert_eq!(errors.errors[0].position(), None);
    assert!(load(Path::new("/")).is_err());
}

#[test]
fn the_socket_is_found_in_a_file_with_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lb.toml");
    std::fs::write(&file, "unknown = 1\n[api]\nsocket = '/tmp/x.sock'\n[pools.").unwrap();
    assert_eq!(socket_in(&file), Some(PathBuf::from("/tmp/x.sock")));
    assert_eq!(socket_in(&directory.path().join("none")), None);
}

/// Renders everything too: excerpts must stand any span.
fn survives(text: &str) {
    if let Err(refused) = parse_text(text) {
        assert!(!refused.errors.is_empty());
        assert!(!refused.render(false).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_parsed_without_panic(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn any_mutation_of_a_valid_file_is_parsed_without_panic(
        edits in prop::collection::vec((0usize..EXAMPLE.len(), 0usize..12, "[-\\[\\]{}=.\"'#0-9a-zé\n]{0,4}"), 1..6)
    ) {
        let mut text = EXAMPLE.to_owned();
        for (at, length, insert) in edits {
            let floor = |mut at: usize| { while !text.is_char_boundary(at) { at -= 1; } at };
            let (start, end) = (floor(at.min(text.len())), floor((at + length).min(text.len())));
            text.replace_range(start..end, &insert);
        }
        survives(&text);
    }

    #[test]
    fn any_value_in_any_field_is_parsed_without_panic(line in 0usize..60, value in "(-?[0-9a-fxo_.:/]{1,12}|\"[^\"\\\\\n]{0,9}\"|\\[\\]|\\{\\}|true|1979-05-27|nan|-inf)") {
        let mut lines: Vec<String> = EXAMPLE.lines().map(str::to_owned).collect();
        let at = line % lines.len();
        if let Some((key, _)) = lines[at].clone().split_once('=') {
            lines[at] = format!("{key}= {value}");
        }
        survives(&lines.join("\n"));
    }
}
