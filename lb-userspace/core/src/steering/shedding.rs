//! Load shedding: which flows a pool gives up to the others.
//!
//! Flows, or clients, fall into classes by their hash; a class is what the packet path makes of the hash to enter a
//! table of pools. A pool that gives up a tenth of its flows gives up a tenth of the classes, always the same ones, and
//! each pool others, so that what one gives up is divided among the others like any other flows. Classes that every
//! pool gives up go to the fallback pool; without one that can serve they stay, because nobody else is there.

use crate::maglev::{self, Member, mix};
use lb_common::abi::PoolId;
use lb_common::hash;

/// Number of classes: as many as the smallest table of several members has slots, so that each slot is of one class.
pub const CLASSES: u32 = 2048;

/// The class of a flow or of a client, by its hash.
#[must_use]
pub fn class_of(hash: u64) -> u32 {
    hash::pool_probe(hash, 0) % CLASSES
}

/// A set of classes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Classes([u64; CLASSES as usize / 64]);

impl Classes {
    pub const NONE: Self = Self([0; CLASSES as usize / 64]);

    /// The classes that a pool with this identity gives up when it gives up so many.
    #[must_use]
    pub fn given_up(identity: u64, count: u32) -> Self {
        let mut ranking: Vec<(u64, u32)> = (0..CLASSES)
            .map(|class| (mix(identity ^ mix(u64::from(class))), class))
            .collect();
        ranking.sort_unstable();
        let mut classes = Self::NONE;
        for (_, class) in ranking.iter().take(count as usize) {
            classes.insert(*class);
        }
        classes
    }

    /// How many classes make up a percentage. Only 0 % is none, and only 100 % is all.
    #[must_use]
    pub fn of_percent(percent: f64) -> u32 {
        if percent <= 0.0 {
            0
        } else if percent >= 100.0 {
            CLASSES
        } else {
            // Within the bounds by the checks above.
            ((percent / 100.0 * f64::from(CLASSES)).round() as u32).clamp(1, CLASSES - 1)
        }
    }

    pub fn insert(&mut self, class: u32) {
        if let Some(word) = self.0.get_mut(class as usize / 64) {
            *word |= 1 << (class % 64);
        }
    }

    pub fn remove(&mut self, class: u32) {
        if let Some(word) = self.0.get_mut(class as usize / 64) {
            *word &= !(1 << (class % 64));
        }
    }

    #[must_use]
    pub fn contains(&self, class: u32) -> bool {
        self.0
            .get(class as usize / 64)
            .is_some_and(|word| word >> (class % 64) & 1 == 1)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

/// A table of pools some of which give up flows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SheddingTable {
    pub base: Base,
    pub sheds: Vec<Shed>,
    pub rest: Rest,
}

/// The pools as if none gave up any flows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Base {
    /// In the order of preference.
    List(Vec<u32>),
    /// By weight.
    Ring(Vec<Member>),
}

/// A pool that gives up flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shed {
    pub owner: u32,
    /// Of the pool: decides which classes it gives up.
    pub identity: u64,
    /// How many classes.
    pub classes: u32,
}

/// Who gets what every pool gives up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rest {
    /// [`PoolId::NONE`] owns those slots, which stands for the fallback pool.
    Fallback,
    /// The pools all the same: there is nobody else.
    Pools,
}

impl Rest {
    /// Whether there is a fallback pool that can serve.
    #[must_use]
    pub const fn of(fallback_serves: bool) -> Self {
        match fallback_serves {
            true => Self::Fallback,
            false => Self::Pools,
        }
    }
}

impl SheddingTable {
    /// The owner of each slot: at least [`CLASSES`] slots, slot after slot of another class, as [`class_of`] says. Empty
    /// when there is no pool at all.
    #[must_use]
    pub fn build(&self) -> Vec<u32> {
        let given_up: Vec<(u32, Classes)> = self
            .sheds
            .iter()
            .map(|shed| (shed.owner, Classes::given_up(shed.identity, shed.classes)))
            .collect();
        let keeps = |owner: u32, class: u32| {
            let mut sheds = given_up.iter();
            !sheds.any(|(shedding, classes)| *shedding == owner && classes.contains(class))
        };
        let base = self.base.build();
        let slot = |(slot, usual): (u32, u32)| {
            let class = slot % CLASSES;
            if keeps(usual, class) {
                return usual;
            }
            let other = match &self.base {
                Base::List(pools) => pools.iter().copied().find(|pool| keeps(*pool, class)),
                Base::Ring(members) => {
                    let others = members.iter().filter(|member| keeps(member.owner, class));
                    heaviest(others, slot).map(|member| member.owner)
                }
            };
            other.unwrap_or(match self.rest {
                Rest::Fallback => PoolId::NONE.0,
                Rest::Pools => usual,
            })
        };
        (0..).zip(base).map(slot).collect()
    }
}

impl Base {
    fn build(&self) -> Vec<u32> {
        let few = match self {
            Self::List(pools) => pools.first().map(|first| vec![*first]).unwrap_or_default(),
            Self::Ring(members) => maglev::build(members),
        };
        match few.as_slice() {
            // A single slot stands for any number of them.
            [only] => vec![*only; CLASSES as usize],
            _ => few,
        }
    }
}

/// Weighted rendezvous: one of the members, by weight and the same one for the same slot; who leaves takes its own
/// slots along and nobody else's.
fn heaviest<'a>(members: impl Iterator<Item = &'a Member>, slot: u32) -> Option<&'a Member> {
    let score = |member: &Member| {
        // A uniform number between 0 and 1, never either.
        let draw = mix(member.identity ^ mix(u64::from(slot) | 1 << 40)) >> 11;
        let uniform = (draw as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(member.weight) / uniform.ln()
    };
    members
        .filter(|member| member.present && member.weight > 0)
        .max_by(|a, b| score(a).total_cmp(&score(b)))
}
