//! The maps as a writer fills them and the packet path reads them, with every write checked.

use super::world::{capacity, ip};
use crate::engine::Adopted;
use crate::image::{AccessRules, TableOp};
use crate::maglev::mix;
use crate::model::CountryTable;
use core::net::IpAddr;
use lb_common::abi::{
    self, AccessKey, AccessList, AccessRule, ApplicationFlags, ApplicationKey, BucketRun, Country,
    CountryKey, Forwarding, Hop, HopId, Interface, Ip, Mac, OriginId, OriginState, Parity, PoolId, PoolList,
    Port, PortSpan, Protocol, RouteKey, Settings, SettingsFlags, Steering, Table, Timeouts, Vip, VipKey,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The maps, as far as a writer fills them.
#[derive(Clone)]
pub struct Maps {
    pub settings: Settings,
    pub origins: BTreeMap<OriginId, abi::Origin>,
    pub hops: BTreeMap<HopId, Hop>,
    pub interfaces: BTreeMap<u32, Interface>,
    pub sources: BTreeMap<u32, Ip>,
    pub timeouts: BTreeMap<u32, Timeouts>,
    pub slots: Vec<u32>,
    pub pools: BTreeMap<u32, abi::Pool>,
    pub applications: BTreeMap<ApplicationKey, abi::Application>,
    pub vips: BTreeMap<VipKey, Vip>,
    pub routes: BTreeMap<RouteKey, abi::Route>,
    pub access: BTreeMap<AccessList, Arc<AccessRules>>,
    /// Access lists of all applications that a packet may still read.
    pub readable_access: Vec<AccessList>,
    pub countries: Arc<CountryTable>,
    pub spans: Vec<PortSpan>,
    /// Generations that a packet may still read: the live one, and the one before until a grace period has passed.
    pub readable: Vec<u32>,
    /// Link addresses by which each destination was ever said to be reached.
    pub neighbours: BTreeMap<IpAddr, BTreeSet<Mac>>,
}

impl Default for Maps {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            origins: BTreeMap::new(),
            hops: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            sources: BTreeMap::new(),
            timeouts: BTreeMap::new(),
            slots: vec![0; capacity().slots as usize],
            pools: BTreeMap::new(),
            applications: BTreeMap::new(),
            vips: BTreeMap::new(),
            routes: BTreeMap::new(),
            access: BTreeMap::new(),
            readable_access: Vec::new(),
            countries: Arc::default(),
            spans: vec![PortSpan::default(); capacity().spans as usize],
            readable: vec![0],
            neighbours: BTreeMap::new(),
        }
    }
}

impl Maps {
    /// Writes, and checks what a packet would meet now.
    pub fn execute(&mut self, op: &TableOp) {
        self.write(op);
        self.check();
    }

