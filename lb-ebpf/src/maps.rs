//! Every map, and the tables made of them. Sizes here are the smallest that load: the loader sets the real ones.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_CPU, BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray, ProgramArray};
use aya_ebpf::helpers::bpf_perf_event_output;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use core::intrinsics::AtomicOrdering;
use lb_common::abi::maps::VERDICT_ROWS;
use lb_common::abi::{
    AccessKey, AccessRule, Affinity, AffinityKey, Application, ApplicationKey, Bucket, Country, CountryKey,
    Filter, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, FragmentFlow, FragmentKey, Held, Hop, HopId,
    Interface, Ip, Load, Origin, OriginId, PathMtu, Pool, PoolRow, PortSpan, Route, RouteKey, Settings,
    Shortcut, Slot, SourceKey, Timeouts, Traffic, Vip, VipKey,
};
use lb_common::datapath::{InsertError, Memory, Sample, Scratch, Stage, Tables};

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static FLOWS4: HashMap<FlowKey4, Flow4, 1> = HashMap::new();
#[btf_map]
static FLOWS6: HashMap<FlowKey6, Flow6, 1> = HashMap::new();
/// Mapped by userspace, which writes it while packets do.
#[btf_map]
static FLOW_FILTER: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
/// Entries for one packet.
#[btf_map]
static MADE4: PerCpuArray<Flow4, 1> = PerCpuArray::new();
#[btf_map]
static MADE6: PerCpuArray<Flow6, 1> = PerCpuArray::new();
#[btf_map]
static TENTATIVE4: LruHashMap<FlowKey4, Flow4, 1> = LruHashMap::new();
#[btf_map]
static TENTATIVE6: LruHashMap<FlowKey6, Flow6, 1> = LruHashMap::new();
#[btf_map]
static TIMEOUTS: Array<Timeouts, 1> = Array::new();
#[btf_map]
static VIPS: HashMap<VipKey, Vip, 1> = HashMap::new();
#[btf_map]
static ADDRESSES: Array<u64, { Filter::WORDS as usize }> = Array::new();
#[btf_map]
static BUCKETS: Array<Bucket, 1> = Array::new();
#[btf_map]
static SETTLED: Array<u32, 1> = Array::new();
#[btf_map]
static SHORTCUTS: Array<Shortcut, { Shortcut::ROWS as usize }> = Array::new();
#[btf_map]
static SPANS: Array<PortSpan, 1> = Array::new();
#[btf_map]
static ACCESS: LpmTrie<AccessKey, AccessRule, 1> = LpmTrie::new();
#[btf_map]
static ROUTES: HashMap<RouteKey, Route, 1> = HashMap::new();
#[btf_map]
static COUNTRY_RULES: HashMap<CountryKey, AccessRule, 1> = HashMap::new();
#[btf_map]
static COUNTRIES: LpmTrie<Ip, Country, 1> = LpmTrie::new();
#[btf_map]
static RATES: Array<u64, 1> = Array::new();
#[btf_map]
static SOURCE_RATES: LruHashMap<SourceKey, u64, 1> = LruHashMap::new();
#[btf_map]
static REPLY_RATE: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, Affinity, 1> = LruHashMap::new();
#[btf_map]
static LOADS: Array<Load, 1> = Array::new();
#[btf_map]
static SWEPT: Array<Load, 1> = Array::new();
#[btf_map]
static SWEPT_AT: Array<u32, 1> = Array::new();
#[btf_map]
static PATH_MTUS: Array<PathMtu, 1> = Array::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentFlow, 1> = LruHashMap::new();
#[btf_map]
static FRAGMENT_COUNT: Array<u32, 1> = Array::new();
#[btf_map]
static INTERFACES: HashMap<u32, Interface, 1> = HashMap::new();
#[btf_map]
static APPLICATIONS: HashMap<ApplicationKey, Application, 1> = HashMap::new();
#[btf_map]
static POOLS: Array<Pool, 1> = Array::new();
#[btf_map]
static ORIGINS: Array<Origin, 1> = Array::new();
#[btf_map]
static HOPS: Array<Hop, 1> = Array::new();
#[btf_map]
static SNAT_ADDRESSES: Array<Ip, 1> = Array::new();
/// Written through memory: a change of one origin may make a table of millions of slots anew. What is written there is not
/// read until the settings say so, which is a write of the kernel's.
#[btf_map]
static SLOTS: Array<Slot, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static VERDICTS: PerCpuArray<u64, { VERDICT_ROWS as usize }> = PerCpuArray::new();
#[btf_map]
static APP_TRAFFIC: PerCpuArray<Traffic, 1> = PerCpuArray::new();
#[btf_map]
static ORIGIN_TRAFFIC: PerCpuArray<Traffic, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
/// The stages, and the program that reports what became of traced packets, for tail calls.
#[btf_map]
static STAGES: ProgramArray<{ Stage::ALL.len() + 1 }> = ProgramArray::new();

