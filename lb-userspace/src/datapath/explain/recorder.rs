//! The live maps as tables that write down what they are asked.

use super::Explainer;
use crate::datapath::question::Question;
use crate::datapath::steering_words::steering_words;
use crate::wire::{Explain, ExplainStep};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, MapData};
use lb_common::abi::{
    AccessKey, AccessRule, Affinity, AffinityKey, Application, ApplicationKey, Bucket, Country, CountryKey,
    Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, Forwarding, FragmentFlow, FragmentKey, Hop, HopId, Interface,
    Ip, Ip6, Load, Mac, Origin, OriginId, OriginState, PathMtu, Pool, PoolId, PoolRow, Port, PortSpan, Route,
    RouteKey, Settings, Shortcut, Slot, SourceKey, Timeouts, Vip, VipKey,
};
use lb_common::datapath::{InsertError, Memory, Sample, Tables, Verdict};
use lb_core::view::{OriginView, PoolView, View};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

/// See the module.
pub(super) struct Recorder<'a> {
    maps: &'a Explainer,
    settings: Settings,
    view: &'a View,
    steps: RefCell<Vec<ExplainStep>>,
    /// Of the packet, as far as it was asked for.
    application: Cell<Option<u32>>,
    country: Cell<Option<Country>>,
    /// What this packet has changed; `None`: removed.
    flows4: RefCell<BTreeMap<(Memory, FlowKey4), Option<Flow4>>>,
    flows6: RefCell<BTreeMap<(Memory, FlowKey6), Option<Flow6>>>,
    buckets: RefCell<BTreeMap<u32, Bucket>>,
    /// The entry of a flow that has none.
    made4: Cell<Flow4>,
    made6: Cell<Flow6>,
    /// Where the packet went: the application, and the origin.
    sent: Cell<Option<(u32, OriginId)>>,
}

impl<'a> Recorder<'a> {
    pub fn new(maps: &'a Explainer, settings: Settings, view: &'a View) -> Self {
        Self {
            maps,
            settings,
            view,
            steps: RefCell::default(),
            application: Cell::default(),
            country: Cell::default(),
            flows4: RefCell::default(),
            flows6: RefCell::default(),
            buckets: RefCell::default(),
            made4: Cell::default(),
            made6: Cell::default(),
            sent: Cell::default(),
        }
    }
}