    pub fn write(&mut self, op: &TableOp) {
        match op {
            TableOp::Origin { id, record } => {
                assert!(id.0 > 0 && id.0 < capacity().origins);
                let former = self.origins.get(id).copied().unwrap_or_default();
                let before = former.identity;
                if before != 0 && before != record.identity {
                    // It is forgotten when no flow means it, and only then given to another.
                    panic!("{former:?} becomes {record:?}");
                }
                self.origins.insert(*id, *record);
            }
            TableOp::ForgetOrigin { id } => {
                for generation in self.readable.iter().filter(|generation| **generation != 0) {
                    assert!(!self.named_origins(*generation).contains(id));
                }
                self.origins.insert(*id, abi::Origin::default());
            }
            TableOp::Hop { id, record } => {
                assert!(id.0 > 0 && id.0 < capacity().hops);
                self.hops.insert(*id, *record);
            }
            TableOp::Interface { index, record } => {
                match record {
                    Some(record) => self.interfaces.insert(*index, *record),
                    None => Some(self.interfaces.remove(index).expect("a record to remove")),
                };
            }
            TableOp::Timeouts { application, record } => {
                assert!(*application < capacity().application_rows);
                assert!(
                    record.tcp > 0 && record.tcp_handshake > 0 && record.tcp_closing > 0 && record.udp > 0
                );
                self.timeouts.insert(*application, *record);
            }
            TableOp::SnatAddress { index, address } => {
                assert!(*index < capacity().snat_addresses);
                self.sources.insert(*index, *address);
            }
            TableOp::Slots { base, owners } => {
                let end = base + owners.len() as u32;
                assert!(end <= capacity().slots);
                for generation in self.readable.clone() {
                    for (base_used, end_used) in self.runs(generation) {
                        assert!(
                            end <= base_used || end_used <= *base,
                            "slots of a readable generation"
                        );
                    }
                }
                self.slots[*base as usize..end as usize].copy_from_slice(owners);
            }
            TableOp::Buckets { base, count } => {
                assert!(base + count <= capacity().buckets);
                let readable = |key: &ApplicationKey| {
                    let parity = u32::from(key.parity.0);
                    self.readable
                        .iter()
                        .any(|generation| *generation != 0 && generation & 1 == parity)
                };
                for (_, record) in self.applications.iter().filter(|(key, _)| readable(key)) {
                    let run = record.buckets;
                    let apart = base + count <= run.base() || run.base() + run.rows() <= *base;
                    assert!(
                        run == BucketRun::NONE || apart,
                        "buckets of a readable generation"
                    );
                }
            }
            TableOp::Unsettle { base, count } => assert!(base + count <= capacity().buckets),
            TableOp::Pool { row, record } => {
                assert!(row.0 < capacity().pools);
                self.assert_unread(row.0 & 1);
                self.pools.insert(row.0, *record);
            }
            TableOp::Application { key, record } => {
                self.assert_unread(u32::from(key.parity.0));
                self.applications.insert(*key, *record);
                assert!(self.applications.len() <= capacity().applications as usize);
                assert!(record.id < capacity().application_rows);
            }
            TableOp::RemoveApplication { key } => {
                self.assert_unread(u32::from(key.parity.0));
                assert!(self.applications.remove(key).is_some());
            }
            TableOp::Spans { base, spans } => {
                let end = base + spans.len() as u32;
                for (_, vip) in self.vips.iter().filter(|(key, _)| self.is_read(key.parity.0)) {
                    for used in [vip.tcp, vip.udp] {
                        assert!(
                            end <= used.base || used.base + used.count <= *base,
                            "ranges of a readable generation"
                        );
                    }
                }
                self.spans[*base as usize..end as usize].copy_from_slice(spans);
            }
            TableOp::Vip { key, record } => {
                self.assert_unread(u32::from(key.parity.0));
                self.vips.insert(*key, *record);
                assert!(self.vips.len() <= capacity().vips as usize);
            }
            TableOp::RemoveVip { key } => {
                self.assert_unread(u32::from(key.parity.0));
                assert!(self.vips.remove(key).is_some());
            }
            TableOp::Route { key, record } => {
                self.assert_unread(u32::from(key.parity.0));
                self.routes.insert(*key, *record);
                assert!(self.routes.len() <= capacity().routes as usize);
            }
            TableOp::RemoveRoute { key } => {
                self.assert_unread(u32::from(key.parity.0));
                assert!(self.routes.remove(key).is_some());
            }
            TableOp::AccessList { list, rules } => {
                let former = self.access.insert(*list, Arc::clone(rules));
                if former.as_ref() != Some(rules) {
                    assert!(!self.reads_list(*list), "a list that packets read");
                }
                let rows = |count: fn(&AccessRules) -> usize| -> usize {
                    self.access.values().map(|rules| count(rules)).sum()
                };
                assert!(rows(|rules| rules.prefixes.len()) <= capacity().access_prefixes as usize);
                assert!(rows(|rules| rules.countries.len()) <= capacity().country_rules as usize);
            }
            TableOp::RemoveAccessList { list, rules } => {
                assert!(!self.reads_list(*list), "a list that packets read");
                assert_eq!(self.access.remove(list).as_ref(), Some(rules));
            }
            TableOp::Countries { table, former } => {
                if let Some(former) = former {
                    assert_eq!(former, &self.countries);
                }
                assert!(table.rows().len() <= capacity().country_prefixes as usize);
                self.countries = Arc::clone(table);
            }
            TableOp::Settings(settings) => {
                self.readable_access.push(settings.access);
                assert_ne!(settings.generation, 0);
                if settings.generation != self.settings.generation {
                    assert_ne!(settings.generation & 1, self.settings.generation & 1);
                    self.readable.push(settings.generation);
                }
                self.settings = *settings;
            }
            TableOp::Grace => {
                self.readable = vec![self.settings.generation];
                self.readable_access = vec![self.settings.access];
            }
        }
    }

