//! Datagrams that do not fit into one packet: in every mode that can carry them, both ways, with their fragments in order, the
//! other way round, and mixed up with those of another client that uses the same numbers.

use crate::on_all;
use lb_common::testing::pieces::cut;
use lb_common::testing::{Frame, PacketBuilder};
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{MONITOR, application};
use lb_tests::daemon::Daemon;
use lb_tests::forwarding::{Route, agent, pool_names, pools};
use lb_tests::gate::lb_binary;
use lb_tests::lab::{Host, Lab, VIP4, VIP6};
use lb_tests::netns::Netns;
use lb_tests::raw::FrameSocket;
use lb_tests::servers::ECHO_PORT;
use lb_tests::{needs_root, servers};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Sizes of datagrams, in bytes.
const SIZES: [usize; 2] = [4_000, 60_000];
/// Bytes of a fragment made by hand: with any header before it, it fits.
const PIECE: usize = 1_200;
/// Datagrams of each size.
const COUNT: usize = 20;
/// Only what is lost takes as long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Times that a daemon takes over from another.
const UPGRADES: usize = 5;
/// First port of the applications.
const FIRST_PORT: u16 = 5_300;

/// Sends every datagram back.
struct Echo {
    stop: Arc<AtomicBool>,
    /// Who sent the last one.
    peer: Arc<Mutex<Option<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(host: &Host, at: SocketAddr) -> Self {
        let socket = host.namespace.enter(|| UdpSocket::bind(at)).unwrap();
        make_room(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop, peer) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (stopped, last) = (stop.clone(), peer.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    *last.lock().unwrap() = Some(from);
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self {
            stop,
            peer,
            thread: Some(thread),
        }
    }

    fn peer(&self) -> SocketAddr {
        self.peer.lock().unwrap().unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A lab in which every way to forward leads to a server that sends datagrams back.
struct World {
    lab: Lab,
    routes: Vec<Route>,
    lb: Daemon,
    echoes: Vec<Echo>,
    _servers: Vec<servers::EchoServer>,
    _agents: Vec<lb_tests::agent::OriginAgent>,
}

impl World {
    fn new(routes: Vec<Route>) -> Self {
        let lab = Lab::direct(1);
        let servers = on_all(&lab, servers::echo);
        let agents = on_all(&lab, |host| agent(host, &[]));
        let host = &lab.origins[0];
        let echoes = routes.iter().enumerate().map(|(index, route)| {
            let address = if route.forwarding.is_straight() {
                route.vip()
            } else {
                host.address(route.vip())
            };
            Echo::start(host, (address, FIRST_PORT + index as u16).into())
        });
        let echoes = echoes.collect();
        let applications = routes.iter().enumerate().map(|(index, route)| {
            let protocol = format!("udp/{}", FIRST_PORT + index as u16);
            application(&route.name(), &protocol, route.vip(), &route.pool())
        });
        let config = format!(
            "{MONITOR}port = {ECHO_PORT}\n{}{}",
            pools(&lab, &routes),
            applications.collect::<String>()
        );
        let mut lb = Daemon::start(&lab, &config);
        let pools = pool_names(&routes);
        lb.wait_healthy(&pools.iter().map(String::as_str).collect::<Vec<_>>());
        Self {
            lab,
            routes,
            lb,
            echoes,
            _servers: servers,
            _agents: agents,
        }
    }

    fn target(&self, index: usize) -> SocketAddr {
        (self.routes[index].vip(), FIRST_PORT + index as u16).into()
    }

    /// A client's socket towards an application, and its own address.
    fn client(&self, index: usize, from: Option<IpAddr>) -> (UdpSocket, SocketAddr) {
        let target = self.target(index);
        let any: IpAddr = if target.is_ipv6() {
            [0; 16].into()
        } else {
            [0; 4].into()
        };
        let socket = self.lab.client.enter(|| {
            let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(socket)
        });
        let socket = socket.unwrap();
        make_room(&socket);
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// Sends frames out of the client, as they are.
    fn send_raw(&self, frames: &[&Frame]) {
        let sent: io::Result<()> = self.lab.client.enter(|| {
            let socket = FrameSocket::open("eth0")?;
            frames.iter().try_for_each(|frame| socket.send(frame))
        });
        sent.unwrap();
    }

    /// A counter of packets that were not forwarded.
    fn count(&self, name: &str) -> u64 {
        let answer = self.lb.get("/api/v1/drops").unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let found = ["drops", "verdicts"]
            .into_iter()
            .find_map(|list| answer[list][name].as_u64());
        found.unwrap_or_else(|| panic!("no {name} in {answer}"))
    }
}

/// Lets several of the longest datagrams wait to be read: each fragment counts with the memory page it came in.
fn make_room(socket: &UdpSocket) {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, 8 << 20).unwrap();
}

/// Bytes that do not repeat, different for each number.
fn payload(number: usize, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(4)).map(|word| (word * 2_654_435_761 + number * 97) as u32);
    words.flat_map(u32::to_le_bytes).take(length).collect()
}

fn received(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// The link address of an interface.
fn mac(namespace: &Netns, interface: &str) -> [u8; 6] {
    let shown = namespace.run("ip", &["-o", "link", "show", "dev", interface]);
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    let text = words.nth(1).unwrap();
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}

fn pieces(packet: &PacketBuilder, number: usize, length: usize) -> Vec<Frame> {
    let cuts: Vec<usize> = (1..)
        .map(|piece| piece * PIECE)
        .take_while(|cut| *cut < length + 8)
        .collect();
    // No two of a client are the same.
    cut(packet, [(length >> 8) as u8, number as u8, 2, 3], &cuts)
}

#[test]
fn long_datagrams_go_there_and_back() {
    needs_root!();
    let world = World::new(Route::all());
    for (index, route) in world.routes.iter().enumerate() {
        let (socket, _) = world.client(index, None);
        for length in SIZES {
            let mut lost = 0;
            for number in 0..COUNT {
                let sent = payload(number, length);
                socket.send(&sent).unwrap();
                match received(&socket) {
                    Some(answer) => assert!(answer == sent, "{}: other bytes came back", route.name()),
                    None => lost += 1,
                }
            }
            println!("{:22} {length:6} bytes: {lost} of {COUNT} lost", route.name());
            // A tunnel's header makes them too long: the client is told, and the next ones fit.
            let allowed = if route.forwarding.is_tunnel() { 3 } else { 0 };
            assert!(
                lost <= allowed,
                "{}: {lost} datagrams of {length} bytes were lost",
                route.name()
            );
        }
    }
    // The kernel sends fragments in order.
    assert_eq!(world.count("fragment_held"), 0);
    assert_eq!(world.count("fragment"), 0);
}

#[test]
fn fragments_may_come_the_other_way_round() {
    needs_root!();
    let world = World::new(Route::all());
    let (client, node) = (mac(&world.lab.client, "eth0"), mac(&world.lab.node, "eth0"));
    let mut held = 0;
    for (index, route) in world.routes.iter().enumerate() {
        let (socket, from) = world.client(index, None);
        for length in SIZES {
            for number in 0..COUNT {
                let sent = payload(number, length);
                let packet = PacketBuilder::udp(from, world.target(index)).payload(&sent);
                let pieces = pieces(&packet.link(client, node), number, length);
                world.send_raw(&pieces.iter().rev().collect::<Vec<_>>());
                held += pieces.len() - 1;
                let answer = received(&socket);
                assert!(
                    answer == Some(sent),
                    "{}: datagram {number} of {length} bytes: {:?} bytes came back",
                    route.name(),
                    answer.map(|answer| answer.len())
                );
            }
        }
    }
    assert_eq!(world.count("fragment_held"), held as u64);
    for reason in ["fragment_expired", "fragment_not_held", "fragment"] {
        assert_eq!(world.count(reason), 0, "{reason}");
    }
}

/// Routes whose answers come back through the node.
fn returning() -> Vec<Route> {
    let routes = Route::all().into_iter();
    routes.filter(|route| !route.forwarding.is_straight()).collect()
}

#[test]
fn fragments_of_answers_may_come_the_other_way_round() {
    needs_root!();
    let world = World::new(returning());
    let host = &world.lab.origins[0];
    let (origin, node) = (mac(&host.namespace, "eth0"), mac(&world.lab.node, "eth1"));
    for (index, route) in world.routes.iter().enumerate() {
        let (socket, _) = world.client(index, None);
        socket.send(b"hello").unwrap();
        assert_eq!(received(&socket).unwrap(), b"hello");
        let to = world.echoes[index].peer();
        let from = SocketAddr::from((host.address(route.vip()), FIRST_PORT + index as u16));
        for length in SIZES {
            for number in 0..COUNT {
                let sent = payload(number, length);
                let packet = PacketBuilder::udp(from, to).payload(&sent).link(origin, node);
                let pieces = pieces(&packet, number, length);
                let result: io::Result<()> = host.namespace.enter(|| {
                    let raw = FrameSocket::open("eth0")?;
                    pieces.iter().rev().try_for_each(|frame| raw.send(frame))
                });
                result.unwrap();
                assert!(
                    received(&socket) == Some(sent),
                    "{}: {length} bytes",
                    route.name()
                );
            }
        }
    }
    assert_eq!(world.count("fragment_expired"), 0);
}

#[test]
fn clients_that_use_the_same_numbers_are_not_mixed_up() {
    needs_root!();
    let world = World::new(returning());
    world
        .lab
        .client
        .ip("address add 10.0.1.77/24 dev eth0\naddress add fd00:1::77/64 dev eth0 nodad");
    let others = ["10.0.1.77", "fd00:1::77"].map(|address| address.parse().unwrap());
    are_kept_apart(&world, others);
    let straight = Route::all()
        .into_iter()
        .filter(|route| route.forwarding.is_straight());
    let world = World::new(straight.collect());
    for host in &world.lab.origins {
        world.lab.answer_straight(host);
    }
    // The address that is answered through the node elsewhere.
    let others = [VIP4.into(), VIP6.into()].map(|like| world.lab.client_address(like));
    are_kept_apart(&world, others);
}

/// Datagrams of two clients, of which the second has one of the `others` as its address, come in pieces that alternate.
fn are_kept_apart(world: &World, others: [IpAddr; 2]) {
    let (client, node) = (mac(&world.lab.client, "eth0"), mac(&world.lab.node, "eth0"));
    for (index, route) in world.routes.iter().enumerate() {
        let other = others[usize::from(route.vip_v6)];
        let clients = [world.client(index, None), world.client(index, Some(other))];
        for length in SIZES {
            for number in 0..COUNT {
                // The same number, and as many pieces, but other bytes.
                let sent = [payload(number, length), payload(number + 1_000, length)];
                let pieces: Vec<Vec<Frame>> = clients
                    .iter()
                    .zip(&sent)
                    .map(|((_, from), sent)| {
                        let packet = PacketBuilder::udp(*from, world.target(index)).payload(sent);
                        pieces(&packet.link(client, node), number, length)
                    })
                    .collect();
                // One in order, the other the other way round, piece by piece in turns.
                let mixed: Vec<&Frame> = pieces[0]
                    .iter()
                    .zip(pieces[1].iter().rev())
                    .flat_map(|(one, other)| [one, other])
                    .collect();
                world.send_raw(&mixed);
                for ((socket, from), sent) in clients.iter().zip(sent) {
                    assert!(
                        received(socket) == Some(sent),
                        "{} of {from}: datagram {number} of {length} bytes",
                        route.name()
                    );
                }
            }
        }
    }
    assert_eq!(world.count("fragment_expired"), 0);
}

#[test]
fn fragments_that_wait_outlive_the_daemon_that_holds_them() {
    needs_root!();
    let mut world = World::new(returning());
    let (client, node) = (mac(&world.lab.client, "eth0"), mac(&world.lab.node, "eth0"));
    let (socket, from) = world.client(0, None);
    let target = world.target(0);
    let stop = AtomicBool::new(false);
    let lost = std::thread::scope(|scope| {
        let (lab, stop) = (&world.lab, &stop);
        let sender = scope.spawn(move || {
            let mut lost = Vec::new();
            for number in 0.. {
                let sent = payload(number, 4_000);
                let packet = PacketBuilder::udp(from, target).payload(&sent);
                let pieces = pieces(&packet.link(client, node), number, 4_000);
                let result: io::Result<()> = lab.client.enter(|| {
                    let raw = FrameSocket::open("eth0")?;
                    pieces[1..].iter().try_for_each(|frame| raw.send(frame))?;
                    // Nearly always some wait, also at the moment that matters.
                    std::thread::sleep(Duration::from_millis(200));
                    raw.send(&pieces[0])
                });
                result.unwrap();
                if received(&socket) != Some(sent) {
                    lost.push(number);
                }
                if stop.load(Ordering::Relaxed) {
                    println!("{number} datagrams while one daemon took over from another");
                    break;
                }
            }
            lost
        });
        for _ in 0..UPGRADES {
            world.lb.take_over(&lb_binary());
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert_eq!(lost, [0; 0]);
    assert_eq!(world.count("fragment_not_held"), 0);
}

#[test]
fn what_waits_in_vain_is_counted() {
    needs_root!();
    let mut world = World::new(returning());
    let (client, node) = (mac(&world.lab.client, "eth0"), mac(&world.lab.node, "eth0"));
    let (socket, from) = world.client(0, None);
    let packet = PacketBuilder::udp(from, world.target(0))
        .payload(&payload(1, 4_000))
        .link(client, node);
    let lost = pieces(&packet, 1, 4_000);
    world.send_raw(&[&lost[1], &lost[2]]);
    wait_until(SOON, "held fragments are given up", || {
        (world.count("fragment_expired") == 2).then_some(())
    });
    assert_eq!(world.count("fragment_held"), 2);
    assert_eq!(world.count("fragment_not_held"), 0);
    // Without a daemon nobody holds anything; what comes in order is none the worse for it.
    world.lb.kill();
    world.send_raw(&[&lost[1], &lost[2]]);
    let sent = payload(2, 4_000);
    let packet = PacketBuilder::udp(from, world.target(0))
        .payload(&sent)
        .link(client, node);
    world.send_raw(&pieces(&packet, 2, 4_000).iter().collect::<Vec<_>>());
    assert_eq!(received(&socket), Some(sent));
    world.lb.run();
    assert_eq!(world.count("fragment_not_held"), 2);
    // And the next one does.
    let sent = payload(3, 4_000);
    let packet = PacketBuilder::udp(from, world.target(0))
        .payload(&sent)
        .link(client, node);
    world.send_raw(&pieces(&packet, 3, 4_000).iter().rev().collect::<Vec<_>>());
    assert_eq!(received(&socket), Some(sent));
}
