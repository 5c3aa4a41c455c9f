//! What is not for an application is none of lb's business.

use crate::{eu, http_at, on_all, web};
use lb_tests::daemon::Daemon;
use lb_tests::flows::EchoFlow;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::servers::EchoServer;
use lb_tests::{needs_root, servers};
use std::net::IpAddr;

const SSH: u16 = 22;

#[test]
fn a_server_on_the_node_keeps_working_beside_an_application_on_the_same_address() {
    needs_root!();
    let lab = Lab::routed(1);
    lab.own_vips();
    let _nginx = on_all(&lab, servers::nginx);
    let _ssh = EchoServer::start(&lab.node, "node", SSH);
    let mut before = lab.client.enter(|| EchoFlow::open((VIP4, SSH).into())).unwrap();
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0])));
    lb.wait_healthy(&["eu"]);
    before
        .ping()
        .expect("a connection from before lb attached goes on");
    for ip in [
        IpAddr::from(VIP4),
        VIP6.into(),
        lab.node_address(VIP4.into()),
        lab.node_address(VIP6.into()),
    ] {
        let mut flow = lab.client.enter(|| EchoFlow::open((ip, SSH).into())).unwrap();
        flow.ping().unwrap();
        assert_eq!(flow.origin(), "node", "{ip}");
    }
    assert!(lab.client_reaches(http_at(VIP4)), "and the application works");
}

#[test]
fn the_node_answers_pings() {
    needs_root!();
    let lab = Lab::routed(1);
    lab.own_vips();
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(VIP4, &eu(&lab, VIP4, 80, &[1.0])));
    lb.wait_healthy(&["eu"]);
    for like in [IpAddr::from(VIP4), VIP6.into()] {
        assert!(lab.client_pings(lab.node_address(like)));
        assert!(lab.client_pings(like), "a VIP that the node owns");
    }
}