impl Recorder<'_> {
    fn note(&self, step: &str, detail: impl Into<String>) {
        self.steps.borrow_mut().push(ExplainStep {
            step: step.to_owned(),
            detail: detail.into(),
        });
    }

    /// The same once: asking again says nothing new.
    fn note_once(&self, step: &str, detail: String) {
        let known = |noted: &ExplainStep| noted.step == step && noted.detail == detail;
        let known = self.steps.borrow().iter().any(known);
        if !known {
            self.note(step, detail);
        }
    }

    /// Visits the word of a rate, and notes whether it was charged. What `visit` notes itself was asked after this rate.
    fn charge<R>(&self, whose: &str, mut due: u64, visit: impl FnOnce(&mut u64) -> R) -> R {
        let (before, noted) = (due, self.steps.borrow().len());
        let result = visit(&mut due);
        let within = due != before || self.steps.borrow().len() > noted;
        let words = if within { "within" } else { "beyond" };
        let step = ExplainStep {
            step: "rate".to_owned(),
            detail: format!("new flows of {whose} are {words} the limit"),
        };
        self.steps.borrow_mut().insert(noted, step);
        result
    }

    fn application_name(&self, id: u32) -> Option<String> {
        self.view
            .applications
            .iter()
            .find(|application| application.id == id)
            .map(|found| found.name.clone())
    }

    fn origin_view(&self, id: OriginId) -> Option<(&PoolView, &OriginView)> {
        self.view
            .pools
            .iter()
            .flat_map(|pool| pool.origins.iter().map(move |origin| (pool, origin)))
            .find(|(_, origin)| origin.id == id)
    }

    fn origin_name(&self, id: OriginId) -> String {
        match self.origin_view(id) {
            Some((pool, origin)) => match &origin.host_name {
                Some(name) => format!("{}/{} ({name})", pool.name, origin.name),
                None => format!("{}/{}", pool.name, origin.name),
            },
            None => format!("#{}", id.0),
        }
    }

    /// What became of the packet, and why.
    pub fn conclude(self, verdict: Verdict, question: Question) -> Explain {
        let destination = self.destination(question);
        let words = match verdict {
            Verdict::Pass(reason) => format!("pass to the kernel: {}", reason.name()),
            Verdict::Forward(_) => "forward".to_owned(),
            Verdict::Reply(reply, _) => format!("answer: {}", reply.name()),
            Verdict::Hold(reason) => format!("hold: {}", reason.name()),
            Verdict::Drop(reason) => format!("drop: {}", reason.name()),
        };
        let mut explain = Explain {
            verdict: words.clone(),
            ..Explain::default()
        };
        if let (Verdict::Forward(_), Some((application, id))) = (verdict, self.sent.get()) {
            let origin = self.maps.origins.get(&id.0, 0).ok();
            explain.application = self.application_name(application);
            // Packets that leave as they came do not say where to.
            let (address, port) = match origin {
                Some(origin) if origin.forwarding.is_direct() => {
                    (Some(IpAddr::from(origin.address)), Some(question.vip.port()))
                }
                _ => (destination.map(|to| to.ip()), destination.map(|to| to.port())),
            };
            (explain.address, explain.port) = (address, port);
            if let Some((pool, origin)) = self.origin_view(id) {
                explain.pool = Some(pool.name.clone());
                explain.origin = Some(origin.name.clone());
            }
        }
        self.note("verdict", words);
        explain.steps = self.steps.into_inner();
        explain
    }

    /// The address that the client's side of the flow leads to, or would, when the flow has an entry.
    fn destination(
        &self,
        Question {
            protocol,
            client,
            vip,
        }: Question,
    ) -> Option<SocketAddr> {
        let (source_port, destination_port) = (Port::new(client.port()), Port::new(vip.port()));
        match (Ip::from(client.ip()).v4(), Ip::from(vip.ip()).v4()) {
            (Some(source), Some(destination)) => {
                let key = FlowKey4 {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    protocol,
                    reserved: [0; 3],
                };
                let flow = (self.find4(Memory::Established, &key))
                    .or_else(|| self.find4(Memory::Tentative, &key))?;
                Some(address(flow.destination.into(), flow.core.destination_port))
            }
            _ => {
                let (source, destination) = (Ip6(Ip::from(client.ip()).0), Ip6(Ip::from(vip.ip()).0));
                let key = FlowKey6 {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    protocol,
                    reserved: [0; 3],
                };
                let flow = (self.find6(Memory::Established, &key))
                    .or_else(|| self.find6(Memory::Tentative, &key))?;
                Some(address(flow.destination.into(), flow.core.destination_port))
            }
        }
    }

    fn find4(&self, memory: Memory, key: &FlowKey4) -> Option<Flow4> {
        match self.flows4.borrow().get(&(memory, *key)) {
            Some(changed) => *changed,
            None => match memory {
                Memory::Established => self.maps.flows4.get(key, 0).ok(),
                Memory::Tentative => self.maps.tentative4.get(key, 0).ok(),
            },
        }
    }

    fn find6(&self, memory: Memory, key: &FlowKey6) -> Option<Flow6> {
        match self.flows6.borrow().get(&(memory, *key)) {
            Some(changed) => *changed,
            None => match memory {
                Memory::Established => self.maps.flows6.get(key, 0).ok(),
                Memory::Tentative => self.maps.tentative6.get(key, 0).ok(),
            },
        }
    }

    fn note_known(&self, core: &FlowCore) {
        // The second visit is the packet that has just opened the flow.
        if !self.steps.borrow().iter().any(|step| step.step == "source") {
            self.note(
                "flow",
                format!("known already: goes to origin {}", self.origin_name(core.origin)),
            );
        }
    }
}

