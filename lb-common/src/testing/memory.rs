//! Tables in ordinary maps.

use super::reasons::Reason;
use crate::abi::{
    AccessKey, AccessRule, Affinity, AffinityKey, Application, ApplicationKey, Bucket, BucketRun, Country,
    CountryKey, Filter, FilterBit, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, FragmentFlow, FragmentKey,
    Hop, HopId, Interface, Ip, Load, Origin, OriginId, PathMtu, Pool, PoolRow, PortSpan, Route, RouteKey,
    Settings, SettingsFlags, Shortcut, Slot, SourceKey, Timeouts, Traffic, Vip, VipKey,
};
use crate::datapath::{InsertError, Memory, Sample, Tables};
use crate::hash;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// All tables in memory. The configuration is public; what packets change stands behind cells.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    pub settings: Settings,
    /// Rows that every array has. As in the kernel, a row below it that was never written holds zeros.
    pub array_rows: u32,
    /// Entries that each table of established flows holds, and each of the others; 0: any number.
    pub max_established: usize,
    pub max_tentative: usize,
    pub applications: BTreeMap<ApplicationKey, Application>,
    pub routes: BTreeMap<RouteKey, Route>,
    pub timeouts: BTreeMap<u32, Timeouts>,
    pub vips: BTreeMap<VipKey, Vip>,
    pub spans: BTreeMap<u32, PortSpan>,
    /// By length of the prefix in bits, list included.
    pub access: BTreeMap<(u32, AccessKey), AccessRule>,
    pub country_rules: BTreeMap<CountryKey, AccessRule>,
    /// By length of the prefix in bits of the v4-mapped address.
    pub countries: BTreeMap<(u32, Ip), Country>,
    pub interfaces: BTreeMap<u32, Interface>,
    pub pools: BTreeMap<u32, Pool>,
    pub slots: BTreeMap<u32, Slot>,
    pub origins: BTreeMap<OriginId, Origin>,
    pub hops: BTreeMap<HopId, Hop>,
    pub snat_addresses: BTreeMap<u32, Ip>,
    pub flows4: RefCell<BTreeMap<FlowKey4, Flow4>>,
    pub flows6: RefCell<BTreeMap<FlowKey6, Flow6>>,
    pub tentative4: RefCell<BTreeMap<FlowKey4, Flow4>>,
    pub tentative6: RefCell<BTreeMap<FlowKey6, Flow6>>,
    pub rates: RefCell<BTreeMap<u32, u64>>,
    pub source_rates: RefCell<BTreeMap<SourceKey, u64>>,
    pub reply_rate: RefCell<u64>,
    pub affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    pub loads: RefCell<BTreeMap<u32, Load>>,
    /// As [`Tables::swept_at`] says.
    pub swept_at: u32,
    pub path_mtus: RefCell<BTreeMap<u32, PathMtu>>,
    pub buckets: RefCell<BTreeMap<u32, Bucket>>,
    /// As [`Tables::settled`] says.
    pub settled: BTreeMap<u32, u32>,
    /// Words of the filter of established flows; see [`crate::abi::FlowFilter`].
    pub flow_filter: RefCell<BTreeMap<u32, u64>>,
    /// What was made for the last packet that needed it.
    pub made4: RefCell<Flow4>,
    pub made6: RefCell<Flow6>,
    /// Words of the filter that name what no other table names any more.
    pub addresses: RefCell<BTreeMap<u32, u64>>,
    pub fragments: RefCell<BTreeMap<FragmentKey, FragmentFlow>>,
    pub fragment_count: RefCell<u32>,
    pub verdicts: RefCell<BTreeMap<u32, u64>>,
    pub application_traffic: RefCell<BTreeMap<u32, Traffic>>,
    pub origin_traffic: RefCell<BTreeMap<u32, Traffic>>,
}

/// Adds one packet to a counter row, as the kernel program does.
pub fn add(row: &mut Traffic, sample: Sample) {
    if sample.side == FlowSide::CLIENT {
        row.packets_in += 1;
        row.bytes_in += sample.bytes;
    } else {
        row.packets_out += 1;
        row.bytes_out += sample.bytes;
    }
}

fn insert<K: Ord + Copy, V: Copy>(
    map: &RefCell<BTreeMap<K, V>>,
    most: usize,
    key: &K,
    value: &V,
) -> Result<(), InsertError> {
    let mut map = map.borrow_mut();
    if map.contains_key(key) {
        return Err(InsertError::Exists);
    }
    if map.len() >= most {
        return Err(InsertError::Full);
    }
    map.insert(*key, *value);
    Ok(())
}

/// An address as a number whose first bit is the highest.
fn address_bits(address: Ip) -> u128 {
    u128::from_be_bytes(bytemuck::cast(address.0))
}