    /// Whether a packet may ask the list.
    fn reads_list(&self, list: AccessList) -> bool {
        let mut applications = self
            .applications
            .iter()
            .filter(|(key, _)| self.is_read(key.parity.0));
        applications.any(|(_, application)| application.access == list)
            || self.readable_access.contains(&list)
    }

    fn is_read(&self, parity: u8) -> bool {
        let mut readable = self.readable.iter();
        readable.any(|generation| *generation != 0 && generation & 1 == u32::from(parity))
    }

    fn assert_unread(&self, parity: u32) {
        assert!(!self.is_read(parity as u8), "a row of a readable generation");
    }

    /// The runs of slots that a generation reads.
    pub fn runs(&self, generation: u32) -> Vec<(u32, u32)> {
        self.tables(generation)
            .into_iter()
            .map(|table| (table.base, table.base + table.size))
            .collect()
    }

    pub fn tables(&self, generation: u32) -> Vec<Table> {
        let mut tables = Vec::new();
        if generation == 0 {
            return tables;
        }
        let parity = Parity((generation & 1) as u8);
        for route in self.routes(parity) {
            let PoolList {
                base,
                extent,
                steering,
            } = route.pools;
            let size = if steering == Steering::ORDERED {
                extent
            } else {
                extent + 1
            };
            tables.push(Table { base, size });
            for pool in self.pool_ids(&route) {
                tables.extend(self.pools[&pool.row(parity).0].tables);
            }
        }
        tables.retain(|table| table.size > 0);
        tables.sort_unstable_by_key(|table| table.base);
        tables.dedup();
        tables
    }

    fn named_origins(&self, generation: u32) -> BTreeSet<OriginId> {
        let parity = Parity((generation & 1) as u8);
        let routes = self.routes(parity).into_iter();
        let pools = routes.flat_map(|route| self.pool_ids(&route));
        let tables = pools.flat_map(|pool| self.pools[&pool.row(parity).0].tables);
        tables.flat_map(|table| self.owners(&table)).collect()
    }

    /// Every id that a packet can meet leads somewhere, and only where it should.
    pub fn check(&self) {
        let named: BTreeSet<HopId> = self.origins.values().map(|record| record.hop).collect();
        let hops = self.hops.iter().filter(|(id, _)| named.contains(id));
        let hops = hops.map(|(_, hop)| u32::from(hop.mtu));
        let mut mtus = hops.chain(self.interfaces.values().map(|interface| interface.mtu));
        assert!(mtus.all(|mtu| self.settings.smallest_mtu <= mtu));
        for record in self
            .origins
            .values()
            .filter(|record| record.hop != HopId::UNRESOLVED)
        {
            let hop = &self.hops[&record.hop];
            if hop.resolved != 0 {
                let known = &self.neighbours[&IpAddr::from(record.address)];
                assert!(
                    known.contains(&hop.neighbour),
                    "{:?} to {record:?}",
                    hop.neighbour
                );
            }
            for index in record.snat_base..record.snat_base + record.snat_count {
                let same_family = self.sources[&index].v4().is_some() == record.address.v4().is_some();
                assert!(same_family);
            }
        }
        let countries = self.settings.flags.has(SettingsFlags::COUNTRIES);
        for list in &self.readable_access {
            self.check_access(*list, countries);
        }
        for generation in self
            .readable
            .iter()
            .copied()
            .filter(|generation| *generation != 0)
        {
            let parity = Parity((generation & 1) as u8);
            for (key, application) in self.applications.iter().filter(|(key, _)| key.parity == parity) {
                assert_ne!(application.origin_port.host(), 0);
                let mut direct = false;
                let mut routes = vec![route_of(application)];
                let others = self
                    .routes
                    .iter()
                    .filter(|(key, _)| (key.parity, key.set) == (parity, application.routes));
                let asks = application.flags.has(ApplicationFlags::ROUTES);
                let others = others.filter(|_| asks);
                let others: Vec<abi::Route> = others.map(|(_, route)| *route).collect();
                assert_eq!(asks, !others.is_empty());
                assert!(!asks || !self.countries.rows().is_empty());
                routes.extend(others);
                for pool in routes.iter().flat_map(|route| self.pool_ids(route)) {
                    let pool = &self.pools[&pool.row(parity).0];
                    for (kind, table) in (0..).zip(&pool.tables) {
                        assert!(table.size == 0 || table.size.is_power_of_two());
                        for owner in self.owners(table) {
                            let origin = &self.origins[&owner];
                            assert_ne!(origin.identity, 0);
                            direct |= origin.forwarding.is_direct();
                            assert!(
                                origin.forwarding != Forwarding::DNAT
                                    || self.settings.flags.has(SettingsFlags::DNAT)
                            );
                            let own = origin.address.v4().is_some() == (kind % 2 == 0);
                            assert!(own || origin.forwarding.is_direct());
                        }
                    }
                }
                self.check_ports(key, application);
                let countries = application.flags.has(ApplicationFlags::COUNTRIES);
                self.check_access(application.access, countries);
                assert!(!direct || application.flags.has(ApplicationFlags::DIRECT));
                assert!(key.port.host() != 0);
            }
        }
    }

