//! Routes, links and neighbours as the kernel tells of them.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn tables() -> Tables {
    let link = |name: &str, up, mac| Link {
        name: name.to_owned(),
        mac,
        mtu: 1500,
        up,
        ..Link::default()
    };
    let loopback = Link {
        loopback: true,
        ..link("lo", true, None)
    };
    let neighbour = Neighbour {
        mac: Some([2, 0, 0, 0, 0, 9]),
        fixed: false,
        managed: false,
        protocol: 0,
    };
    Tables {
        links: BTreeMap::from([
            (1, loopback),
            (2, link("eth0", true, Some(MAC))),
            (3, link("eth1", true, Some(MAC))),
            (4, link("eth2", false, Some(MAC))),
            (5, link("wg0", true, None)),
        ]),
        addresses: BTreeMap::from([(2, ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(parse).to_vec())]),
        neighbours: BTreeMap::from([((2, parse("192.0.2.9")), neighbour)]),
    }
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn via(ifindex: u32, gateway: Option<&str>) -> Route {
    let preferred = Some(parse("192.0.2.2"));
    Route::Via {
        ifindex,
        gateway: gateway.map(parse),
        preferred,
        mtu: None,
    }
}

fn path(to: &str, route: &Route) -> Path {
    tables().path(parse(to), route, &BTreeSet::from([1, 2, 4, 5]))
}

#[test]
fn a_path_names_the_next_hop_and_the_preferred_source_first() {
    for (to, gateway, next_hop, neighbour) in [
        (
            "198.51.100.1",
            Some("192.0.2.9"),
            "192.0.2.9",
            Some([2, 0, 0, 0, 0, 9]),
        ),
        ("192.0.2.9", None, "192.0.2.9", Some([2, 0, 0, 0, 0, 9])),
        ("192.0.2.8", None, "192.0.2.8", None),
        ("192.0.2.8", Some("fe80::1"), "fe80::1", None),
    ] {
        let expected = Path::Via {
            ifindex: 2,
            tags: [Tag::NONE; 2],
            next_hop: parse(next_hop),
            neighbour: neighbour.map(Into::into),
            interface_mac: MAC.into(),
            mtu: 1500,
            sources: ["192.0.2.2", "192.0.2.1"].map(parse).to_vec(),
        };
        assert_eq!(path(to, &via(2, gateway)), expected, "{to}");
    }
}

#[test]
fn a_vlan_is_left_by_the_interface_below_it() {
    let mut tables = tables();
    let vlan = |id, parent| Link {
        name: format!("vlan{id}"),
        mac: Some(MAC),
        mtu: 1496,
        up: true,
        parent: Some(parent),
        vlan: Some(Tag::new(if id == 7 { 0x88a8 } else { 0x8100 }, id)),
        ..Link::default()
    };
    tables.links.insert(10, vlan(7, 2));
    tables.links.insert(11, vlan(5, 10));
    tables.links.insert(12, vlan(9, 11));
    let (service, customer) = (Tag::new(0x88a8, 7), Tag::new(0x8100, 5));
    for (ifindex, attached, expected) in [
        (10, 2, Some([service, Tag::NONE])),
        (11, 2, Some([service, customer])),
        (11, 10, Some([customer, Tag::NONE])),
        (11, 11, Some([Tag::NONE; 2])),
        // More than two tags are too many.
        (12, 2, None),
        (11, 3, None),
    ] {
        let path = tables.path(
            parse("192.0.2.9"),
            &via(ifindex, None),
            &BTreeSet::from([attached]),
        );
        match (path, expected) {
            (
                Path::Via {
                    ifindex, tags, mtu, ..
                },
                Some(expected),
            ) => {
                assert_eq!((ifindex, tags, mtu), (attached, expected, 1496));
            }
            (Path::Unusable(_), None) => {}
            (path, _) => panic!("{path:?}"),
        }
    }
}

#[test]
fn the_smaller_mtu_counts() {
    for (route, expected) in [(None, 1500), (Some(1400), 1400), (Some(9000), 1500)] {
        let route = Route::Via {
            ifindex: 2,
            gateway: None,
            preferred: None,
            mtu: route,
        };
        assert!(matches!(path("192.0.2.9", &route), Path::Via { mtu, .. } if mtu == expected));
    }
}

#[test]
fn what_lb_cannot_send_through_is_said_to_the_operator() {
    for (ifindex, words) in [
        (1, "this node itself"),
        (3, "add \"eth1\" to datapath.interfaces"),
        (4, "eth2, which is down"),
        (5, "not an Ethernet interface"),
        (9, "gone"),
    ] {
        let path = path("192.0.2.9", &via(ifindex, None));
        assert!(
            matches!(&path, Path::Unusable(why) if why.contains(words)),
            "{path:?}"
        );
    }
    for (error, words) in [
        (libc::ENETUNREACH, "no route"),
        (libc::EINVAL, "blackhole"),
        (libc::EACCES, "prohibited"),
    ] {
        let route = Route::read(parse("192.0.2.9"), Err(io::Error::from_raw_os_error(error)));
        assert!(
            matches!(&route, Route::Unusable(why) if why.contains(words)),
            "{route:?}"
        );
    }
}

#[test]
fn routes_to_the_node_itself_are_unusable() {
    let mut message = RouteMessage::default();
    for (kind, words) in [
        (RouteType::Local, "own address"),
        (RouteType::Broadcast, "broadcast"),
        (RouteType::Multicast, "multicast"),
        (RouteType::Unicast, "names no interface"),
    ] {
        message.header.kind = kind;
        let answer = Ok(RouteNetlinkMessage::NewRoute(message.clone()));
        let route = Route::read(parse("192.0.2.1"), answer);
        assert!(
            matches!(&route, Route::Unusable(why) if why.contains(words)),
            "{route:?}"
        );
    }
}

#[test]
fn a_neighbour_counts_as_resolved_while_the_kernel_would_use_it() {
    for (state, resolved, fixed) in [
        (NeighbourState::Reachable, true, false),
        (NeighbourState::Stale, true, false),
        (NeighbourState::Delay, true, false),
        (NeighbourState::Probe, true, false),
        (NeighbourState::Permanent, true, true),
        (NeighbourState::Noarp, true, true),
        (NeighbourState::Incomplete, false, false),
        (NeighbourState::Failed, false, false),
        (NeighbourState::None, false, false),
    ] {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        let destination = NeighbourAddress::Inet("192.0.2.9".parse().unwrap());
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        ];
        let (hop, neighbour) = Neighbour::read(&message).unwrap();
        assert_eq!(hop, (2, parse("192.0.2.9")));
        assert_eq!(
            (neighbour.mac.is_some(), neighbour.fixed),
            (resolved, fixed),
            "{state:?}"
        );
        assert!(neighbour.managed);
    }
}
