//! Space in a map of fixed size: runs of consecutive entries, first fit, neighbours joined when they are freed.

use std::collections::BTreeMap;

/// Which entries of a map are free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arena {
    /// Free runs, base to length: disjoint, never adjacent, never empty.
    free: BTreeMap<u32, u32>,
}

impl Arena {
    /// An arena of `capacity` free entries.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut free = BTreeMap::new();
        if capacity > 0 {
            free.insert(0, capacity);
        }
        Self { free }
    }

    /// Takes the first run of `length` free entries and returns its base.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let (&base, &available) = self.free.iter().find(|(_, available)| **available >= length)?;
        self.free.remove(&base);
        if available > length {
            self.free.insert(base + length, available - length);
        }
        Some(base)
    }

    /// Takes these entries, whether or not some of them are taken already.
    pub fn reserve(&mut self, base: u32, length: u32) {
        let end = base.saturating_add(length);
        let touched: Vec<(u32, u32)> = self
            .free
            .range(..end)
            .rev()
            .map(|(&start, &available)| (start, available))
            .take_while(|&(start, available)| start + available > base)
            .collect();
        for (start, available) in touched {
            self.free.remove(&start);
            if start < base {
                self.free.insert(start, base - start);
            }
            if start + available > end {
                self.free.insert(end, start + available - end);
            }
        }
    }

    /// Gives back a run that was taken as a whole.
    pub fn release(&mut self, base: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut base, mut length) = (base, length);
        if let Some((&before, &available)) = self.free.range(..base).next_back()
            && before + available == base
        {
            self.free.remove(&before);
            base = before;
            length += available;
        }
        if let Some(after) = self.free.remove(&(base + length)) {
            length += after;
        }
        self.free.insert(base, length);
    }

    /// Number of free entries.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_run_that_fits_is_taken_and_neighbours_are_joined() {
        let mut arena = Arena::new(10);
        let [a, b, c] = [4, 3, 3].map(|length| arena.allocate(length).unwrap());
        assert_eq!([a, b, c], [0, 4, 7]);
        assert_eq!(arena.allocate(1), None);
        arena.release(a, 4);
        arena.release(c, 3);
        assert_eq!(arena.allocate(5), None);
        arena.release(b, 3);
        assert_eq!(arena, Arena::new(10));
    }

    #[test]
    fn reserved_entries_are_never_given_out() {
        let mut arena = Arena::new(10);
        arena.reserve(2, 3);
        arena.reserve(3, 4);
        assert_eq!(arena.available(), 5);
        assert_eq!(arena.allocate(3), Some(7));
        assert_eq!(arena.allocate(2), Some(0));
        assert_eq!(arena.allocate(1), None);
        arena.release(2, 5);
        assert_eq!(arena.allocate(5), Some(2));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_is_lost(steps in prop::collection::vec((any::<bool>(), 1u32..40), 0..200)) {
            let mut arena = Arena::new(500);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (release, number) in steps {
                if release && !taken.is_empty() {
                    let (base, length) = taken.swap_remove(number as usize % taken.len());
                    arena.release(base, length);
                } else if let Some(base) = arena.allocate(number) {
                    for &(other, length) in &taken {
                        prop_assert!(base + number <= other || other + length <= base);
                    }
                    prop_assert!(base + number <= 500);
                    taken.push((base, number));
                }
                prop_assert_eq!(arena.available() + taken.iter().map(|run| run.1).sum::<u32>(), 500);
            }
            for (base, length) in taken {
                arena.release(base, length);
            }
            prop_assert_eq!(arena, Arena::new(500));
        }
    }
}