/// Goes on with stage `index`; returns only when that failed.
#[inline(always)]
pub fn tail_call(context: &XdpContext, index: u32) {
    // SAFETY: the loader fills the array with programs of this object.
    let _failed = unsafe { STAGES.tail_call(context, index) };
}
/// Frames for userspace to hold.
#[btf_map]
static HELD: PerfEventArray = PerfEventArray::new();

/// Hands a frame to userspace; whether somebody takes it.
#[inline(always)]
pub fn hand_over(context: &XdpContext, held: &Held) -> bool {
    let frame = u64::from(held.length) << 32;
    // SAFETY: the context is valid, and the helper checks the frame's length.
    let error = unsafe {
        bpf_perf_event_output(
            context.as_ptr(),
            (&raw const HELD).cast_mut().cast(),
            frame | u64::from(BPF_F_CURRENT_CPU),
            (&raw const *held).cast_mut().cast(),
            size_of::<Held>() as u64,
        )
    };
    error == 0
}

#[btf_map]
static SUM_BUFFER: PerCpuArray<SumBuffer, 1> = PerCpuArray::new();

/// Where 512 bytes of a frame are copied to be summed; one word more, because the verifier rounds the last one up.
pub type SumBuffer = [u32; 129];

/// This CPU's working memory.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the program is not preempted by another packet on this CPU, so the value has one user.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// This CPU's buffer for sums.
#[inline(always)]
pub fn sum_buffer() -> Option<&'static mut SumBuffer> {
    // SAFETY: as for `scratch`.
    SUM_BUFFER.get_ptr_mut(0).map(|buffer| unsafe { &mut *buffer })
}

/// The kernel's maps as the pipeline's tables.
pub struct BpfTables {
    /// Looked up once a program.
    settings: Option<&'static Settings>,
}

impl BpfTables {
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            settings: SETTINGS.get(0),
        }
    }
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Result<(), InsertError> {
    const EEXIST: i32 = -17;
    match result {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        Err(_) => Err(InsertError::Full),
    }
}

#[inline(always)]
fn add(row: *mut Traffic, sample: Sample) {
    // SAFETY: the row is this CPU's own and lives as long as the map.
    let row = unsafe { &mut *row };
    if sample.side == FlowSide::CLIENT {
        row.packets_in += 1;
        row.bytes_in += sample.bytes;
    } else {
        row.packets_out += 1;
        row.bytes_out += sample.bytes;
    }
}

/// Adds to a word that all CPUs share, and returns what it held before.
///
/// # Safety
/// `word` points to memory of a map.
#[inline(always)]
unsafe fn add_atomically(word: *mut u32, by: u32) -> u32 {
    // SAFETY: by the caller. LLVM's BPF backend knows no atomic operation of Rust's core library.
    unsafe { core::intrinsics::atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(word, by) }
}

