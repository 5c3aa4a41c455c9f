//! The file together with the objects of the API.

use super::*;

fn compile_both(file: &str, objects: &str) -> Result<Compiled, ConfigErrors> {
    let defaults = HostDefaults {
        node_name: "host".to_owned(),
    };
    compile(
        &Source::new("lb.toml", file),
        Some(&Source::new("API", objects)),
        &Imports::default(),
        &defaults,
    )
}

#[test]
fn references_go_across_documents() {
    let file = r#"
        [pools.eu]
        monitor = "0123456789abcdef0123456789abcdef"
        [pools.eu.origins.a]
        address = "10.0.0.1"
        port = 80
        [applications.web]
        protocol = "tcp/80"
        addresses = ["203.0.113.10"]
        load_balancer = "*.example.com"
    "#;
    let objects = r#"
        [monitors.0123456789abcdef0123456789abcdef]
        type = "tcp"
        [load_balancers."*.example.com"]
        default_pools = ["eu"]
    "#;
    let config = compile_both(file, objects).unwrap().config;
    assert_eq!(
        config.pools[0].monitor.as_deref(),
        Some(config.monitors[0].name.as_str())
    );
    assert_eq!(config.load_balancers[0].name, "*.example.com");
}

#[test]
fn a_mistake_tells_its_document() {
    let file = "[pools.eu.origins.a]\naddress = \"10.0.0.1\"\n\n[monitors.m]\ntype = \"tpc\"\n";
    let objects = "[pools.eu.origins.a]\naddress = \"10.0.0.2\"\nwieght = 1\n\n[node]\nname = \"x\"\n";
    let refused = compile_both(file, objects).unwrap_err();
    let told: Vec<_> = refused
        .errors
        .iter()
        .map(|error| (error.document, error.to_string()))
        .collect();
    let expected = [
        (
            Document::File,
            "lb.toml:5:8: monitors.m.type: \"tpc\" is not one of tcp, http, https, icmp_ping, udp_icmp, smtp (did you \
             mean `tcp`?)",
        ),
        (
            Document::Objects,
            "API:1:8: pools.eu: `eu` is already the name of a pool in lb.toml:1 (choose another name, or remove that \
             one)",
        ),
        (
            Document::Objects,
            "API:3:1: pools.eu.origins.a.wieght: unknown key `wieght` (did you mean `weight`?)",
        ),
        (
            Document::Objects,
            "API:5:2: node: unknown key `node` (known here: monitors, monitor_groups, pools, load_balancers, \
             applications)",
        ),
    ];
    assert_eq!(told, expected.map(|(document, text)| (document, text.to_owned())));
    // What is no TOML is told of both, too.
    let refused = compile_both("a = \n", "b = \n").unwrap_err();
    let told: Vec<Document> = refused.errors.iter().map(|error| error.document).collect();
    assert_eq!(told, [Document::File, Document::Objects]);
}

#[test]
fn files_that_are_named_are_read_once_for_all_compilations() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("deny.txt");
    std::fs::write(&list, "192.0.2.0/24\n").unwrap();
    let text = format!("[datapath]\naccess = {{ deny_files = [{list:?}] }}\n");
    let (file, imports) = (Source::new("lb.toml", &text), Imports::default());
    let defaults = HostDefaults {
        node_name: "host".to_owned(),
    };
    let first = compile(&file, None, &imports, &defaults).unwrap().config;
    std::fs::remove_file(&list).unwrap();
    let second = compile(&file, None, &imports, &defaults).unwrap().config;
    assert_eq!(first, second);
    assert!(compile(&file, None, &Imports::default(), &defaults).is_err());
}

#[test]
fn only_the_file_names_files() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "root:hash:19000\n").unwrap();
    for key in ["allow_files", "deny_files"] {
        let objects = format!(
            "[applications.a]\nprotocol = \"tcp/80\"\naddresses = [\"203.0.113.10\"]\norigin_direct = \
             [\"tcp://10.0.0.1:80\"]\naccess = {{ {key} = [{secret:?}] }}\n"
        );
        let refused = compile_both("", &objects).unwrap_err();
        let told: Vec<String> = refused.errors.iter().map(ToString::to_string).collect();
        let expected = format!(
            "applications.a.access.{key}: files can be named in the configuration file only (list the prefixes here, \
             or in the `access` of the configuration file)"
        );
        assert!(told.len() == 1 && told[0].ends_with(&expected), "{told:?}");
        assert!(!refused.render(false).contains("hash"), "{refused}");
    }
}

#[test]
fn nobody_waits_for_a_file_that_is_none() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let refused = |text: &str| compile_both(text, "").unwrap_err().to_string();
    let access = |path: &std::path::Path| format!("[datapath]\naccess = {{ deny_files = [{path:?}] }}\n");
    let told = refused(&access(&pipe));
    assert!(
        told.contains("cannot read the file: it is a pipe, not a regular file"),
        "{told}"
    );
    let told = refused(&access("/dev/zero".as_ref()));
    assert!(told.contains("it is a device"), "{told}");
    let balancers = "[pools.p.origins.a]\naddress = \"10.0.0.1\"\n[load_balancers.l]\ndefault_pools = [\"p\"]\n\
                     country_pools = { DE = [\"p\"] }\nsteering_policy = \"geo\"\n";
    for key in ["prefixes", "database"] {
        let told = refused(&format!("{balancers}[geoip]\n{key} = {pipe:?}\n"));
        assert!(told.contains("it is a pipe"), "{key}: {told}");
    }
    // A daemon does not wait for its own file either.
    assert!(reload(&pipe).unwrap_err().to_string().contains("it is a pipe"));
    let large = folder.path().join("large");
    let file = std::fs::File::create(&large).unwrap();
    file.set_len(65 << 20).unwrap();
    let told = refused(&access(&large));
    assert!(told.contains("larger than 64 MiB"), "{told}");
}
