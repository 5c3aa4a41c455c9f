//! Weighted consistent hashing: tables in which every member owns slots in proportion to its weight.
//!
//! This is Maglev (NSDI 2016) with four changes. The table's size is a power of two, so that the packet path masks
//! instead of dividing; skips are odd, so that each member's walk still visits every slot. Weights are turns: in each
//! round a member gains its weight and takes a slot whenever that adds up to the heaviest weight. A member's walk
//! depends on its identity alone, never on its place in the list, so that two nodes, or one node before and after a
//! restart, agree on the table. And members that are absent for a while (unhealthy, disabled) take part in a first
//! filling and only then leave their slots to the others: what goes away and comes back moves its own slots alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

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

/// How fine a table of few members is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grain {
    /// As fine as shares need: most tables of an installation are small, and two generations of all of them must fit.
    Coarse,
    /// Of one size for any few members, so that a new one takes its share and moves nothing else: for tables in which a
    /// client, or a flow that nobody remembers, must find the same member again.
    Fine,
}

impl Grain {
    /// Smallest table of more than one member.
    const fn smallest(self) -> u32 {
        match self {
            Self::Coarse => 512,
            Self::Fine => 2048,
        }
    }
}

/// Slots for each member: a share is exact to less than one slot.
const SLOTS_PER_MEMBER: u32 = 128;
/// When of so many turns only one takes a slot, they are not gone through one by one.
const IDLE_TURNS: u64 = 16;
/// Largest table.
const LARGEST: u32 = 1 << 22;
/// Nobody. Neither an origin nor a pool ever has this number.
const FREE: u32 = u32::MAX;
/// Slots that a word has bits for.
const WORD: usize = u64::BITS as usize;
/// Steps that a walk looks ahead.
const STRIDE: u32 = 4;

/// Number of slots for that many members of positive weight, absent ones included: a power of two; 0 for none, 1 for
/// a single one.
#[must_use]
pub fn table_size(members: usize, grain: Grain) -> u32 {
    match u32::try_from(members).unwrap_or(u32::MAX) {
        0 => 0,
        1 => 1,
        // At most LARGEST, so that the next power of two cannot overflow.
        n => n
            .saturating_mul(SLOTS_PER_MEMBER)
            .clamp(grain.smallest(), LARGEST)
            .next_power_of_two(),
    }
}

/// Builds the table: the owner of each slot. Empty when nobody of positive weight is present; a single slot when only
/// one is, which is the same as a large table of its own.
#[must_use]
pub fn build(members: &[Member], grain: Grain) -> Vec<u32> {
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
    let mut board = Board::new(table_size(members.len(), grain));
    board.fill(members.iter().map(Walk::new).collect());
    if members.iter().any(|member| !member.present) {
        board.vacate();
        // From the start: slots that were passed by may have become free.
        let present = members.iter().filter(|member| member.present);
        board.fill(present.map(Walk::new).collect());
    }
    board.owners
}

/// A table that is being filled.
struct Board {
    /// Of slots that are not free. [`FREE`]: of one who leaves it at once.
    owners: Vec<u32>,
    /// A bit for each slot, set where it is free. Most looks at a slot find it taken, and the bits of a large table fit
    /// into a processor's own cache where the owners do not.
    free: Vec<u64>,
    /// Free slots.
    left: u32,
    /// So many free slots are looked through faster than a walk comes upon one of them: with n of N slots free, that is
    /// N/n steps.
    few: u32,
    /// The free ones in ascending order, once there are no more than few.
    rest: Vec<u32>,
    /// Size less 1: sizes are powers of two.
    mask: u32,
}

impl Board {
    /// All slots free. `size`: a power of two, and at least the bits of a word.
    fn new(size: u32) -> Self {
        Self {
            owners: vec![0; size as usize],
            free: vec![u64::MAX; size as usize / WORD],
            left: size,
            few: size.isqrt(),
            rest: Vec::new(),
            mask: size - 1,
        }
    }

