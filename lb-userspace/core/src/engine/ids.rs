//! Numbers for things that have names: a thing keeps its number as long as it lives, and a number is not given to
//! another thing while there are others left, because flows and counters may still mean the first one.

use crate::maglev::mix;
use crate::model::Forwarding;
use core::net::IpAddr;
use lb_common::abi::{Country, Ip};
use std::collections::{BTreeMap, BTreeSet};

/// What an origin is, independent of its place in the configuration: FNV-1a (64 bit) over the pool's key, a zero
/// byte, the origin's key (names that stay), a zero byte, the address as 16 bytes (IPv4 v4-mapped) and the port as 2 bytes in network
/// order (0: none), and of other forwarding than `nat` its number and its UDP port (0: none), then [`mix`], because FNV's
/// high bits are weak. Never 0, which stands for an empty record. It is written into the maps, so that the next daemon
/// recognises the record: changing it costs every node its counters.
pub fn identity(pool: &str, origin: &str, address: IpAddr, port: Option<u16>, forwarding: Forwarding) -> u64 {
    let address: [u8; 16] = match IpAddr::from(Ip::from(address)) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let port = port.unwrap_or(0).to_be_bytes();
    let (number, gue_port) = super::records::forwarding(forwarding);
    let [high, low] = gue_port.host().to_be_bytes();
    let mode: &[u8] = match forwarding {
        Forwarding::Nat => &[],
        _ => &[number.0, high, low],
    };
    let parts = [
        pool.as_bytes(),
        &[0],
        origin.as_bytes(),
        &[0],
        &address,
        &port,
        mode,
    ];
    fingerprint(parts.into_iter().flatten().copied())
}

/// A pool by its name, and whether it may not serve though some of its origins could.
type Offered = (String, bool);

/// Tells which pools clients may be bound to, by their country: it changes with the set of pools of any of them.
pub fn pools_epoch(pools: &[Offered], by_country: &[(Country, Vec<Offered>)]) -> u64 {
    let names = |pools: &[Offered]| -> Vec<u8> {
        let bytes = |(name, barred): &Offered| {
            let name = name.bytes();
            name.chain([0, u8::from(*barred)]).collect::<Vec<u8>>()
        };
        let names = pools.iter().flat_map(bytes);
        names.chain([0]).collect()
    };
    let countries = by_country.iter().flat_map(|(country, pools)| {
        let bytes = country.to_string().into_bytes().into_iter();
        bytes.chain([0]).chain(names(pools))
    });
    fingerprint(names(pools).into_iter().chain(countries))
}

/// Tells which origins a client of an application may be bound to.
pub fn affinity_epoch(application: &str, pools_epoch: u64) -> u32 {
    let application = application.bytes().chain([0]);
    (fingerprint(application.chain(pools_epoch.to_be_bytes())) >> 32) as u32
}

/// The identity of a pool as a competitor of other pools, from what it is known by.
pub fn pool_identity(pool: &str) -> u64 {
    fingerprint(pool.bytes())
}

fn fingerprint(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    mix(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))).max(1)
}

/// The numbers of one kind of thing.
#[derive(Clone, Debug)]
pub struct Ids<K> {
    /// Numbers from here on were never given out, except those in `taken`.
    next: u32,
    first: u32,
    /// One more than the largest number.
    end: u32,
    live: BTreeMap<K, u32>,
    retired: Retired<K>,
    /// Numbers that nobody means any more.
    forgotten: BTreeSet<u32>,
    /// All numbers in `live` and `retired`.
    taken: BTreeSet<u32>,
}

/// Numbers of things that are gone and may still be meant by somebody.
#[derive(Clone, Debug)]
struct Retired<K> {
    /// In the order in which they went; without a key when it is not known what the number stood for.
    order: BTreeMap<u64, (Option<K>, u32)>,
    next: u64,
    keys: BTreeMap<K, u64>,
    ids: BTreeMap<u32, u64>,
}

impl<K: Ord + Clone> Retired<K> {
    fn push(&mut self, key: Option<K>, id: u32) {
        if let Some(key) = &key {
            self.keys.insert(key.clone(), self.next);
        }
        self.ids.insert(id, self.next);
        self.order.insert(self.next, (key, id));
        self.next += 1;
    }

    fn remove(&mut self, place: u64) -> Option<u32> {
        let (key, id) = self.order.remove(&place)?;
        if let Some(key) = key {
            self.keys.remove(&key);
        }
        self.ids.remove(&id);
        Some(id)
    }

    fn take_key(&mut self, key: &K) -> Option<u32> {
        let place = *self.keys.get(key)?;
        self.remove(place)
    }

    fn take_id(&mut self, id: u32) -> Option<u32> {
        let place = *self.ids.get(&id)?;
        self.remove(place)
    }

    fn take_oldest(&mut self, free: impl Fn(u32) -> bool) -> Option<u32> {
        let place = *self.order.iter().find(|(_, (_, id))| free(*id))?.0;
        self.remove(place)
    }
}

impl<K: Ord + Clone> Ids<K> {
    /// Numbers from `first` up to but not including `end`.
    pub fn new(first: u32, end: u32) -> Self {
        Self {
            next: first,
            first,
            end,
            live: BTreeMap::new(),
            retired: Retired {
                order: BTreeMap::new(),
                next: 0,
                keys: BTreeMap::new(),
                ids: BTreeMap::new(),
            },
            forgotten: BTreeSet::new(),
            taken: BTreeSet::new(),
        }
    }

