//! The tables that the pipeline reads and writes: BPF maps in the kernel, plain memory in tests and in `lb explain`.

use crate::abi::{
    AccessKey, AccessRule, Affinity, AffinityKey, Application, ApplicationKey, Bucket, Country, CountryKey,
    Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, FragmentFlow, FragmentKey, Hop, HopId, Interface, Ip, Origin,
    OriginId, PathMtu, Pool, PoolRow, PortSpan, Route, RouteKey, Settings, Shortcut, Slot, SourceKey,
    Timeouts, Vip, VipKey,
};

/// Access to the tables. Closures instead of references: no borrow of map memory escapes.
pub trait Tables {
    /// The settings. Other CPUs may see userspace change them one after the other.
    fn settings(&self) -> Option<&Settings>;
    /// The number of the live generation, read once a packet; 0: none.
    fn generation(&self) -> u32;
    fn application(&self, key: &ApplicationKey) -> Option<Application>;
    fn route(&self, key: &RouteKey) -> Option<Route>;
    /// The idle times of an application's flows.
    fn timeouts(&self, application: u32) -> Option<Timeouts>;
    fn vip(&self, key: &VipKey) -> Option<Vip>;
    /// A word of the filters of addresses.
    fn addresses(&self, word: u32) -> Option<u64>;
    fn bucket<R>(&self, row: u32, visit: impl FnOnce(&mut Bucket) -> R) -> Option<R>;
    /// Makes `id` the owner of a bucket that `former` owns, on any CPU at once; false when another does by now.
    fn own_bucket(&self, row: u32, former: OriginId, id: OriginId) -> bool;
    /// What [`Bucket::tracked`] was when a sweep found no entry of the bucket's flows.
    fn settled(&self, row: u32) -> Option<u32>;
    /// The short way to an application, if it has one and is in nobody's row.
    fn shortcut(&self, key: &ApplicationKey) -> Option<Shortcut>;
    fn span(&self, index: u32) -> Option<PortSpan>;
    /// The longest match of an access list for an address.
    fn access(&self, key: &AccessKey) -> Option<AccessRule>;
    fn country_rule(&self, key: &CountryKey) -> Option<AccessRule>;
    /// The country of an address.
    fn country(&self, address: Ip) -> Option<Country>;
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    fn pool(&self, row: PoolRow) -> Option<Pool>;
    fn slot(&self, index: u32) -> Option<Slot>;
    fn origin(&self, id: OriginId) -> Option<Origin>;
    fn hop(&self, id: HopId) -> Option<Hop>;
    fn snat_address(&self, index: u32) -> Option<Ip>;

    /// A word of the filter of established flows, by its index; see [`crate::abi::FlowFilter`].
    fn flow_filter(&self, index: u32) -> Option<u64>;
    /// Sets bits of such a word, on any CPU at once. Whoever finds an entry that is added afterwards finds them set.
    fn set_flow_filter(&self, index: u32, mask: u64);

    fn flow4<R>(&self, memory: Memory, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R>;
    /// Makes an entry for this packet alone, which no memory holds.
    fn make4(&self, flow: Flow4);
    /// Visits the entry that was made for this packet, or else an established flow's.
    fn made4<R>(&self, made: bool, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R>;
    /// Adds an entry where there is none.
    ///
    /// # Errors
    /// When there is one, or there is no room.
    fn insert4(&self, memory: Memory, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError>;
    /// Removes an entry; false when there was none.
    fn remove4(&self, memory: Memory, key: &FlowKey4) -> bool;

    fn flow6<R>(&self, memory: Memory, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R>;
    /// Makes an entry for this packet alone, which no memory holds.
    fn make6(&self, flow: Flow6);
    /// Visits the entry that was made for this packet, or else an established flow's.
    fn made6<R>(&self, made: bool, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R>;
    /// As [`Self::insert4`].
    ///
    /// # Errors
    /// When there is one, or there is no room.
    fn insert6(&self, memory: Memory, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError>;
    /// As [`Self::remove4`].
    fn remove6(&self, memory: Memory, key: &FlowKey6) -> bool;

    /// When an application's next flow is due; see [`crate::abi::Rate`].
    fn rate<R>(&self, application: u32, visit: impl FnOnce(&mut u64) -> R) -> Option<R>;
    /// The same for one client; a client that is not known yet starts at `fresh`.
    fn source_rate<R>(&self, key: &SourceKey, fresh: u64, visit: impl FnOnce(&mut u64) -> R) -> Option<R>;
    /// The same for this CPU's own answers.
    fn reply_rate<R>(&self, visit: impl FnOnce(&mut u64) -> R) -> Option<R>;

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    fn bind(&self, key: &AffinityKey, affinity: &Affinity);

    /// Established flows of an origin; of [`OriginId::DIRECT`], those of all that are forwarded to directly.
    fn established(&self, origin: OriginId) -> u32;
    /// Counts an established flow more, or one less, on any CPU at once.
    fn establish(&self, origin: OriginId);
    fn disestablish(&self, origin: OriginId);
    /// When those that had timed out were last taken off, in jiffies; 0: never.
    fn swept_at(&self) -> u32;
    fn path_mtu(&self, origin: OriginId) -> Option<PathMtu>;
    fn learn_path_mtu(&self, origin: OriginId, path: PathMtu);

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentFlow>;
    fn remember_fragment(&self, key: &FragmentKey, flow: &FragmentFlow);
    /// A number that no other datagram in fragments had for long.
    fn next_fragment(&self) -> u32;

    /// Counts a verdict.
    fn count(&self, row: u32);
    /// Counts a forwarded packet.
    fn count_packet(&self, application: u32, origin: OriginId, sample: Sample);
    /// Counts a flow that was opened.
    fn count_flow(&self, application: u32, origin: OriginId);
}

/// Where a flow is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Memory {
    /// Flows whose client has proven itself: by completing the handshake or, of UDP, by being answered.
    Established,
    /// Handshakes, unanswered datagrams, closing connections: new ones evict old ones.
    Tentative,
}

impl Memory {
    /// The other one.
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Established => Self::Tentative,
            Self::Tentative => Self::Established,
        }
    }
}

/// Why an entry was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    Exists,
    Full,
}

/// One forwarded packet, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub side: FlowSide,
    /// Length of the Ethernet frame in bytes, without its padding.
    pub bytes: u64,
}