    /// Lets the members take turns until no slot is free.
    fn fill(&mut self, mut walks: Vec<Walk>) {
        let heaviest = walks.iter().map(|walk| walk.weight).max().unwrap_or(0);
        let total: u64 = walks.iter().map(|walk| walk.weight).sum();
        if total < heaviest * (walks.len() as u64 / IDLE_TURNS) {
            return self.fill_by_turns(walks, heaviest);
        }
        while self.left > 0 {
            for walk in &mut walks {
                walk.credit += walk.weight;
                if walk.credit < heaviest {
                    continue;
                }
                walk.credit -= heaviest;
                self.take(walk);
                if self.left == 0 {
                    break;
                }
            }
        }
    }

    /// As the rounds of [`Self::fill`], without those turns in which a member takes nothing: its `n`-th slot is due in the
    /// round in which its weight has added up to `n` times the heaviest.
    fn fill_by_turns(&mut self, mut walks: Vec<Walk>, heaviest: u64) {
        let due = |turn: u64, walk: &Walk| (turn * heaviest).div_ceil(walk.weight);
        let turns = walks
            .iter()
            .enumerate()
            .map(|(index, walk)| Reverse((due(1, walk), index, 1)));
        let mut turns: BinaryHeap<_> = turns.collect();
        while self.left > 0 {
            let Some(Reverse((_, index, turn))) = turns.pop() else {
                return;
            };
            self.take(&mut walks[index]);
            turns.push(Reverse((due(turn + 1, &walks[index]), index, turn + 1)));
        }
    }

    /// Frees the slots of those who leave them at once.
    fn vacate(&mut self) {
        for (bits, owners) in self.free.iter_mut().zip(self.owners.chunks_exact(WORD)) {
            *bits = 0;
            for (bit, owner) in owners.iter().enumerate() {
                *bits |= u64::from(*owner == FREE) << bit;
            }
            self.left += bits.count_ones();
        }
    }

    /// Gives the first free slot on its way to a member; there must be one.
    #[inline(always)]
    fn take(&mut self, walk: &mut Walk) {
        let slot = if self.left > self.few {
            self.walk(walk)
        } else {
            self.leap(walk)
        };
        self.owners[slot as usize] = walk.owner;
        self.left -= 1;
        walk.position = slot.wrapping_add(walk.skip);
    }

    /// The first free slot on the way, step by step.
    #[inline(always)]
    fn walk(&mut self, walk: &Walk) -> u32 {
        let mut position = walk.position;
        loop {
            // Several steps at a time: whether a slot is free is anybody's guess, and wrong guesses are what takes long.
            let mut found = 0;
            for step in 0..STRIDE {
                let slot = walk.ahead(position, step) & self.mask;
                found |= (self.free[slot as usize / WORD] >> (slot as usize % WORD) & 1) << step;
            }
            if found != 0 {
                let slot = walk.ahead(position, found.trailing_zeros()) & self.mask;
                self.free[slot as usize / WORD] &= !(1 << (slot as usize % WORD));
                return slot;
            }
            position = walk.ahead(position, STRIDE);
        }
    }

    /// The same out of the few that are left: the one that is the fewest steps away.
    fn leap(&mut self, walk: &Walk) -> u32 {
        if self.rest.is_empty() {
            self.rest = self.free_slots();
        }
        let back = inverse(walk.skip);
        let steps = |slot: &u32| slot.wrapping_sub(walk.position).wrapping_mul(back) & self.mask;
        let steps = self.rest.iter().map(steps).fold(u32::MAX, u32::min);
        let slot = walk.ahead(walk.position, steps) & self.mask;
        if let Ok(index) = self.rest.binary_search(&slot) {
            self.rest.remove(index);
        }
        slot
    }

