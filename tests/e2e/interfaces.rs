//! Interfaces, links, gateways and neighbours change under traffic: lb follows within a second and is never restarted.

use crate::{eu, http_at, on_all, web};
use lb_tests::check::{SOON, assert_all_served, wait_until};
use lb_tests::config::{Pool, application, balancer};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::ECHO_PORT;
use lb_tests::{gate, load, needs_root, servers};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const REQUESTS: usize = 500;
/// How long lb may take to follow.
const FOLLOWED: Duration = Duration::from_secs(1);

/// The web application and the echo application on `vip`, over one pool that nobody watches: what is measured is the
/// packet path, not a monitor.
fn unwatched(vip: impl Into<IpAddr>, pool: Pool) -> String {
    let (vip, pool) = (vip.into(), pool.unmonitored());
    format!(
        "{pool}{}{}{}",
        balancer("web", &["eu"], None),
        application("web", "tcp/80", vip, "web"),
        application("echo", "tcp/7", vip, "web")
    )
}

/// Whether a new connection is answered now; a lost SYN is not waited for.
fn is_served(lab: &Lab, server: SocketAddr) -> bool {
    const MOMENT: Duration = Duration::from_millis(50);
    lab.client
        .enter(|| TcpStream::connect_timeout(&server, MOMENT).is_ok())
}

/// Waits until new connections are answered, which must be so within a second of `since`.
fn assert_followed(lab: &Lab, server: SocketAddr, since: Instant, what: &str) {
    wait_until(SOON, &format!("requests are served after {what}"), || {
        is_served(lab, server).then_some(())
    });
    let took = since.elapsed();
    println!("{what}: followed within {} ms", took.as_millis());
    assert!(took < FOLLOWED, "{what}: followed after {took:?}");
}

fn all_are_served(lab: &Lab, server: SocketAddr) {
    assert_all_served(&load::run(&lab.client, REQUESTS, 4, load::http(server)));
}

fn open(lab: &Lab, server: impl Into<IpAddr> + Send) -> EchoFlow {
    let server = (server.into(), ECHO_PORT).into();
    lab.client
        .enter(|| EchoFlow::open(server))
        .expect("the echo server answers")
}

/// Frames that have left an interface of the node.
fn sent(lab: &Lab, interface: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/tx_packets");
    // The sysfs of this process shows another namespace.
    let text = lab
        .node
        .run("ip", &["-s", "-j", "link", "show", "dev", interface]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[0]["stats64"]["tx"]["packets"]
        .as_u64()
        .unwrap_or_else(|| panic!("no {path} in {text}"))
}

#[test]
fn answers_come_back_by_another_interface_than_requests_left_by() {
    needs_root!();
    let mut lab = Lab::routed(2);
    let (_, other) = lab.add_origin_side(3);
    // The node's first address on that network is also reached by its second interface.
    for origin in &lab.origins {
        origin
            .namespace
            .ip(&format!("route add 10.0.2.1/32 via {other} dev eth0"));
    }
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let mut lb = Daemon::start(&lab, &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let before = sent(&lab, "eth0");
    all_are_served(&lab, http_at(VIP4));
    assert!(sent(&lab, "eth0") > before);
    let mut flow = open(&lab, VIP4);
    flow.ping().unwrap();
}

#[test]
fn a_client_is_answered_by_the_link_that_its_packets_come_by() {
    needs_root!();
    let mut lab = Lab::routed(2);
    let (second, router) = lab.add_client_side(2);
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    let mut lb = Daemon::start(&lab, &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let mut flow = open(&lab, VIP4);
    flow.ping().unwrap();
    // The same connection goes on by the other link, and back.
    for (how, link) in [
        (format!("via {router} dev {second}"), second),
        ("via 10.0.1.1 dev eth0".to_owned(), "eth0"),
    ] {
        lab.client.ip(&format!("route replace {VIP4}/32 {how}"));
        let before = sent(&lab, link);
        for _ in 0..20 {
            flow.ping().expect("the connection goes on by the other link");
        }
        assert!(sent(&lab, link) >= before + 20, "answers go out by {link}");
        all_are_served(&lab, http_at(VIP4));
    }
}

#[test]
fn a_link_that_goes_down_is_left_for_the_other_route_and_taken_again() {
    needs_root!();
    let _quiet = gate::alone();
    let mut lab = Lab::behind_gateway(2);
    let (_, second) = lab.add_gateway(3);
    lab.node
        .ip(&format!("route add 10.0.4.0/24 via {second} metric 500"));
    let _nginx = on_all(&lab, servers::nginx);
    let _echo = on_all(&lab, servers::echo);
    // The origins' network finds the node behind either gateway, as a routing protocol has it.
    let back = |router: &str| {
        for origin in &lab.origins {
            origin
                .namespace
                .ip(&format!("route replace default via {router}"));
        }
    };
    let mut lb = Daemon::start_with(
        &lab,
        "snat_addresses = [\"10.0.99.1\"]",
        &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])),
    );
    lb.wait_healthy(&["eu"]);
    let server = http_at(VIP4);
    all_are_served(&lab, server);
    let mut flow = open(&lab, VIP4);
    flow.ping().unwrap();
    for round in 0..3 {
        let since = Instant::now();
        lab.node.ip("link set dev eth1 down");
        back("10.0.4.3");
        assert_followed(&lab, server, since, &format!("round {round}: eth1 down"));
        flow.ping().expect("the connection goes on by the other gateway");
        all_are_served(&lab, server);
        let since = Instant::now();
        // The kernel forgot the routes of the link that went down.
        lab.node
            .ip("link set dev eth1 up\nroute add 10.0.4.0/24 via 10.0.2.254\nlink set dev eth3 down");
        back("10.0.4.1");
        assert_followed(&lab, server, since, &format!("round {round}: eth1 up, eth3 down"));
        flow.ping().expect("the connection goes on by the first gateway");
        lab.node.ip(&format!(
            "link set dev eth3 up\nroute add 10.0.4.0/24 via {second} metric 500"
        ));
    }
}

