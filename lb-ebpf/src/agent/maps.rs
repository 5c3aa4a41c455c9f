//! The agent's maps and settings. Sizes here are the smallest that load: the loader sets the real ones.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::abi::Ip;
use lb_common::tunnel::maps::OUTCOME_ROWS;
use lb_common::tunnel::{Local, Locals, Outcome, Work};

#[btf_map]
static LOCALS: HashMap<Ip, Local, 1> = HashMap::new();
#[btf_map]
static NODES: LpmTrie<Ip, u32, 1> = LpmTrie::new();
#[btf_map]
static OUTCOMES: PerCpuArray<u64, { OUTCOME_ROWS as usize }> = PerCpuArray::new();
#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();
#[btf_map]
static LANE: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
static SUM_BUFFER: PerCpuArray<SumBuffer, 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
static GUE_PORT: Global<u16> = Global::new(lb_common::tunnel::GUE_PORT);
#[unsafe(no_mangle)]
static PATH_MTU: Global<u32> = Global::new(0);

/// The UDP port that carries GUE.
#[inline(always)]
pub fn gue_port() -> u16 {
    GUE_PORT.load()
}

/// Largest packet on the way from the nodes; 0: nothing is clamped.
#[inline(always)]
pub fn path_mtu() -> u32 {
    PATH_MTU.load()
}

/// This CPU's working memory.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the program is not preempted by another packet on this CPU, so the value has one user.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// This CPU's word for numbers that the verifier shall forget.
#[inline(always)]
pub fn lane() -> Option<*mut u32> {
    LANE.get_ptr_mut(0)
}

/// The same number by way of memory whose contents the verifier does not track.
#[inline(always)]
pub fn opaque(value: usize) -> usize {
    let Some(lane) = lane() else { return value };
    // SAFETY: a per-CPU map value; volatile, because the detour is the point.
    unsafe {
        lane.write_volatile(value as u32);
        lane.read_volatile() as usize
    }
}

/// Where bytes of a frame are copied to be summed.
pub type SumBuffer = [u32; 129];

/// This CPU's buffer for sums.
#[inline(always)]
pub fn sum_buffer() -> Option<&'static mut SumBuffer> {
    // SAFETY: the program is not preempted by another packet on this CPU, so the value has one user.
    SUM_BUFFER.get_ptr_mut(0).map(|buffer| unsafe { &mut *buffer })
}

/// Counts one packet in a row.
#[inline(always)]
pub fn count(row: u32) {
    if let Some(count) = OUTCOMES.get_ptr_mut(row) {
        // SAFETY: the row is this CPU's own.
        unsafe { *count += 1 };
    }
}

/// The kernel's maps as the tunnel's tables.
pub struct BpfLocals;

impl Locals for BpfLocals {
    #[inline(always)]
    fn visit<R>(&self, address: &Ip, visit: impl FnOnce(&mut Local) -> R) -> Option<R> {
        // SAFETY: other CPUs and userspace may write single fields meanwhile; each is valid whatever it holds.
        LOCALS
            .get_ptr_mut(address)
            .map(|local| visit(unsafe { &mut *local }))
    }

    #[inline(always)]
    fn is_node(&self, source: &Ip) -> bool {
        NODES.get(&Key::new(128, *source)).is_some()
    }

    #[inline(always)]
    fn count(&self, outcome: Outcome) {
        count(outcome.row());
    }
}
