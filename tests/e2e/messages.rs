//! ICMP: who asks whether an address is there is told, and who sends where nobody listens learns it, on both sides.

use crate::{eu, http_at, on_all, web};
use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{MONITOR, application};
use lb_tests::daemon::Daemon;
use lb_tests::forwarding::{Route, pools};
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::HTTP_PORT;
use lb_tests::{needs_root, servers};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(2);
const PORT: u16 = 5_200;

#[test]
fn an_address_answers_pings_while_somebody_serves_there() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(1);
        let server = servers::nginx(&lab.origins[0]);
        let mut lb = Daemon::start(&lab, &web(vip, &eu(&lab, vip, 80, &[1.0])));
        lb.wait_healthy(&["eu"]);
        assert!(lab.client_reaches(http_at(vip)));
        assert!(lab.client_pings(vip), "{vip} answers");
        server.kill();
        lb.wait_origin("eu", "a", "unhealthy");
        assert!(!lab.client_pings(vip), "{vip} is silent when nobody serves there");
        // Its own addresses are the node's affair.
        assert!(lab.client_pings(lab.node_address(vip)));
    }
}

/// Routes whose answers come back through the node.
fn returning() -> Vec<Route> {
    let routes = Route::all().into_iter();
    routes.filter(|route| !route.forwarding.is_straight()).collect()
}

/// Sends until an error comes back: it is told with the next packet.
fn refused(socket: &UdpSocket) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match socket
            .send(b"anybody there?")
            .and_then(|_| socket.recv(&mut [0; 64]))
        {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return true,
            Ok(_) | Err(_) => {}
        }
    }
    false
}

#[test]
fn who_sends_where_nobody_listens_learns_it() {
    needs_root!();
    let lab = Lab::direct(1);
    let _nginx = on_all(&lab, servers::nginx);
    let routes = returning();
    let applications = routes
        .iter()
        .map(|route| application(&route.name(), &format!("udp/{PORT}"), route.vip(), &route.pool()));
    let config = format!(
        "{MONITOR}port = {HTTP_PORT}\n{}{}",
        pools(&lab, &routes),
        applications.collect::<String>()
    );
    let mut lb = Daemon::start(&lab, &config);
    let names: Vec<String> = routes.iter().map(|route| route.pool()).collect();
    lb.wait_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let host = &lab.origins[0];
    for route in routes {
        let target = SocketAddr::from((route.vip(), PORT));
        let any: IpAddr = if route.vip_v6 {
            [0; 16].into()
        } else {
            [0; 4].into()
        };
        let client = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        };
        let name = route.name();
        // Nobody listens at the origin.
        let socket = lab.client.enter(client).unwrap();
        assert!(refused(&socket), "{name}: the client was told nothing");
        // Somebody does, and then the client goes.
        let server = host
            .namespace
            .enter(|| UdpSocket::bind((host.address(any), PORT)))
            .unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let socket = lab.client.enter(client).unwrap();
        let peer = wait_until(SOON, "the origin hears the client", || {
            socket.send(b"hello").unwrap();
            server.recv_from(&mut [0; 64]).ok().map(|(_, peer)| peer)
        });
        drop(socket);
        server.connect(peer).unwrap();
        assert!(refused(&server), "{name}: the origin was told nothing");
    }
    let drops = lb.status().json()["drops"]["icmp_unknown_flow"].as_u64();
    assert_eq!(drops, Some(0));
}
