//! Floods of packets with forged sources never cost an established connection.

use crate::{eu, http_at, on_all};
use lb_common::datapath::Notice;
use lb_common::testing::PacketBuilder;
use lb_tests::check::SOON;
use lb_tests::config::{application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::load;
use lb_tests::raw::FrameSocket;
use lb_tests::traffic::{Flood, Traffic, link};
use lb_tests::{gate, http, needs_root, servers};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

/// Flows that lb is told to remember: many times fewer than the packets of a flood.
const MAX_FLOWS: usize = 65_536;
const SYN: u8 = 2;
const RST: u8 = 4;
/// Packets sent by one call.
const CHUNK: usize = 1 << 16;
const WORKERS: usize = 4;

/// Connections that are kept, each of which has had an answer.
struct Kept(Vec<TcpStream>);

impl Kept {
    /// Opens so many, from one address.
    fn open(lab: &Lab, to: SocketAddr, count: usize) -> Self {
        let open = |count: usize| {
            let one = |_| TcpStream::connect_timeout(&to, SOON).expect("a connection is opened");
            lab.client.enter(|| (0..count).map(one).collect::<Vec<_>>())
        };
        let streams = thread::scope(|scope| {
            let shares = (0..WORKERS).map(|worker| (count + worker) / WORKERS);
            let workers: Vec<_> = shares.map(|share| scope.spawn(move || open(share))).collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        Self(streams)
    }

    /// Asks once over each, and returns why some had no answer.
    fn ask(&mut self) -> Vec<String> {
        let share = self.0.len().div_ceil(WORKERS);
        let ask = |streams: &mut [TcpStream]| {
            let failures = streams
                .iter_mut()
                .filter_map(|stream| match http::get_kept(stream, "/") {
                    Ok(answer) if answer.status == 200 => None,
                    Ok(answer) => Some(format!("status {}", answer.status)),
                    Err(error) => Some(error.to_string()),
                });
            failures.collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let workers: Vec<_> = self
                .0
                .chunks_mut(share)
                .map(|streams| scope.spawn(move || ask(streams)))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        })
    }
}

impl Kept {
    /// What somebody sends who knows the ends of each, but no sequence numbers: a reset, and then a new connection.
    fn forge(&self, lab: &Lab) {
        let [(client, _), (node, _)] = [&lab.client, &lab.node].map(|namespace| link(namespace, "eth0"));
        let socket = lab.client.enter(|| FrameSocket::open("eth0")).unwrap();
        for flags in [RST, SYN] {
            for stream in &self.0 {
                let (from, to) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
                let packet = PacketBuilder::tcp(from, to, flags).link(client, node);
                socket.send(&packet.frame()).unwrap();
            }
        }
    }
}

/// Flows that could have been kept from eviction, had there been room.
fn without_room(lb: &Daemon) -> u64 {
    lb.verdicts(Notice::FlowTableFull.row()).iter().sum()
}

/// Everything that lb has dropped or refused.
fn dropped(lb: &Daemon) -> u64 {
    let status = lb.status();
    let drops = status.json()["drops"].as_object().unwrap();
    drops.values().filter_map(serde_json::Value::as_u64).sum()
}

#[test]
fn ten_thousand_connections_outlive_floods_of_five_million_forged_packets() {
    needs_root!();
    let _alone = gate::alone();
    // Ten thousand connections have twenty thousand ends, but those of the servers are theirs.
    let most = Rlimit {
        current: Some(16_384),
        maximum: Some(16_384),
    };
    setrlimit(Resource::Nofile, most).unwrap();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let eu = eu(&lab, VIP4, 0, &[1.0, 1.0]).unmonitored();
    let direct = lab.origins.iter().fold(pool("direct"), |pool, host| {
        pool.origin(host, VIP4, 0, 1.0)
            .origin_line("forwarding = \"dsr_l2\"")
    });
    let config = format!(
        "{eu}{}{}{}{}{}{}{}",
        direct.unmonitored(),
        balancer("web", &["eu"], None),
        balancer("straight", &["direct"], None),
        application("straight", "tcp/81", VIP4, "straight"),
        // Nobody is kept out, but so its flows need entries.
        "access = { allow = [\"0.0.0.0/0\"] }\n",
        application("web", "tcp/80", VIP4, "web"),
        application("names", "udp/53", VIP4, "web")
    );
    let mut lb = Daemon::start_with(&lab, &format!("max_flows = {MAX_FLOWS}"), &config);
    lb.wait_healthy(&["eu"]);
    let count = number("LB_TEST_CONNECTIONS", 10_000);
    let mut kept = Kept::open(&lab, http_at(VIP4), count);
    assert_eq!(kept.ask(), Vec::<String>::new(), "before any flood");
    let mut traffic = Traffic::new(&lab);
    let packets = number("LB_TEST_FLOOD", 5_000_000);
    for (flood, port) in [(Flood::Handshakes, 81), (Flood::Syn, 80), (Flood::Udp, 53)] {
        kept.forge(&lab);
        assert_eq!(kept.ask(), Vec::<String>::new(), "after forged resets");
        let before = dropped(&lb);
        traffic.order_flood(flood, (VIP4, port).into());
        let started = Instant::now();
        // What a busy machine loses in the rings before lb is no part of the flood: it is sent again.
        let mut sent = 0;
        let mut handled = 0;
        while handled < packets as u64 {
            assert!(sent < 4 * packets, "lb saw {handled} of {sent} packets");
            lab.client.enter(|| traffic.send(CHUNK as u32));
            sent += CHUNK;
            handled = traffic.tally().arrived + dropped(&lb) - before;
        }
        let took = started.elapsed();
        let (passed, dropped) = (traffic.tally().arrived, dropped(&lb) - before);
        println!(
            "{flood:?}: {sent} sent in {:.1} s ({:.0} a second), {passed} forwarded, {dropped} dropped",
            took.as_secs_f64(),
            sent as f64 / took.as_secs_f64()
        );
        let failures = kept.ask();
        assert!(
            failures.is_empty(),
            "{} of {} connections did not answer after the flood: {:?}",
            failures.len(),
            kept.0.len(),
            &failures[..failures.len().min(5)]
        );
        println!("{} of {} connections answer", kept.0.len(), kept.0.len());
        if let Flood::Handshakes = flood {
            // What looks like connections has not taken the room of real ones: these outlive the next floods.
            assert!(without_room(&lb) > 0, "the flood is larger than its share");
            kept.0.append(&mut Kept::open(&lab, http_at(VIP4), count / 10).0);
            assert_eq!(kept.ask(), Vec::<String>::new(), "opened after the flood");
        }
    }
    drop(traffic);
    let report = load::run(&lab.client, 500, WORKERS, load::http(http_at(VIP4)));
    lb_tests::check::assert_all_served(&report);
}