    fn free_slots(&self) -> Vec<u32> {
        let mut slots = Vec::with_capacity(self.left as usize);
        for (word, bits) in (0..).step_by(WORD).zip(&self.free) {
            let mut bits = *bits;
            while bits != 0 {
                slots.push(word + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        slots
    }
}

/// A member on its way through all slots, in its own order.
struct Walk {
    /// What it writes into its slots; [`FREE`] for one that is absent.
    owner: u32,
    weight: u64,
    credit: u64,
    /// Of which a table takes the lower bits.
    position: u32,
    /// Odd: coprime to the size, so the walk meets every slot once.
    skip: u32,
}

impl Walk {
    fn new(member: &Member) -> Self {
        let first = mix(member.identity);
        Self {
            owner: if member.present { member.owner } else { FREE },
            weight: u64::from(member.weight),
            credit: 0,
            position: (first >> 32) as u32,
            skip: (mix(first) >> 32) as u32 | 1,
        }
    }

    /// So many steps on from `position`.
    fn ahead(&self, position: u32, steps: u32) -> u32 {
        position.wrapping_add(self.skip.wrapping_mul(steps))
    }
}

/// What an odd number has to be multiplied with to make 1, in 32 bits and in any fewer.
fn inverse(odd: u32) -> u32 {
    let mut inverse = odd;
    // The lowest 3 bits are right, and each round doubles their number.
    for _ in 0..4 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse
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
        for (members, coarse, fine) in [
            (0, 0, 0),
            (1, 1, 1),
            (2, 512, 2048),
            (4, 512, 2048),
            (5, 1024, 2048),
            (16, 2048, 2048),
            (17, 4096, 4096),
            (10_000, 1 << 21, 1 << 21),
            (1 << 30, 1 << 22, 1 << 22),
        ] {
            assert_eq!(table_size(members, Grain::Coarse), coarse);
            assert_eq!(table_size(members, Grain::Fine), fine);
        }
    }

    #[test]
    fn removing_a_member_moves_few_slots_of_the_others() {
        for count in [3, 5, 10, 40, 100] {
            let mut sum = 0.0;
            for seed in 0..8 {
                let all = members(seed, &vec![100; count]);
                let before = build(&all, Grain::Fine);
                let after = build(&all[1..], Grain::Fine);
                let moved = moved(&before, &after, 1);
                assert!(moved <= 0.04, "{count} members: {moved}");
                sum += moved;
            }
            assert!(sum / 8.0 <= 0.02, "{count} members: {} on average", sum / 8.0);
        }
    }

    #[test]
    fn a_member_more_takes_its_share_of_a_fine_table_and_moves_little_else() {
        for count in 2..16 {
            let all = members(3, &vec![100; count + 1]);
            let [before, after] = [&all[1..], &all[..]].map(|members| build(members, Grain::Fine));
            assert!(moved(&before, &after, 1) <= 0.05, "{count} members");
        }
    }

    #[test]
    fn a_change_of_weight_moves_little_more_than_it_must() {
        let before = build(&members(7, &[100; 10]), Grain::Fine);
        let mut weights = [100; 10];
        weights[0] = 50;
        let after = build(&members(7, &weights), Grain::Fine);
        assert!(moved(&before, &after, 1) <= 0.04);
    }

    /// The table as it is defined: one step after the other, through all rounds.
    fn defined(members: &[Member], grain: Grain) -> Vec<u32> {
        struct Turn {
            member: Member,
            credit: u64,
            position: u32,
        }
        let mut members: Vec<Member> = members.to_vec();
        members.retain(|member| member.weight > 0);
        members.sort_unstable();
        let size = table_size(members.len(), grain);
        let mut slots: Vec<Option<Member>> = vec![None; size as usize];
        for absent_too in [true, false] {
            let mut turns: Vec<Turn> = members
                .iter()
                .filter(|member| absent_too || member.present)
                .map(|&member| Turn {
                    member,
                    credit: 0,
                    position: (mix(member.identity) >> 32) as u32 % size,
                })
                .collect();
            let heaviest = u64::from(turns.iter().map(|turn| turn.member.weight).max().unwrap());
            let mut left = slots.iter().filter(|slot| slot.is_none()).count();
            while left > 0 {
                for turn in &mut turns {
                    turn.credit += u64::from(turn.member.weight);
                    if turn.credit < heaviest || left == 0 {
                        continue;
                    }
                    turn.credit -= heaviest;
                    let skip = ((mix(mix(turn.member.identity)) >> 32) as u32 % size) | 1;
                    while slots[turn.position as usize].is_some() {
                        turn.position = (turn.position + skip) % size;
                    }
                    slots[turn.position as usize] = Some(turn.member);
                    left -= 1;
                }
            }
            for slot in &mut slots {
                *slot = slot.filter(|member| member.present);
            }
        }
        slots.into_iter().flatten().map(|member| member.owner).collect()
    }

    #[test]
    fn tables_do_not_depend_on_how_they_are_made() {
        // Nodes of different versions share a client's address, and agree on its origin.
        for (weights, gone) in [
            (vec![100; 2], 0..0),
            (vec![100; 5], 0..0),
            (vec![100; 150], 0..0),
            (vec![100; 150], 0..1),
            (vec![100; 150], 10..140),
            ((0..60).map(|n| n % 7 + 1).collect(), 0..0),
            ((0..60).map(|n| n % 7).collect(), 20..25),
        ] {
            let mut all = members(3, &weights);
            for member in &mut all[gone] {
                member.present = false;
            }
            for grain in [Grain::Coarse, Grain::Fine] {
                assert!(build(&all, grain) == defined(&all, grain), "{weights:?}");
            }
        }
    }

    #[test]
    fn a_table_is_what_it_was_in_earlier_versions() {
        let digest = |table: &[u32]| {
            table
                .iter()
                .fold(0, |digest, owner| mix(digest ^ u64::from(*owner)))
        };
        let mut all = members(1, &[100; 1000]);
        assert_eq!(digest(&build(&all, Grain::Coarse)), 0x1303_f51b_4556_b031);
        all[0].present = false;
        all[500].weight = 7;
        assert_eq!(digest(&build(&all, Grain::Coarse)), 0xacde_3720_63bc_5364);
    }

    #[test]
    fn turns_that_are_skipped_change_nothing() {
        // Few of the heaviest, so that turns are skipped.
        let mut weights = vec![1; 60];
        weights[7] = 100;
        weights[20] = 37;
        let mut all = members(3, &weights);
        assert!(build(&all, Grain::Fine) == defined(&all, Grain::Fine));
        all[20].present = false;
        assert!(build(&all, Grain::Fine) == defined(&all, Grain::Fine));
    }

    #[test]
    fn odd_numbers_have_inverses() {
        for odd in [1u32, 3, 5, 0x8000_0001, 0xdead_beef, u32::MAX] {
            assert_eq!(odd.wrapping_mul(inverse(odd)), 1);
        }
    }

    #[test]
    fn a_single_present_member_needs_one_slot() {
        let mut all = members(1, &[100, 100, 0]);
        all[0].present = false;
        assert_eq!(build(&all, Grain::Fine), [2]);
        all[1].present = false;
        assert!(build(&all, Grain::Fine).is_empty());
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
        fn every_slot_is_owned_and_shares_follow_weights(all in any_members(), fine: bool) {
            let table = build(&all, if fine { Grain::Fine } else { Grain::Coarse });
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
        fn tables_are_as_they_are_defined(all in any_members()) {
            prop_assume!(all.iter().filter(|member| member.weight > 0 && member.present).count() >= 2);
            prop_assert!(build(&all, Grain::Coarse) == defined(&all, Grain::Coarse));
        }

        #[test]
        fn the_order_of_members_does_not_matter(
            (all, shuffled) in any_members().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            prop_assert_eq!(build(&all, Grain::Fine), build(&shuffled, Grain::Fine));
        }

        #[test]
        fn a_member_that_goes_away_moves_its_own_slots_alone(all in any_members(), pick: prop::sample::Index) {
            prop_assume!(all.iter().filter(|member| member.weight > 0).count() >= 3);
            let everybody: Vec<Member> = all.iter().map(|member| Member { present: true, ..*member }).collect();
            let mut without = everybody.clone();
            let gone = pick.index(without.len());
            without[gone].present = false;
            prop_assert_eq!(moved(&build(&everybody, Grain::Fine), &build(&without, Grain::Fine), without[gone].owner), 0.0);
        }
    }
}
