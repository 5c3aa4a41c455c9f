//! The filters of addresses: whoever writes an address anywhere sets its bit first.

use super::sys;
use anyhow::{Context, Result};
use aya::maps::{Array, IterableMap, Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{
    Application, ApplicationKey, BucketRun, Filter, FilterBit, Flow4, Flow6, FlowKey4, FlowKey6, Ip,
    Settings, SettingsFlags, Vip, VipKey, maps,
};
use std::os::fd::AsFd;

/// The map, and what it holds.
pub struct AddressFilter {
    map: Array<MapData, u64>,
    words: Vec<u64>,
}

impl AddressFilter {
    /// Takes the map by name from `take`, and adds all addresses that the other maps name. A map that is new among old
    /// ones learns those of flows as well.
    ///
    /// # Errors
    /// When a map is missing or of another kind, or cannot be read or written.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let map: Array<MapData, u64> = take(maps::ADDRESSES)?.try_into()?;
        let words = (0..Filter::WORDS).map(|word| map.get(&word, 0));
        let words = words
            .collect::<Result<Vec<u64>, _>>()
            .context("read the filter of addresses")?;
        let mut filter = Self {
            map,
            words: words.clone(),
        };
        let new = filter.words.iter().all(|&word| word == 0);
        let mut found = Vec::new();
        entries::<ApplicationKey, Application>(&take(maps::APPLICATIONS)?, |key, record| {
            found.push(key.address);
            if record.buckets != BucketRun::NONE {
                filter.note(Filter::Untracked, key.address);
            }
        })?;
        entries::<VipKey, Vip>(&take(maps::VIPS)?, |key, _| found.push(key.address))?;
        entries::<u32, Ip>(&take(maps::SNAT_ADDRESSES)?, |_, address| found.push(*address))?;
        if new {
            for name in [maps::FLOWS4, maps::TENTATIVE4] {
                entries::<FlowKey4, Flow4>(&take(name)?, |key, _| {
                    filter.note(Filter::Ours, key.destination.into())
                })?;
            }
            for name in [maps::FLOWS6, maps::TENTATIVE6] {
                entries::<FlowKey6, Flow6>(&take(name)?, |key, _| {
                    filter.note(Filter::Ours, key.destination.into())
                })?;
            }
        }
        let settings: Array<MapData, Settings> = take(maps::SETTINGS)?.try_into()?;
        if settings.get(&0, 0)?.flags.has(SettingsFlags::DNAT) {
            filter.let_all_in();
        }
        // What an array's unused rows hold.
        found.retain(|&address| address != Ip::default());
        found
            .into_iter()
            .for_each(|address| filter.note(Filter::Ours, address));
        // A daemon whose place is not taken yet writes the same map.
        if filter.words != words {
            filter.write_all()?;
        }
        Ok(filter)
    }

    fn note(&mut self, filter: Filter, address: Ip) {
        let bit = FilterBit::of(address);
        if let Some(word) = self.words.get_mut(filter.word(bit) as usize) {
            *word |= bit.mask;
        }
    }

    /// Whether that changed anything.
    fn let_all_in(&mut self) -> bool {
        let mut changed = false;
        for word in self.words.iter_mut().take(Filter::WORDS as usize / 2) {
            changed |= *word != u64::MAX;
            *word = u64::MAX;
        }
        changed
    }

    fn write_all(&mut self) -> Result<()> {
        sys::update_rows(self.map.map().fd().as_fd(), 0, &self.words).context("write the filter of addresses")
    }

    /// Puts an address into a filter.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn add(&mut self, filter: Filter, address: Ip) -> Result<()> {
        let bit = FilterBit::of(address);
        let (word, mask) = (filter.word(bit), bit.mask);
        let held = self
            .words
            .get_mut(word as usize)
            .context("a word of the filter")?;
        if *held & mask == 0 {
            *held |= mask;
            self.map
                .set(word, *held, 0)
                .context("write the filter of addresses")?;
        }
        Ok(())
    }

    /// Lets packets for any address be looked at.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn open(&mut self) -> Result<()> {
        if self.let_all_in() {
            self.write_all()?;
        }
        Ok(())
    }

    /// Makes the map hold what was added, where another program or a defect has changed it, and says whether one had.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn repair(&mut self) -> Result<bool> {
        let mut changed = false;
        for (word, held) in (0..).zip(&self.words) {
            let found = self.map.get(&word, 0)?;
            if found & held != *held {
                self.map.set(word, found | held, 0)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn entries<K: Pod, V: Pod>(map: &Map, visit: impl FnMut(&K, &V)) -> Result<()> {
    let (Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        anyhow::bail!("a map is of another kind: {map:?}")
    };
    sys::for_each(data.fd().as_fd(), visit).context("read a map's addresses")
}
