//! Limits of new flows, caps of origins, and clients that come back: as a user sets them, changes them and takes them out.

use crate::on_all;
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::flows::{EchoFlow, connect_from};
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::ECHO_PORT;
use lb_tests::{needs_root, servers};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// A new connection that is dropped has not failed before its SYN would be sent again.
const REFUSED: Duration = Duration::from_millis(500);

fn drops(lb: &Daemon, reason: &str) -> u64 {
    lb.status().json()["drops"][reason].as_u64().unwrap_or(0)
}

/// Datagrams that open a flow each.
struct Burst<'a> {
    lab: &'a Lab,
    sockets: Vec<UdpSocket>,
    started: Instant,
}

impl<'a> Burst<'a> {
    /// Sends so many at once, from an address.
    fn send(lab: &'a Lab, from: impl Into<IpAddr>, to: impl Into<IpAddr>, count: usize) -> Self {
        let (from, to) = (from.into(), to.into());
        let started = Instant::now();
        let sockets = lab.client.enter(|| {
            let sockets = (0..count).map(|_| {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.connect((to, ECHO_PORT)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            });
            let sockets: Vec<UdpSocket> = sockets.collect();
            for socket in &sockets {
                socket.send(b"new").unwrap();
            }
            sockets
        });
        Self {
            lab,
            sockets,
            started,
        }
    }

    /// Waits until each was answered or counted as dropped for that reason, and returns how many were answered.
    fn settle(mut self, lb: &Daemon, reason: &str, dropped_before: u64) -> Answered<'a> {
        let count = self.sockets.len();
        let mut answered = Vec::new();
        wait_until(SOON, &format!("{count} datagrams meet their fate"), || {
            let mut buffer = [0; 64];
            let (now, rest) = (self.sockets.drain(..)).partition(|socket| socket.recv(&mut buffer).is_ok());
            self.sockets = rest;
            answered.extend::<Vec<UdpSocket>>(now);
            let dropped = drops(lb, reason) - dropped_before;
            (answered.len() + dropped as usize == count).then_some(())
        });
        Answered {
            lab: self.lab,
            sockets: answered,
            took: self.started.elapsed(),
        }
    }
}

struct Answered<'a> {
    lab: &'a Lab,
    sockets: Vec<UdpSocket>,
    took: Duration,
}

impl Answered<'_> {
    fn count(&self) -> usize {
        self.sockets.len()
    }

    /// As many as a limit of new flows lets through in the time that passed: a second's worth at once, and what follows.
    #[track_caller]
    fn assert_rate(&self, per_second: usize) {
        let most = per_second + 1 + (per_second as f64 * self.took.as_secs_f64()) as usize;
        assert!(
            (per_second..=most).contains(&self.count()),
            "{} answered in {:?} at {per_second} a second",
            self.count(),
            self.took
        );
    }

    /// What is limited are new flows: those there are go on.
    fn assert_go_on(&self) {
        self.lab.client.enter(|| {
            let mut buffer = [0; 64];
            for socket in &self.sockets {
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                for _ in 0..3 {
                    socket.send(b"more").unwrap();
                    socket.recv(&mut buffer).unwrap();
                }
            }
        });
    }
}

/// The echo service by UDP and TCP on both VIPs, with more lines for each application.
fn echo(lab: &Lab, weights: &[f64], lines: &str) -> String {
    let mut text = MONITOR.to_owned();
    for (family, vip) in [("four", IpAddr::from(VIP4)), ("six", VIP6.into())] {
        let weighted = lab.origins.iter().zip(weights);
        let origins = weighted.fold(pool(family), |pool, (host, &weight)| {
            pool.origin(host, vip, ECHO_PORT, weight)
        });
        text += &format!("{origins}{}", balancer(family, &[family], None));
        for protocol in ["udp", "tcp"] {
            let name = format!("{protocol}-{family}");
            text += &application(&name, &format!("{protocol}/{ECHO_PORT}"), vip, family);
            text += lines;
        }
    }
    text
}

fn start(lab: &Lab, config: &str) -> Daemon {
    let mut lb = Daemon::start(lab, config);
    lb.wait_healthy(&["four", "six"]);
    lb
}

fn reload(lb: &Daemon, config: &str) {
    lb.write_config(config);
    lb.lb_ok(&["reload"]);
}