/// Word and mask of a bit of a filter.
fn place(filter: Filter, bit: FilterBit) -> (u32, u64) {
    (filter.word(bit), bit.mask)
}

/// The first `length` bits of an address.
fn prefix(address: u128, length: u32) -> u128 {
    address.checked_shr(128 - length).unwrap_or_default()
}

impl MemoryTables {
    /// Bits of the filters that the configuration sets, as words and masks.
    fn configured(&self) -> impl Iterator<Item = (u32, u64)> {
        let applications = self.applications.keys().map(|key| key.address);
        let vips = self.vips.keys().map(|key| key.address);
        let sources = self.snat_addresses.values().copied();
        let ours = applications.chain(vips).chain(sources);
        let untracked = self.applications.iter();
        let untracked = untracked.filter(|(_, record)| record.buckets != BucketRun::NONE);
        ours.map(|address| place(Filter::Ours, FilterBit::of(address)))
            .chain(untracked.map(|(key, _)| place(Filter::Untracked, FilterBit::of(key.address))))
    }

    /// All words of the filters that are not 0, with those of all flows.
    pub fn filter(&self) -> BTreeMap<u32, u64> {
        let mut words = self.addresses.borrow().clone();
        let mut keep = |(word, mask)| *words.entry(word).or_default() |= mask;
        if self.settings.flags.has(SettingsFlags::DNAT) {
            (0..Filter::WORDS / 2).for_each(|word| keep((word, u64::MAX)));
        }
        self.configured().for_each(&mut keep);
        for flows in [&self.flows4, &self.tentative4] {
            let flows = flows.borrow();
            let bits = flows.keys().map(|key| FilterBit::of4(key.destination));
            bits.for_each(|bit| keep(place(Filter::Ours, bit)));
        }
        for flows in [&self.flows6, &self.tentative6] {
            let flows = flows.borrow();
            let bits = flows.keys().map(|key| FilterBit::of6(key.destination));
            bits.for_each(|bit| keep(place(Filter::Ours, bit)));
        }
        words
    }

    /// Keeps a bit of the filter, as the kernel's table does: none is ever taken back.
    fn keep(&self, bit: FilterBit) {
        let (word, mask) = place(Filter::Ours, bit);
        *self.addresses.borrow_mut().entry(word).or_default() |= mask;
    }

    fn row<K: Ord, V: Copy + Default>(&self, array: &BTreeMap<K, V>, key: K, index: u32) -> Option<V> {
        let unwritten = (index < self.array_rows).then(V::default);
        array.get(&key).copied().or(unwritten)
    }

    /// Takes over all that packets remember in other tables, but no counters.
    pub fn adopt(&mut self, other: &Self) {
        let Self {
            flows4,
            flows6,
            tentative4,
            tentative6,
            rates,
            source_rates,
            reply_rate,
            affinity,
            loads,
            path_mtus,
            fragments,
            fragment_count,
            buckets,
            flow_filter,
            ..
        } = other.clone();
        *self = Self {
            flows4,
            flows6,
            tentative4,
            tentative6,
            rates,
            source_rates,
            reply_rate,
            affinity,
            loads,
            path_mtus,
            fragments,
            fragment_count,
            buckets,
            flow_filter,
            addresses: other.filter().into(),
            ..core::mem::take(self)
        };
    }

    /// How many entries each table of a memory holds.
    fn room(&self, memory: Memory) -> usize {
        let most = match memory {
            Memory::Established => self.max_established,
            Memory::Tentative => self.max_tentative,
        };
        if most == 0 { usize::MAX } else { most }
    }

    /// The IPv4 flows of one memory.
    fn memory4(&self, memory: Memory) -> &RefCell<BTreeMap<FlowKey4, Flow4>> {
        match memory {
            Memory::Established => &self.flows4,
            Memory::Tentative => &self.tentative4,
        }
    }

    /// The IPv6 flows of one memory.
    fn memory6(&self, memory: Memory) -> &RefCell<BTreeMap<FlowKey6, Flow6>> {
        match memory {
            Memory::Established => &self.flows6,
            Memory::Tentative => &self.tentative6,
        }
    }

    /// Every counter that is not zero, by its name.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = BTreeMap::new();
        let verdicts = self.verdicts.borrow();
        for reason in Reason::all() {
            let (kind, name) = reason.name();
            let count = verdicts.get(&reason.row()).copied().unwrap_or_default();
            counters.insert(format!("{kind} {name}"), count);
        }
        for (kind, rows) in [
            ("application", &self.application_traffic),
            ("origin", &self.origin_traffic),
        ] {
            for (id, row) in rows.borrow().iter() {
                for (what, count) in [
                    ("in", row.packets_in),
                    ("bytes in", row.bytes_in),
                    ("out", row.packets_out),
                    ("bytes out", row.bytes_out),
                    ("new", row.new_flows),
                ] {
                    counters.insert(format!("{kind} {id} {what}"), count);
                }
            }
        }
        counters.retain(|_, count| *count != 0);
        Counters(counters)
    }
}

