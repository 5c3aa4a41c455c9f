//! Weighted consistent hashing: tables in which every member owns slots in proportion to its weight.
//!
//! This is Maglev (NSDI 2016) with four changes. The table's size is a power of two, so that the packet path masks
//! instead of dividing; skips are odd, so that each member's walk still visits every slot. Weights are turns: in each
//! round a member gains its weight and takes a slot whenever that adds up to the heaviest weight. A member's walk
//! depends on its identity alone, never on its place in the list, so that two nodes, or one node before and after a
//! restart, agree on the table. And members that are absent for a while (unhealthy, disabled) take part in a first
//! filling and only then leave their slots to the others: what goes away and comes back moves its own slots alone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// One competitor for slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    /// What the member is, independent of this run of the daemon: decides which slots it gets.
    pub identity: u64,
    /// What is written into its slots.
    pub owner: u32,
    /// Any unit, as long as all members share it; 0: no slots.
    pub weight: u32,
    /// Whether it gets slots now.
    pub present: bool,
}

/// Smallest table of more than one member.
const SMALLEST: u32 = 2048;
/// Slots for each member: a share is exact to less than one slot.
const SLOTS_PER_MEMBER: u32 = 128;
/// When of so many turns only one takes a slot, they are not gone through one by one.
const IDLE_TURNS: u64 = 16;
/// Largest table.
const LARGEST: u32 = 1 << 22;
/// Not yet owned. Neither an origin nor a pool ever has this number.
const FREE: u32 = u32::MAX;

/// Number of slots for that many members of positive weight, absent ones included: a power of two; 0 for none, 1 for
/// a single one.
#[must_use]
pub fn table_size(members: usize) -> u32 {
    match u32::try_from(members).unwrap_or(u32::MAX) {
        0 => 0,
        1 => 1,
        // At most LARGEST, so that the next power of two cannot overflow.
        n => n
            .saturating_mul(SLOTS_PER_MEMBER)
            .clamp(SMALLEST, LARGEST)
            .next_power_of_two(),
    }
}

/// Builds the table: the owner of each slot. Empty when nobody of positive weight is present; a single slot when only
/// one is, which is the same as a large table of its own.
#[must_use]
pub fn build(members: &[Member]) -> Vec<u32> {
    let mut members: Vec<Member> = members
        .iter()
        .copied()
        .filter(|member| member.weight > 0)
        .collect();
    members.sort_unstable();
    let mut present = members.iter().filter(|member| member.present);
    match (present.next(), present.next()) {
        (None, _) => return Vec::new(),
        (Some(only), None) => return vec![only.owner],
        (Some(_), Some(_)) => {}
    }
    let size = table_size(members.len());
    let mut slots = vec![FREE; size as usize];
    let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member, size)).collect();
    fill(&mut slots, &mut walks);
    if walks.iter().any(|walk| !walk.present) {
        vacate(&mut slots, &walks);
        walks.retain(|walk| walk.present);
        for walk in &mut walks {
            walk.restart();
        }
        fill(&mut slots, &mut walks);
    }
    slots
}