/// Further addresses of the client.
fn add_clients(lab: &Lab, count: u8) -> Vec<Ipv4Addr> {
    let clients: Vec<Ipv4Addr> = (100..100 + count)
        .map(|host| Ipv4Addr::new(10, 0, 1, host))
        .collect();
    let lines: Vec<String> = clients
        .iter()
        .map(|ip| format!("address add {ip}/24 dev eth0"))
        .collect();
    lab.client.ip(&lines.join("\n"));
    clients
}

#[test]
fn an_application_opens_no_more_flows_a_second_than_it_may() {
    needs_root!();
    let lab = Lab::routed(2);
    let _echo = on_all(&lab, servers::echo);
    let clients = add_clients(&lab, 4);
    let limited = |limit: u32| {
        echo(
            &lab,
            &[1.0, 1.0],
            &format!("limits.new_flows_per_second = {limit}\n"),
        )
    };
    let lb = start(&lab, &limited(10));
    let reason = "rate_limited";
    assert_eq!(drops(&lb, reason), 0);
    // Whoever they come from.
    let before = drops(&lb, reason);
    let mut all = Burst::send(&lab, clients[0], VIP4, 0);
    for client in &clients {
        all.sockets
            .append(&mut Burst::send(&lab, *client, VIP4, 10).sockets);
    }
    let answered = all.settle(&lb, reason, before);
    answered.assert_rate(10);
    answered.assert_go_on();
    // Each application has its own.
    let before = drops(&lb, reason);
    let six = lab.client_address(VIP6.into());
    Burst::send(&lab, six, VIP6, 40)
        .settle(&lb, reason, before)
        .assert_rate(10);
    // Connections as well. Those that are refused come through when they ask again.
    let before = drops(&lb, reason);
    let (mut opened, mut refused) = (0, 0);
    while refused == 0 {
        let to = SocketAddr::from((VIP4, ECHO_PORT));
        let open = || TcpStream::connect_timeout(&to, REFUSED);
        match lab.client.enter(open) {
            Ok(_) => opened += 1,
            Err(error) if error.kind() == ErrorKind::TimedOut => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(opened < 10_000);
    }
    assert!(opened >= 10, "{opened}");
    wait_until(SOON, "a SYN is counted", || {
        (drops(&lb, reason) > before).then_some(())
    });
    let open = || EchoFlow::open((VIP4, ECHO_PORT).into());
    lab.client
        .enter(open)
        .expect("the SYN is sent again")
        .ping()
        .unwrap();

    // Another limit holds at once.
    reload(&lb, &limited(2));
    let before = drops(&lb, reason);
    let answered = Burst::send(&lab, clients[0], VIP4, 100).settle(&lb, reason, before);
    let most = 3 + (2.0 * answered.took.as_secs_f64()) as usize;
    assert!(answered.count() <= most, "{}", answered.count());
    // And none is none.
    reload(&lb, &echo(&lab, &[1.0, 1.0], ""));
    let before = drops(&lb, reason);
    let answered = Burst::send(&lab, clients[0], VIP4, 200).settle(&lb, reason, before);
    assert_eq!((answered.count(), drops(&lb, reason)), (200, before));
}

#[test]
fn a_source_opens_no_more_flows_a_second_than_it_may() {
    needs_root!();
    let lab = Lab::routed(2);
    let _echo = on_all(&lab, servers::echo);
    let clients = add_clients(&lab, 5);
    let (fresh, clients) = clients.split_last().unwrap();
    lab.client.ip("address add fd00:1::99/64 dev eth0 nodad");
    let limits = "limits = { new_flows_per_second_per_source = 5 }\n";
    // Nothing is limited, until the file says so.
    let lb = start(&lab, &echo(&lab, &[1.0, 1.0], ""));
    reload(&lb, &echo(&lab, &[1.0, 1.0], limits));
    let reason = "rate_limited_source";
    for client in clients {
        let before = drops(&lb, reason);
        let answered = Burst::send(&lab, *client, VIP4, 30).settle(&lb, reason, before);
        answered.assert_rate(5);
        answered.assert_go_on();
    }
    assert!(drops(&lb, reason) > 0);
    assert_eq!(drops(&lb, "rate_limited"), 0);
    // Of IPv6 a network is one source.
    let before = drops(&lb, reason);
    let mut both = Burst::send(&lab, lab.client_address(VIP6.into()), VIP6, 20);
    let other: IpAddr = "fd00:1::99".parse().unwrap();
    both.sockets
        .append(&mut Burst::send(&lab, other, VIP6, 20).sockets);
    both.settle(&lb, reason, before).assert_rate(5);
    // What a source was refused is not taken from the application's own limit.
    let limits = "limits = { new_flows_per_second_per_source = 5, new_flows_per_second = 20 }\n";
    reload(&lb, &echo(&lab, &[1.0, 1.0], limits));
    let before = drops(&lb, reason);
    let greedy = Burst::send(&lab, clients[0], VIP4, 200).settle(&lb, reason, before);
    assert!(
        greedy.count() <= 6 + (5.0 * greedy.took.as_secs_f64()) as usize,
        "{}",
        greedy.count()
    );
    let modest = Burst::send(&lab, *fresh, VIP4, 5).settle(&lb, reason, drops(&lb, reason));
    assert_eq!((modest.count(), drops(&lb, "rate_limited")), (5, 0));
    reload(&lb, &echo(&lab, &[1.0, 1.0], ""));
    let before = drops(&lb, reason);
    let answered = Burst::send(&lab, clients[0], VIP4, 100).settle(&lb, reason, before);
    assert_eq!((answered.count(), drops(&lb, reason)), (100, before));
}

/// Opens connections until nobody takes one.
fn fill(lab: &Lab) -> Vec<EchoFlow> {
    let to = SocketAddr::from((VIP4, ECHO_PORT));
    let mut flows = Vec::new();
    lab.client.enter(|| {
        while let Ok(stream) = TcpStream::connect_timeout(&to, REFUSED) {
            flows.push(EchoFlow::over(stream).unwrap());
            assert!(flows.len() < 100, "nothing limits them");
        }
    });
    flows
}

fn counts(flows: &[EchoFlow]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for flow in flows {
        *counts.entry(flow.origin()).or_default() += 1;
    }
    counts
}

#[test]
fn an_origin_that_has_its_flows_is_passed_over_and_when_all_have_new_ones_are_dropped() {
    needs_root!();
    let lab = Lab::routed(3);
    let [a, b, c] = &lab.origins[..] else {
        panic!("three origins were asked for")
    };
    let _echo = on_all(&lab, servers::echo);
    let config = |limits: &str| {
        let first = (pool("first").origin(a, VIP4, ECHO_PORT, 1.0)).origin(b, VIP4, ECHO_PORT, 0.01);
        let second = pool("second").origin(c, VIP4, ECHO_PORT, 1.0);
        format!(
            "{MONITOR}{first}{second}{}{}{limits}",
            balancer("echo", &["first", "second"], None),
            application("echo", "tcp/7", VIP4, "echo")
        )
    };
    let capped = |limit: u32| config(&format!("limits = {{ flows_per_origin = {limit} }}\n"));
    let mut lb = Daemon::start(&lab, &capped(4));
    lb.wait_healthy(&["first", "second"]);
    let mut flows = fill(&lab);
    assert_eq!(counts(&flows), [("a", 4), ("b", 4), ("c", 4)].into());
    let order: Vec<&str> = flows.iter().map(EchoFlow::origin).collect();
    let last_of = |name: &str| order.iter().rposition(|origin| *origin == name).unwrap();
    assert!(
        last_of("a") < last_of("c") && last_of("b") < last_of("c"),
        "{order:?}"
    );
    wait_until(SOON, "the refused one is counted", || {
        (drops(&lb, "origins_full") > 0).then_some(())
    });
    // A flow that ends makes room.
    let end = flows.iter().position(|flow| flow.origin() == "a").unwrap();
    drop(flows.remove(end));
    let again = wait_until(SOON, "there is room", || fill(&lab).pop());
    assert_eq!(again.origin(), "a");
    flows.push(again);
    // A higher limit, and a lower one than there are flows: those go on.
    reload(&lb, &capped(5));
    flows.append(&mut fill(&lab));
    assert_eq!(counts(&flows), [("a", 5), ("b", 5), ("c", 5)].into());
    reload(&lb, &capped(1));
    assert_eq!(fill(&lab).len(), 0);
    for flow in &mut flows {
        flow.ping().unwrap();
    }
    reload(&lb, &config(""));
    let before = drops(&lb, "origins_full");
    let to = SocketAddr::from((VIP4, ECHO_PORT));
    for _ in 0..20 {
        flows.push(lab.client.enter(|| EchoFlow::open(to)).unwrap());
    }
    assert_eq!(counts(&flows)["c"], 5, "the first pool serves");
    assert_eq!(drops(&lb, "origins_full"), before);
}

/// Which origin each client's next connection gets.
fn ask(lab: &Lab, clients: &[Ipv4Addr]) -> Vec<String> {
    lab.client.enter(|| {
        let open = |client: &Ipv4Addr| {
            let stream = connect_from((*client, 0).into(), (VIP4, ECHO_PORT).into()).unwrap();
            EchoFlow::over(stream).unwrap().origin().to_owned()
        };
        clients.iter().map(open).collect()
    })
}

#[test]
fn clients_come_back_to_their_origin_as_long_as_it_is_up() {
    needs_root!();
    let lab = Lab::routed(2);
    let mut servers = on_all(&lab, servers::echo);
    let clients = add_clients(&lab, 60);
    let (clients, late) = clients.split_at(30);
    let (late, later) = late.split_at(15);
    let sticky =
        |weights: &[f64], ttl: f64| echo(&lab, weights, &format!("affinity = {{ ttl = {ttl:?} }}\n"));
    let mut lb = start(&lab, &echo(&lab, &[1.0, 1.0], ""));
    reload(&lb, &sticky(&[1.0, 1.0], 600.0));
    let first = ask(&lab, clients);
    let on = |name: &str| first.iter().filter(|origin| *origin == name).count();
    assert!(on("a") > 0 && on("b") > 0, "{first:?}");
    for _ in 0..3 {
        assert_eq!(ask(&lab, clients), first);
    }
    // Another weight is for those who are not bound.
    reload(&lb, &sticky(&[0.0, 1.0], 600.0));
    assert_eq!(ask(&lab, late), vec!["b"; late.len()]);
    assert_eq!(ask(&lab, clients), first);
    reload(&lb, &sticky(&[1.0, 0.0], 600.0));
    assert_eq!(ask(&lab, clients), first);
    assert_eq!(ask(&lab, late), vec!["b"; late.len()]);
    // Nor does a new daemon forget.
    lb.kill();
    lb.run();
    lb.wait_healthy(&["four", "six"]);
    assert_eq!(ask(&lab, clients), first);
    // An origin that is down lets go of its clients, and they stay where they went.
    reload(&lb, &sticky(&[1.0, 1.0], 600.0));
    drop(servers.remove(0));
    lb.wait_origin("four", "a", "unhealthy");
    assert_eq!(ask(&lab, clients), vec!["b"; clients.len()]);
    servers.push(servers::echo(&lab.origins[0]));
    lb.wait_healthy(&["four", "six"]);
    reload(&lb, &sticky(&[1.0, 0.0], 600.0));
    assert_eq!(ask(&lab, clients), vec!["b"; clients.len()]);
    assert_eq!(ask(&lab, later), vec!["a"; later.len()]);
    // A shorter time holds for those who are bound, too: each is asked once, as asking renews.
    reload(&lb, &sticky(&[1.0, 0.0], 0.5));
    let mut next = clients.iter();
    wait_until(SOON, "a binding ends", || {
        std::thread::sleep(Duration::from_millis(100));
        let client = next.next().expect("one of all has waited long enough");
        (ask(&lab, &[*client]) == ["a"]).then_some(())
    });
    // Without affinity nobody is bound.
    reload(&lb, &sticky(&[0.0, 1.0], 600.0));
    ask(&lab, clients);
    reload(&lb, &echo(&lab, &[1.0, 0.0], ""));
    assert_eq!(ask(&lab, clients), vec!["a"; clients.len()]);
    let status = lb.status();
    let drops = status.json()["drops"].as_object().unwrap();
    for reason in ["rate_limited", "rate_limited_source", "origins_full"] {
        assert_eq!(drops.get(reason).and_then(|count| count.as_u64()).unwrap_or(0), 0);
    }
}
