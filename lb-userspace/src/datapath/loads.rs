//! How many established flows each origin has, as the packet path knows it: what it counts itself ([`maps::LOADS`]), less
//! what userspace has removed ([`maps::SWEPT`]).
//!
//! A process that dies between an entry's removal and the note of it leaves the count too high, for good: a capped origin
//! would have room that it never gets back. So every sweep compares the counts with the entries that it finds. Packets come
//! and go meanwhile, and both sides are read at different moments; a count is put right only when many sweeps in a row
//! have found it wrong in the same direction, and then by the least of what they found.

use super::sys;
use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use lb_common::abi::{Load, OriginId, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use tracing::info;

/// The counts.
pub struct Loads {
    counted: MapData,
    swept: MapData,
    doubts: Doubts,
}

/// What the counts said at a moment.
pub struct Moment {
    counted: BTreeMap<OriginId, u32>,
    swept: BTreeMap<OriginId, u32>,
}

impl Loads {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut array = |name: &str| match take(name)? {
            Map::Array(data) => Ok(data),
            other => bail!("the map {name} is no array: {other:?}"),
        };
        Ok(Self {
            counted: array(maps::LOADS)?,
            swept: array(maps::SWEPT)?,
            doubts: Doubts::default(),
        })
    }

    /// Notes how many established flows of each origin were removed.
    ///
    /// # Errors
    /// The kernel refuses. Each origin is tried.
    pub fn take_off(&mut self, removed: &BTreeMap<OriginId, u32>) -> Result<()> {
        let mut result = Ok(());
        for (origin, count) in removed {
            result = result.and(self.add(*origin, *count));
        }
        result
    }

    fn add(&mut self, origin: OriginId, count: u32) -> Result<()> {
        let noted = || format!("take flows off the count of origin {}", origin.0);
        let map = self.swept.fd().as_fd();
        let mut load: Load = sys::lookup(map, &origin.0)
            .with_context(noted)?
            .unwrap_or_default();
        load.established = load.established.wrapping_add(count);
        sys::update_rows(map, origin.0, &[load]).with_context(noted)
    }

    /// What the counts say now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(&self) -> Result<Moment> {
        Ok(Moment {
            counted: rows(&self.counted)?,
            swept: rows(&self.swept)?,
        })
    }

    /// Established flows by origin, now: without a look at the flows themselves.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn established(&self) -> Result<BTreeMap<OriginId, u64>> {
        // What userspace removes after this is read is counted still, and not the other way round.
        let swept = rows(&self.swept)?;
        let counted = rows(&self.counted)?.into_iter();
        let left = counted.map(|(origin, count)| {
            let left = count.wrapping_sub(swept.get(&origin).copied().unwrap_or(0));
            // Two CPUs may have been seen in the wrong order.
            (origin, u64::from((left as i32).max(0).cast_unsigned()))
        });
        Ok(left.collect())
    }

    /// Compares the counts with the entries that were `found` since they were read before.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn compare(&mut self, before: &Moment, found: &BTreeMap<OriginId, u32>) -> Result<()> {
        let after = rows(&self.counted)?;
        let of = |map: &BTreeMap<OriginId, u32>, origin| map.get(origin).copied().unwrap_or(0);
        let known = [&before.counted, &before.swept, &after, found];
        let origins: BTreeSet<&OriginId> = known.iter().flat_map(|map| map.keys()).collect();
        let seen = origins.into_iter().map(|origin| {
            let entries = of(&before.swept, origin).wrapping_add(of(found, origin));
            let excess = |counted: u32| counted.wrapping_sub(entries) as i32;
            (
                *origin,
                excess(of(&before.counted, origin)),
                excess(of(&after, origin)),
            )
        });
        for (origin, excess) in self.doubts.settle(seen) {
            info!(
                origin = origin.0,
                excess, "the count of an origin's flows was wrong: it is put right"
            );
            self.add(origin, excess as u32)?;
        }
        Ok(())
    }
}