fn address(ip: Ip, port: Port) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip), port.host())
}

fn forwarding(forwarding: Forwarding) -> &'static str {
    match forwarding {
        Forwarding::NAT => "nat",
        Forwarding::DNAT => "dnat",
        Forwarding::DSR_L2 => "dsr_l2",
        Forwarding::DSR_IPIP => "dsr_ipip",
        Forwarding::DSR_GUE => "dsr_gue",
        _ => "a mode that this version does not know",
    }
}

fn says(rule: Option<AccessRule>) -> &'static str {
    match rule {
        Some(AccessRule::ALLOW) => "allows",
        Some(AccessRule::DENY) => "denies",
        _ => "says nothing about",
    }
}

fn mac(mac: Mac) -> String {
    let bytes: [u8; 6] = mac.into();
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

impl Tables for Recorder<'_> {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn generation(&self) -> u32 {
        self.settings.generation
    }

    fn application(&self, key: &ApplicationKey) -> Option<Application> {
        let found = self.maps.applications.get(key, 0).ok();
        let place = address(key.address, key.port);
        self.application.set(found.map(|application| application.id));
        match found {
            Some(application) => {
                let name = self
                    .application_name(application.id)
                    .unwrap_or_else(|| format!("#{}", application.id));
                self.note_once(
                    "application",
                    format!(
                        "{name} listens on {place} (generation {})",
                        self.settings.generation
                    ),
                );
            }
            None => self.note_once("application", format!("none listens on {place}")),
        }
        found
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.maps.routes.get(key, 0).ok()
    }

    fn timeouts(&self, application: u32) -> Option<Timeouts> {
        self.maps.timeouts.get(&application, 0).ok()
    }

    fn vip(&self, key: &VipKey) -> Option<Vip> {
        let vip = self.maps.vips.get(key, 0).ok()?;
        if vip.tcp.count + vip.udp.count > 0 {
            let detail = format!(
                "{} has applications on ranges of ports",
                IpAddr::from(key.address)
            );
            self.note_once("ranges", detail);
        }
        Some(vip)
    }

    fn addresses(&self, word: u32) -> Option<u64> {
        self.maps.addresses.get(&word, 0).ok()
    }

    fn bucket<R>(&self, row: u32, visit: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        let mut buckets = self.buckets.borrow_mut();
        let bucket = match buckets.entry(row) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(unseen) => {
                let bucket = self.maps.buckets.get(&row, 0).ok()?;
                let owner = match bucket.owner {
                    OriginId::NONE => "of nobody yet".to_owned(),
                    owner => format!("of origin {}", self.origin_name(owner)),
                };
                self.note(
                    "bucket",
                    format!("{row}: flows without an entry are those {owner}"),
                );
                unseen.insert(bucket)
            }
        };
        Some(visit(bucket))
    }

    fn own_bucket(&self, row: u32, _former: OriginId, id: OriginId) -> bool {
        self.note(
            "bucket",
            format!("{row}: origin {} takes it", self.origin_name(id)),
        );
        self.bucket(row, |bucket| bucket.owner = id).is_some()
    }

    fn settled(&self, row: u32) -> Option<u32> {
        self.maps.settled.get(&row, 0).ok()
    }

    fn shortcut(&self, _key: &ApplicationKey) -> Option<Shortcut> {
        // By its record, which is written down.
        None
    }

    fn span(&self, index: u32) -> Option<PortSpan> {
        self.maps.spans.get(&index, 0).ok()
    }

    fn access(&self, key: &AccessKey) -> Option<AccessRule> {
        let rule = self.maps.access.get(&Key::new(160, *key), 0).ok();
        let whose = if u32::from_be(key.list) == self.settings.access.0 {
            "all applications"
        } else {
            "the application"
        };
        let address = IpAddr::from(key.address);
        self.note("access", format!("the list of {whose} {} {address}", says(rule)));
        rule
    }

    fn country_rule(&self, key: &CountryKey) -> Option<AccessRule> {
        let rule = self.maps.country_rules.get(key, 0).ok();
        let which = match key.country.letters() {
            Some([first, second]) => format!("{first}{second}"),
            None => "other countries".to_owned(),
        };
        self.note("access", format!("the list {} {which}", says(rule)));
        rule
    }

    fn country(&self, address: Ip) -> Option<Country> {
        let country = self.maps.countries.get(&Key::new(128, address), 0).ok();
        let place = match country.and_then(Country::letters) {
            Some([first, second]) => format!("is in {first}{second}"),
            None => "is in no country that is known".to_owned(),
        };
        self.note_once("country", format!("{} {place}", IpAddr::from(address)));
        self.country.set(country);
        country
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.maps.interfaces.get(&ifindex, 0).ok()
    }

    fn pool(&self, row: PoolRow) -> Option<Pool> {
        let pool = self.maps.pools.get(&row.0, 0).ok()?;
        if let Some(application) = self.application.get() {
            for words in steering_words(self.view, application, self.country.get()) {
                self.note_once("steering", words);
            }
        }
        let id = PoolId(row.0 / 2);
        let known = self.view.pools.iter().find(|pool| pool.id == id);
        self.note(
            "pool",
            known.map_or_else(|| format!("number {}", id.0), |pool| pool.name.clone()),
        );
        Some(pool)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.maps.slots.get(&index, 0).ok()
    }

    fn origin(&self, id: OriginId) -> Option<Origin> {
        let origin = self.maps.origins.get(&id.0, 0).ok()?;
        let state = match origin.state {
            OriginState::UP => "up",
            OriginState::DOWN => "down",
            OriginState::DRAINING => "draining",
            OriginState::ENDED => "drained",
            _ => "absent",
        };
        let detail = format!(
            "{} at {} is {state}, forwarded to by {}",
            self.origin_name(id),
            IpAddr::from(origin.address),
            forwarding(origin.forwarding)
        );
        self.note_once("origin", detail);
        Some(origin)
    }

    fn hop(&self, id: HopId) -> Option<Hop> {
        let hop = self.maps.hops.get(&id.0, 0).ok()?;
        let detail = match hop.resolved {
            0 => "not resolved: the neighbour does not answer".to_owned(),
            _ => format!("{} through interface {}", mac(hop.neighbour), hop.ifindex),
        };
        self.note_once("next hop", detail);
        Some(hop)
    }

    fn snat_address(&self, index: u32) -> Option<Ip> {
        let address = self.maps.snat_addresses.get(&index, 0).ok()?;
        // A port that may be taken is looked at twice.
        self.note_once("source", format!("translated to {}", IpAddr::from(address)));
        Some(address)
    }

    fn flow_filter(&self, _index: u32) -> Option<u64> {
        // It spares the packet path a look into the flow tables, and changes no outcome.
        None
    }

    fn set_flow_filter(&self, _index: u32, _mask: u64) {}

    fn flow4<R>(&self, memory: Memory, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        let mut flow = self.find4(memory, key)?;
        self.note_known(&flow.core);
        let result = visit(&mut flow);
        self.flows4.borrow_mut().insert((memory, *key), Some(flow));
        Some(result)
    }

    fn make4(&self, flow: Flow4) {
        self.made4.set(flow);
    }

    fn made4<R>(&self, made: bool, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        if made {
            return Some(visit(&mut self.made4.get()));
        }
        self.flow4(Memory::Established, key, visit)
    }

    fn insert4(&self, memory: Memory, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError> {
        if self.find4(memory, key).is_some() {
            return Err(InsertError::Exists);
        }
        self.flows4.borrow_mut().insert((memory, *key), Some(*flow));
        Ok(())
    }

    fn remove4(&self, memory: Memory, key: &FlowKey4) -> bool {
        let known = self.find4(memory, key).is_some();
        self.flows4.borrow_mut().insert((memory, *key), None);
        known
    }

    fn flow6<R>(&self, memory: Memory, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        let mut flow = self.find6(memory, key)?;
        self.note_known(&flow.core);
        let result = visit(&mut flow);
        self.flows6.borrow_mut().insert((memory, *key), Some(flow));
        Some(result)
    }

    fn make6(&self, flow: Flow6) {
        self.made6.set(flow);
    }

    fn made6<R>(&self, made: bool, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        if made {
            return Some(visit(&mut self.made6.get()));
        }
        self.flow6(Memory::Established, key, visit)
    }

    fn insert6(&self, memory: Memory, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError> {
        if self.find6(memory, key).is_some() {
            return Err(InsertError::Exists);
        }
        self.flows6.borrow_mut().insert((memory, *key), Some(*flow));
        Ok(())
    }

    fn remove6(&self, memory: Memory, key: &FlowKey6) -> bool {
        let known = self.find6(memory, key).is_some();
        self.flows6.borrow_mut().insert((memory, *key), None);
        known
    }

    fn rate<R>(&self, application: u32, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        let due = self.maps.rates.get(&application, 0).ok()?;
        Some(self.charge("the application", due, visit))
    }

    fn source_rate<R>(&self, key: &SourceKey, fresh: u64, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        let due = self.maps.source_rates.get(key, 0).unwrap_or(fresh);
        Some(self.charge("the source", due, visit))
    }

    fn reply_rate<R>(&self, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        Some(visit(&mut 0))
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        let bound = self.maps.affinity.get(key, 0).ok();
        let client = IpAddr::from(key.client);
        self.note(
            "affinity",
            match &bound {
                Some(bound) => format!("{client} was given {} last", self.origin_name(bound.origin)),
                None => format!("{client} is not known"),
            },
        );
        bound
    }

    fn bind(&self, key: &AffinityKey, affinity: &Affinity) {
        let origin = self.origin_name(affinity.origin);
        let detail = format!("{} would be bound to {origin}", IpAddr::from(key.client));
        self.note("affinity", detail);
    }

    fn established(&self, origin: OriginId) -> u32 {
        let count = |map: &Array<MapData, Load>| map.get(&origin.0, 0).map_or(0, |load| load.established);
        let flows = count(&self.maps.loads).wrapping_sub(count(&self.maps.swept));
        if origin == OriginId::DIRECT {
            return flows;
        }
        let cap = self
            .maps
            .origins
            .get(&origin.0, 0)
            .map_or(0, |origin| origin.max_flows);
        let detail = format!("{} has {flows} of at most {cap} flows", self.origin_name(origin));
        self.note_once("flows", detail);
        flows
    }

    fn establish(&self, _origin: OriginId) {}

    fn disestablish(&self, _origin: OriginId) {}

    fn swept_at(&self) -> u32 {
        self.maps.swept_at.get(&0, 0).unwrap_or(0)
    }

    fn path_mtu(&self, origin: OriginId) -> Option<PathMtu> {
        self.maps.path_mtus.get(&origin.0, 0).ok()
    }

    fn learn_path_mtu(&self, _origin: OriginId, _path: PathMtu) {}

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentFlow> {
        self.maps.fragments.get(key, 0).ok()
    }

    fn remember_fragment(&self, _key: &FragmentKey, _flow: &FragmentFlow) {}

    fn next_fragment(&self) -> u32 {
        0
    }

    fn count(&self, _row: u32) {}

    fn count_packet(&self, application: u32, origin: OriginId, _sample: Sample) {
        self.sent.set(Some((application, origin)));
    }

    fn count_flow(&self, _application: u32, _origin: OriginId) {}
}
