//! What the kernel maps should hold, and the ordered steps that bring them there.

use crate::model::CountryTable;
use lb_common::abi::{
    AccessList, AccessRule, Application, ApplicationKey, Country, Hop, HopId, Interface, Ip, Origin,
    OriginId, Pool, PoolRow, PortSpan, Route, RouteKey, Settings, Slot, Timeouts, Vip, VipKey,
};
use std::sync::Arc;

/// One step of the datapath writer. Steps are executed in order; together they keep the rule that a packet meets one
/// generation only and never an entry that leads nowhere.
#[derive(Clone, PartialEq, Debug)]
pub enum TableOp {
    /// Writes an origin's record. Takes effect on the next packet, in all generations.
    Origin { id: OriginId, record: Origin },
    /// Empties an origin's record, and what packets have noted of the origin: its number may be given to another one. No
    /// packet names it any more.
    ForgetOrigin { id: OriginId },
    /// Writes a next hop.
    Hop { id: HopId, record: Hop },
    /// Writes the idle times of an application, by its row.
    Timeouts { application: u32, record: Timeouts },
    /// Writes the record of an interface that runs the program, or removes it.
    Interface { index: u32, record: Option<Interface> },
    /// Writes a source address for `nat`.
    SnatAddress { index: u32, address: Ip },
    /// Writes a run of slots that the live generation does not use; see [`slots`].
    Slots { base: u32, owners: Vec<u32> },
    /// Empties a run of buckets that no generation names.
    Buckets { base: u32, count: u32 },
    /// Has entries be looked for in all flows of a run of buckets, until a sweep that begins later has found those there are:
    /// the generation that is about to become live names the run at further addresses. What it names is written.
    Unsettle { base: u32, count: u32 },
    /// Writes a pool's record of the generation that is not live.
    Pool { row: PoolRow, record: Pool },
    /// Writes an application's record of the generation that is not live.
    Application {
        key: ApplicationKey,
        record: Application,
    },
    /// Removes a record of the generation that is not live.
    RemoveApplication { key: ApplicationKey },
    /// Writes a run of port ranges that the live generation does not use.
    Spans { base: u32, spans: Vec<PortSpan> },
    /// Writes an address' record of the generation that is not live.
    Vip { key: VipKey, record: Vip },
    /// Removes a record of the generation that is not live.
    RemoveVip { key: VipKey },
    /// Writes the pools of a country, of the generation that is not live.
    Route { key: RouteKey, record: Route },
    /// Removes a record of the generation that is not live.
    RemoveRoute { key: RouteKey },
    /// Writes an access list under a number that no readable generation names.
    AccessList {
        list: AccessList,
        rules: Arc<AccessRules>,
    },
    /// Removes an access list that no readable generation names.
    RemoveAccessList {
        list: AccessList,
        rules: Arc<AccessRules>,
    },
    /// Brings the countries of addresses from `former` to `table`; `None`: it is not known what the map holds. An address
    /// keeps a country while it has one in both.
    Countries {
        table: Arc<CountryTable>,
        former: Option<Arc<CountryTable>>,
    },
    /// Writes the settings. A new `generation` in them makes everything written before visible at once.
    Settings(Settings),
    /// Waits until no packet is still being handled that started before this step (an RCU grace period).
    Grace,
}

/// What an access list says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct AccessRules {
    /// Number of bits, address (IPv4 v4-mapped: 96 bits more) and rule, in ascending order. The prefix of no bits at all is
    /// for whoever is in no other one.
    pub prefixes: Vec<(u32, Ip, AccessRule)>,
    /// In ascending order; [`Country::UNKNOWN`] for all that are not listed.
    pub countries: Vec<(Country, AccessRule)>,
}

/// Sizes of the maps, fixed when they are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Entries of the application map: two generations.
    pub applications: u32,
    /// Entries of the address map: two generations, of applications' addresses, of those that `nat` translates to and of
    /// origins that answer with their own.
    pub vips: u32,
    /// Rows of the pool array: two generations.
    pub pools: u32,
    /// Rows of the origin array and of its counters; row 0 is never used.
    pub origins: u32,
    /// Rows of the next-hop array; row 0 is never used.
    pub hops: u32,
    pub snat_addresses: u32,
    /// Entries of the slot arena.
    pub slots: u32,
    /// Rows of the application counters.
    pub application_rows: u32,
    /// Ranges of ports: two generations.
    pub spans: u32,
    /// Prefixes of all access lists: two generations.
    pub access_prefixes: u32,
    /// Countries of all access lists: two generations.
    pub country_rules: u32,
    /// Prefixes of GeoIP.
    pub country_prefixes: u32,
    /// Clients whose origin or rate is remembered.
    pub clients: u32,
    /// Countries with pools of their own, by load balancer and family: two generations.
    pub routes: u32,
    /// Buckets of all applications, of both families.
    pub buckets: u32,
}

/// The slots of a run: beside each owner the next other one, which in a consistent-hash table is a random one by weight.
#[must_use]
pub fn slots(owners: &[u32]) -> Vec<Slot> {
    let mut slots = vec![Slot::default(); owners.len()];
    fill_slots(owners, &mut slots);
    slots
}

/// Writes [`slots`] to where they are to stand; the shorter of the two counts.
pub fn fill_slots(owners: &[u32], slots: &mut [Slot]) {
    let Some(&first) = owners.first() else { return };
    // The end sees what the beginning has.
    let other = owners.iter().find(|owner| **owner != first);
    let (mut following, mut other) = (first, other.copied().unwrap_or(first));
    for (slot, &owner) in slots.iter_mut().zip(owners).rev() {
        if owner != following {
            other = following;
            following = owner;
        }
        *slot = Slot {
            owner,
            alternate: other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::slots;
    use proptest::prelude::*;

    #[test]
    fn each_slot_knows_another_owner() {
        let alternates = |owners: &[u32]| {
            slots(owners)
                .iter()
                .map(|slot| slot.alternate)
                .collect::<Vec<_>>()
        };
        assert_eq!(alternates(&[]), []);
        assert_eq!(alternates(&[7]), [7]);
        assert_eq!(alternates(&[7, 7]), [7, 7]);
        assert_eq!(alternates(&[1, 1, 2, 3]), [2, 2, 3, 1]);
        assert_eq!(alternates(&[1, 2, 2, 2]), [2, 1, 1, 1]);
        assert_eq!(alternates(&[2, 2, 1, 2]), [1, 1, 2, 1]);
    }

    proptest! {
        #[test]
        fn the_alternate_is_the_next_other_owner(owners in prop::collection::vec(0u32..4, 0..40)) {
            for (index, slot) in slots(&owners).into_iter().enumerate() {
                let others = owners[index..].iter().chain(&owners[..index]);
                let other = others.copied().find(|other| *other != slot.owner);
                prop_assert_eq!(slot.owner, owners[index]);
                prop_assert_eq!(slot.alternate, other.unwrap_or(slot.owner));
            }
        }
    }
}