/// The rows that are not 0.
fn rows(map: &MapData) -> Result<BTreeMap<OriginId, u32>> {
    let mut rows = BTreeMap::new();
    sys::for_each(map.fd().as_fd(), |id: &u32, load: &Load| {
        if load.established != 0 {
            rows.insert(OriginId(*id), load.established);
        }
    })
    .context("read the counts of flows")?;
    Ok(rows)
}

/// Sweeps that must agree. By chance they would once in some hundreds of times, and by a flow or two.
const AGREEING: u32 = 10;

/// Counts that seem wrong.
#[derive(Debug, Default)]
struct Doubts(BTreeMap<OriginId, Doubt>);

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The least that was seen.
    excess: i32,
    sweeps: u32,
}

impl Doubts {
    /// Takes what a sweep has seen: by how much each count exceeded the entries before it and after it. Returns the counts
    /// that are wrong for sure, and by how much at least.
    fn settle(&mut self, seen: impl Iterator<Item = (OriginId, i32, i32)>) -> Vec<(OriginId, i32)> {
        let former = std::mem::take(&mut self.0);
        let mut wrong = Vec::new();
        for (origin, before, after) in seen {
            // What has changed meanwhile may lie anywhere between.
            let (low, high) = (before.min(after), before.max(after));
            let excess = if low > 0 { low } else { high.min(0) };
            if excess == 0 {
                continue;
            }
            let same = former
                .get(&origin)
                .filter(|doubt| (doubt.excess > 0) == (excess > 0));
            let doubt = same.map_or(Doubt { excess, sweeps: 1 }, |doubt| Doubt {
                excess: if excess.unsigned_abs() < doubt.excess.unsigned_abs() {
                    excess
                } else {
                    doubt.excess
                },
                sweeps: doubt.sweeps + 1,
            });
            if doubt.sweeps < AGREEING {
                self.0.insert(origin, doubt);
            } else {
                wrong.push((origin, doubt.excess));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: OriginId = OriginId(1);
    const B: OriginId = OriginId(2);

    /// What the last of these sweeps settles, each given by what it has seen of one origin.
    fn settled(sweeps: &[(i32, i32)]) -> Vec<(OriginId, i32)> {
        let mut doubts = Doubts::default();
        let mut last = Vec::new();
        for &(before, after) in sweeps {
            assert_eq!(last, [], "too early");
            last = doubts.settle([(A, before, after)].into_iter());
        }
        last
    }

    #[test]
    fn a_count_is_wrong_when_many_sweeps_agree() {
        assert_eq!(settled(&[(7, 7); 9]), []);
        assert_eq!(settled(&[(7, 7); 10]), [(A, 7)]);
        assert_eq!(settled(&[(-3, -3); 10]), [(A, -3)]);
        // Under load by the least of it.
        let busy = [
            (9, 14),
            (8, 9),
            (7, 12),
            (11, 9),
            (9, 9),
            (10, 8),
            (9, 9),
            (9, 9),
            (9, 9),
            (9, 9),
        ];
        assert_eq!(settled(&busy), [(A, 7)]);
    }

    #[test]
    fn flows_that_come_and_go_raise_no_doubt() {
        let growing = [(-20, 20); 30];
        assert_eq!(settled(&growing), []);
        let noise: Vec<_> = (0..60)
            .map(|sweep| if sweep % 7 == 0 { (-2, -1) } else { (3, 2) })
            .collect();
        assert_eq!(settled(&noise), []);
        let calm: Vec<_> = (0..60)
            .map(|sweep| if sweep % 9 == 8 { (0, 0) } else { (5, 5) })
            .collect();
        assert_eq!(settled(&calm), []);
    }

    #[test]
    fn each_origin_has_doubts_of_its_own() {
        let mut doubts = Doubts::default();
        for _ in 0..9 {
            assert_eq!(doubts.settle([(A, 4, 4), (B, 0, 0)].into_iter()), []);
        }
        assert_eq!(doubts.settle([(A, 4, 4), (B, 1, 1)].into_iter()), [(A, 4)]);
        assert_eq!(doubts.0.len(), 1);
    }
}
