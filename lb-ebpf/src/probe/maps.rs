//! The probes' maps and settings. Sizes here are the smallest that load: the loader sets the real ones.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::tunnel::probe::{Answer, AnswerKey, Outgoing, Probe};

#[btf_map]
static PROBES: Array<Probe, 1> = Array::new();
#[btf_map]
static ANSWERS: LruHashMap<AnswerKey, Answer, 1> = LruHashMap::new();
#[btf_map]
static FOUND: PerCpuArray<Outgoing, 1> = PerCpuArray::new();
#[btf_map]
static LANE: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
static SUM_BUFFER: PerCpuArray<SumBuffer, 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
static MARK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static PATIENCE: Global<u32> = Global::new(0);

/// The number of the way that a mark stands for, if it is one of ours.
#[inline(always)]
pub fn way(mark: u32) -> Option<u32> {
    (mark & 0xffff_0000 == MARK.load()).then_some(mark & 0xffff)
}

/// Jiffies after a packet in which an answer to it is expected.
#[inline(always)]
pub fn patience() -> u32 {
    PATIENCE.load()
}

/// A way, when somebody uses it.
#[inline(always)]
pub fn probe(way: u32) -> Option<&'static Probe> {
    PROBES.get(way).filter(|probe| probe.live != 0)
}

/// Notes that an answer is expected.
#[inline(always)]
pub fn expect(key: &AnswerKey, answer: &Answer) {
    // A full map evicts the oldest.
    let _ = ANSWERS.insert(key, answer, 0);
}

/// Whose answer it is.
#[inline(always)]
pub fn expected(key: &AnswerKey) -> Option<Answer> {
    // SAFETY: another CPU may write it meanwhile: half of an answer leads to a reset at worst.
    unsafe { ANSWERS.get(key) }.copied()
}

/// This CPU's working memory.
#[inline(always)]
pub fn found() -> Option<&'static mut Outgoing> {
    // SAFETY: the program is not preempted by another packet on this CPU, so the value has one user.
    FOUND.get_ptr_mut(0).map(|found| unsafe { &mut *found })
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
