//! Labs in which origins can answer the client without the node.
//!
//! ```text
//! direct:  client ── eth0 node eth1 ── switch ── origins
//!             └─ eth1 ───── back ───────┘
//! narrow:  client ── eth0 node eth1 ── near ──(mtu)── far ── switch ── origins
//!             └─ eth1 ───────────────(mtu)────────────┘
//! distant: client ── outer ──(mtu)── inner ── eth0 node eth1 ── switch ── origins
//! ```
//!
//! The client has two addresses: answers to the first go back through the node, answers to the second straight. With
//! which one it speaks depends on the VIP: see [`through`] and [`straight`].

use super::{
    CLIENT, CLIENT_NET, FAR_NET, GATEWAY, Host, Lab, NODE, ORIGIN_NET, add_address, add_default_route,
    enable_forwarding, plug, switch, v4, v6,
};
use crate::netns::Netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Third number of the networks between the client and its straight way back, and of the narrow one.
const BACK_NET: u8 = 3;
const NARROW_NET: u8 = 5;
/// The client's second address.
const CLIENT_STRAIGHT: u8 = 3;

/// A VIP whose answers come back through the node.
#[must_use]
pub fn through(number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(203, 0, 113, 32 + number).into()
    }
}

/// A VIP whose origins answer straight to the client.
#[must_use]
pub fn straight(number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(203, 0, 113, 128 + number).into()
    }
}

impl Lab {
    /// Origins on the node's network, and a router from there to the client.
    #[must_use]
    pub fn direct(origins: usize) -> Self {
        let mut lab = Self::bare();
        let (back, switch) = (Netns::new("back"), switch());
        lab.client.connect_host("eth0", &lab.node, "eth0");
        lab.node.connect("eth1", &switch, "node");
        back.connect("eth1", &switch, "back");
        for port in ["node", "back"] {
            plug(&switch, port);
        }
        add_address(&lab.node, "eth0", CLIENT_NET, NODE);
        add_address(&lab.node, "eth1", ORIGIN_NET, NODE);
        add_address(&back, "eth1", ORIGIN_NET, GATEWAY);
        add_default_route(&back, ORIGIN_NET, NODE);
        enable_forwarding(&back);
        lab.lead_back(&back, 1500);
        lab.interfaces = vec!["eth0", "eth1"];
        lab.add_origins(origins, &switch, ORIGIN_NET, NODE);
        for origin in &lab.origins {
            origin.namespace.ip(&format!(
                "route add {} via {}\nroute add {} via {}",
                v4(CLIENT_NET, CLIENT_STRAIGHT),
                v4(ORIGIN_NET, GATEWAY),
                v6(CLIENT_NET, CLIENT_STRAIGHT),
                v6(ORIGIN_NET, GATEWAY)
            ));
        }
        lab.between.push(back);
        lab.finish(switch).with_two_addresses()
    }

    /// Two routers between the node and the origins, and between the two a network that carries no more than `mtu`
    /// bytes; the straight way back carries no more either.
    #[must_use]
    pub fn narrow(origins: usize, mtu: u32) -> Self {
        let mut lab = Self::bare();
        let (near, far, switch) = (Netns::new("near"), Netns::new("far"), switch());
        lab.client.connect_host("eth0", &lab.node, "eth0");
        lab.node.connect("eth1", &near, "eth0");
        near.connect("eth1", &far, "eth1");
        near.ip(&format!("link set dev eth1 mtu {mtu}"));
        far.ip(&format!("link set dev eth1 mtu {mtu}"));
        far.connect("eth2", &switch, "far");
        plug(&switch, "far");
        add_address(&lab.node, "eth0", CLIENT_NET, NODE);
        add_address(&lab.node, "eth1", ORIGIN_NET, NODE);
        add_address(&near, "eth0", ORIGIN_NET, GATEWAY);
        add_address(&near, "eth1", NARROW_NET, NODE);
        add_address(&far, "eth1", NARROW_NET, GATEWAY);
        add_address(&far, "eth2", FAR_NET, NODE);
        // Takes what the node redirects to it.
        near.offload("eth0", "gro", "on");
        lab.node.ip(&format!(
            "route add {}/24 via {}\nroute add {}/64 via {}",
            v4(FAR_NET, 0),
            v4(ORIGIN_NET, GATEWAY),
            v6(FAR_NET, 0),
            v6(ORIGIN_NET, GATEWAY)
        ));
        near.ip(&format!(
            "route add {}/24 via {}\nroute add {}/64 via {}",
            v4(FAR_NET, 0),
            v4(NARROW_NET, GATEWAY),
            v6(FAR_NET, 0),
            v6(NARROW_NET, GATEWAY)
        ));
        add_default_route(&near, ORIGIN_NET, NODE);
        add_default_route(&far, NARROW_NET, NODE);
        enable_forwarding(&near);
        enable_forwarding(&far);
        lab.lead_back(&far, mtu);
        lab.interfaces = vec!["eth0", "eth1"];
        lab.add_origins(origins, &switch, FAR_NET, NODE);
        lab.between.extend([near, far]);
        lab.finish(switch).with_two_addresses()
    }

