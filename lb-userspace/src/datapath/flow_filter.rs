//! The filter of established flows, as sweeps keep it: each makes the half that is not in use anew, so that flows which have
//! gone are looked for no more.
//!
//! A packet that finds its bit set does not set it again. So, in this order:
//!
//! 1. The half is emptied, when no packet reads it any more; it becomes as large as what the other one has been told demands.
//! 2. Every packet of that time is done ([`sys::wait_for_packets`]): what it has added is in the flow tables by now.
//! 3. All entries of established flows are announced; packets that add others announce them themselves.
//! 4. The half is in use from now on, unless a table could not be read, or somebody else has begun to do the same.

use super::buckets::Client;
use super::sys;
use super::words::Words;
use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{FlowFilter, HashKey, Settings, SettingsFlags, maps};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a half for each entry that the other one knows, at least: should there be four times as many until the next sweep,
/// at most an eighth of those that are not there are looked for in vain.
const BITS_PER_ENTRY: u64 = 32;

/// The least size of a half in bits, as a power of two, where there is room for it: after a quiet time 180,000 flows may come
/// until the next sweep before half of those that are not there are looked for in vain. It fits into a CPU's own caches.
const LEAST_BITS: u32 = 18;

/// The map, and what this process knows of it.
pub struct Keeper {
    words: Words,
    settings: Array<MapData, Settings>,
}

/// A half that is being made.
pub struct Draft<'a> {
    keeper: &'a mut Keeper,
    head: FlowFilter,
    secret: HashKey,
}

impl Keeper {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let words = match take(maps::FLOW_FILTER)? {
            Map::Array(data) => Words::map(&data)?,
            other => anyhow::bail!("the map {} is no array: {other:?}", maps::FLOW_FILTER),
        };
        Ok(Self {
            words,
            settings: take(maps::SETTINGS)?.try_into()?,
        })
    }

    /// Empties the half that is not in use; whoever calls then waits for packets. `None`: there may be flows of which nobody
    /// is told, because userspace takes over those of another layout; or somebody else does the same.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn begin(&mut self) -> Result<Option<Draft<'_>>> {
        let settings = self.settings.get(&0, 0).context("read the settings")?;
        if settings.generation == 0 || settings.flags.has(SettingsFlags::MIGRATING) {
            return Ok(None);
        }
        let head = self.head()?;
        // The half may have been in use until a moment ago.
        sys::wait_for_packets();
        let entries = u32::try_from(self.words.all().len())?;
        let empty = FlowFilter::fitting(entries).context("the filter of established flows has no halves")?;
        // A map that is new says nothing yet.
        let begun = if head.room() == empty.room() { head } else { empty }.begun();
        let spare = begun.spare();
        let begun = begun.sized(spare, self.size(begun));
        if !self.replace(head, begun) {
            return Ok(None);
        }
        for index in begun.words_of(spare) {
            let word = self.words.all().get(index as usize);
            let word = word.context("the filter of established flows has words beyond its end")?;
            // Those that hold nothing stay in the caches of others.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::SeqCst);
            }
        }
        Ok(Some(Draft {
            keeper: self,
            head: begun,
            secret: settings.hash_key,
        }))
    }

    /// How large a half is to be, in bits as a power of two: as what the half in use has been told of demands, which is all flows of
    /// the last sweep and those that have come since, be they gone again.
    fn size(&self, head: FlowFilter) -> u32 {
        let Some(half) = head.in_use() else {
            return head.room();
        };
        let words = head.words_of(half);
        let words = words.filter_map(|index| self.words.all().get(index as usize));
        let set = words.map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()));
        size_for(keys(1 << head.bits(half), set.sum())).min(head.room())
    }

    /// Lets nobody rely on the filter until the next sweep.
    ///
    /// # Errors
    /// When the map has no head.
    pub fn put_out_of_use(&mut self) -> Result<()> {
        loop {
            let head = self.head()?;
            if self.replace(head, head.begun().using(None)) {
                return Ok(());
            }
        }
    }

    fn head_word(&self) -> Result<&AtomicU64> {
        let word = self.words.all().get(FlowFilter::HEAD as usize);
        word.context("the filter of established flows has no head")
    }

    fn head(&self) -> Result<FlowFilter> {
        Ok(FlowFilter(self.head_word()?.load(Ordering::SeqCst)))
    }

    /// Writes another head, unless it is not the former one any more.
    fn replace(&self, former: FlowFilter, new: FlowFilter) -> bool {
        let word = self.head_word();
        word.is_ok_and(|word| {
            word.compare_exchange(former.0, new.0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        })
    }
}

impl Draft<'_> {
    /// Announces the entry of an established flow.
    pub fn announce(&mut self, key: &impl Client) {
        let bit = self.head.place(self.head.spare(), key.key_hash(self.secret));
        if let Some(word) = self.keeper.words.all().get(bit.index as usize)
            && word.load(Ordering::Relaxed) & bit.mask == 0
        {
            word.fetch_or(bit.mask, Ordering::SeqCst);
        }
    }

    /// Puts the half to use: every entry of an established flow was announced.
    pub fn put_to_use(self) {
        let new = self.head.using(Some(self.head.spare()));
        // Somebody else may have begun to do the same.
        self.keeper.replace(self.head, new);
    }
}

/// How many keys have been announced to a half of so many bits when so many are set, as chance has it (Swamidass and Baldi,
/// "Mathematical correction for fingerprint similarity measures to improve chemical retrieval", 2007, for one hash).
fn keys(bits: u64, set: u64) -> u64 {
    let (bits, set) = (bits as f64, set as f64);
    // All set: endlessly many.
    (-bits * (1.0 - set / bits).ln()) as u64
}

/// The size of a half for so many keys, in bits as a power of two.
fn size_for(keys: u64) -> u32 {
    let wanted = keys.saturating_mul(BITS_PER_ENTRY).max(1).ilog2() + 1;
    wanted.max(LEAST_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_their_bits() {
        assert_eq!(keys(1 << 18, 0), 0);
        assert_eq!(keys(1 << 18, 1), 1);
        for wanted in [1_000_u64, 100_000, 1_000_000] {
            let mut words = vec![0_u64; 1 << 12];
            let mut state = 1_u64;
            for _ in 0..wanted {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bit = state >> 46;
                words[(bit >> 6) as usize] |= 1 << (bit & 63);
            }
            let set: u32 = words.iter().map(|word| word.count_ones()).sum();
            let found = keys(1 << 18, set.into());
            assert!(found.abs_diff(wanted) < wanted / 20, "{found} of {wanted}");
        }
        assert_eq!(keys(1 << 18, 1 << 18), u64::MAX);
    }

    #[test]
    fn sizes_follow_from_keys() {
        for (keys, bits) in [
            (0, LEAST_BITS),
            (8_191, LEAST_BITS),
            (8_192, LEAST_BITS + 1),
            (1 << 20, 26),
            (u64::MAX, 64),
        ] {
            assert_eq!(size_for(keys), bits, "{keys}");
        }
    }
}
