//! Ways to forward: their names, and what each needs of a configuration and of origins.

use crate::agent::OriginAgent;
use crate::config::{balancer, pool};
use crate::lab::direct::{straight, through};
use crate::lab::{Host, Lab};
use std::net::IpAddr;

/// A way to forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarding {
    Nat,
    Dnat,
    DsrL2,
    DsrIpip,
    DsrGue,
}

/// All of them.
pub const FORWARDINGS: [Forwarding; 5] = [
    Forwarding::Nat,
    Forwarding::Dnat,
    Forwarding::DsrL2,
    Forwarding::DsrIpip,
    Forwarding::DsrGue,
];

impl Forwarding {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::DsrL2 => "dsr_l2",
            Self::DsrIpip => "dsr_ipip",
            Self::DsrGue => "dsr_gue",
        }
    }

    /// Whether origins answer the client straight, by the VIP that is theirs too.
    #[must_use]
    pub fn is_straight(self) -> bool {
        !matches!(self, Self::Nat | Self::Dnat)
    }

    /// Whether packets travel inside others.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::DsrIpip | Self::DsrGue)
    }
}

/// A way to forward from a VIP of one family to origins of the same, or another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub forwarding: Forwarding,
    pub vip_v6: bool,
    pub origin_v6: bool,
}

impl Route {
    /// All that there are.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut routes = Vec::new();
        for forwarding in FORWARDINGS {
            for (vip_v6, origin_v6) in [(false, false), (true, true), (false, true), (true, false)] {
                // Whose packets are translated stay in their family.
                if vip_v6 == origin_v6 || forwarding.is_straight() {
                    routes.push(Self {
                        forwarding,
                        vip_v6,
                        origin_v6,
                    });
                }
            }
        }
        routes
    }

    /// A name for applications.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}-{}", self.forwarding.name(), self.families())
    }

    /// The families, as `v4 to v6` without blanks.
    #[must_use]
    pub fn families(self) -> String {
        let family = |v6| if v6 { "v6" } else { "v4" };
        format!("{}-to-{}", family(self.vip_v6), family(self.origin_v6))
    }

    /// Its VIP.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        let number = 2 * self.forwarding as u8 + u8::from(self.origin_v6);
        if self.forwarding.is_straight() {
            straight(number, self.vip_v6)
        } else {
            through(number, self.vip_v6)
        }
    }

    /// Its pool, and the load balancer of the same name: VIPs of both families share it.
    #[must_use]
    pub fn pool(self) -> String {
        let family = if self.origin_v6 { "v6" } else { "v4" };
        format!("{}-{family}", self.forwarding.name())
    }
}

/// The pools of some routes, each of all the lab's origins, with their load balancers.
#[must_use]
pub fn pools(lab: &Lab, routes: &[Route]) -> String {
    let mut text = String::new();
    for route in own_family(routes) {
        let name = route.pool();
        let pool = pool(&name).line(&format!("forwarding = \"{}\"", route.forwarding.name()));
        let pool = lab
            .origins
            .iter()
            .fold(pool, |pool, host| pool.origin(host, route.vip(), 0, 1.0));
        text += &format!("{pool}{}", balancer(&name, &[&name], None));
    }
    text
}

/// The names of those pools.
#[must_use]
pub fn pool_names(routes: &[Route]) -> Vec<String> {
    own_family(routes).map(Route::pool).collect()
}

/// One for each pool: the VIPs of both families share it.
fn own_family(routes: &[Route]) -> impl Iterator<Item = Route> {
    let routes = routes.iter().copied();
    routes.filter(|route| route.vip_v6 == route.origin_v6)
}

/// Gives an origin the VIPs of all ways that answer straight, and something that takes tunnels' headers off.
#[must_use]
pub fn agent(host: &Host, more: &[&str]) -> OriginAgent {
    let straight = Route::all()
        .into_iter()
        .filter(|route| route.forwarding.is_straight());
    let vips: Vec<IpAddr> = straight.map(Route::vip).collect();
    agent_of(host, &vips, more)
}

/// As [`agent`], for some VIPs.
#[must_use]
pub fn agent_of(host: &Host, vips: &[IpAddr], more: &[&str]) -> OriginAgent {
    let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["--add-vips"];
    for vip in &vips {
        arguments.extend(["--vip", vip]);
    }
    arguments.extend(more);
    OriginAgent::start(&host.namespace, "eth0", &arguments, &host.folder)
}