    /// Two routers between the client and the node, and between the two a network that carries no more than `mtu` bytes.
    /// There is no other way back.
    #[must_use]
    pub fn distant(origins: usize, mtu: u32) -> Self {
        let mut lab = Self::bare();
        let (outer, inner, switch) = (Netns::new("outer"), Netns::new("inner"), switch());
        lab.client.connect_host("eth0", &outer, "eth0");
        outer.connect("eth1", &inner, "eth1");
        outer.ip(&format!("link set dev eth1 mtu {mtu}"));
        inner.ip(&format!("link set dev eth1 mtu {mtu}"));
        lab.node.connect("eth0", &inner, "eth0");
        lab.node.connect("eth1", &switch, "node");
        plug(&switch, "node");
        // Takes what the node redirects to it.
        inner.offload("eth0", "gro", "on");
        add_address(&outer, "eth0", CLIENT_NET, NODE);
        add_address(&outer, "eth1", NARROW_NET, NODE);
        add_address(&inner, "eth1", NARROW_NET, GATEWAY);
        add_address(&inner, "eth0", BACK_NET, GATEWAY);
        add_address(&lab.node, "eth0", BACK_NET, NODE);
        add_address(&lab.node, "eth1", ORIGIN_NET, NODE);
        add_default_route(&outer, NARROW_NET, GATEWAY);
        add_default_route(&inner, BACK_NET, NODE);
        add_default_route(&lab.node, BACK_NET, GATEWAY);
        inner.ip(&format!(
            "route add {}/24 via {}\nroute add {}/64 via {}",
            v4(CLIENT_NET, 0),
            v4(NARROW_NET, NODE),
            v6(CLIENT_NET, 0),
            v6(NARROW_NET, NODE)
        ));
        enable_forwarding(&outer);
        enable_forwarding(&inner);
        lab.interfaces = vec!["eth0", "eth1"];
        lab.add_origins(origins, &switch, ORIGIN_NET, NODE);
        lab.between.extend([outer, inner]);
        lab.finish(switch).with_two_addresses()
    }

    /// A link from a router to the client, for answers to its second address.
    fn lead_back(&self, router: &Netns, mtu: u32) {
        self.client.connect_host("eth1", router, "client");
        self.client.ip(&format!("link set dev eth1 mtu {mtu}"));
        router.ip(&format!("link set dev client mtu {mtu}"));
        add_address(&self.client, "eth1", BACK_NET, CLIENT);
        add_address(router, "client", BACK_NET, NODE);
        router.ip(&format!(
            "route add {} via {}\nroute add {} via {}",
            v4(CLIENT_NET, CLIENT_STRAIGHT),
            v4(BACK_NET, CLIENT),
            v6(CLIENT_NET, CLIENT_STRAIGHT),
            v6(BACK_NET, CLIENT)
        ));
    }

    /// The client speaks to some VIPs by its second address.
    fn with_two_addresses(self) -> Self {
        add_address(&self.client, "eth0", CLIENT_NET, CLIENT_STRAIGHT);
        let (node4, node6) = (v4(CLIENT_NET, NODE), v6(CLIENT_NET, NODE));
        for (vip4, vip6, host) in [
            (format!("{}/27", through(0, false)), through(0, true), CLIENT),
            (
                format!("{}/25", straight(0, false)),
                straight(0, true),
                CLIENT_STRAIGHT,
            ),
        ] {
            self.client.ip(&format!(
                "route add {vip4} via {node4} src {}\nroute add {vip6}/64 via {node6} src {}",
                v4(CLIENT_NET, host),
                v6(CLIENT_NET, host),
            ));
        }
        self
    }

    /// Whether an address is one of the client's two.
    #[must_use]
    pub fn client_has(&self, address: IpAddr) -> bool {
        [CLIENT, CLIENT_STRAIGHT].into_iter().any(|host| {
            let own: [IpAddr; 2] = [v4(CLIENT_NET, host).into(), v6(CLIENT_NET, host).into()];
            own.contains(&address)
        })
    }