    /// A list that packets ask is there, and so are countries if it needs them.
    fn check_access(&self, list: AccessList, countries: bool) {
        if list == AccessList::NONE {
            return;
        }
        let rules = &self.access[&list];
        if !rules.countries.is_empty() {
            assert!(countries && !self.countries.rows().is_empty());
        }
    }

    /// An application is found by its address, and by its range of ports if it has one.
    fn check_ports(&self, key: &ApplicationKey, application: &abi::Application) {
        let vip = self.vips[&VipKey {
            address: key.address,
            parity: key.parity,
            reserved: [0; 3],
        }];
        let spans = match key.protocol {
            Protocol::TCP => vip.tcp,
            _ => vip.udp,
        };
        let spans = &self.spans[spans.base as usize..(spans.base + spans.count) as usize];
        for pair in spans.windows(2) {
            assert!(pair[0].last < pair[1].first, "in order and disjoint");
        }
        let own = spans.iter().find(|span| span.first == key.port.host());
        if application.first_port == Port::default() {
            assert!(own.is_none());
        } else {
            assert!(own.is_some_and(|span| span.last > span.first));
            assert_eq!(application.first_port, key.port);
            assert!(self.settings.flags.has(SettingsFlags::RANGES));
        }
    }

    fn slot(&self, index: u32) -> u32 {
        self.slots[index as usize]
    }

    /// The origins that a table names.
    pub fn owners(&self, table: &Table) -> BTreeSet<OriginId> {
        let mut named = [false; 256];
        for owner in &self.slots[table.base as usize..(table.base + table.size) as usize] {
            named[*owner as usize] = true;
        }
        (0..)
            .zip(named)
            .filter(|(_, named)| *named)
            .map(|(owner, _)| OriginId(owner))
            .collect()
    }

    /// What applications say, and what holds for countries.
    fn routes(&self, parity: Parity) -> Vec<abi::Route> {
        let applications = self.applications.iter().filter(|(key, _)| key.parity == parity);
        let routes = self.routes.iter().filter(|(key, _)| key.parity == parity);
        let applications = applications.map(|(_, application)| route_of(application));
        applications.chain(routes.map(|(_, route)| *route)).collect()
    }

    fn pool_ids(&self, route: &abi::Route) -> BTreeSet<PoolId> {
        let list = route.pools;
        let size = match list.steering {
            Steering::ORDERED => list.extent,
            _ => list.extent + 1,
        };
        let pools = (list.base..list.base + size).map(|slot| PoolId(self.slot(slot)));
        pools
            .chain([route.fallback])
            .filter(|pool| *pool != PoolId::NONE)
            .collect()
    }

    /// The packet path's choice for a new flow of a client whose country nothing is said of.
    pub fn select(&self, vip: &str, flow: u64) -> Option<(PoolId, OriginId)> {
        self.select_from(Country::new(*b"??"), vip, flow)
    }

