//! Every map, and the tables made of them. Sizes here are the smallest that load: the loader sets the real ones.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use lb_common::abi::maps::VERDICT_ROWS;
use lb_common::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowKey4, FlowKey6, FlowSide, Hop, HopId, Ip, Origin,
    OriginId, Pool, PoolRow, Settings, Slot, Traffic,
};
use lb_common::datapath::{InsertError, Sample, Scratch, Tables};

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static FLOWS4: LruHashMap<FlowKey4, Flow4, 1> = LruHashMap::new();
#[btf_map]
static FLOWS6: LruHashMap<FlowKey6, Flow6, 1> = LruHashMap::new();
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
#[btf_map]
static SLOTS: Array<Slot, 1> = Array::new();
#[btf_map]
static VERDICTS: PerCpuArray<u64, { VERDICT_ROWS as usize }> = PerCpuArray::new();
#[btf_map]
static APP_TRAFFIC: PerCpuArray<Traffic, 1> = PerCpuArray::new();
#[btf_map]
static ORIGIN_TRAFFIC: PerCpuArray<Traffic, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
/// The stages, for tail calls.
#[btf_map]
static STAGES: ProgramArray<2> = ProgramArray::new();

/// Goes on with stage `index`; returns only when that failed.
#[inline(always)]
pub fn tail_call(context: &XdpContext, index: u32) {
    // SAFETY: the loader fills the array with programs of this object.
    let _failed = unsafe { STAGES.tail_call(context, index) };
}
#[btf_map]
static SUM_BUFFER: PerCpuArray<SumBuffer, 1> = PerCpuArray::new();

#[btf_map]
static LANE: PerCpuArray<u32, 1> = PerCpuArray::new();

/// This CPU's word for numbers that the verifier shall forget.
#[inline(always)]
pub fn lane() -> Option<*mut u32> {
    LANE.get_ptr_mut(0)
}

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
pub struct BpfTables;

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

impl Tables for BpfTables {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        // SAFETY: the pointer is valid as long as the map. Volatile: one read, so one generation for the whole packet.
        SETTINGS.get_ptr(0).map_or(0, |settings| unsafe {
            (&raw const (*settings).generation).read_volatile()
        })
    }

    #[inline(always)]
    fn application(&self, key: &ApplicationKey) -> Option<Application> {
        // SAFETY: an entry of the live generation is not written while it is live.
        unsafe { APPLICATIONS.get(key) }.copied()
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
    fn flow4<R>(&self, key: &FlowKey4, visit: impl FnOnce(&mut Flow4) -> R) -> Option<R> {
        // SAFETY: other CPUs may write single fields meanwhile; each is valid whatever it holds.
        FLOWS4.get_ptr_mut(key).map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert4(&self, key: &FlowKey4, flow: &Flow4) -> Result<(), InsertError> {
        inserted(FLOWS4.insert(key, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn remove4(&self, key: &FlowKey4) {
        // Gone already is as good.
        let _ = FLOWS4.remove(key);
    }

    #[inline(always)]
    fn flow6<R>(&self, key: &FlowKey6, visit: impl FnOnce(&mut Flow6) -> R) -> Option<R> {
        // SAFETY: as for `flow4`.
        FLOWS6.get_ptr_mut(key).map(|flow| visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert6(&self, key: &FlowKey6, flow: &Flow6) -> Result<(), InsertError> {
        inserted(FLOWS6.insert(key, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn remove6(&self, key: &FlowKey6) {
        // Gone already is as good.
        let _ = FLOWS6.remove(key);
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
