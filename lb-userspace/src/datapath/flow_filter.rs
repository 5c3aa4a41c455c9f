//! The filter of established flows, as sweeps keep it: each makes the half that is not in use anew, so that flows which have
//! gone are looked for no more.
//!
//! A packet that finds its bit set does not set it again. So, in this order:
//!
//! 1. The half is emptied, when no packet reads it any more; it becomes as large as what the last sweep found demands.
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
use std::time::{Duration, Instant};

/// Bits of a half for each entry that the last sweep found, at least: should there be four times as many until the next one, at
/// most an eighth of those that are not there are looked for in vain.
const BITS_PER_ENTRY: u64 = 32;

/// Far longer than a packet that has read which half is in use takes to read that.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

/// The map, and what this process knows of it.
pub struct Keeper {
    words: Words,
    settings: Array<MapData, Settings>,
    /// The head that this process has left last, and when.
    left: Option<(FlowFilter, Instant)>,
    /// Entries that the last sweep of this process announced.
    entries: Option<u64>,
}

/// A half that is being made.
pub struct Draft<'a> {
    keeper: &'a mut Keeper,
    head: FlowFilter,
    secret: HashKey,
    entries: u64,
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
            left: None,
            entries: None,
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
        let ours = |(left, since): (FlowFilter, Instant)| left == head && since.elapsed() > LONG_ENOUGH;
        if !self.left.is_some_and(ours) {
            // The half may have been in use until a moment ago.
            sys::wait_for_packets();
        }
        let entries = u32::try_from(self.words.all().len())?;
        let empty = FlowFilter::fitting(entries).context("the filter of established flows has no halves")?;
        // A map that is new says nothing yet.
        let begun = if head.room() == empty.room() { head } else { empty }.begun();
        let spare = begun.spare();
        let begun = begun.sized(spare, self.size(begun.room()));
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
            entries: 0,
        }))
    }

    /// How large a half is to be, in bits as a power of two, where there is room for `room`.
    fn size(&self, room: u32) -> u32 {
        let Some(entries) = self.entries else {
            return room;
        };
        let wanted = entries.saturating_mul(BITS_PER_ENTRY).max(1).ilog2() + 1;
        wanted.max(FlowFilter::MIN_BITS).min(room)
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
        self.entries += 1;
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
        self.keeper.entries = Some(self.entries);
        if self.keeper.replace(self.head, new) {
            self.keeper.left = Some((new, Instant::now()));
        }
    }
}