#[test]
fn the_only_link_goes_down_and_comes_back() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    for round in 0..3 {
        let since = Instant::now();
        lab.node.ip("link set dev eth1 down");
        lb.wait("the path is known to be broken", |status| {
            status.origin("eu", "a")["path_problem"].is_string()
        });
        assert!(since.elapsed() < FOLLOWED, "{:?}", since.elapsed());
        let status = lb.status();
        let down = status.json()["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "eth1")
            .map(|one| one["up"] == false);
        assert_eq!(down, Some(true), "{}", status.json()["interfaces"]);
        let since = Instant::now();
        lab.node.ip("link set dev eth1 up");
        assert_followed(&lab, http_at(VIP4), since, &format!("round {round}: eth1 up"));
    }
    all_are_served(&lab, http_at(VIP4));
}

/// A router that is replaced by another need not say so.
#[test]
fn a_gateway_that_changes_its_link_address_without_a_word_is_followed() {
    needs_root!();
    let _quiet = gate::alone();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::behind_gateway(2);
        let _nginx = on_all(&lab, servers::nginx);
        let _echo = on_all(&lab, servers::echo);
        let mut lb = Daemon::start(&lab, &unwatched(vip, eu(&lab, vip, 0, &[1.0, 1.0])));
        lb.wait_healthy(&["eu"]);
        let server = http_at(vip);
        all_are_served(&lab, server);
        let mut flow = open(&lab, vip);
        for last in 1..4 {
            // For a second after its entry has changed, the kernel believes nobody (LOCKTIME in net/ipv4/arp.c).
            std::thread::sleep(Duration::from_millis(1100));
            let since = Instant::now();
            lab.gateway()
                .ip(&format!("link set dev eth0 address 02:00:00:00:77:{last:02x}"));
            assert_followed(
                &lab,
                server,
                since,
                &format!("{vip}: gateway's address {last}, unsaid"),
            );
            flow.ping()
                .expect("the connection goes on by the gateway's new address");
        }
    }
}

#[test]
fn the_gateways_new_link_address_and_a_new_gateway_are_followed() {
    needs_root!();
    let _quiet = gate::alone();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let mut lab = Lab::behind_gateway(2);
        let (_, second) = lab.add_gateway(3);
        // As routers do that take over an address.
        lab.gateway().sysctl("net/ipv4/conf/eth0/arp_notify", "1");
        lab.gateway().sysctl("net/ipv6/conf/eth0/ndisc_notify", "1");
        let _nginx = on_all(&lab, servers::nginx);
        let _echo = on_all(&lab, servers::echo);
        let mut lb = Daemon::start(&lab, &unwatched(vip, eu(&lab, vip, 0, &[1.0, 1.0])));
        lb.wait_healthy(&["eu"]);
        let server = http_at(vip);
        all_are_served(&lab, server);
        let mut flow = open(&lab, vip);
        for last in 1..4 {
            let since = Instant::now();
            lab.gateway()
                .ip(&format!("link set dev eth0 address 02:00:00:00:77:{last:02x}"));
            assert_followed(&lab, server, since, &format!("{vip}: gateway's address {last}"));
            flow.ping()
                .expect("the connection goes on by the gateway's new address");
        }
        if vip.is_ipv4() {
            for (round, gateway) in [second.to_string(), "10.0.2.254".to_owned(), second.to_string()]
                .iter()
                .enumerate()
            {
                let since = Instant::now();
                lab.node.ip(&format!("route replace 10.0.4.0/24 via {gateway}"));
                assert_followed(&lab, server, since, &format!("gateway {gateway}"));
                flow.ping()
                    .unwrap_or_else(|error| panic!("round {round}, by {gateway}: {error}"));
            }
        }
        all_are_served(&lab, server);
    }
}