/// Lets the members take turns until no slot is free.
fn fill(slots: &mut [u32], walks: &mut [Walk]) {
    let heaviest = walks.iter().map(|walk| walk.weight).max().unwrap_or(0);
    let mut free = slots.iter().filter(|owner| **owner == FREE).count();
    let total: u64 = walks.iter().map(|walk| walk.weight).sum();
    if total < heaviest * (walks.len() as u64 / IDLE_TURNS) {
        return fill_by_turns(slots, walks, heaviest, free);
    }
    while free > 0 {
        for walk in walks.iter_mut() {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            walk.take(slots);
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
}

/// As the rounds of [`fill`], without those turns in which a member takes nothing: its `n`-th slot is due in the round in
/// which its weight has added up to `n` times the heaviest.
fn fill_by_turns(slots: &mut [u32], walks: &mut [Walk], heaviest: u64, free: usize) {
    let due = |turn: u64, walk: &Walk| (turn * heaviest).div_ceil(walk.weight);
    let turns = walks
        .iter()
        .enumerate()
        .map(|(index, walk)| Reverse((due(1, walk), index, 1)));
    let mut turns: BinaryHeap<_> = turns.collect();
    for _ in 0..free {
        let Some(Reverse((_, index, turn))) = turns.pop() else {
            return;
        };
        walks[index].take(slots);
        turns.push(Reverse((due(turn + 1, &walks[index]), index, turn + 1)));
    }
}

/// Frees the slots of absent members.
fn vacate(slots: &mut [u32], walks: &[Walk]) {
    let absent: BTreeSet<u32> = walks
        .iter()
        .filter(|walk| !walk.present)
        .map(|walk| walk.owner)
        .collect();
    for owner in slots {
        if absent.contains(owner) {
            *owner = FREE;
        }
    }
}

/// A member on its way through all slots, in its own order.
struct Walk {
    owner: u32,
    present: bool,
    weight: u64,
    credit: u64,
    start: u32,
    position: u32,
    /// Odd: coprime to the size, so the walk meets every slot once.
    skip: u32,
    mask: u32,
}

impl Walk {
    fn new(member: &Member, size: u32) -> Self {
        let mask = size - 1;
        let first = mix(member.identity);
        let start = (first >> 32) as u32 & mask;
        Self {
            owner: member.owner,
            present: member.present,
            weight: u64::from(member.weight),
            credit: 0,
            start,
            position: start,
            skip: ((mix(first) >> 32) as u32 & mask) | 1,
            mask,
        }
    }

    /// Goes back to the start: slots that were passed by may have become free.
    fn restart(&mut self) {
        self.position = self.start;
        self.credit = 0;
    }

    /// Takes the first free slot on the way; there must be one.
    fn take(&mut self, slots: &mut [u32]) {
        loop {
            let slot = &mut slots[self.position as usize];
            self.position = self.position.wrapping_add(self.skip) & self.mask;
            if *slot == FREE {
                *slot = self.owner;
                return;
            }
        }
    }
}

/// The finaliser of splitmix64: a bijection in which every input bit reaches every output bit.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(seed: u64, weights: &[u32]) -> Vec<Member> {
        (1..)
            .zip(weights)
            .map(|(owner, &weight)| Member {
                identity: mix(seed ^ u64::from(owner)),
                owner,
                weight,
                present: true,
            })
            .collect()
    }

    /// The part of all slots that changed hands although neither owner before nor owner after is `except`.
    fn moved(before: &[u32], after: &[u32], except: u32) -> f64 {
        assert_eq!(before.len(), after.len());
        let between_others = |(b, a): &(&u32, &u32)| **b != except && **a != except && b != a;
        before.iter().zip(after).filter(between_others).count() as f64 / before.len() as f64
    }

    fn check_shares(table: &[u32], members: &[Member]) {
        let present = |member: &&Member| member.present;
        let total: u32 = members.iter().filter(present).map(|member| member.weight).sum();
        for member in members {
            let weight = if member.present { member.weight } else { 0 };
            let expected = table.len() as f64 * f64::from(weight) / f64::from(total);
            let got = table.iter().filter(|owner| **owner == member.owner).count() as f64;
            // A slot is not divisible: at both fillings a member may be one short or one ahead.
            assert!(
                (got - expected).abs() <= expected * 0.015 + 2.0,
                "{got} slots, {expected} expected"
            );
        }
    }

    #[test]
    fn sizes_grow_with_the_members() {
        for (members, size) in [
            (0, 0),
            (1, 1),
            (2, 2048),
            (16, 2048),
            (17, 4096),
            (10_000, 1 << 21),
            (1 << 30, 1 << 22),
        ] {
            assert_eq!(table_size(members), size);
        }
    }

    #[test]
    fn removing_a_member_moves_few_slots_of_the_others() {
        for count in [3, 5, 10, 40, 100] {
            let mut sum = 0.0;
            for seed in 0..8 {
                let all = members(seed, &vec![100; count]);
                let before = build(&all);
                let after = build(&all[1..]);
                let moved = moved(&before, &after, 1);
                assert!(moved <= 0.04, "{count} members: {moved}");
                sum += moved;
            }
            assert!(sum / 8.0 <= 0.02, "{count} members: {} on average", sum / 8.0);
        }
    }

    #[test]
    fn a_change_of_weight_moves_little_more_than_it_must() {
        let before = build(&members(7, &[100; 10]));
        let mut weights = [100; 10];
        weights[0] = 50;
        let after = build(&members(7, &weights));
        assert!(moved(&before, &after, 1) <= 0.04);
    }

    #[test]
    fn turns_that_are_skipped_change_nothing() {
        let mut weights = vec![1; 60];
        weights[7] = 100;
        weights[20] = 37;
        let mut all = members(3, &weights);
        all.sort_unstable();
        let walks = || {
            all.iter()
                .map(|member| Walk::new(member, 8192))
                .collect::<Vec<_>>()
        };
        let (mut slots, mut sparse) = (vec![FREE; 8192], vec![FREE; 8192]);
        fill_by_turns(&mut sparse, &mut walks(), 100, 8192);
        // Enough of the heaviest that the turns are gone through.
        let mut walks = walks();
        let mut rounds = 0;
        while slots.contains(&FREE) {
            rounds += 1;
            for walk in &mut walks {
                walk.credit += walk.weight;
                if walk.credit >= 100 && slots.contains(&FREE) {
                    walk.credit -= 100;
                    walk.take(&mut slots);
                }
            }
        }
        assert!(rounds > 1000);
        assert!(slots == sparse && slots == build(&all));
    }

    #[test]
    fn a_single_present_member_needs_one_slot() {
        let mut all = members(1, &[100, 100, 0]);
        all[0].present = false;
        assert_eq!(build(&all), [2]);
        all[1].present = false;
        assert!(build(&all).is_empty());
    }

    prop_compose! {
        fn any_members()(
            list in prop::collection::vec((0u32..=100, prop::bool::weighted(0.8)), 0..40), seed: u64,
        ) -> Vec<Member> {
            let weights: Vec<u32> = list.iter().map(|(weight, _)| *weight).collect();
            let mut all = members(seed, &weights);
            for (member, (_, present)) in all.iter_mut().zip(list) {
                member.present = present;
            }
            all
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_slot_is_owned_and_shares_follow_weights(all in any_members()) {
            let table = build(&all);
            let eligible = |member: &&Member| member.weight > 0 && member.present;
            prop_assert_eq!(table.is_empty(), all.iter().filter(eligible).count() == 0);
            prop_assert!(table.is_empty() || table.len().is_power_of_two());
            for owner in &table {
                let member = &all[*owner as usize - 1];
                prop_assert!(eligible(&member));
            }
            if !table.is_empty() {
                check_shares(&table, &all);
            }
        }

        #[test]
        fn the_order_of_members_does_not_matter(
            (all, shuffled) in any_members().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            prop_assert_eq!(build(&all), build(&shuffled));
        }

        #[test]
        fn a_member_that_goes_away_moves_its_own_slots_alone(all in any_members(), pick: prop::sample::Index) {
            prop_assume!(all.iter().filter(|member| member.weight > 0).count() >= 3);
            let everybody: Vec<Member> = all.iter().map(|member| Member { present: true, ..*member }).collect();
            let mut without = everybody.clone();
            let gone = pick.index(without.len());
            without[gone].present = false;
            prop_assert_eq!(moved(&build(&everybody), &build(&without), without[gone].owner), 0.0);
        }
    }
}