    /// The packet path's choice for a new flow.
    pub fn select_from(&self, country: Country, vip: &str, flow: u64) -> Option<(PoolId, OriginId)> {
        let parity = self.settings.parity();
        let address = Ip::from(ip(vip));
        let key = ApplicationKey {
            address,
            port: Port::new(80),
            protocol: Protocol::TCP,
            parity,
        };
        let application = self.applications.get(&key)?;
        let key = RouteKey {
            set: application.routes,
            country,
            parity,
            v6: u8::from(ip(vip).is_ipv6()),
            reserved: [0; 2],
        };
        let asks = application.flags.has(ApplicationFlags::ROUTES);
        let rerouted = self.routes.get(&key).filter(|_| asks).copied();
        let route = rerouted.unwrap_or_else(|| route_of(application));
        let list = route.pools;
        let candidates = (0..8).filter_map(|k| match list.steering {
            Steering::ORDERED => (k < list.extent).then(|| list.base + k),
            _ => Some(list.base + (mix(flow ^ u64::from(k) << 32) as u32 & list.extent)),
        });
        let candidates = candidates.map(|slot| PoolId(self.slot(slot)));
        // What all pools give up is the fallback pool's.
        for pool in candidates.take_while(|pool| *pool != PoolId::NONE) {
            if let Some(origin) = self.origin_of(pool, 0, vip, flow) {
                return Some((pool, origin));
            }
        }
        let fallback = route.fallback;
        let origin = (fallback != PoolId::NONE).then(|| self.origin_of(fallback, 2, vip, flow))??;
        Some((fallback, origin))
    }

    fn origin_of(&self, pool: PoolId, role: usize, vip: &str, flow: u64) -> Option<OriginId> {
        let kind = role + usize::from(ip(vip).is_ipv6());
        let table = self.pools[&pool.row(self.settings.parity()).0].tables[kind];
        (0..8).find_map(|probe: u64| {
            let hash = mix(flow.wrapping_mul(31) ^ probe << 40) as u32;
            let id = OriginId(self.slot(table.base + (hash & table.size.checked_sub(1)?)));
            let origin = &self.origins[&id];
            let fits = origin.state == OriginState::UP || role == 2 && origin.state == OriginState::DOWN;
            let hop = self.hops.get(&origin.hop).is_some_and(|hop| hop.resolved != 0);
            (fits && hop).then_some(id)
        })
    }

    fn access_rows(&self) -> Vec<(u32, AccessKey, AccessRule)> {
        let mut rows = Vec::new();
        for (list, rules) in &self.access {
            for (length, address, rule) in &rules.prefixes {
                let (list, address) = (list.0.to_be(), *address);
                rows.push((length + 32, AccessKey { list, address }, *rule));
            }
        }
        rows.reverse();
        rows
    }

    fn country_rows(&self) -> Vec<(CountryKey, AccessRule)> {
        let mut rows = Vec::new();
        for (list, rules) in &self.access {
            for (country, rule) in &rules.countries {
                let (list, country) = (*list, *country);
                rows.push((CountryKey { list, country }, *rule));
            }
        }
        rows.reverse();
        rows
    }

    pub fn adopted(&self) -> Adopted {
        let live = self.settings.parity();
        let (current, stale): (Vec<_>, Vec<_>) = self
            .applications
            .iter()
            .map(|(key, record)| (*key, *record))
            .partition(|(key, _)| key.parity == live);
        let (vips, stale_vips): (Vec<_>, Vec<_>) = self
            .vips
            .iter()
            .map(|(key, record)| (*key, *record))
            .partition(|(key, _)| key.parity == live);
        let (routes, stale_routes): (Vec<_>, Vec<_>) = self
            .routes
            .iter()
            .map(|(key, record)| (*key, *record))
            .partition(|(key, _)| key.parity == live);
        let sources = self.sources.keys().last().map_or(0, |last| last + 1);
        Adopted {
            settings: self.settings,
            origins: self.origins.iter().map(|(id, record)| (*id, *record)).collect(),
            applications: current,
            tables: self.tables(self.settings.generation),
            stale_applications: stale.into_iter().map(|(key, _)| key).collect(),
            vips,
            stale_vips: stale_vips.into_iter().map(|(key, _)| key).collect(),
            routes,
            stale_routes: stale_routes.into_iter().map(|(key, _)| key).collect(),
            hops: self.hops.iter().map(|(id, record)| (*id, *record)).collect(),
            access: self.access_rows(),
            country_rules: self.country_rows(),
            interfaces: self
                .interfaces
                .iter()
                .map(|(index, record)| (*index, *record))
                .collect(),
            snat_addresses: (0..sources)
                .map(|index| self.sources.get(&index).copied().unwrap_or_default())
                .collect(),
        }
    }
}

fn route_of(application: &abi::Application) -> abi::Route {
    abi::Route {
        pools: application.pools,
        fallback: application.fallback,
    }
}