/// How many files of links are pinned for the node.
fn pinned_links(lb: &Daemon) -> usize {
    let layouts = std::fs::read_dir(lb.pins()).unwrap().flatten();
    let pins = layouts.flat_map(|layout| std::fs::read_dir(layout.path()).unwrap().flatten());
    pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("link-"))
        .count()
}

#[test]
fn an_interface_that_comes_later_is_attached_when_it_comes() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    lab.remove_origin_side();
    let mut lb = Daemon::prepare(&lab, "", &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])));
    lb.launch();
    let status = lb.wait("it is attached to the one that is there", |status| {
        status.interfaces().len() == 1 && status.unattached() == ["eth1"]
    });
    assert_eq!(status.interfaces(), [("eth0", "native")]);
    assert!(lb.log().contains("eth1"), "{}", lb.log());
    let words = lb.lb_ok(&["status"]);
    assert!(words.contains("NOT ATTACHED"), "{words}");
    assert!(!is_served(&lab, http_at(VIP4)));
    let since = Instant::now();
    lab.make_origin_side("");
    assert_followed(&lab, http_at(VIP4), since, "eth1 has come");
    lb.wait("it says so", |status| {
        status.interfaces().len() == 2 && status.unattached().is_empty()
    });
    all_are_served(&lab, http_at(VIP4));
}

#[test]
fn it_starts_when_no_interface_is_there_yet() {
    needs_root!();
    let _quiet = gate::alone();
    let mut lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    lab.remove_origin_side();
    lab.node.ip("link set dev eth0 name later");
    lab.interfaces = vec!["eth0", "eth1"];
    let mut lb = Daemon::prepare(&lab, "", &unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0])));
    lb.launch();
    let status = lb.wait("it runs", |status| {
        status.unattached() == ["eth0", "eth1"] && status.json()["node"]["generation"] != 0
    });
    assert!(status.interfaces().is_empty());
    assert!(
        lb.log().contains("nothing is forwarded") && lb.log().contains("later"),
        "{}",
        lb.log()
    );
    assert_eq!(lb.lb(&["healthcheck"]).status.code(), Some(8));
    let since = Instant::now();
    // An interface that is given another name has not come and gone.
    lab.node
        .ip("link set dev later down\nlink set dev later name eth0\nlink set dev eth0 up");
    lab.make_origin_side("");
    assert_followed(&lab, http_at(VIP4), since, "both have come");
    assert_eq!(lb.lb(&["healthcheck"]).status.code(), Some(0));
    all_are_served(&lab, http_at(VIP4));
}

#[test]
fn an_interface_that_is_made_anew_is_attached_again_also_under_its_old_number() {
    needs_root!();
    let _quiet = gate::alone();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    for how in ["", "", "index 777", "index 777", "index 777", ""] {
        let since = Instant::now();
        lab.remove_origin_side();
        lab.make_origin_side(how);
        assert_followed(&lab, http_at(VIP4), since, &format!("eth1 made anew {how}"));
        assert_eq!(pinned_links(&lb), 2, "dead links stay pinned");
    }
    // It is away for longer, and known to be.
    lab.remove_origin_side();
    lb.wait("it is known to be away", |status| status.unattached() == ["eth1"]);
    assert_eq!(pinned_links(&lb), 1);
    let since = Instant::now();
    lab.make_origin_side("");
    assert_followed(&lab, http_at(VIP4), since, "eth1 is back");
    lb.wait_healthy(&["eu"]);
    all_are_served(&lab, http_at(VIP4));
    let events = lb.get("/api/v1/events").unwrap().body;
    assert!(events.contains("interface `eth1` has gone") && events.contains("interface `eth1` is attached"));
}

/// The kind of interface decides what the packet path does: it may change without a restart.
#[test]
fn interfaces_of_another_kind_join_by_a_reload() {
    needs_root!();
    let mut lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let config = unwatched(VIP4, eu(&lab, VIP4, 0, &[1.0, 1.0]));
    // No veth among them at first.
    lab.node.ip("link add br9 type bridge\nlink set dev br9 up");
    let all = std::mem::replace(&mut lab.interfaces, vec!["br9"]);
    let mut lb = Daemon::start(&lab, &config);
    assert_eq!(lb.status().interfaces(), [("br9", "generic")]);
    lab.interfaces = all;
    lb.set_interfaces(&lab);
    lb.write_config(&config);
    lb.lb_ok(&["reload"]);
    lb.wait("it has moved", |status| {
        status.interfaces() == [("eth0", "native"), ("eth1", "native")]
    });
    wait_until(SOON, "paths are known", || {
        is_served(&lab, http_at(VIP4)).then_some(())
    });
    all_are_served(&lab, http_at(VIP4));
    assert_eq!(pinned_links(&lb), 2);
}