/// Counters by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters(pub BTreeMap<String, u64>);

impl Counters {
    /// What has moved since `before`, and by how much, sorted by name.
    #[must_use]
    pub fn since(&self, before: &Self) -> String {
        let moved = self.0.iter().filter_map(|(name, count)| {
            let by = count - before.0.get(name).copied().unwrap_or_default();
            (by != 0).then(|| format!("{name} {by}"))
        });
        moved.collect::<Vec<_>>().join(", ")
    }
}

impl Tables for MemoryTables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn generation(&self) -> u32 {
        self.settings.generation
    }

    fn application(&self, key: &ApplicationKey) -> Option<Application> {
        self.applications.get(key).copied()
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.routes.get(key).copied()
    }

    fn timeouts(&self, application: u32) -> Option<Timeouts> {
        self.row(&self.timeouts, application, application)
    }

    fn vip(&self, key: &VipKey) -> Option<Vip> {
        self.vips.get(key).copied()
    }

    fn addresses(&self, word: u32) -> Option<u64> {
        if word < Filter::WORDS / 2 && self.settings.flags.has(SettingsFlags::DNAT) {
            return Some(u64::MAX);
        }
        let configured = self.configured().filter(|(of, _)| *of == word);
        let flows = self.addresses.borrow().get(&word).copied().unwrap_or_default();
        Some(configured.fold(flows, |bits, (_, mask)| bits | mask))
    }

    fn bucket<R>(&self, row: u32, visit: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        match self.buckets.borrow_mut().entry(row) {
            Entry::Occupied(bucket) => Some(visit(bucket.into_mut())),
            Entry::Vacant(place) if row < self.array_rows => Some(visit(place.insert(Bucket::default()))),
            Entry::Vacant(_) => None,
        }
    }

    fn own_bucket(&self, row: u32, former: OriginId, id: OriginId) -> bool {
        let owned = self.bucket(row, |bucket| {
            let ours = bucket.owner == former;
            if ours {
                bucket.owner = id;
            }
            ours
        });
        owned == Some(true)
    }

    fn settled(&self, row: u32) -> Option<u32> {
        self.row(&self.settled, row, row)
    }

    fn shortcut(&self, key: &ApplicationKey) -> Option<Shortcut> {
        // Who comes first has the row.
        let mut rows = self.applications.iter();
        let first = rows.find_map(|(held, record)| {
            let same = Shortcut::row(held) == Shortcut::row(key);
            same.then(|| Shortcut::of(*held, record)).flatten()
        })?;
        (first.key == *key).then_some(first)
    }

    fn span(&self, index: u32) -> Option<PortSpan> {
        self.row(&self.spans, index, index)
    }

    fn access(&self, key: &AccessKey) -> Option<AccessRule> {
        let address = address_bits(key.address);
        let matches = |length: u32, rule: &AccessKey| {
            rule.list == key.list
                && prefix(address_bits(rule.address), length - 32) == prefix(address, length - 32)
        };
        let rules = self.access.iter().rev();
        let mut rules = rules.filter(|((length, rule), _)| matches(*length, rule));
        rules.next().map(|(_, rule)| *rule)
    }

    fn country_rule(&self, key: &CountryKey) -> Option<AccessRule> {
        self.country_rules.get(key).copied()
    }

    fn country(&self, address: Ip) -> Option<Country> {
        let address = address_bits(address);
        let rules = self.countries.iter().rev();
        let mut rules = rules
            .filter(|((length, rule), _)| prefix(address_bits(*rule), *length) == prefix(address, *length));
        rules.next().map(|(_, country)| *country)
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn pool(&self, row: PoolRow) -> Option<Pool> {
        self.row(&self.pools, row.0, row.0)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.row(&self.slots, index, index)
    }

    fn origin(&self, id: OriginId) -> Option<Origin> {
        self.row(&self.origins, id, id.0)
    }

    fn hop(&self, id: HopId) -> Option<Hop> {
        self.row(&self.hops, id, id.0)
    }

    fn snat_address(&self, index: u32) -> Option<Ip> {
        self.row(&self.snat_addresses, index, index)
    }

    fn flow_filter(&self, index: u32) -> Option<u64> {
        Some(self.flow_filter.borrow().get(&index).copied().unwrap_or_default())
    }

    fn set_flow_filter(&self, index: u32, mask: u64) {
        *self.flow_filter.borrow_mut().entry(index).or_default() |= mask;
    }

    fn flow4<R>(&self, memory: Memory, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        // A visitor may look at the same memory, as it may in the kernel.
        let mut flow = self.memory4(memory).borrow().get(key).copied()?;
        let result = visit(&mut flow);
        self.memory4(memory).borrow_mut().insert(*key, flow);
        Some(result)
    }

    fn make4(&self, flow: Flow4) {
        *self.made4.borrow_mut() = flow;
    }

    fn made4<R>(&self, made: bool, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        if made {
            Some(visit(&mut self.made4.borrow_mut()))
        } else {
            self.flow4(Memory::Established, key, visit)
        }
    }

    fn insert4(&self, memory: Memory, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError> {
        self.keep(FilterBit::of4(key.destination));
        if memory == Memory::Established {
            self.announced(hash::key4(self.settings.hash_key, key));
        }
        insert(self.memory4(memory), self.room(memory), key, flow)
    }

    fn remove4(&self, memory: Memory, key: &FlowKey4) -> bool {
        self.memory4(memory).borrow_mut().remove(key).is_some()
    }

    fn flow6<R>(&self, memory: Memory, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        // A visitor may look at the same memory, as it may in the kernel.
        let mut flow = self.memory6(memory).borrow().get(key).copied()?;
        let result = visit(&mut flow);
        self.memory6(memory).borrow_mut().insert(*key, flow);
        Some(result)
    }

    fn make6(&self, flow: Flow6) {
        *self.made6.borrow_mut() = flow;
    }

    fn made6<R>(&self, made: bool, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        if made {
            Some(visit(&mut self.made6.borrow_mut()))
        } else {
            self.flow6(Memory::Established, key, visit)
        }
    }

    fn insert6(&self, memory: Memory, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError> {
        self.keep(FilterBit::of6(key.destination));
        if memory == Memory::Established {
            self.announced(hash::key6(self.settings.hash_key, key));
        }
        insert(self.memory6(memory), self.room(memory), key, flow)
    }

    fn remove6(&self, memory: Memory, key: &FlowKey6) -> bool {
        self.memory6(memory).borrow_mut().remove(key).is_some()
    }

    fn rate<R>(&self, application: u32, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        let unwritten = application < self.array_rows;
        let mut rates = self.rates.borrow_mut();
        match rates.entry(application) {
            Entry::Occupied(entry) => Some(visit(entry.into_mut())),
            Entry::Vacant(entry) => unwritten.then(|| visit(entry.insert(0))),
        }
    }

    fn source_rate<R>(&self, key: &SourceKey, fresh: u64, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        Some(visit(self.source_rates.borrow_mut().entry(*key).or_insert(fresh)))
    }

    fn reply_rate<R>(&self, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        Some(visit(&mut self.reply_rate.borrow_mut()))
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn bind(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn established(&self, origin: OriginId) -> u32 {
        self.loads
            .borrow()
            .get(&origin.0)
            .map_or(0, |load| load.established)
    }

    fn establish(&self, origin: OriginId) {
        let mut loads = self.loads.borrow_mut();
        let load = loads.entry(origin.0).or_default();
        load.established = load.established.wrapping_add(1);
    }

    fn disestablish(&self, origin: OriginId) {
        let mut loads = self.loads.borrow_mut();
        let load = loads.entry(origin.0).or_default();
        load.established = load.established.wrapping_sub(1);
    }

    fn swept_at(&self) -> u32 {
        self.swept_at
    }

    fn path_mtu(&self, origin: OriginId) -> Option<PathMtu> {
        let known = self.path_mtus.borrow().get(&origin.0).copied();
        known.or((origin.0 < self.array_rows).then(PathMtu::default))
    }

    fn learn_path_mtu(&self, origin: OriginId, path: PathMtu) {
        self.path_mtus.borrow_mut().insert(origin.0, path);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentFlow> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, flow: &FragmentFlow) {
        self.fragments.borrow_mut().insert(*key, *flow);
    }

    fn next_fragment(&self) -> u32 {
        let mut count = self.fragment_count.borrow_mut();
        *count = count.wrapping_add(1);
        *count
    }

    fn count(&self, row: u32) {
        *self.verdicts.borrow_mut().entry(row).or_default() += 1;
    }

    fn count_packet(&self, application: u32, origin: OriginId, sample: Sample) {
        add(
            self.application_traffic
                .borrow_mut()
                .entry(application)
                .or_default(),
            sample,
        );
        add(
            self.origin_traffic.borrow_mut().entry(origin.0).or_default(),
            sample,
        );
    }

    fn count_flow(&self, application: u32, origin: OriginId) {
        self.application_traffic
            .borrow_mut()
            .entry(application)
            .or_default()
            .new_flows += 1;
        self.origin_traffic
            .borrow_mut()
            .entry(origin.0)
            .or_default()
            .new_flows += 1;
    }
}