    /// Takes over a number that stands in the maps; of two claims to a key or number the first one counts.
    pub fn adopt(&mut self, key: K, id: u32) {
        if !self.live.contains_key(&key) && self.taken.insert(id) {
            self.live.insert(key, id);
        }
    }

    /// Keeps a number from being given out while there are others, without knowing what it stands for.
    pub fn reserve(&mut self, id: u32) {
        if self.taken.insert(id) {
            self.retired.push(None, id);
        }
    }

    /// Keeps a number from being given out at all, until [`Self::release`] or [`Self::claim`].
    pub fn block(&mut self, id: u32) {
        self.taken.insert(id);
    }

    /// Ends [`Self::block`]: the number may be given out when there are no others.
    pub fn release(&mut self, id: u32) {
        self.retired.push(None, id);
    }

    /// Ends [`Self::block`]: the number stands for `key`.
    pub fn claim(&mut self, key: K, id: u32) {
        self.live.insert(key, id);
    }

    /// The number of `key`, new if it has none. `None`: all numbers belong to living things. The flag says whether the
    /// number stood for something else before.
    pub fn assign(&mut self, key: &K) -> Option<(u32, Reuse)> {
        self.assign_if(key, |_| true)
    }

    /// As [`Self::assign`], but a retired number is given to another thing only if it is `free`.
    pub fn assign_if(&mut self, key: &K, free: impl Fn(u32) -> bool) -> Option<(u32, Reuse)> {
        if let Some(&id) = self.live.get(key) {
            return Some((id, Reuse::No));
        }
        let (id, reuse) = if let Some(id) = self.retired.take_key(key) {
            (id, Reuse::No)
        } else if let Some(id) = self.unused() {
            (id, Reuse::No)
        } else {
            (self.retired.take_oldest(free)?, Reuse::Yes)
        };
        self.taken.insert(id);
        self.live.insert(key.clone(), id);
        Some((id, reuse))
    }

    fn unused(&mut self) -> Option<u32> {
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        if self.next < self.end {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.forgotten.pop_first()
    }

    /// Retires everything that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&K, u32) -> bool) {
        let retired = &mut self.retired;
        self.live.retain(|key, id| {
            let kept = keep(key, *id);
            if !kept {
                retired.push(Some(key.clone()), *id);
            }
            kept
        });
    }

    /// Frees a retired number for any use; false when it is not retired.
    pub fn forget(&mut self, id: u32) -> bool {
        if self.retired.take_id(id).is_none() {
            return false;
        }
        self.taken.remove(&id);
        if id < self.next {
            self.forgotten.insert(id);
        }
        true
    }

    /// Numbers of things that are gone and may still be meant by somebody.
    pub fn retired(&self) -> impl Iterator<Item = u32> + '_ {
        self.retired.order.values().map(|(_, id)| *id)
    }

    /// All living things.
    pub fn living(&self) -> impl Iterator<Item = K> + '_ {
        self.live.keys().cloned()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }

    /// The number of a living thing.
    pub fn get(&self, key: &K) -> Option<u32> {
        self.live.get(key).copied()
    }
}

/// Whether a number stood for something else before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    No,
    Yes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ids: &mut Ids<&'static str>, key: &'static str) -> Option<u32> {
        ids.assign(&key).map(|(id, _)| id)
    }

    #[test]
    fn a_thing_keeps_its_number_even_if_it_goes_and_comes_back() {
        let mut ids = Ids::new(1, 10);
        assert_eq!([id(&mut ids, "a"), id(&mut ids, "b")], [Some(1), Some(2)]);
        ids.retain(|key, _| *key == "b");
        assert_eq!([id(&mut ids, "c"), id(&mut ids, "a")], [Some(3), Some(1)]);
    }

    #[test]
    fn retired_numbers_are_reused_last_and_the_oldest_first() {
        let mut ids = Ids::new(0, 3);
        ids.adopt("old", 1);
        ids.reserve(2);
        assert_eq!(id(&mut ids, "a"), Some(0));
        ids.retain(|key, _| *key != "old");
        assert_eq!(ids.assign(&"b"), Some((2, Reuse::Yes)));
        assert_eq!(ids.assign(&"c"), Some((1, Reuse::Yes)));
        assert_eq!(id(&mut ids, "d"), None);
    }

    #[test]
    fn a_forgotten_number_is_free() {
        let mut ids = Ids::new(0, 2);
        id(&mut ids, "a");
        id(&mut ids, "b");
        assert!(!ids.forget(0), "a lives");
        ids.retain(|key, _| *key == "b");
        assert!(ids.forget(0));
        assert_eq!(ids.assign(&"c"), Some((0, Reuse::No)));
    }

    #[test]
    fn identities_tell_everything_apart() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let nat =
            |pool, origin, address: IpAddr, port| identity(pool, origin, address, port, Forwarding::Nat);
        let to = |forwarding| identity("p", "o", address, Some(80), forwarding);
        let all = [
            nat("p", "o", address, Some(80)),
            nat("p", "o", address, Some(81)),
            nat("p", "o", address, None),
            nat("po", "", address, Some(80)),
            nat("p", "o", "10.0.0.2".parse().unwrap(), Some(80)),
            nat("p", "o", "::1".parse().unwrap(), Some(80)),
            to(Forwarding::Dnat),
            to(Forwarding::DsrL2),
            to(Forwarding::DsrIpip),
            to(Forwarding::DsrGue { port: 6080 }),
            to(Forwarding::DsrGue { port: 6081 }),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        // Pinned: it stands in the maps of running nodes.
        assert_eq!(all[0], 2093273371972098029);
    }
}