    /// The node's address on the origins' side.
    #[must_use]
    pub fn node_address_inside(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            v4(ORIGIN_NET, NODE).into()
        } else {
            v6(ORIGIN_NET, NODE).into()
        }
    }

    /// The client's address that is answered straight.
    #[must_use]
    pub fn straight_address(&self, is_v6: bool) -> IpAddr {
        if is_v6 {
            v6(CLIENT_NET, CLIENT_STRAIGHT).into()
        } else {
            v4(CLIENT_NET, CLIENT_STRAIGHT).into()
        }
    }

    /// Lets an origin of [`Lab::direct`] answer the client's first address straight too.
    pub fn answer_straight(&self, host: &Host) {
        let (client4, client6) = (v4(CLIENT_NET, CLIENT), v6(CLIENT_NET, CLIENT));
        let lead = |namespace: &Netns, net: u8, to: u8| {
            namespace.ip(&format!(
                "route replace {client4} via {}\nroute replace {client6} via {}",
                v4(net, to),
                v6(net, to)
            ));
        };
        lead(&host.namespace, ORIGIN_NET, GATEWAY);
        if let Some(back) = self.between.first() {
            lead(back, BACK_NET, CLIENT);
        }
    }

    /// The router of [`Lab::direct`] by which origins answer straight.
    ///
    /// # Panics
    /// The lab is another.
    #[must_use]
    pub fn router_back(&self) -> &Netns {
        match &self.between[..] {
            [back, _] => back,
            others => panic!("this lab has {} machines between", others.len()),
        }
    }

    /// The two routers of [`Lab::narrow`], the node's and the origins', or of [`Lab::distant`], the client's and the node's.
    ///
    /// # Panics
    /// The lab is another.
    #[must_use]
    pub fn routers(&self) -> [&Netns; 2] {
        match &self.between[..] {
            [near, far, _] => [near, far],
            _ => panic!("this lab has no two routers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;
    use std::process::Command;

    fn pings(lab: &Lab, from: IpAddr, to: IpAddr, size: u32) -> bool {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", "-M", "do", "-I", &from.to_string()])
            .args(["-s", &size.to_string(), &to.to_string()]);
        lab.client.output(&mut ping).status.success()
    }

    /// Both ways back are there, and the straight one does not need the node.
    fn check(lab: &Lab) {
        lab.forward_without_lb();
        let [straight4, straight6]: [IpAddr; 2] = [
            v4(CLIENT_NET, CLIENT_STRAIGHT).into(),
            v6(CLIENT_NET, CLIENT_STRAIGHT).into(),
        ];
        for origin in &lab.origins {
            for (from, to) in [
                (v4(CLIENT_NET, CLIENT).into(), origin.v4.into()),
                (straight4, origin.v4.into()),
                (v6(CLIENT_NET, CLIENT).into(), origin.v6.into()),
                (straight6, origin.v6.into()),
            ] {
                assert!(pings(lab, from, to, 56), "{from} to {to}");
            }
        }
    }

    fn route(lab: &Lab, vip: IpAddr) -> String {
        lab.client.run("ip", &["route", "get", &vip.to_string()])
    }

    #[test]
    fn answers_come_back_by_the_way_that_the_vip_asks_for() {
        needs_root!();
        let lab = Lab::direct(2);
        check(&lab);
        for is_v6 in [false, true] {
            let [own, second] = [CLIENT, CLIENT_STRAIGHT].map(|host| {
                if is_v6 {
                    v6(CLIENT_NET, host).to_string()
                } else {
                    v4(CLIENT_NET, host).to_string()
                }
            });
            let (usual, other) = (route(&lab, through(1, is_v6)), route(&lab, straight(1, is_v6)));
            assert!(usual.contains(&format!("src {own} ")), "{usual}");
            assert!(other.contains(&format!("src {second} ")), "{other}");
        }
        let a = &lab.origins[0].namespace;
        let way = |to: u8| a.run("ip", &["route", "get", &v4(CLIENT_NET, to).to_string()]);
        assert!(way(CLIENT_STRAIGHT).contains(&format!("via {}", v4(ORIGIN_NET, GATEWAY))));
        assert!(way(CLIENT).contains(&format!("via {}", v4(ORIGIN_NET, NODE))));
    }

    #[test]
    fn a_distant_client_reaches_origins() {
        needs_root!();
        let lab = Lab::distant(1, 1400);
        lab.forward_without_lb();
        let (from, to) = (v4(CLIENT_NET, CLIENT).into(), lab.origins[0].v4.into());
        assert!(pings(&lab, from, to, 1400 - 28));
        assert!(!pings(&lab, from, to, 1400 - 27));
        assert!(pings(
            &lab,
            v6(CLIENT_NET, CLIENT).into(),
            lab.origins[0].v6.into(),
            56
        ));
    }

    #[test]
    fn a_narrow_path_carries_what_it_is_meant_to_and_no_more() {
        needs_root!();
        let lab = Lab::narrow(1, 1400);
        check(&lab);
        let (from, to) = (v4(CLIENT_NET, CLIENT).into(), lab.origins[0].v4.into());
        assert!(pings(&lab, from, to, 1400 - 28));
        assert!(!pings(&lab, from, to, 1400 - 27));
    }
}