impl Tables for BpfTables {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        self.settings
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        // SAFETY: the reference is valid as long as the map. Volatile: one read, so one generation for the whole packet.
        self.settings.map_or(0, |settings| unsafe {
            (&raw const settings.generation).read_volatile()
        })
    }

    #[inline(always)]
    fn application(&self, key: &ApplicationKey) -> Option<Application> {
        // SAFETY: an entry of the live generation is not written while it is live.
        unsafe { APPLICATIONS.get(key) }.copied()
    }

    #[inline(always)]
    fn timeouts(&self, application: u32) -> Option<Timeouts> {
        TIMEOUTS.get(application).copied()
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<Vip> {
        // SAFETY: as for `application`.
        unsafe { VIPS.get(key) }.copied()
    }

    #[inline(always)]
    fn addresses(&self, word: u32) -> Option<u64> {
        ADDRESSES.get(word).copied()
    }

    #[inline(always)]
    fn bucket<R>(&self, row: u32, visit: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        // SAFETY: other CPUs may write single fields meanwhile; each is valid whatever it holds.
        BUCKETS
            .get_ptr_mut(row)
            .map(|bucket| visit(unsafe { &mut *bucket }))
    }

    #[inline(always)]
    fn own_bucket(&self, row: u32, former: OriginId, id: OriginId) -> bool {
        let Some(bucket) = BUCKETS.get_ptr_mut(row) else {
            return false;
        };
        // SAFETY: the pointer is valid as long as the map, and the word is aligned.
        let (_, ours) = unsafe {
            core::intrinsics::atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                (&raw mut (*bucket).owner).cast(),
                former.0,
                id.0,
            )
        };
        ours
    }

    #[inline(always)]
    fn settled(&self, row: u32) -> Option<u32> {
        SETTLED.get(row).copied()
    }

    #[inline(always)]
    fn shortcut(&self, key: &ApplicationKey) -> Option<Shortcut> {
        // Of a generation that is live, so nobody writes it.
        let row = SHORTCUTS.get(Shortcut::row(key))?;
        (row.key == *key).then_some(*row)
    }

    #[inline(always)]
    fn span(&self, index: u32) -> Option<PortSpan> {
        SPANS.get(index).copied()
    }

    #[inline(always)]
    fn access(&self, key: &AccessKey) -> Option<AccessRule> {
        ACCESS.get(&Key::new(160, *key)).copied()
    }

    #[inline(always)]
    fn route(&self, key: &RouteKey) -> Option<Route> {
        // SAFETY: an entry of the live generation is not written while it is live.
        unsafe { ROUTES.get(key) }.copied()
    }

    #[inline(always)]
    fn country_rule(&self, key: &CountryKey) -> Option<AccessRule> {
        // SAFETY: a list's rules are not written any more once the list is in use.
        unsafe { COUNTRY_RULES.get(key) }.copied()
    }

    #[inline(always)]
    fn country(&self, address: Ip) -> Option<Country> {
        COUNTRIES.get(&Key::new(128, address)).copied()
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        // SAFETY: two words, each valid whatever it holds.
        unsafe { INTERFACES.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn pool(&self, row: PoolRow) -> Option<Pool> {
        POOLS.get(row.0).copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn origin(&self, id: OriginId) -> Option<Origin> {
        ORIGINS.get(id.0).copied()
    }

    #[inline(always)]
    fn hop(&self, id: HopId) -> Option<Hop> {
        HOPS.get(id.0).copied()
    }

    #[inline(always)]
    fn snat_address(&self, index: u32) -> Option<Ip> {
        SNAT_ADDRESSES.get(index).copied()
    }

    #[inline(always)]
    fn flow_filter(&self, index: u32) -> Option<u64> {
        // SAFETY: the pointer is valid as long as the map. Volatile: others write the word meanwhile.
        FLOW_FILTER
            .get_ptr(index)
            .map(|word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn set_flow_filter(&self, index: u32, mask: u64) {
        if let Some(word) = FLOW_FILTER.get_ptr_mut(index) {
            // SAFETY: as above, and the word is aligned.
            unsafe { core::intrinsics::atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(word, mask) };
        }
    }

    #[inline(always)]
    fn flow4<R>(&self, memory: Memory, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        let flow = match memory {
            Memory::Established => FLOWS4.get_ptr_mut(key),
            Memory::Tentative => TENTATIVE4.get_ptr_mut(key),
        };
        // SAFETY: other CPUs may write single fields meanwhile; each is valid whatever it holds.
        flow.map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn make4(&self, flow: Flow4) {
        if let Some(made) = MADE4.get_ptr_mut(0) {
            // SAFETY: the row is this CPU's own.
            unsafe { *made = flow };
        }
    }

    #[inline(always)]
    fn made4<R>(&self, made: bool, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        let flow = if made {
            MADE4.get_ptr_mut(0)
        } else {
            FLOWS4.get_ptr_mut(key)
        };
        // SAFETY: as above; what was made is this CPU's own.
        flow.map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert4(&self, memory: Memory, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError> {
        let flags = u64::from(BPF_NOEXIST);
        inserted(match memory {
            Memory::Established => FLOWS4.insert(key, flow, flags),
            Memory::Tentative => TENTATIVE4.insert(key, flow, flags),
        })
    }

    #[inline(always)]
    fn remove4(&self, memory: Memory, key: &FlowKey4) -> bool {
        let removed = match memory {
            Memory::Established => FLOWS4.remove(key),
            Memory::Tentative => TENTATIVE4.remove(key),
        };
        removed.is_ok()
    }

    #[inline(always)]
    fn flow6<R>(&self, memory: Memory, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        let flow = match memory {
            Memory::Established => FLOWS6.get_ptr_mut(key),
            Memory::Tentative => TENTATIVE6.get_ptr_mut(key),
        };
        // SAFETY: other CPUs may write single fields meanwhile; each is valid whatever it holds.
        flow.map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn make6(&self, flow: Flow6) {
        if let Some(made) = MADE6.get_ptr_mut(0) {
            // SAFETY: the row is this CPU's own.
            unsafe { *made = flow };
        }
    }

    #[inline(always)]
    fn made6<R>(&self, made: bool, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        let flow = if made {
            MADE6.get_ptr_mut(0)
        } else {
            FLOWS6.get_ptr_mut(key)
        };
        // SAFETY: as above; what was made is this CPU's own.
        flow.map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert6(&self, memory: Memory, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError> {
        let flags = u64::from(BPF_NOEXIST);
        inserted(match memory {
            Memory::Established => FLOWS6.insert(key, flow, flags),
            Memory::Tentative => TENTATIVE6.insert(key, flow, flags),
        })
    }

    #[inline(always)]
    fn remove6(&self, memory: Memory, key: &FlowKey6) -> bool {
        let removed = match memory {
            Memory::Established => FLOWS6.remove(key),
            Memory::Tentative => TENTATIVE6.remove(key),
        };
        removed.is_ok()
    }

    #[inline(always)]
    fn rate<R>(&self, application: u32, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        // SAFETY: one word; two CPUs at once count one flow too few.
        RATES
            .get_ptr_mut(application)
            .map(|due| visit(unsafe { &mut *due }))
    }

    #[inline(always)]
    fn source_rate<R>(&self, key: &SourceKey, fresh: u64, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        if SOURCE_RATES.get_ptr_mut(key).is_none() {
            // Another CPU's entry is as good.
            let _ = SOURCE_RATES.insert(key, fresh, u64::from(BPF_NOEXIST));
        }
        // SAFETY: as for `rate`.
        SOURCE_RATES
            .get_ptr_mut(key)
            .map(|due| visit(unsafe { &mut *due }))
    }

    #[inline(always)]
    fn reply_rate<R>(&self, visit: impl FnOnce(&mut u64) -> R) -> Option<R> {
        // SAFETY: the row is this CPU's own.
        REPLY_RATE.get_ptr_mut(0).map(|due| visit(unsafe { &mut *due }))
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: words, each valid whatever it holds.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn bind(&self, key: &AffinityKey, affinity: &Affinity) {
        // Without room the client is bound next time.
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn established(&self, origin: OriginId) -> u32 {
        let count = |load: Option<&Load>| load.map_or(0, |load| load.established);
        count(LOADS.get(origin.0)).wrapping_sub(count(SWEPT.get(origin.0)))
    }

    #[inline(always)]
    fn establish(&self, origin: OriginId) {
        if let Some(load) = LOADS.get_ptr_mut(origin.0) {
            // SAFETY: the pointer is valid as long as the map.
            unsafe { add_atomically(&raw mut (*load).established, 1) };
        }
    }

    #[inline(always)]
    fn disestablish(&self, origin: OriginId) {
        if let Some(load) = LOADS.get_ptr_mut(origin.0) {
            // SAFETY: as above.
            unsafe { add_atomically(&raw mut (*load).established, u32::MAX) };
        }
    }

    #[inline(always)]
    fn swept_at(&self) -> u32 {
        SWEPT_AT.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn path_mtu(&self, origin: OriginId) -> Option<PathMtu> {
        PATH_MTUS.get(origin.0).copied()
    }

    #[inline(always)]
    fn learn_path_mtu(&self, origin: OriginId, path: PathMtu) {
        if let Some(row) = PATH_MTUS.get_ptr_mut(origin.0) {
            // SAFETY: two words, each valid whatever it holds.
            unsafe { *row = path };
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentFlow> {
        // SAFETY: words, each valid whatever it holds.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, flow: &FragmentFlow) {
        // Without room the other fragments are held, and dropped in the end.
        let _ = FRAGMENTS.insert(key, flow, 0);
    }

    #[inline(always)]
    fn next_fragment(&self) -> u32 {
        match FRAGMENT_COUNT.get_ptr_mut(0) {
            // SAFETY: the pointer is valid as long as the map.
            Some(count) => unsafe { add_atomically(count, 1) }.wrapping_add(1),
            None => 0,
        }
    }

    #[inline(always)]
    fn count(&self, row: u32) {
        if let Some(count) = VERDICTS.get_ptr_mut(row) {
            // SAFETY: the row is this CPU's own.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn count_packet(&self, application: u32, origin: OriginId, sample: Sample) {
        if let Some(row) = APP_TRAFFIC.get_ptr_mut(application) {
            add(row, sample);
        }
        if let Some(row) = ORIGIN_TRAFFIC.get_ptr_mut(origin.0) {
            add(row, sample);
        }
    }

    #[inline(always)]
    fn count_flow(&self, application: u32, origin: OriginId) {
        let rows = [
            APP_TRAFFIC.get_ptr_mut(application),
            ORIGIN_TRAFFIC.get_ptr_mut(origin.0),
        ];
        for row in rows.into_iter().flatten() {
            // SAFETY: the row is this CPU's own.
            unsafe { (*row).new_flows += 1 };
        }
    }
}
