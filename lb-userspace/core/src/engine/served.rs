//! What is asked of an origin: the port, and for origins that answer clients directly the VIP, of an application that
//! leads to its pool.

use crate::model::{Application, Config, Destination, Forwarding, Monitor, MonitorKind, Origin};
use core::net::IpAddr;
use std::collections::BTreeMap;

/// By pool, the applications that lead to it, in the order of the configuration.
pub struct Served<'a> {
    applications: BTreeMap<&'a str, Vec<&'a Application>>,
}

/// What a monitor asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// 0 when the monitor needs none.
    pub port: u16,
    /// Instead of the origin's address.
    pub vip: Option<IpAddr>,
}

impl<'a> Served<'a> {
    pub fn new(config: &'a Config) -> Self {
        let balancers: BTreeMap<&str, _> = config
            .load_balancers
            .iter()
            .map(|balancer| (balancer.name.as_str(), balancer))
            .collect();
        let mut applications: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for application in &config.applications {
            let Destination::LoadBalancer(name) = &application.destination else {
                continue;
            };
            let Some(balancer) = balancers.get(name.as_str()) else {
                continue;
            };
            for pool in balancer.pools() {
                applications.entry(pool).or_default().push(application);
            }
        }
        Self { applications }
    }

    /// Flows that each origin of a pool may have; `None`: any number.
    pub fn flows_per_origin(&self, pool: &str) -> Option<u32> {
        let applications = self.applications.get(pool)?;
        let enabled = applications.iter().filter(|application| application.enabled);
        enabled
            .filter_map(|application| application.limits.flows_per_origin)
            .min()
    }

    /// What the monitor of a pool asks of one of its origins, at one of its addresses.
    pub fn asked(&self, pool: &str, monitor: &Monitor, origin: &Origin, address: IpAddr) -> Asked {
        let applications = self.applications.get(pool).map_or(&[][..], Vec::as_slice);
        let direct = match origin.forwarding {
            Forwarding::DsrL2 | Forwarding::DsrIpip | Forwarding::DsrGue { .. } => {
                listening(applications, origin, address)
            }
            Forwarding::Nat | Forwarding::Dnat => None,
        };
        let (named, served) = match direct {
            // Clients' packets arrive with the port that they were sent to, whatever the origin's is.
            Some((application, _)) => (monitor.port.or(Some(application.ports.first())), None),
            None => {
                let first = applications.first();
                let served = first.map(|application| application.port_at_origins());
                (monitor.port.or(origin.port), served)
            }
        };
        Asked {
            port: match monitor.kind {
                MonitorKind::IcmpPing => 0,
                MonitorKind::Http(_) => named.unwrap_or(80),
                MonitorKind::Https { .. } => named.unwrap_or(443),
                MonitorKind::Smtp => named.unwrap_or(25),
                MonitorKind::Tcp | MonitorKind::UdpIcmp(_) => named.or(served).unwrap_or(80),
            },
            vip: direct.map(|(_, vip)| vip),
        }
    }
}

/// The first application with an address of the origin's family, so that packets to the one look like packets to the
/// other; else, for a tunnel, the first of all.
fn listening<'a>(
    applications: &[&'a Application],
    origin: &Origin,
    address: IpAddr,
) -> Option<(&'a Application, IpAddr)> {
    let all = || {
        let enabled = applications.iter().filter(|application| application.enabled);
        enabled.flat_map(|application| application.addresses.iter().map(move |&vip| (*application, vip)))
    };
    let same = all().find(|(_, vip)| vip.is_ipv4() == address.is_ipv4());
    match origin.forwarding {
        Forwarding::DsrL2 => same,
        _ => same.or_else(|| all().next()),
    }
}
