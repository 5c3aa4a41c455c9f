//! The ways of probes to origins that answer clients directly: which mark and which device a probe's socket gets, and why
//! it gets none.

use super::node::Node;
use crate::datapath::attach::Attachment;
use crate::datapath::ways::Ways;
use crate::net::addresses;
use crate::probe::Way;
use lb_common::abi::{Forwarding as Mode, Ip, Port};
use lb_common::tunnel::probe::Probe;
use lb_core::engine::{Event, Exit, ProbeRequest, TargetId, Via};
use lb_core::model::Forwarding;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tracing::warn;

/// After so long the kernel is asked again whether it takes the programs.
const RETRY: Duration = Duration::from_secs(10);
/// What was found out about a route counts for so long: many origins share one.
const HOLDS: Duration = Duration::from_secs(1);

/// The ways, made when the first probe needs one.
#[derive(Default)]
pub(super) struct ProbeWays {
    ways: Option<Ways>,
    /// Interfaces that the programs run on.
    attached: Vec<u32>,
    /// Why they cannot be had, and when that was tried.
    failed: Option<(Instant, String)>,
    /// What stands between a VIP and an interface, by both.
    routes: BTreeMap<(IpAddr, u32), (Instant, Result<(), String>)>,
    /// Targets whose probes go another way than they should.
    astray: BTreeMap<TargetId, String>,
}

impl ProbeWays {
    /// The way of a probe.
    ///
    /// # Errors
    /// Why it has none: for the operator.
    fn find(
        &mut self,
        origin: IpAddr,
        via: &Via,
        attachments: &[Attachment],
        hz: u32,
    ) -> Result<Way, String> {
        let mixed = via.vip.is_ipv4() != origin.is_ipv4();
        let exit = via.exit.filter(|_| mixed);
        let mut device = None;
        if mixed {
            let Exit { ifindex, .. } = exit.ok_or("the way to the origin is not known yet")?;
            let attachment = attachments
                .iter()
                .find(|attachment| attachment.ifindex == ifindex);
            let name = &attachment.ok_or("the way to the origin leads elsewhere")?.name;
            self.check_route(via.vip, ifindex, name)?;
            device = Some(name.clone());
        }
        let (forwarding, gue_port) = match via.forwarding {
            Forwarding::Nat | Forwarding::Dnat => return Err("its packets are translated".to_owned()),
            Forwarding::DsrL2 => (Mode::DSR_L2, 0),
            Forwarding::DsrIpip => (Mode::DSR_IPIP, 0),
            Forwarding::DsrGue { port } => (Mode::DSR_GUE, port),
        };
        // A socket of the VIP's family can only be connected to the origin when that is of the same.
        let target = if mixed { via.vip } else { origin };
        let way = Probe {
            vip: via.vip.into(),
            target: target.into(),
            origin: origin.into(),
            source: exit.map_or(Ip::default(), |exit| exit.source.into()),
            ifindex: exit.map_or(0, |exit| exit.ifindex),
            gue_port: Port::new(gue_port),
            forwarding,
            live: 1,
        };
        let mark = self.ways(attachments, hz)?.mark(&way);
        Ok(Way {
            mark: mark.map_err(|error| format!("{error:#}"))?,
            target,
            device,
        })
    }

    /// The programs, attached to the interfaces that lb is attached to.
    fn ways(&mut self, attachments: &[Attachment], hz: u32) -> Result<&mut Ways, String> {
        let is_attached = attachments
            .iter()
            .map(|attachment| &attachment.ifindex)
            .eq(&self.attached);
        if let Some((when, why)) = &self.failed
            && when.elapsed() < RETRY
        {
            return Err(why.clone());
        }
        if self.ways.is_none() || !is_attached {
            let ways = self.ways.take().map_or_else(|| Ways::load(hz), Ok);
            let named: Vec<_> = attachments
                .iter()
                .map(|attachment| (attachment.name.clone(), attachment.ifindex))
                .collect();
            let ready = ways.and_then(|mut ways| ways.attach(&named).map(|()| ways));
            match ready {
                Ok(ways) => {
                    self.attached = named.into_iter().map(|(_, index)| index).collect();
                    self.ways = Some(ways);
                    self.failed = None;
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    self.failed = Some((Instant::now(), why.clone()));
                    return Err(why);
                }
            }
        }
        self.ways.as_mut().ok_or_else(String::new)
    }

    fn check_route(&mut self, vip: IpAddr, ifindex: u32, device: &str) -> Result<(), String> {
        self.routes.retain(|_, (when, _)| when.elapsed() < HOLDS);
        let (_, known) = self
            .routes
            .entry((vip, ifindex))
            .or_insert_with(|| (Instant::now(), addresses::check_route(vip, ifindex, device)));
        known.clone()
    }
}

impl Node {
    /// The way of a probe, if it has one of its own. What stands in its way is told to the engine, and the probe asks the
    /// origin's own address.
    pub(super) fn way(&mut self, request: &ProbeRequest) -> Option<Way> {
        let via = request.via.as_ref()?;
        let attachments = &self.datapath.attachments;
        let found = self
            .ways
            .find(request.address, via, attachments, self.datapath.clock.hz);
        let (way, why) = match found {
            Ok(way) => (Some(way), None),
            Err(why) => {
                let vip = via.vip;
                (
                    None,
                    Some(format!("its own address is probed, not {vip} at it: {why}")),
                )
            }
        };
        let target = request.target;
        if self.ways.astray.get(&target) != why.as_ref() {
            match &why {
                Some(why) => {
                    warn!(origin = %request.address, "{why}");
                    self.ways.astray.insert(target, why.clone());
                }
                None => drop(self.ways.astray.remove(&target)),
            }
            self.tell(Event::Astray { target, why });
        }
        way
    }
}
